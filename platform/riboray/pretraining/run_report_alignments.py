"""Held-out pairs aligned by a run's model, compared with their reference alignments."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from riboray.alignment import (
    GapPenalties,
    align_embeddings,
    aligned_columns,
    count_aligned,
)
from riboray.alignment.similarity import unit_rows
from riboray.embedding.embedder import Embedder

__all__ = [
    "Aligned",
    "Counts",
    "HeldOutPair",
    "align_pairs",
    "by_family",
    "choose_examples",
    "held_out_pairs",
]

Partners = NDArray[np.int32]

#: Sequences embedded at a time.
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class HeldOutPair:
    """A reference alignment of a family that training never saw.

    Attributes
    ----------
    family : str
        Its family.
    ids, sequences : tuple of str
        Both sequences.
    structures : tuple of str or None
        Dot-bracket strings, as long as the sequences, where the corpus has them.
    reference : ndarray, shape=(len(sequences[0]),), dtype=int32
        Partner in the second sequence of each base of the first, -1 for none.
    identity : float
        Identical columns over columns without a gap.
    """

    family: str
    ids: tuple[str, str]
    sequences: tuple[str, str]
    structures: tuple[str | None, str | None]
    reference: Partners
    identity: float


class Counts(NamedTuple):
    """Aligned pairs of bases: found and in the reference, predicted, in the reference."""

    common: int
    predicted: int
    wanted: int

    @property
    def sensitivity(self) -> float:
        """Share of the reference's pairs that were found."""
        return self.common / max(self.wanted, 1)

    @property
    def ppv(self) -> float:
        """Share of the predicted pairs that are the reference's."""
        return self.common / max(self.predicted, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.common / max(self.predicted + self.wanted, 1)

    @classmethod
    def sum(cls, parts: Sequence[Counts]) -> Counts:
        """Add up."""
        return cls(*(sum(column) for column in zip(*parts, strict=True))) if parts else cls(0, 0, 0)


class Aligned(NamedTuple):
    """A held-out pair as the model aligns it."""

    pair: HeldOutPair
    predicted: Partners
    counts: Counts


def held_out_pairs(corpus: Path, families: Sequence[str], limit: int) -> list[HeldOutPair]:
    """Read the pairs that a run is measured on.

    Parameters
    ----------
    corpus : Path
        Corpus directory.
    families : sequence of str
        The run's held-out families. They do not matter for a corpus that sets pairs apart itself.
    limit : int
        Pairs at most (`PretrainConfig.validation_pairs`).

    Returns
    -------
    list of HeldOutPair
        The first in the order of the files, as `riboray.pretraining.data.prepare_data` takes them.
    """
    apart = sorted(corpus.glob("validation_pairs-*.parquet"))
    files = apart or sorted(corpus.glob("pairs-*.parquet"))
    if not files:
        return []
    columns = ["family", "id_a", "id_b", "aligned_a", "aligned_b", "identity"]
    chosen = None if apart else pc.field("family").isin(pa.array(families, pa.string()))
    table = ds.dataset(files).scanner(columns=columns, filter=chosen).head(limit)
    structures = _structures(corpus, set(table["family"].to_pylist()))
    pairs = []
    for row in table.to_pylist():
        read = aligned_columns(row["aligned_a"], row["aligned_b"])
        sequences = read.sequence_a, read.sequence_b
        if not all(sequences):
            continue
        known = [
            structures.get((row["family"], name, len(sequence)))
            for name, sequence in zip((row["id_a"], row["id_b"]), sequences, strict=True)
        ]
        pair = HeldOutPair(
            family=row["family"],
            ids=(row["id_a"], row["id_b"]),
            sequences=sequences,
            structures=(known[0], known[1]),
            reference=read.partners,
            identity=float(row["identity"]),
        )
        pairs.append(pair)
    return pairs


def _structures(corpus: Path, families: set[str]) -> dict[tuple[str, str, int], str]:
    """Return the structures of the members of families, by family, id and length."""
    files = sorted(corpus.glob("members-*.parquet"))
    if not files or not families:
        return {}
    dataset = ds.dataset(files)
    if "dot_bracket" not in dataset.schema.names:
        return {}
    table = dataset.to_table(
        columns=["family", "id", "dot_bracket"],
        filter=pc.field("family").isin(pa.array(sorted(families), pa.string())),
    )
    return {
        (row["family"], row["id"], len(row["dot_bracket"])): row["dot_bracket"]
        for row in table.to_pylist()
        if row["dot_bracket"] is not None
    }


def align_pairs(
    pairs: Sequence[HeldOutPair], embedder: Embedder, gaps: GapPenalties
) -> list[Aligned]:
    """Align pairs by the similarity of their base embeddings, as a run measures itself.

    Parameters
    ----------
    pairs : sequence of HeldOutPair
        What to align.
    embedder : Embedder
        The run's model.
    gaps : GapPenalties
        The run's penalties.

    Returns
    -------
    list of Aligned
        Global alignments, in the order of the pairs.

    Raises
    ------
    InvalidSequenceError
        If a sequence holds a nucleotide that the model has no token for.
    """
    # Of one length, sequences share batches without padding.
    sequences = sorted({s for pair in pairs for s in pair.sequences}, key=lambda s: (len(s), s))
    rows: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(sequences), _CHUNK):
        part = sequences[start : start + _CHUNK]
        embedded = embedder.per_base(part)
        rows |= {s: unit_rows(e) for s, e in zip(part, embedded, strict=True)}
    aligned = []
    for pair in pairs:
        first, second = pair.sequences
        _, predicted = align_embeddings(rows[first], rows[second], gaps)
        assert predicted is not None
        aligned.append(Aligned(pair, predicted, Counts(*count_aligned(predicted, pair.reference))))
    return aligned


def choose_examples(aligned: Sequence[Aligned], number: int) -> list[tuple[str, Aligned]]:
    """Choose pairs from best to worst, of different families where there are several.

    Parameters
    ----------
    aligned : sequence of Aligned
        All pairs.
    number : int
        How many to choose, at most.

    Returns
    -------
    list of (str, Aligned)
        In the order of F1: the best first, the worst last, the median among them if there are three
        or more; each with the words for its rank.
    """
    ranked = sorted(aligned, key=lambda a: (-a.counts.f1, a.pair.family, a.pair.ids))
    count, number = len(ranked), min(number, len(ranked))
    goals = [round(k * (count - 1) / max(number - 1, 1)) for k in range(number)]
    names = {0: "best"}
    if number > 1:
        names[number - 1] = "worst"
    if number > 2:
        names[number // 2], goals[number // 2] = "median", (count - 1) // 2
    shown: Counter[str] = Counter()
    taken: dict[int, int] = {}
    for k in [*names, *(k for k in range(number) if k not in names)][:number]:
        goal = ranked[goals[k]].counts.f1
        # The best and the worst may give way to one as good, the others to one about as good.
        near = 0 if k in (0, number - 1) else count // (2 * number)
        free = [place for place in range(count) if place not in taken.values()]
        fitting = [p for p in free if abs(p - goals[k]) <= near or ranked[p].counts.f1 == goal]

        def cost(place: int, goal: int = goals[k]) -> tuple[int, int, int]:
            return shown[ranked[place].pair.family], abs(place - goal), place

        taken[k] = min(fitting or free, key=cost)
        shown[ranked[taken[k]].pair.family] += 1
    # Among pairs as good as each other, the best still comes first and the worst last.
    order = sorted(taken, key=lambda k: (-ranked[taken[k]].counts.f1, k == number - 1, k))
    return [(names.get(k, f"rank {taken[k] + 1:,} of {count:,}"), ranked[taken[k]]) for k in order]


def by_family(aligned: Sequence[Aligned]) -> list[dict[str, Any]]:
    """Sum up the pairs of each family, the worst family first."""
    groups: defaultdict[str, list[Aligned]] = defaultdict(list)
    for item in aligned:
        groups[item.pair.family].append(item)
    rows = [
        {
            "family": family,
            "pairs": len(items),
            "identity": sum(i.pair.identity for i in items) / len(items),
            "counts": Counts.sum([i.counts for i in items]),
        }
        for family, items in groups.items()
    ]
    return sorted(rows, key=lambda row: (row["counts"].f1, row["family"]))
