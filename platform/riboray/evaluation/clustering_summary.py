"""A clustering evaluation as a table on the screen, as a file of columns, and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from riboray.console import show_columns
from riboray.drawing import file_options, styled
from riboray.manifest import atomic_path
from riboray.page import PALETTE

__all__ = ["COLUMNS", "show_table", "write_figure", "write_table"]

#: Heading and key of what is measured, in the order of the table.
COLUMNS = {
    "1-NN": "one_nearest_neighbour",
    "mAP": "mean_average_precision",
    "ARI": "ari",
    "NMI": "nmi",
    "hom.": "homogeneity",
    "compl.": "completeness",
    "V": "v_measure",
}
_WITH_INTERVALS = ("one_nearest_neighbour", "mean_average_precision")

_INK, _GREY, _BLUE, _ORANGE, _GREEN, _ = PALETTE.values()


def show_table(report: dict[str, Any]) -> None:
    """Print a row a measure and model; intervals of 95 % stand in the file."""
    rows = [
        [row["measure"], row["model"] or "-", *(f"{row[key]:.3f}" for key in COLUMNS.values())]
        for row in report["results"]
    ]
    show_columns([["measure", "model", *COLUMNS], *rows], texts=2)


def write_table(report: dict[str, Any], path: Path) -> None:
    """Write a row a measure and model, tab-separated, with the ends of the 95 % intervals."""
    header = ["measure", "model"]
    for key in COLUMNS.values():
        header += [key, *([f"{key}_low", f"{key}_high"] if key in _WITH_INTERVALS else [])]
    header.append("cpu_seconds")
    lines = [header]
    for row in report["results"]:
        cells = [row["measure"], row["model"] or ""]
        for key in COLUMNS.values():
            cells.append(f"{row[key]:.6f}")
            if key in _WITH_INTERVALS:
                cells += [f"{end:.6f}" for end in row[f"{key}_interval"]]
        lines.append([*cells, f"{row['cpu_seconds']:.3f}"])
    text = "".join("\t".join(_plain(cell) for cell in line) + "\n" for line in lines)
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")


def _plain(cell: str) -> str:
    """Keep a name with a tab or a line break from breaking the table."""
    return " ".join(cell.split())


def write_figure(report: dict[str, Any], path: Path) -> None:
    """Draw retrieval, with its intervals, and the agreement of clusters, as PNG."""
    from matplotlib.figure import Figure

    results = report["results"]
    names = [r["measure"] + (f"  {r['model']}" if r["model"] else "") for r in results]
    with styled():
        figure = Figure(figsize=(10, 1.4 + 0.42 * len(results)), layout="constrained")
        title = (
            f"{report['sequences']:,} sequences, {report['labels']:,} families; "
            f"{report['queries']:,} queries"
        )
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        left, right = figure.subplots(1, 2, sharey=True)
        pairs = (("1-NN", _BLUE), ("mAP", _ORANGE)), (("ARI", _GREEN), ("V", _GREY))
        for axes, shown in zip((left, right), pairs, strict=True):
            _draw(axes, results, shown)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set_title("retrieval (lines: 95 %)", fontsize=9, loc="left")
        words = f"{report['clusters']} clusters, {report['cluster_with']}"
        right.set_title(words, fontsize=9, loc="left")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, **file_options("png"))


def _draw(axes: Any, results: list[dict[str, Any]], shown: tuple[tuple[str, str], ...]) -> None:
    """Draw two figures of every result, one bar above the other."""
    for number, (heading, colour) in enumerate(shown):
        key = COLUMNS[heading]
        places = [row + 0.36 * (number - 0.5) for row in range(len(results))]
        values = [row[key] for row in results]
        axes.barh(places, values, height=0.34, color=colour, label=heading)
        if key in _WITH_INTERVALS:
            for place, row in zip(places, results, strict=True):
                axes.plot(row[f"{key}_interval"], [place, place], color=_INK, linewidth=1)
    axes.set_xlim(min(0.0, *(row[COLUMNS[h]] for row in results for h, _ in shown)), 1)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.0))
