"""Figures of retrieval and clustering against scikit-learn, loops, and counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from riboray.evaluation.agreement import (
    average_precisions,
    bootstrap_interval,
    clustering_agreement,
    mean_average_precision,
    nearest_neighbour_hits,
    one_nearest_neighbour,
)

#: a and b are nearest to each other, c to a; d is alone in its class. a, b: x; c, e: y; d: z.
BY_HAND = np.array(
    [
        # a    b    c    d    e
        [9.0, 0.9, 0.5, 0.1, 0.2],
        [0.9, 9.0, 0.3, 0.2, 0.1],
        [0.5, 0.3, 9.0, 0.4, 0.3],
        [0.1, 0.2, 0.4, 9.0, 0.8],
        [0.2, 0.1, 0.3, 0.8, 9.0],
    ]
)
LABELS = ["x", "x", "y", "z", "y"]


@st.composite
def problems(draw):
    """Similarities with many ties, and labels."""
    count = draw(st.integers(2, 14))
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=count, max_size=count))
    seed, levels = draw(st.integers(0, 10_000)), draw(st.integers(1, 30))
    rng = np.random.default_rng(seed)
    half = rng.integers(0, levels, (count, count)).astype(np.float32)
    return half + half.T, labels


def test_by_hand():
    hits = nearest_neighbour_hits(BY_HAND, LABELS)
    np.testing.assert_array_equal(hits, [1, 1, 0, np.nan, 0])
    assert one_nearest_neighbour(BY_HAND, LABELS) == 0.5
    # c finds e behind a and d, level with b: one of four. e finds c behind d: one of two.
    precisions = average_precisions(BY_HAND, LABELS)
    np.testing.assert_allclose(precisions, [1, 1, 1 / 4, np.nan, 1 / 2])
    assert mean_average_precision(BY_HAND, LABELS) == pytest.approx((1 + 1 + 1 / 4 + 1 / 2) / 4)


def test_equal_neighbours_share():
    level = np.ones((4, 4))
    assert nearest_neighbour_hits(level, list("aabb")).tolist() == [1 / 3] * 4
    assert average_precisions(level, list("aabb")).tolist() == [1 / 3] * 4
    assert average_precisions(level, list("aaab")).tolist()[:3] == [2 / 3] * 3


@given(problems())
def test_average_precision_is_that_of_scikit_learn(problem):
    similarity, labels = problem
    found = average_precisions(similarity, labels)
    for query, label in enumerate(labels):
        others = [k for k in range(len(labels)) if k != query]
        relevant = [labels[k] == label for k in others]
        if not any(relevant):
            assert math.isnan(found[query])
            continue
        theirs = metrics.average_precision_score(relevant, similarity[query][others])
        assert found[query] == pytest.approx(theirs, abs=1e-12)


@given(problems())
def test_nearest_neighbour_against_a_loop(problem):
    similarity, labels = problem
    found = nearest_neighbour_hits(similarity, labels)
    for query, label in enumerate(labels):
        others = [k for k in range(len(labels)) if k != query]
        best = max(similarity[query, k] for k in others)
        nearest = [k for k in others if similarity[query, k] == best]
        share = sum(labels[k] == label for k in nearest) / len(nearest)
        alone = labels.count(label) == 1
        assert math.isnan(found[query]) if alone else found[query] == pytest.approx(share)


@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_sequences_does_not_matter(problem, random):
    similarity, labels = problem
    order = list(range(len(labels)))
    random.shuffle(order)
    mixed, mixed_labels = similarity[np.ix_(order, order)], [labels[k] for k in order]
    for of in (nearest_neighbour_hits, average_precisions):
        np.testing.assert_allclose(of(mixed, mixed_labels), of(similarity, labels)[order])


def test_nothing_to_find():
    assert math.isnan(one_nearest_neighbour(np.eye(3), list("abc")))
    assert math.isnan(mean_average_precision(np.eye(3), list("abc")))
    assert all(map(math.isnan, bootstrap_interval(np.full(3, np.nan))))


def test_the_diagonal_is_not_read():
    spoilt = BY_HAND.copy()
    np.fill_diagonal(spoilt, np.nan)
    assert mean_average_precision(spoilt, LABELS) == mean_average_precision(BY_HAND, LABELS)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 5\) for 4 labels"):
        average_precisions(BY_HAND, LABELS[:4])
    spoilt = BY_HAND.copy()
    spoilt[2, 4] = np.nan
    with pytest.raises(ValueError, match="sequence 2 is NaN"):
        nearest_neighbour_hits(spoilt, LABELS)
    with pytest.raises(ValueError, match="3 classes and 2 clusters"):
        clustering_agreement(list("aab"), [0, 1])
    with pytest.raises(ValueError, match="0 classes"):
        clustering_agreement([], [])
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        bootstrap_interval(np.ones(3), ["a", "b"])


def test_clusters_by_hand():
    """Contingency table [[2, 0], [1, 1]]: of 6 pairs, 1 is together in both."""
    found = clustering_agreement(list("xxyy"), [0, 0, 0, 1])
    together, of_classes, of_clusters, pairs = 1, 2, 3, 6
    expected = of_classes * of_clusters / pairs
    ari = (together - expected) / ((of_classes + of_clusters) / 2 - expected)
    assert found.ari == pytest.approx(ari, abs=1e-12)
    h_classes = math.log(2)
    h_clusters = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    shared = 0.5 * math.log(2 / 1.5) + 0.25 * math.log(1 / 1.5) + 0.25 * math.log(2)
    assert found.homogeneity == pytest.approx(shared / h_classes)
    assert found.completeness == pytest.approx(shared / h_clusters)
    v = 2 * found.homogeneity * found.completeness / (found.homogeneity + found.completeness)
    assert found.v_measure == pytest.approx(v)
    assert found.nmi == pytest.approx(2 * shared / (h_classes + h_clusters))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=20))
def test_clusters_against_scikit_learn(items):
    classes, clusters = zip(*items, strict=True)
    found = clustering_agreement(classes, clusters)
    assert found.ari == pytest.approx(metrics.adjusted_rand_score(classes, clusters))
    assert found.nmi == pytest.approx(metrics.normalized_mutual_info_score(classes, clusters))
    assert found.homogeneity == pytest.approx(metrics.homogeneity_score(classes, clusters))
    assert found.completeness == pytest.approx(metrics.completeness_score(classes, clusters))
    assert found.v_measure == pytest.approx(found.nmi)


def test_intervals_cover_as_often_as_they_say(rng):
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(size=60), resamples=300, seed=trial)
        covered += low <= 0 <= high
    # 95 % of 200 with four standard errors of 1.5 %, and a percentile bootstrap is a bit narrow.
    assert 0.87 <= covered / 200 <= 1.0


def test_families_that_go_together_widen_the_interval(rng):
    groups = np.repeat(np.arange(20), 10)
    values = np.repeat(rng.integers(0, 2, 20), 10).astype(float)
    alone, together = bootstrap_interval(values), bootstrap_interval(values, groups)
    # 20 values, not 200: wider by the square root of 10, but for chance.
    ratio = (together[1] - together[0]) / (alone[1] - alone[0])
    assert 2.5 < ratio < 4.0
    assert bootstrap_interval(values, groups) == together, "the seed decides"


def test_values_left_out_do_not_count():
    values = np.array([1.0, np.nan, 1.0, np.nan])
    assert bootstrap_interval(values) == (1.0, 1.0)
    assert bootstrap_interval(values, list("aabb")) == (1.0, 1.0)
