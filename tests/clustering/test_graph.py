from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.clustering import graph as module
from riboray.clustering.graph import EdgeCollector
from tests.clustering.graphs import edge_lists, graph_of, neighbours


def collect(count, edges, neighbors=None, piece=3):
    collector = EdgeCollector(count, neighbors)
    for start in range(0, len(edges), piece):
        one, other, weight = (np.array(c) for c in zip(*edges[start : start + piece], strict=True))
        collector.add(one, other, weight)
    return collector


@given(edge_lists())
def test_every_edge_once_with_its_highest_weight(case):
    count, edges = case
    graph = collect(count, edges).graph()
    found = {
        (int(a), int(b)): float(w)
        for a, b, w in zip(graph.first, graph.second, graph.weight, strict=True)
    }
    near = neighbours(count, edges)
    assert found == {(a, b): w for a in range(count) for b, w in near[a].items() if a < b}
    matrix = graph.adjacency()
    assert (matrix != matrix.T).nnz == 0
    assert matrix.nnz == 2 * len(found)


@given(edge_lists(), st.integers(1, 4), st.booleans())
def test_strongest_edges_against_sorting(case, k, mutual):
    count, edges = case
    near = neighbours(count, edges)
    chosen = [
        {b for b, _ in sorted(near[a].items(), key=lambda item: (-item[1], item[0]))[:k]}
        for a in range(count)
    ]
    keep = all if mutual else any
    wanted = {
        (a, b)
        for a in range(count)
        for b in near[a]
        if a < b and keep((b in chosen[a], a in chosen[b]))
    }
    graph = collect(count, edges, k).graph(mutual=mutual)
    assert set(zip(graph.first.tolist(), graph.second.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("mutual", [False, True])
def test_thinning_on_the_way_changes_nothing(mutual, monkeypatch, rng):
    edges = list(
        zip(
            rng.integers(0, 60, 3000).tolist(),
            rng.integers(0, 60, 3000).tolist(),
            rng.integers(1, 50, 3000).tolist(),
            strict=True,
        )
    )
    at_once = collect(60, edges, 5, piece=3000).graph(mutual=mutual)
    monkeypatch.setattr(module, "_PENDING", 20)
    bit_by_bit = collect(60, edges, 5, piece=7).graph(mutual=mutual)
    for name in ("first", "second", "weight"):
        assert np.array_equal(getattr(at_once, name), getattr(bit_by_bit, name))


def test_what_is_not_above_zero_links_nothing():
    graph = graph_of(4, [(0, 1, 0.0), (1, 2, -1.0), (2, 3, np.nan), (3, 0, 0.5)])
    assert (graph.first.tolist(), graph.second.tolist()) == ([0], [3])
