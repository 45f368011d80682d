"""Tables on disk that are cut into buckets: what one step of ingesting hands to the next.

A file holds one record batch a bucket, in order, so that a reader takes its bucket of many files
and nothing else. Files of work in progress are whole or absent, but not forced to disk: a machine
that goes down takes them along (see `ingestion`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["bucket_of", "read_buckets", "read_note", "spread", "write_buckets", "write_note"]

_NOTE = b"riboray.note"


def bucket_of(hashes: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each hash; buckets are equal ranges of hashes, in order."""
    high = (hashes >> np.uint64(32)) * np.uint64(buckets)
    return (high >> np.uint64(32)).astype(np.int64)


def spread(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Turn keys that may be consecutive into hashes (Fibonacci hashing)."""
    return keys * np.uint64(0x9E3779B97F4A7C15)


def write_buckets(
    path: Path,
    table: pa.Table,
    bucket: NDArray[np.integer],
    buckets: int,
    note: dict[str, Any] | None = None,
) -> None:
    """Write rows, each into its bucket, in the order they have.

    Parameters
    ----------
    path : Path
        The file.
    table : pa.Table
        The rows.
    bucket : ndarray, shape=(rows,), dtype=integer
        Bucket of each.
    buckets : int
        Number of buckets.
    note : dict, optional
        Anything JSON can hold; `read_note` returns it.
    """
    borders = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=buckets))])
    if (bucket[1:] < bucket[:-1]).any():
        table = table.take(pa.array(np.argsort(bucket, kind="stable")))
    (batch,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    schema = table.schema.with_metadata({_NOTE: json.dumps(note or {}).encode()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
                writer.write_batch(_compact(batch.slice(first, last - first), schema))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _compact(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def read_buckets(paths: Iterable[Path], bucket: int) -> list[pa.RecordBatch]:
    """Read one bucket of several files, in the order of the files; empty ones are left out.

    The batches are views of the files.
    """
    batches = []
    for path in paths:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(bucket)
        if batch.num_rows:
            batches.append(batch)
    return batches


def read_note(path: Path) -> dict[str, Any] | None:
    """Return what was noted in a file, or None if there is no such file."""
    try:
        with pa.memory_map(str(path)) as source:
            metadata = pa.ipc.open_file(source).schema.metadata
    except FileNotFoundError:
        return None
    note: dict[str, Any] = json.loads(metadata[_NOTE])
    return note


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Write a file that holds a note alone."""
    empty = pa.table({"nothing": pa.array([], pa.int8())})
    write_buckets(path, empty, np.empty(0, np.int64), 1, note)
