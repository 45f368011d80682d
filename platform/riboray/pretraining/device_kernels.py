"""The alignment that structural alignment learning needs, as a kernel for a GPU.

Triton comes with PyTorch's builds for GPUs and with no other: import this module where it is there.
Shapes: n pairs of RNAs, padded to width_a and width_b.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["align_kernel"]

#: Bits of a cell's code: the best alignment that ends here ends with nucleotides of b alone; else
#: with a pair, not with nucleotides of a alone. Then whether either gap, if it is one, begins here.
_ACROSS = tl.constexpr(1)
_PAIRED = tl.constexpr(2)
_OPENS_UP = tl.constexpr(4)
_OPENS_ACROSS = tl.constexpr(8)

#: Where a traceback is: anywhere; before a gap in a; within a gap in b; within a gap in a.
_ANY = tl.constexpr(0)
_INNER = tl.constexpr(1)
_UP = tl.constexpr(2)
_LEFT = tl.constexpr(3)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _fill(
    match,
    reference,
    trace,
    n,
    m,
    width_b,
    gap_open,
    gap_extend,
    false_margin,
    missed_margin,
    BLOCK: tl.constexpr,
):
    """Fill the table row by row, a lane for every nucleotide of b."""
    lane = tl.arange(0, BLOCK)
    before_lane = tl.maximum(lane - 1, 0)
    is_first = lane == 0
    first_symbol = gap_open + gap_extend
    ramp = gap_extend * lane.to(tl.float32)
    best = -(first_symbol + ramp)  # nothing of a, lane + 1 of b
    upward = tl.full((BLOCK,), float("-inf"), tl.float32)
    corner = gap_open * 0.0  # the best of nothing of b, a row before
    for i in range(n):
        score = tl.load(match + i * width_b + lane, mask=lane < m, other=-1.0e4)
        partner = tl.load(reference + i)
        score += tl.where(lane == partner, -missed_margin, false_margin)
        paired = tl.where(is_first, corner, tl.gather(best, before_lane, 0)) + score
        opened, longer = best - first_symbol, upward - gap_extend
        upward = tl.maximum(opened, longer)
        inner = tl.maximum(paired, upward)
        # A gap from any lane k < l on costs open + extend (l - k): a running maximum of
        # inner[k] + extend k does all of them at once. In front of lane 0 there is nothing of b.
        edge = -(gap_open + gap_extend * (i + 1))
        rising = inner + ramp
        highest = tl.associative_scan(rising, 0, _larger)
        last = tl.where(is_first, edge - gap_extend, tl.gather(rising, before_lane, 0))
        highest = tl.where(is_first, edge - gap_extend, tl.gather(highest, before_lane, 0))
        highest = tl.maximum(highest, edge - gap_extend)
        across = highest - gap_open - ramp
        code = tl.where(across > inner, _ACROSS, 0) + tl.where(paired >= upward, _PAIRED, 0)
        code += tl.where(opened >= longer, _OPENS_UP, 0)
        code += tl.where(last >= highest, _OPENS_ACROSS, 0)
        tl.store(trace + i * BLOCK + lane, code.to(tl.uint8))
        best = tl.maximum(inner, across)
        corner = edge


# One compiled form for all widths: every other takes a third of a second when it comes up.
@triton.jit(do_not_specialize=["width_a", "width_b"])
def align_kernel(
    match,
    lengths_a,
    lengths_b,
    reference,
    trace,
    partners,
    width_a,
    width_b,
    gap_open,
    gap_extend,
    false_margin,
    missed_margin,
    BLOCK: tl.constexpr,
):
    """Align one pair of RNAs a program, globally; see `device_alignment.best_partners`.

    ``match`` (n, width_a, width_b) float32; ``lengths_a``, ``lengths_b`` (n,) and ``reference``,
    ``partners`` (n, width_a) int32, the last filled with -1; ``trace`` (n, width_a, BLOCK) uint8,
    whose contents do not matter. BLOCK: a power of two, at least width_b.
    """
    pair = tl.program_id(0).to(tl.int64)
    n, m = tl.load(lengths_a + pair), tl.load(lengths_b + pair)
    match += pair * width_a * width_b
    reference += pair * width_a
    partners += pair * width_a
    trace += pair * width_a * BLOCK
    _fill(
        *(match, reference, trace, n, m, width_b),
        *(gap_open, gap_extend, false_margin, missed_margin, BLOCK),
    )
    tl.debug_barrier()  # what other threads of this program have stored is there to be loaded
    i, j, state = n - 1, m - 1, n * 0
    while (i >= 0) & (j >= 0):
        code = tl.load(trace + i * BLOCK + j).to(tl.int32)
        left = (state == _LEFT) | ((state == _ANY) & ((code & _ACROSS) != 0))
        up = (left == 0) & ((state == _UP) | ((code & _PAIRED) == 0))
        tl.store(partners + i, j, mask=(left == 0) & (up == 0))
        after_left = tl.where((code & _OPENS_ACROSS) != 0, _INNER, _LEFT)
        after_up = tl.where((code & _OPENS_UP) != 0, _ANY, _UP)
        state = tl.where(left, after_left, tl.where(up, after_up, _ANY))
        i -= tl.where(left, 0, 1)
        j -= tl.where(up, 0, 1)
