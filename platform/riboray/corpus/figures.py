"""What `corpus-stats` draws: one figure as PNG or SVG, or an HTML page with a figure a panel.

Everything that comes from the data passes `printable` on its way into a figure, and
`html.escape` on its way into the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from riboray.corpus.stats import OUTCOMES, Stats, headline, label, share, tables
from riboray.corpus.structure import SS_CLASSES
from riboray.drawing import PAD, file_options, styled
from riboray.manifest import atomic_path
from riboray.page import PALETTE, html_page, html_table, printable

__all__ = ["write_figure"]

Axes = Any

_INK, _GREY, _BLUE, _ORANGE, _GREEN, _RED = PALETTE.values()

_OUTCOME_COLOURS = dict(zip(OUTCOMES, (_BLUE, _ORANGE, _RED, _GREEN), strict=True))


class Panel(NamedTuple):
    """A part of the figure: its heading, its height in inches and what draws it."""

    heading: str
    height: float
    draw: Callable[[Axes], None]


def write_figure(stats: Stats, path: Path) -> None:
    """Draw the statistics.

    Parameters
    ----------
    stats : dict
        From `riboray.corpus.stats.corpus_stats`.
    path : Path
        PNG, SVG or HTML, by its ending.
    """
    panels = _panels(stats)
    with styled(), atomic_path(path) as temporary:
        if path.suffix == ".html":
            temporary.write_text(_page(stats, panels), "utf-8")
        else:
            _draw_all(stats, panels).savefig(temporary, **file_options(path.suffix[1:]))


def _draw_all(stats: Stats, panels: list[Panel]) -> Any:
    """Put all panels into one figure, two in a row; a last one alone takes the row."""
    from matplotlib.figure import Figure

    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    heights = [max(panel.height for panel in row) for row in rows]
    figure = Figure(figsize=(11, 0.6 + sum(heights)), layout="constrained")
    figure.suptitle(f"Corpus {_name(stats)}: {headline(stats)}", fontsize=12, x=0.01, ha="left")
    if stats["problems"]:
        text = printable("; ".join(stats["problems"]), 150)
        figure.supxlabel(f"WARNING: {text}", color=_RED, fontsize=9, x=0.01, ha="left")
    if not rows:
        return figure
    lines = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for line, row in zip(lines, rows, strict=True):
        for part, panel in zip(line.subfigures(1, len(row), squeeze=False)[0], row, strict=True):
            _draw_panel(part, panel)
    return figure


def _draw_panel(figure: Any, panel: Panel) -> None:
    left = PAD * figure.dpi / figure.bbox.width
    figure.suptitle(panel.heading, fontsize=10, fontweight="bold", x=left, ha="left")
    panel.draw(figure.add_subplot())


def _name(stats: Stats) -> str:
    return printable(Path(stats["corpus"]).resolve().name)


def _panels(stats: Stats) -> list[Panel]:
    """Choose the panels for which there is something to draw."""
    panels: list[Panel] = []
    histogram = stats["lengths"]["histogram"]
    if histogram["edges"]:
        median, mean = stats["lengths"]["median"], stats["lengths"]["mean"]
        heading = f"Lengths: median {median:,.0f} nt (dashed), mean {mean:,.0f} nt"
        panels.append(Panel(heading, 3.0, lambda axes: _draw_lengths(axes, stats)))
    if sum(stats["composition"]["letters"].values()):
        heading = f"Composition: {share(stats['composition']['gc_share'] or 0, 1)} G or C"
        panels.append(Panel(heading, 3.0, lambda axes: _draw_composition(axes, stats)))
    members = stats["members"]
    for ranking, title in (
        (stats["rna_types"], "RNA types"),
        (stats["families"], "Families"),
        (members["families"], "Families of the seed alignments"),
    ):
        if ranking["number"]:
            panels.append(_ranking_panel(ranking, title))
    if stats["pairs"]["identity"]["mean"] is not None:
        heading = f"Identity of the pairs: mean {100 * stats['pairs']['identity']['mean']:.0f} %"
        panels.append(Panel(heading, 3.0, lambda axes: _draw_identity(axes, stats)))
    if classes := members["structure_classes"]:
        entries = [(f"{SS_CLASSES[digit]} ({digit})", n) for digit, n in classes.items()]
        draw = _bars(entries, _GREEN, of=sum(classes.values()))
        panels.append(Panel("Structure classes, nucleotides", 3.0, draw))
    if stats["accounting"]:
        height = 0.7 + 0.55 * len(stats["accounting"])
        draw = _accounting(stats["accounting"])
        panels.append(Panel("What became of the records read", height, draw))
    return panels


def _draw_lengths(axes: Axes, stats: Stats) -> None:
    lengths = stats["lengths"]
    edges, train, held = (lengths["histogram"][key] for key in ("edges", "train", "validation"))
    both = [a + b for a, b in zip(train, held, strict=True)]
    axes.stairs(both, edges, fill=True, color=_BLUE)
    if sum(held):
        axes.stairs(held, edges, fill=True, color=_ORANGE)
        _legend(axes, [("training", _BLUE), ("validation", _ORANGE)])
    filled = sorted(n for n in both if n)
    axes.set_ylabel("sequences")
    if filled[-1] > 50 * filled[len(filled) // 2]:
        axes.set_ylabel("sequences (log scale)")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
    axes.set_xlim(edges[0], edges[-1])
    axes.axvline(lengths["median"], color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlabel("nt")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(_thousands)
    axes.yaxis.set_major_formatter(_thousands)


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _legend(axes: Axes, entries: list[tuple[str, str]], *, outside: bool = False) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in entries]
    place = {"loc": "upper left", "bbox_to_anchor": (-0.01, 0.02), "ncols": 4} if outside else {}
    axes.legend(handles=handles, frameon=False, fontsize=8, handlelength=1, **place)


def _draw_composition(axes: Axes, stats: Stats) -> None:
    composition = stats["composition"]
    letters = composition["letters"]
    total = sum(letters.values())
    shown = {letter: letters[letter] for letter in "ACGU"}
    if rest := total - sum(shown.values()):
        of_all = share(composition["with_ambiguity"], sum(stats["sequences"].values()))
        shown[f"ambiguous, in\n{of_all} of sequences"] = rest
    names = list(shown)
    colours = [_BLUE] * 4 + [_ORANGE]
    shares = [100 * n / total for n in shown.values()]
    axes.bar(names, shares, color=colours[: len(names)], width=0.7)
    for place, (height, n) in enumerate(zip(shares, shown.values(), strict=True)):
        axes.annotate(
            share(n, total),
            (place, height),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
        )
    axes.margins(y=0.1)
    axes.set_ylabel("% of nucleotides")


def _ranking_panel(ranking: Stats, title: str) -> Panel:
    entries = [(label(entry, 36), entry["sequences"]) for entry in ranking["top"]]
    left = ranking["number"] - len(entries)
    heading = f"{title}: {ranking['number']:,}" + (f", the largest {len(entries)}" * bool(left))
    if ranking["without"]:
        heading += f" ({ranking['without']:,} sequences have none)"
    return Panel(heading, max(1.5, 0.7 + 0.19 * len(entries)), _bars(entries, _BLUE))


def _bars(entries: list[tuple[str, int]], colour: str, of: int = 0) -> Callable[[Axes], None]:
    """Draw labelled bars from the top; with ``of``, their numbers are shares of it."""

    def draw(axes: Axes) -> None:
        places, numbers = range(len(entries)), [number for _, number in entries]
        axes.barh(places, numbers, color=colour, height=0.7)
        axes.set_yticks(places, [name for name, _ in entries])
        axes.invert_yaxis()
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        for place, number in zip(places, numbers, strict=True):
            text = f" {share(number, of)}" if of else f" {number:,}"
            axes.annotate(text, (number, place), va="center", fontsize=8)
        axes.margins(x=0.12, y=0.01)

    return draw


def _draw_identity(axes: Axes, stats: Stats) -> None:
    identity = stats["pairs"]["identity"]
    histogram = identity["histogram"]
    edges = [100 * edge for edge in histogram["edges"]]
    axes.stairs(histogram["counts"], edges, fill=True, color=_GREEN)
    axes.set_xlim(0, 100)
    axes.set_xlabel("identical columns, % of those without a gap")
    axes.set_ylabel("pairs")
    axes.yaxis.set_major_formatter(_thousands)


def _accounting(books: dict[str, dict[str, int]]) -> Callable[[Axes], None]:
    """Draw what became of each kind of record as parts of one bar, with the sum in words."""
    used = [o for o in OUTCOMES if any(account[o] for account in books.values())]

    def draw(axes: Axes) -> None:
        for place, (kind, account) in enumerate(books.items()):
            whole, start = max(sum(account[o] for o in OUTCOMES), 1), 0.0
            for outcome in used:
                part = account[outcome] / whole
                axes.barh(place, part, left=start, height=0.35, color=_OUTCOME_COLOURS[outcome])
                start += part
            parts = " + ".join(f"{account[o]:,} {o}" for o in used if account[o]) or "0"
            sign = "=" if account["read"] == sum(account[o] for o in used) else "≠"
            text = f"{kind}: {account['read']:,} read {sign} {parts}"
            axes.annotate(text, (0, place - 0.26), va="bottom", fontsize=8.5)
        axes.set_ylim(len(books) - 0.6, -0.75)
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        _legend(axes, [(o, _OUTCOME_COLOURS[o]) for o in used], outside=True)

    return draw


def _page(stats: Stats, panels: list[Panel]) -> str:
    """Write the page; nothing in it runs or is fetched."""
    name = escape(_name(stats))
    origin = "{corpus}, fingerprint {fingerprint}, made by riboray {riboray_version}".format(
        **stats
    )
    figures = "\n".join(_inline_figure(panel, f"f{i}-") for i, panel in enumerate(panels))
    warnings = "".join(
        f'<p class="warning">Warning: {escape(printable(p, 300))}</p>\n' for p in stats["problems"]
    )
    parts = [html_table(t.heading, t.columns, t.rows, t.texts) for t in tables(stats)]
    body = f"""<header>
<h1>Corpus {name}</h1>
<p class="lead">{escape(headline(stats))}</p>
{warnings}</header>
<main>
<section class="figures" aria-label="Figures">
{figures}
</section>
<h2>Tables</h2>
<section class="tables" aria-label="Tables">
{chr(10).join(parts)}
</section>
</main>
<footer>{escape(printable(origin, 400))}</footer>
"""
    return html_page(f"Corpus {_name(stats)}", body)


def _inline_figure(panel: Panel, prefix: str) -> str:
    """Draw one panel as SVG that takes its colours from the page; ids get the prefix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, panel.height), layout="constrained")
    _draw_panel(figure, panel)
    text = io.StringIO()
    figure.savefig(text, transparent=True, **file_options("svg"))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Comments repeat the texts, the metadata names a vocabulary, the style sheet is for all "*".
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    for variable, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for reference in (' id="', '"#', "url(#"):
        svg = svg.replace(reference, reference + prefix)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(panel.heading)}" ', 1)
    return f"<figure>{svg}</figure>"
