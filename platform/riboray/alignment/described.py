"""What a report says of alignments: columns, identities, gaps, ends and CIGAR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

__all__ = ["FIELDS", "Description", "describe_alignments"]

#: Columns of `Description.values`.
FIELDS = (
    "aligned_length",
    "identities",
    "mismatches",
    "gap_opens",
    "query_start",
    "query_end",
    "target_start",
    "target_end",
)


@dataclass(frozen=True)
class Description:
    """Alignments in figures.

    Attributes
    ----------
    values : dict of str to ndarray, shape=(k,), dtype=int32
        ``aligned_length``: columns, gaps included. ``identities``, ``mismatches``: aligned pairs of
        equal and of different nucleotides. ``gap_opens``: gaps, of any length. The four ends are
        1-based and inclusive; 0 if nothing is aligned.
    cigar : pyarrow.StringArray
        M for an aligned pair, I for a base of the query against a gap, D for a base of the
        target (SAM specification, section 1.4.6). Gaps at the ends appear in global
        alignments only; semi-global and local ones begin and end with M.
    """

    values: dict[str, NDArray[np.int32]]
    cigar: pa.StringArray


@njit(nogil=True, cache=True)
def _put(operation: int, length: int, text: NDArray[np.uint8], at: int) -> int:
    """Write one CIGAR operation; return where the next begins."""
    if length == 0:
        return at
    scale = 1
    while length // scale >= 10:
        scale *= 10
    while scale > 0:
        text[at] = 48 + (length // scale) % 10
        at += 1
        scale //= 10
    text[at] = operation
    return at + 1


@njit(nogil=True, cache=True)
def _describe(
    partner: NDArray[np.int32],
    query: NDArray[np.uint8],
    target: NDArray[np.uint8],
    whole: bool,
    values: NDArray[np.int32],
    text: NDArray[np.uint8],
    at: int,
) -> int:
    """Describe one alignment; write its CIGAR from ``at`` on and return where it ends."""
    n, m = len(query), len(target)
    first, last = n, -1
    for i in range(n):
        if partner[i] >= 0:
            first = min(first, i)
            last = i
    values[:] = 0
    if last < 0 and not whole:
        return at
    if whole:
        i, j, stop = 0, 0, n
    else:
        i, j, stop = first, partner[first], last + 1
    values[4], values[6] = i + 1, j + 1
    matched = 0
    inserted = 0
    deleted = 0
    while i < stop:
        if partner[i] < 0:
            if matched > 0:
                at = _put(77, matched, text, at)
                values[0] += matched
                matched = 0
            inserted += 1
            i += 1
            continue
        deleted = partner[i] - j
        if inserted > 0 or deleted > 0:
            at = _put(77, matched, text, at)
            at = _put(73, inserted, text, at)
            at = _put(68, deleted, text, at)
            values[0] += matched + inserted + deleted
            values[3] += (inserted > 0) + (deleted > 0)
            matched = inserted = 0
        if query[i] == target[partner[i]]:
            values[1] += 1
        else:
            values[2] += 1
        matched += 1
        j = partner[i] + 1
        i += 1
    deleted = m - j if whole else 0
    at = _put(77, matched, text, at)
    at = _put(73, inserted, text, at)
    at = _put(68, deleted, text, at)
    values[0] += matched + inserted + deleted
    values[3] += (inserted > 0) + (deleted > 0)
    values[5], values[7] = i, j + deleted
    return at


@njit(nogil=True, cache=True)
def _describe_all(
    partners: NDArray[np.int32],
    query: NDArray[np.uint8],
    targets: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    whole: bool,
    values: NDArray[np.int32],
    text: NDArray[np.uint8],
    offsets: NDArray[np.int32],
) -> None:
    at = 0
    for k in range(len(partners)):
        target = targets[starts[k] : ends[k]]
        at = _describe(partners[k], query, target, whole, values[k], text, at)
        offsets[k + 1] = at


def describe_alignments(
    partners: NDArray[np.int32],
    query: NDArray[np.uint8],
    targets: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    *,
    whole: bool,
) -> Description:
    """Describe the alignments of one query with several targets.

    Parameters
    ----------
    partners : ndarray, shape=(k, n), dtype=int32
        Alignments.
    query : ndarray, shape=(n,), dtype=uint8
        Nucleotides, as ASCII.
    targets : ndarray, dtype=uint8
        Nucleotides of many sequences, one after the other.
    starts, ends : ndarray, shape=(k,), dtype=int64
        Where each target lies in ``targets``.
    whole : bool
        Whether end gaps belong to the alignment (global).

    Returns
    -------
    Description
    """
    count, n = partners.shape
    values = np.zeros((count, len(FIELDS)), np.int32)
    # No operation takes more characters than columns plus one, and no run is written twice.
    room = int(2 * (count * n + (ends - starts).sum()) + 16 * count)
    text, offsets = np.empty(room, np.uint8), np.zeros(count + 1, np.int32)
    _describe_all(partners, query, targets, starts, ends, whole, values, text, offsets)
    cigar = pa.StringArray.from_buffers(
        count, pa.py_buffer(offsets), pa.py_buffer(text[: offsets[-1]].copy())
    )
    return Description({name: values[:, i] for i, name in enumerate(FIELDS)}, cigar)
