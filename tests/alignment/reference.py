"""Alignment written as plainly as possible, to test the compiled kernels against."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def gotoh(match, gap_open=1.0, gap_extend=0.1, mode="global") -> float:
    """Best score with affine gaps, float64, three full tables."""
    match = np.asarray(match, dtype=np.float64)
    n, m = match.shape
    h = np.full((n + 1, m + 1), -np.inf)
    x, y = h.copy(), h.copy()
    h[0, 0] = 0
    for i in range(n + 1):
        for j in range(m + 1):
            if i:
                x[i, j] = max(h[i - 1, j] - gap_open, x[i - 1, j]) - gap_extend
            if j:
                y[i, j] = max(h[i, j - 1] - gap_open, y[i, j - 1]) - gap_extend
            if i or j:
                diagonal = h[i - 1, j - 1] + match[i - 1, j - 1] if i and j else -np.inf
                h[i, j] = max(diagonal, x[i, j], y[i, j])
            if mode == "local":
                h[i, j] = max(h[i, j], 0)
            if mode == "semiglobal" and (i == 0 or j == 0):
                h[i, j] = 0
    if mode == "global":
        return float(h[n, m])
    return float(h.max() if mode == "local" else max(h[n].max(), h[:, m].max()))


def all_alignments(n: int, m: int):
    """Every alignment of lengths n and m, as partners of a."""
    for k in range(min(n, m) + 1):
        for in_a in combinations(range(n), k):
            for in_b in combinations(range(m), k):
                partners = np.full(n, -1, dtype=np.int32)
                partners[list(in_a)] = in_b
                yield partners


def score(match, partners, m, gap_open=1.0, gap_extend=0.1, mode="global") -> float:
    """Score an alignment column by column, without any table: walk, count gaps, add up."""
    n, total, j = len(partners), 0.0, 0
    gap_a = gap_b = 0  # length of the gap that is open now: a against gaps, b against gaps
    aligned = sum(p >= 0 for p in partners)
    if mode != "global" and not aligned:
        return 0.0

    def close(length):
        return -(gap_open + gap_extend * length) if length else 0.0

    def both(length_a, length_b, at_end):
        if at_end and mode == "local":
            return 0.0
        if at_end and mode == "semiglobal":  # one of them hangs over, free
            return max(close(length_a), close(length_b))
        return close(length_a) + close(length_b)

    seen = 0
    for i in range(n):
        if partners[i] < 0:
            gap_a += 1
            continue
        gap_b = partners[i] - j
        total += both(gap_a, gap_b, seen == 0) + float(match[i][partners[i]])
        gap_a, j, seen = 0, partners[i] + 1, seen + 1
    return total + both(gap_a, m - j, True)


def margin(partners, reference, false=0.1, missed=0.05) -> float:
    """Margin of an alignment against a reference, pair by pair."""
    pairs = {(i, int(j)) for i, j in enumerate(partners) if j >= 0}
    wanted = {(i, int(j)) for i, j in enumerate(reference) if j >= 0}
    return false * len(pairs - wanted) + missed * len(wanted - pairs)


LOWEST = np.float32(-1e30)


def scalar(match, gaps, mode="global", reference=None, margins=(0.0, 0.0)):
    """Align one pair in float32, cell by cell in three full tables: score and partners.

    Every operation is rounded as the recurrence in `riboray.alignment.kernels` says, and ties are
    broken as it says, so that a compiled kernel must give the same bits.
    """
    gap_open, gap_extend, false, missed = map(np.float32, (*gaps, *margins))
    match = np.asarray(match, np.float32)
    n, m = match.shape
    h = np.zeros((n + 1, m + 1), np.float32)
    x, y = np.full_like(h, LOWEST), np.full_like(h, LOWEST)
    matched = np.zeros_like(h)
    if mode == "global":
        for table, length in ((h.T, n), (h, m)):
            for k in range(1, length + 1):
                table[0, k] = -gap_open - gap_extend * np.float32(k)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            x[i, j] = max(h[i - 1, j] - gap_open, x[i - 1, j]) - gap_extend
            y[i, j] = max(h[i, j - 1] - gap_open, y[i, j - 1]) - gap_extend
            matched[i, j] = h[i - 1, j - 1] + match[i - 1, j - 1] + false
            if reference is not None and reference[i - 1] == j - 1:
                matched[i, j] += -false - missed
            h[i, j] = max(matched[i, j], x[i, j], y[i, j])
            if mode == "local":
                h[i, j] = max(h[i, j], np.float32(0))
    i, j = _end(h, mode)
    score, partners, state = h[i, j], np.full(n, -1, np.int32), "h"
    while i > 0 and j > 0:
        if state == "h":
            if mode == "local" and h[i, j] == 0:
                break
            if matched[i, j] >= max(x[i, j], y[i, j]):
                i, j = i - 1, j - 1
                partners[i] = j
            else:
                state = "x" if x[i, j] >= y[i, j] else "y"
        elif state == "x":
            state = "x" if x[i - 1, j] > h[i - 1, j] - gap_open else "h"
            i -= 1
        else:
            state = "y" if y[i, j - 1] > h[i, j - 1] - gap_open else "h"
            j -= 1
    return score, partners


def _end(h, mode):
    """Where an alignment ends, as prefix lengths: the first of the best in the order of ties."""
    n, m = h.shape[0] - 1, h.shape[1] - 1
    if mode == "global":
        return n, m
    if mode == "semiglobal":
        ends = [(n, j) for j in range(m + 1)] + [(i, m) for i in range(n)]
    else:
        ends = [(i, j) for j in range(m + 1) for i in range(n + 1)]
    return max(ends, key=lambda end: h[end])
