"""Which records of a block a corpus takes, as whole columns at a time.

`why_rejected` in `records` says the same of one sequence, slowly and in words; here it is asked
only for the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from riboray.alphabet import IUPAC_NUCLEOTIDES, normalise
from riboray.batching import window_starts
from riboray.corpus.config import IngestConfig
from riboray.corpus.records import why_rejected
from riboray.corpus.strings import Strings

__all__ = ["Block", "LeftOut", "OnLong", "Pieces", "Rules", "cut_long", "screen"]

OnLong = Literal["reject", "window", "truncate"]
Ambiguity = Literal["keep", "reject"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a corpus takes; the fields are those of `IngestConfig`."""

    min_length: int
    max_length: int
    ambiguity: Ambiguity = "keep"
    max_ambiguity: float = 1.0
    on_long: OnLong = "reject"
    taxids: tuple[int, ...] = ()
    rna_types: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    excluded_families: tuple[str, ...] = ()
    joined: bool = False
    """Whether taxids and RNA types come later, out of an id mapping."""

    @classmethod
    def of(cls, config: IngestConfig, excluded_families: tuple[str, ...]) -> Rules:
        """Take the rules out of a configuration."""
        return cls(
            min_length=config.min_length,
            max_length=config.max_length,
            ambiguity=config.ambiguity,
            max_ambiguity=config.max_ambiguity,
            on_long=config.on_long,
            taxids=tuple(config.taxid),
            rna_types=tuple(config.rna_type),
            databases=tuple(config.database),
            excluded_families=excluded_families,
            joined=config.id_mapping is not None,
        )


@dataclass(frozen=True)
class Block:
    """Records of one part of an input, as columns.

    Attributes
    ----------
    ids, descriptions, sequences : Strings
        As read; sequences not yet normalised.
    records : ndarray, shape=(n,), dtype=int64
        1-based numbers, within the part.
    undecodable : ndarray, shape=(n,), dtype=bool
        Whether id or description is not UTF-8.
    taxids : ndarray, shape=(n,), dtype=int32
        -1 where none is known.
    rna_types, families : pyarrow string array, shape=(n,)
        Null where none is known.
    """

    ids: Strings
    descriptions: Strings
    sequences: Strings
    records: NDArray[np.int64]
    undecodable: NDArray[np.bool_]
    taxids: NDArray[np.int32]
    rna_types: pa.Array
    families: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.integer]) -> Block:
        """Return some of the records, in the order given."""
        chosen = pa.array(rows)
        return Block(
            ids=self.ids.take(rows),
            descriptions=self.descriptions.take(rows),
            sequences=self.sequences.take(rows),
            records=self.records[rows],
            undecodable=self.undecodable[rows],
            taxids=self.taxids[rows],
            rna_types=self.rna_types.take(chosen),
            families=self.families.take(chosen),
        )


@dataclass(frozen=True)
class LeftOut:
    """Rows of a block that are left out, with category codes and reasons in words."""

    rows: NDArray[np.int64]
    codes: NDArray[np.uint8]
    reasons: list[str]


@dataclass(frozen=True)
class Pieces:
    """Sequences that a block gives: whole records, or windows of long ones.

    Attributes
    ----------
    rows : ndarray, shape=(m,), dtype=int64
        Row of the block that each comes from; ascending.
    numbers : ndarray, shape=(m,), dtype=int32
        0 for the first piece of a record, then 1, 2, …
    starts, stops : ndarray, shape=(m,), dtype=int64
        Stretch of the record's sequence.
    altered : list of (int, str, str)
        Row, outcome (``windowed`` or ``truncated``) and words for records that are not whole.
    """

    rows: NDArray[np.int64]
    numbers: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    altered: list[tuple[int, str, str]]


@cache
def _tables() -> tuple[bytes, NDArray[np.uint8]]:
    """Return the byte table that normalises, and the kind of a normalised byte.

    Kinds: 1 for A, C, G, U; 2 for an ambiguity code; 0 for anything else, which is left as it is
    but for its case.
    """
    upper = bytes(range(256)).upper()
    kinds = np.zeros(256, dtype=np.uint8)
    for letter in IUPAC_NUCLEOTIDES:
        kinds[ord(letter)] = 1 if letter in "ACGU" else 2
    return upper.translate(bytes.maketrans(b"T", b"U")), kinds


def normalised(sequences: Strings) -> Strings:
    """Upper-case sequences and write U for T, as `alphabet.normalise` does one."""
    table, _ = _tables()
    data = sequences.data.tobytes().translate(table)
    return Strings(np.frombuffer(data, dtype=np.uint8), sequences.offsets)


@njit(nogil=True, cache=True)
def _count_kinds(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], kinds: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Count bytes of kind 0, 1 and 2 of every string; shape (n, 3)."""
    counts = np.zeros((len(offsets) - 1, 3), dtype=np.int64)
    for k in range(len(counts)):
        plain = codes = 0
        for i in range(offsets[k], offsets[k + 1]):
            kind = kinds[data[i]]
            plain += kind & 1
            codes += kind >> 1
        counts[k, 1], counts[k, 2] = plain, codes
        counts[k, 0] = offsets[k + 1] - offsets[k] - plain - codes
    return counts


def screen(block: Block, sequences: Strings, rules: Rules) -> LeftOut:
    """Find the records of a block that a corpus does not take.

    Parameters
    ----------
    block : Block
        The records.
    sequences : Strings
        Their sequences, normalised.
    rules : Rules
        What the corpus takes.
    """
    counts = _count_kinds(sequences.data, sequences.offsets, _tables()[1])
    lengths, plain, ambiguous = sequences.lengths, counts[:, 1], counts[:, 2]
    codes = np.zeros(len(block), dtype=np.uint8)
    # The last to be set wins: from the mildest reason to the gravest.
    if not rules.joined:
        _filter_annotations(block, rules, codes)
    if rules.excluded_families:
        names = pa.array(rules.excluded_families, pa.string())
        codes[pc.is_in(block.families, value_set=names).to_numpy(zero_copy_only=False)] = 10
    codes[ambiguous > rules.max_ambiguity * lengths] = 9
    codes[plain == 0] = 8
    if rules.ambiguity == "reject":
        codes[ambiguous > 0] = 7
    if rules.on_long == "reject":
        codes[lengths > rules.max_length] = 6
    codes[lengths < rules.min_length] = 5
    codes[counts[:, 0] > 0] = 4
    codes[lengths == 0] = 3
    codes[block.undecodable] = 2
    codes[block.ids.lengths == 0] = 1
    rows = np.flatnonzero(codes)
    reasons = [_reason(block, sequences, rules, int(row), int(codes[row])) for row in rows]
    return LeftOut(rows, codes[rows], reasons)


def _filter_annotations(block: Block, rules: Rules, codes: NDArray[np.uint8]) -> None:
    if rules.rna_types:
        names = pa.array(rules.rna_types, pa.string())
        codes[~pc.is_in(block.rna_types, value_set=names).to_numpy(zero_copy_only=False)] = 12
    if rules.taxids:
        codes[~np.isin(block.taxids, np.array(rules.taxids, dtype=np.int32))] = 11


def _reason(block: Block, sequences: Strings, rules: Rules, row: int, code: int) -> str:
    """Put into words why a record is left out."""
    if code in (1, 2):
        return "record without an id" if code == 1 else "header is not UTF-8"
    if code in (3, 4, 5, 6, 7, 8):
        longest = rules.max_length if rules.on_long == "reject" else 1 << 62
        keep = rules.ambiguity == "keep"
        text = normalise(sequences.text(row))
        reason = why_rejected(text, rules.min_length, longest, ambiguity=keep)
        assert reason is not None, (code, text[:80])
        return reason
    if code == 9:
        kinds = _tables()[1][np.frombuffer(sequences.item(row), dtype=np.uint8)]
        share = np.count_nonzero(kinds == 2) / len(kinds)
        return f"{100 * share:.3g} % ambiguity codes, more than {100 * rules.max_ambiguity:.3g} %"
    if code == 10:
        return f"family {block.families[row].as_py()} is excluded"
    if code == 11:
        taxid = int(block.taxids[row])
        return f"taxid {taxid} is not asked for" if taxid >= 0 else "no taxid known"
    kind = block.rna_types[row].as_py()
    return "no RNA type known" if kind is None else f"RNA type {kind} is not asked for"


def cut_long(sequences: Strings, rows: NDArray[np.int64], rules: Rules) -> Pieces:
    """Cut sequences that are too long, as the rules say.

    Parameters
    ----------
    sequences : Strings
        Normalised; those of ``rows`` have passed `screen`.
    rows : ndarray, shape=(m,), dtype=int64
        Rows to take, ascending.
    rules : Rules
        ``on_long="window"``: windows of ``max_length``, each half a window further, the last flush
        with the end, as in embedding. ``"truncate"``: the first ``max_length`` nucleotides.

    Notes
    -----
    Windows of nothing but ambiguity codes, or with a larger share of them than the rules allow,
    are dropped, but for the best one if no other is left. A record whose only plain nucleotides
    would be cut off keeps the stretch that begins with the first of them.
    """
    lengths = sequences.lengths[rows]
    long = np.flatnonzero(lengths > rules.max_length)
    whole = Pieces(rows, np.zeros(len(rows), np.int32), np.zeros_like(lengths), lengths, [])
    if not len(long):
        return whole
    pieces: list[tuple[int, int, int, int]] = []
    altered: list[tuple[int, str, str]] = []
    for k in long.tolist():
        row, text = int(rows[k]), sequences.item(int(rows[k]))
        stretches = _stretches(text, rules)
        pieces += [(row, number, *stretch) for number, stretch in enumerate(stretches)]
        altered.append((row, *_altered(len(text), stretches, rules)))
    others = np.delete(np.arange(len(rows)), long)
    added = np.array(pieces, dtype=np.int64)
    columns: list[NDArray[Any]] = [whole.rows, whole.numbers, whole.starts, whole.stops]
    merged = [np.concatenate([c[others], added[:, i]]) for i, c in enumerate(columns)]
    order = np.lexsort((merged[1], merged[0]))
    found, numbers, starts, stops = (column[order] for column in merged)
    return Pieces(found, numbers.astype(np.int32), starts, stops, altered)


def _stretches(text: bytes, rules: Rules) -> list[tuple[int, int]]:
    width = rules.max_length
    starts = [0] if rules.on_long == "truncate" else window_starts(len(text), width)
    kinds = _tables()[1][np.frombuffer(text, dtype=np.uint8)]
    plain, most = kinds == 1, rules.max_ambiguity * width
    if rules.on_long == "truncate":
        most = width
    codes = [int(np.count_nonzero(kinds[s : s + width] == 2)) for s in starts]
    usable = [(s, n) for s, n in zip(starts, codes, strict=True) if n < width]
    if kept := [(s, s + width) for s, n in usable if n <= most]:
        return kept
    if usable:  # no window is as good as the record; the best of them stands for it
        best = min(usable, key=lambda item: item[1])[0]
        return [(best, best + width)]
    first = min(int(np.argmax(plain)), len(text) - width)
    return [(first, first + width)]


def _altered(length: int, stretches: list[tuple[int, int]], rules: Rules) -> tuple[str, str]:
    if rules.on_long == "truncate":
        first, last = stretches[0]
        return "truncated", f"{length} nt; {first + 1} to {last} kept"
    count = len(stretches)
    return "windowed", f"{length} nt, cut into {count} windows of {rules.max_length}"
