"""Columns of texts as flat bytes and offsets, and the compiled loops over them.

A corpus of fifty million records cannot be a list of Python strings. Everything between a file and
a Parquet shard is a `Strings`: one buffer, which Arrow shares without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

__all__ = ["Strings", "base_hash", "copy_slices", "equal_neighbours", "hash_rows"]

Bytes = NDArray[np.uint8]
Index = NDArray[np.int64]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


@dataclass(frozen=True)
class Strings:
    """A column of byte strings.

    Attributes
    ----------
    data : ndarray, shape=(bytes,), dtype=uint8
        The strings, one after the other.
    offsets : ndarray, shape=(n + 1,), dtype=int64
        Where each begins, and where the last ends.
    """

    data: Bytes
    offsets: Index

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Index:
        """Bytes of each string; shape (n,)."""
        return np.diff(self.offsets)

    def item(self, row: int) -> bytes:
        """Return one string."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def text(self, row: int) -> str:
        """Return one string as text; bytes that are not UTF-8 are shown as escapes."""
        return self.item(row).decode("utf-8", "backslashreplace")

    def undecodable(self) -> NDArray[np.bool_]:
        """Tell which strings are not UTF-8; shape (n,)."""
        found = np.zeros(len(self), dtype=np.bool_)
        high = self.data > 127
        if high.any():
            before = np.concatenate([[0], np.cumsum(high)])
            for row in np.flatnonzero(np.diff(before[self.offsets])).tolist():
                try:
                    self.item(row).decode("utf-8")
                except UnicodeDecodeError:
                    found[row] = True
        return found

    def take(self, rows: NDArray[np.integer]) -> Strings:
        """Return the strings of the given rows, in that order."""
        return Strings.from_arrow(self.to_arrow().take(pa.array(rows)))

    def slices(self, rows: Index, starts: Index, stops: Index) -> Strings:
        """Return a part, ``starts`` to ``stops``, of the string of each given row."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(stops - starts, out=offsets[1:])
        data = np.empty(int(offsets[-1]), dtype=np.uint8)
        copy_slices(self.data, self.offsets[rows] + starts, data, offsets[:-1], stops - starts)
        return Strings(data, offsets)

    def without(self, letters: bytes) -> Strings:
        """Return the strings without some bytes."""
        stays = ~np.isin(self.data, np.frombuffer(letters, dtype=np.uint8))
        before = np.concatenate([[0], np.cumsum(stays)])
        return Strings(self.data[stays], before[self.offsets])

    def to_arrow(self) -> pa.Array:
        """Share the bytes with an Arrow string column, which is valid if they are UTF-8.

        Raises
        ------
        OverflowError
            Over 2 GiB in all.
        """
        if self.offsets[-1] > np.iinfo(np.int32).max:
            raise OverflowError("a string column of over 2 GiB")
        offsets = self.offsets.astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.data)]
        return pa.StringArray.from_buffers(len(self), buffers[1], buffers[2])

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> Strings:
        """View an Arrow (large) string or binary column; null is the empty string."""
        if isinstance(column, pa.ChunkedArray):
            parts = [cls.from_arrow(chunk) for chunk in column.chunks]
            return parts[0] if len(parts) == 1 else cls.concatenate(parts)
        if column.null_count:
            column = column.fill_null("" if pa.types.is_string(column.type) else b"")
        width = column.type in (pa.large_string(), pa.large_binary())
        _, offsets, data = column.buffers()
        kind = np.int64 if width else np.int32
        if offsets is None or len(column) == 0:
            return cls(np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64))
        view = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1]
        raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        first = int(view[0])
        return cls(raw[first : int(view[-1])], view.astype(np.int64) - first)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """Make a column of a few Python strings."""
        parts = [text.encode("utf-8", "backslashreplace") for text in texts]
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Strings]) -> Strings:
        """Put columns one below the other."""
        if not parts:
            return cls(np.empty(0, np.uint8), np.zeros(1, np.int64))
        shifts = np.cumsum([0, *(len(part.data) for part in parts)])
        offsets = [part.offsets[1:] + shift for part, shift in zip(parts, shifts, strict=False)]
        data = np.concatenate([part.data for part in parts])
        return cls(data, np.concatenate([np.zeros(1, np.int64), *offsets]))


@njit(nogil=True, cache=True)
def copy_slices(data: Any, sources: Index, out: Any, targets: Index, lengths: Index) -> None:
    """Copy pieces of one array to places in another.

    Parameters
    ----------
    data, out : ndarray, one dimension
        Of one type.
    sources, targets, lengths : ndarray, shape=(n,), dtype=int64
        Where each piece begins in ``data`` and in ``out``, and how long it is.
    """
    for k in range(len(sources)):
        source, target = sources[k], targets[k]
        for i in range(lengths[k]):
            out[target + i] = data[source + i]


@njit(nogil=True, cache=True)
def _mix(value: np.uint64) -> np.uint64:
    """Scramble 64 bits (SplitMix64's finaliser; Steele, Lea & Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(nogil=True, cache=True)
def hash_rows(data: Bytes, offsets: Index) -> NDArray[np.uint64]:
    """Hash every string to 64 bits (FNV-1a, scrambled); fast, not cryptographic."""
    out = np.empty(len(offsets) - 1, dtype=np.uint64)
    for k in range(len(out)):
        value = _FNV_OFFSET
        for i in range(offsets[k], offsets[k + 1]):
            value = (value ^ np.uint64(data[i])) * _FNV_PRIME
        out[k] = _mix(value)
    return out


@njit(nogil=True, cache=True)
def base_hash(data: Bytes, offsets: Index) -> NDArray[np.uint64]:
    """Hash every string without its trailing ``.digits``: ``x``, ``x.2``, ``x.2.3`` agree."""
    out = np.empty(len(offsets) - 1, dtype=np.uint64)
    for k in range(len(out)):
        start, stop = offsets[k], offsets[k + 1]
        end = stop
        while end > start:
            i = end
            while i > start and 48 <= data[i - 1] <= 57:
                i -= 1
            if i in (end, start) or data[i - 1] != 46:
                break
            end = i - 1
        value = _FNV_OFFSET
        for i in range(start, end):
            value = (value ^ np.uint64(data[i])) * _FNV_PRIME
        out[k] = _mix(value)
    return out


@njit(nogil=True, cache=True)
def equal_neighbours(data: Bytes, offsets: Index, order: Index) -> NDArray[np.bool_]:
    """Tell for each row of ``order`` whether its string equals that of the row before."""
    out = np.zeros(len(order), dtype=np.bool_)
    for k in range(1, len(order)):
        a, b = order[k - 1], order[k]
        length = offsets[b + 1] - offsets[b]
        if offsets[a + 1] - offsets[a] != length:
            continue
        same = True
        for i in range(length):
            if data[offsets[a] + i] != data[offsets[b] + i]:
                same = False
                break
        out[k] = same
    return out
