"""RNAcentral's ``id_mapping.tsv.gz``: taxids, RNA types and databases of its sequences.

Six columns without a header: URS, database, external id, NCBI taxid, RNA type, gene; many rows a
URS. The table is far larger than memory, so it is dealt to buckets by URS, and the ids that the
corpus asks for are dealt alike; a bucket of both is joined at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from numba import njit
from numpy.typing import NDArray

from riboray.corpus.buckets import (
    bucket_of,
    read_buckets,
    read_note,
    spread,
    write_buckets,
)
from riboray.corpus.files import first_line, opened
from riboray.corpus.screening import Rules
from riboray.corpus.strings import Strings
from riboray.errors import CorpusError

__all__ = [
    "JOIN_SCHEMA",
    "join_bucket",
    "make_mapping_part",
    "parse_urs",
    "stream_lines",
]

_CHUNK = 1 << 20
_COLUMNS = ["urs", "database", "external_id", "taxid", "rna_type", "gene"]

MAPPING_SCHEMA = pa.schema(
    [
        ("urs", pa.uint64()),
        ("taxid", pa.int32()),
        ("rna_type", pa.dictionary(pa.int32(), pa.string())),
        ("database", pa.dictionary(pa.int32(), pa.string())),
    ]
)

JOIN_SCHEMA = pa.schema(
    [
        ("place", pa.uint64()),
        ("taxid", pa.int32()),
        ("rna_type", pa.string()),
        ("code", pa.uint8()),
    ]
)
"""What a bucket's join says of a piece: its annotation, and the category code if the filters leave
it out, else 0."""

_TAXID, _RNA_TYPE, _DATABASE = 11, 12, 13


def parse_urs(ids: Strings) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Read RNAcentral ids, ``URS`` and ten hexadecimal digits, perhaps ``_taxid``.

    Returns
    -------
    urs : ndarray, shape=(n,), dtype=uint64
        The digits as a number, plus 1; 0 for another kind of id.
    taxids : ndarray, shape=(n,), dtype=int32
        -1 where there is none.
    """
    urs = np.zeros(len(ids), dtype=np.uint64)
    taxids = np.full(len(ids), -1, dtype=np.int32)
    _parse_urs(ids.data, ids.offsets, urs, taxids)
    return urs, taxids


@njit(nogil=True, cache=True)
def _parse_urs(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    urs: NDArray[np.uint64],
    taxids: NDArray[np.int32],
) -> None:
    for k in range(len(urs)):
        start, stop = offsets[k], offsets[k + 1]
        size = stop - start
        if size < 13 or data[start] != 85 or data[start + 1] != 82 or data[start + 2] != 83:
            continue
        value, good = 0, True
        for i in range(start + 3, start + 13):
            digit = data[i]
            if 48 <= digit <= 57:
                value = value * 16 + digit - 48
            elif 65 <= digit <= 70:
                value = value * 16 + digit - 55
            elif 97 <= digit <= 102:
                value = value * 16 + digit - 87
            else:
                good = False
        taxid = -1
        if good and size > 13:
            good = 15 <= size <= 24 and data[start + 13] == 95
            taxid = 0
            for i in range(start + 14, stop):
                digit = data[i]
                good = good and 48 <= digit <= 57
                taxid = taxid * 10 + digit - 48
            good = good and taxid <= 2147483647
        if good:
            urs[k] = value + 1
            taxids[k] = taxid


def stream_lines(path: str, part_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, first line and text of runs of whole lines of a plain or gzip file."""
    held, part, line = bytearray(), 0, 1
    with opened(path, CorpusError, "tab-separated", lambda: line + held.count(b"\n")) as handle:
        while True:
            chunk = handle.read(_CHUNK)
            held += chunk
            if (len(held) >= part_bytes or not chunk) and held:
                stop = held.rfind(b"\n") + 1 if chunk else len(held)
                text = bytes(held[:stop])
                del held[:stop]
                if text:
                    yield part, line, text
                    part, line = part + 1, line + text.count(b"\n")
            if not chunk:
                break
    if not part:
        raise CorpusError(path, "is empty")


def make_mapping_part(
    work: Path, path: str, part: int, line: int, buckets: int, text: bytes
) -> dict[str, Any]:
    """Parse a run of lines and deal them to buckets.

    Raises
    ------
    CorpusError
        If a line has not six columns, no RNAcentral id, or a taxid that is no number.
    """
    target = work / f"mapping-{part:07d}.arrow"
    if (done := read_note(target)) is not None:
        return done
    try:
        table = pv.read_csv(
            io.BytesIO(text),
            pv.ReadOptions(column_names=_COLUMNS, use_threads=False, block_size=len(text) + 1),
            pv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False),
            pv.ConvertOptions(
                column_types=dict.fromkeys(_COLUMNS, pa.string()),
                include_columns=["urs", "database", "taxid", "rna_type"],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        _refuse_lines(path, line, text, first_line(error))
    urs, taxids = parse_urs(Strings.from_arrow(table["urs"]))
    try:
        numbers = pc.cast(table["taxid"], pa.int32())
    except pa.ArrowInvalid as error:
        _refuse_lines(path, line, text, first_line(error))
    if not urs.all() or (taxids >= 0).any() or (numbers.to_numpy() < 0).any():
        _refuse_lines(path, line, text, "no RNAcentral id")
    dealt = pa.table(
        {
            "urs": urs,
            "taxid": numbers,
            "rna_type": table["rna_type"].combine_chunks().dictionary_encode(),
            "database": table["database"].combine_chunks().dictionary_encode(),
        },
        schema=MAPPING_SCHEMA,
    )
    note = {"part": part, "rows": len(dealt)}
    write_buckets(target, dealt, bucket_of(spread(urs), buckets), buckets, note)
    return note


def _refuse_lines(path: str, line: int, text: bytes, reason: str) -> None:
    """Find the line that cannot be used, and raise."""
    for number, raw in enumerate(text.split(b"\n"), start=line):
        cells = raw.rstrip(b"\r").split(b"\t")
        if cells == [b""]:
            continue
        if len(cells) != 6:
            what = f"{len(cells)} columns, not 6: is this id_mapping.tsv?"
            raise CorpusError(path, what, f"line {number}")
        urs, taxids = parse_urs(Strings.of([cells[0].decode("utf-8", "replace")]))
        if not urs[0] or taxids[0] >= 0:
            raise CorpusError(path, f"{cells[0][:40]!r} is no RNAcentral id", f"line {number}")
        if not cells[3].isdigit() or int(cells[3]) > 2147483647:
            raise CorpusError(path, f"{cells[3][:40]!r} is no taxid", f"line {number}")
    raise CorpusError(path, f"cannot be read ({reason})", f"line {line} on")


def join_bucket(
    bucket: int, mapping: list[Path], keys: list[Path], rules: Rules, target: Path, partitions: int
) -> dict[str, Any]:
    """Look up the ids that the corpus asks for in one bucket of the mapping.

    Parameters
    ----------
    bucket : int
        The bucket.
    mapping, keys : list of Path
        Files of the mapping and of the ids.
    rules : Rules
        The filters. One row of the mapping must pass them all.
    target : Path
        File to write, dealt to partitions by the hash of the sequence.
    partitions : int
        Number of partitions.

    Notes
    -----
    An id with a taxid is looked up with it, one without by its URS alone: then the taxid is that
    of the rows that pass, if they have but one, and the RNA type the one that most of them have
    (of several, the first by alphabet).
    """
    if (done := read_note(target)) is not None:
        return done
    asked = _concatenate(read_buckets(keys, bucket))
    known = _concatenate(read_buckets(mapping, bucket))
    note = {"bucket": bucket, "asked": 0 if asked is None else len(asked)}
    if asked is None:
        empty = JOIN_SCHEMA.empty_table()
        write_buckets(target, empty, np.empty(0, np.int64), partitions, note)
        return note
    found = _Annotations(known, rules).look_up(
        asked["urs"].to_numpy(), asked["taxid"].to_numpy(), asked["place"]
    )
    write_buckets(target, found, bucket_of(asked["hash"].to_numpy(), partitions), partitions, note)
    return note


def _concatenate(batches: list[pa.RecordBatch]) -> pa.Table | None:
    if not batches:
        return None
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()


class _Annotations:
    """One bucket of the mapping, sorted, with running counts of rows that pass the filters."""

    def __init__(self, known: pa.Table | None, rules: Rules) -> None:
        if known is None:
            known = MAPPING_SCHEMA.empty_table()
        urs, taxid = known["urs"].to_numpy(), known["taxid"].to_numpy()
        order = np.lexsort((taxid, urs))
        self.urs, self.taxid = urs[order], taxid[order]
        types = _decoded(known["rna_type"])
        # Sorted names: of two types that are equally frequent, the lower code is the first.
        self.types = pa.array(sorted(set(types.unique().to_pylist())), pa.string())
        self.type = pc.index_in(types, value_set=self.types).to_numpy(zero_copy_only=False)[order]
        fine = [
            np.isin(self.taxid, np.array(rules.taxids)) if rules.taxids else None,
            _one_of(types, rules.rna_types, order),
            _one_of(_decoded(known["database"]), rules.databases, order),
        ]
        passing = np.ones(len(order), dtype=np.bool_)
        self.passing = []
        for mask in fine:
            passing = passing if mask is None else passing & mask
            self.passing.append(passing)

    def look_up(
        self, urs: NDArray[np.uint64], taxid: NDArray[np.int32], places: pa.ChunkedArray
    ) -> pa.Table:
        """Annotate ids; rows of `JOIN_SCHEMA`, in the order of the ids."""
        first, last = self._ranges(self.urs, self.taxid, urs, taxid)
        code = np.zeros(len(urs), dtype=np.uint8)
        reasons = (_TAXID, _RNA_TYPE, _DATABASE)
        for mask, reason in zip(self.passing, reasons, strict=True):
            before = np.concatenate([[0], np.cumsum(mask)])
            none = (before[last] == before[first]) & (last > first)
            code[none & (code == 0)] = reason
        rows = np.flatnonzero(self.passing[-1])
        found_taxid, found_type = self._annotate(rows, urs, taxid)
        code[last == first] = 14
        types = self.types.take(pa.array(found_type, mask=found_type < 0))
        return pa.table(
            {
                "place": places,
                "taxid": pa.array(found_taxid, pa.int32(), mask=found_taxid < 0),
                "rna_type": pc.if_else(pc.equal(types, ""), pa.scalar(None, pa.string()), types),
                "code": code,
            },
            schema=JOIN_SCHEMA,
        )

    @staticmethod
    def _ranges(
        urs: NDArray[np.uint64],
        taxid: NDArray[np.int32],
        asked_urs: NDArray[np.uint64],
        asked_taxid: NDArray[np.int32],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return first and last-plus-one row that each id is about, in sorted rows."""
        names, rank = np.unique(urs, return_inverse=True)
        # URS and taxid in one number: the URS by its rank, which is below 2^31.
        both = rank.astype(np.int64) << 32 | taxid.astype(np.int64)
        place = np.searchsorted(names, asked_urs)
        known = np.zeros(len(asked_urs), dtype=np.bool_)
        if len(names):
            known = names[np.minimum(place, len(names) - 1)] == asked_urs
        low = place.astype(np.int64) << 32
        low, high = low + np.maximum(asked_taxid, 0), low + np.where(asked_taxid < 0, 1 << 32, 0)
        high = np.where(asked_taxid < 0, high, low + 1)
        first, last = np.searchsorted(both, low), np.searchsorted(both, high)
        return np.where(known, first, 0), np.where(known, last, 0)

    def _annotate(
        self, rows: NDArray[np.int64], urs: NDArray[np.uint64], taxid: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return taxid and most frequent RNA type of the passing rows of each id, or -1."""
        first, last = self._ranges(self.urs[rows], self.taxid[rows], urs, taxid)
        some = np.flatnonzero(last > first)
        found_taxid = np.where(taxid >= 0, taxid, -1).astype(np.int32)
        found_type = np.full(len(urs), -1, dtype=np.int64)
        if len(some):
            single = self.taxid[rows][first[some]] == self.taxid[rows][last[some] - 1]
            found_taxid[some[single]] = self.taxid[rows][first[some[single]]]
            found_type[some] = _most_frequent(self.type[rows], first[some], last[some])
        return found_taxid, found_type


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _one_of(
    values: pa.Array, names: tuple[str, ...], order: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    if not names:
        return None
    found = pc.is_in(values, value_set=pa.array(names, pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False))[order]


@njit(nogil=True, cache=True)
def _most_frequent(
    values: NDArray[np.int32], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the most frequent of ``values[first:last]`` for each range, the lowest of several."""
    out = np.empty(len(first), dtype=np.int64)
    for k in range(len(first)):
        run = np.sort(values[first[k] : last[k]])
        best, length, i = run[0], 0, 0
        while i < len(run):
            j = i
            while j < len(run) and run[j] == run[i]:
                j += 1
            if j - i > length:
                best, length = run[i], j - i
            i = j
        out[k] = best
    return out
