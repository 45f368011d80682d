"""Second step of ingesting: one partition at a time, filtered, deduplicated and put in order.

A partition is a range of hashes, so records with one sequence meet in one partition, wherever they
came from. Equal hashes only make records candidates: the sequences themselves are compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from riboray.corpus.buckets import bucket_of, read_buckets, read_note, write_buckets
from riboray.corpus.mapping import parse_urs
from riboray.corpus.parts import (
    DATA,
    EXCLUDE,
    EXCLUDED_MEMBER,
    HELD_OUT,
    LEFT_SCHEMA,
    MEMBER,
    PART_SCHEMA,
    Plan,
)
from riboray.corpus.records import CATEGORIES, is_validation
from riboray.corpus.screening import Rules
from riboray.corpus.strings import Strings, base_hash, equal_neighbours, hash_rows

__all__ = ["KEPT_SCHEMA", "Partition", "make_partition", "partition_path"]

KEPT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sequence", pa.string()),
        ("taxid", pa.int32()),
        ("rna_type", pa.string()),
        ("family", pa.string()),
        ("description", pa.string()),
        ("sha256_64", pa.uint64()),
        ("place", pa.uint64()),
        ("record", pa.int64()),
        ("piece", pa.int32()),
    ]
)

REPEAT_SCHEMA = pa.schema(
    [
        ("sha256_64", pa.uint64()),
        ("kept", pa.int64()),
        ("place", pa.uint64()),
        ("record", pa.int64()),
        ("id", pa.string()),
        ("taxid", pa.int32()),
    ]
)
"""A record whose sequence is kept under another id; ``kept`` is the row of the partition's file,
counted through its training and validation buckets."""

ID_SCHEMA = pa.schema([("hash", pa.uint64()), ("partition", pa.int32()), ("row", pa.int64())])

_MAPPING_REASONS = {
    11: "no taxid that is asked for, in the id mapping",
    12: "no RNA type that is asked for, in the id mapping",
    13: "in no database that is asked for, in the id mapping",
    14: "not in the id mapping",
}


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition to make.

    Attributes
    ----------
    number : int
        Which.
    parts : list of Path
        Files of `parts`, in the order of the input.
    joins : list of Path or None
        Files of `mapping`; None without an id mapping.
    id_buckets : int
        Buckets that ids are dealt to.
    validation_share : float
        Share of sequences held out by their hash.
    banned : tuple of int
        Places of records whose ids another has taken.
    round : int
        How often this partition was made before, because of records banned.
    """

    plan: Plan
    number: int
    parts: list[Path]
    joins: list[Path] | None
    id_buckets: int
    validation_share: float = 0.0
    banned: tuple[int, ...] = ()
    round: int = 0


def partition_path(plan: Plan, kind: str, number: int, round_: int = 0) -> Path:
    """Return the file that holds a partition's ``kind`` of output."""
    return plan.work / f"{kind}-{number:05d}-{round_}.arrow"


def make_partition(task: Partition) -> dict[str, Any]:
    """Make one partition; return its counts, which are in its file, too."""
    plan = task.plan
    target = partition_path(plan, "kept", task.number, task.round)
    if (done := read_note(target)) is not None:
        return done
    batches = read_buckets(task.parts, task.number)
    table = pa.Table.from_batches(batches, PART_SCHEMA).combine_chunks()
    if task.banned:
        banned = pa.array(task.banned, pa.uint64())
        table = table.filter(pc.invert(pc.is_in(table["place"], value_set=banned)))
    table, left, counts = _apply_mapping(task, table)
    groups = _Groups.of(table)
    data = (groups.role & DATA) > 0
    bits = np.bitwise_or.reduceat(groups.role, groups.starts) if len(groups.starts) else groups.role
    first = _first_of_group(groups, data)
    excluded = (bits & (EXCLUDE | EXCLUDED_MEMBER)) > 0
    kept_groups = np.flatnonzero((first >= 0) & ~excluded)
    kept = groups.order[first[kept_groups]]
    kept_table = _kept_table(table, groups, kept_groups, kept)
    held_out = (bits[kept_groups] & HELD_OUT) > 0
    held_out |= is_validation(kept_table["sha256_64"].to_numpy(), task.validation_share)
    rank = np.empty(len(kept), dtype=np.int64)  # row of the file that each kept row gets
    rank[np.argsort(held_out, kind="stable")] = np.arange(len(kept))
    row_of_group = np.full(len(groups.starts), -1, dtype=np.int64)
    row_of_group[kept_groups] = rank
    is_out = data & excluded[groups.of_row]
    is_repeat = data & ~is_out
    is_repeat[first[kept_groups]] = False
    repeats = np.flatnonzero(is_repeat)
    by_sequence = (bits & EXCLUDE)[groups.of_row] > 0
    for code, chosen, reason in (
        (15, is_out & by_sequence, "same sequence as one excluded"),
        (17, is_out & ~by_sequence, "same sequence as a member of an excluded family"),
    ):
        out = groups.order[np.flatnonzero(chosen)]
        left.append(_left_rows(table, out, "filtered", reason))
        counts.update(_count(table, out, "filtered", code))
    counts.update(_count(table, kept, "kept"))
    counts.update(_count(table, groups.order[repeats], "duplicates"))
    _write_repeats(task, table, groups.order[repeats], row_of_group[groups.of_row[repeats]])
    left_table = pa.concat_tables(left)
    path = partition_path(plan, "out", task.number, task.round)
    write_buckets(path, left_table, np.zeros(len(left_table), np.int64), 1)
    _write_ids(task, kept_table, rank)
    nucleotides = int(Strings.from_arrow(kept_table["sequence"]).lengths.sum())
    note = {
        "partition": task.number,
        "training": int((~held_out).sum()),
        "validation": int(held_out.sum()),
        "nucleotides": nucleotides,
        "excluded_members": _hashes_of(table, groups, excluded & ((bits & MEMBER) > 0)),
        "counts": dict(counts),
    }
    write_buckets(target, kept_table, held_out.astype(np.int64), 2, note)
    return note


def _apply_mapping(
    task: Partition, table: pa.Table
) -> tuple[pa.Table, list[pa.Table], Counter[str]]:
    """Put taxids and RNA types in, and take out what the filters refuse."""
    counts: Counter[str] = Counter()
    if task.joins is None:
        return table, [LEFT_SCHEMA.empty_table()], counts
    places = table["place"].to_numpy()
    batches = read_buckets(task.joins, task.number)
    found = pa.Table.from_batches(batches).combine_chunks() if batches else None
    code = np.full(len(table), 14, dtype=np.uint8)
    index = np.full(len(table), -1, dtype=np.int64)
    if found is not None:
        order = np.argsort(found["place"].to_numpy(), kind="stable")
        known = found["place"].to_numpy()[order]
        near = np.minimum(np.searchsorted(known, places), len(known) - 1)
        hit = known[near] == places
        index[hit] = order[near[hit]]
        code[hit] = found["code"].to_numpy()[index[hit]]
        take = pa.array(index, mask=index < 0)
        for name in ("taxid", "rna_type"):
            column = pc.coalesce(found[name].take(take), table[name])
            table = table.set_column(table.schema.get_field_index(name), name, column)
        table = table.combine_chunks()
    rules = task.plan.rules
    _judge_by_own_columns(table, rules, code)
    code[(table["role"].to_numpy() & DATA) == 0] = 0
    if not (rules.taxids or rules.rna_types or rules.databases):
        code[:] = 0
    left = [LEFT_SCHEMA.empty_table()]
    for number in np.unique(code[code > 0]).tolist():
        rows = np.flatnonzero(code == number)
        outcome = CATEGORIES[number].outcome
        left.append(_left_rows(table, rows, outcome, _MAPPING_REASONS[number]))
        counts.update(_count(table, rows, outcome, number))
    return table.filter(pa.array(code == 0)).combine_chunks(), left, counts


def _judge_by_own_columns(table: pa.Table, rules: Rules, code: NDArray[np.uint8]) -> None:
    """Filter records without an RNAcentral id by what their own file says of them."""
    own = parse_urs(Strings.from_arrow(table["id"]))[0] == 0
    verdict = np.zeros(len(table), dtype=np.uint8)
    if rules.databases:
        verdict[:] = 14
    if rules.rna_types:
        names = pa.array(rules.rna_types, pa.string())
        verdict[~pc.is_in(table["rna_type"], value_set=names).to_numpy()] = 12
    if rules.taxids:
        taxids = table["taxid"].fill_null(-1).to_numpy()
        verdict[~np.isin(taxids, np.array(rules.taxids, dtype=np.int32))] = 11
    code[own] = verdict[own]


@dataclass(frozen=True)
class _Groups:
    """Rows of a table, sorted by hash, in groups of one sequence.

    Attributes
    ----------
    order : ndarray, shape=(n,), dtype=int64
        Rows of the table, by hash; within a group in the order of the input.
    starts : ndarray, shape=(groups,), dtype=int64
        Where in ``order`` each group begins.
    of_row : ndarray, shape=(n,), dtype=int64
        Group of each place in ``order``.
    role : ndarray, shape=(n,), dtype=uint8
        Role of each place in ``order``.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    of_row: NDArray[np.int64]
    role: NDArray[np.uint8]

    @classmethod
    def of(cls, table: pa.Table) -> _Groups:
        hashes = table["hash"].to_numpy()
        sequences = Strings.from_arrow(table["sequence"])
        order = np.argsort(hashes, kind="stable").astype(np.int64)
        same = equal_neighbours(sequences.data, sequences.offsets, order)
        equal = np.zeros(len(order), dtype=np.bool_)
        equal[1:] = hashes[order][1:] == hashes[order][:-1]
        if (equal & ~same).any():
            order = _by_sequence(hashes, sequences, order, equal & ~same)
            same = equal_neighbours(sequences.data, sequences.offsets, order)
        starts = np.flatnonzero(~same)
        of_row = np.cumsum(~same) - 1
        return cls(order, starts, of_row, table["role"].to_numpy()[order])


def _by_sequence(
    hashes: NDArray[np.uint64],
    sequences: Strings,
    order: NDArray[np.int64],
    collision: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Sort runs in which different sequences share a hash by sequence, then by input order."""
    order = order.copy()
    for value in np.unique(hashes[order[collision]]):
        run = np.flatnonzero(hashes[order] == value)
        rows = sorted(order[run].tolist(), key=lambda row: (sequences.item(row), row))
        order[run] = rows
    return order


def _first_of_group(groups: _Groups, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first place in ``order`` of each group where ``wanted`` is true, or -1."""
    first = np.full(len(groups.starts), -1, dtype=np.int64)
    places = np.flatnonzero(wanted)[::-1]
    first[groups.of_row[places]] = places  # the last one written, the smallest, stays
    return first


def _hashes_of(table: pa.Table, groups: _Groups, chosen: NDArray[np.bool_]) -> list[int]:
    """Return the hashes of some groups' sequences."""
    if not chosen.any():
        return []
    rows = groups.order[groups.starts[np.flatnonzero(chosen)]]
    hashes: list[int] = table["hash"].to_numpy()[rows].tolist()
    return hashes


def _kept_table(
    table: pa.Table, groups: _Groups, kept_groups: NDArray[np.int64], kept: NDArray[np.int64]
) -> pa.Table:
    rows = table.take(pa.array(kept))
    family = rows["family"]
    member = _first_of_group(groups, (groups.role & MEMBER) > 0)[kept_groups]
    if (member >= 0).any():
        index = np.where(member >= 0, groups.order[member], 0)
        named = table["family"].take(pa.array(index, mask=member < 0))
        family = pc.coalesce(family, named)
    columns = {name: rows[name] for name in KEPT_SCHEMA.names if name in rows.column_names}
    columns |= {"family": family, "sha256_64": rows["hash"]}
    return pa.table(columns, schema=KEPT_SCHEMA).combine_chunks()


def _left_rows(table: pa.Table, rows: NDArray[np.int64], outcome: str, reason: str) -> pa.Table:
    chosen = table.select(["place", "record", "id"]).take(pa.array(rows))
    constant = [pa.repeat(pa.scalar(text), len(rows)) for text in (outcome, reason)]
    arrays = [column.combine_chunks() for column in chosen.columns]
    return pa.Table.from_arrays([*arrays, *constant], schema=LEFT_SCHEMA)


def _count(
    table: pa.Table, rows: NDArray[np.int64], outcome: str, code: int | None = None
) -> Counter[str]:
    """Count records by their first piece, further windows apart; and by category."""
    further = int((table["piece"].to_numpy()[rows] > 0).sum())
    counts = Counter({f"sequences_{outcome}": len(rows) - further, f"windows_{outcome}": further})
    if code is not None and len(rows) > further:
        counts[f"code_{code}"] = len(rows) - further
    return counts


def _write_repeats(
    task: Partition, table: pa.Table, rows: NDArray[np.int64], kept: NDArray[np.int64]
) -> None:
    chosen = table.select(["hash", "place", "record", "id", "taxid"]).take(pa.array(rows))
    columns = {name: chosen[name] for name in ("place", "record", "id", "taxid")}
    columns |= {"sha256_64": chosen["hash"], "kept": pa.array(kept)}
    path = partition_path(task.plan, "repeats", task.number, task.round)
    repeats = pa.table(columns, schema=REPEAT_SCHEMA)
    write_buckets(path, repeats, np.zeros(len(rows), np.int64), 1)


def _write_ids(task: Partition, kept: pa.Table, rank: NDArray[np.int64]) -> None:
    """Deal the ids' hashes to buckets: ``x`` and ``x.2`` to the same."""
    ids = Strings.from_arrow(kept["id"])
    table = pa.table(
        {
            "hash": hash_rows(ids.data, ids.offsets),
            "partition": np.full(len(ids), task.number, dtype=np.int32),
            "row": rank,
        },
        schema=ID_SCHEMA,
    )
    bucket = bucket_of(base_hash(ids.data, ids.offsets), task.id_buckets)
    path = partition_path(task.plan, "ids", task.number, task.round)
    write_buckets(path, table, bucket, task.id_buckets)
