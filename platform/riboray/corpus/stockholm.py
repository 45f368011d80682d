"""Reading Stockholm files with one or many alignments, as Rfam ships its seeds.

Biopython parses each alignment; here the file is cut at its ``//`` lines, so that an error names
the alignment, and a truncated file is noticed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from Bio import AlignIO

from riboray.corpus.files import is_remote, opened
from riboray.errors import StockholmError

__all__ = ["FamilyAlignment", "read_stockholm"]


@dataclass(frozen=True)
class FamilyAlignment:
    """The seed alignment of one RNA family.

    Attributes
    ----------
    number : int
        1-based position in the file.
    accession : str
        ``#=GF AC``, else ``#=GF ID``, else ``<file>-<number>``.
    name : str
        ``#=GF ID``, else the accession.
    ids : tuple of str
        Sequence names, as in the file.
    rows : tuple of str
        Gapped rows, all of one length, gaps as ``-``.
    ss_cons : str or None
        Consensus secondary structure, WUSS notation, one symbol a column.
    """

    number: int
    accession: str
    name: str
    ids: tuple[str, ...]
    rows: tuple[str, ...]
    ss_cons: str | None


def read_stockholm(path: str | Path) -> Iterator[FamilyAlignment]:
    """Yield the alignments of a Stockholm file, plain or gzip.

    Parameters
    ----------
    path : str or Path
        The file.

    Yields
    ------
    FamilyAlignment
        In file order.

    Raises
    ------
    StockholmError
        If the file is missing, empty, damaged, not Stockholm, or an alignment of it cannot be
        parsed; the message names the alignment.
    """
    path = path if is_remote(path) else Path(path)
    number = 0
    for number, block in enumerate(_blocks(path), start=1):
        yield _parse(path, number, block)
    if number == 0:
        raise StockholmError(path, "is empty")


def _blocks(path: str | Path) -> Iterator[str]:
    """Cut a file into the texts of its alignments, each with its header and ``//`` line."""
    lines: list[str] = []
    count = 0
    # Rfam's author names are Latin-1 in places; sequences and ids are ASCII. Latin-1 decodes any
    # byte, so a name can never make a seed alignment unreadable.
    with (
        opened(path, StockholmError, "Stockholm", lambda: count + 1) as handle,
        io.TextIOWrapper(handle, encoding="latin-1") as text,
    ):
        for line in text:
            if not line.isascii():
                with suppress(UnicodeDecodeError):  # most of it is UTF-8, nowadays
                    line = line.encode("latin-1").decode("utf-8")
            if "\0" in line:
                raise StockholmError(path, "NUL byte: damaged or binary", count + 1)
            if not lines:
                if not line.strip():
                    continue
                if not line.startswith("# STOCKHOLM"):
                    found = line[:20].rstrip()
                    reason = f"not Stockholm: starts with {found!r}, expected '# STOCKHOLM 1.0'"
                    raise StockholmError(path, reason, count + 1)
            lines.append(line)
            if line.rstrip() == "//":
                count += 1
                yield "".join(lines)
                lines = []
    if lines:
        raise StockholmError(path, "ends without '//': it is truncated", count + 1)


def _parse(path: str | Path, number: int, block: str) -> FamilyAlignment:
    try:
        (alignment,) = AlignIO.parse(io.StringIO(block), "stockholm")  # type: ignore[no-untyped-call]
    except (ValueError, AssertionError, KeyError, IndexError) as error:
        reason = f"cannot be parsed ({error or 'malformed line'})"
        raise StockholmError(path, reason, number) from error
    features = {
        line[5:7]: line[7:].strip()
        for line in block.splitlines()
        if line.startswith(("#=GF AC ", "#=GF ID "))
    }
    accession = (
        features.get("AC") or features.get("ID") or f"{Path(path).name.split('.')[0]}-{number}"
    )
    return FamilyAlignment(
        number=number,
        accession=accession,
        name=features.get("ID") or accession,
        ids=tuple(record.id for record in alignment),
        rows=tuple(str(record.seq) for record in alignment),
        ss_cons=alignment.column_annotations.get("secondary_structure") or None,
    )
