"""Alignments as data: penalties, partners, gapped strings, counts. No dynamic programme here.

An alignment of sequences a and b is stored as *partners*: for each position of a the 0-based
position of b in the same column, or -1 where a stands against a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riboray.errors import ConfigError

__all__ = [
    "SCALE",
    "AlignedColumns",
    "GapPenalties",
    "Margins",
    "Mode",
    "aligned_columns",
    "check_mode",
    "count_aligned",
    "gap_costs",
    "gapped_strings",
    "whole_penalties",
]

Mode = Literal["global", "semiglobal", "local"]
"""Global: both sequences from end to end. Semi-global: gaps at the ends of either sequence are free
(overlaps and one inside the other). Local: the best-scoring stretch of each."""

#: Steps per unit of score in int16: 1.0, 0.1, and the training margins 0.1 and 0.05 are whole.
SCALE = 60

GAPS = "-."
_GAP_BYTES = np.frombuffer(GAPS.encode(), dtype=np.uint8)


@dataclass(frozen=True)
class GapPenalties:
    """Affine gap penalties: a gap of k symbols costs ``open + extend * k``, ends included."""

    open: float = 1.0
    """Cost of a gap, whatever its length. RNABERT: 1.0."""
    extend: float = 0.1
    """Cost of each gap symbol. RNABERT: 0.1."""

    def __post_init__(self) -> None:
        if not (0 <= self.open < np.inf and 0 <= self.extend < np.inf):
            raise ConfigError(f"gap penalties must be finite and not negative, not {self}")


@dataclass(frozen=True)
class Margins:
    """Loss augmentation of structural alignment learning (RNABERT's margins)."""

    false: float = 0.1
    """Added for each aligned pair that the reference does not align."""
    missed: float = 0.05
    """Added for each aligned pair of the reference that is missed."""

    def __post_init__(self) -> None:
        if not (0 <= self.false < np.inf and 0 <= self.missed < np.inf):
            raise ConfigError(f"margins must be finite and not negative, not {self}")


def whole_penalties(gaps: GapPenalties, scale: int) -> tuple[int, int]:
    """Express penalties in steps of 1/scale, exactly.

    Raises
    ------
    ConfigError
        If one is no multiple of a step.
    """
    steps = []
    for name in ("open", "extend"):
        step = getattr(gaps, name) * scale
        if abs(step - round(step)) > 1e-6:
            raise ConfigError(
                f"gaps.{name}={getattr(gaps, name)} is no multiple of 1/{scale}: int16 arithmetic "
                "cannot hold it; use float32"
            )
        steps.append(round(step))
    return steps[0], steps[1]


def check_mode(mode: str) -> None:
    """Refuse anything that is no `Mode`.

    Raises
    ------
    ConfigError
        With the modes there are.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"unknown alignment mode {mode!r}; known are {', '.join(get_args(Mode))}")


def _gap_cost(lengths: NDArray[np.integer], gaps: GapPenalties) -> NDArray[np.float64]:
    """Cost of gaps of these lengths; none for length 0."""
    return np.where(lengths > 0, gaps.open + gaps.extend * lengths, 0.0)


def gap_costs(
    partners: NDArray[np.integer],
    lengths_a: NDArray[np.integer],
    lengths_b: NDArray[np.integer],
    gaps: GapPenalties | None = None,
    mode: Mode = "global",
) -> NDArray[np.float64]:
    """Sum the gap penalties of alignments.

    Parameters
    ----------
    partners : ndarray, shape=(n, width_a), dtype=integer
        Alignments; each row's partners must increase.
    lengths_a, lengths_b : ndarray, shape=(n,), dtype=integer
        Lengths of the sequences.
    gaps : GapPenalties, optional
        RNABERT's by default.
    mode : Mode
        Whether gaps at the ends count: in global alignments only.

    Returns
    -------
    ndarray, shape=(n,), dtype=float64
        Total cost. Written without the dynamic programme: it re-scores what
        the kernel found.
    """
    gaps = gaps or GapPenalties()
    costs = np.empty(len(partners), dtype=np.float64)
    for pair, (row, n, m) in enumerate(zip(partners, lengths_a, lengths_b, strict=True)):
        in_a = np.flatnonzero(row[:n] >= 0)
        # Unaligned stretches before, between and after the aligned columns.
        skipped_a = np.diff(in_a, prepend=-1, append=n) - 1
        skipped_b = np.diff(row[in_a], prepend=-1, append=m) - 1
        each_a, each_b = _gap_cost(skipped_a, gaps), _gap_cost(skipped_b, gaps)
        costs[pair] = each_a.sum() + each_b.sum()
        if mode == "global":
            continue
        for end in {0, len(skipped_a) - 1}:
            costs[pair] -= each_a[end] + each_b[end]
            if mode == "semiglobal" and len(in_a) > 0:
                # Only one sequence can hang over at an end; where both do, one is a gap.
                costs[pair] += min(each_a[end], each_b[end])
    return costs


@dataclass(frozen=True)
class AlignedColumns:
    """Two gapped strings taken apart.

    Attributes
    ----------
    sequence_a, sequence_b : str
        The sequences without gaps.
    partners : ndarray, shape=(len(sequence_a),), dtype=int32
        Partner in b of each position of a, or -1.
    """

    sequence_a: str
    sequence_b: str
    partners: NDArray[np.int32]


def aligned_columns(gapped_a: str, gapped_b: str) -> AlignedColumns:
    """Read an alignment given as two gapped strings (gap symbols ``-`` and ``.``).

    Raises
    ------
    ValueError
        If the strings differ in length.
    """
    if len(gapped_a) != len(gapped_b):
        raise ValueError(f"aligned rows differ in length: {len(gapped_a)} and {len(gapped_b)}")
    in_a, in_b = (
        ~np.isin(np.frombuffer(row.encode(), np.uint8), _GAP_BYTES) for row in (gapped_a, gapped_b)
    )
    partners = np.where(in_b, np.cumsum(in_b) - 1, -1)[in_a].astype(np.int32)
    strip = str.maketrans("", "", GAPS)
    return AlignedColumns(gapped_a.translate(strip), gapped_b.translate(strip), partners)


def gapped_strings(
    sequence_a: str, sequence_b: str, partners: NDArray[np.integer]
) -> tuple[str, str]:
    """Write an alignment as two gapped strings; between matches, gaps in b come first."""
    row_a: list[str] = []
    row_b: list[str] = []
    position_b = 0
    for symbol, partner in zip(sequence_a, partners[: len(sequence_a)].tolist(), strict=True):
        if partner >= 0:
            row_a.append("-" * (partner - position_b) + symbol)
            row_b.append(sequence_b[position_b : partner + 1])
            position_b = partner + 1
        else:
            row_a.append(symbol)
            row_b.append("-")
    row_a.append("-" * (len(sequence_b) - position_b))
    row_b.append(sequence_b[position_b:])
    return "".join(row_a), "".join(row_b)


def count_aligned(
    predicted: NDArray[np.integer], reference: NDArray[np.integer]
) -> tuple[int, int, int]:
    """Count aligned pairs: in common, predicted, and in the reference.

    Returns
    -------
    tuple of int
        True positives, predicted pairs, reference pairs. Sensitivity is the first over the third,
        PPV the first over the second, F1 twice the first over the sum of both.
    """
    common = int(((predicted == reference) & (reference >= 0)).sum())
    return common, int((predicted >= 0).sum()), int((reference >= 0).sum())
