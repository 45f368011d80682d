"""Draw the pictures of docs/explanation, from the bundled sample and the bundled models.

    python tools/make_pictures.py

writes `docs/pictures/sal.svg` and `docs/pictures/padding.svg`, and prints the figures that the
pages give. The same versions of riboray and matplotlib give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from riboray.alignment.columns import aligned_columns
from riboray.alignment.pairwise import align_batch
from riboray.alphabet import encode
from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.corpus.stockholm import read_stockholm
from riboray.drawing import file_options, styled
from riboray.embedding.embedder import Embedder
from riboray.model.checkpoint import load_checkpoint
from riboray.page import PALETTE
from riboray.pretraining.losses import match_scores
from riboray.pretraining.violations import find_violations

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
#: A family that the model was not trained on, and two of its members.
MODEL, FAMILY, MEMBERS = "rnabert-zero-shot", "RF00005", (130, 740)
#: Lengths to which a sequence is padded.
PADDED = (0, 5, 10, 20, 40, 80, 160, 320, 350)


def draw_sal(path: Path) -> None:
    """Draw match scores, the seed alignment, the best alignment with margins, and violations."""
    family = next(f for f in read_stockholm(SAMPLE_ALIGNMENTS) if f.accession == FAMILY)
    rows = [family.rows[k] for k in MEMBERS]
    both = [k for k, pair in enumerate(zip(*rows, strict=True)) if pair != ("-", "-")]
    columns = aligned_columns(*("".join(row[k] for k in both) for row in rows))
    embedder = Embedder(load_checkpoint(MODEL).model)
    bases = embedder.per_base([columns.sequence_a, columns.sequence_b])
    hidden = [torch.from_numpy(np.asarray(b, np.float32))[None] for b in bases]
    match = match_scores(*hidden).numpy()
    lengths = [np.array([len(s)], np.int32) for s in (columns.sequence_a, columns.sequence_b)]
    reference = columns.partners[None]
    augmented = align_batch(match, *lengths, reference=reference)
    plain = align_batch(match, *lengths)
    found = find_violations(match, *lengths, reference)
    signs, score = found.sign, match[0][found.first, found.second]
    loss = float((signs * score).sum() + found.offset[0])
    identity = np.mean([a == b for a, b in zip(*rows, strict=True) if "-" not in (a, b)])
    common = int((plain.partners[0] == reference[0])[reference[0] >= 0].sum())
    print(
        f"{FAMILY}, {family.ids[MEMBERS[0]]} and {family.ids[MEMBERS[1]]}: {lengths[0][0]} and "
        f"{lengths[1][0]} nt, {100 * identity:.0f} % identity; loss {loss:.2f}; "
        f"{int((signs > 0).sum())} pairs aligned falsely, {int((signs < 0).sum())} missed; without "
        f"margins {common} of {int((reference[0] >= 0).sum())} pairs are found"
    )
    with styled():
        figure = Figure(figsize=(7.2, 6.2), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(match[0].T, cmap="Greys", vmin=-0.2, vmax=1.8, origin="lower")
        _line(axes, reference[0], PALETTE["blue"], "seed alignment")
        _line(axes, augmented.partners[0], PALETTE["orange"], "best alignment with margins")
        for sign, marker, label in ((1, "x", "aligned falsely: pushed apart"),
                                    (-1, "o", "missed: drawn together")):  # fmt: skip
            chosen = signs == sign
            axes.plot(
                found.first[chosen], found.second[chosen], marker, color=PALETTE["red"],
                markersize=7, fillstyle="none", label=label,
            )  # fmt: skip
        axes.set(xlabel="position in a", ylabel="position in b")
        axes.legend(loc="upper left", fontsize=8)
        figure.colorbar(image, ax=axes, label="match score: cosine of base embeddings", shrink=0.7)
        figure.savefig(path, **file_options("svg"))


def _line(axes: Axes, partners: NDArray[np.integer], color: str, label: str) -> None:
    at = np.flatnonzero(partners >= 0)
    axes.plot(at, partners[at], "-", color=color, linewidth=1.2, alpha=0.6, label=label)


def draw_padding(path: Path) -> None:
    """Draw how an embedding changes with the padding that is attended to."""
    family = next(f for f in read_stockholm(SAMPLE_ALIGNMENTS) if f.accession == "RF00005")
    texts = [row.replace("-", "") for row in family.rows[:20]]
    model = load_checkpoint("rnabert").model
    pad, vocabulary = model.config.tokens.pad_id, model.config.tokens
    curves: dict[str, list[float]] = {"masked": [], "attended to": []}
    for extra in PADDED:
        cosines: dict[str, list[float]] = {name: [] for name in curves}
        for text in texts:
            ids = torch.from_numpy(encode([text], vocabulary)[0])
            padded = torch.cat([ids, torch.full((1, extra), pad, dtype=ids.dtype)], 1)
            with torch.no_grad():
                alone = model.model(ids).mean(1)
                for name, lengths in (("masked", torch.tensor([len(text)])), ("attended to", None)):
                    beside = model.model(padded, lengths)[:, : len(text)].mean(1)
                    cosines[name].append(float(torch.cosine_similarity(alone, beside)))
        for name, values in cosines.items():
            curves[name].append(float(np.mean(values)))
    for name, values in curves.items():
        told = ", ".join(f"{k}: {v:.4f}" for k, v in zip(PADDED, values, strict=True))
        print(f"padding {name}: {told}")
    with styled():
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), color in zip(curves.items(), ("blue", "orange"), strict=True):
            style = {"color": PALETTE[color], "label": f"padding {name}", "markersize": 4}
            axes.plot(PADDED, values, "o-", **style)
        axes.set(xlabel="padding tokens behind a tRNA", ylabel="cosine to its embedding alone")
        axes.legend()
        figure.savefig(path, **file_options("svg"))


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    draw_sal(PICTURES / "sal.svg")
    draw_padding(PICTURES / "padding.svg")
    sys.exit(0)
