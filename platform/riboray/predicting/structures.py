"""Secondary structures as text: dot-bracket, connect and bpseq files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from riboray.predicting.folding import dot_bracket

__all__ = ["WRITERS"]


def _dbn(name: str, sequence: str, partner: NDArray[np.int32]) -> str:
    """Write as ViennaRNA does: header, sequence, structure."""
    return f">{name}\n{sequence}\n{dot_bracket(partner)}\n"


def _ct(name: str, sequence: str, partner: NDArray[np.int32]) -> str:
    """Write as mfold and RNAstructure do: number, base, the ones before and after, partner, number.

    Numbers are from 1 on; 0 is none.
    """
    size = len(sequence)
    lines = [f"{size:5d}  {name}"]
    for k, (base, other) in enumerate(zip(sequence, partner.tolist(), strict=True), start=1):
        after = k + 1 if k < size else 0
        lines.append(f"{k:5d} {base} {k - 1:7d} {after:4d} {other + 1:4d} {k:4d}")
    return "\n".join(lines) + "\n"


def _bpseq(name: str, sequence: str, partner: NDArray[np.int32]) -> str:
    """Write as the Comparative RNA Web site does: number, base, partner; 0 is none."""
    rows = enumerate(zip(sequence, partner.tolist(), strict=True), start=1)
    return f"# {name}\n" + "".join(f"{k} {base} {other + 1}\n" for k, (base, other) in rows)


WRITERS: dict[str, Callable[[str, str, NDArray[np.int32]], str]] = {
    "dbn": _dbn,
    "ct": _ct,
    "bpseq": _bpseq,
}
"""Format, and what writes an RNA of a name, sequence and partners, shape (n,), -1 for none."""
