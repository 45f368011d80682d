"""The soft maximum over all alignments, and how probable each base pair is.

The published loss of structural alignment learning compares the reference with the best other
alignment. The soft maximum of temperature T, ``T · log(sum over alignments of exp(score / T))``,
takes in every alignment by how nearly it is the best. Its gradient with respect to a match score is
the probability that the two bases are aligned: learnt from is that probability, less one for pairs
of the reference. As T goes to 0 it becomes the maximum. With margins it is the softmax-margin of
Gimpel & Smith 2010 (Proc. NAACL-HLT, 733-736).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment import GapPenalties, Margins, gap_costs

__all__ = ["soft_differences"]

#: Probabilities below this teach nothing: most of a matrix, and together little of it.
_LEAST = 1e-4


def soft_differences(
    match: NDArray[np.float32],
    lengths_a: NDArray[np.int32],
    lengths_b: NDArray[np.int32],
    reference: NDArray[np.int32],
    gaps: GapPenalties,
    margins: Margins,
    temperature: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Compare each reference with all alignments, by their probabilities.

    Parameters
    ----------
    match, lengths_a, lengths_b, reference, gaps, margins
        As for `riboray.pretraining.violations.find_violations`.
    temperature : float
        Above 0, in units of match scores.

    Returns
    -------
    cells : ndarray, shape=(3, V), dtype=int64
        Pair of RNAs, base of a, base of b; ascending.
    sign : ndarray, shape=(V,), dtype=float32
        Probability that these are aligned, less 1 if the reference aligns them; base pairs of which
        that is below 1e-4 are left out.
    offset : ndarray, shape=(n,), dtype=float32
        What is added to the signed match scores to have the soft maximum (score + margin) less the
        reference's score. NaN, and no cells, for pairs whose sums 64-bit numbers cannot hold.

    Notes
    -----
    Forward-backward (Durbin et al. 1998, Biological Sequence Analysis, ch. 4) over three states:
    aligned, and a gap in either sequence. Of bases unaligned between two aligned pairs those of a
    come first, so that every alignment counts once. Rows are scaled; sums that lie further than
    e^-700 below the largest of their row are lost, which at temperatures of 0.1 and more are those
    of alignments that lose by 70 match scores.
    """
    most = int((lengths_a.astype(np.int64) * lengths_b).sum())
    cells = np.empty((3, most), np.int64)
    sign, offset = np.empty(most, np.float32), np.empty(len(match), np.float32)
    penalties = float(gaps.open), float(gaps.extend), float(margins.false), float(margins.missed)
    costs = gap_costs(reference, lengths_a, lengths_b, gaps)
    count = _gibbs_kernel(
        match, lengths_a, lengths_b, reference, costs, temperature, penalties, cells, sign, offset
    )
    return cells[:, :count], sign[:count], offset


@njit(nogil=True, cache=True)
def _weights(
    match: Any, reference: Any, temperature: float, false: float, missed: float, weights: Any
) -> None:
    """Compute ``exp(match score with margin / T)`` of every cell."""
    for i in range(weights.shape[0]):
        partner = reference[i]
        for j in range(weights.shape[1]):
            score = match[i, j] + (-missed if j == partner else false)
            weights[i, j] = math.exp(score / temperature)


@njit(nogil=True, cache=True)
def _scaled(row: Any, other: Any, third: Any) -> float:
    """Divide three rows by the largest of their numbers and return it."""
    largest = 0.0
    for j in range(len(row)):
        largest = max(largest, row[j], other[j], third[j])
    if largest == 0.0:
        return 0.0
    factor = 1.0 / largest
    for j in range(len(row)):
        row[j] *= factor
        other[j] *= factor
        third[j] *= factor
    return largest


@njit(nogil=True, cache=True)
def _forward(weights: Any, opening: float, extending: float, aligned: Any, gap_b: Any) -> float:
    """Fill sums over beginnings of alignments, rows scaled; return the logarithm of all's sum.

    ``aligned[i, j]`` and ``gap_b[i, j]``: those that end with bases i - 1 and j - 1 aligned, and
    with base i - 1 unaligned.
    """
    n, m = weights.shape
    gap_a = np.zeros(m + 1)
    diagonal = np.zeros(m + 1)
    logarithm = 0.0
    for i in range(n + 1):
        if i == 0:
            aligned[0] = 0.0
            gap_b[0] = 0.0
            aligned[0, 0] = 1.0
        else:
            aligned[i, 0] = 0.0
            for j in range(m):
                aligned[i, j + 1] = weights[i - 1, j] * diagonal[j]
            for j in range(m + 1):
                gap_b[i, j] = opening * aligned[i - 1, j] + extending * gap_b[i - 1, j]
        gap_a[0] = 0.0
        for j in range(m):
            gap_a[j + 1] = opening * (aligned[i, j] + gap_b[i, j]) + extending * gap_a[j]
        largest = _scaled(aligned[i], gap_b[i], gap_a)
        if largest == 0.0:
            return -np.inf
        logarithm += math.log(largest)
        for j in range(m + 1):
            diagonal[j] = aligned[i, j] + gap_b[i, j] + gap_a[j]
    return logarithm + math.log(diagonal[m]) if diagonal[m] > 0.0 else -np.inf


@njit(nogil=True, cache=True)
def _backward(
    weights: Any, opening: float, extending: float, aligned: Any, gap_b: Any, inside: Any
) -> bool:
    """Turn ``weights`` into probabilities, from the last row to the first.

    Every base of a is either aligned or not: in each row the sums add up to all of it.
    """
    n, m = weights.shape
    to_aligned, to_gap_a, to_gap_b = np.zeros(m + 1), np.zeros(m + 1), np.zeros(m + 1)
    to_aligned[m] = to_gap_b[m] = to_gap_a[m] = 1.0
    for j in range(m - 1, -1, -1):
        to_gap_a[j] = extending * to_gap_a[j + 1]
        to_aligned[j] = to_gap_b[j] = opening * to_gap_a[j + 1]
    for i in range(n, 0, -1):
        if _scaled(to_aligned, to_gap_b, to_gap_a) == 0.0:
            return False
        total = gap_b[i, 0] * to_gap_b[0]
        for j in range(m):
            # What follows is for row i - 1: the cell itself, then its weight is not needed again.
            inside[j] = weights[i - 1, j] * to_aligned[j + 1]
            weights[i - 1, j] = aligned[i, j + 1] * to_aligned[j + 1]
            total += weights[i - 1, j] + gap_b[i, j + 1] * to_gap_b[j + 1]
        if not total > 0.0:
            return False
        for j in range(m):
            weights[i - 1, j] /= total
        inside[m] = 0.0
        later_gap_a = 0.0
        for j in range(m, -1, -1):
            opened_a = opening * later_gap_a
            to_aligned[j] = inside[j] + opening * to_gap_b[j] + opened_a
            to_gap_b[j] = inside[j] + extending * to_gap_b[j] + opened_a
            to_gap_a[j] = later_gap_a = inside[j] + extending * later_gap_a
    return True


@njit(nogil=True, cache=True)
def _gibbs_kernel(
    match: Any,
    lengths_a: Any,
    lengths_b: Any,
    reference: Any,
    costs: Any,
    temperature: float,
    penalties: Any,
    found: Any,
    sign: Any,
    offset: Any,
) -> int:
    """Write what `soft_differences` returns, and return how many cells there are."""
    gap_open, gap_extend, false, missed = penalties
    opening = math.exp(-(gap_open + gap_extend) / temperature)
    extending = math.exp(-gap_extend / temperature)
    longest_a, longest_b = lengths_a.max(), lengths_b.max()
    weight_cells = np.empty(longest_a * longest_b)
    aligned_cells = np.empty((longest_a + 1) * (longest_b + 1))
    gap_cells = np.empty((longest_a + 1) * (longest_b + 1))
    inside = np.empty(longest_b + 1)
    count = 0
    for k in range(len(lengths_a)):
        n, m = lengths_a[k], lengths_b[k]
        weights = weight_cells[: n * m].reshape(n, m)
        aligned = aligned_cells[: (n + 1) * (m + 1)].reshape(n + 1, m + 1)
        gap_b = gap_cells[: (n + 1) * (m + 1)].reshape(n + 1, m + 1)
        _weights(match[k], reference[k], temperature, false, missed, weights)
        logarithm = _forward(weights, opening, extending, aligned, gap_b)
        offset[k] = np.nan
        if not math.isfinite(logarithm):
            continue
        if not _backward(weights, opening, extending, aligned, gap_b, inside[: m + 1]):
            continue
        rest = temperature * logarithm + costs[k]
        for i in range(n):
            for j in range(m):
                weight = weights[i, j]
                if reference[k, i] == j:
                    weight -= 1.0
                    rest += missed - match[k, i, j]
                if abs(weight) >= _LEAST:
                    found[0, count], found[1, count], found[2, count] = k, i, j
                    sign[count] = weight
                    rest -= weight * match[k, i, j]
                    count += 1
        offset[k] = rest
    return count
