"""Spectral clustering of small sets, as in RNABERT's paper (Akiyama & Sakakibara 2022)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from riboray.errors import ConfigError

__all__ = ["MOST_SEQUENCES", "check_spectral", "spectral"]

#: Sequences whose matrix of affinities, and its decomposition, take no more than minutes.
MOST_SEQUENCES = 5_000

#: Of the largest affinity; what every pair has at least, so that the graph is connected.
_FAINT = 1e-4


def check_spectral(count: int, clusters: int) -> None:
    """Refuse what spectral clustering cannot do, before anything is compared.

    Raises
    ------
    ConfigError
        If there are too many sequences, or fewer than clusters.
    """
    if count < clusters:
        raise ConfigError(f"{count} sequences cannot make {clusters} clusters")
    if count > MOST_SEQUENCES:
        raise ConfigError(
            f"{count:,} sequences are too many for spectral clustering (at most "
            f"{MOST_SEQUENCES:,}); use --method leiden"
        )


def spectral(matrix: sparse.csr_matrix, clusters: int, seed: int = 0) -> NDArray[np.int64]:
    """Cluster a graph by the leading eigenvectors of its Laplacian.

    Parameters
    ----------
    matrix : csr_matrix, shape=(n, n)
        Symmetric affinities, not negative; what is not there is 0.
    clusters : int
        Clusters to find, at most n.
    seed : int
        Of the eigensolver and of k-means.

    Returns
    -------
    ndarray, shape=(n,), dtype=int64
        Labels (Ng, Jordan & Weiss 2001; scikit-learn's implementation).

    Raises
    ------
    ConfigError
        As `check_spectral`.
    """
    count = matrix.shape[0]
    check_spectral(count, clusters)
    if clusters == 1:
        return np.zeros(count, np.int64)
    if clusters == count:
        return np.arange(count)
    from sklearn.cluster import SpectralClustering

    affinity = np.asarray(matrix.toarray(), np.float64)
    affinity += _FAINT * max(float(affinity.max()), _FAINT)
    np.fill_diagonal(affinity, affinity.max())
    model = SpectralClustering(clusters, affinity="precomputed", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of eigenvectors not exact to the last digit
        return np.asarray(model.fit_predict(affinity), np.int64)
