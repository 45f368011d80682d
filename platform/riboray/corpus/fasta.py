"""Reading FASTA, plain or gzip, without trusting the file: the one reader of this package.

A file is cut into *parts* of about `PART_BYTES` of text at the starts of records; part k begins
with the first record that starts at or after byte ``k * PART_BYTES`` of the (decompressed) text.
So where the cuts lie depends on the file alone, parts of a plain file can be read in any order and
by any process, and a compressed file yields the same parts one after the other.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.corpus.files import opened, opened_raw
from riboray.corpus.strings import Strings
from riboray.errors import FastaError

__all__ = [
    "PART_BYTES",
    "FastaBlock",
    "FastaRecord",
    "parse_fasta",
    "read_fasta",
    "read_part",
    "scan_fasta",
    "stream_parts",
]

#: Text of a part, in bytes, but for the record that lies across its end.
PART_BYTES = 64 << 20

#: A part with its last record must stay below what a 32-bit offset reaches.
_MOST_BYTES = (1 << 31) - 1
_CHUNK = 1 << 20
_NOT_UTF8 = "text is not UTF-8"


@dataclass(frozen=True)
class FastaRecord:
    """One FASTA record as it stands in the file.

    Attributes
    ----------
    number : int
        1-based position in the file.
    id : str
        First word of the header; may be empty.
    description : str
        Rest of the header.
    sequence : str
        Sequence lines joined, blanks at their ends removed, not yet validated.
    """

    number: int
    id: str
    description: str
    sequence: str


@dataclass(frozen=True)
class FastaBlock:
    """Records of one part, as columns.

    Attributes
    ----------
    ids, descriptions, sequences : Strings
        As in `FastaRecord`, undecoded.
    undecodable : ndarray, shape=(n,), dtype=bool
        Whether the header is not UTF-8.
    """

    ids: Strings
    descriptions: Strings
    sequences: Strings
    undecodable: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


def read_fasta(path: str | Path) -> Iterator[FastaRecord]:
    """Yield the records of a FASTA file, plain or gzip.

    Parameters
    ----------
    path : str or Path
        The file.

    Yields
    ------
    FastaRecord
        In file order.

    Raises
    ------
    FastaError
        Before the first record if the file is missing, empty, damaged, binary, not text or not
        FASTA.
    """
    expected = scan_fasta(path)
    number = 0
    for _, text in stream_parts(path):
        block = parse_fasta(path, text, number)
        for row in range(len(block)):
            number += 1
            columns = (block.ids, block.descriptions, block.sequences)
            try:
                name, description, sequence = (c.item(row).decode("utf-8") for c in columns)
            except UnicodeDecodeError as error:
                raise FastaError(path, _NOT_UTF8, number) from error
            yield FastaRecord(number, name, description, sequence)
    if number != expected:
        raise FastaError(path, f"{expected} header lines, but the parser found {number} records")


def scan_fasta(path: str | Path) -> int:
    """Read a FASTA file to its end, check all of it, and count its records.

    Returns
    -------
    int
        Number of records.

    Raises
    ------
    FastaError
        If the file is missing, empty, damaged, not text or something other than FASTA.
    """
    records = 0
    for _, text in stream_parts(path):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            before = text[: error.start].count(b"\n>") + text.startswith(b">")
            raise FastaError(path, _NOT_UTF8, max(records + before, 1)) from error
        records += len(parse_fasta(path, text, records))
    return records


def stream_parts(path: str | Path, part_bytes: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield number and text of every part of a file, plain or gzip, from its beginning on.

    Raises
    ------
    FastaError
        If the file is missing, empty, damaged or not FASTA.
    """
    size = part_bytes or PART_BYTES
    cutter = _Cutter(Path(path) if "://" not in str(path) else path, size)
    with opened(cutter.path, FastaError, "FASTA", lambda: cutter.records or None) as handle:
        while chunk := handle.read(_CHUNK):
            yield from cutter.feed(chunk)
        yield from cutter.finish()


class _Cutter:
    """Cuts a stream of text into parts."""

    def __init__(self, path: str | Path, size: int) -> None:
        self.path = path
        self.records = 0
        self._size = size
        self._part = 0
        self._base = 0  # offset in the file of the first byte held
        self._text = bytearray()
        self._searched = 0  # no record starts between the border wanted and here
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        self._text += chunk
        if not self._started:
            self._started = _check_start(self.path, bytes(self._text.lstrip()[:64]))
        while True:
            border = (self._part + 1) * self._size - self._base
            found = self._text.find(b"\n>", max(border - 1, self._searched, 0))
            if found < 0:
                self._searched = max(len(self._text) - 1, 0)
                if len(self._text) > _MOST_BYTES:
                    raise FastaError(self.path, "a record of over 2 GB", self.records + 1)
                return
            yield from self._cut(found + 1)

    def _cut(self, stop: int) -> Iterator[tuple[int, bytes]]:
        """Hand out the text before ``stop``, where a record starts."""
        text = bytes(self._text[:stop])
        del self._text[:stop]
        self._base += stop
        self._searched = 0
        number, self._part = self._part, (self._base) // self._size
        self.records += text.count(b"\n>") + text.startswith(b">")
        yield number, text

    def finish(self) -> Iterator[tuple[int, bytes]]:
        if not self._started:
            raise FastaError(self.path, "is empty")
        if self._text:
            yield self._part, bytes(self._text)


def read_part(path: str, size: int, part: int, part_bytes: int | None = None) -> bytes:
    """Read one part of a plain file.

    Parameters
    ----------
    path : str
        The file, or its URL.
    size : int
        Bytes of the file.
    part : int
        Number of the part.

    Returns
    -------
    bytes
        Empty if no record starts in this part's share of the file.

    Raises
    ------
    FastaError
        If the file cannot be read, has another size than it had, or does not begin as FASTA.
    """
    share = part_bytes or PART_BYTES
    with opened_raw(path, FastaError, "FASTA") as handle:
        if handle.seek(0, 2) != size:
            raise FastaError(path, "has changed while it was read")
        end = min((part + 1) * share, size)
        begin = _next_record(handle, part * share, end) if part else 0
        if begin >= end:
            return b""
        stop = _next_record(handle, end) if end < size else size
        if stop - begin > _MOST_BYTES:
            raise FastaError(path, f"a record of over 2 GB before byte {stop}")
        handle.seek(begin)
        text = handle.read(stop - begin)
    if not part and not _check_start(path, text.lstrip()[:64]):
        raise FastaError(path, "is empty")
    return text


def _next_record(handle: BinaryIO, offset: int, limit: int | None = None) -> int:
    """Return where the first record at or after ``offset`` starts; the end of the file if none.

    With a limit, what lies beyond is not searched, and something not below it is returned.
    """
    handle.seek(offset - 1)
    position, last = offset - 1, b""
    while chunk := handle.read(_CHUNK):
        found = (last + chunk).find(b"\n>")
        if found >= 0:
            return position - len(last) + found + 1
        position, last = position + len(chunk), chunk[-1:]
        if limit is not None and position > limit:
            break
    return position


def _check_start(path: str | Path, body: bytes) -> bool:
    """Check how a file begins, blanks removed; return False if there is nothing yet."""
    if not body:
        return False
    if body.startswith(codecs.BOM_UTF8):
        raise FastaError(path, "starts with a byte-order mark; save it without one")
    if body.startswith(b"# STOCKHOLM"):
        raise FastaError(path, "is Stockholm, not FASTA; pass it as alignments")
    if body.startswith(b"PAR1"):
        raise FastaError(path, "is Parquet, not FASTA")
    if not body.startswith((b">", b"@")):
        raise FastaError(path, f"not FASTA: starts with {chr(body[0])!r}, expected '>'")
    return True


def parse_fasta(path: str | Path, text: bytes, records_before: int = 0) -> FastaBlock:
    """Turn the text of a part into columns.

    Parameters
    ----------
    path : str or Path
        The file, for messages.
    text : bytes
        Whole records; blank lines may come before the first.
    records_before : int
        Records of the file in the parts before, for messages.

    Raises
    ------
    FastaError
        On what no FASTA file holds: NUL bytes, lines that start with ``@`` or ``+``, lines that
        end with a carriage return alone.
    """
    if not text.startswith(b">"):
        text = text.lstrip()
    if (position := text.find(b"\0")) >= 0:
        reason = "NUL byte: the file is damaged or binary"
        raise FastaError(path, reason, _record_at(text, position, records_before))
    returns = text.count(b"\r")
    mixed = returns and returns != text.count(b"\r\n")
    if mixed and (position := _lone_return(text)) >= 0:
        reason = "lines end with carriage returns alone (old Mac); convert them to line feeds"
        raise FastaError(path, reason, _record_at(text, position, records_before))
    body = np.frombuffer(text, dtype=np.uint8)
    count = int(_count_headers(body))
    spans = np.zeros((count, 4), dtype=np.int64)
    offsets = np.zeros(count + 1, dtype=np.int64)
    data = np.empty(len(body), dtype=np.uint8)
    stopped = int(_parse(body, spans, data, offsets))
    if stopped >= 0:
        reason = f"a line starts with {chr(text[stopped])!r}: is this FASTQ?"
        raise FastaError(path, reason, _record_at(text, stopped, records_before))
    source, rows = Strings(body, np.zeros(count + 1, np.int64)), np.arange(count)
    ids = source.slices(rows, spans[:, 0].copy(), spans[:, 1].copy())
    descriptions = source.slices(rows, spans[:, 2].copy(), spans[:, 3].copy())
    undecodable = ids.undecodable() | descriptions.undecodable()
    return FastaBlock(ids, descriptions, Strings(data[: offsets[-1]], offsets), undecodable)


def _record_at(text: bytes, position: int, records_before: int) -> int:
    before = text[:position].count(b"\n>") + text.startswith(b">")
    return max(records_before + before, 1)


def _lone_return(text: bytes) -> int:
    """Return where a carriage return stands that neither ends nor follows a line, or -1.

    Several of them before a line feed are blanks at the end of a line.
    """
    position = text.find(b"\r")
    while position >= 0:
        end = position
        while text[end : end + 1] == b"\r":
            end += 1
        if text[end : end + 1] not in (b"\n", b""):
            return position
        position = text.find(b"\r", end)
    return -1


@njit(nogil=True, cache=True)
def _count_headers(text: NDArray[np.uint8]) -> int:
    """Count lines that start with ``>``; several times faster than ``bytes.count``."""
    count = int(len(text) > 0 and text[0] == 62)
    for i in range(1, len(text)):
        count += (text[i] == 62) & (text[i - 1] == 10)
    return count


@njit(nogil=True, cache=True)
def _parse(
    text: NDArray[np.uint8],
    spans: NDArray[np.int64],
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
) -> int:
    """Fill the columns; return where a line starts with ``@`` or ``+``, or -1.

    ``spans`` holds start and end of id and description. A blank is a space or one of the ASCII
    control characters 9 to 13.
    """
    size, i, out, record = len(text), 0, 0, -1
    while i < size:
        start = i
        first = text[i]
        if first == 62:
            record += 1
            offsets[record] = out
            while i < size and text[i] != 10:
                i += 1
            end = i
            while end > start + 1 and (text[end - 1] == 32 or 9 <= text[end - 1] <= 13):
                end -= 1
            word = start + 1
            while word < end and not (text[word] == 32 or 9 <= text[word] <= 13):
                word += 1
            rest = word
            while rest < end and (text[rest] == 32 or 9 <= text[rest] <= 13):
                rest += 1
            spans[record] = (start + 1, word, rest, end)
        elif first == 64 or first == 43:
            return start
        else:
            while i < size and (text[i] == 32 or text[i] == 9):
                i += 1
            begin = out
            while i < size and text[i] != 10:
                data[out] = text[i]
                out += 1
                i += 1
            while out > begin and (data[out - 1] == 32 or 9 <= data[out - 1] <= 13):
                out -= 1
        i += 1
    offsets[record + 1] = out
    return -1
