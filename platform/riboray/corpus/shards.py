"""Last step of ingesting: the files that users see, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from riboray.corpus.buckets import read_buckets
from riboray.corpus.naming import renamed
from riboray.corpus.records import SEQUENCE_SCHEMA
from riboray.manifest import FileEntry, atomic_path

__all__ = [
    "Shard",
    "cut_evenly",
    "in_groups",
    "plan_shards",
    "row_group_size",
    "write_shard",
    "write_table",
    "write_tables",
]

SortBy = Literal["hash", "length"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard to write.

    Attributes
    ----------
    path : Path
        The file.
    slices : tuple of (int, int, int, int)
        Partition, first and last-plus-one row of the bucket, and the number that the bucket's
        first row has in its partition.
    bucket : int
        Bucket of the partitions' files: training or validation.
    kept, names : tuple of Path
        Files of kept rows by partition; files of new names.
    sort : str
        Order of the rows.
    group : int
        Rows of a row group.
    """

    path: Path
    slices: tuple[tuple[int, int, int, int], ...]
    bucket: int
    kept: tuple[Path, ...]
    names: tuple[Path, ...]
    sort: SortBy
    group: int


def row_group_size(rows: int) -> int:
    """Return the rows of a row group, the unit that a reader takes and shuffles within.

    Sixteen or more of them let even a small corpus be read by several workers.
    """
    return min(max(rows // 16, 1), 4096)


def cut_evenly(rows: int, size: int) -> list[tuple[int, int]]:
    """Cut rows into shards of ``size`` at most, equal but for one row."""
    shards = -(-rows // size)
    return [(rows * k // shards, rows * (k + 1) // shards) for k in range(shards)]


def plan_shards(counts: list[int], size: int) -> list[list[tuple[int, int, int]]]:
    """Say which rows of which partition each shard takes.

    Parameters
    ----------
    counts : list of int
        Rows of each partition, in order.
    size : int
        Rows of a shard, at most.

    Returns
    -------
    list of list of (int, int, int)
        Partition, first and last-plus-one row of its rows, for each shard.
    """
    ends = np.cumsum(counts).tolist()
    plans = []
    for first, last in cut_evenly(ends[-1] if ends else 0, size):
        slices = []
        for partition, (end, count) in enumerate(zip(ends, counts, strict=True)):
            start = end - count
            low, high = max(first, start), min(last, end)
            if low < high:
                slices.append((partition, low - start, high - start))
        plans.append(slices)
    return plans


def write_shard(shard: Shard) -> FileEntry:
    """Write one shard, or recognise the one that is there."""
    rows = sum(last - first for _, first, last, _ in shard.slices)
    if shard.path.is_file():  # it has this name only since it was whole
        return FileEntry.of(shard.path, rows)
    tables = []
    for partition, first, last, offset in shard.slices:
        (batch,) = read_buckets([shard.kept[partition]], shard.bucket)
        part = pa.Table.from_batches([batch.slice(first, last - first)]).combine_chunks()
        ids = part["id"].chunk(0)
        ids = renamed(ids, offset + first, partition, list(shard.names))
        tables.append(part.set_column(part.schema.get_field_index("id"), "id", ids))
    table = pa.concat_tables(tables).combine_chunks()
    lengths = pc.cast(pc.binary_length(table["sequence"]), pa.int32())
    if shard.sort == "length":
        order = pa.array(np.argsort(lengths.to_numpy(), kind="stable"))
        table, lengths = table.take(order), lengths.take(order)
    text = pc.if_else(pc.equal(table["description"], ""), None, table["description"])
    columns = {name: table[name] for name in SEQUENCE_SCHEMA.names if name in table.column_names}
    columns |= {
        "length": lengths,
        "rna_type": table["rna_type"].combine_chunks().dictionary_encode(),
        "description": text,
    }
    return write_table(shard.path, pa.table(columns, schema=SEQUENCE_SCHEMA), shard.group)


def write_table(path: Path, table: pa.Table, group: int) -> FileEntry:
    """Write a table as Parquet, atomically."""
    return write_tables(path, [table], table.schema, group)


def write_tables(
    path: Path, tables: Iterable[pa.Table], schema: pa.Schema, group: int = 50_000
) -> FileEntry:
    """Write tables as one Parquet file, atomically and one after the other."""
    rows = 0
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            use_dictionary=_dictionaries(schema),
            # Of texts in the order of a hash, the least and the greatest tell nothing.
            write_statistics=[f.name for f in schema if not pa.types.is_string(f.type)],
        ) as writer:
            for table in tables:
                whole = table.cast(schema).combine_chunks()
                writer.write_table(whole, row_group_size=group)
                rows += len(table)
        entry = FileEntry.of(temporary, rows)
    return FileEntry(path.name, entry.rows, entry.bytes, entry.sha256)


def _dictionaries(schema: pa.Schema) -> list[str]:
    """Name the columns whose values repeat: only they gain by a dictionary."""
    repeating = {"taxid", "rna_type", "family", "name", "file", "outcome", "reason", "length"}
    return [name for name in schema.names if name in repeating]


def in_groups(tables: Iterator[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Regroup tables into tables of ``rows`` rows, so that files do not show how work was cut."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += len(table)
        if count >= rows:
            whole = pa.concat_tables(held)
            full = count - count % rows
            yield whole.slice(0, full)
            held, count = [whole.slice(full)], count - full
    if count or not held:
        yield pa.concat_tables(held) if held else schema.empty_table()
