"""The summary figure: a map of the largest clusters, and how large clusters are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.clustering.communities import Clustering
from riboray.clustering.sequences import Sequences
from riboray.drawing import file_options, styled
from riboray.embedding.embedder import Embedder
from riboray.embedding.mapping import Colouring, palette_of, project
from riboray.embedding.pooling import pool
from riboray.manifest import atomic_path
from riboray.model.checkpoint import LoadedCheckpoint
from riboray.page import PALETTE

__all__ = ["FIGURE", "draw", "pooled_sample"]

FIGURE = "clusters.png"

#: Clusters with a colour of their own.
_COLOURED = 12

#: Sequences on the map at most; those that are embedded for it alone.
_STORED, _EMBEDDED = 20_000, 2_000

#: Letters of a name in the key.
_NAME = 24


def pooled_sample(
    sequences: Sequences, loaded: LoadedCheckpoint | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Return rows and pooled embeddings for the map.

    Parameters
    ----------
    sequences : Sequences
        All of them.
    loaded : LoadedCheckpoint, optional
        The model, for sequences without embeddings on disk.
    seed : int
        Of the sample.

    Returns
    -------
    tuple of ndarray, shapes (k,) and (k, d), or None
        None if there are neither embeddings nor a model, or fewer than two sequences.
    """
    stored, count = sequences.stored, len(sequences)
    if count < 2 or (stored is None and loaded is None):
        return None
    generator = np.random.default_rng(seed)
    most = _EMBEDDED if stored is None else _STORED
    rows = np.sort(generator.choice(count, min(most, count), replace=False))
    if stored is not None:
        names = [n for n in stored.schema.names if n.startswith("embedding")] or ["embedding"]
        parts = [stored.views_of(k, names[-1])[local] for k, _, local in stored.by_file(rows)]
        return rows, np.concatenate(parts).astype(np.float32)
    assert loaded is not None
    embedder, pooled = Embedder(loaded.model), []
    for _, texts in sequences.pieces(rows):
        pooled += [pool(bases, "mean") for bases in embedder.per_base(texts)]
    return rows, np.stack(pooled).astype(np.float32)


def draw(
    path: Path,
    sequences: Sequences,
    clustering: Clustering,
    sample: tuple[NDArray[np.int64], NDArray[np.float32]] | None,
    seed: int,
) -> None:
    """Draw the figure.

    Parameters
    ----------
    path : Path
        PNG to write.
    sequences, clustering
        What was clustered, and how.
    sample : tuple of ndarray, optional
        As `pooled_sample`; without, there is no map.
    seed : int
        Of UMAP.
    """
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(13, 6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        if sample is None:
            left.text(0.5, 0.5, "no embeddings to draw a map of", ha="center", va="center")
            left.set(xticks=[], yticks=[])
        else:
            _draw_map(left, sequences, clustering, *sample, seed)
        _draw_sizes(right, clustering)
        alone = int((clustering.sizes == 1).sum())
        words = f"{len(sequences):,} sequences, {len(clustering):,} clusters"
        figure.suptitle(f"{words}, {alone:,} of them single sequences")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, **file_options("png"))


def _colouring(
    sequences: Sequences, clustering: Clustering, labels: NDArray[np.int32]
) -> Colouring:
    """Colour the largest clusters of two or more; grey for the rest."""
    coloured = min(_COLOURED, int((clustering.sizes > 1).sum()))
    ids, _ = sequences.take(clustering.representatives[:coloured])
    names = [
        f"{name if len(name) <= _NAME else name[: _NAME - 1] + '…'} ({size:,})"
        for name, size in zip(ids, clustering.sizes.tolist(), strict=False)
    ]
    rest = int(clustering.sizes[coloured:].sum())
    if rest:
        names.append(f"others ({rest:,})")
    groups = np.minimum(labels, coloured).astype(np.uint8)
    return Colouring("representative", groups, names, None, [])


def _draw_map(
    axes: Any,
    sequences: Sequences,
    clustering: Clustering,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    seed: int,
) -> None:
    method = "umap" if find_spec("umap") is not None else "pca"
    points = project(vectors, method, seed=seed)
    colours = _colouring(sequences, clustering, clustering.labels[rows])
    size = float(np.clip(60_000 / len(points), 1, 24))
    palette = palette_of(colours)
    for group in sorted(range(len(colours.names)), key=lambda g: -g):  # grey first: it hides none
        x, y = points[colours.groups == group].T
        axes.scatter(x, y, s=size, c=palette[group], linewidths=0, label=colours.names[group])
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False,
        markerscale=max(6 / size**0.5, 1), title="largest, by representative", fontsize=8,
    )  # fmt: skip
    drawn = f"{len(rows):,} of them, drawn by chance" if len(rows) < len(sequences) else "all"
    axes.set(title=f"Pooled embeddings by {method.upper()} ({drawn})", xticks=[], yticks=[])


def _draw_sizes(axes: Any, clustering: Clustering) -> None:
    edges = 2 ** np.arange(int(np.log2(clustering.sizes.max())) + 2)
    counts, _ = np.histogram(clustering.sizes, edges)
    places = np.arange(len(counts))
    axes.bar(places, counts, width=0.9, color=PALETTE["blue"])
    labels = [
        f"{low}" if low == high - 1 else f"{low}–{high - 1}"
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    axes.set_xticks(places, labels, rotation=45, ha="right")
    axes.set(title="Sizes", xlabel="sequences in a cluster", ylabel="clusters")
    if counts.max() > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,.0f}")  # powers would be formulas
