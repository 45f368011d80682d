"""What base embeddings tell of a nucleotide: which one it is, and where in the structure it lies.

The RNABERT paper shows base embeddings by t-SNE, coloured by nucleotide and by structural context.
A picture can be looked at in many ways, so figures go with it: how often the nearest bases *of
other families* (by cosine, in all dimensions) agree, beside what chance, the nucleotide alone and
the nucleotides around it give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riboray.corpus.structure import SS_CLASSES
from riboray.embedding.plane import lay_out
from riboray.evaluation.seed_families import Member

__all__ = ["NEIGHBOURS", "BaseSet", "Seen", "agreement", "look", "window_rows"]

#: Nearest bases looked at.
NEIGHBOURS = 10
#: Nucleotides of the window that stands for what a sequence tells without a model.
WINDOW = 11
_UNKNOWN = 0
_CHUNK = 1024


@dataclass(frozen=True)
class BaseSet:
    """Nucleotides of some sequences.

    Attributes
    ----------
    sequences : list of str
        Their sequences.
    sequence, family : ndarray, shape=(n,), dtype=int64
        Number of the sequence and of the family of each nucleotide.
    nucleotides, classes : ndarray, shape=(n,), dtype=int64
        0 to 3 for A, C, G and U; structure class, 0 where it is unknown.
    families : int
        Number of families.
    """

    sequences: list[str]
    sequence: NDArray[np.int64]
    family: NDArray[np.int64]
    nucleotides: NDArray[np.int64]
    classes: NDArray[np.int64]
    families: int

    @classmethod
    def of(cls, drawn: Sequence[tuple[str, Member]]) -> BaseSet:
        """Take members of families apart."""
        names = {name: number for number, name in enumerate(dict.fromkeys(f for f, _ in drawn))}
        lengths = [len(member.sequence) for _, member in drawn]
        text = "".join(member.sequence for _, member in drawn)
        classes = "".join(member.classes for _, member in drawn)
        return cls(
            sequences=[member.sequence for _, member in drawn],
            sequence=np.repeat(np.arange(len(drawn)), lengths),
            family=np.repeat([names[name] for name, _ in drawn], lengths),
            nucleotides=np.array(["ACGU".index(letter) for letter in text], np.int64),
            classes=np.array(list(classes), np.int64),
            families=len(names),
        )

    def __len__(self) -> int:
        return len(self.nucleotides)

    @property
    def counted(self) -> dict[str, int]:
        """Nucleotides of each structure class, most first."""
        found = Counter(self.classes.tolist())
        return {SS_CLASSES[str(number)]: count for number, count in found.most_common()}


class Seen(NamedTuple):
    """What one kind of embedding tells.

    Attributes
    ----------
    name : str
        The model, or what else the bases were described by.
    nucleotide, context : float
        Share of nearest bases of other families that are the same nucleotide, and of known bases
        that lie in the same structural context.
    points : ndarray, shape=(n, 2), or None
        Where they lie in the plane.
    """

    name: str
    nucleotide: float
    context: float
    points: NDArray[np.float64] | None = None

    def figures(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return {key: value for key, value in self._asdict().items() if key != "points"}


def look(
    bases: BaseSet,
    embedders: Sequence[tuple[str, Callable[[list[str]], list[NDArray[np.float32]]]]],
    seed: int,
) -> list[Seen]:
    """Measure and lay out what models make of bases, after what is known without a model.

    Parameters
    ----------
    bases : BaseSet
        The bases, of two families or more.
    embedders : sequence of (str, callable)
        Name, and what makes the base embeddings of sequences: each of shape (length, H).
    seed : int
        Of the layouts.

    Returns
    -------
    list of Seen
        By chance, by the nucleotide alone, by a window of nucleotides, then by each model: as its
        embeddings are, and centred, that is less the mean of their sequence. Models have points.
    """
    found = [
        _expected("chance", bases, np.zeros(len(bases), np.int64)),
        _expected("the nucleotide alone", bases, bases.nucleotides),
        Seen(f"{WINDOW} nucleotides around it", *_told(window_rows(bases), bases)),
    ]
    for name, embed in embedders:
        parts = embed(bases.sequences)
        rows = np.concatenate(parts)
        found.append(Seen(name, *_told(rows, bases), lay_out(rows, seed)))
        centred = np.concatenate([part - part.mean(axis=0) for part in parts])
        found.append(Seen(f"{name}, centred", *_told(centred, bases), lay_out(centred, seed)))
    return found


def _told(rows: NDArray[np.float32], bases: BaseSet) -> tuple[float, float]:
    known = bases.classes != _UNKNOWN
    classes, family = bases.classes[known], bases.family[known]
    nucleotide = agreement(rows, bases.nucleotides, bases.family)
    return nucleotide, agreement(rows[known], classes, family)


def window_rows(bases: BaseSet, width: int = WINDOW) -> NDArray[np.float32]:
    """Describe bases by the nucleotides around them, nearer ones weighing more.

    Returns
    -------
    ndarray, shape=(n, 4 · width), dtype=float32
        One-hot rows; beyond an end of the sequence nothing is set. The weight of a nucleotide falls
        linearly from the middle, so that a base's own letter counts most.
    """
    rows = np.zeros((len(bases), width, 4), np.float32)
    half = width // 2
    for place, shift in enumerate(range(-half, half + 1)):
        at = np.arange(len(bases)) + shift
        inside = (at >= 0) & (at < len(bases))
        inside[inside] = bases.sequence[at[inside]] == bases.sequence[inside]
        weight = np.sqrt(1 - abs(shift) / (half + 1))
        rows[inside, place, bases.nucleotides[at[inside]]] = weight
    return rows.reshape(len(bases), -1)


def agreement(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    neighbours: int = NEIGHBOURS,
) -> float:
    """Return the share of nearest rows of other groups that have the same label.

    Parameters
    ----------
    rows : ndarray, shape=(n, H), dtype=float32
        Compared by cosine.
    labels, groups : ndarray, shape=(n,), dtype=int64
        Label and group of each.
    neighbours : int
        Nearest rows looked at; fewer where the other groups have fewer.

    Returns
    -------
    float
        NaN if there is one group only.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    same, looked = 0, 0
    for start in range(0, len(unit), _CHUNK):
        here = slice(start, start + _CHUNK)
        cosine = unit[here] @ unit.T
        cosine[groups[here, None] == groups[None, :]] = -np.inf
        least = int(np.isfinite(cosine).sum(axis=1).min())
        count = min(neighbours, least)
        if not count:
            continue
        # Stable, so that equal ones are taken in the order of the sequences, whatever the machine.
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        same += int((labels[nearest] == labels[here, None]).sum())
        looked += nearest.size
    return same / looked if looked else float("nan")


def _expected(name: str, bases: BaseSet, kinds: NDArray[np.int64]) -> Seen:
    """Return what bases of other families agree in, drawn by chance among those of one kind."""

    def share(labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
        columns = bases.family[chosen], kinds[chosen], labels[chosen]
        here = list(zip(*(column.tolist() for column in columns), strict=True))
        own = Counter(here)
        own_kind = Counter((family, kind) for family, kind, _ in here)
        same_kind = Counter((kind, label) for _, kind, label in here)
        of_kind = Counter(kind for _, kind, _ in here)
        shares = []
        for (family, kind, label), count in own.items():
            others = of_kind[kind] - own_kind[family, kind]
            if others:
                alike = same_kind[kind, label] - own[family, kind, label]
                shares.append((alike / others, count))
        total = sum(count for _, count in shares)
        return sum(s * count for s, count in shares) / total if total else float("nan")

    everything, known = np.ones(len(bases), np.bool_), bases.classes != _UNKNOWN
    return Seen(name, share(bases.nucleotides, everything), share(bases.classes, known))
