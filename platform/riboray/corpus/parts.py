"""First step of ingesting: parts of inputs, screened, hashed and dealt to partitions.

A *part* is about 64 MiB of text, or as many rows of a Parquet row group. Where parts begin and end
depends on the files alone. Each becomes a file in the work directory, in which the sequences that
passed lie by partition, a range of hashes; and one that lists what was left out. So a step can be
done in any order, by any number of processes, and again after a crash.

Every row has a *place*: source, part and row in one number that grows in the order of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.corpus.buckets import bucket_of, read_note, spread, write_buckets
from riboray.corpus.config import ColumnNames
from riboray.corpus.fasta import PART_BYTES, FastaBlock, parse_fasta, read_part, stream_parts
from riboray.corpus.foreign import group_blocks
from riboray.corpus.inputs import InputFile
from riboray.corpus.mapping import parse_urs
from riboray.corpus.records import CATEGORIES
from riboray.corpus.screening import (
    Block,
    LeftOut,
    Pieces,
    Rules,
    cut_long,
    normalised,
    screen,
)
from riboray.corpus.sha256 import sha256_64
from riboray.corpus.strings import Strings
from riboray.errors import FastaError

__all__ = [
    "DATA",
    "EXCLUDE",
    "EXCLUDED_MEMBER",
    "HELD_OUT",
    "LEFT_SCHEMA",
    "MEMBER",
    "PART_SCHEMA",
    "Plan",
    "Source",
    "make_group",
    "make_stream",
    "make_text_part",
    "parse_part",
    "parts_of",
    "place_of",
    "put_block",
    "split_place",
]

DATA, EXCLUDE, MEMBER, HELD_OUT, EXCLUDED_MEMBER = 1, 2, 4, 8, 16
"""Bits of a row's role: a record of the corpus; one that must not be in it; a member of a family; a
member of a family held out for validation; a member of a family that must not be in it."""

_SOURCE_SHIFT, _PART_SHIFT = np.uint64(46), np.uint64(26)

PART_SCHEMA = pa.schema(
    [
        ("hash", pa.uint64()),
        ("place", pa.uint64()),
        ("record", pa.int64()),
        ("piece", pa.int32()),
        ("role", pa.uint8()),
        ("id", pa.string()),
        ("sequence", pa.string()),
        ("description", pa.string()),
        ("taxid", pa.int32()),
        ("rna_type", pa.string()),
        ("family", pa.string()),
    ]
)

LEFT_SCHEMA = pa.schema(
    [
        ("place", pa.uint64()),
        ("record", pa.int64()),
        ("id", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
    ]
)

KEY_SCHEMA = pa.schema(
    [("urs", pa.uint64()), ("taxid", pa.int32()), ("place", pa.uint64()), ("hash", pa.uint64())]
)

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every step of one run of ingesting needs to know."""

    work: Path
    rules: Rules
    partitions: int
    mapping_buckets: int = 0
    """0 without an id mapping."""
    columns: ColumnNames
    part_bytes: int = PART_BYTES

    def path(self, kind: str, source: int, part: int) -> Path:
        """Return the file that a part's ``kind`` of output has."""
        return self.work / f"{kind}-{source:06d}-{part:07d}.arrow"


@dataclass(frozen=True)
class Source:
    """An input with its number and the role of its records."""

    index: int
    file: InputFile
    role: int = DATA


def place_of(source: int, part: int, rows: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Give rows numbers that grow in the order of the input."""
    first = np.uint64(source) << _SOURCE_SHIFT | np.uint64(part) << _PART_SHIFT
    return rows.astype(np.uint64) + first


def split_place(places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return source and part of places, as one number that `place_of` gives for row 0."""
    return places >> _PART_SHIFT << _PART_SHIFT


def make_text_part(
    plan: Plan, source: Source, part: int, text: bytes | None = None, records_before: int = 0
) -> Report:
    """Make one part of a FASTA file.

    Parameters
    ----------
    plan, source : Plan, Source
        The run and the file.
    part : int
        Number of the part.
    text : bytes, optional
        Its text, if the file is compressed; a plain file is read here.
    records_before : int
        Records of the file before ``text``, for messages.

    Returns
    -------
    dict
        The part's counts; they are in its file, too.

    Raises
    ------
    FastaError
        If the file is not what it should be.
    """
    if (done := read_note(plan.path("part", source.index, part))) is not None:
        return done
    path = source.file.location
    if text == b"":
        raise AssertionError(f"part {part} of {path} was said to be made, but is not there")
    if text is None:
        parsed = parse_part(path, source.file.size, part, plan.part_bytes)
    else:
        parsed = parse_fasta(path, text, records_before)
    del text
    count = len(parsed) if parsed else 0
    nothing = pa.nulls(count, pa.string())
    empty = Strings.of([])
    block = Block(
        ids=parsed.ids if parsed else empty,
        descriptions=parsed.descriptions if parsed else empty,
        sequences=parsed.sequences if parsed else empty,
        records=np.arange(1, count + 1),
        undecodable=parsed.undecodable if parsed else np.zeros(0, np.bool_),
        taxids=parse_urs(parsed.ids if parsed else empty)[1],
        rna_types=nothing,
        families=nothing,
    )
    return put_block(plan, source.index, part, block, source.role)


def parse_part(path: str, size: int, part: int, part_bytes: int | None = None) -> FastaBlock | None:
    """Read and parse one part of a plain file, or return None if no record starts in it.

    Errors name the record by its number in the file, unlike those of `fasta.read_part`.
    """
    text = read_part(path, size, part, part_bytes)
    if not text:
        return None
    try:
        return parse_fasta(path, text)
    except FastaError as error:
        if not part or not isinstance(error.record, int):
            raise
        before = 0
        for earlier in range(part):
            text = read_part(path, size, earlier, part_bytes)
            before += text.count(b"\n>") + text.startswith(b">")
        raise FastaError(path, error.reason, error.record + before) from error


def make_group(plan: Plan, source: Source, group: int, first: int, parts: int) -> list[Report]:
    """Make the parts of one row group of a Parquet file, numbered from ``first`` on."""
    done = [read_note(plan.path("part", source.index, first + k)) for k in range(parts)]
    if all(note is not None for note in done):
        return [note for note in done if note is not None]
    blocks = group_blocks(source.file.location, group, parts, plan.columns)
    return [
        put_block(plan, source.index, first + k, block, source.role)
        for k, block in enumerate(blocks)
    ]


def put_block(
    plan: Plan,
    source: int,
    part: int,
    block: Block,
    role: int | NDArray[np.uint8],
    *,
    numbered: bool = False,
) -> Report:
    """Screen a block, and write what passed and what did not.

    Parameters
    ----------
    plan, source, part : Plan, int, int
        The run, and where the block stands.
    block : Block
        The records.
    role : int or ndarray, shape=(n,), dtype=uint8
        Their roles; all or none of them are `DATA`.
    numbered : bool
        Whether the records' numbers count from the beginning of the file already.
    """
    roles = np.broadcast_to(np.asarray(role, dtype=np.uint8), len(block))
    is_data = bool(np.any(np.asarray(role) & DATA))
    rules = plan.rules
    if not is_data:  # only to compare with: names do not matter, nor do gaps
        rules, block = _lenient(plan.rules), _bare(block)
    sequences = normalised(block.sequences)
    # Codes in one place of a long sequence to compare with are no reason to forget its windows.
    left = screen(block, sequences, rules if is_data else replace(rules, max_ambiguity=1.0))
    passed = np.delete(np.arange(len(block)), left.rows)
    pieces = cut_long(sequences, passed, rules)
    table, hashes = _rows(source, part, block, sequences, pieces, roles)
    counts = {str(code): int(n) for code, n in enumerate(np.bincount(left.codes)) if n}
    report: Report = {
        "source": source,
        "part": part,
        "data": is_data,
        "read": len(block),
        "passed": len(passed),
        "records": 0 if numbered or not len(block) else int(block.records[-1]),
        "windows": int((pieces.numbers > 0).sum()),
        "left": counts,
    }
    if is_data:
        _write_left(plan, source, part, block, left, pieces)
        if plan.mapping_buckets:
            _write_keys(plan, source, part, block, pieces, hashes)
    path = plan.path("part", source, part)
    write_buckets(path, table, bucket_of(hashes, plan.partitions), plan.partitions, report)
    return report


def _lenient(rules: Rules) -> Rules:
    """Rules for sequences to compare with: only what no corpus can hold is left out."""
    return Rules(
        min_length=1,
        max_length=rules.max_length if rules.on_long != "reject" else 1 << 62,
        on_long=rules.on_long,
        max_ambiguity=rules.max_ambiguity if rules.on_long == "window" else 1.0,
    )


def _bare(block: Block) -> Block:
    """Take away what does not matter of records to compare with, so that it cannot spoil them."""
    nothing = Strings(np.empty(0, np.uint8), np.zeros(len(block) + 1, np.int64))
    one = Strings(np.full(len(block), ord("x"), np.uint8), np.arange(len(block) + 1))
    return replace(
        block,
        ids=one,
        descriptions=nothing,
        sequences=block.sequences.without(b"-.~_*"),
        undecodable=np.zeros(len(block), np.bool_),
    )


def _rows(
    source: int,
    part: int,
    block: Block,
    sequences: Strings,
    pieces: Pieces,
    roles: NDArray[np.uint8],
) -> tuple[pa.Table, NDArray[np.uint64]]:
    whole = len(pieces.rows) == len(block) and not pieces.altered
    rows, count = pieces.rows, len(pieces.rows)
    if whole:
        texts, ids, descriptions = sequences, block.ids, block.descriptions
    else:
        texts = sequences.slices(rows, pieces.starts, pieces.stops)
        ids = _piece_ids(block.ids.take(rows), sequences.lengths[rows], pieces)
        descriptions = block.descriptions.take(rows)
    hashes = sha256_64(texts)
    index = pa.array(rows)
    columns = {
        "hash": hashes,
        "place": place_of(source, part, np.arange(count)),
        "record": block.records[rows],
        "piece": pieces.numbers,
        "role": roles[rows],
        "id": ids.to_arrow(),
        "sequence": texts.to_arrow(),
        "description": descriptions.to_arrow(),
        "taxid": pa.array(block.taxids[rows], mask=block.taxids[rows] < 0),
        "rna_type": block.rna_types.take(index),
        "family": block.families.take(index),
    }
    return pa.table(columns, schema=PART_SCHEMA), hashes


def _piece_ids(ids: Strings, lengths: NDArray[np.int64], pieces: Pieces) -> Strings:
    """Name stretches of long records ``id/first-last``, as Rfam does; whole records keep theirs."""
    cut = np.flatnonzero(pieces.stops - pieces.starts < lengths)
    if not len(cut):
        return ids
    names = ids.to_arrow().to_pylist()
    for k in cut.tolist():
        names[k] += f"/{pieces.starts[k] + 1}-{pieces.stops[k]}"
    return Strings.of(names)


def _write_left(
    plan: Plan, source: int, part: int, block: Block, left: LeftOut, pieces: Pieces
) -> None:
    altered = [row for row, _, _ in pieces.altered]
    rows = np.concatenate([left.rows, np.array(altered, dtype=np.int64)])
    outcomes = [CATEGORIES[int(code)].outcome for code in left.codes]
    table = pa.table(
        {
            "place": place_of(source, part, rows),
            "record": block.records[rows],
            "id": pa.array([block.ids.text(int(row)) for row in rows], pa.string()),
            "outcome": pa.array(outcomes + [o for _, o, _ in pieces.altered], pa.string()),
            "reason": pa.array(left.reasons + [r for _, _, r in pieces.altered], pa.string()),
        },
        schema=LEFT_SCHEMA,
    )
    path = plan.path("left", source, part)
    write_buckets(path, table, np.zeros(len(rows), np.int64), 1)


def _write_keys(
    plan: Plan,
    source: int,
    part: int,
    block: Block,
    pieces: Pieces,
    hashes: NDArray[np.uint64],
) -> None:
    """Write what the id mapping is asked for: one row a piece whose id is an RNAcentral one."""
    urs, taxids = parse_urs(block.ids)
    chosen = np.flatnonzero(urs[pieces.rows])
    rows = pieces.rows[chosen]
    table = pa.table(
        {
            "urs": urs[rows],
            "taxid": taxids[rows],
            "place": place_of(source, part, chosen),
            "hash": hashes[chosen],
        },
        schema=KEY_SCHEMA,
    )
    bucket = bucket_of(spread(urs[rows]), plan.mapping_buckets)
    write_buckets(plan.path("keys", source, part), table, bucket, plan.mapping_buckets)


def parts_of(plan: Plan, source: Source) -> Iterator[int]:
    """Yield the numbers of the parts of a plain FASTA file."""
    yield from range(-(-source.file.size // plan.part_bytes))


def make_stream(plan: Plan, source: Source) -> list[Report]:
    """Make all parts of one compressed FASTA file, one after the other."""
    reports, records = [], 0
    for part, text in stream_parts(source.file.location, plan.part_bytes):
        reports.append(make_text_part(plan, source, part, text, records))
        records += reports[-1]["records"]
    return reports
