"""Labelled RNAs from files: sequences normalised and checked, every record accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from riboray.alphabet import normalise
from riboray.corpus.records import Reject, why_rejected
from riboray.corpus.sequences import suffixed
from riboray.errors import CorpusError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.tables import Row, read_rows
from riboray.finetuning.values import is_missing

__all__ = ["Labelled", "Place", "ReadRecords", "read_records"]


class Place(NamedTuple):
    """Where a record stands, for messages."""

    path: str
    number: int

    def refuse(self, reason: str) -> CorpusError:
        """Make an error that names it."""
        return CorpusError(self.path, reason, self.number)


@dataclass
class Labelled:
    """One RNA and its label.

    Attributes
    ----------
    id : str
        Unique.
    sequence : str
        Upper case, with U.
    label : object
        As in the file.
    group, part : str or None
        What it belongs to, and what it is for, where a column says so.
    place : Place
        Where it stands.
    """

    id: str
    sequence: str
    label: Any
    group: str | None
    part: str | None
    place: Place

    def reject(self, reason: str) -> Reject:
        """Make the row that tells why it was left out."""
        return Reject(self.place.path, self.place.number, self.id, "rejected", reason)


@dataclass
class ReadRecords:
    """What was read: ``records read = len(records) + len(rejects)``."""

    records: list[Labelled] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _used: Counter[str] = field(default_factory=Counter)

    def take(
        self, paths: Sequence[str], config: FinetuneConfig, part: str | None, *, ambiguity: bool
    ) -> None:
        """Read files, whose records are for ``part`` unless that is None: then a column says."""
        for path in paths:
            for row in read_rows(path, config.columns):
                record = Labelled(
                    row.id or str(row.number),
                    row.sequence,
                    row.label,
                    row.group,
                    part or row.part,
                    Place(path, row.number),
                )
                reason, policy = self._judge(record, row, config, ambiguity)
                if reason is None:
                    self._names.add(record.id)
                    self.records.append(record)
                elif policy == "reject":
                    self.rejects.append(record.reject(reason))
                else:
                    raise record.place.refuse(reason)

    def _judge(
        self, record: Labelled, row: Row, config: FinetuneConfig, ambiguity: bool
    ) -> tuple[str | None, str]:
        """Tell why a record cannot be used, if so, and what is to be done then."""
        try:
            record.sequence = normalise(record.sequence)
        except ValueError as error:
            return str(error), config.on_invalid
        reason = why_rejected(record.sequence, 1, 10**9, ambiguity=ambiguity)
        if reason is not None:
            return reason, config.on_invalid
        if len(record.sequence) > config.max_length:
            return f"{len(record.sequence):,} nt, longer than --max-length", "reject"
        if is_missing(record.label):
            return "no label (see --on-missing)", config.on_missing
        if record.id in self._names:
            if config.duplicate_ids == "suffix" or row.id is None:
                record.id = suffixed(record.id, self._used, self._names)
                return None, ""
            return f"another record is called {record.id!r} too", config.duplicate_ids
        return None, ""


def read_records(config: FinetuneConfig, *, ambiguity: bool) -> ReadRecords:
    """Read all files of a run.

    Parameters
    ----------
    config : FinetuneConfig
        Names the files and says what to do with records that cannot be used.
    ambiguity : bool
        Whether the model's vocabulary has IUPAC ambiguity codes; without, they are invalid.

    Raises
    ------
    InputError
        If a file cannot be read, or a record is refused; the message names file and record.
    """
    found = ReadRecords()
    given = bool(config.validation or config.test)
    for part, paths in _files(config):
        part_known = part if given or part != "train" else None
        found.take(paths, config, part_known, ambiguity=ambiguity)
    if not found.records:
        reasons = Counter(reject.reason for reject in found.rejects).most_common(1)
        why = f"; most often: {reasons[0][0]}" if reasons else ""
        raise CorpusError(Path(config.train[0]), f"no record that can be used{why}")
    return found


def _files(config: FinetuneConfig) -> Iterator[tuple[str, list[str]]]:
    yield "train", config.train
    yield "validation", config.validation
    yield "test", config.test
