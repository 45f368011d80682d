"""Two sequences of any length in little memory.

A full traceback of two RNAs of 10,000 nt would take 100 MB and their similarities 400 MB. Here rows
are filled in blocks of `BLOCK`. On the way down only the state between blocks is kept; on the way
back each block is filled once more, with its traceback, and walked. Memory is about
``BLOCK * 5 * m + (n / BLOCK) * 8 * m`` bytes, 13 MB for 10,000 × 10,000 nt, for at most twice the
time; and the result is, bit for bit, that of one block, ties included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.columns import GapPenalties, Mode, check_mode
from riboray.alignment.kernels import DONE, fill_rows, finish, start_row, walk

__all__ = ["BLOCK", "align_embeddings"]

#: Rows of a block.
BLOCK = 128

#: Cells up to which a pair is one block: 5 MB.
_SMALL = 1 << 20


class _Table:
    """The dynamic programme of one pair, block by block."""

    def __init__(
        self,
        query: NDArray[np.float32],
        target: NDArray[np.float32],
        gaps: GapPenalties,
        mode: Mode,
        rows: int,
    ) -> None:
        self.rows = rows
        self.query, self.target = query, target
        self.gaps = np.float32(gaps.open), np.float32(gaps.extend)
        self.free = mode != "global"
        self.local = 0 if mode == "local" else None
        width = len(target) + 1
        self.h, self.x = np.empty(width, np.float32), np.empty(width, np.float32)
        start_row(self.h, self.x, *self.gaps, self.free)

    def fill(
        self,
        start: int,
        trace: NDArray[np.uint8] | None,
        best: NDArray[np.float32],
        end: NDArray[np.int64],
    ) -> None:
        """Fill the block after row ``start`` from the state in ``h`` and ``x``."""
        match = self.query[start : start + self.rows] @ self.target.T
        fill_rows(
            match,
            start,
            *self.gaps,
            self.free,
            self.local,
            None,
            np.float32(0),
            np.float32(0),
            trace,
            self.h,
            self.x,
            best,
            end,
        )


def align_embeddings(
    query: NDArray[np.float32],
    target: NDArray[np.float32],
    gaps: GapPenalties | None = None,
    mode: Mode = "global",
    *,
    traceback: bool = True,
) -> tuple[float, NDArray[np.int32] | None]:
    """Align two sequences by their base embeddings, in memory linear in the longer one's length.

    Parameters
    ----------
    query, target : ndarray, shapes=(n, d) and (m, d), dtype=float32
        Rows of unit length (see `riboray.alignment.similarity.unit_rows`).
    gaps : GapPenalties, optional
        RNABERT's 1.0 + 0.1·k by default.
    mode : Mode
        Global, semi-global or local.
    traceback : bool
        Whether to find the alignment too, which can take twice the time.

    Returns
    -------
    score : float
        Its score, in float32 arithmetic.
    partners : ndarray, shape=(n,), dtype=int32, or None
        Partner in the target of each position of the query, -1 for none.

    Raises
    ------
    ValueError
        If a sequence is empty or an embedding is not finite.
    """
    check_mode(mode)
    for name, embeddings in (("query", query), ("target", target)):
        if len(embeddings) < 1:
            raise ValueError(f"the {name} has length 0; there is nothing to align")
        if not np.isfinite(embeddings).all():
            raise ValueError(f"an embedding of the {name} is NaN or infinite")
    n, m = len(query), len(target)
    rows = BLOCK if n > BLOCK and n * m > _SMALL else n
    table = _Table(query, target, gaps or GapPenalties(), mode, rows)
    best, end = np.zeros(1, np.float32), np.array([0, m], np.int64)
    states: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    # One block keeps its traceback; of several, each is filled again on the way back.
    trace = np.empty((rows, m), np.uint8) if traceback else None
    for start in range(0, n, rows):
        if rows < n and traceback:
            states.append((table.h.copy(), table.x.copy()))
        table.fill(start, trace if rows == n else None, best, end)
    finish(table.h, n, table.free, table.local, best, end)
    if trace is None:
        return float(best[0]), None
    partners = np.full(n, -1, np.int32)
    i, j, state = int(end[0]), int(end[1]), 0
    while i > 0 and state != DONE:
        block = (i - 1) // rows
        if states:
            table.h, table.x = states[block]
            table.fill(block * rows, trace, np.zeros(1, np.float32), np.zeros(2, np.int64))
        i, j, state = walk(trace, block * rows, i, j, state, partners)
    return float(best[0]), partners
