"""The file that says which records were left out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from riboray.console import say
from riboray.corpus.records import REJECT_SCHEMA, Reject
from riboray.manifest import atomic_path

__all__ = ["write_rejects"]


def write_rejects(rejects: Sequence[Reject], directory: Path) -> None:
    """Write ``rejects.parquet`` into a directory and say so."""
    path = directory / "rejects.parquet"
    table = pa.Table.from_pylist([asdict(reject) for reject in rejects], REJECT_SCHEMA)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
    say(f"  {len(rejects):,} records left out; reasons in {path}")
