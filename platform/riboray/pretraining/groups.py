"""Groups of one family's members, all aligned with each other: more pairs for each embedding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from riboray.corpus.records import hash64
from riboray.errors import CorpusError
from riboray.pretraining.profiles import GAP, FamilyProfile, make_profile, partners_of

__all__ = ["Group", "GroupRule", "draw_groups", "load_profiles"]

_LETTERS = np.frombuffer(b"ACGU", dtype=np.uint8)

#: Cells of the alignments of a group, at most: of long members, fewer pairs are aligned.
_CELLS = 1_500_000


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """How groups are made.

    Attributes
    ----------
    size : int
        Sequences of a group.
    resample : float
        See `FamilyProfile.draw`.
    files : tuple of str
        Tables of members.
    shares : dict of str to float
        How often each family comes, in proportion; families that are not named do not.
    """

    size: int
    resample: float
    files: tuple[str, ...]
    shares: dict[str, float]


@dataclass(frozen=True)
class Group:
    """Sequences of one family, and pairs of them.

    Attributes
    ----------
    sequences : list of str
        The sequences.
    pairs : ndarray, shape=(n, 2), dtype=int32
        Numbers of the two sequences of each pair.
    partners : list of ndarray
        For each pair, the partner in the second of every nucleotide of the first, or -1.
    family : int
        Hash of the family's name.
    """

    sequences: list[str]
    pairs: NDArray[np.int32]
    partners: list[NDArray[np.int32]]
    family: int

    @property
    def length(self) -> int:
        """Nucleotides of the longest sequence."""
        return max(map(len, self.sequences))


@lru_cache(maxsize=2)
def load_profiles(
    files: tuple[str, ...],
    families: tuple[str, ...],
    held_out_hashes: tuple[int, ...],
    max_length: int,
) -> dict[str, FamilyProfile]:
    """Make profiles of families from tables of members.

    Parameters
    ----------
    files : tuple of str
        Tables of members.
    families : tuple of str
        Those that are wanted.
    held_out_hashes : tuple of int
        Sequences (by `sha256_64`) that must not count, whatever family they are of.
    max_length : int
        Longest member that is taken, in nucleotides.

    Returns
    -------
    dict of str to FamilyProfile
        Families of two members or more, by name.

    Raises
    ------
    CorpusError
        If the corpus was made before members carried their rows of the alignment.
    """
    dataset = ds.dataset(list(files))
    if "aligned" not in dataset.schema.names:
        raise CorpusError(
            Path(files[0]).parent, "its members are without rows of an alignment; ingest it anew"
        )
    columns = ["family", "sha256_64", "dot_bracket", "aligned"]
    wanted = pc.field("family").isin(pa.array(families, pa.string()))
    table = dataset.to_table(columns=columns, filter=wanted)
    apart = np.isin(table["sha256_64"].to_numpy(), np.array(held_out_hashes, dtype=np.uint64))
    table = table.filter(pa.array(~apart))
    rows: dict[str, tuple[list[str], list[str | None]]] = {}
    for family, dots, row in zip(
        *(table[name].to_pylist() for name in ("family", "dot_bracket", "aligned")), strict=True
    ):
        aligned, brackets = rows.setdefault(family, ([], []))
        aligned.append(row)
        brackets.append(dots)
    made = {name: make_profile(*found, max_length) for name, found in rows.items()}
    return {name: profile for name, profile in made.items() if profile is not None}


def draw_groups(
    rule: GroupRule,
    profiles: dict[str, FamilyProfile],
    count: int,
    max_length: int,
    generator: np.random.Generator,
) -> list[Group]:
    """Draw groups of families, a family as often as its share says."""
    names = [name for name in rule.shares if name in profiles]
    shares = np.array([rule.shares[name] for name in names])
    chosen = generator.choice(len(names), count, p=shares / shares.sum())
    return [
        _group(names[k], profiles[names[k]], rule, max_length, generator) for k in chosen.tolist()
    ]


def _group(
    name: str,
    profile: FamilyProfile,
    rule: GroupRule,
    max_length: int,
    generator: np.random.Generator,
) -> Group:
    rows = profile.draw(rule.size, generator, rule.resample)
    lengths = (rows != GAP).sum(1)
    # Gaps of two members can leave nothing, or too much: a real one takes the place.
    bad = (lengths < 1) | (lengths > max_length)
    rows[bad] = profile.draw(int(bad.sum()), generator, 0.0)
    longest = int((rows != GAP).sum(1).max())
    pairs = np.array(list(itertools.combinations(range(rule.size), 2)), dtype=np.int32)
    most = max(rule.size // 2, _CELLS // longest**2)
    if len(pairs) > most:
        pairs = pairs[np.sort(generator.choice(len(pairs), most, replace=False))]
    return Group(
        sequences=[_LETTERS[row[row != GAP]].tobytes().decode("ascii") for row in rows],
        pairs=pairs,
        partners=[partners_of(rows[a], rows[b]) for a, b in pairs.tolist()],
        family=hash64(name),
    )
