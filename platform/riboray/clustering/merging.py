"""One alignment of a cluster from the alignments of its members with the medoid.

Once a gap, always a gap (Feng & Doolittle 1987, doi:10.1007/BF02603120): where a member has bases
that the medoid has not, columns of gaps are opened in all other rows. Members' bases in such
columns stand there together without being aligned with each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["merge_alignments"]

_GAP = np.uint8(ord("-"))


def _insertions(partners: NDArray[np.int32], length: int) -> NDArray[np.int64]:
    """Count a member's bases before each medoid position and after the last; (length + 1,)."""
    counts = np.zeros(length + 1, np.int64)
    np.add.at(counts, _slots(partners, length)[partners < 0], 1)
    return counts


def _slots(partners: NDArray[np.int32], length: int) -> NDArray[np.int64]:
    """Return the medoid position before which each base of a member stands, aligned or not."""
    places = np.where(partners >= 0, partners, length).astype(np.int64)
    following: NDArray[np.int64] = np.minimum.accumulate(places[::-1])[::-1]
    return following


def merge_alignments(
    medoid: str, members: Sequence[str], partners: Sequence[NDArray[np.int32]]
) -> list[str]:
    """Merge alignments with one sequence into one alignment of all.

    Parameters
    ----------
    medoid : str
        The sequence that all others are aligned with, of length m.
    members : sequence of str
        The others.
    partners : sequence of ndarray, each of shape=(n,), dtype=int32
        For each position of a member its partner in the medoid, increasing, or -1.

    Returns
    -------
    list of str
        Gapped rows of equal length, the medoid's first. Without gaps, every row is its sequence;
        without the columns that are gaps in both, every member's row and the medoid's are their
        alignment. Bases before the first column of the medoid stand at its side, others begin
        where their gap begins.
    """
    length = len(medoid)
    inserted = [_insertions(each, length) for each in partners]
    room = np.zeros(length + 1, np.int64)
    for counts in inserted:
        room = np.maximum(room, counts)
    # Columns: room[0] for insertions, medoid position 0, room[1], position 1, …, room[m].
    begin = np.concatenate([[0], np.cumsum(room[:-1] + 1)]).astype(np.int64)
    own = begin[:-1] + room[:-1]
    width = int(begin[-1] + room[-1])
    rows = [_spread(medoid, own, width)]
    for text, each, counts in zip(members, partners, inserted, strict=True):
        slots, aligned = _slots(each, length), each >= 0
        columns = np.empty(len(text), np.int64)
        columns[aligned] = own[each[aligned]]
        loose = np.flatnonzero(~aligned)
        # The how-manieth base of its insertion each is: insertions are runs.
        starts = np.concatenate([[0], np.cumsum(counts)])[slots[loose]]
        within = np.arange(len(loose)) - starts
        within += np.where(slots[loose] == 0, room[0] - counts[0], 0)
        columns[loose] = begin[slots[loose]] + within
        rows.append(_spread(text, columns, width))
    return rows


def _spread(text: str, columns: NDArray[np.int64], width: int) -> str:
    row = np.full(width, _GAP, np.uint8)
    row[columns] = np.frombuffer(text.encode("ascii"), np.uint8)
    return row.tobytes().decode("ascii")
