"""Many sequences: the candidates of each, and each pair of candidates once.

Four rounds of tasks, each of which leaves a file: indices and rows to align of every file of the
database; candidates of some thousand sequences; edges of some thousand sequences. Nothing is held
but what a task works on, and what is there is not made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.candidates import Prefilter, choose_candidates
from riboray.alignment.rowfiles import RowFiles
from riboray.alignment.sides import Rule, TileHits
from riboray.alignment.tiles import align_pairs, score_pairs
from riboray.clustering.config import ClusterConfig
from riboray.clustering.edges import link
from riboray.embedding.store import EmbeddingSet
from riboray.manifest import atomic_path

__all__ = ["BlockReport", "Chosen", "compare_block", "own_pairs", "write_candidates"]

#: Nucleotides of the targets that are in memory together: rows of 32 dimensions take 25 MB, which a
#: cache may hold.
_NUCLEOTIDES = 200_000

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """What every task needs.

    Attributes
    ----------
    config : ClusterConfig
        Options.
    database : EmbeddingSet
        The sequences.
    chooser : Prefilter
        Fitted to them.
    rows : RowFiles
        Their rows.
    rule : Rule
        How pairs are aligned, and chance scores.
    folder : Path
        Where the files of the tasks lie.
    block : int
        Sequences whose candidates are found by one task, and whose pairs are aligned by one.
    """

    config: ClusterConfig
    database: EmbeddingSet
    chooser: Prefilter
    rows: RowFiles
    rule: Rule
    folder: Path
    block: int

    @property
    def blocks(self) -> int:
        """Number of blocks of sequences."""
        return -(-len(self.database) // self.block)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the first row of a block, and the first beyond it."""
        start = number * self.block
        return start, min(start + self.block, len(self.database))

    def candidates(self, number: int) -> Path:
        """Return where the candidates of a block are."""
        return self.folder / f"candidates-{number:05d}.npy"

    def edges(self, number: int) -> Path:
        """Return where the edges of a block are."""
        return self.folder / f"edges-{number:05d}.npz"


@dataclass(frozen=True)
class BlockReport:
    """What came of the pairs of a block.

    Attributes
    ----------
    pairs, cells, edges : int
        Pairs aligned, cells of their dynamic programmes, pairs that are linked.
    """

    pairs: int = 0
    cells: int = 0
    edges: int = 0

    def __add__(self, other: BlockReport) -> BlockReport:
        return BlockReport(
            self.pairs + other.pairs, self.cells + other.cells, self.edges + other.edges
        )

    def describe(self, seconds: float) -> str:
        """Say it in a line, with the speed of so many seconds."""
        pace = self.cells / max(seconds, 1e-3) / 1e9
        return f"{pace:.2f} Gcells/s  {self.pairs:,} pairs  {self.edges:,} edges"


def write_candidates(work: Chosen, number: int) -> None:
    """Write the candidates of a block: their rows, descending, then -1 where there are fewer."""
    start, stop = work.bounds(number)
    own = np.arange(start, stop)
    ours = work.rows.texts(own)
    texts = [ours.text(k) for k in range(len(ours))]
    pooled = np.empty((0, 0), np.float32)
    if work.chooser.whitening is not None:
        parts = work.database.by_file(own)
        pooled = np.concatenate(
            [work.database.views_of(file, "embedding")[local] for file, _, local in parts]
        )
    count = work.config.candidates + 1  # the nearest is the sequence itself
    found = choose_candidates(work.database, work.chooser, texts, pooled, work.rows.texts, count)
    rows = [_others(one.rows, own, work.config.candidates) for one in found]
    table = np.sort(np.concatenate(rows, axis=1), axis=1)
    table[:, 1:][table[:, 1:] == table[:, :-1]] = -1
    table = np.sort(table, axis=1)[:, ::-1]  # -1 to the end
    with atomic_path(work.candidates(number)) as temporary, temporary.open("wb") as sink:
        np.save(sink, np.ascontiguousarray(table, np.int32))


def _others(rows: Rows, own: Rows, count: int) -> Rows:
    """Leave out of each row, best first, the sequence itself; keep the first ``count`` others."""
    kept = rows != own[:, None]
    kept &= np.cumsum(kept, axis=1) <= count
    return np.where(kept, rows, -1)


@njit(nogil=True, cache=True)
def _lists(table: NDArray[np.int32], places: Rows, wanted: Rows, found: NDArray[np.bool_]) -> None:
    """Tell whether rows of a table hold a number."""
    for at in range(len(places)):
        place, number = places[at], wanted[at]
        for column in range(table.shape[1]):
            listed = table[place, column]
            if listed <= number:  # they descend
                found[at] = listed == number
                break


def own_pairs(work: Chosen, number: int) -> tuple[Rows, Rows]:
    """Return the pairs that a block is to align: each pair of candidates is one block's.

    A pair that both sequences chose is the first one's if their sum is even, else the second's.

    Returns
    -------
    query, target : ndarray, shape=(k,), dtype=int64
        Rows; queries ascending.
    """
    start, _ = work.bounds(number)
    table = np.load(work.candidates(number), mmap_mode="r")
    own, place = np.nonzero(table >= 0)
    query, target = own + start, table[own, place].astype(np.int64)
    mutual = np.zeros(len(query), bool)
    blocks = target // work.block
    for block in np.unique(blocks).tolist():
        here = np.flatnonzero(blocks == block)
        theirs = np.load(work.candidates(block), mmap_mode="r")
        found = np.zeros(len(here), bool)
        _lists(theirs, target[here] - block * work.block, query[here], found)
        mutual[here] = found
    first_has_it = (query + target) % 2 == 0
    kept = ~mutual | ((query < target) == first_has_it)
    return query[kept], target[kept]


def compare_block(work: Chosen, number: int) -> BlockReport:
    """Align the pairs of a block and write those that are linked."""
    query, target = own_pairs(work, number)
    lengths = work.rows.lengths
    parts: list[tuple[Rows, Rows, NDArray[np.float32]]] = []
    for start, stop in _runs(query, lengths[target]):
        hits, ours, theirs = _align(work, query[start:stop], target[start:stop])
        one, other = ours[hits.query], theirs[hits.target]
        kept, weights = link(
            work.config,
            _values(work, hits, lengths[one], lengths[other]),
            np.minimum(lengths[one], lengths[other]),
        )
        parts.append((one[kept], other[kept], weights[kept]))
    first, second, weight = (
        np.concatenate([np.empty(0, kind), *(part[k] for part in parts)])
        for k, kind in enumerate((np.int64, np.int64, np.float32))
    )
    cells = int((lengths[query] * lengths[target]).sum())
    report = BlockReport(len(query), cells, len(first))
    with atomic_path(work.edges(number)) as temporary, temporary.open("wb") as sink:
        np.savez(
            sink,
            first=first.astype(np.int32),
            second=second.astype(np.int32),
            weight=weight,
            pairs=np.int64(report.pairs),
        )
    return report


def _runs(query: Rows, sizes: Rows) -> list[tuple[int, int]]:
    """Cut pairs into runs, whole queries each, of a bounded number of nucleotides."""
    runs, begin = [], 0
    firsts = np.flatnonzero(np.diff(query, prepend=-1))
    ends = np.append(firsts[1:], len(query))
    total = np.concatenate([[0], np.cumsum(sizes)])
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        if first > begin and total[end] - total[begin] > _NUCLEOTIDES:
            runs.append((begin, first))
            begin = first
    if len(query):
        runs.append((begin, len(query)))
    return runs


def _align(work: Chosen, query: Rows, target: Rows) -> tuple[TileHits, Rows, Rows]:
    """Compare pairs; return hits by place, and the rows at the places of either side."""
    ours, queries = _places(work, query)
    theirs, targets = _places(work, target)
    a, b = work.rows.side(ours), work.rows.side(theirs)
    run = align_pairs if work.config.weight == "identity" else score_pairs
    return run(a, b, work.rule, queries, targets), ours, theirs


def _places(work: Chosen, members: Rows) -> tuple[Rows, Rows]:
    """Return the different ones of some rows, longest first, and where each of them is."""
    unique, inverse = np.unique(members, return_inverse=True)
    order = np.argsort(-work.rows.lengths[unique], kind="stable")
    place = np.empty(len(unique), np.int64)
    place[order] = np.arange(len(unique))
    return unique[order], place[inverse]


def _values(
    work: Chosen, hits: TileHits, ours: Rows, theirs: Rows
) -> dict[str, NDArray[np.floating]]:
    """Return what thresholds and weights are about."""
    values: dict[str, NDArray[np.floating]] = {"score": hits.score}
    if work.rule.null is not None:
        z_scores = work.rule.null.z_scores(hits.score, ours, theirs, hits.affinity)
        values["z_score"] = z_scores
        values["evalue"] = work.rule.null.evalues(z_scores, len(work.database))
    if hits.values is not None:
        same, other = hits.values["identities"], hits.values["mismatches"]
        values["identity"] = same / np.maximum(same + other, 1)
    return values
