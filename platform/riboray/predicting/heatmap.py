"""Substitutions of some RNAs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.drawing import file_options, styled
from riboray.manifest import atomic_path

__all__ = ["draw_heat_maps"]

#: Places of a row of the picture, and rows of one RNA at most.
_WIDE, _ROWS = 80, 6


def draw_heat_maps(path: Path, rnas: Sequence[tuple[str, str, NDArray[np.floating]]]) -> None:
    """Draw log-odds of substitutions: red what the model finds likelier than what is there.

    Parameters
    ----------
    path : Path
        The file to write; its ending says in which format.
    rnas : sequence of (str, str, ndarray of shape (length, 4))
        Id, sequence and log-odds of A, C, G and U. Of long ones, the beginning is drawn.
    """
    from matplotlib.figure import Figure

    rows = [
        (name, start, text[start : start + _WIDE], odds[start : start + _WIDE], len(text))
        for name, text, odds in rnas
        for start in range(0, min(len(text), _WIDE * _ROWS), _WIDE)
    ]
    every = np.concatenate([odds.ravel() for *_, odds, _ in rows])
    every = np.abs(every[np.isfinite(every)])
    most = max(float(np.quantile(every, 0.98)) if len(every) else 1.0, 1e-6)
    with styled():
        figure = Figure(figsize=(12.5, 0.95 * len(rows) + 0.8), layout="constrained")
        panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
        image = None
        for axes, (name, start, text, odds, length) in zip(panels, rows, strict=True):
            image = _draw_row(axes, text, odds, start, most)
            if start == 0:
                axes.set_title(f"{name}, {length:,} nt", loc="left", fontsize=9)
        if image is not None:
            bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.01, aspect=30)
            bar.set_label("log-odds against what is there")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, **file_options(path.suffix[1:].lower()))


def _draw_row(axes: Any, text: str, odds: NDArray[np.floating], start: int, most: float) -> Any:
    image = axes.imshow(
        odds.T, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest"
    )
    axes.set_xlim(-0.5, _WIDE - 0.5)
    axes.set_yticks(range(4), list("ACGU"))
    axes.set_xticks(range(len(text)), list(text), fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(f"{start + 1}", rotation=0, ha="right", va="center")
    own = [(k, "ACGU".index(c)) for k, c in enumerate(text) if c in "ACGU"]
    axes.scatter(*zip(*own, strict=True) if own else ([], []), s=4, c="black", linewidths=0)
    return image
