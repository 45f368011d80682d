from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from riboray.clustering.leiden import leiden, partition_quality
from tests.clustering.graphs import (
    components_naively,
    edge_lists,
    empty_graph,
    graph_of,
    neighbours,
    same_partition,
)


def cliques(count, size, bridge=1.0):
    """A ring of cliques, each linked to the next by one edge."""
    edges = []
    for k in range(count):
        nodes = range(k * size, (k + 1) * size)
        edges += [(a, b, 1.0) for a, b in itertools.combinations(nodes, 2)]
        edges.append((k * size, ((k + 1) % count) * size + 1, bridge))
    return graph_of(count * size, edges).adjacency(), np.repeat(np.arange(count), size)


def planted(rng, families, size, degree, noise):
    """Families linked inside at random, and random edges between all."""
    count = families * size
    one = np.repeat(np.arange(count), degree)
    other = one // size * size + rng.integers(0, size, len(one))
    wild = rng.integers(0, count, (2, noise))
    edges = [*zip(one, other, np.ones(len(one)), strict=True)]
    edges += [*zip(*wild, np.ones(noise), strict=True)]
    return graph_of(count, edges).adjacency(), np.arange(count) // size


@pytest.mark.parametrize("seed", range(5))
def test_a_ring_of_cliques_by_hand(seed):
    matrix, truth = cliques(30, 5)
    assert same_partition(leiden(matrix, resolution=0.5, seed=seed).tolist(), truth.tolist())
    # The resolution limit of modularity (Fortunato & Barthélemy 2007): cliques go in pairs.
    found = leiden(matrix, quality="modularity", resolution=1.0, seed=seed)
    assert len(set(found.tolist())) < 30
    best = partition_quality(matrix, truth, "modularity", 1.0)
    assert partition_quality(matrix, found, "modularity", 1.0) > best


def test_resolution_asks_for_density():
    # Two cliques of four and an edge between them: together, 13 of 28 pairs are linked.
    edges = [(a + 4 * k, b + 4 * k, 1.0) for k in (0, 1) for a in range(4) for b in range(a)]
    matrix = graph_of(8, [*edges, (0, 4, 1.0)]).adjacency()
    # Together the quality gains one edge and loses 16 pairs: 1/16 is where it turns.
    assert len(set(leiden(matrix, resolution=1 / 17).tolist())) == 1
    assert same_partition(leiden(matrix, resolution=1 / 15).tolist(), [0] * 4 + [1] * 4)
    assert len(set(leiden(matrix, resolution=1.1).tolist())) == 8


@pytest.mark.parametrize(("quality", "resolution"), [("cpm", 0.1), ("modularity", 3.0)])
def test_planted_families_are_found(rng, quality, resolution):
    matrix, truth = planted(rng, 60, 20, 6, 400)
    found = leiden(matrix, quality=quality, resolution=resolution)
    reached = partition_quality(matrix, found, quality, resolution)
    assert reached >= partition_quality(matrix, truth, quality, resolution) - 1e-6
    assert same_partition(found.tolist(), truth.tolist())
    assert np.array_equal(found, leiden(matrix, quality=quality, resolution=resolution))


def test_quality_against_sums_over_pairs(rng):
    matrix, truth = planted(rng, 4, 6, 3, 10)
    dense = matrix.toarray().astype(float)
    same = truth[:, None] == truth
    mean = dense[dense > 0].mean()
    wanted = dense[same].sum() / 2 - 0.3 * mean / 2 * same.sum()
    assert partition_quality(matrix, truth, "cpm", 0.3) == pytest.approx(wanted)
    degrees = dense.sum(axis=1)
    expected = np.outer(degrees, degrees) / degrees.sum()
    wanted = ((dense - 2.0 * expected) * same).sum() / 2
    assert partition_quality(matrix, truth, "modularity", 2.0) == pytest.approx(wanted)


@given(edge_lists(most=7))
@settings(max_examples=60)
def test_small_graphs_against_every_partition(case):
    """Of a few seeds, one finds the best of all partitions."""
    count, edges = case
    if not any(a != b for a, b, _ in edges):
        return
    matrix = graph_of(count, edges).adjacency()
    reached = [
        partition_quality(matrix, leiden(matrix, resolution=0.4, seed=seed), "cpm", 0.4)
        for seed in range(20)
    ]
    best = max(
        partition_quality(matrix, np.array(labels), "cpm", 0.4) for labels in partitions(count)
    )
    assert max(reached) == pytest.approx(best, abs=1e-6)
    assert min(reached) >= partition_quality(matrix, np.arange(count), "cpm", 0.4) - 1e-9


def partitions(count):
    """Every partition of so many nodes, as labels."""

    def grow(labels):
        if len(labels) == count:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    return grow([])


@given(edge_lists(most=14))
def test_communities_are_connected(case):
    count, edges = case
    matrix = (graph_of(count, edges) if edges else empty_graph(count)).adjacency()
    labels = leiden(matrix, resolution=0.2).tolist()
    near = neighbours(count, edges)
    within = [(a, b, 1.0) for a in range(count) for b in near[a] if labels[a] == labels[b]]
    assert same_partition(components_naively(count, within), labels)


def test_no_edges():
    assert leiden(empty_graph(4).adjacency()).tolist() == [0, 1, 2, 3]


def test_as_good_as_another_implementation(rng):
    native = pytest.importorskip("graspologic_native")
    matrix, _ = planted(rng, 40, 25, 4, 1500)
    coo = matrix.tocoo()
    edges = [
        (str(a), str(b), float(w))
        for a, b, w in zip(coo.row, coo.col, coo.data, strict=True)
        if a < b
    ]
    theirs, _ = native.leiden(edges, seed=1, trials=5)
    found = leiden(matrix, quality="modularity", resolution=1.0)
    ours = partition_quality(matrix, found, "modularity", 1.0) * 2 / matrix.sum()
    assert ours > theirs - 0.005
