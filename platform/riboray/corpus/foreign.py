"""Parquet files that somebody else made, as sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from riboray.corpus.config import ColumnNames
from riboray.corpus.fasta import PART_BYTES
from riboray.corpus.files import first_line, opened_raw
from riboray.corpus.screening import Block
from riboray.corpus.strings import Strings
from riboray.errors import CorpusError

__all__ = ["USUAL_NAMES", "RowGroup", "group_blocks", "list_groups"]

#: Rows of a part, at most.
_MOST_ROWS = 65_536

USUAL_NAMES = {
    "id": ("id", "urs", "name", "accession", "seq_id"),
    "sequence": ("sequence", "seq"),
    "description": ("description",),
    "taxid": ("taxid", "ncbi_taxid", "tax_id"),
    "rna_type": ("rna_type", "type"),
    "family": ("family", "rfam", "rfam_acc"),
}


@dataclass(frozen=True)
class RowGroup:
    """One row group and the number of parts it is read as."""

    index: int
    rows: int
    parts: int


@contextmanager
def _parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; turn what goes wrong, also inside the block, into a `CorpusError`."""
    try:
        with opened_raw(path, CorpusError, "Parquet") as handle:
            # Without pre-buffering, memory is bounded by a few pages a column and not by the
            # row group, which may be the whole file.
            yield pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)
    except pa.ArrowException as error:
        raise CorpusError(path, f"Parquet file cannot be read ({first_line(error)})") from error


def list_groups(path: str, names: ColumnNames, part_bytes: int = PART_BYTES) -> list[RowGroup]:
    """List a Parquet file's row groups.

    Raises
    ------
    CorpusError
        If it is damaged, lacks a column that is needed, or has no rows.
    """
    with _parquet(path) as file:
        found = _find_columns(path, file.schema_arrow, names)
        metadata = file.metadata
        leaves = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        groups = []
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            wanted = [leaves[name] for name in found.values() if name in leaves]
            size = sum(group.column(i).total_uncompressed_size for i in wanted)
            # Sizes are those of the encoded columns: repeated texts take far more when read.
            parts = max(-(-size // part_bytes), -(-group.num_rows // _MOST_ROWS), 1)
            parts = min(parts, max(group.num_rows, 1))
            groups.append(RowGroup(index, group.num_rows, parts))
    if not sum(group.rows for group in groups):
        raise CorpusError(path, "is empty")
    return groups


def _find_columns(path: str, schema: pa.Schema, names: ColumnNames) -> dict[str, str]:
    """Map our columns to those of the file."""
    found = {}
    for ours in (field.name for field in fields(names)):
        asked = getattr(names, ours)
        candidates = (asked,) if asked else USUAL_NAMES[ours]
        match = next((name for name in candidates if name in schema.names), None)
        if match is None and (asked or ours in ("id", "sequence")):
            wanted = f"named {asked!r}" if asked else f"for the {ours}"
            has = ", ".join(schema.names)
            raise CorpusError(path, f"no column {wanted} (--columns.{ours}); it has {has}")
        if match is not None and schema.names.count(match) > 1:
            raise CorpusError(path, f"has several columns called {match!r}")
        if match is not None:
            found[ours] = match
    return found


def group_blocks(path: str, group: int, parts: int, names: ColumnNames) -> Iterator[Block]:
    """Yield a row group as ``parts`` blocks of equal size, in bounded memory.

    Raises
    ------
    CorpusError
        If the file cannot be read, or a column is of a type that cannot be used.
    """
    with _parquet(path) as file:
        found = _find_columns(path, file.schema_arrow, names)
        rows = file.metadata.row_group(group).num_rows
        borders = [rows * k // parts for k in range(parts + 1)]
        batches = file.iter_batches(
            batch_size=8192, row_groups=[group], columns=list(found.values()), use_threads=False
        )
        held: list[pa.RecordBatch] = []
        start, number = 0, 0
        for batch in batches:
            held.append(batch)
            while number < parts and start + sum(map(len, held)) >= borders[number + 1]:
                table = pa.Table.from_batches(held)
                size = borders[number + 1] - start
                yield _block(path, table.slice(0, size), found, start)
                held = [b for b in table.slice(size).to_batches() if len(b)]
                start, number = start + size, number + 1


def _block(path: str, table: pa.Table, found: dict[str, str], start: int) -> Block:
    count = len(table)

    def column(ours: str, kind: pa.DataType) -> Any:
        if ours not in found:
            return pa.nulls(count, kind)
        values = table[found[ours]].combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0, kind)
        try:
            return pc.cast(values, kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = f"column {found[ours]!r} cannot be read as {kind} ({first_line(error)})"
            raise CorpusError(path, reason, f"{start + 1} to {start + count}") from error

    ids, sequences, descriptions = (
        Strings.from_arrow(column(name, pa.string())) for name in ("id", "sequence", "description")
    )
    return Block(
        ids=ids,
        descriptions=descriptions,
        sequences=sequences,
        records=np.arange(1, count + 1),
        undecodable=ids.undecodable() | descriptions.undecodable(),
        taxids=column("taxid", pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False),
        rna_types=column("rna_type", pa.string()),
        families=column("family", pa.string()),
    )
