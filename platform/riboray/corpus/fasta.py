"""Reading FASTA, plain or gzip, without trusting the file.

pyfastx parses fast but forgives too much: a truncated gzip ends silently, a NUL byte or a ``+``
line swallows what follows, FASTQ passes for FASTA. So every file is scanned once, to its very end,
before its first record is handed out, and the records are counted against the scan.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyfastx

from riboray.corpus.files import opened
from riboray.errors import FastaError

__all__ = ["FastaRecord", "read_fasta", "scan_fasta"]

_CHUNK = 1 << 20


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
        Sequence lines joined, not yet validated.
    """

    number: int
    id: str
    description: str
    sequence: str


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
        Before the first record if the file is missing, empty, damaged, binary or not FASTA; at
        the end if the parser saw another number of records than the file has.
    """
    path = Path(path)
    expected = scan_fasta(path)
    number = 0
    try:
        for name, sequence, comment in pyfastx.Fastx(str(path), comment=True):
            number += 1
            yield FastaRecord(number, name, comment or "", sequence)
    except (RuntimeError, OSError, UnicodeDecodeError) as error:
        raise FastaError(path, f"cannot be parsed ({error})", number + 1) from error
    if number != expected:
        raise FastaError(path, f"{expected} header lines, but the parser found {number} records")


def scan_fasta(path: str | Path) -> int:
    """Read a FASTA file to its end and count its records.

    Returns
    -------
    int
        Number of lines that start with ``>``.

    Raises
    ------
    FastaError
        If the file is missing, empty, damaged or something other than FASTA.
    """
    path = Path(path)
    scan = _Scan(path)
    with opened(path, FastaError, "FASTA", lambda: scan.records or None) as handle:
        while chunk := handle.read(_CHUNK):
            scan.feed(chunk)
    return scan.finish()


class _Scan:
    """State of `scan_fasta` between chunks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        self.tail = b"\n"  # the last byte seen; a file starts as if after a line end
        self.started = False
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, chunk: bytes) -> None:
        text = self.tail + chunk
        if not self.started:
            text = self._start(text)
        if b"\0" in chunk:
            before = text[: text.index(b"\0")].count(b"\n>")
            raise self._error("NUL byte: the file is damaged or binary", before)
        for symbol in (b"\n@", b"\n+"):
            if symbol in text:
                before = text[: text.index(symbol)].count(b"\n>")
                line = symbol[1:].decode()
                raise self._error(f"a line starts with {line!r}: is this FASTQ?", before)
        try:
            self.decoder.decode(chunk)
        except UnicodeDecodeError as error:
            # Offsets refer to bytes carried over too; they can lie before this chunk.
            before = chunk[: max(error.start, 0)].count(b"\n>")
            raise self._error("text is not UTF-8", before) from error
        self.records += text.count(b"\n>")
        self.tail = text[-1:]

    def _start(self, text: bytes) -> bytes:
        """Check how the file begins; skip blank lines."""
        body = text.lstrip()
        if not body:
            return text
        if body.startswith(codecs.BOM_UTF8):
            raise FastaError(self.path, "starts with a byte-order mark; save it without one")
        if body.startswith(b"# STOCKHOLM"):
            raise FastaError(self.path, "is Stockholm, not FASTA; pass it as alignments")
        if body.startswith(b"PAR1"):
            raise FastaError(self.path, "is Parquet, not FASTA")
        if not body.startswith((b">", b"@")):
            raise FastaError(self.path, f"not FASTA: starts with {body[:1]!r}, expected '>'")
        self.started = True
        return b"\n" + body

    def _error(self, reason: str, records_before: int) -> FastaError:
        return FastaError(self.path, reason, max(self.records + records_before, 1))

    def finish(self) -> int:
        if not self.started:
            raise FastaError(self.path, "is empty")
        try:
            self.decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise FastaError(self.path, "text is not UTF-8", self.records) from error
        return self.records
