"""Masked language modelling: which nucleotides are hidden, and as what.

The pattern of a sequence is a pure function of (seed, sequence id, pattern number). It does not
depend on the batch, on padding, on the number of workers, or on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riboray.alphabet import Vocabulary
from riboray.corpus.records import hash64
from riboray.errors import ConfigError

__all__ = ["IGNORE", "MaskingRule", "mask_batch", "sequence_keys"]

#: Label of a position that is no target.
IGNORE = 255


@dataclass(frozen=True, kw_only=True)
class MaskingRule:
    """RNABERT's rule: 15 % targets, of which 80 % masked, 10 % another nucleotide, 10 % kept."""

    fraction: float = 0.15
    """Share of a sequence's nucleotides that are prediction targets."""
    mask_share: float = 0.8
    """Share of targets replaced by ``<mask>``."""
    random_share: float = 0.1
    """Share of targets replaced by a different nucleotide; the rest stay."""
    patterns: int = 10
    """Mask patterns per sequence; epoch e uses pattern e mod ``patterns``."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"masking.fraction must be in (0, 1], not {self.fraction}")
        shares = (self.mask_share, self.random_share)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ConfigError(f"masking shares must be >= 0 and sum to at most 1, not {shares}")
        if self.patterns < 1:
            raise ConfigError(f"masking.patterns must be at least 1, not {self.patterns}")


def sequence_keys(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Hash sequence ids to the keys that `mask_batch` takes; shape (n,)."""
    return np.array([hash64(name) for name in ids], dtype=np.uint64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers (SplitMix64's finaliser; Steele, Lea & Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _uniform(value: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map 64-bit integers to [0, 1)."""
    return (value >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mask_batch(
    ids: NDArray[np.uint8],
    keys: NDArray[np.uint64],
    pattern: int,
    seed: int,
    vocabulary: Vocabulary,
    rule: MaskingRule | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Hide nucleotides of a batch.

    Parameters
    ----------
    ids : ndarray, shape=(n, width), dtype=uint8
        Token ids, padded.
    keys : ndarray, shape=(n,), dtype=uint64
        One key a sequence, from `sequence_keys`.
    pattern : int
        Which of a sequence's patterns: epoch mod ``rule.patterns``.
    seed : int
        Seed of the run.
    vocabulary : Vocabulary
        The vocabulary of ``ids``.
    rule : MaskingRule, optional
        RNABERT's by default.

    Returns
    -------
    input_ids : ndarray, shape=(n, width), dtype=uint8
        What the model sees.
    labels : ndarray, shape=(n, width), dtype=uint8
        The original token at targets, `IGNORE` elsewhere.

    Notes
    -----
    Only A, C, G and U are targets, never padding, special tokens or ambiguity codes. A sequence
    with m of them has ``0.15 m`` targets, rounded up or down at random so that the mean is exact,
    and at least one.
    """
    rule = rule or MaskingRule()
    width = ids.shape[1]
    # Index into ACGU of every token; 4 where it is none of them.
    index_of = np.full(256, 4, dtype=np.uint8)
    index_of[vocabulary.nucleotide_ids] = np.arange(4, dtype=np.uint8)
    nucleotide = index_of[ids]
    eligible = nucleotide < 4

    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        salt = np.array([seed & 0xFFFFFFFFFFFFFFFF, pattern], dtype=np.uint64)
        base = _mix(keys ^ _mix(salt[:1] * golden + salt[1:] + golden))
        positions = np.arange(1, width + 1, dtype=np.uint64) * golden
        order = _mix(base[:, None] + positions)
        action = _mix(order ^ golden)
        choice = _mix(action ^ golden)
        rounding = _uniform(_mix(base ^ golden))

    # The targets are the positions with the smallest hashes.
    counts = eligible.sum(axis=1)
    targets = np.floor(rule.fraction * counts + rounding).astype(np.int64)
    targets = np.minimum(np.maximum(targets, 1), counts)
    order = np.where(eligible, order, np.uint64(0xFFFFFFFFFFFFFFFF))
    ranked = np.sort(order, axis=1)
    last = np.take_along_axis(ranked, np.maximum(targets - 1, 0)[:, None], axis=1)
    target = eligible & (order <= last) & (targets > 0)[:, None]

    uniform = _uniform(action)
    masked = target & (uniform < rule.mask_share)
    changed = target & ~masked & (uniform < rule.mask_share + rule.random_share)
    # One of the three other nucleotides, each with the same chance.
    other = (nucleotide + 1 + (_uniform(choice) * 3).astype(np.uint8)) % 4
    input_ids = ids.copy()
    input_ids[masked] = vocabulary.mask_id
    input_ids[changed] = vocabulary.nucleotide_ids[other[changed]]
    return input_ids, np.where(target, ids, np.uint8(IGNORE))
