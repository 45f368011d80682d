"""Candidates by shared k-mers.

k-mers are weighted by rarity, as words are in text retrieval (Spärck Jones 1972,
doi:10.1108/eb026526), and sequences compared by cosine. Of each k-mer it is known which sequences
hold it, so that a query looks at what it shares with a target and at nothing else. Targets are
taken 65,536 at a time: numbers of two bytes, and sums that stay in the cache.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from riboray.corpus.strings import Strings
from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = ["BestTargets", "KmerIndex", "KmerWeights", "count_kmers", "kmer_places"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
Rows = NDArray[np.int32]
Short = NDArray[np.uint16]

#: Targets whose sums are made together, at most: their numbers fit 16 bits.
_BLOCK = 1 << 16

#: Sums looked at together for one that is good enough.
_GROUP = 64


@njit(nogil=True, cache=True)
def kmer_places(text: NDArray[np.uint8], k: int, codes: Index, places: Index) -> int:
    """Write code and beginning of every k-mer of ACGU; return how many."""
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
            codes[count], places[count] = code, i + 1 - k
            count += 1
    return count


@njit(nogil=True, cache=True)
def _count_all(
    data: NDArray[np.uint8], offsets: Index, k: int, columns: Rows, times: Floats, bounds: Index
) -> None:
    """Write the different k-mers of each sequence, sorted, and how often they occur.

    ``bounds[i]`` and ``bounds[i + 1]`` say where those of sequence i are.
    """
    longest = 1
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    codes, places = np.empty(longest, np.int64), np.empty(longest, np.int64)
    end = 0
    for i in range(len(offsets) - 1):
        count = kmer_places(data[offsets[i] : offsets[i + 1]], k, codes, places)
        found = np.sort(codes[:count])
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
        rows.data *= np.repeat(_scales(rows), np.diff(rows.indptr))
        return rows

    def queries(self, sequences: Sequence[str]) -> sparse.csr_matrix:
        """Return `vectors` times the weights: what a target that holds a k-mer gets for it."""
        rows = self.vectors(sequences)
        rows.data *= self.weights[rows.indices]
        return rows


def _scales(rows: sparse.csr_matrix) -> Floats:
    """Return what makes rows, of one or more entries, of unit length."""
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    scales: Floats = (1 / np.maximum(norms, 1e-12)).astype(np.float32)
    return scales


@dataclass(frozen=True)
class KmerIndex:
    """Which sequences hold each k-mer.

    Attributes
    ----------
    bounds : ndarray, shape=(blocks, 4**k + 1), dtype=int64
        Of each block of 65,536 sequences, where the holders of each k-mer begin.
    holders : ndarray, shape=(entries,), dtype=uint16
        Numbers within the block.
    scales : ndarray, shape=(n,), dtype=float32
        What a sequence's sum is multiplied with: one over the length of its weighted vector.
    """

    bounds: Index
    holders: Short
    scales: Floats

    @classmethod
    def build(cls, sequences: Sequence[str], weights: KmerWeights) -> KmerIndex:
        """Index sequences."""
        rows = count_kmers(sequences, weights.k)
        parts = weights.weights[rows.indices], rows.indices, rows.indptr
        weighted = sparse.csr_matrix(parts, shape=rows.shape)
        starts = range(0, rows.shape[0], _BLOCK)
        bounds = np.zeros((len(starts), 4**weights.k + 1), np.int64)
        holders, held = [np.empty(0, np.uint16)], 0
        for block, start in enumerate(starts):
            by_kmer = rows[start : start + _BLOCK].tocsc()
            by_kmer.sort_indices()
            bounds[block] = by_kmer.indptr.astype(np.int64) + held
            holders.append(by_kmer.indices.astype(np.uint16))
            held += by_kmer.nnz
        return cls(bounds, np.concatenate(holders), _scales(weighted))

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as sink:
            np.savez(sink, bounds=self.bounds, holders=self.holders, scales=self.scales)

    @classmethod
    def load(cls, path: Path) -> KmerIndex:
        """Read what `save` wrote.

        Raises
        ------
        CorpusError
            If it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["bounds"], stored["holders"], stored["scales"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CorpusError(path, f"cannot be read ({error}); remove it") from error

    def __len__(self) -> int:
        return len(self.scales)


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
def _offer(sums: Floats, first: int, size: int, scores: Floats, rows: Index) -> int:
    """Take the best of some sums; of equal ones the first rows. Clear them; return the new size.

    ``scores`` and ``rows`` are a heap once there are as many as there is room for.
    """
    count, at = len(scores), 0
    while size < count and at < len(sums):
        scores[size], rows[size] = sums[at], first + at
        size += 1
        at += 1
        if size == count:
            for root in range(count // 2 - 1, -1, -1):
                _sink(scores, rows, root, count)
    # No sum is negative, so their bits compare as they do; the largest of whole numbers is
    # vector code.
    bits = sums.view(np.int32)
    for start in range(at, len(sums), _GROUP):
        stop = min(start + _GROUP, len(sums))
        largest = np.int32(0)
        for i in range(start, stop):
            largest = bits[i] if bits[i] > largest else largest
        if largest <= scores[:1].view(np.int32)[0]:
            continue
        for i in range(start, stop):
            if sums[i] > scores[0]:
                scores[0], rows[0] = sums[i], first + i
                _sink(scores, rows, 0, count)
    sums[:] = 0
    return size


@njit(nogil=True, cache=True)
def _share(
    query_bounds: Index,
    query_kmers: Rows,
    query_weights: Floats,
    bounds: Index,
    holders: Short,
    scales: Floats,
    first: int,
    sizes: Index,
    scores: Floats,
    rows: Index,
) -> None:
    """Add up, for each query, what its k-mers weigh in the targets that hold them."""
    sums = np.zeros(min(_BLOCK, len(scales)), np.float32)
    for query in range(len(query_bounds) - 1):
        for block in range(len(bounds)):
            start = block * _BLOCK
            these = sums[: min(_BLOCK, len(scales) - start)]
            for at in range(query_bounds[query], query_bounds[query + 1]):
                kmer, weight = query_kmers[at], query_weights[at]
                for held in range(bounds[block, kmer], bounds[block, kmer + 1]):
                    these[holders[held]] += weight
            for i in range(len(these)):
                these[i] *= scales[start + i]
            sizes[query] = _offer(these, first + start, sizes[query], scores[query], rows[query])


@njit(nogil=True, cache=True)
def _order(sizes: Index, scores: Floats, rows: Index) -> None:
    """Sort what was found, best first."""
    for query in range(len(sizes)):
        size = sizes[query]
        ours, theirs = scores[query, :size], rows[query, :size]
        for root in range(size // 2 - 1, -1, -1):
            _sink(ours, theirs, root, size)
        for last in range(size - 1, 0, -1):  # the worst goes to the end, and so on
            ours[0], ours[last] = ours[last], ours[0]
            theirs[0], theirs[last] = theirs[last], theirs[0]
            _sink(ours, theirs, 0, last)


class BestTargets:
    """The targets that share most k-mers with each query, found index by index.

    Parameters
    ----------
    queries : csr_matrix, shape=(n, 4**k), dtype=float32
        From `KmerWeights.queries`; not negative.
    count : int
        Targets for each query.
    """

    def __init__(self, queries: sparse.csr_matrix, count: int) -> None:
        self._bounds = queries.indptr.astype(np.int64)
        self._kmers = queries.indices.astype(np.int32)
        self._weights = queries.data.astype(np.float32)
        self._sizes = np.zeros(queries.shape[0], np.int64)
        self._scores = np.zeros((queries.shape[0], count), np.float32)
        self._rows = np.zeros((queries.shape[0], count), np.int64)

    def look_in(self, index: KmerIndex, first: int = 0) -> None:
        """Compare the queries with all targets of an index, whose rows count from ``first``.

        Indices are to come in the order of their rows, each once.
        """
        if len(index):
            _share(
                self._bounds,
                self._kmers,
                self._weights,
                index.bounds,
                index.holders,
                index.scales,
                first,
                self._sizes,
                self._scores,
                self._rows,
            )

    def found(self) -> tuple[Index, Floats]:
        """Return the best targets so far, and end the search.

        Returns
        -------
        rows : ndarray, shape=(n, at most count), dtype=int64
            Best first; ties by row.
        similarity : ndarray, of the same shape, dtype=float32
            Cosines of the weighted vectors.
        """
        _order(self._sizes, self._scores, self._rows)
        width = int(self._sizes.max(initial=0))
        return self._rows[:, :width], self._scores[:, :width]
