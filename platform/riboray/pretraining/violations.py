"""The CPU's half of structural alignment learning: which base pairs the loss is made of.

The loss of a pair of RNAs is the difference between two alignments, the best one with margins and
the reference. Base pairs that both have cancel; what remains, and what gradients flow through, are
the *violations*: pairs aligned falsely and pairs of the reference missed, often few. Finding them
takes match scores alone and is plain compiled code that holds no lock of the interpreter, so that
threads can do it while the device goes on; `losses.violation_loss` makes the loss of them. With a
temperature, all alignments are compared with the reference at once (`gibbs`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment import GapPenalties, Margins, align_batch
from riboray.pretraining.gibbs import soft_differences

__all__ = ["PendingViolations", "Violations", "find_violations", "submit_violations"]

Scores = NDArray[np.float32]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Violations:
    """Base pairs on which the best alignment of each pair of RNAs and its reference differ.

    Attributes
    ----------
    pair : ndarray, shape=(V,), dtype=int64
        Which pair of RNAs of the batch; ascending.
    first, second : ndarray, shape=(V,), dtype=int64
        The bases of a and of b; ascending within a pair of RNAs, but for the order of two of one
        base of a.
    sign : ndarray, shape=(V,), dtype=float32
        +1 for a base pair aligned falsely, -1 for one of the reference that is missed; with a
        temperature, probabilities of either.
    offset : ndarray, shape=(n,), dtype=float32
        What the loss of each pair of RNAs is beside the match scores: margins, and the gap
        penalties of the reference less those of the best alignment. 0 where nothing is violated.
    """

    pair: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    sign: NDArray[np.float32]
    offset: NDArray[np.float32]


def find_violations(
    match: Scores,
    lengths_a: Integers,
    lengths_b: Integers,
    reference: Integers,
    gaps: GapPenalties | None = None,
    margins: Margins | None = None,
    temperature: float = 0.0,
) -> Violations:
    """Align with margins, and compare with the reference.

    Parameters
    ----------
    match : ndarray, shape=(n, width_a, width_b), dtype=float32
        Match scores, from `losses.match_scores`.
    lengths_a, lengths_b : ndarray, shape=(n,), dtype=integer
        Lengths in nucleotides.
    reference : ndarray, shape=(n, width_a), dtype=integer
        Partners of the reference alignments, -1 for none.
    gaps : GapPenalties, optional
        RNABERT's 1.0 + 0.1·k by default.
    margins : Margins, optional
        RNABERT's 0.1 and 0.05 by default.
    temperature : float, optional
        Above 0, the soft maximum over all alignments takes the place of the best one.

    Returns
    -------
    Violations
        Of the alignment that `riboray.alignment.align_batch` finds, ties included; or of all.

    Raises
    ------
    ValueError
        As `align_batch` does.
    """
    gaps, margins = gaps or GapPenalties(), margins or Margins()
    if temperature:
        return _soft_violations(
            np.asarray(match, np.float32),
            np.ascontiguousarray(lengths_a, np.int32),
            np.ascontiguousarray(lengths_b, np.int32),
            np.ascontiguousarray(reference, np.int32),
            *(gaps, margins, float(temperature)),
        )
    best = align_batch(match, lengths_a, lengths_b, gaps, reference=reference, margins=margins)
    return _compare(best.partners, reference, lengths_a, lengths_b, gaps, margins)


def _soft_violations(
    match: Scores,
    lengths_a: NDArray[np.int32],
    lengths_b: NDArray[np.int32],
    reference: NDArray[np.int32],
    gaps: GapPenalties,
    margins: Margins,
    temperature: float,
) -> Violations:
    """Compare with all alignments; where their sums cannot be held, with the best."""
    cells, sign, offset = soft_differences(
        match, lengths_a, lengths_b, reference, gaps, margins, temperature
    )
    lost = np.flatnonzero(~np.isfinite(offset))
    if len(lost):
        pairs = match[lost], lengths_a[lost], lengths_b[lost], reference[lost]
        best = find_violations(*pairs, gaps, margins)
        others = np.stack([lost[best.pair], best.first, best.second])
        cells = np.concatenate([cells, others], axis=1)
        order = np.argsort(cells[0], kind="stable")
        cells, sign = cells[:, order], np.concatenate([sign, best.sign])[order]
        offset[lost] = best.offset
    return Violations(cells[0], cells[1], cells[2], sign, offset)


def _compare(
    best: NDArray[np.int32],
    reference: Integers,
    lengths_a: Integers,
    lengths_b: Integers,
    gaps: GapPenalties,
    margins: Margins,
) -> Violations:
    sizes_a = np.ascontiguousarray(lengths_a, np.int32)
    most = 2 * int(sizes_a.sum())
    pair, first, second = (np.empty(most, np.int64) for _ in range(3))
    sign, offset = np.empty(most, np.float32), np.empty(len(best), np.float32)
    count = _compare_kernel(
        best,
        np.ascontiguousarray(reference, np.int32),
        sizes_a,
        np.ascontiguousarray(lengths_b, np.int32),
        float(gaps.open),
        float(gaps.extend),
        float(margins.false),
        float(margins.missed),
        pair,
        first,
        second,
        sign,
        offset,
    )
    return Violations(pair[:count], first[:count], second[:count], sign[:count], offset)


@njit(nogil=True, cache=True)
def _gap_cost(partners: Any, pair: int, n: int, m: int, gap_open: float, gap_extend: float) -> Any:
    """Sum the gap penalties of one alignment, in float64."""
    gaps = symbols = 0
    end_a = end_b = 0
    for i in range(n + 1):
        j = partners[pair, i] if i < n else m
        if j < 0:
            continue
        gaps += (i > end_a) + (j > end_b)
        symbols += i - end_a + j - end_b
        end_a, end_b = i + 1, j + 1
    return gap_open * gaps + gap_extend * symbols


@njit(nogil=True, cache=True)
def _compare_kernel(
    best: Any,
    reference: Any,
    lengths_a: Any,
    lengths_b: Any,
    gap_open: float,
    gap_extend: float,
    false_margin: float,
    missed_margin: float,
    pair: Any,
    first: Any,
    second: Any,
    sign: Any,
    offset: Any,
) -> int:
    count = 0
    for k in range(len(lengths_a)):
        n, m = lengths_a[k], lengths_b[k]
        margin = 0.0
        for i in range(n):
            if best[k, i] == reference[k, i]:
                continue
            if best[k, i] >= 0:
                pair[count], first[count], second[count] = k, i, best[k, i]
                sign[count] = 1
                margin += false_margin
                count += 1
            if reference[k, i] >= 0:
                pair[count], first[count], second[count] = k, i, reference[k, i]
                sign[count] = -1
                margin += missed_margin
                count += 1
        saved = _gap_cost(reference, k, n, m, gap_open, gap_extend)
        offset[k] = margin + saved - _gap_cost(best, k, n, m, gap_open, gap_extend)
    return count


class PendingViolations:
    """Violations that threads are looking for; see `submit_violations`."""

    def __init__(self, parts: list[Future[Violations]], starts: list[int]) -> None:
        self._parts, self._starts = parts, starts

    def result(self) -> Violations:
        """Wait for them.

        Raises
        ------
        ValueError
            As `find_violations` does, and it says at which pair the part begins.
        """
        found = [part.result() for part in self._parts]
        return Violations(
            np.concatenate([v.pair + at for v, at in zip(found, self._starts, strict=True)]),
            *(
                np.concatenate([getattr(v, name) for v in found])
                for name in ("first", "second", "sign", "offset")
            ),
        )


def submit_violations(
    executor: Executor,
    parts: int,
    match: Scores | Callable[[], Scores],
    lengths_a: Integers,
    lengths_b: Integers,
    reference: Integers,
    gaps: GapPenalties | None = None,
    margins: Margins | None = None,
    temperature: float = 0.0,
) -> PendingViolations:
    """Have threads do what `find_violations` does, and go on.

    Parameters
    ----------
    executor : Executor
        Threads.
    parts : int
        Into how many parts of about as many cells to split the batch, at least 1; a part is at
        least one pair.
    match : ndarray or callable
        As for `find_violations`; or what returns it, called by every thread: it can wait for the
        scores to arrive from a device.
    lengths_a, lengths_b, reference, gaps, margins, temperature
        As for `find_violations`.

    Returns
    -------
    PendingViolations
        Its result is what `find_violations` returns, bit for bit.
    """
    lengths_a, lengths_b = np.asarray(lengths_a), np.asarray(lengths_b)
    starts, stops = _split(lengths_a.astype(np.int64) * lengths_b, parts)

    def part(start: int, stop: int) -> Violations:
        scores = match() if callable(match) else match
        rows = slice(start, stop)
        pairs = scores[rows], lengths_a[rows], lengths_b[rows], reference[rows]
        try:
            return find_violations(*pairs, gaps, margins, temperature)
        except ValueError as error:
            raise ValueError(f"of the pairs from number {start} on: {error}") from error

    jobs = [executor.submit(part, *ends) for ends in zip(starts, stops, strict=True)]
    return PendingViolations(jobs, starts)


def _split(cells: NDArray[np.int64], parts: int) -> tuple[list[int], list[int]]:
    """Split pairs, in their order, into parts of about as many cells; none is empty."""
    ends = np.cumsum(cells)
    goals = ends[-1] * np.arange(1, parts) / parts
    cuts = np.unique([0, *np.searchsorted(ends, goals), len(cells)]).tolist()
    return cuts[:-1], cuts[1:]
