"""Inputs to embed as parts: stretches that can be read by themselves, in their order.

A part is about ``part_bytes`` of text (see `riboray.corpus.fasta` and `riboray.corpus.foreign`):
where parts begin and end depends on the files and on that number alone. A part of a compressed file
can only be reached by reading what is before it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from riboray.corpus.config import ColumnNames
from riboray.corpus.fasta import FastaBlock, parse_fasta, stream_parts
from riboray.corpus.foreign import RowGroup, group_blocks, list_groups
from riboray.corpus.inputs import InputFile
from riboray.corpus.parts import parse_part
from riboray.corpus.screening import Block, Rules, normalised, screen
from riboray.corpus.sequences import split_structure
from riboray.corpus.strings import Strings

__all__ = [
    "ANNOTATIONS",
    "Admitted",
    "Left",
    "Source",
    "admit",
    "list_source",
    "read_parts",
    "wanted_units",
]

#: Columns that are carried along where the input has them.
ANNOTATIONS = ("taxid", "rna_type", "family")

#: Code of `riboray.corpus.records.CATEGORIES`.
_TOO_LONG = 6
_STRUCTURE_BYTES = np.frombuffer(b".()[]{}<>", dtype=np.uint8)


@dataclass(frozen=True)
class Source:
    """One input file and how it is cut.

    Attributes
    ----------
    index : int
        Its number.
    file : InputFile
        The file.
    part_bytes : int
        Text of a part, about.
    groups : tuple of RowGroup
        Row groups of a Parquet file.
    """

    index: int
    file: InputFile
    part_bytes: int
    groups: tuple[RowGroup, ...] = ()

    def units(self) -> list[tuple[int, ...]]:
        """Return parts that are read together: one each, or all that come out of one stream.

        A compressed file is one unit without numbers: what is in it is known when it is read.
        """
        if self.file.kind == "fasta.gz":
            return [()]
        if self.file.kind == "fasta":
            return [(k,) for k in range(-(-self.file.size // self.part_bytes))]
        edges = np.cumsum([0, *(group.parts for group in self.groups)]).tolist()
        return [tuple(range(a, b)) for a, b in itertools.pairwise(edges)]


def wanted_units(
    sources: Iterable[Source], wanted: Iterable[tuple[int, int]]
) -> Iterator[tuple[Source, tuple[int, ...], set[int]]]:
    """Yield the units, in order, that hold some wanted parts (source, part), with these parts."""
    numbers: dict[int, set[int]] = defaultdict(set)
    for index, part in wanted:
        numbers[index].add(part)
    for source in sources:
        for unit in source.units():
            inside = numbers[source.index]
            if inside := (inside & set(unit) if unit else inside):
                yield source, unit, inside


def list_source(index: int, file: InputFile, part_bytes: int, columns: ColumnNames) -> Source:
    """Look at how a file is to be cut.

    Raises
    ------
    CorpusError
        If it is a Parquet file that cannot be used.
    """
    groups = list_groups(file.location, columns, part_bytes) if file.kind == "parquet" else []
    return Source(index, file, part_bytes, tuple(groups))


def read_parts(
    source: Source, unit: tuple[int, ...], columns: ColumnNames, wanted: Iterable[int] | None = None
) -> Iterator[tuple[int, Block]]:
    """Read the parts of a unit in their order.

    Parameters
    ----------
    source : Source
        The file.
    unit : tuple of int
        One of `Source.units`.
    columns : ColumnNames
        Columns of a Parquet file.
    wanted : iterable of int, optional
        Parts to yield; all by default. Reading ends with the last of them.

    Yields
    ------
    tuple
        The part's number and its records; none of a part in which no record begins.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    chosen = None if wanted is None else set(wanted)
    path, kind = source.file.location, source.file.kind
    if kind == "parquet":
        number = next(k for k, group in enumerate(source.units()) if group == unit)
        blocks = group_blocks(
            path, source.groups[number].index, source.groups[number].parts, columns
        )
        for part, block in zip(unit, blocks, strict=False):
            if (chosen is None or part in chosen) and len(block):
                yield part, block
        return
    if kind == "fasta":
        for part in unit:
            if chosen is None or part in chosen:
                parsed = parse_part(path, source.file.size, part, source.part_bytes)
                if parsed is not None and len(parsed):
                    yield part, _block(parsed)
        return
    before = 0
    for part, text in stream_parts(path, source.part_bytes):
        if chosen is None or part in chosen:
            yield part, _block(parse_fasta(path, text, before))
        before += text.count(b"\n>") + text.startswith(b">")
        if chosen is not None and part >= max(chosen, default=-1):
            return


def _block(parsed: FastaBlock) -> Block:
    nothing = pa.nulls(len(parsed), pa.string())
    return Block(
        ids=parsed.ids,
        descriptions=parsed.descriptions,
        sequences=parsed.sequences,
        records=np.arange(1, len(parsed) + 1),
        undecodable=parsed.undecodable,
        taxids=np.full(len(parsed), -1, np.int32),
        rna_types=nothing,
        families=nothing,
    )


@dataclass(frozen=True)
class Left:
    """A record that is not embedded: its number within the part, its id, and why.

    ``asked`` says whether options leave it out, so that it is no mistake of the input's.
    """

    record: int
    id: str
    reason: str
    asked: bool = False


@dataclass(frozen=True)
class Admitted:
    """The records of a part that can be embedded, and those that cannot.

    Attributes
    ----------
    block : Block
        Records with normalised sequences; their numbers are those within the part.
    left : list of Left
        The others.
    """

    block: Block
    left: list[Left]

    def __len__(self) -> int:
        return len(self.block)


def admit(block: Block, rules: Rules) -> Admitted:
    """Normalise the sequences of a part and leave out what cannot be embedded.

    Dot-bracket structures behind a sequence, as RNAfold writes them, are dropped.
    """
    bare, odd = _without_structures(block)
    sequences = normalised(bare.sequences)
    found = screen(bare, sequences, rules)
    reasons = dict(zip(found.rows.tolist(), found.reasons, strict=True)) | odd
    long = {int(row) for row in found.rows[found.codes == _TOO_LONG]} - set(odd)
    left = [
        Left(int(block.records[row]), block.ids.text(row), reasons[row], row in long)
        for row in sorted(reasons)
    ]
    whole = replace(bare, sequences=sequences)
    if not reasons:
        return Admitted(whole, left)
    rows = np.delete(np.arange(len(block)), sorted(reasons))
    return Admitted(whole.take(rows), left)


def _without_structures(block: Block) -> tuple[Block, dict[int, str]]:
    """Split structures off; return also what is wrong with some of them, by row."""
    marks = np.isin(block.sequences.data, _STRUCTURE_BYTES)
    if not marks.any():
        return block, {}
    before = np.concatenate([[0], np.cumsum(marks)])
    rows = np.flatnonzero(np.diff(before[block.sequences.offsets])).tolist()
    lengths, odd = block.sequences.lengths.copy(), {}
    for row in rows:
        try:
            lengths[row] = len(split_structure(block.sequences.text(row))[0].encode())
        except ValueError as error:
            odd[row] = str(error)
    every = np.arange(len(block))
    stripped: Strings = block.sequences.slices(every, np.zeros_like(lengths), lengths)
    return replace(block, sequences=stripped), odd
