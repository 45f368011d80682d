"""Rows of tables in whatever format: CSV, TSV, JSON, JSON lines, Parquet, FASTA."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from riboray.corpus.fasta import read_fasta
from riboray.corpus.files import first_bytes, first_line, opened, opened_raw
from riboray.corpus.foreign import USUAL_NAMES
from riboray.corpus.sequences import split_structure
from riboray.errors import CorpusError, FastaError, InputError
from riboray.finetuning.config import LabelColumns

__all__ = ["Row", "read_rows"]

#: Columns taken where none is named, the first that is there.
_LABELS = ("label", "labels", "secondary_structure", "structure", "dot_bracket", "target", "class")
_GROUPS = ("family", "group", "cluster", "rfam", "rfam_acc")
#: Lists in lists that a label may be: a matrix of several numbers each.
_DEEPEST = 3

_PARTS = ("split", "part", "partition", "fold", "set")


class Row(NamedTuple):
    """One record as it is written."""

    number: int
    """From 1 on, a header not counted."""
    id: str | None
    sequence: str
    label: Any
    """Text, number, list of such, list of lists; None if there is none."""
    group: str | None
    part: str | None


class _Columns(NamedTuple):
    """Which columns of a table mean what."""

    id: str | None
    sequence: str
    labels: list[str]
    group: str | None
    part: str | None


def read_rows(path: str, columns: LabelColumns) -> Iterator[Row]:
    """Read labelled RNAs from a file whose format its beginning tells, plain or gzip.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, or a row is not one; the message names file and
        record.
    """
    start = first_bytes(path, CorpusError, "table of labelled RNAs")
    start = start.removeprefix(b"\xef\xbb\xbf")
    number = 0
    try:
        for row in _rows(path, columns, start):
            _check(path, row)
            number = row.number
            yield row
    except RecursionError as error:
        raise CorpusError(path, "its label is nested too deep", number + 1) from error
    except UnicodeDecodeError as error:
        raise CorpusError(path, "is not UTF-8 text", number + 1) from error


def _rows(path: str, columns: LabelColumns, start: bytes) -> Iterator[Row]:
    if start.startswith(b"PAR1"):
        return _parquet_rows(path, columns)
    if start.startswith(b">"):
        return _fasta_rows(path)
    if start.startswith((b"{", b"[")):
        return _json_rows(path, columns, start.startswith(b"["))
    return _csv_rows(path, columns)


def _check(path: str, row: Row) -> None:
    """Refuse what no record can have."""
    try:
        for text in (row.id, row.sequence, row.group, row.part):
            (text or "").encode()
    except UnicodeEncodeError as error:
        raise CorpusError(path, "holds characters that are no text", row.number) from error
    label, depth = row.label, 0
    while isinstance(label, list) and label:
        label, depth = label[0], depth + 1
    if depth > _DEEPEST:
        raise CorpusError(path, "its label is nested too deep", row.number)
    if isinstance(label, dict):
        raise CorpusError(path, "its label is an object, not a value or a list", row.number)


def _fasta_rows(path: str) -> Iterator[Row]:
    """Read ``>id label group``; with a structure, which is the label then, ``>id group``."""
    for record in read_fasta(path):
        try:
            sequence, structure = split_structure(record.sequence)
        except ValueError as error:
            raise FastaError(path, str(error), record.number) from error
        words: list[str | None] = [*record.description.split(), None, None]
        label = structure or words.pop(0)
        yield Row(record.number, record.id, sequence, label, words[0], None)


def _csv_rows(path: str, columns: LabelColumns) -> Iterator[Row]:
    number = 0
    csv.field_size_limit(sys.maxsize)  # a chromosome is one cell
    with opened(path, CorpusError, "CSV or TSV", lambda: number) as handle:
        # Line by line, so that what is no text is told with its record.
        lines = (line.decode("utf-8-sig" if k == 0 else "utf-8") for k, line in enumerate(handle))
        try:
            header = next(lines, "")
            names = next(csv.reader([header], delimiter=_delimiter(header)), [])
            names = [name.strip() for name in names]
            found = _find(path, names, columns)
            reader = csv.reader(lines, delimiter=_delimiter(header), strict=True)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                number += 1
                if len(cells) != len(names):
                    reason = f"{len(cells)} cells under a header of {len(names)}"
                    raise CorpusError(path, reason, number)
                yield _row(number, dict(zip(names, cells, strict=True)), found)
        except csv.Error as error:
            raise CorpusError(path, f"no valid CSV ({error})", number + 1) from error


def _delimiter(header: str) -> str:
    return "\t" if "\t" in header else "," if "," in header or ";" not in header else ";"


def _json_rows(path: str, columns: LabelColumns, is_array: bool) -> Iterator[Row]:
    number, found = 0, None
    with opened(path, CorpusError, "JSON", lambda: number) as handle:
        for value in _json_values(path, handle, is_array):
            number += 1
            if not isinstance(value, dict):
                raise CorpusError(path, "is no object with columns", number)
            # A key that is null may be left out: columns are those of the first record.
            found = found or _find(path, list(value), columns)
            yield _row(number, value, found)
    if not number:
        raise CorpusError(path, "is empty")


def _json_values(path: str, handle: BinaryIO, is_array: bool) -> Iterator[Any]:
    """Yield the values of an array, or one of each line."""
    number: int | None = None
    try:
        if is_array:
            yield from json.loads(handle.read())
            return
        for number, line in enumerate((x for x in handle if x.strip()), start=1):  # noqa: B007
            yield json.loads(line)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise CorpusError(path, f"no valid JSON ({error})", number) from error


def _parquet_rows(path: str, columns: LabelColumns) -> Iterator[Row]:
    try:
        with opened_raw(path, CorpusError, "Parquet") as handle:
            file = pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)
            found = _find(path, file.schema_arrow.names, columns)
            wanted = [found.id, found.sequence, *found.labels, found.group, found.part]
            names = list(dict.fromkeys(name for name in wanted if name is not None))
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=names, use_threads=False):
                for value in batch.to_pylist():
                    number += 1
                    yield _row(number, value, found)
    except pa.ArrowException as error:
        raise CorpusError(path, f"Parquet file cannot be read ({first_line(error)})") from error


def _find(path: str, names: list[str], asked: LabelColumns) -> _Columns:
    """Find out which columns mean what.

    Raises
    ------
    CorpusError
        If one that is asked for, or needed, is not there.
    """

    def one(wanted: str | None, usual: tuple[str, ...]) -> str | None:
        if wanted is not None:
            return _there(path, names, wanted)
        found = next((name for name in usual if name in names), None)
        return None if found is None else _there(path, names, found)

    sequence = one(asked.sequence, USUAL_NAMES["sequence"])
    if sequence is None:
        has = ", ".join(names[:12]) or "none"
        raise CorpusError(path, f"no column for the sequence (--columns.sequence); it has {has}")
    id_ = one(asked.id, USUAL_NAMES["id"])
    part, group = one(asked.part, _PARTS), one(asked.group, _GROUPS)
    labels = [_there(path, names, name) for name in asked.label]
    if not labels and (usual := one(None, _LABELS)) is not None:
        labels = [usual]
    if not labels:  # whatever is left, if it is one column
        labels = [name for name in names if name not in (id_, sequence, part, group)]
        if len(labels) != 1:
            has = ", ".join(names[:12])
            raise CorpusError(path, f"no column for the label (--columns.label); it has {has}")
    return _Columns(id_, sequence, labels, group, part)


def _there(path: str, names: list[str], wanted: str) -> str:
    if wanted not in names:
        raise CorpusError(path, f"no column named {wanted!r}; it has {', '.join(names[:12])}")
    if names.count(wanted) > 1:
        raise InputError(path, f"has several columns called {wanted!r}")
    return wanted


def _row(number: int, values: dict[str, Any], columns: _Columns) -> Row:
    def text(name: str | None) -> str | None:
        value = None if name is None else values.get(name)
        if isinstance(value, bytes):
            value = value.decode()
        return None if value is None or value == "" else str(value).strip()

    labels = [_plain(values.get(name)) for name in columns.labels]
    return Row(
        number,
        text(columns.id),
        text(columns.sequence) or "",
        labels[0] if len(labels) == 1 else labels,
        text(columns.group),
        text(columns.part),
    )


def _plain(value: Any) -> Any:
    """Return a label as text, number or list; a list may be written out, as in CSV."""
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("[") and text.endswith("]") and len(text) > 1:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text  # brackets may be a structure
    return text or None
