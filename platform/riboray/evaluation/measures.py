"""Named similarities of RNAs, each as a matrix of all with all.

What the names stand for was chosen by measurement, on families that were not used to measure
(docs/results.md, "Clustering").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.estimate import fit_null
from riboray.alignment.sides import Rule
from riboray.alignment.similarity import FAMILY_GAPS, centred_rows, unit_rows
from riboray.alignment.statistics import NullModel
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError, RiborayError
from riboray.evaluation.similarities import (
    alignment_scores,
    cosines,
    kmer_cosines,
    nucleotide_rows,
    per_length,
    rare_kmer_cosines,
    soft_alignment_scores,
    whitened_cosines,
)

__all__ = ["DEFAULT_MEASURES", "MEASURES", "Measure", "Subject"]

_NO_MODEL = "this measure needs a model: give --checkpoint"


class Subject:
    """Sequences to compare, and the model that looks at them; nothing is embedded twice.

    Base embeddings stay in memory, 480 bytes a nucleotide; while sequences are aligned there are
    three copies of them.

    Parameters
    ----------
    sequences : sequence of str
        RNA of at least one nucleotide, upper case, U for T.
    embedder : Embedder, optional
        The model.
    """

    def __init__(self, sequences: Sequence[str], embedder: Embedder | None = None) -> None:
        if not sequences:
            raise ConfigError("no sequence to compare")
        self.sequences = sequences
        self._embedder = embedder

    @cached_property
    def lengths(self) -> list[int]:
        """Length of each sequence."""
        return [len(sequence) for sequence in self.sequences]

    @cached_property
    def bases(self) -> list[NDArray[np.float32]]:
        """Base embeddings by the last layer, each of shape (length, H).

        Raises
        ------
        ConfigError
            If there is no model.
        """
        if self._embedder is None:
            raise ConfigError(_NO_MODEL)
        return self._embedder.per_base(self.sequences)

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        """Mean base embedding of each sequence, shape (n, H)."""
        return np.array([rows.mean(axis=0) for rows in self.bases], np.float32)

    def unit_bases(self) -> list[NDArray[np.float32]]:
        """Return base embeddings scaled to length 1: a second copy, not kept."""
        return self._scaled(self.bases)

    def centred_bases(self) -> list[NDArray[np.float32]]:
        """Return base embeddings without the mean of their sequence, scaled to length 1."""
        return self._scaled(map(centred_rows, self.bases))

    def chance_scores(self) -> NullModel:
        """Fit the scores of unrelated pairs; see `riboray.alignment.statistics`.

        Raises
        ------
        ConfigError
            If there is no model, or shuffles enough for a fit would take minutes.
        """
        if self._embedder is None:
            raise ConfigError(_NO_MODEL)
        # Sorted, so that the sample does not depend on the order in the file.
        null = fit_null(self._embedder, sorted(self.sequences), Rule())
        if null is None:
            raise ConfigError("sequences this long have no chance scores; leave alignment-z out")
        return null

    def _scaled(self, bases: Iterable[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        try:
            return [unit_rows(rows) for rows in bases]
        except ValueError as error:
            raise RiborayError(f"the model cannot be used: {error}") from error


@dataclass(frozen=True)
class Measure:
    """A way to say how alike RNAs are.

    Attributes
    ----------
    name : str
        As `riboray evaluate clustering --measures` knows it.
    help : str
        What it is, in a line.
    needs_model : bool
        Whether it looks at embeddings.
    compute : callable
        Takes a `Subject`, returns the similarities of all with all: shape (n, n), float32,
        symmetric to rounding; what stands on the diagonal has no meaning.
    """

    name: str
    help: str
    needs_model: bool
    compute: Callable[[Subject], NDArray[np.float32]]


def _identity(subject: Subject) -> NDArray[np.float32]:
    rows = nucleotide_rows(subject.sequences)
    return per_length(alignment_scores(rows, gaps=FAMILY_GAPS), subject.lengths, "mean")


def _alignment(subject: Subject) -> NDArray[np.float32]:
    return per_length(alignment_scores(subject.unit_bases()), subject.lengths, "shorter")


def _standardised_alignment(subject: Subject) -> NDArray[np.float32]:
    unit = subject.unit_bases()
    scores = alignment_scores(unit)
    means = np.array([rows.mean(axis=0) for rows in unit], np.float32)
    sizes, null = np.array(subject.lengths), subject.chance_scores()
    for row, ours in enumerate(sizes):  # row by row: the fit's regressors take several times more
        affinity = means @ means[row]
        scores[row] = null.z_scores(scores[row], np.full_like(sizes, ours), sizes, affinity)
    return scores


def _centred_alignment(subject: Subject) -> NDArray[np.float32]:
    scores = alignment_scores(subject.centred_bases(), gaps=FAMILY_GAPS)
    return per_length(scores, subject.lengths, "mean")


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            "kmer3",
            "cosine of 3-mer counts",
            False,
            lambda subject: kmer_cosines(subject.sequences, 3),
        ),
        Measure(
            "kmer6",
            "cosine of the 6-mers that occur, weighted by rarity",
            False,
            lambda subject: rare_kmer_cosines(subject.sequences, 6),
        ),
        Measure("identity", "score of the global alignment of nucleotides", False, _identity),
        Measure(
            "pooled",
            "cosine of mean base embeddings",
            True,
            lambda subject: cosines(subject.pooled),
        ),
        Measure(
            "pooled-whitened",
            "the same, all principal directions of the set counting alike",
            True,
            lambda subject: whitened_cosines(subject.pooled),
        ),
        Measure(
            "soft-align",
            "RNABERT's soft alignment of all bases with all",
            True,
            lambda subject: soft_alignment_scores(subject.unit_bases()),
        ),
        Measure(
            "alignment",
            "score of the global alignment of base embeddings over the shorter length",
            True,
            _alignment,
        ),
        Measure(
            "alignment-z",
            "z-score of the same alignment, as `riboray align` reports it",
            True,
            _standardised_alignment,
        ),
        Measure(
            "centred-alignment",
            "score without what all bases of a sequence share, over the mean length",
            True,
            _centred_alignment,
        ),
    )
}
"""Every measure, by its name."""

DEFAULT_MEASURES = tuple(MEASURES)
"""What `riboray evaluate clustering` measures unless told otherwise."""
