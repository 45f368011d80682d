"""Clusters of similar sequences, so that a split does not put two alike on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from riboray.alignment.kmers import count_kmers
from riboray.corpus.files import opened
from riboray.errors import ConfigError, CorpusError

__all__ = ["cluster_sequences", "read_clusters"]

#: Length of the words that are compared.
_K = 9

#: Sequences compared at a time, with all.
_BLOCK = 256

#: Sequences that are compared, at most: of more, `riboray cluster` finds the pairs.
_MOST = 100_000


def cluster_sequences(sequences: Sequence[str], identity: float) -> NDArray[np.int64]:
    """Cluster sequences that are linked by similar ones.

    Parameters
    ----------
    sequences : sequence of str
        RNA, upper case.
    identity : float
        Two are similar if, of the shorter one's 9-mers, the other has at least this share to the
        power of nine.

    Returns
    -------
    ndarray, shape=(n,), dtype=int64
        Of each, the place of one sequence of its cluster.

    Raises
    ------
    ConfigError
        If there are more than can be compared here.

    Notes
    -----
    A 9-mer is as it was after mutations that leave each base alone with probability p in p^9 of
    cases, so that the share of common ones estimates identity (Hera, Pierce-Ward and Koslicki 2023,
    doi:10.1101/gr.277651.123). Clusters are connected components: no two sequences of different
    ones are similar, at the price of large clusters.
    """
    if len(sequences) > _MOST:
        raise ConfigError(
            f"{len(sequences):,} sequences are too many to compare here: cluster them with "
            "`riboray cluster` and give --clusters-from clusters.tsv"
        )
    count, words = len(sequences), count_kmers(sequences, _K)
    sizes = np.diff(words.indptr)
    transposed = words.T.tocsr()
    # Those too short for a 9-mer are alike only if they are the same.
    first: dict[str, int] = {}
    one_of_each = np.array([first.setdefault(s, k) for k, s in enumerate(sequences)], np.int64)
    for start in range(0, len(sequences), _BLOCK):
        block = (words[start : start + _BLOCK] @ transposed).tocoo()
        row, column = block.row + start, block.col
        least = np.minimum(sizes[row], sizes[column]) * identity**_K
        alike = (block.data >= np.maximum(least, 1)) & (row < column)
        # What was linked before is told by one link each, to a sequence of the same cluster.
        links = np.concatenate([row[alike], np.arange(count)])
        others = np.concatenate([column[alike], one_of_each])
        graph = sparse.coo_matrix((np.ones(len(links), np.int8), (links, others)), (count, count))
        labels = connected_components(graph, directed=False)[1]
        one_of_each = np.unique(labels, return_index=True)[1][labels]
    return one_of_each


def read_clusters(path: str) -> dict[str, str]:
    """Read a table of clusters and members, as `riboray cluster` and MMseqs2 write it.

    Returns
    -------
    dict of str to str
        Cluster of each member.

    Raises
    ------
    CorpusError
        If it cannot be read; the message names the line.
    """
    found: dict[str, str] = {}
    with opened(path, CorpusError, "table of clusters", lambda: None) as handle:
        for number, raw in enumerate(handle, start=1):
            cells = raw.decode("utf-8", "replace").strip("\r\n").split("\t")
            if not raw.strip() or raw.startswith(b"#"):
                continue
            if len(cells) < 2:
                raise CorpusError(path, f"line {number}: expected cluster, tab, member")
            if not found and cells[1].strip() == "member":
                continue
            if found.setdefault(cells[1].strip(), cells[0].strip()) != cells[0].strip():
                raise CorpusError(path, f"line {number}: {cells[1]!r} is in two clusters")
    return found
