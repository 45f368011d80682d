"""The page that `evaluate paper` writes: tables, figures, where the data come from, commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from riboray.evaluation.bases import NEIGHBOURS
from riboray.evaluation.clustering_summary import COLUMNS
from riboray.evaluation.provenance import Source, describe_machine
from riboray.evaluation.summary import Rows, comparison_rows, identity_rows, overview_rows
from riboray.manifest import atomic_path
from riboray.page import html_page, html_table, inline_png

__all__ = ["PaperResults", "write_page"]

_PAPER = (
    'Akiyama &amp; Sakakibara 2022, <a href="https://doi.org/10.1093/nargab/lqac012">'
    "doi:10.1093/nargab/lqac012</a>"
)
_CSS = """
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; list-style: none; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; font-size: .85rem; }
a { color: var(--blue); }
section > * { margin: .8rem 0; }
"""


@dataclass
class PaperResults:
    """What the experiments gave; JSON.

    Attributes
    ----------
    command : str
        The command that gives all of it.
    sample : bool
        Whether it is the bundled sample.
    sources : list of Source
        Files measured on.
    models : dict of str to dict
        Models by name.
    commands : dict of str to str
        The command of each part alone.
    alignment, clustering, bases : dict or None
        Figures of the experiments that were made.
    machine : dict of str to str
        Date, versions, hardware.
    """

    command: str
    sample: bool
    sources: list[Source]
    models: dict[str, dict[str, Any]]
    commands: dict[str, str] = field(default_factory=dict)
    alignment: dict[str, Any] | None = None
    clustering: dict[str, Any] | None = None
    bases: dict[str, Any] | None = None
    machine: dict[str, str] = field(default_factory=describe_machine)


def write_page(directory: Path, results: PaperResults) -> None:
    """Write ``report.html``; the figures lie in ``directory`` and go into the page."""
    sections = {
        "alignment": ("Alignment", _alignment(directory, results)),
        "families": ("Families", _clustering(directory, results)),
        "bases": ("Base embeddings", _bases(directory, results)),
        "separation": ("What the models were trained on", _separation(results)),
        "data": ("Data and machine", _data(results)),
        "commands": ("Commands", _commands(results)),
    }
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in sections.items())
    parts = "\n".join(
        f'<section id="{key}"><h2>{name}</h2>\n{body}\n</section>'
        for key, (name, body) in sections.items()
    )
    warning = (
        '<p class="warning">Measured on the bundled sample of nine families, some of which models '
        "are trained on: this shows what the page looks like, and nothing about the models.</p>"
        if results.sample
        else ""
    )
    machine = results.machine
    body = f"""<header><h1>The experiments of the RNABERT paper</h1>
<p class="lead">{_PAPER}, repeated on public data by riboray {escape(machine["riboray"])} on
{escape(machine["date"])}.</p>{warning}
<nav aria-label="Sections"><ul>{links}</ul></nav></header>
<main>
{parts}
</main>
"""
    page = html_page("The experiments of the RNABERT paper", body, css=_CSS, images=True)
    with atomic_path(directory / "report.html") as temporary:
        temporary.write_text(page, "utf-8")


def _left_out(option: str) -> str:
    return f'<p class="lead">Left out: give {escape(option)}.</p>'


def _alignment(directory: Path, results: PaperResults) -> str:
    found = results.alignment
    if found is None:
        return _left_out("--bralibase")
    reference = found["reference"]
    left_out = "; ".join(f"{n:,} left out: {why}" for why, n in reference["left_out"].items())
    what = (
        f"{reference['pairs']:,} reference alignments of two RNAs, {reference['families']:,} "
        f"families, {reference['sequences']:,} sequences; mean identity "
        f"{reference['mean_identity']:.1f} %. {left_out}"
    )
    return "\n".join(
        [
            f"<p>{escape(what)}</p>",
            "<p>Sensitivity: share of the reference's aligned bases that are found; PPV: share of "
            "those found that are the reference's; F1: both; counted over all alignments. SPS: "
            "mean sensitivity of alignments. "
            f"95 % intervals by drawing {escape(found['resampled'])}.</p>",
            _table("All alignments", overview_rows(found)),
            inline_png(
                directory / "alignment" / "f1_by_identity.png",
                "F1 of aligned bases against sequence identity, a curve for each method; the "
                "figures are in the table below",
                "F1 against sequence identity, smoothed with a Gaussian of 3 percent.",
            ),
            _table("F1 by sequence identity, percent", identity_rows(found)),
            _table(f"F1 of {found['methods'][0]['name']}, less that of", comparison_rows(found)),
        ]
    )


def _table(heading: str, rows: Rows) -> str:
    return html_table(heading, rows[0], rows[1:])


def _clustering(directory: Path, results: PaperResults) -> str:
    found = results.clustering
    if found is None:
        return _left_out("--rfam")
    what = (
        f"{found['sequences']:,} sequences of {found['labels']:,} families, made into "
        f"{found['clusters']:,} clusters ({found['cluster_with']}), a number told beforehand. "
        "1-NN: share of sequences whose most similar other is of their family; mAP: mean average "
        "precision of that ranking; both need no clusters. ARI, NMI, homogeneity, completeness and "
        "V-measure compare clusters with families."
    )
    rows = [
        [
            row["measure"] + (" (the paper's)" if row["measure"] == "soft-align" else ""),
            row["model"] or "none",
            *(f"{row[key]:.3f}" for key in COLUMNS.values()),
        ]
        for row in found["results"]
    ]
    picture = inline_png(
        directory / "clustering" / "clustering.png",
        "Retrieval and agreement of clusters with families, a row for each similarity; the figures "
        "are in the table above",
        "Lines: 95 % intervals by drawing families.",
    )
    table = html_table("By similarity", ["similarity", "model", *COLUMNS], rows, texts=2)
    return "\n".join([f"<p>{escape(what)}</p>", table, picture])


def _bases(directory: Path, results: PaperResults) -> str:
    found = results.bases
    if found is None:
        return _left_out("--rfam")
    classes = "; ".join(f"{name} {count:,}" for name, count in found["classes"].items())
    what = (
        f"{found['bases']:,} bases of {found['sequences']:,} sequences and {found['families']:,} "
        f"families; their structural contexts, from the seed alignments' consensus: {classes}."
    )
    how = (
        f"Of the {NEIGHBOURS} nearest bases of other families (cosine, in all dimensions), the "
        "share that are the same nucleotide, and that lie in the same context (where it is known). "
        "Centred: less the mean of all bases of the sequence."
    )
    rows = [
        [row["name"], f"{row['nucleotide']:.3f}", f"{row['context']:.3f}"] for row in found["seen"]
    ]
    picture = inline_png(
        directory / "bases.png",
        "Base embeddings laid out by t-SNE, two panels a model and treatment: coloured by "
        "nucleotide, and by structural context; the table above says how often neighbours agree",
        "t-SNE (van der Maaten & Hinton 2008) of the last layer's base embeddings. Distances "
        "between groups of points mean little.",
    )
    table = html_table("What nearest bases agree in", ["", "nucleotide", "context"], rows)
    return "\n".join([f"<p>{escape(what)}</p>", f"<p>{escape(how)}</p>", table, picture])


def _separation(results: PaperResults) -> str:
    """Say, for each model, how much of what it is measured on it was trained on."""
    overlaps: dict[str, dict[str, Any]] = {}
    if results.alignment is not None:
        overlaps["alignment"] = {
            m["name"]: m.get("training_overlap") for m in results.alignment["methods"]
        }
    if results.clustering is not None:
        overlaps["families"] = {
            name: m["training_overlap"] for name, m in results.clustering["models"].items()
        }
    rows = []
    for name, about in results.models.items():
        for part, of in overlaps.items():
            overlap = of.get(name)
            figures = ["unknown", "unknown", "unknown"]
            if overlap is not None:
                figures = [f"{overlap[key]:,}" for key in ("sequences", "masked", "aligned")]
            rows.append([name, about["padding"], part, *figures])
    if not rows:
        return '<p class="lead">No model was measured but an untrained one.</p>'
    heading = ["model", "padding", "measured on", "sequences", "filled in", "aligned"]
    text = (
        "Of the sequences measured, how many the model was trained to fill in, and how many were "
        "of families whose alignments it was trained on, by hashes that its checkpoint carries. "
        "Identical sequences only: a homologue under another name is not found. Unknown: the "
        "checkpoint carries no list. The published weights carry none; they were trained on Rfam."
    )
    return f"<p>{escape(text)}</p>\n{html_table('', heading, rows, texts=3)}"


def _data(results: PaperResults) -> str:
    rows = [
        [s.role, s.path, s.sha256 or "not hashed", f"{s.files:,}", f"{s.bytes:,}"]
        for s in results.sources
    ]
    rows += [
        [f"model {name}", m["path"], m["sha256"], "", ""] for name, m in results.models.items()
    ]
    machine = [[key, value] for key, value in results.machine.items()]
    text = (
        "BRAliBase 2.1: Wilm, Mainz & Steger 2006, doi:10.1186/1748-7188-1-19. Rfam: Kalvari et "
        "al. 2021, doi:10.1093/nar/gkaa1047, CC0. RIBOSUM85-60: Klein & Eddy 2003, "
        "doi:10.1186/1471-2105-4-44. The paper's clustering data are not used: families of Rfam "
        "take their place, drawn by the hashes of their accessions unless they were named."
    )
    return "\n".join(
        [
            f"<p>{escape(text)}</p>",
            html_table("Files", ["", "path", "sha256", "files", "bytes"], rows, texts=3),
            html_table("Machine", ["", ""], machine, texts=2),
        ]
    )


def _commands(results: PaperResults) -> str:
    blocks = {"All of this page": results.command, **results.commands}
    return "\n".join(
        f"<h3>{escape(name)}</h3>\n<pre>{escape(command)}</pre>" for name, command in blocks.items()
    )
