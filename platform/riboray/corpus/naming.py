"""Third step of ingesting: ids that are unique in the corpus.

Ids are dealt to buckets without their trailing ``.digits``, so that an id and all the names that a
suffix could give it are looked at together.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.corpus.buckets import read_buckets, read_note, write_buckets
from riboray.corpus.config import DuplicateIds
from riboray.corpus.parts import Plan
from riboray.corpus.strings import Strings, hash_rows

__all__ = ["NAME_SCHEMA", "IdBucket", "KeptRows", "make_names", "renamed"]

NAME_SCHEMA = pa.schema([("row", pa.int64()), ("id", pa.string())])
"""A kept row, by its partition (the bucket) and row, and the id it gets instead of its own."""


@dataclass(frozen=True, kw_only=True)
class IdBucket:
    """One bucket of ids to look at.

    Attributes
    ----------
    number : int
        Which.
    ids, kept : list of Path
        Files of ids, and of kept rows, of all partitions in order.
    policy : str
        What to do with ids that several sequences have.
    target : Path
        The file to write.
    """

    plan: Plan
    number: int
    ids: list[Path]
    kept: list[Path]
    policy: DuplicateIds
    target: Path


class KeptRows:
    """Reads rows of a partition's kept file by their number through both of its buckets."""

    def __init__(self, path: Path) -> None:
        buckets = [read_buckets([path], bucket) for bucket in (0, 1)]
        batches = [batch for bucket in buckets for batch in bucket]
        self._table = pa.Table.from_batches(batches) if batches else None

    def column(self, name: str, rows: NDArray[np.int64]) -> list[Any]:
        """Return values of one column."""
        if self._table is None or not len(rows):
            return []
        values: list[Any] = self._table[name].take(pa.array(rows)).to_pylist()
        return values


def make_names(task: IdBucket) -> dict[str, Any]:
    """Find ids that several kept sequences share, and say what becomes of the later ones.

    Returns
    -------
    dict
        ``renamed``: number of rows given another id, which the bucket's file lists. ``clash``:
        with ``policy="error"``, the first row whose id another has. ``banned``: with
        ``policy="reject"``, all such rows.
    """
    if (done := read_note(task.target)) is not None:
        return done
    batches = read_buckets(task.ids, task.number)
    note: dict[str, Any] = {"bucket": task.number, "renamed": 0, "clash": None, "banned": []}
    names: list[tuple[int, int, str]] = []
    if batches:
        table = pa.Table.from_batches(batches)
        hashes = table["hash"].to_numpy()
        taken = np.sort(hashes)
        repeated = taken[1:][taken[1:] == taken[:-1]]
        if len(repeated):
            rows = np.flatnonzero(np.isin(hashes, repeated))
            groups = _groups(task, table, rows)
            if task.policy == "suffix":
                names = _suffixed(groups, taken)
            else:
                later = sorted(row for group in groups for row in group[1:])
                note["clash"] = list(later[0]) if later and task.policy == "error" else None
                note["banned"] = [list(row) for row in later] if task.policy == "reject" else []
    note["renamed"] = len(names)
    columns = {
        "row": pa.array([row for _, row, _ in names], pa.int64()),
        "id": pa.array([name for _, _, name in names], pa.string()),
    }
    partition = np.array([number for number, _, _ in names], dtype=np.int64)
    write_buckets(
        task.target, pa.table(columns, NAME_SCHEMA), partition, task.plan.partitions, note
    )
    return note


_Row = tuple[int, int, str, int, int, int]
"""Place, record, id, partition, row and piece of a kept sequence; sorts as the input does."""


def _groups(task: IdBucket, table: pa.Table, rows: NDArray[np.int64]) -> list[list[_Row]]:
    """Fetch the ids of candidate rows and group those that really are equal."""
    partitions, numbers = (table[name].to_numpy()[rows] for name in ("partition", "row"))
    by_id: dict[str, list[_Row]] = defaultdict(list)
    for partition in np.unique(partitions).tolist():
        chosen = numbers[partitions == partition]
        kept = KeptRows(task.kept[partition])
        columns = [kept.column(name, chosen) for name in ("place", "record", "id", "piece")]
        for place, record, name, piece, row in zip(*columns, chosen.tolist(), strict=True):
            by_id[name].append((place, record, name, partition, row, piece))
    return [sorted(group) for group in by_id.values() if len(group) > 1]


def _suffixed(groups: list[list[_Row]], taken: NDArray[np.uint64]) -> list[tuple[int, int, str]]:
    """Give the second, third, … sequence of an id the first free of id.2, id.3 and so on."""
    given: set[str] = set()
    names = []
    for group in sorted(groups):
        number = 1
        for _, _, name, partition, row, _ in group[1:]:
            while True:
                number += 1
                candidate = f"{name}.{number}"
                if candidate not in given and not _is_taken(candidate, taken):
                    break
            given.add(candidate)
            names.append((partition, row, candidate))
    return names


def _is_taken(name: str, taken: NDArray[np.uint64]) -> bool:
    """Tell whether some id has the hash of this one; if in doubt, the name is left alone."""
    text = Strings.of([name])
    value = hash_rows(text.data, text.offsets)[0]
    place = int(np.searchsorted(taken, value))
    return place < len(taken) and bool(taken[place] == value)


def renamed(ids: pa.Array, first_row: int, partition: int, names: list[Path]) -> pa.Array:
    """Return ids of consecutive kept rows with the new names put in.

    Parameters
    ----------
    ids : pyarrow string array
        Their own ids.
    first_row : int
        Number of the first row in its partition.
    partition : int
        The partition.
    names : list of Path
        Files of those buckets that rename anything.
    """
    batches = read_buckets(names, partition)
    if not batches:
        return ids
    table = pa.Table.from_batches(batches)
    rows = table["row"].to_numpy() - first_row
    inside = (rows >= 0) & (rows < len(ids))
    if not inside.any():
        return ids
    new = table["id"].to_numpy(zero_copy_only=False)
    values = ids.to_numpy(zero_copy_only=False).copy()
    values[rows[inside]] = new[inside]
    return pa.array(values, pa.string())
