"""The embedding map as inline SVG, with its key and the words that say what it is."""

from __future__ import annotations

from collections import Counter
from html import escape

from riboray.page import printable
from riboray.pretraining.run_report_map import EmbeddingMap, Sample

__all__ = ["map_section"]

_SIZE, _MARGIN = 600, 14

#: Types with a colour of their own; the style has classes t0 to t8.
_COLOURS = 9


def map_section(sample: Sample, drawn: EmbeddingMap, origin: str) -> str:
    """Draw the map.

    Parameters
    ----------
    sample : Sample
        The sequences.
    drawn : EmbeddingMap
        Where each stands.
    origin : str
        Which model embedded them, as plain text.

    Returns
    -------
    str
        HTML.
    """
    counts = Counter(name for name in sample.types if name is not None)
    commonest = [name for name, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))][:_COLOURS]
    classes = {name: f"t{place}" for place, name in enumerate(commonest)}
    # The grey ones first, so that they hide nothing; held-out ones last.
    order = sorted(
        range(len(sample.ids)),
        key=lambda k: (sample.types[k] in classes, sample.roles[k] != "training", k),
    )
    points = "\n".join(_point(sample, drawn, k, classes) for k in order)
    height = 2 * _MARGIN + (_SIZE - 2 * _MARGIN) * float(drawn.points[:, 1].max())
    labels = f"{len(sample.ids):,} sequences, held out and training, in two dimensions"
    return f"""<p class="lead">{_what(sample, drawn, origin)}</p>
<figure class="map"><svg viewBox="0 0 {_SIZE} {height:.0f}" role="img" aria-label="{labels}">
{points}
</svg>
<figcaption>{_key(sample, counts, classes)}</figcaption></figure>
"""


def _point(sample: Sample, drawn: EmbeddingMap, k: int, classes: dict[str, str]) -> str:
    span = _SIZE - 2 * _MARGIN
    x, y = (_MARGIN + span * float(v) for v in drawn.points[k])
    name = sample.types[k]
    css_class = classes.get(name, "other") if name is not None else "other"
    words = [printable(sample.ids[k], 80)]
    if name is not None:
        words.append(printable(name, 60))
    words.append(sample.roles[k])
    title = f"<title>{escape(' · '.join(words))}</title>"
    if sample.roles[k] == "training":
        return f'<circle class="{css_class}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">{title}</circle>'
    return f'<path class="{css_class} held" d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z">{title}</path>'


def _what(sample: Sample, drawn: EmbeddingMap, origin: str) -> str:
    text = (
        f"{printable(origin, 300)} {len(sample.ids):,} of the corpus's {sample.total:,} sequences, "
        "chosen by hash, up to half of them held out; the base embeddings of each averaged, "
        "reduced to 50 principal components at most, and laid out by t-SNE. It shows which "
        "sequences the model finds similar: near neighbours tend to be. It does not show how "
        "similar: distances between groups, their sizes and the axes mean nothing, and another "
        "seed draws another map."
    )
    if drawn.neighbour is not None and drawn.chance is not None:
        text += (
            f" Measured without the map: {drawn.neighbour:.0%} of the sequences have a nearest "
            f"neighbour (cosine, all dimensions) of their own {sample.kind}; by chance "
            f"{drawn.chance:.0%} would."
        )
    return escape(text)


def _key(sample: Sample, counts: Counter[str], classes: dict[str, str]) -> str:
    def entry(css_class: str, words: str, shape: str = '<circle cx="6" cy="6" r="4"/>') -> str:
        return (
            f'<span class="entry" data-type="{css_class}"><svg class="key {css_class}" '
            f'viewBox="0 0 12 12" aria-hidden="true">{shape}</svg>{escape(words)}</span>'
        )

    parts = [f"<b>{escape(sample.kind.capitalize() or 'Sequences')}</b>"]
    parts += [
        entry(css_class, f"{printable(name, 48)} ({counts[name]:,})")
        for name, css_class in classes.items()
    ]
    others = sum(counts.values()) - sum(counts[name] for name in classes)
    unknown = len(sample.ids) - sum(counts.values())
    if others:
        parts.append(entry("other", f"{len(counts) - len(classes):,} others ({others:,})"))
    if unknown and counts:
        parts.append(entry("other", f"unknown ({unknown:,})"))
    if not counts:
        parts.append(entry("other", f"neither type nor family known ({unknown:,})"))
    roles = Counter(sample.roles)
    shapes = {"training": '<circle cx="6" cy="6" r="3.2"/>'}
    diamond = '<path class="held" d="M6 1l5 5-5 5-5-5z"/>'
    parts.append("<b>Shape</b>")
    for role in ("training", "held out", "held-out family"):
        if roles[role]:
            parts.append(entry("plain", f"{role} ({roles[role]:,})", shapes.get(role, diamond)))
    return "".join(parts)
