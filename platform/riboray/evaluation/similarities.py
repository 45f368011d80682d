"""How alike sequences are, all with all: the arithmetic, without a model.

Every function makes a symmetric matrix of shape (n, n) in float32. What else is in memory at once
is a block of targets, however many sequences there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.blocks import BlockAligner, target_blocks
from riboray.alignment.columns import GapPenalties, Mode
from riboray.alignment.kmers import KmerWeights, count_kmers
from riboray.alignment.similarity import SequenceSet
from riboray.errors import ConfigError

__all__ = [
    "SOFT_ALIGN_SCALE",
    "alignment_scores",
    "cosines",
    "kmer_cosines",
    "nucleotide_rows",
    "per_length",
    "rare_kmer_cosines",
    "soft_alignment_scores",
    "whitened_cosines",
]

#: RNABERT multiplies cosines by it before the softmax. The paper does not give it; the authors'
#: code does (``s = 1.3 * match_score``).
SOFT_ALIGN_SCALE = 1.3

#: Longest k-mers counted; of longer ones no two RNAs of this size share many.
_LONGEST_KMER = 8

#: Of the largest spread; weaker directions are noise.
_WEAKEST = 1e-3

#: Rows that it takes to tell a direction.
_ROWS_A_DIRECTION = 4

#: Targets that one query is compared with at once in soft alignment, for all to stay in the caches.
_SOFT_TARGETS = 16

Lengths = Literal["shorter", "mean", "geometric", "longer"]
Matrix = NDArray[np.float32]


def cosines(rows: NDArray[np.floating], *, centred: bool = False) -> Matrix:
    """Return the cosines of all pairs of rows.

    Parameters
    ----------
    rows : ndarray, shape=(n, d), dtype=floating
        Pooled embeddings, for example. A row of zeros is alike to none.
    centred : bool
        Whether the mean of all rows is subtracted first: what all have in common tells none apart.

    Returns
    -------
    ndarray, shape=(n, n), dtype=float32
    """
    values = np.asarray(rows, np.float64)
    if centred:
        values = values - values.mean(axis=0)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    found: Matrix = (unit @ unit.T).astype(np.float32)
    return found


def whitened_cosines(rows: NDArray[np.floating]) -> Matrix:
    """Return cosines after making the principal directions of the set count the same.

    Parameters
    ----------
    rows : ndarray, shape=(n, d), dtype=floating
        Pooled embeddings.

    Returns
    -------
    ndarray, shape=(n, n), dtype=float32
        Of the n/4 leading directions at most: with as many as there are rows, all rows would be
        equally far from each other. Without any spread, all cosines are 0.
    """
    values = np.asarray(rows, np.float64)
    left, spread, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    strong = spread > max(spread[0] * _WEAKEST, 1e-10)
    return cosines(left[:, strong][:, : max(len(values) // _ROWS_A_DIRECTION, 1)])


def kmer_cosines(sequences: Sequence[str], k: int) -> Matrix:
    """Return the cosines of k-mer counts, the usual similarity without alignment.

    Parameters
    ----------
    sequences : sequence of str
        RNA; k-mers with an ambiguity code do not count.
    k : int
        Length of the k-mers, 1 to 8.

    Returns
    -------
    ndarray, shape=(n, n), dtype=float32
        0 where a sequence has no k-mer at all.

    Raises
    ------
    ConfigError
        If k is out of range.
    """
    if not 1 <= k <= _LONGEST_KMER:
        raise ConfigError(f"k must lie between 1 and {_LONGEST_KMER}, not {k}")
    counts = count_kmers(sequences, k, how_often=True).astype(np.float64)
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    products = (counts @ counts.T).toarray()
    found: Matrix = (products / np.maximum(np.outer(norms, norms), 1e-12)).astype(np.float32)
    return found


def rare_kmer_cosines(sequences: Sequence[str], k: int = 6) -> Matrix:
    """Return the cosines of which k-mers occur, the rare ones counting more: search's prefilter.

    See `riboray.alignment.kmers.KmerWeights`; rarity is that in ``sequences``.
    """
    vectors = KmerWeights.fit(sequences, k).vectors(sequences)
    products: Matrix = (vectors @ vectors.T).toarray().astype(np.float32)
    return products


def nucleotide_rows(sequences: Sequence[str]) -> list[Matrix]:
    """Turn nucleotides into rows whose products are 1 for equal ones and 0 for others.

    Returns
    -------
    list of ndarray, shape=(length, 4), dtype=float32
        Rows of zeros for ambiguity codes.
    """
    table = np.zeros((256, 4), np.float32)
    table[np.frombuffer(b"ACGU", np.uint8)] = np.eye(4, dtype=np.float32)
    return [table[np.frombuffer(sequence.encode(), np.uint8)] for sequence in sequences]


def alignment_scores(
    rows: Sequence[Matrix],
    *,
    gaps: GapPenalties | None = None,
    mode: Mode = "global",
    offset: float = 0.0,
) -> Matrix:
    """Score the best alignments of all pairs.

    Parameters
    ----------
    rows : sequence of ndarray, shape=(length, d), dtype=float32
        A row a base; the product of two rows is their match score.
    gaps : GapPenalties, optional
        RNABERT's 1.0 + 0.1·k by default.
    mode : Mode
        Global, semi-global or local.
    offset : float
        Subtracted from every match score; not negative.

    Returns
    -------
    ndarray, shape=(n, n), dtype=float32
        Symmetric; the diagonal holds the score of each sequence with itself.
    """
    if offset < 0:
        raise ConfigError(f"offset must not be negative, not {offset}")
    ours, theirs = list(rows), list(rows)
    if offset:
        # One more dimension, whose product is -offset, leaves the kernels as they are.
        ours, theirs = ([_widened(r, sign * offset**0.5) for r in rows] for sign in (1.0, -1.0))
    order = np.argsort([-len(r) for r in rows], kind="stable")
    starts = np.cumsum([0, *(len(rows[k]) for k in order)], dtype=np.int64)
    targets = SequenceSet(np.concatenate([theirs[k] for k in order]), starts)
    aligner, count = BlockAligner(gaps, mode), len(rows)
    scores = np.zeros((count, count), np.float32)
    for block in target_blocks(targets, np.arange(count)):
        members = order[block.members]
        for place in range(int(block.members[-1]) + 1):  # each pair once, the longer as the query
            query = order[place]
            found = aligner.scores(np.ascontiguousarray(ours[query]), block)
            later = block.members >= place
            scores[query, members[later]] = scores[members[later], query] = found[later]
    return scores


def _widened(rows: Matrix, value: float) -> Matrix:
    return np.concatenate([rows, np.full((len(rows), 1), value, np.float32)], axis=1)


def per_length(scores: Matrix, lengths: Sequence[int], by: Lengths = "shorter") -> Matrix:
    """Divide scores of pairs by a length, so that they can be compared.

    Parameters
    ----------
    scores : ndarray, shape=(n, n), dtype=float32
        From `alignment_scores`.
    lengths : sequence of int
        Of the n sequences.
    by : {"shorter", "mean", "geometric", "longer"}
        Which of the two lengths, or which mean of them. Where a base matches itself with 1, the
        geometric mean is the same as dividing by the geometric mean of the scores that both
        sequences have with themselves.
    """
    sizes = np.asarray(lengths, np.float32)
    combine: dict[str, Callable[[], NDArray[np.floating]]] = {
        "shorter": lambda: np.minimum.outer(sizes, sizes),
        "mean": lambda: np.add.outer(sizes, sizes) * np.float32(0.5),
        "geometric": lambda: np.sqrt(np.outer(sizes, sizes)),
        "longer": lambda: np.maximum.outer(sizes, sizes),
    }
    if by not in combine:
        raise ConfigError(f"unknown length {by!r}; known are {', '.join(combine)}")
    return (scores / combine[by]()).astype(np.float32)


def soft_alignment_scores(rows: Sequence[Matrix], scale: float = SOFT_ALIGN_SCALE) -> Matrix:
    """Compare by RNABERT's soft alignment, after Bepler & Berger (2019, arXiv:1902.08661).

    With ``s = scale * cosine`` of all bases of one with all of the other, ``a`` the softmax of each
    row, ``b`` that of each column and ``c = a + b - a * b``, it is ``sum(c * s) / sum(c)``.

    Parameters
    ----------
    rows : sequence of ndarray, shape=(length, d), dtype=float32
        Unit rows, a row a base.
    scale : float
        RNABERT's 1.3 by default.

    Returns
    -------
    ndarray, shape=(n, n), dtype=float32
        Symmetric.
    """
    count = len(rows)
    scores = np.empty((count, count), np.float32)
    for start in range(0, count, _SOFT_TARGETS):
        part = rows[start : start + _SOFT_TARGETS]
        here = slice(start, start + len(part))
        sizes = np.array([len(r) for r in part])
        edges = np.cumsum(sizes) - sizes
        targets = np.concatenate(part).T
        for query, ours in enumerate(rows[: here.stop]):
            s = np.float32(scale) * (ours @ targets)
            # Cosines are bounded, and so is the scale: nothing to subtract before exp.
            a = np.exp(s)
            b = a / a.sum(axis=0)
            a /= np.repeat(np.add.reduceat(a, edges, axis=1), sizes, axis=1)
            c = a + b - a * b
            weights = np.add.reduceat(c.sum(axis=0, dtype=np.float64), edges)
            c *= s
            weighted = np.add.reduceat(c.sum(axis=0, dtype=np.float64), edges)
            scores[query, here] = scores[here, query] = weighted / weights
    return scores
