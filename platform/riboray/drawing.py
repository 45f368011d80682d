"""How figures look: one style for all, and files that are the same for the same data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from riboray.page import PALETTE

__all__ = ["PAD", "file_options", "styled"]

PAD = 0.12
"""Inches left free beside every panel."""

_STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,  # a $ in a name is a dollar sign
    "svg.hashsalt": "riboray",  # the same data gives the same file
    "svg.fonttype": "path",
    "font.size": 9,
    "figure.constrained_layout.w_pad": PAD,
    "figure.constrained_layout.h_pad": 0.08,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALETTE["grey"],
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), PALETTE["ink"]
    ),
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of riboray for the length of a ``with`` block."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name may be in a script that the font lacks; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def file_options(form: str) -> dict[str, Any]:
    """Return options of ``savefig`` for a kind of file, ``png`` or ``svg``."""
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if form == "svg" else None
    return {"format": form, "dpi": 150, "metadata": metadata}
