"""A tile of an all-against-all: some sequences against some others, on one core. No Ray here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.alignment.blocks import (
    BlockAligner,
    TargetBlock,
    quantisation_error,
    target_blocks,
)
from riboray.alignment.described import FIELDS, describe_alignments
from riboray.alignment.longpairs import align_embeddings
from riboray.alignment.selection import best_of_each
from riboray.alignment.sides import Rule, Side, TileHits

__all__ = [
    "align_pairs",
    "align_tile",
    "score_pairs",
    "score_tile",
]

#: Targets of one query from which lanes beat aligning one by one, and lanes for chosen targets,
#: whose lengths differ (both measured).
_WORTH_LANES = 8
_CHOSEN_LANES = 32


def _rows(a: Side, b: Side, same: bool) -> Iterator[tuple[int, NDArray[np.bool_], TargetBlock]]:
    """Yield every (query, lanes wanted, block): all pairs, or each unordered pair once."""
    count = len(b.sequences)
    for block in target_blocks(b.sequences, np.arange(count)):
        for query in range(len(a.sequences)):
            wanted = block.members > query if same else np.ones(len(block.members), bool)
            if wanted.any():
                yield query, wanted, block


def score_tile(a: Side, b: Side, rule: Rule, *, same: bool) -> TileHits:
    """Score the pairs of a tile and keep those that can pass the rule.

    Parameters
    ----------
    a, b : Side
        Queries and targets.
    rule : Rule
        With int16 arithmetic nothing is lost that passes exactly: scores count as their upper
        bound where they are compared.
    same : bool
        Whether both sides are the same sequences: each pair once, none with itself.

    Returns
    -------
    TileHits
        Without alignments. For `top_k`, the best of the tile for either sequence of a pair.
    """
    aligner = BlockAligner(rule.gaps, rule.mode, rule.arithmetic)
    queries, targets, scores, scored = [], [], [], 0
    for query, wanted, block in _rows(a, b, same):
        found = aligner.scores(a.sequences[query], block)[wanted]
        members = block.members[wanted]
        scored += len(found)
        upper = found + _slack(rule, np.minimum(a.lengths[query], b.lengths[members]))
        kept = _passing(a, b, rule, query, members, upper)
        queries.append(np.full(int(kept.sum()), query, np.int64))
        targets.append(members[kept])
        scores.append(found[kept])
    query_index = np.concatenate([*queries, np.empty(0, np.int64)])
    target_index = np.concatenate([*targets, np.empty(0, np.int64)])
    score = np.concatenate([*scores, np.empty(0, np.float32)])
    if rule.top_k is not None:
        slack = _slack(rule, np.minimum(a.lengths[query_index], b.lengths[target_index]))
        sides = (query_index + a.first, target_index + b.first)
        kept = best_of_each(sides, score, rule.top_k, slack)
        query_index, target_index, score = query_index[kept], target_index[kept], score[kept]
    affinity = (a.means @ b.means.T)[query_index, target_index]
    return TileHits(
        query_index + a.first, target_index + b.first, score, affinity, None, None, scored
    )


def _passing(
    a: Side,
    b: Side,
    rule: Rule,
    query: int,
    members: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Tell which targets of one query pass the rule."""
    if rule.min_score is None and rule.min_z is None:
        return np.ones(len(members), bool)
    affinity = b.means[members] @ a.means[query]
    ours = np.full(len(members), a.lengths[query])
    return rule.passes(scores, ours, b.lengths[members], affinity)


def _slack(rule: Rule, shorter: NDArray[np.int32]) -> NDArray[np.float32]:
    """How far the exact score can lie above the one computed."""
    if rule.arithmetic == "float32":
        return np.zeros(len(shorter), np.float32)
    return quantisation_error(shorter).astype(np.float32)


class _Collector:
    """Gathers alignments query by query."""

    def __init__(self, a: Side, b: Side, rule: Rule) -> None:
        self.a, self.b, self.rule = a, b, rule
        self.parts: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]] = []
        self.values: list[NDArray[np.int32]] = []
        self.cigars: list[pa.StringArray] = []

    def add(
        self,
        query: int,
        members: NDArray[np.int64],
        scores: NDArray[np.float32],
        partners: NDArray[np.int32],
    ) -> None:
        """Describe the alignments of one query that pass the rule."""
        kept = _passing(self.a, self.b, self.rule, query, members, scores)
        members, scores, partners = members[kept], scores[kept], partners[kept]
        starts_a, starts_b = self.a.sequences.starts, self.b.sequences.starts
        described = describe_alignments(
            partners,
            self.a.nucleotides[starts_a[query] : starts_a[query + 1]],
            self.b.nucleotides,
            starts_b[members],
            starts_b[members + 1],
            whole=self.rule.mode == "global",
        )
        self.parts.append((query, members, scores))
        self.values.append(np.column_stack([described.values[name] for name in FIELDS]))
        self.cigars.append(described.cigar)

    def hits(self, scored: int) -> TileHits:
        """Put everything together."""
        if not self.parts:
            none = np.empty(0, np.int64)
            values = {name: np.empty(0, np.int32) for name in FIELDS}
            empty = pa.array([], pa.string())
            zero = np.empty(0, np.float32)
            return TileHits(none, none, zero, zero, values, empty, scored)
        table = np.concatenate(self.values)
        query = np.concatenate([np.full(len(m), q, np.int64) for q, m, _ in self.parts])
        target = np.concatenate([m for _, m, _ in self.parts])
        return TileHits(
            query + self.a.first,
            target + self.b.first,
            np.concatenate([s for _, _, s in self.parts]),
            (self.a.means @ self.b.means.T)[query, target],
            {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(FIELDS)},
            pa.concat_arrays(self.cigars),
            scored,
        )


def align_tile(a: Side, b: Side, rule: Rule, *, same: bool) -> TileHits:
    """Align the pairs of a tile; those that the rule leaves out get no traceback.

    Parameters
    ----------
    a, b : Side
        Queries and targets.
    rule : Rule
        Without `top_k`, which only the whole can decide.
    same : bool
        Whether both sides are the same sequences: each pair once, none with itself.

    Returns
    -------
    TileHits
        With alignments, in an order that depends on the input alone.
    """
    if rule.filters:
        chosen = score_tile(a, b, rule, same=same)
        query, target = chosen.query - a.first, chosen.target - b.first
        return align_pairs(a, b, rule, query, target, chosen.scored)
    aligner, collector, scored = BlockAligner(rule.gaps, rule.mode), _Collector(a, b, rule), 0
    for query_index, wanted, block in _rows(a, b, same):
        scores, partners = aligner.alignments(a.sequences[query_index], block)
        members = block.members[wanted]
        scored += len(members)
        collector.add(query_index, members, scores[wanted], partners[wanted])
    return collector.hits(scored)


def align_pairs(
    a: Side,
    b: Side,
    rule: Rule,
    query: NDArray[np.int64],
    target: NDArray[np.int64],
    scored: int | None = None,
) -> TileHits:
    """Align chosen pairs of a tile.

    Parameters
    ----------
    a, b : Side
        Queries and targets.
    rule : Rule
        Pairs that do not pass it exactly are left out.
    query, target : ndarray, shape=(k,), dtype=int64
        Positions within ``a`` and ``b``.
    scored : int, optional
        Pairs that were compared to choose these; as many as are given by default.

    Returns
    -------
    TileHits
        Sorted by query, then target.
    """
    aligner, collector = BlockAligner(rule.gaps, rule.mode), _Collector(a, b, rule)
    for index, members in _by_query(query, target):
        rows = a.sequences[index]
        if len(members) >= _WORTH_LANES:
            for block in target_blocks(b.sequences, members, _CHOSEN_LANES):
                collector.add(index, block.members, *aligner.alignments(rows, block))
            continue
        found = (b.sequences[int(t)] for t in members)
        results = [align_embeddings(rows, rows_b, rule.gaps, rule.mode) for rows_b in found]
        scores = np.array([score for score, _ in results], np.float32)
        collector.add(index, members, scores, np.array([p for _, p in results], np.int32))
    return collector.hits(len(query) if scored is None else scored)


def _by_query(
    query: NDArray[np.int64], target: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each query with its targets, both sorted."""
    order = np.lexsort((target, query))
    query, target = query[order], target[order]
    bounds = np.flatnonzero(np.diff(query, prepend=-1, append=-1))
    for start, stop in pairwise(bounds.tolist()):
        yield int(query[start]), target[start:stop]


def score_pairs(
    a: Side, b: Side, rule: Rule, query: NDArray[np.int64], target: NDArray[np.int64]
) -> TileHits:
    """Score chosen pairs of a tile, in float32, and keep those that pass the rule.

    Parameters
    ----------
    a, b : Side
        Queries and targets.
    rule : Rule
        Without `top_k`.
    query, target : ndarray, shape=(k,), dtype=int64
        Positions within ``a`` and ``b``.

    Returns
    -------
    TileHits
        Without alignments, sorted by query, then target.
    """
    aligner = BlockAligner(rule.gaps, rule.mode)
    parts: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]] = []
    for index, members in _by_query(query, target):
        rows = a.sequences[index]
        if len(members) >= _WORTH_LANES:
            blocks = target_blocks(b.sequences, members, _CHOSEN_LANES)
            scores = np.concatenate([aligner.scores(rows, block) for block in blocks])
        else:
            found = (b.sequences[int(t)] for t in members)
            scores = np.array(
                [
                    align_embeddings(rows, rows_b, rule.gaps, rule.mode, traceback=False)[0]
                    for rows_b in found
                ],
                np.float32,
            )
        kept = _passing(a, b, rule, index, members, scores)
        parts.append((index, members[kept], scores[kept]))
    queries = np.concatenate(
        [np.empty(0, np.int64), *(np.full(len(m), q, np.int64) for q, m, _ in parts)]
    )
    targets = np.concatenate([np.empty(0, np.int64), *(m for _, m, _ in parts)])
    score = np.concatenate([np.empty(0, np.float32), *(s for _, _, s in parts)])
    affinity = (a.means @ b.means.T)[queries, targets]
    return TileHits(queries + a.first, targets + b.first, score, affinity, None, None, len(query))
