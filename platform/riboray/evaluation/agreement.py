"""How well similarities find families, and how well clusters agree with them.

Retrieval takes every sequence as a query and the others of its class as relevant; a sequence alone
in its class has nothing to find and does not count. Equal similarities are never ordered: the
nearest of several equals is each of them with the same share, and precision is taken after all
equals. So no figure depends on the order of the sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Agreement",
    "average_precisions",
    "bootstrap_interval",
    "clustering_agreement",
    "mean_average_precision",
    "nearest_neighbour_hits",
    "one_nearest_neighbour",
]

#: Resampled values held at once.
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Agreement:
    """How a clustering agrees with classes; the same however both are numbered.

    Attributes
    ----------
    ari : float
        Adjusted Rand index (Hubert & Arabie 1985, doi:10.1007/BF01908075): 0 on average by chance,
        1 for the same partition.
    nmi : float
        Normalised mutual information, by the arithmetic mean of both entropies.
    homogeneity : float
        1 if no cluster mixes classes (Rosenberg & Hirschberg 2007, aclanthology.org/D07-1043).
    completeness : float
        1 if no class is spread over clusters.
    v_measure : float
        Harmonic mean of the last two. It is the same number as ``nmi``, under the name that some
        papers use.
    """

    ari: float
    nmi: float
    homogeneity: float
    completeness: float
    v_measure: float


def clustering_agreement(classes: Sequence[Any], clusters: Sequence[Any]) -> Agreement:
    """Compare a clustering with the classes of the same items.

    Parameters
    ----------
    classes, clusters : sequence, of one length
        Any values; equal ones belong together.

    Returns
    -------
    Agreement
        By scikit-learn.

    Raises
    ------
    ValueError
        If there is no item, or the two differ in length.
    """
    from sklearn import metrics

    if len(classes) != len(clusters) or not len(classes):
        raise ValueError(f"{len(classes)} classes and {len(clusters)} clusters: not the same items")
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(
        classes, clusters
    )
    return Agreement(
        ari=float(metrics.adjusted_rand_score(classes, clusters)),
        nmi=float(metrics.normalized_mutual_info_score(classes, clusters)),
        homogeneity=float(homogeneity),
        completeness=float(completeness),
        v_measure=float(v_measure),
    )


def nearest_neighbour_hits(
    similarity: NDArray[np.floating], labels: Sequence[Any]
) -> NDArray[np.float64]:
    """Tell for every sequence whether its most similar other is of its class.

    Parameters
    ----------
    similarity : ndarray, shape=(n, n), dtype=floating
        Row i holds the similarities of all to sequence i; the diagonal is not read.
    labels : sequence, length n
        Classes.

    Returns
    -------
    ndarray, shape=(n,), dtype=float64
        1 or 0; where several are equally near, the share of them that is of the class. NaN for a
        sequence alone in its class.

    Raises
    ------
    ValueError
        If the shapes disagree or a similarity is NaN.
    """

    def of_row(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> float:
        return float(relevant[scores == scores.max()].mean())

    return _of_queries(similarity, labels, of_row)


def average_precisions(
    similarity: NDArray[np.floating], labels: Sequence[Any]
) -> NDArray[np.float64]:
    """Measure for every sequence how far ahead the others of its class stand.

    Parameters
    ----------
    similarity : ndarray, shape=(n, n), dtype=floating
        Row i holds the similarities of all to sequence i; the diagonal is not read.
    labels : sequence, length n
        Classes.

    Returns
    -------
    ndarray, shape=(n,), dtype=float64
        The mean, over the relevant, of the precision among all that are at least as similar. It is
        scikit-learn's ``average_precision_score``. NaN for a sequence alone in its class.

    Raises
    ------
    ValueError
        If the shapes disagree or a similarity is NaN.
    """

    def of_row(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> float:
        order = np.argsort(-scores, kind="stable")
        scores, found = scores[order], np.cumsum(relevant[order])
        last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
        gained = np.diff(found[last], prepend=0)
        return float((gained * found[last] / (last + 1)).sum() / found[-1])

    return _of_queries(similarity, labels, of_row)


def _of_queries(
    similarity: NDArray[np.floating],
    labels: Sequence[Any],
    of_row: Callable[[NDArray[np.floating], NDArray[np.bool_]], float],
) -> NDArray[np.float64]:
    """Take every sequence that has relatives as a query among the others."""
    count = len(labels)
    if similarity.shape != (count, count):
        raise ValueError(f"similarities of shape {similarity.shape} for {count} labels")
    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    sizes = np.bincount(codes)
    values = np.full(count, np.nan)
    others = np.ones(count, np.bool_)
    for query in np.flatnonzero(sizes[codes] > 1).tolist():
        others[query] = False
        scores = similarity[query][others]
        if np.isnan(scores).any():
            raise ValueError(f"a similarity to sequence {query} is NaN")
        values[query] = of_row(scores, (codes == codes[query])[others])
        others[query] = True
    return values


def one_nearest_neighbour(similarity: NDArray[np.floating], labels: Sequence[Any]) -> float:
    """Return the share of sequences whose nearest other is of their class.

    See `nearest_neighbour_hits`; NaN if every sequence is alone in its class.
    """
    return _mean(nearest_neighbour_hits(similarity, labels))


def mean_average_precision(similarity: NDArray[np.floating], labels: Sequence[Any]) -> float:
    """Return the mean of `average_precisions`; NaN if every sequence is alone in its class."""
    return _mean(average_precisions(similarity, labels))


def _mean(values: NDArray[np.float64]) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def bootstrap_interval(
    values: NDArray[np.floating],
    groups: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Give a confidence interval of a mean, by the percentiles of resampled means.

    Parameters
    ----------
    values : ndarray, shape=(n,), dtype=floating
        What is averaged: one value a query, or the difference of two measures. NaN is left out.
    groups : sequence, length n, optional
        Whole groups are drawn instead of single values (Field & Welsh 2007,
        doi:10.1111/j.1467-9868.2007.00593.x). Sequences of one family are found, or not,
        together; so drawing single sequences gives intervals that are too narrow.
    level : float
        Share of the resampled means inside.
    resamples : int
        How many.
    seed : int
        Of the draws.

    Returns
    -------
    low, high : float
        NaN if there is no value.

    Raises
    ------
    ValueError
        If ``groups`` has another length than ``values``.
    """
    rows = np.asarray(values, np.float64)
    kept = ~np.isnan(rows)
    if not kept.any():
        return float("nan"), float("nan")
    codes = np.arange(int(kept.sum()))
    if groups is not None:
        if len(groups) != len(rows):
            raise ValueError(f"{len(groups)} groups for {len(rows)} values")
        _, codes = np.unique(np.asarray(groups)[kept], return_inverse=True)
    sums, sizes = np.bincount(codes, rows[kept]), np.bincount(codes)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(_AT_ONCE // len(sums), 1)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, len(sums), (size, len(sums)))
        means[start : start + size] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
