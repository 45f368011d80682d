"""Second look at candidates: k-mers shared on one diagonal.

Two sequences may share many k-mers anywhere; relatives share them in the same order, at about the
same distance. So k-mers are counted where the difference of their positions is nearly one number, a
band of diagonals, as FASTA does it (Lipman & Pearson 1985, doi:10.1126/science.2983426). It takes
a tenth of a microsecond or two a pair and finds more relatives (docs/results.md, "Prefilters").
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.kmers import kmer_places
from riboray.corpus.strings import Strings

__all__ = ["BAND", "diagonal_scores"]

#: Diagonals of a band. Bands overlap by half: what counts is the best two of them side by side.
BAND = 8

#: Places in the query at which one k-mer is looked at: the last ones. A run of one letter would
#: else take the square of its length.
_PLACES = 16


@njit(nogil=True, cache=True)
def _band_score(
    codes: NDArray[np.int64],
    places: NDArray[np.int64],
    count: int,
    m: int,
    heads: NDArray[np.int32],
    following: NDArray[np.int32],
    weights: NDArray[np.float32],
    bands: NDArray[np.float32],
) -> np.float32:
    """Add up weights by band for one target, of ``m`` letters; return the best two neighbours.

    ``heads`` says where in the query a k-mer comes last, ``following`` where it came before that.
    """
    for at in range(count):
        code, left = codes[at], _PLACES
        i = heads[code]
        while i >= 0 and left > 0:
            bands[(i - places[at] + m) // BAND] += weights[code]
            i = following[i]
            left -= 1
    best = np.float32(0)
    for band in range(len(bands) - 1):
        both = bands[band] + bands[band + 1]
        best = both if both > best else best
    bands[:] = 0
    return best


@njit(nogil=True, cache=True)
def _score_all(
    query_data: NDArray[np.uint8],
    query_offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    chosen: NDArray[np.int64],
    k: int,
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    longest = 1
    for i in range(len(query_offsets) - 1):
        longest = max(longest, query_offsets[i + 1] - query_offsets[i])
    widest = 1
    for i in range(len(offsets) - 1):
        widest = max(widest, offsets[i + 1] - offsets[i])
    heads, following = np.full(len(weights), -1, np.int32), np.empty(longest, np.int32)
    own_codes, own_places = np.empty(longest, np.int64), np.empty(longest, np.int64)
    codes, places = np.empty(widest, np.int64), np.empty(widest, np.int64)
    bands = np.zeros((longest + widest) // BAND + 2, np.float32)
    for query in range(len(chosen)):
        text = query_data[query_offsets[query] : query_offsets[query + 1]]
        own = kmer_places(text, k, own_codes, own_places)
        for at in range(own):
            following[own_places[at]] = heads[own_codes[at]]
            heads[own_codes[at]] = own_places[at]
        for place in range(chosen.shape[1]):
            target = chosen[query, place]
            other = data[offsets[target] : offsets[target + 1]]
            n, m = len(text), len(other)
            count = kmer_places(other, k, codes, places)
            these = bands[: (n + m) // BAND + 2]
            total = _band_score(codes, places, count, m, heads, following, weights, these)
            scores[query, place] = total / np.float32(max(n * m, 1)) ** np.float32(0.25)
        for at in range(own):
            heads[own_codes[at]] = -1


def diagonal_scores(
    queries: Strings, targets: Strings, chosen: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Score chosen targets of each query by the k-mers they share on one band of diagonals.

    Parameters
    ----------
    queries, targets : Strings
        RNA, upper case; k-mers with other letters than ACGU do not count.
    chosen : ndarray, shape=(queries, c), dtype=int64
        Which targets.
    weights : ndarray, shape=(4**k,), dtype=float32
        Of each k-mer; not negative.

    Returns
    -------
    ndarray, shape=(queries, c), dtype=float32
        The sum of the weights of the shared k-mers on the best 2 · `BAND` diagonals (from a
        multiple of `BAND`), over the fourth root of the product of both lengths. Of a k-mer that
        comes often in a query, the last 16 places count.
    """
    scores = np.empty(chosen.shape, np.float32)
    k = (len(weights).bit_length() - 1) // 2
    if chosen.size:
        _score_all(
            queries.data, queries.offsets, targets.data, targets.offsets, chosen, k, weights, scores
        )
    return scores
