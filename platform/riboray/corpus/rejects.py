"""The file that says which records were left out, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from riboray.console import say
from riboray.corpus.records import REJECT_SCHEMA, Reject
from riboray.manifest import atomic_path

__all__ = ["write_rejects"]

#: Records written together.
_CHUNK = 100_000


def write_rejects(rejects: Iterable[Reject], directory: Path) -> int:
    """Write ``rejects.parquet`` into a directory and say so; return how many there are.

    They are written some at a time, and nothing if there are none.
    """
    path, count = directory / "rejects.parquet", 0
    source = iter(rejects)
    chunk = list(islice(source, _CHUNK))
    if not chunk:
        return 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, REJECT_SCHEMA) as writer:
        while chunk:
            rows = [asdict(reject) for reject in chunk]
            writer.write_table(pa.Table.from_pylist(rows, REJECT_SCHEMA))
            count += len(chunk)
            chunk = list(islice(source, _CHUNK))
    say(f"  {count:,} records left out; reasons in {path}")
    return count
