"""One alignment of two RNAs as text: a view for people, aligned FASTA, Stockholm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.columns import Mode, gapped_strings

__all__ = ["PairView", "aligned_fasta", "clustal_view", "stockholm"]

_GREEN, _YELLOW, _DIM, _RESET = "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class PairView:
    """An alignment of two named sequences, ready to be written.

    Attributes
    ----------
    names : tuple of str
        Ids of query and target.
    rows : tuple of str
        Gapped rows of equal length: both sequences from end to end.
    similarity : ndarray, shape=(columns,), dtype=float32
        Match score of each column, NaN where there is a gap.
    inside : tuple of int
        First column of the alignment and the one after its last; columns outside are the
        unaligned ends of semi-global and local alignments.
    structures : tuple of str or None
        Gapped dot-bracket rows, where known.
    """

    names: tuple[str, str]
    rows: tuple[str, str]
    similarity: NDArray[np.float32]
    inside: tuple[int, int]
    structures: tuple[str | None, str | None] = (None, None)

    @classmethod
    def of(
        cls,
        names: tuple[str, str],
        sequences: tuple[str, str],
        partners: NDArray[np.int32],
        match: NDArray[np.float32],
        mode: Mode,
        structures: tuple[str | None, str | None] = (None, None),
    ) -> PairView:
        """Lay out an alignment.

        Parameters
        ----------
        names, sequences : tuple of str
            Query and target.
        partners : ndarray, shape=(n,), dtype=int32
            Partner of each query position, or -1.
        match : ndarray, shape=(n,), dtype=float32
            Match score of each query position with its partner; anything where it has none.
        mode : Mode
            What the ends mean.
        structures : tuple of str or None
            Dot-bracket strings, as long as the sequences, where known.
        """
        rows = gapped_strings(*sequences, partners)
        codes = [np.frombuffer(row.encode(), np.uint8) != ord("-") for row in rows]
        both = np.flatnonzero(codes[0] & codes[1])
        similarity = np.full(len(rows[0]), np.nan, np.float32)
        similarity[both] = match[partners >= 0]
        inside = (0, len(rows[0]))
        if mode != "global":
            inside = (int(both[0]), int(both[-1]) + 1) if len(both) else (0, 0)
        gapped = tuple(
            None if text is None else _spread(text, present)
            for text, present in zip(structures, codes, strict=True)
        )
        return cls(names, rows, similarity, inside, (gapped[0], gapped[1]))


def _spread(text: str, present: NDArray[np.bool_]) -> str:
    """Put a sequence's annotation under its gapped row."""
    symbols = iter(text)
    return "".join(next(symbols) if here else "-" for here in present.tolist())


def _marks(view: PairView) -> str:
    """One symbol a column: ``*`` identical, ``:`` similar (at least 0.5), ``.`` aligned."""
    marks = []
    for column, (a, b) in enumerate(zip(*view.rows, strict=True)):
        if "-" in (a, b) or not view.inside[0] <= column < view.inside[1]:
            marks.append(" ")
        else:
            marks.append("*" if a == b else ":" if view.similarity[column] >= 0.5 else ".")
    return "".join(marks)


def clustal_view(view: PairView, *, width: int = 60, colour: bool = False) -> str:
    """Lay out an alignment in blocks, as CLUSTAL does.

    Parameters
    ----------
    view : PairView
        The alignment.
    width : int
        Columns of a block.
    colour : bool
        Green for identical columns, yellow for substitutions, dim for unaligned ends.

    Returns
    -------
    str
        Under each block: ``*`` identical, ``:`` different nucleotides of similarity at least
        0.5, ``.`` other aligned pairs. Unaligned ends are in lower case. Each row ends with the
        position of its last nucleotide.
    """
    label = max(*map(len, view.names), 10) + 2
    marks = _marks(view)
    blocks = []
    for start in range(0, len(marks), width):
        columns = range(start, min(start + width, len(marks)))
        lines = []
        for number, (name, row) in enumerate(zip(view.names, view.rows, strict=True)):
            structure = view.structures[number]
            if structure is not None:
                lines.append(" " * label + structure[start : columns.stop])
            position = columns.stop - row.count("-", 0, columns.stop)
            text = "".join(_paint(view, row, marks, column, colour) for column in columns)
            lines.append(f"{name:<{label}}{text}  {position}")
        lines.append((" " * label + marks[start : columns.stop]).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _paint(view: PairView, row: str, marks: str, column: int, colour: bool) -> str:
    inside = view.inside[0] <= column < view.inside[1]
    symbol = row[column] if inside else row[column].lower()
    if not colour:
        return symbol
    shade = {"*": _GREEN, ":": _YELLOW, ".": _YELLOW}.get(marks[column], "" if inside else _DIM)
    return f"{shade}{symbol}{_RESET}" if shade else symbol


def aligned_fasta(view: PairView) -> str:
    """Write both rows as FASTA with gaps."""
    pairs = zip(view.names, view.rows, strict=True)
    return "".join(f">{name}\n{row}\n" for name, row in pairs)


def stockholm(view: PairView, score: float) -> str:
    """Write the alignment as Stockholm 1.0, the score as a comment, structures as ``#=GR SS``."""
    label = max(map(len, view.names)) + 9
    lines = ["# STOCKHOLM 1.0", f"#=GF CC riboray alignment, score {score:.4f}"]
    for name, row, structure in zip(view.names, view.rows, view.structures, strict=True):
        lines.append(f"{name:<{label}} {row}")
        if structure is not None:
            lines.append(f"{f'#=GR {name} SS':<{label}} {structure}")
    return "\n".join([*lines, "//", ""])
