"""Tiles, plans and the choice of pairs: every pair once, whatever is filtered how."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, align_embeddings
from riboray.alignment.hits import HIT_SCHEMA, SCORE_SCHEMA, hits_table, write_tsv
from riboray.alignment.plan import plan_all_pairs, plan_pairs, plan_search
from riboray.alignment.selection import best_of_each
from riboray.alignment.sides import Rule, Side
from riboray.alignment.similarity import SequenceSet
from riboray.alignment.tiles import align_pairs, align_tile, score_pairs, score_tile


def make_side(rng, sizes, first=0, families=3):
    """Sequences of a few families, so that some pairs score high."""
    parents = rng.normal(size=(families, max(sizes), 8))
    rows = [
        parents[k % families][:size] + 0.7 * rng.normal(size=(size, 8))
        for k, size in enumerate(sizes)
    ]
    letters = rng.choice(np.frombuffer(b"ACGU", np.uint8), int(np.sum(sizes)))
    return Side(SequenceSet.of(rows), letters, first)


def described(hits):
    """Rows of a tile as plain values, for comparison."""
    return [
        (
            int(q),
            int(t),
            float(s),
            tuple(int(v[k]) for v in hits.values.values()),
            str(hits.cigar[k]),
        )
        for k, (q, t, s) in enumerate(zip(hits.query, hits.target, hits.score, strict=True))
    ]


@pytest.fixture
def side(rng):
    return make_side(rng, sorted(rng.integers(3, 60, 90), reverse=True), first=100)


@pytest.mark.parametrize("mode", ["global", "semiglobal", "local"])
def test_every_pair_once_and_as_alone(side, mode):
    hits = align_tile(side, side, Rule(mode=mode), same=True)
    pairs = list(zip(hits.query.tolist(), hits.target.tolist(), strict=True))
    assert sorted(pairs) == [(q, t) for q in range(100, 190) for t in range(q + 1, 190)]
    assert hits.scored == len(pairs) == 90 * 89 // 2
    for k in range(0, len(pairs), 171):
        query, target = (side.sequences[i - 100] for i in pairs[k])
        score, partners = align_embeddings(query, target, mode=mode)
        assert hits.score[k] == pytest.approx(score, abs=1e-4)
        aligned = hits.values["identities"][k] + hits.values["mismatches"][k]
        assert aligned == (partners >= 0).sum()


def test_filters_keep_exactly_what_they_say(side):
    everything = align_tile(side, side, Rule(), same=True)
    threshold = float(np.sort(everything.score)[-40])
    rule = Rule(min_score=threshold)
    for arithmetic in ("float32", "int16"):
        filtered = align_tile(
            side, side, Rule(min_score=threshold, arithmetic=arithmetic), same=True
        )
        assert filtered.scored == everything.scored
        wanted = {row[:2]: row for row in described(everything) if row[2] >= threshold}
        found = {row[:2]: row for row in described(filtered)}
        assert found.keys() == wanted.keys()
        for key, row in found.items():
            assert row[2] == pytest.approx(wanted[key][2], abs=1e-4)
            assert row[3:] == wanted[key][3:]
    assert rule.filters
    assert not Rule().filters


def test_scores_alone_are_those_of_the_alignments(side, rng):
    other = make_side(rng, [50, 20, 7, 1])
    with_path = align_tile(side, other, Rule(), same=False)
    alone = score_tile(side, other, Rule(), same=False)
    np.testing.assert_array_equal(with_path.score, alone.score)
    np.testing.assert_array_equal(with_path.query, alone.query)
    np.testing.assert_allclose(with_path.affinity, alone.affinity)
    brute = [
        (side.sequences[q - 100] @ other.sequences[t].T).mean()
        for q, t in zip(alone.query[:30], alone.target[:30], strict=True)
    ]
    np.testing.assert_allclose(alone.affinity[:30], brute, atol=1e-5)


@pytest.mark.parametrize("count", [3, 60])
def test_chosen_pairs_one_by_one_and_in_lanes(side, count):
    query = np.repeat([5, 2], count)
    target = np.concatenate([np.arange(6, 6 + count), np.arange(20, 20 + count)]) % 90
    hits = align_pairs(side, side, Rule(), query, target)
    assert len(hits.score) == 2 * count
    for k in range(0, 2 * count, 7):
        q, t = hits.query[k] - 100, hits.target[k] - 100
        score, _ = align_embeddings(side.sequences[q], side.sequences[t])
        assert hits.score[k] == pytest.approx(score, abs=1e-4)


def test_chosen_pairs_score_as_they_align(side):
    query = np.repeat([5, 2], 30)
    target = np.concatenate([np.arange(6, 36), np.arange(20, 50)])
    scored = score_pairs(side, side, Rule(), query, target)
    aligned = align_pairs(side, side, Rule(), query, target)
    np.testing.assert_array_equal(scored.query, aligned.query)
    np.testing.assert_array_equal(scored.target, aligned.target)
    np.testing.assert_allclose(scored.score, aligned.score, atol=1e-4)
    some = Rule(min_score=float(np.median(scored.score)))
    assert 10 < len(score_pairs(side, side, some, query, target).score) < 60
    one = score_pairs(side, side, Rule(), query[:3], target[:3])
    np.testing.assert_allclose(one.score, scored.score[-30:][:3], atol=1e-4)


def test_nothing_passes(side):
    hits = align_tile(side, side, Rule(min_score=1e9), same=True)
    table = hits_table(hits, ["x"] * 190, np.ones(190, np.int32), None, 1)
    assert table.num_rows == 0
    assert table.schema.equals(HIT_SCHEMA)


def test_tables_and_tsv(side, tmp_path):
    ids = [f'id"{k}' if k == 101 else f"id{k}" for k in range(190)]
    lengths = np.zeros(190, np.int32)
    lengths[100:] = side.lengths
    hits = align_tile(side, side, Rule(), same=True)
    table = hits_table(hits, ids, lengths, None, 1)
    assert table.schema.equals(HIT_SCHEMA)
    assert table["evalue"].null_count == table.num_rows
    write_tsv(table, tmp_path / "t.tsv")
    rows = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()]
    assert len(rows) == table.num_rows
    assert {len(row) for row in rows} == {12}
    assert rows[0][:2] == [table["query"][0].as_py(), table["target"][0].as_py()]
    assert any('"' in row[0] for row in rows), "names are written as they are"
    scores = score_tile(side, side, Rule(), same=True)
    assert hits_table(scores, ids, lengths, None, 1).schema.equals(SCORE_SCHEMA)


@given(st.lists(st.integers(1, 3000), min_size=2, max_size=200))
@settings(deadline=None, max_examples=50)
def test_a_plan_holds_every_pair_once(lengths):
    sizes = np.array(lengths)
    plan = plan_all_pairs(sizes)
    assert (np.diff(sizes[plan.order]) <= 0).all()
    assert plan.chunks[0][0] == 0
    assert plan.chunks[-1][1] == len(sizes)
    assert all(a[1] == b[0] for a, b in zip(plan.chunks, plan.chunks[1:], strict=False))
    assert plan.pairs == len(sizes) * (len(sizes) - 1) // 2
    assert plan.cells == (sizes.sum() ** 2 - (sizes**2).sum()) // 2
    assert [t.cells for t in plan.tiles] == sorted((t.cells for t in plan.tiles), reverse=True)
    assert len({t.name for t in plan.tiles}) == len(plan.tiles)


def test_large_plans_are_cut_evenly_and_into_full_blocks():
    plan = plan_all_pairs(np.full(5000, 150))
    cells = [tile.cells for tile in plan.tiles]
    assert 60 < len(cells) < 3000
    assert max(cells) <= 1e9
    assert all((stop - start) % 64 == 0 for start, stop in plan.chunks[:-1])


@pytest.mark.parametrize(("queries", "targets"), [(1, 50_000), (50_000, 1), (3000, 3000), (1, 1)])
def test_a_search_is_cut_along_either_axis(queries, targets):
    plan = plan_search(np.full(queries, 100), np.full(targets, 100))
    assert plan.pairs == queries * targets
    assert len(plan.chunks) * len(plan.target_chunks) == len(plan.tiles)
    if queries == 1 and targets > 1:
        assert len(plan.target_chunks) > 4
    if targets == 1 and queries > 1:
        assert len(plan.chunks) > 4


def test_chosen_pairs_are_grouped_into_tiles(rng):
    sizes = rng.integers(50, 400, 2000)
    plan = plan_all_pairs(sizes)
    lengths = sizes[plan.order]
    query = rng.integers(0, 1000, 500)
    target = rng.integers(1000, 2000, 500)
    tiles = plan_pairs(plan, query, target, lengths, lengths)
    found = {(int(q), int(t)) for tile in tiles for q, t in zip(*tile.chosen, strict=True)}
    assert found == set(zip(query.tolist(), target.tolist(), strict=True))
    for tile in tiles:
        start, stop = plan.chunks[tile.a]
        assert ((tile.chosen[0] >= start) & (tile.chosen[0] < stop)).all()


@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans())
def test_best_of_each_against_a_plain_one(seed, k, exactly):
    rng = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    query, target = np.array(pairs).T.astype(np.int64)
    scores = rng.integers(0, 5, len(pairs)).astype(np.float32)
    kept = best_of_each((query, target), scores, k, exactly=exactly)
    wanted = set()
    for owner in range(7):
        own = [
            (-scores[p], b if a == owner else a, p)
            for p, (a, b) in enumerate(pairs)
            if owner in (a, b)
        ]
        own.sort()
        limit = -own[min(k, len(own)) - 1][0]
        wanted |= {p for r, (s, _, p) in enumerate(own) if (r < k if exactly else -s >= limit)}
    assert set(np.flatnonzero(kept).tolist()) == wanted


def test_penalties_reach_the_tiles(side):
    cheap = align_tile(side, side, Rule(gaps=GapPenalties(0, 0)), same=True)
    dear = align_tile(side, side, Rule(gaps=GapPenalties(3, 1)), same=True)
    assert (cheap.score >= dear.score).all()
    assert cheap.values["gap_opens"].sum() > dear.values["gap_opens"].sum()
