"""Candidates by shared k-mers.

k-mers are weighted by rarity, as words are in text retrieval (Spärck Jones 1972,
doi:10.1108/eb026526), and sequences compared by cosine. Of each k-mer it is known which sequences
hold it, so that a query looks at what it shares with a target and at nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from riboray.corpus.strings import Strings

__all__ = ["KmerWeights", "count_kmers", "shared_kmers"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
Rows = NDArray[np.int32]


@njit(nogil=True, cache=True)
def _codes(text: NDArray[np.uint8], k: int, out: Index) -> int:
    """Write the code of every k-mer of ACGU; return how many."""
    count, run, code = 0, 0, 0
    mask = 4**k - 1
    for i in range(len(text)):
        letter = text[i]
        value = -1
        if letter == 65:
            value = 0
        elif letter == 67:
            value = 1
        elif letter == 71:
            value = 2
        elif letter == 85:
            value = 3
        if value < 0:  # an ambiguity code ends the run
            run, code = 0, 0
            continue
        code = ((code << 2) | value) & mask
        run += 1
        if run >= k:
            out[count] = code
            count += 1
    return count


@njit(nogil=True, cache=True)
def _count_all(
    data: NDArray[np.uint8], offsets: Index, k: int, columns: Rows, times: Floats, bounds: Index
) -> None:
    """Write the different k-mers of each sequence, sorted, and how often they occur.

    ``bounds[i]`` and ``bounds[i + 1]`` say where those of sequence i are.
    """
    room = np.empty(len(data), np.int64)
    end = 0
    for i in range(len(offsets) - 1):
        count = _codes(data[offsets[i] : offsets[i + 1]], k, room)
        found = np.sort(room[:count])
        for j in range(count):
            if j and found[j] == found[j - 1]:
                times[end - 1] += np.float32(1)
            else:
                columns[end], times[end] = found[j], np.float32(1)
                end += 1
        bounds[i + 1] = end


def count_kmers(sequences: Sequence[str], k: int, *, how_often: bool = False) -> sparse.csr_matrix:
    """Tell which k-mers of ACGU each sequence holds.

    Parameters
    ----------
    sequences : sequence of str
        RNA, upper case; k-mers with other letters do not count.
    k : int
        Length, at most 12.
    how_often : bool
        Count them.

    Returns
    -------
    csr_matrix, shape=(n, 4**k), dtype=float32
        How often a k-mer occurs, or 1 where it does.
    """
    texts = Strings.of(sequences)
    columns, times = np.empty(len(texts.data), np.int32), np.empty(len(texts.data), np.float32)
    bounds = np.zeros(len(texts) + 1, np.int64)
    _count_all(texts.data, texts.offsets, k, columns, times, bounds)
    # Copies, so that what was not needed of the room is given back.
    columns, times = columns[: bounds[-1]].copy(), times[: bounds[-1]].copy()
    if not how_often:
        times[:] = 1
    return sparse.csr_matrix((times, columns, bounds), shape=(len(texts), 4**k))


@dataclass(frozen=True)
class KmerWeights:
    """Weights of k-mers by rarity.

    Attributes
    ----------
    k : int
    weights : ndarray, shape=(4**k,), dtype=float32
        Square roots of ``log(n / sequences that hold the k-mer)``.
    """

    k: int
    weights: NDArray[np.float32]

    @classmethod
    def fit(cls, sequences: Sequence[str], k: int) -> KmerWeights:
        """Fit to sequences of the database."""
        holding = np.asarray(count_kmers(sequences, k).sum(axis=0)).ravel()
        rarity = np.log((len(sequences) + 1.0) / (holding + 0.5))
        return cls(k, np.sqrt(np.maximum(rarity, 0.0)).astype(np.float32))

    def vectors(self, sequences: Sequence[str]) -> sparse.csr_matrix:
        """Return weighted k-mer vectors of unit length."""
        rows = count_kmers(sequences, self.k)
        rows.data = self.weights[rows.indices]
        norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
        rows.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(rows.indptr)).astype(np.float32)
        return rows


@njit(nogil=True, cache=True)
def _sink(scores: Floats, rows: Index, root: int, size: int) -> None:
    """Restore a heap whose root is the worst: the least score, of equal ones the last row."""
    score, row = scores[root], rows[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            scores[other] < scores[child]
            or (scores[other] == scores[child] and rows[other] > rows[child])
        ):
            child = other
        if scores[child] > score or (scores[child] == score and rows[child] < row):
            break
        scores[root], rows[root] = scores[child], rows[child]
        root = child
    scores[root], rows[root] = score, row


@njit(nogil=True, cache=True)
def _keep_best(all_scores: Floats, scores: Floats, rows: Index) -> None:
    """Write the best scores and their rows, best first; of equal scores the first rows."""
    count = len(scores)
    for row in range(count):
        scores[row], rows[row] = all_scores[row], row
    for root in range(count // 2 - 1, -1, -1):
        _sink(scores, rows, root, count)
    worst = scores[0]
    for row in range(count, len(all_scores)):
        if all_scores[row] > worst:
            scores[0], rows[0] = all_scores[row], row
            _sink(scores, rows, 0, count)
            worst = scores[0]
    for last in range(count - 1, 0, -1):  # the worst goes to the end, and so on
        scores[0], scores[last] = scores[last], scores[0]
        rows[0], rows[last] = rows[last], rows[0]
        _sink(scores, rows, 0, last)


@njit(nogil=True, cache=True)
def _share(
    query_bounds: Index,
    query_kmers: Rows,
    query_weights: Floats,
    kmer_bounds: Index,
    holders: Rows,
    holder_weights: Floats,
    targets: int,
    best: Floats,
    rows: Index,
) -> None:
    """Add up, for each query, what its k-mers weigh in the targets that hold them."""
    scores = np.empty(targets, np.float32)
    for query in range(len(query_bounds) - 1):
        scores[:] = 0
        for at in range(query_bounds[query], query_bounds[query + 1]):
            kmer, weight = query_kmers[at], query_weights[at]
            for held in range(kmer_bounds[kmer], kmer_bounds[kmer + 1]):
                scores[holders[held]] += weight * holder_weights[held]
        _keep_best(scores, best[query], rows[query])


def shared_kmers(
    queries: sparse.csr_matrix, targets: sparse.csr_matrix | sparse.csc_matrix, count: int
) -> tuple[Index, Floats]:
    """Find the targets that share most k-mers with each query.

    Parameters
    ----------
    queries, targets : csr_matrix, shapes=(n, 4**k) and (m, 4**k), dtype=float32
        From `KmerWeights.vectors`; targets searched more than once, as ``csc_matrix``.
    count : int
        Targets for each query.

    Returns
    -------
    rows : ndarray, shape=(n, at most count), dtype=int64
        Best first; ties by row.
    similarity : ndarray, of the same shape, dtype=float32
        Cosines of the weighted vectors.
    """
    by_kmer = targets.tocsc()
    count = min(count, by_kmer.shape[0])
    rows = np.empty((queries.shape[0], count), np.int64)
    best = np.empty((queries.shape[0], count), np.float32)
    if count:
        _share(
            queries.indptr.astype(np.int64),
            queries.indices.astype(np.int32),
            queries.data.astype(np.float32),
            by_kmer.indptr.astype(np.int64),
            by_kmer.indices.astype(np.int32),
            by_kmer.data.astype(np.float32),
            by_kmer.shape[0],
            best,
            rows,
        )
    return rows, best
