"""Consensus structures of seed alignments as structures of their sequences.

Rfam writes SS_cons in WUSS notation (Infernal User's Guide, "WUSS notation"): ``<>`` is a stem that
ends in a hairpin loop, ``()``, ``[]`` and ``{}`` enclose several, ``_`` is a hairpin loop, ``-`` a
bulge or interior loop, ``,`` a multifurcation loop, ``:`` a single strand outside, ``.`` and ``~``
an insertion, and letters are pseudoknots, upper case for the 5' half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SS_CLASSES", "base_pairs", "project_structure"]

SS_CLASSES: dict[str, str] = {
    "0": "insertion, or nothing known",
    "1": "single strand outside",
    "2": "stem that ends in a hairpin loop",
    "3": "stem that encloses several",
    "4": "pseudoknot",
    "5": "bulge or interior loop",
    "6": "hairpin loop",
    "7": "multifurcation loop",
}
"""The eight classes of RNABERT's structure head, in the original's numbering (`secondary_num` of
mana438/RNABERT, dataload.py)."""

_OPENING, _CLOSING = "<([{", ">)]}"


def _class_table() -> NDArray[np.uint8]:
    table = np.full(256, ord("0"), dtype=np.uint8)
    for symbols, label in ((":", "1"), ("<>", "2"), ("()[]{}", "3"), ("-", "5"), ("_", "6")):
        table[np.frombuffer(symbols.encode(), np.uint8)] = ord(label)
    table[ord(",")] = ord("7")
    for letter in range(26):
        table[ord("A") + letter] = table[ord("a") + letter] = ord("4")
    return table


_CLASSES = _class_table()


def base_pairs(ss_cons: str) -> NDArray[np.int32]:
    """Return each column's partner, or -1.

    Parameters
    ----------
    ss_cons : str
        Structure in WUSS or dot-bracket notation, one symbol a column.

    Returns
    -------
    ndarray, shape=(columns,), dtype=int32
        Column that each is paired with.

    Raises
    ------
    ValueError
        If brackets or letters do not match.
    """
    partner = np.full(len(ss_cons), -1, dtype=np.int32)
    stacks: dict[str, list[int]] = {}
    for column, symbol in enumerate(ss_cons):
        if symbol in _OPENING or (symbol.isalpha() and symbol.isupper()):
            stacks.setdefault(symbol, []).append(column)
        elif symbol in _CLOSING or symbol.isalpha():
            opening = _OPENING[_CLOSING.index(symbol)] if symbol in _CLOSING else symbol.upper()
            if not stacks.get(opening):
                raise ValueError(f"{symbol!r} in column {column + 1} closes nothing")
            other = stacks[opening].pop()
            partner[column], partner[other] = other, column
    if left := [(stack[-1], symbol) for symbol, stack in stacks.items() if stack]:
        column, symbol = min(left)
        raise ValueError(f"{symbol!r} in column {column + 1} is never closed")
    return partner


def project_structure(
    occupied: NDArray[np.bool_], ss_cons: str, partner: NDArray[np.int32]
) -> tuple[str, str]:
    """Return the structure of one aligned sequence.

    Parameters
    ----------
    occupied : ndarray, shape=(columns,), dtype=bool
        Columns in which the sequence has a nucleotide.
    ss_cons : str
        The alignment's structure.
    partner : ndarray, shape=(columns,), dtype=int32
        From `base_pairs`.

    Returns
    -------
    dot_bracket : str
        One symbol a nucleotide: ``()`` for pairs both of whose nucleotides the sequence has, the
        letters of SS_cons for such pairs of pseudoknots, else ``.``.
    ss_classes : str
        Digit of each nucleotide's column, see `SS_CLASSES`; a nucleotide whose partner is missing
        keeps the class of its column, as in the original.
    """
    columns = np.frombuffer(ss_cons.encode("latin-1", "replace"), dtype=np.uint8)
    here = np.flatnonzero(occupied)
    classes = _CLASSES[columns[here]]
    other = partner[here]
    paired = (other >= 0) & occupied[other]
    knot = classes == ord("4")
    opens = other > here
    symbols = np.full(len(here), ord("."), dtype=np.uint8)
    symbols[paired & opens] = ord("(")
    symbols[paired & ~opens] = ord(")")
    symbols[paired & knot] = columns[here][paired & knot]
    return symbols.tobytes().decode(), classes.tobytes().decode()
