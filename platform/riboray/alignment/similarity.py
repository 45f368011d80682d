"""Base similarities: cosines of base embeddings, as products of rows of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.columns import GapPenalties
from riboray.errors import ConfigError

__all__ = [
    "FAMILY_GAPS",
    "Projection",
    "RowMaker",
    "SequenceSet",
    "centred_rows",
    "fit_projection",
    "mean_rows",
    "unit_rows",
]

FAMILY_GAPS = GapPenalties(2.0, 0.2)
"""Gap penalties for alignments of centred embeddings that are scored to find families. Unrelated
pairs score about zero a base there, so gaps may cost more than RNABERT's."""


def unit_rows(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale base embeddings to unit length, so that a dot product is a cosine.

    Parameters
    ----------
    embeddings : ndarray, shape=(nucleotides, d), dtype=floating
        Base embeddings. A row of zeros stays zero.

    Returns
    -------
    ndarray, shape=(nucleotides, d), dtype=float32

    Raises
    ------
    ValueError
        If a value is NaN or infinite; the message names the row.
    """
    rows = np.array(embeddings, dtype=np.float32, ndmin=2)
    norms = np.linalg.norm(rows, axis=1)
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms))[0])
        raise ValueError(f"the embedding of base {row + 1} is NaN or infinite")
    rows /= np.maximum(norms, 1e-12)[:, None]
    return rows


def centred_rows(
    bases: NDArray[np.floating], starts: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Subtract the mean base embedding of a sequence from each of its base embeddings.

    A part that all bases of a sequence share (two thirds of the variance of the published weights'
    last layer) raises or lowers every cosine of a pair: it hides whether the two are of one family,
    and hardly matters to which alignment is best. Scores to tell families apart go without it.

    Parameters
    ----------
    bases : ndarray, shape=(nucleotides, H), dtype=floating
        Base embeddings of one sequence, or of several, one after the other.
    starts : ndarray, shape=(n,), dtype=integer, optional
        Where each of several begins; none is empty.

    Returns
    -------
    ndarray, shape=(nucleotides, H), dtype=float32
        Zeros for a sequence of one base.
    """
    starts = np.zeros(1, np.int64) if starts is None else starts
    rows = np.array(bases, np.float32)
    means = mean_rows(rows, np.append(starts, len(rows)))
    rows -= np.repeat(means, np.diff(starts, append=len(rows)), axis=0)
    return rows


@njit(nogil=True, cache=True)
def _sum_rows(rows: Any, starts: Any, sums: Any) -> None:
    for i in range(len(starts) - 1):
        for j in range(starts[i], starts[i + 1]):
            for k in range(rows.shape[1]):
                sums[i, k] += rows[j, k]


def mean_rows(rows: NDArray[np.float32], starts: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the mean row of each sequence, shape (n, d); see `SequenceSet` for ``starts``."""
    sums = np.zeros((len(starts) - 1, rows.shape[1]))
    _sum_rows(rows, np.asarray(starts, np.int64), sums)
    means: NDArray[np.float32] = (sums / np.diff(starts)[:, None]).astype(np.float32)
    return means


@dataclass(frozen=True)
class SequenceSet:
    """Base embeddings of many sequences, one after the other.

    Attributes
    ----------
    embeddings : ndarray, shape=(nucleotides, d), dtype=float32
        Rows of unit length, or projections of such rows.
    starts : ndarray, shape=(n + 1,), dtype=int64
        Sequence i is ``embeddings[starts[i]:starts[i + 1]]``.
    """

    embeddings: NDArray[np.float32]
    starts: NDArray[np.int64]

    def __post_init__(self) -> None:
        # Read-only, as the object store hands arrays out: kernels are compiled for one kind.
        for name in ("embeddings", "starts"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        if len(self.starts) < 1 or self.starts[-1] != len(self.embeddings):
            raise ValueError("starts must begin with 0 and end with the number of rows")
        if (np.diff(self.starts) < 1).any():
            empty = int(np.flatnonzero(np.diff(self.starts) < 1)[0])
            raise ValueError(f"sequence {empty} has length 0; there is nothing to align")

    @classmethod
    def of(cls, sequences: list[NDArray[np.floating]]) -> SequenceSet:
        """Normalise and join the base embeddings of several sequences, each of shape (n, d)."""
        starts = np.cumsum([0, *(len(s) for s in sequences)], dtype=np.int64)
        return cls(unit_rows(np.concatenate(sequences)), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return self.embeddings[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Length of each sequence, in nucleotides."""
        return np.diff(self.starts).astype(np.int32)


@dataclass(frozen=True)
class Projection:
    """A linear map of unit embeddings to fewer dimensions that keeps their products best.

    Attributes
    ----------
    basis : ndarray, shape=(d, k), dtype=float32
        Orthonormal columns.
    rms_error, max_error : float
        Of a cosine, over pairs of bases sampled from what it was fitted to.
    """

    basis: NDArray[np.float32]
    rms_error: float
    max_error: float

    def describe(self) -> str:
        """Say what it does and how well."""
        width, kept = self.basis.shape
        return (
            f"to {kept} of {width} dimensions: a cosine is off by {self.rms_error:.4f} "
            f"(root mean square), {self.max_error:.3f} at most in the sample"
        )

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project unit rows, shape (n, d), to shape (n, k). Products approximate cosines."""
        return rows @ self.basis


@dataclass(frozen=True)
class RowMaker:
    """How base embeddings become the rows whose products are match scores.

    Attributes
    ----------
    centred : bool
        Whether the mean of a sequence's base embeddings is subtracted from each; see
        `centred_rows`.
    projection : Projection, optional
        Applied to the unit rows.
    """

    centred: bool = False
    projection: Projection | None = None

    def rows(self, bases: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
        """Return the rows of several sequences, one after the other.

        Parameters
        ----------
        bases : sequence of ndarray, shape=(length, d), dtype=floating
            Base embeddings of each.

        Returns
        -------
        ndarray, shape=(nucleotides, d or k), dtype=float32

        Raises
        ------
        ValueError
            If a value is NaN or infinite.
        """
        flat = np.concatenate(bases)
        if self.centred:
            flat = centred_rows(flat, np.cumsum([0, *map(len, bases[:-1])]))
        rows = unit_rows(flat)
        return rows if self.projection is None else self.projection.apply(rows)


def fit_projection(rows: NDArray[np.float32], dimensions: int, seed: int = 0) -> Projection:
    """Find the projection with the least squared error of all products (Eckart & Young 1936).

    Parameters
    ----------
    rows : ndarray, shape=(n, d), dtype=float32
        Unit rows.
    dimensions : int
        Dimensions to keep, at most d.
    seed : int
        Seed of the sample that measures the error.

    Returns
    -------
    Projection
        The leading eigenvectors of the rows' second moments, not centred: the products of
        projected rows are then the best approximation of the given rank.

    Raises
    ------
    ConfigError
        If ``dimensions`` is not between 1 and d.
    """
    width = rows.shape[1]
    if not 1 <= dimensions <= width:
        raise ConfigError(f"dimensions must lie between 1 and {width}, not {dimensions}")
    moments = rows.T.astype(np.float64) @ rows
    _, vectors = np.linalg.eigh(moments)
    basis = np.ascontiguousarray(vectors[:, ::-1][:, :dimensions], dtype=np.float32)
    generator = np.random.default_rng(seed)
    some = rows[generator.integers(0, len(rows), size=(2, 2048))]
    exact = some[0] @ some[1].T
    error = (some[0] @ basis) @ (some[1] @ basis).T - exact
    return Projection(basis, float(np.sqrt((error**2).mean())), float(np.abs(error).max()))
