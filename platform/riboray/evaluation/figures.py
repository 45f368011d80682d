"""Figures of evaluations, among them F1 against identity as BRAliBase's papers draw it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.corpus.structure import SS_CLASSES
from riboray.drawing import file_options, styled
from riboray.evaluation.accuracy import Counts
from riboray.evaluation.bases import BaseSet, Seen
from riboray.evaluation.references import ReferencePair
from riboray.evaluation.summary import Measured
from riboray.manifest import atomic_path
from riboray.page import PALETTE, printable

__all__ = ["draw_bases", "draw_by_identity", "draw_filling", "smoothed"]

#: Standard deviation of the smoothing kernel, percent of identity.
_WIDTH = 3.0
#: Pairs that a point of a curve rests on, at least.
_FEWEST = 10.0
_COLOURS = ["blue", "red", "green", "orange", "ink", "grey"]
_DASHES = ["-", "--", ":", "-."]
#: Of A, C, G and U, and of the structure classes by number: Okabe & Ito's colours.
_NUCLEOTIDES = ["#009e73", "#0072b2", "#e69f00", "#d55e00"]
_CONTEXTS = ["#d5d5da", "#1b1b1f", "#0072b2", "#56b4e9", "#cc79a7", "#e69f00", "#d55e00", "#009e73"]


def smoothed(
    counts: Counts, identity: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the F1 of pairs near each identity, weighted by a Gaussian kernel of 3 percent.

    NaN where fewer than ten pairs, by weight, are near.
    """
    weights = np.exp(-0.5 * ((at[:, None] - identity[None, :]) / _WIDTH) ** 2)
    common, predicted, wanted = (weights @ counts).T
    both = predicted + wanted
    near = (both > 0) & (weights.sum(axis=1) >= _FEWEST)
    return np.where(near, 2 * common / np.where(both > 0, both, 1), np.nan)


def draw_by_identity(path: Path, pairs: list[ReferencePair], measured: list[Measured]) -> None:
    """Draw the curves, and below them how many pairs there are."""
    from matplotlib.figure import Figure

    identity = np.array([pair.identity for pair in pairs])
    at = np.arange(np.floor(identity.min()), np.ceil(identity.max()) + 0.5, 0.5)
    with styled(), atomic_path(path) as temporary:
        figure = Figure(figsize=(9.5, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        for number, one in enumerate(measured):
            style, colour = divmod(number, len(_COLOURS))
            upper.plot(
                at,
                smoothed(one.counts, identity, at),
                color=PALETTE[_COLOURS[colour]],
                linestyle=_DASHES[style % len(_DASHES)],
                linewidth=1.6,
                label=one.method.name,
            )
        _finish(upper, lower, identity)
        figure.legend(loc="outside right upper", frameon=False)
        figure.suptitle(
            f"Agreement with {len(pairs):,} reference alignments", fontsize=12, x=0.01, ha="left"
        )
        figure.savefig(temporary, **file_options("png"))


def _finish(upper: Any, lower: Any, identity: NDArray[np.float64]) -> None:
    upper.set_ylabel("F1 of aligned bases")
    upper.set_ylim(top=1.005)
    upper.grid(alpha=0.25)
    edges = np.arange(np.floor(identity.min() / 5) * 5, identity.max() + 5, 2.5)
    lower.hist(identity, bins=edges, color=PALETTE["grey"])
    lower.set_ylabel("pairs")
    lower.set_xlabel("sequence identity (%)")


def draw_filling(path: Path, summary: dict[str, Any]) -> None:
    """Draw accuracy on hidden nucleotides: by distance from either end, and by group."""
    from matplotlib.figure import Figure

    models = summary["models"]
    groups = models[0]["by_group"]
    with styled(), atomic_path(path) as temporary:
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
        for number, entry in enumerate(models):
            colour = PALETTE[_COLOURS[number % len(_COLOURS)]]
            for axes, key in ((left, "from_5_end"), (middle, "from_3_end")):
                values = [part["accuracy"] for part in entry[key]]
                axes.plot(values, marker="o", markersize=3, color=colour, label=entry["name"])
            shift = 0.8 * (number + 0.5) / len(models) - 0.4
            values = [part["accuracy"] for part in entry["by_group"]]
            right.barh(
                np.arange(len(values)) + shift, values, height=0.8 / len(models), color=colour
            )
        for axes, key, end in ((left, "from_5_end", "5'"), (middle, "from_3_end", "3'")):
            names = [f"{part['low']}–" for part in models[0][key]]
            axes.set_xticks(range(len(names)), names)
            axes.set_xlabel(f"nucleotides from the {end} end")
            axes.grid(axis="y", alpha=0.25)
        left.set_ylabel("share of hidden nucleotides recovered")
        left.legend(frameon=False, loc="best")
        names = [printable(part["group"], 24) for part in groups]
        right.set_yticks(range(len(names)), names)
        right.invert_yaxis()
        right.set_xlabel(f"recovered, by {summary['group_by']}")
        measured = f"{summary['nucleotides_measured']:,} nucleotides"
        figure.suptitle(f"Hidden nucleotides: {measured}", fontsize=12, x=0.01, ha="left")
        figure.savefig(temporary, **file_options("png"))


def draw_bases(path: Path, bases: BaseSet, seen: list[Seen]) -> None:
    """Draw the layouts: two a row, each coloured by nucleotide and by structural context."""
    from matplotlib.figure import Figure

    shown = [one for one in seen if one.points is not None]
    kinds = (
        ("nucleotide", bases.nucleotides, [(k, "ACGU"[k], c) for k, c in enumerate(_NUCLEOTIDES)]),
        ("structural context", bases.classes, _contexts(bases)),
    )
    rows = -(-len(shown) // 2)
    with styled(), atomic_path(path) as temporary:
        figure = Figure(figsize=(14, 0.9 + 3.7 * rows), layout="constrained")
        panels = figure.subplots(rows, 4, squeeze=False).reshape(-1, 2)
        for pair, one in zip(panels, shown, strict=False):
            for axes, (title, labels, colours) in zip(pair, kinds, strict=True):
                for number, name, colour in colours:
                    at = one.points[labels == number]  # type: ignore[index]
                    axes.scatter(*at.T, s=3, color=colour, linewidths=0, label=name)
                axes.set_title(f"{printable(one.name, 30)}\n{title}", fontsize=9, loc="left")
                axes.set(xticks=[], yticks=[], aspect="equal")
                axes.spines[:].set_visible(True)
        for pair in panels[len(shown) :]:
            for axes in pair:
                axes.remove()
        marks = [axes.get_legend_handles_labels() for axes in panels[0]]
        figure.legend(
            *([item for part in parts for item in part] for parts in zip(*marks, strict=True)),
            loc="outside lower left", frameon=False, fontsize=9, markerscale=3, ncols=6,
        )  # fmt: skip
        figure.savefig(temporary, **file_options("png"))


def _contexts(bases: BaseSet) -> list[tuple[int, str, str]]:
    """Return number, name and colour of the structure classes that there are."""
    there = set(bases.classes.tolist())
    entries = zip(SS_CLASSES.items(), _CONTEXTS, strict=True)
    return [(int(d), name, colour) for (d, name), colour in entries if int(d) in there]
