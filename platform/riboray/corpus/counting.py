"""Counting rows of a corpus, batch by batch, in memory that does not grow with their number.

What grows is the number of different lengths, families and taxa.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.alphabet import IUPAC_NUCLEOTIDES
from riboray.console import Progress
from riboray.corpus.records import SCHEMA_VERSION
from riboray.corpus.structure import SS_CLASSES
from riboray.errors import CorpusError
from riboray.manifest import check_schema

__all__ = ["SPLITS", "count_files", "count_letters", "opened_parquet", "split_of"]

SPLITS = ("train", "validation")

_BATCH_ROWS = 16_384
_BATCH_BYTES = 32 << 20
_LABEL_ROWS = 1 << 16
#: Bytes compared at a time: they and the masks made of them stay in the cache.
_CHUNK = 1 << 17
_IDENTITY_BINS = 20
_LENGTH_BINS = 45


def split_of(name: str) -> tuple[str, str]:
    """Return the split of a corpus file and the kind of its rows.

    ``validation_pairs-00001.parquet`` holds pairs of the split ``validation``.
    """
    kind = re.sub(r"(-\d+)?\.parquet$", "", name)
    bare = kind.removeprefix("validation_")
    return SPLITS[bare != kind], bare


def opened_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises
    ------
    CorpusError
        If it is none.
    """
    try:
        file = pq.ParquetFile(path, pre_buffer=False)  # else it holds all it has read, to the end
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(path, f"no readable Parquet file ({error})") from error
    check_schema(path, file.metadata.metadata, SCHEMA_VERSION)
    return file


def count_files(directory: Path, rows: dict[str, int], top: int) -> dict[str, Any]:
    """Count sequences, pairs and members of a corpus.

    Parameters
    ----------
    directory : Path
        The corpus.
    rows : dict of str to int
        Its Parquet files and their rows.
    top : int
        Labels listed at most, per kind of label.

    Returns
    -------
    dict
        Counts, and ``problems``: what should not be there.
    """
    sequences, pairs, members = counters = (_Sequences(), _Pairs(), _Members())
    of_kind: dict[str, _Sequences | _Pairs | _Members] = {c.kind: c for c in counters}
    chosen = [name for name in rows if split_of(name)[1] in of_kind]
    total, done = max(sum(rows[name] for name in chosen), 1), 0
    progress = Progress("counting")
    try:
        for name in chosen:
            split, kind = split_of(name)
            counter = of_kind[kind]
            for batch in _batches(directory / name, counter.needed, counter.extra):
                counter.add(batch, split)
                done += len(batch)
                progress.update(done / total, f"{done:,} rows")
    finally:
        progress.close()
    return {
        **sequences.summary(top, members.names),
        "problems": [*sequences.problems(), *pairs.problems()],
        "pairs": pairs.summary(),
        "members": members.summary(top),
    }


def _batches(path: Path, needed: Sequence[str], extra: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a file, batch by batch; the extra ones if it has them."""
    with opened_parquet(path) as file:
        present = set(file.schema_arrow.names)
        if missing := [name for name in needed if name not in present]:
            raise CorpusError(path, f"lacks the columns {', '.join(missing)}")
        columns = [name for name in (*needed, *extra) if name in present]
        groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
        size = max(sum(group.total_byte_size for group in groups), 1)
        rows = min(_BATCH_ROWS, 1 + _BATCH_BYTES * file.metadata.num_rows // size)
        try:
            yield from file.iter_batches(rows, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(path, f"is damaged ({error})") from error


def _string_view(column: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """View the bytes of a string column, and offsets into them, without a copy.

    A slice shares its buffers with the whole column; only its own part is returned.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = column.cast(pa.large_string())
    if column.null_count:  # Arrow lets bytes stand behind a null
        column = column.fill_null("")
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    _, places, data = column.buffers()
    if not len(column) or data is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, width)
    offsets = np.frombuffer(places, width)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def count_letters(column: pa.Array) -> tuple[NDArray[np.int64], int]:
    """Count the letters of a column of sequences.

    Parameters
    ----------
    column : pyarrow.Array
        (Large) strings; may be a slice and hold nulls.

    Returns
    -------
    counts : ndarray, shape=(256,), dtype=int64
        How often each byte occurs.
    ambiguous : int
        Sequences with a letter other than A, C, G and U.

    Notes
    -----
    Four comparisons of a chunk are faster than its histogram; what is no A, C, G or U is rare.
    """
    data, offsets = _string_view(column)
    counts = np.zeros(256, dtype=np.int64)
    rare = [np.empty(0, dtype=np.int64)]
    same = np.empty(_CHUNK, dtype=np.bool_)
    other = np.empty_like(same)
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        found, left = same[: len(chunk)], other[: len(chunk)]
        left.fill(True)
        for letter in b"ACGU":
            np.equal(chunk, letter, out=found)
            counts[letter] += np.count_nonzero(found)
            left ^= found
        rare.append(np.flatnonzero(left) + start)
    places = np.concatenate(rare)
    counts += np.bincount(data[places], minlength=256)
    rows = np.searchsorted(offsets, places, side="right")
    return counts, int(np.count_nonzero(np.diff(rows, prepend=-1)))


class _Labels:
    """How many rows carry each value of a column; None counts those without."""

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}
        self._waiting: list[pa.Array] = []

    def add(self, column: pa.Array) -> None:
        if self._waiting and column.type != self._waiting[0].type:
            self._settle()
        # Many rows at a time have fewer different values than the same rows in small batches.
        self._waiting.append(column)
        if sum(map(len, self._waiting)) >= _LABEL_ROWS:
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            found = pc.value_counts(pa.chunked_array(self._waiting).unify_dictionaries())
            get, self._waiting = self._counts.get, []
            values, numbers = (found.field(i).to_pylist() for i in (0, 1))
            for value, number in zip(values, numbers, strict=True):
                self._counts[value] = get(value, 0) + number

    def counts(self) -> tuple[dict[Any, int], int]:
        """Return the rows of each label, and the rows without one."""
        self._settle()
        labels = dict(self._counts)
        without = labels.pop(None, 0)
        return labels, without


def _spread(counts: Counter[int]) -> dict[str, float | None]:
    """Summarise integers, given how often each occurs; quartiles as `numpy.quantile`'s."""
    if not counts.total():
        return dict.fromkeys(("min", "q1", "median", "q3", "max", "mean"))
    values = np.array(sorted(counts))
    ranks = np.cumsum([counts[value] for value in values.tolist()])
    places = np.array([0, 0.25, 0.5, 0.75, 1]) * (ranks[-1] - 1)
    low, high = (
        values[np.searchsorted(ranks, f(places), side="right")] for f in (np.floor, np.ceil)
    )
    exact = (low + (high - low) * (places - np.floor(places))).tolist()
    cuts = [int(cut) if cut.is_integer() else cut for cut in exact]
    mean = sum(value * number for value, number in counts.items()) / counts.total()
    names = ("min", "q1", "median", "q3", "max")
    return {**dict(zip(names, cuts, strict=True)), "mean": mean}


def _ranking(column: _Labels, top: int, titles: dict[str, str]) -> dict[str, Any]:
    """Describe labels by the rows that carry them."""
    labels, without = column.counts()
    first = heapq.nsmallest(top, labels.items(), key=lambda item: (-item[1], str(item[0])))
    rows = [{"name": label, "sequences": number} for label, number in first]
    for row in rows:
        if row["name"] in titles:
            row["title"] = titles[row["name"]]
    others = sum(labels.values()) - sum(number for _, number in first)
    sizes = _spread(Counter(labels.values()))
    return {
        "number": len(labels),
        "without": without,
        "sizes": sizes,
        "top": rows,
        "others": others,
    }


def _bins(counters: dict[str, Counter[int]]) -> dict[str, list[int]]:
    """Count integers in bins of a round width: bin i is from edges[i] to below edges[i + 1]."""
    values = [value for counter in counters.values() for value in counter]
    low, high = min(values, default=0), max(values, default=-1)
    widths = (step * 10**power for power in count() for step in (1, 2, 5))
    width = next(w for w in widths if high // w - low // w < _LENGTH_BINS)
    first, bins = low // width, high // width - low // width + 1
    histogram = {"edges": [(first + i) * width for i in range(bins + 1)] if values else []}
    for split, counter in counters.items():
        histogram[split] = [0] * bins
        for value, number in counter.items():
            histogram[split][value // width - first] += number
    return histogram


class _Sequences:
    """Counts of sequences, by split where it matters."""

    kind = "sequences"
    needed = ("sequence",)
    extra = ("rna_type", "family", "taxid")

    def __init__(self) -> None:
        self.lengths = {split: _Labels() for split in SPLITS}
        self.letters = np.zeros(256, dtype=np.int64)
        self.ambiguous = 0
        self.labels = {name: _Labels() for name in self.extra}

    def add(self, batch: pa.RecordBatch, split: str) -> None:
        column = batch.column("sequence")
        letters, ambiguous = count_letters(column)
        self.letters += letters
        self.ambiguous += ambiguous
        self.lengths[split].add(pa.array(np.diff(_string_view(column)[1])))
        for name, labels in self.labels.items():
            present = name in batch.schema.names
            labels.add(batch.column(name) if present else pa.nulls(len(batch)))

    def problems(self) -> list[str]:
        known = [ord(letter) for letter in IUPAC_NUCLEOTIDES]
        strange = int(self.letters.sum() - self.letters[known].sum())
        return [f"{strange:,} letters are no nucleotides"] if strange else []

    def summary(self, top: int, titles: dict[str, str]) -> dict[str, Any]:
        every = {letter: int(self.letters[ord(letter)]) for letter in IUPAC_NUCLEOTIDES}
        counts = {letter: n for letter, n in every.items() if n or letter in "ACGU"}
        definite = sum(counts[letter] for letter in "ACGU")
        lengths = {s: Counter(labels.counts()[0]) for s, labels in self.lengths.items()}
        nucleotides = {s: sum(k * n for k, n in c.items()) for s, c in lengths.items()}
        rna_types, families, taxa = (self.labels[name] for name in self.extra)
        return {
            "sequences": {split: c.total() for split, c in lengths.items()},
            "nucleotides": nucleotides,
            "lengths": {**_spread(sum(lengths.values(), Counter())), "histogram": _bins(lengths)},
            "composition": {
                "letters": counts,
                "gc_share": (counts["G"] + counts["C"]) / definite if definite else None,
                "with_ambiguity": self.ambiguous,
            },
            "rna_types": _ranking(rna_types, top, {}),
            "families": _ranking(families, top, titles),
            "taxa": _ranking(taxa, top, {}),
        }


class _Pairs:
    """Counts of reference alignments."""

    kind = "pairs"
    needed = ("family", "identity")
    extra: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.pairs = dict.fromkeys(SPLITS, 0)
        self.families = _Labels()
        self.bins = np.zeros(_IDENTITY_BINS, dtype=np.int64)
        self.measured, self.low, self.high, self.total = 0, 1.0, 0.0, 0.0

    def add(self, batch: pa.RecordBatch, split: str) -> None:
        identity = batch.column("identity").to_numpy(zero_copy_only=False).astype(np.float64)
        identity = identity[(identity >= 0) & (identity <= 1)]
        self.pairs[split] += len(batch)
        self.measured += len(identity)
        self.families.add(batch.column("family"))
        places = np.minimum((identity * _IDENTITY_BINS).astype(np.int64), _IDENTITY_BINS - 1)
        self.bins += np.bincount(places, minlength=_IDENTITY_BINS)
        self.low = min(self.low, float(identity.min(initial=1)))
        self.high = max(self.high, float(identity.max(initial=0)))
        self.total += float(identity.sum())

    def problems(self) -> list[str]:
        strange = sum(self.pairs.values()) - self.measured
        return [f"{strange:,} pairs have no identity between 0 and 1"] if strange else []

    def summary(self) -> dict[str, Any]:
        measures = {"min": self.low, "mean": self.total / max(self.measured, 1), "max": self.high}
        edges = [i / _IDENTITY_BINS for i in range(_IDENTITY_BINS + 1)]
        return {
            **self.pairs,
            "families": len(self.families.counts()[0]),
            "identity": {
                **(measures if self.measured else dict.fromkeys(measures)),
                "histogram": {"edges": edges, "counts": self.bins.tolist()},
            },
        }


class _Members:
    """Counts of rows of seed alignments, and the names of their families."""

    kind = "members"
    needed = ("family",)
    extra = ("name", "ss_classes")

    def __init__(self) -> None:
        self.families = _Labels()
        self.names: dict[str, str] = {}
        self.classes = np.zeros(256, dtype=np.int64)
        self.rows = self.structured = 0

    def add(self, batch: pa.RecordBatch, _: str) -> None:
        self.rows += len(batch)
        self.families.add(batch.column("family"))
        present = batch.schema.names
        if "name" in present:
            families, names = (batch.column(c).to_pylist() for c in ("family", "name"))
            self.names.update(zip(families, names, strict=True))
        if "ss_classes" in present:
            column = batch.column("ss_classes")
            self.classes += np.bincount(_string_view(column)[0], minlength=256)
            self.structured += len(column) - column.null_count

    def summary(self, top: int) -> dict[str, Any]:
        classes = {digit: int(self.classes[ord(digit)]) for digit in SS_CLASSES}
        return {
            "rows": self.rows,
            "families": _ranking(self.families, top, self.names),
            "with_structure": self.structured,
            "structure_classes": classes if self.structured else {},
        }
