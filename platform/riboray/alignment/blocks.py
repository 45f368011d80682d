"""One query against blocks of targets in lockstep: the engine of all-pairs alignment and search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.columns import SCALE, GapPenalties, Mode, check_mode, whole_penalties
from riboray.alignment.kernels import LOWEST
from riboray.alignment.lockstep import LANES, STEP, align_lanes, interleave, walk_lanes
from riboray.alignment.longpairs import align_embeddings
from riboray.alignment.similarity import SequenceSet
from riboray.errors import ConfigError

__all__ = ["Arithmetic", "BlockAligner", "TargetBlock", "quantisation_error", "target_blocks"]

Arithmetic = Literal["float32", "int16"]

#: Bytes of interleaved targets, or of traceback, beyond which pairs are aligned one by one.
_WORKSPACE = 128 << 20

_LOWEST_INT16 = np.int16(-16000)
_LARGEST = 32_000


@dataclass(frozen=True)
class TargetBlock:
    """Up to `LANES` targets of similar length, in as many lanes, up to a multiple of `STEP`.

    Attributes
    ----------
    members : ndarray, shape=(k,), dtype=int64
        Which sequences of the set they are.
    lengths : ndarray, shape=(lanes,), dtype=int32
        Their lengths; 0 beyond the k-th.
    targets : ndarray, shape=(longest, d, lanes), dtype=float32, or None
        Their embeddings, interleaved; None where that would take too much memory.
    source : SequenceSet
        The set they are taken from.
    """

    members: NDArray[np.int64]
    lengths: NDArray[np.int32]
    targets: NDArray[np.float32] | None
    source: SequenceSet


def target_blocks(
    source: SequenceSet, members: NDArray[np.integer], lanes: int = LANES
) -> Iterator[TargetBlock]:
    """Cut members of a set into blocks, in the order given; sorted by length wastes least.

    Parameters
    ----------
    source : SequenceSet
        The set.
    members : ndarray, shape=(k,)
        Members of it.
    lanes : int
        Members of a block: a multiple of `STEP`, at most `LANES`. The fewer, the less time goes by
        with lanes whose targets are shorter than the longest.
    """
    sizes = source.lengths
    width = source.embeddings.shape[1]
    for start in range(0, len(members), lanes):
        chosen = np.asarray(members[start : start + lanes], dtype=np.int64)
        room = -(-len(chosen) // STEP) * STEP
        lengths = np.zeros(room, np.int32)
        lengths[: len(chosen)] = sizes[chosen]
        longest, targets = int(lengths.max()), None
        if longest * width * room * 4 <= _WORKSPACE:
            targets = np.empty((longest, width, room), np.float32)
            interleave(source.embeddings, source.starts[chosen], sizes[chosen], targets)
        yield TargetBlock(chosen, lengths, targets, source)


def quantisation_error(lengths: NDArray[np.integer]) -> NDArray[np.float64]:
    """Bound the error of a score in int16 arithmetic.

    Parameters
    ----------
    lengths : ndarray, dtype=integer
        Length of the shorter sequence of each pair.

    Returns
    -------
    ndarray, dtype=float64
        Each aligned pair is rounded by at most half a step of 1/60; no alignment has more aligned
        pairs than the shorter sequence has bases; gap penalties are exact. So neither the
        best score nor the score of any alignment is off by more than ``length / 120``. (The
        roundings mostly cancel: typical errors at 150 nt are 0.05.)
    """
    return np.asarray(lengths) * (0.5 / SCALE) + 1e-3


class BlockAligner:
    """Aligns queries with blocks of targets.

    Parameters
    ----------
    gaps : GapPenalties, optional
        RNABERT's 1.0 + 0.1·k by default.
    mode : Mode
        Global, semi-global or local.
    arithmetic : Arithmetic
        For `scores` only. ``float32`` is exact; ``int16`` is faster and off by at most
        `quantisation_error`. Alignments are always made in float32.

    Raises
    ------
    ConfigError
        With int16, if a gap penalty is no multiple of 1/60.
    """

    def __init__(
        self,
        gaps: GapPenalties | None = None,
        mode: Mode = "global",
        arithmetic: Arithmetic = "float32",
    ) -> None:
        check_mode(mode)
        self.gaps = gaps or GapPenalties()
        self.mode = mode
        self.arithmetic = arithmetic
        self._trace = np.empty(0, np.uint8)
        if arithmetic not in ("float32", "int16"):
            raise ConfigError(f"unknown arithmetic {arithmetic!r}; known are float32, int16")
        self._steps = whole_penalties(self.gaps, SCALE) if arithmetic == "int16" else (0, 0)

    def scores(self, query: NDArray[np.float32], block: TargetBlock) -> NDArray[np.float32]:
        """Score a query, shape (n, d), against a block; shape (k,), in the order of its members."""
        if block.targets is None:
            return np.array([self._alone(query, block, k, False)[0] for k in _each(block)], "f")
        if self.arithmetic == "int16" and self._fits_int16(len(query), len(block.targets)):
            scores = self._run(query * np.float32(SCALE), block, np.int16, None)[0]
            return scores[: len(block.members)].astype(np.float32) / np.float32(SCALE)
        return self._run(query, block, np.float32, None)[0][: len(block.members)]

    def alignments(
        self, query: NDArray[np.float32], block: TargetBlock
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Align a query with a block.

        Returns
        -------
        scores : ndarray, shape=(k,), dtype=float32
            Scores, in the order of the block's members.
        partners : ndarray, shape=(k, n), dtype=int32
            Partner in the target of each position of the query, -1 for none.
        """
        n, k = len(query), len(block.members)
        shape = (int(block.lengths.max()), n, len(block.lengths))
        size = int(np.prod(shape))
        if block.targets is None or size > _WORKSPACE:
            results = [self._alone(query, block, lane, True) for lane in _each(block)]
            partners = np.array([p for _, p in results], np.int32).reshape(k, n)
            return np.array([s for s, _ in results], np.float32), partners
        if self._trace.size < size:
            self._trace = np.empty(size, np.uint8)
        trace = self._trace[:size].reshape(shape)
        scores, ends = self._run(query, block, np.float32, trace)
        partners = np.empty((len(block.lengths), n), np.int32)
        walk_lanes(trace, block.lengths, ends, partners)
        return scores[:k], partners[:k]

    def _alone(
        self, query: NDArray[np.float32], block: TargetBlock, lane: int, traceback: bool
    ) -> tuple[float, NDArray[np.int32] | None]:
        target = block.source[int(block.members[lane])]
        return align_embeddings(query, target, self.gaps, self.mode, traceback=traceback)

    def _fits_int16(self, n: int, m: int) -> bool:
        """Whether no partial score of these lengths leaves the range of int16."""
        lowest = 4 * self.gaps.open + self.gaps.extend * (n + m) + 1.0
        return bool(SCALE * lowest < -int(_LOWEST_INT16) and SCALE * (min(n, m) + 1) < _LARGEST)

    def _run(
        self,
        query: NDArray[np.float32],
        block: TargetBlock,
        kind: type[np.float32] | type[np.int16],
        trace: NDArray[np.uint8] | None,
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        whole = kind is np.int16
        lanes = len(block.lengths)
        scores, ends = np.empty(lanes, kind), np.empty((2, lanes), np.int32)
        penalties = self._steps if whole else (self.gaps.open, self.gaps.extend)
        gap_open, gap_extend = (kind(value) for value in penalties)
        product = np.empty((len(query), lanes), np.float32)
        align_lanes(
            query,
            block.targets,
            block.lengths,
            gap_open,
            gap_extend,
            _LOWEST_INT16 if whole else LOWEST,
            self.mode != "global",
            0 if self.mode == "local" else None,
            product,
            np.empty((len(query), lanes), np.int16) if whole else product,
            trace,
            scores,
            ends,
        )
        return scores, ends


def _each(block: TargetBlock) -> range:
    return range(len(block.members))
