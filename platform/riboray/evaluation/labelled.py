"""Sequences with the class each belongs to: from FASTA, from a table of labels, from families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from riboray.alphabet import normalise
from riboray.corpus.families import WITHOUT_GAPS
from riboray.corpus.fasta import read_fasta
from riboray.corpus.files import first_bytes, opened
from riboray.corpus.records import Reject, why_rejected
from riboray.corpus.sequences import split_structure
from riboray.corpus.stockholm import read_stockholm
from riboray.errors import ConfigError, CorpusError, FastaError, InputError, StockholmError

__all__ = ["LabelledSequences", "OnDuplicate", "read_labelled", "read_labels"]

OnDuplicate = Literal["error", "reject"]


@dataclass(frozen=True)
class LabelledSequences:
    """Sequences and their classes, in the order of their files.

    Attributes
    ----------
    ids, sequences, labels : list of str
        One entry a sequence; ids are unique, sequences upper case with U.
    left_out : Counter of str
        Records that are not among them, by reason.
    rejects : list of Reject
        The same, one by one; not those that a draw passed over.
    """

    ids: list[str]
    sequences: list[str]
    labels: list[str]
    left_out: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)

    def leave_out(self, record: _Record, reason: str) -> None:
        """Note a record that is not among them."""
        self.left_out[reason] += 1
        self.rejects.append(Reject(str(record.path), record.number, record.id, "rejected", reason))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def sizes(self) -> Counter[str]:
        """Sequences of each label."""
        return Counter(self.labels)

    @property
    def alone(self) -> int:
        """Sequences that are the only one of their label: nothing can be found for them."""
        return sum(size == 1 for size in self.sizes.values())

    def describe(self) -> str:
        """Say what is there, and what was left out."""
        parts = [f"{len(self):,} sequences with {len(self.sizes):,} labels"]
        if self.alone:
            parts.append(f"{self.alone:,} alone with theirs, so not in retrieval")
        parts += [f"{count:,} left out: {reason}" for reason, count in self.left_out.items()]
        return "; ".join(parts)

    def sample(self, most: int, seed: int) -> LabelledSequences:
        """Draw at most so many sequences, without letting large classes push out small ones.

        Parameters
        ----------
        most : int
            Sequences to keep.
        seed : int
            Of the draw; what is drawn does not depend on the order of the labels.

        Returns
        -------
        LabelledSequences
            Of every label at most *c* sequences, with the largest *c* that fits; all of them if
            they are no more than ``most``. Their order stays.

        Raises
        ------
        ConfigError
            If there are more labels than sequences to keep.
        """
        if len(self) <= most:
            return self
        if len(self.sizes) > most:
            reason = f"max_sequences={most} is less than one for each of {len(self.sizes)} labels"
            raise ConfigError(f"{reason}; allow more")
        cap = 1
        while sum(min(size, cap + 1) for size in self.sizes.values()) <= most:
            cap += 1
        generator = np.random.default_rng(seed)
        labels = np.array(self.labels)
        kept: list[int] = []
        for label in sorted(self.sizes):
            kept += generator.permutation(np.flatnonzero(labels == label))[:cap].tolist()
        kept.sort()
        left_out = self.left_out + Counter({"not drawn": len(self) - len(kept)})
        return LabelledSequences(
            [self.ids[k] for k in kept],
            [self.sequences[k] for k in kept],
            [self.labels[k] for k in kept],
            left_out,
            self.rejects,
        )


class _Record(NamedTuple):
    path: Path
    number: int
    id: str
    label: str
    text: str


def read_labelled(
    paths: Sequence[str],
    labels: str | None = None,
    *,
    duplicate_ids: OnDuplicate = "error",
    keep_repeats: bool = False,
    ambiguity: bool = True,
) -> LabelledSequences:
    """Read sequences with the class of each.

    Parameters
    ----------
    paths : sequence of str
        FASTA (``>id label``; the second word of the header is the label) or Stockholm (the label is
        the family's accession), plain or gzip.
    labels : str, optional
        Table of labels, see `read_labels`; it goes before what the files say.
    duplicate_ids : OnDuplicate
        A second record of one id: stop, or leave it out.
    keep_repeats : bool
        Keep a record whose sequence and label were read before. It finds its twin first whatever
        the measure, which says nothing of it; so such records are left out otherwise.
    ambiguity : bool
        Whether IUPAC ambiguity codes are allowed.

    Returns
    -------
    LabelledSequences

    Raises
    ------
    InputError
        If a file cannot be read, or a record has no id, no label, an id that another has, or is
        no RNA; the message names file and record.
    ConfigError
        If there is no file, or fewer than two labels, or no label with two sequences.
    """
    if not paths:
        raise ConfigError("no input: give FASTA or Stockholm files with labels")
    table = None if labels is None else read_labels(labels)
    found, taken, texts = LabelledSequences([], [], []), set[str](), set[tuple[str, str]]()
    for path in paths:
        for record in _records(path, table):
            sequence = _checked(record, ambiguity)
            if record.id in taken:
                if duplicate_ids == "error":
                    _refuse(record, f"another record is called {record.id!r} too")
                found.leave_out(record, "id read before")
            elif not keep_repeats and (sequence, record.label) in texts:
                found.leave_out(record, "sequence and label read before")
            else:
                found.ids.append(record.id)
                found.sequences.append(sequence)
                found.labels.append(record.label)
            taken.add(record.id)
            texts.add((sequence, record.label))
    _check_classes(found, paths)
    return found


def _check_classes(found: LabelledSequences, paths: Sequence[str]) -> None:
    where = ", ".join(map(str, paths))
    if len(found.sizes) == 1:
        (label,) = found.sizes
        raise ConfigError(f"{where}: all {len(found)} sequences have one label, {label!r}")
    if found.alone == len(found):
        raise ConfigError(f"{where}: no two sequences share a label, so there is nothing to find")


def _records(path: str, table: dict[str, str] | None) -> Iterator[_Record]:
    """Yield the records of a FASTA or Stockholm file with their labels."""
    local = Path(path)
    if _is_stockholm(path):
        for family in read_stockholm(path):
            for name, row in zip(family.ids, family.rows, strict=True):
                label = family.accession if table is None else table.get(name, "")
                text = row.translate(WITHOUT_GAPS)
                yield _Record(local, family.number, name, label, text)
        return
    for record in read_fasta(path):
        words = record.description.split(maxsplit=1)
        label = (words[0] if words else "") if table is None else table.get(record.id, "")
        if record.id and not label:
            reason = f"{record.id!r} has no label: write '>{record.id} LABEL', or give --labels"
            if table is not None:
                reason = f"{record.id!r} is not in the table of labels"
            raise FastaError(local, reason, record.number)
        yield _Record(local, record.number, record.id, label, record.sequence)


def _is_stockholm(path: str) -> bool:
    return first_bytes(path, FastaError, "FASTA or Stockholm").startswith(b"# STOCKHOLM")


def _checked(record: _Record, ambiguity: bool) -> str:
    """Return the sequence of a record that can be used."""
    if not record.id:
        _refuse(record, "record without an id")
    if not record.label:
        _refuse(record, f"{record.id!r} is not in the table of labels")
    try:
        sequence = normalise(split_structure(record.text)[0])
    except ValueError as error:
        raise FastaError(record.path, str(error), record.number) from error
    reason = why_rejected(sequence, 1, 10**9, ambiguity=ambiguity)
    if reason is not None:
        _refuse(record, f"{record.id!r}: {reason}")
    return sequence


def _refuse(record: _Record, reason: str) -> None:
    kind: type[InputError] = StockholmError if _is_stockholm(str(record.path)) else FastaError
    raise kind(record.path, reason, record.number)


def read_labels(path: str) -> dict[str, str]:
    """Read a table of labels: id and label in the first two columns, separated by tabs.

    Parameters
    ----------
    path : str
        The table, plain or gzip. Empty lines and lines that begin with ``#`` do not count, nor
        does a first line whose first column is ``id``.

    Returns
    -------
    dict of str to str
        Label of each id.

    Raises
    ------
    CorpusError
        If it cannot be read, a line has no label, or an id has two; the message names the line.
    """
    found: dict[str, str] = {}
    with opened(path, CorpusError, "table", lambda: None) as handle:
        for number, raw in enumerate(handle, start=1):
            try:
                line = raw.decode("utf-8").strip("\r\n")
            except UnicodeDecodeError as error:
                raise CorpusError(path, f"line {number} is not UTF-8") from error
            if not line.strip() or line.startswith("#"):
                continue
            name, *rest = (cell.strip() for cell in line.split("\t"))
            if not found and name.lower() == "id":
                continue
            if not name or not rest or not rest[0]:
                raise CorpusError(path, f"line {number}: expected id, tab, label")
            if found.setdefault(name, rest[0]) != rest[0]:
                reason = f"line {number}: {name!r} is both {found[name]!r} and {rest[0]!r}"
                raise CorpusError(path, reason)
    if not found:
        raise CorpusError(path, "holds no label")
    return found
