"""Example alignments as HTML: reference and prediction, columns right and wrong told apart."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.formats import PairView, aligned_fasta
from riboray.page import html_table, printable
from riboray.pretraining.run_report_alignments import (
    Aligned,
    Counts,
    by_family,
    choose_examples,
)

__all__ = ["alignments_section"]

#: Columns that stay together when lines break.
_CHUNK = 10

#: Families listed, at most.
_FAMILIES = 60


def alignments_section(aligned: Sequence[Aligned], number: int, origin: str) -> str:
    """Write the figures of all pairs, of each family, and some examples.

    Parameters
    ----------
    aligned : sequence of Aligned
        Every held-out pair measured.
    number : int
        Examples, at most.
    origin : str
        Which model aligned them, as plain text.

    Returns
    -------
    str
        HTML.
    """
    if not aligned:
        return '<p class="lead">The corpus has no alignments of held-out families.</p>'
    total = Counts.sum([item.counts for item in aligned])
    lead = (
        f"{escape(printable(origin, 300))} All {len(aligned):,} pairs measured: F1 "
        f"{total.f1:.4f}, sensitivity {total.sensitivity:.4f}, PPV {total.ppv:.4f}."
    )
    families = by_family(aligned)
    rows = [
        (
            printable(row["family"], 60),
            f"{row['pairs']:,}",
            f"{row['identity']:.0%}",
            *(f"{v:.4f}" for v in (row["counts"].f1, row["counts"].sensitivity, row["counts"].ppv)),
        )
        for row in families[:_FAMILIES]
    ]
    heading = f"Held-out families, the hardest first ({len(families):,})"
    columns = ("family", "pairs", "identity", "F1", "sensitivity", "PPV")
    more = len(families) - len(rows)
    rest = f'<p class="lead">{more:,} more are not listed.</p>' if more > 0 else ""
    key = (
        '<p class="lead"><span class="ok">AC</span> with <code>|</code>: aligned as in the '
        'reference. <span class="bad">AC</span> with <code>x</code>: aligned otherwise (in the '
        "prediction) or not found (in the reference). Above and below: the structure in "
        "dot-bracket notation, where the corpus has it.</p>"
    )
    examples = "".join(_example(name, item) for name, item in choose_examples(aligned, number))
    return f'<p class="lead">{lead}</p>{html_table(heading, columns, rows)}{rest}' + (
        f"{key}{examples}" if examples else ""
    )


def _example(name: str, item: Aligned) -> str:
    pair, counts = item.pair, item.counts
    title = f"{printable(pair.ids[0], 80)} and {printable(pair.ids[1], 80)}"
    figures = (
        f"{printable(pair.family, 60)}, identity {pair.identity:.0%}, F1 {counts.f1:.3f}, "
        f"sensitivity {counts.sensitivity:.3f}, PPV {counts.ppv:.3f}"
    )
    parts = []
    for heading, partners, other in (
        ("Reference", pair.reference, item.predicted),
        ("Predicted", item.predicted, pair.reference),
    ):
        view = _view(item, partners)
        agree = (partners == other)[partners >= 0]
        parts.append(
            f'<h4>{heading}</h4><div class="alignment">{_chunks(view, agree)}</div>'
            f'<details class="text"><summary>as FASTA</summary><pre>'
            f"{escape(_fasta(view))}</pre></details>"
        )
    return (
        f'<article class="example"><h3><span class="rank">{name}</span> {escape(title)}</h3>'
        f'<p class="lead">{escape(figures)}</p>{"".join(parts)}</article>'
    )


def _view(item: Aligned, partners: NDArray[np.int32]) -> PairView:
    pair = item.pair
    no_scores = np.zeros(len(partners), np.float32)
    return PairView.of(pair.ids, pair.sequences, partners, no_scores, "global", pair.structures)


def _fasta(view: PairView) -> str:
    names = printable(view.names[0], 200), printable(view.names[1], 200)
    return aligned_fasta(PairView(names, view.rows, view.similarity, view.inside))


def _chunks(view: PairView, agree: NDArray[np.bool_]) -> str:
    """Lay an alignment out in pieces of `_CHUNK` columns, between which a line may break.

    Parameters
    ----------
    view : PairView
        The alignment.
    agree : ndarray, shape=(aligned columns,), dtype=bool
        Whether each column without a gap is in the other alignment too.
    """
    verdicts = iter(agree.tolist())
    marks = "".join(
        " " if "-" in column else "|" if next(verdicts) else "x"
        for column in zip(*view.rows, strict=True)
    )
    chunks = []
    for start in range(0, len(marks), _CHUNK):
        part = slice(start, start + _CHUNK)
        first, second = (
            None if text is None else f'<span class="faint">{escape(text[part])}</span>'
            for text in view.structures
        )
        lines = [
            f'<span class="faint">{start + 1}</span>',
            first,
            _paint(view.rows[0][part], marks[part]),
            f'<span class="faint">{marks[part]}</span>',
            _paint(view.rows[1][part], marks[part]),
            second,
        ]
        text = "\n".join(line for line in lines if line is not None)
        chunks.append(f'<pre class="chunk">{text}</pre>')
    return "\n".join(chunks)


def _paint(row: str, marks: str) -> str:
    """Colour the letters of right and of wrong columns."""
    painted = []
    for mark, group in groupby(zip(row, marks, strict=True), key=lambda pair: pair[1]):
        text = escape("".join(letter for letter, _ in group))
        css_class = {"|": "ok", "x": "bad"}.get(mark)
        painted.append(f'<span class="{css_class}">{text}</span>' if css_class else text)
    return "".join(painted)
