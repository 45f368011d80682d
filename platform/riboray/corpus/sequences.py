"""Sequences to embed or align, from FASTA: normalised, validated, every record accounted for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from riboray.alphabet import normalise
from riboray.corpus.config import DuplicateIds, OnInvalid
from riboray.corpus.fasta import read_fasta
from riboray.corpus.records import Reject, why_rejected
from riboray.errors import ConfigError, FastaError

__all__ = [
    "NamedSequences",
    "read_sequences",
    "split_structure",
    "suffixed",
]


@dataclass
class NamedSequences:
    """Sequences in the order of their files.

    Attributes
    ----------
    ids : list of str
        Unique names.
    sequences : list of str
        Upper case, U for T.
    structures : list of str or None
        Dot-bracket structures, for records that carry one.
    rejects : list of Reject
        Records left out, with their reasons.
    """

    ids: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    structures: list[str | None] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def read_sequences(
    paths: Sequence[str],
    *,
    duplicate_ids: DuplicateIds = "error",
    on_invalid: OnInvalid = "error",
    ambiguity: bool = True,
) -> NamedSequences:
    """Read FASTA files, plain or gzip.

    Parameters
    ----------
    paths : sequence of str
        The files.
    duplicate_ids : DuplicateIds
        A second record of one id: stop, append .2, .3, … to its id, or leave it out.
    on_invalid : OnInvalid
        A record without id or sequence, or with a character that is no nucleotide: stop, or
        leave it out.
    ambiguity : bool
        Whether the model's vocabulary has IUPAC ambiguity codes; without, they are invalid.

    Returns
    -------
    NamedSequences
        ``records read = len(ids) + len(rejects)``.

    Raises
    ------
    FastaError
        If a file cannot be read, or a record is refused; the message names file and record.
    ConfigError
        If no sequence is left.
    """
    found = NamedSequences()
    used: Counter[str] = Counter()
    names: set[str] = set()
    for path in paths:
        for record in read_fasta(path):
            structure = None
            try:
                text, structure = split_structure(record.sequence)
                sequence = normalise(text)
                reason = why_rejected(sequence, 1, 10**9, ambiguity=ambiguity)
            except ValueError as error:
                reason = str(error)
            reason = reason if record.id else "record without an id"
            name, policy = record.id, on_invalid
            if reason is None and name in names:
                reason, policy = f"another record is called {name!r} too", "error"
                if duplicate_ids == "suffix":
                    name, reason = suffixed(name, used, names), None
                elif duplicate_ids == "reject":
                    policy = "reject"
            if reason is None:
                names.add(name)
                found.ids.append(name)
                found.sequences.append(sequence)
                found.structures.append(structure)
            elif policy == "reject":
                found.rejects.append(Reject(path, record.number, record.id, "rejected", reason))
            else:
                option = "duplicate-ids" if reason.startswith("another") else "on-invalid"
                raise FastaError(Path(path), f"{reason} (see --{option})", record.number)
    if not found.ids:
        where = ", ".join(str(path) for path in paths) or "no file given"
        raise ConfigError(f"no sequence to work on: {where}")
    return found


_STRUCTURE = re.compile(r"[.()\[\]{}<>]")


def split_structure(text: str) -> tuple[str, str | None]:
    """Split the text of a record into sequence and dot-bracket structure, if it has one.

    RNAfold writes the energy behind the structure, ``((..)) (-1.20)``; it is dropped.

    Raises
    ------
    ValueError
        If they differ in length.
    """
    found = _STRUCTURE.search(text)
    if found is None:
        return text, None
    if "<mask>" in text.lower():  # its brackets are WUSS, too
        raise ValueError("<mask> has no place in a file: write N, and let `predict --fill` fill it")
    sequence = text[: found.start()].rstrip()
    structure = re.sub(r"\s*\(\s*-?\d.*$", "", text[found.start() :]).strip()
    if len(structure) != len(sequence):
        raise ValueError(f"a structure of {len(structure)} symbols for {len(sequence)} nucleotides")
    return sequence, structure


def suffixed(name: str, used: Counter[str], names: set[str]) -> str:
    """Return the first of name.2, name.3, … that is free."""
    used[name] = max(used[name], 1)
    while True:
        used[name] += 1
        candidate = f"{name}.{used[name]}"
        if candidate not in names:
            return candidate
