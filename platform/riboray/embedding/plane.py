"""Embeddings laid out in the plane by t-SNE (van der Maaten & Hinton 2008)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_POINTS", "lay_out"]

#: Fewer points make no map.
LEAST_POINTS = 5

_DIMENSIONS = 50
_PERPLEXITY = 30.0


def lay_out(rows: NDArray[np.floating[Any]], seed: int) -> NDArray[np.float64]:
    """Lay embeddings out in the plane.

    Parameters
    ----------
    rows : ndarray, shape=(n, H)
        At least `LEAST_POINTS` embeddings; reduced to 50 principal components first.
    seed : int
        Of t-SNE.

    Returns
    -------
    ndarray, shape=(n, 2), dtype=float64
        Coordinates, both axes scaled alike to [0, 1]; all 0 if all embeddings are one. The same on
        every call, but for the rounding of another machine.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = rows.shape
    points = np.zeros((count, 2))
    if rows.std(axis=0).max() > 1e-6:
        reduced = PCA(min(_DIMENSIONS, count, width), svd_solver="full").fit_transform(rows)
        layout = TSNE(
            perplexity=min(_PERPLEXITY, (count - 1) / 3), init="pca", random_state=seed, n_jobs=1
        )
        points = layout.fit_transform(reduced.astype(np.float32)).astype(np.float64)
    points -= points.min(axis=0)
    points /= max(points.max(), 1e-9)
    return points
