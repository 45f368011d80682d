from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.clustering.communities import cluster_graph, components, make_clustering
from riboray.clustering.config import ClusterConfig
from riboray.clustering.greedy import set_cover
from riboray.clustering.representatives import cohesion, medoids
from riboray.clustering.spectral import spectral
from riboray.errors import ConfigError, RiborayError
from tests.clustering.graphs import (
    components_naively,
    edge_lists,
    empty_graph,
    graph_of,
    neighbours,
    same_partition,
    set_cover_naively,
)


def matrix_of(count, edges):
    return (graph_of(count, edges) if edges else empty_graph(count)).adjacency()


def config(**options):
    return ClusterConfig(input=["x.fa"], **options)


@given(edge_lists())
def test_set_cover_against_a_naive_one(case):
    count, edges = case
    owner = set_cover(matrix_of(count, edges))
    assert owner.tolist() == set_cover_naively(count, edges)
    near = neighbours(count, edges)
    for node, centre in enumerate(owner.tolist()):
        assert node == centre or centre in near[node]


@given(edge_lists())
def test_components_against_a_walk(case):
    count, edges = case
    assert same_partition(components(matrix_of(count, edges)), components_naively(count, edges))


@given(edge_lists(), st.sampled_from(["leiden", "components", "greedy", "modularity"]))
def test_a_clustering_is_a_partition(case, method):
    count, edges = case
    options = {"method": "leiden", "quality": method} if method == "modularity" else {}
    found = cluster_graph(matrix_of(count, edges), config(**(options or {"method": method})))
    assert sorted(found.order.tolist()) == list(range(count))
    assert found.sizes.sum() == count
    assert (np.diff(found.sizes) <= 0).all()
    inside = components_naively(count, edges)
    for cluster in range(len(found)):
        members = found.members(cluster).tolist()
        assert members[0] == found.representatives[cluster]
        assert members[1:] == sorted(members[1:])
        assert set(found.labels[members].tolist()) == {cluster}
        assert len({inside[k] for k in members}) == 1
        assert np.array_equal(members, found.order[found.starts[cluster] :][: len(members)])


def test_greedy_by_hand():
    #  0-1, 0-2, 0-3 and 3-4, 4-5, 4-6: both centres have three neighbours, the first comes first.
    edges = [(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0), (3, 4, 1.0), (4, 5, 1.0), (4, 6, 1.0)]
    assert set_cover(matrix_of(8, edges)).tolist() == [0, 0, 0, 0, 4, 4, 4, 7]
    found = cluster_graph(matrix_of(8, edges), config(method="greedy"))
    assert found.representatives.tolist() == [0, 4, 7]


def test_medoids_by_hand():
    edges = [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 0.5), (3, 4, 0.7), (2, 3, 9.0)]
    labels = np.array([5, 5, 5, 1, 1, 3])
    # Label 1: two members of the same sum; label 5: node 1 has 2.0, the others 1.5.
    assert medoids(matrix_of(6, edges), labels).tolist() == [3, 5, 1]


def test_cohesion_by_hand():
    edges = [(0, 1, 1.0), (1, 2, 0.5), (2, 3, 0.25), (3, 4, 1.0)]
    found = cohesion(matrix_of(6, edges), np.array([0, 0, 0, 1, 1, 2]))
    assert found.edges.tolist() == [2, 1, 0]
    assert found.density == pytest.approx([2 / 3, 1.0, 1.0])
    assert found.cohesion == pytest.approx([3.0 / 3.25, 2.0 / 2.25, 1.0])
    # Node 2: 0.5 / 2 to its own, 0.25 / 2 to the other; node 3: 1.0 and 0.25 / 3.
    first = (1 + 1 + (0.25 - 0.125) / 0.25) / 3
    second = ((1 - 0.25 / 3) / 1 + 1) / 2
    assert found.silhouette == pytest.approx([first, second, 0.0])


@given(edge_lists(), st.data())
def test_cohesion_against_a_dense_one(case, data):
    count, edges = case
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    labels = np.unique(labels, return_inverse=True)[1]
    matrix = matrix_of(count, edges)
    found, dense = cohesion(matrix, labels), matrix.toarray()
    for cluster in range(labels.max() + 1):
        values = []
        members = np.flatnonzero(labels == cluster)
        for k in members:
            if len(members) == 1:
                values.append(0.0)
                continue
            own = dense[k, members].sum() / (len(members) - 1)
            others = [dense[k, labels == c].mean() for c in set(labels.tolist()) - {cluster}]
            other = max(others, default=0.0)
            values.append((own - other) / max(own, other) if max(own, other) else 0.0)
        assert found.silhouette[cluster] == pytest.approx(np.mean(values), abs=1e-6)
        assert found.edges[cluster] == (dense[np.ix_(members, members)] > 0).sum() // 2


def test_no_edges_are_single_sequences():
    for method in ("leiden", "components", "greedy"):
        found = cluster_graph(empty_graph(5).adjacency(), config(method=method))
        assert found.order.tolist() == found.representatives.tolist() == list(range(5))


def test_representatives_must_fit():
    with pytest.raises(RiborayError, match="2 clusters have 1 representatives"):
        make_clustering(np.array([0, 0, 1]), np.array([0]))
    with pytest.raises(RiborayError, match="bug"):
        make_clustering(np.array([0, 0, 1]), np.array([0, 1]))


def test_spectral_finds_blocks(rng):
    truth = np.repeat(np.arange(4), 15)
    order = rng.permutation(60)
    truth = truth[order]
    dense = np.where(truth[:, None] == truth, 1.0, 0.1) * rng.uniform(0.8, 1.2, (60, 60))
    rows, columns = np.triu_indices(60, 1)
    matrix = matrix_of(60, list(zip(rows, columns, dense[rows, columns], strict=True)))
    assert same_partition(spectral(matrix, 4).tolist(), truth.tolist())
    assert np.array_equal(spectral(matrix, 4), spectral(matrix, 4))


def test_spectral_in_pieces_and_at_the_ends():
    apart = matrix_of(6, [(0, 1, 1.0), (1, 2, 1.0), (3, 4, 1.0), (4, 5, 1.0)])
    assert same_partition(spectral(apart, 2).tolist(), [0, 0, 0, 1, 1, 1])
    assert set(spectral(apart, 1).tolist()) == {0}
    assert len(set(spectral(apart, 6).tolist())) == 6
    assert len(set(spectral(empty_graph(5).adjacency(), 2).tolist())) == 2


def test_spectral_limits():
    with pytest.raises(ConfigError, match="3 sequences cannot make 4 clusters"):
        spectral(empty_graph(3).adjacency(), 4)
    with pytest.raises(ConfigError, match="5,001 sequences are too many"):
        spectral(empty_graph(5001).adjacency(), 4)
