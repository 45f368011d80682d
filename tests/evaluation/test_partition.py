"""Clusters of a given number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from riboray.errors import ConfigError
from riboray.evaluation.agreement import clustering_agreement
from riboray.evaluation.partition import partition

METHODS = ("agglomerative", "spectral")


def families(rng, sizes, noise=0.3):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    half = rng.normal(scale=noise, size=(len(labels), len(labels)))
    return (labels[:, None] == labels) + (half + half.T) / 2, labels


@pytest.mark.parametrize("method", METHODS)
def test_clear_families_are_found(rng, method):
    similarity, labels = families(rng, [20, 15, 12, 18], noise=0.1)
    found = partition(similarity, 4, method)
    assert clustering_agreement(labels, found).ari == 1
    assert found[0] == 0
    assert np.unique(found).tolist() == [0, 1, 2, 3]
    first = [np.flatnonzero(found == k)[0] for k in range(4)]
    assert first == sorted(first), "numbered in the order of their first sequences"


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_diagonal_do_not_matter(rng, method):
    similarity, _ = families(rng, [9, 9, 9])
    found = partition(similarity, 3, method)
    other = 7 * similarity - 90
    np.fill_diagonal(other, 1e6)
    np.testing.assert_array_equal(partition(other, 3, method), found)
    np.testing.assert_array_equal(partition(similarity, 3, method), found)


@given(st.integers(0, 1000), st.integers(2, 15), st.integers(2, 15))
@settings(max_examples=30)
def test_average_linkage_is_that_of_scipy(seed, size, count):
    count = min(count, size)
    rng = np.random.default_rng(seed)
    half = rng.uniform(size=(size, size))
    similarity = half + half.T
    distance = similarity.max() - similarity
    np.fill_diagonal(distance, 0)
    theirs = fcluster(linkage(squareform(distance), "average"), count, "maxclust")
    assert clustering_agreement(theirs, partition(similarity, count)).ari == 1


@pytest.mark.parametrize("method", METHODS)
def test_as_many_clusters_as_asked_for_though_all_are_alike(method):
    assert len(np.unique(partition(np.ones((6, 6)), 3, method))) == 3


def test_what_cannot_be_clustered(rng):
    similarity, _ = families(rng, [3, 3])
    for count, message in ((1, "ask for at least 2"), (7, "6 sequences cannot form 7 clusters")):
        with pytest.raises(ConfigError, match=message):
            partition(similarity, count)
    with pytest.raises(ConfigError, match="unknown way of clustering 'k'; known are agglom"):
        partition(similarity, 2, "k")
    with pytest.raises(ValueError, match="square matrix of finite"):
        partition(np.full((3, 3), np.nan), 2)
    with pytest.raises(ValueError, match="square matrix"):
        partition(np.ones((3, 4)), 2)
