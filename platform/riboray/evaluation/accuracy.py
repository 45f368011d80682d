"""How well alignments agree with references: sensitivity, PPV, F1, SPS, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from riboray.alignment.columns import count_aligned

__all__ = [
    "METRICS",
    "Comparison",
    "Interval",
    "bootstrap",
    "compare",
    "interval",
    "measure",
    "pair_f1",
    "resampled",
    "tally",
]

METRICS = ("sensitivity", "ppv", "f1", "mean_f1", "sps")
"""Of aligned pairs of bases. ``sensitivity``, ``ppv`` and ``f1`` count those of all alignments
together (micro-averages); ``mean_f1`` is the mean of each alignment's F1; ``sps``, the sum-of-pairs
score as BRAliBase reports it, is the mean of each alignment's sensitivity (Gardner et al. 2005,
doi:10.1093/nar/gki541)."""

Counts = NDArray[np.int64]
"""Shape (n, 3): aligned pairs in common, predicted, in the reference."""

#: Numbers drawn at a time for resampling.
_DRAWN = 4_000_000


def tally(
    predicted: Sequence[NDArray[np.integer]], reference: Sequence[NDArray[np.integer]]
) -> Counts:
    """Count aligned pairs of bases.

    Parameters
    ----------
    predicted, reference : sequence of ndarray, shape=(length of a,)
        Partners in b of each position of a, -1 for none.

    Returns
    -------
    ndarray, shape=(n, 3), dtype=int64
    """
    pairs = zip(predicted, reference, strict=True)
    return np.array([count_aligned(p, r) for p, r in pairs], dtype=np.int64).reshape(-1, 3)


def pair_f1(counts: Counts) -> NDArray[np.float64]:
    """Return the F1 of each alignment; 1 where neither aligns anything."""
    both = counts[:, 1] + counts[:, 2]
    return np.where(both > 0, 2.0 * counts[:, 0] / np.maximum(both, 1), 1.0)


def _sums(counts: Counts) -> NDArray[np.float64]:
    """Return what adds up, per alignment: shape (n, 6)."""
    common, _, wanted = counts.T
    found = np.where(wanted > 0, common / np.maximum(wanted, 1), 1.0)
    return np.column_stack([counts, pair_f1(counts), found, np.ones(len(counts))])


def _metrics(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the metrics of sums: shape (..., 6) to (..., 5)."""
    common, predicted, wanted, f1, found, count = np.moveaxis(sums, -1, 0)

    def over(value: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(of > 0, value / np.maximum(of, 1e-300), 1.0)

    return np.stack(
        [
            over(common, wanted),
            over(common, predicted),
            over(2 * common, predicted + wanted),
            over(f1, count),
            over(found, count),
        ],
        axis=-1,
    )


def measure(counts: Counts) -> dict[str, float]:
    """Return every metric of a set of alignments.

    Where there is nothing to divide by (no pair in the reference, say), a metric is 1: nothing was
    missed.
    """
    return dict(zip(METRICS, _metrics(_sums(counts).sum(axis=0)).tolist(), strict=True))


@dataclass(frozen=True)
class Interval:
    """A confidence interval of 95 %."""

    low: float
    high: float


def bootstrap(
    counts: Sequence[Counts], units: NDArray[np.integer], rounds: int, seed: int = 0
) -> NDArray[np.float64]:
    """Draw units with replacement and measure anew, every method on the same draws.

    Parameters
    ----------
    counts : sequence of ndarray, shape=(n, 3)
        Of each method, on the same n alignments.
    units : ndarray, shape=(n,), dtype=integer
        Which unit each alignment belongs to. Pairs of one family share sequences and are no
        independent observations: with families as units, an interval says how much another set of
        families would have changed the figure.
    rounds : int
        Draws.
    seed : int
        Of the draws.

    Returns
    -------
    ndarray, shape=(methods, rounds, metrics), dtype=float64
    """
    _, unit = np.unique(units, return_inverse=True)
    size = int(unit.max()) + 1
    sums = np.zeros((size, len(counts), 6))
    for method, values in enumerate(counts):
        np.add.at(sums[:, method], unit, _sums(values))
    every = resampled(sums.reshape(size, -1), rounds, seed).reshape(rounds, len(counts), 6)
    return np.moveaxis(_metrics(every), 1, 0)


def resampled(sums: NDArray[np.float64], rounds: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw units with replacement, as many as there are, and add up what each contributes.

    Parameters
    ----------
    sums : ndarray, shape=(units, k), dtype=float64
        What adds up.
    rounds : int
        Draws.
    seed : int
        Of the draws.

    Returns
    -------
    ndarray, shape=(rounds, k), dtype=float64
    """
    size, generator = len(sums), np.random.default_rng(seed)
    drawn: list[NDArray[np.float64]] = []
    step = max(_DRAWN // size, 1)
    for start in range(0, rounds, step):
        times = generator.multinomial(size, np.full(size, 1 / size), min(step, rounds - start))
        drawn.append(times @ sums)
    return np.concatenate(drawn)


def interval(values: NDArray[np.float64]) -> Interval:
    """Return the central 95 % of resampled values (percentile method)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same alignments.

    Attributes
    ----------
    difference : float
        F1 of the first minus F1 of the second, micro-averages.
    interval : Interval
        Of the difference, by resampling both alike.
    p_bootstrap : float
        Two-sided: twice the share of draws on the other side of zero, at least 1 in the number of
        draws.
    better, worse, equal : int
        Alignments on which the first is better, worse, as good.
    p_wilcoxon : float
        Signed-rank test on the F1 of alignments, two-sided; 1 if all are equal. It takes pairs for
        independent, which those of one family are not.
    """

    difference: float
    interval: Interval
    p_bootstrap: float
    better: int
    worse: int
    equal: int
    p_wilcoxon: float


def compare(
    first: Counts,
    second: Counts,
    drawn_first: NDArray[np.float64],
    drawn_second: NDArray[np.float64],
) -> Comparison:
    """Compare two methods.

    Parameters
    ----------
    first, second : ndarray, shape=(n, 3)
        Counts on the same alignments.
    drawn_first, drawn_second : ndarray, shape=(rounds, metrics)
        What `bootstrap` made of them, in one call.
    """
    column = METRICS.index("f1")
    drawn = drawn_first[:, column] - drawn_second[:, column]
    sides = min(float((drawn <= 0).mean()), float((drawn >= 0).mean()))
    by_pair = pair_f1(first) - pair_f1(second)
    differs = bool(np.any(by_pair != 0))
    return Comparison(
        difference=measure(first)["f1"] - measure(second)["f1"],
        interval=interval(drawn),
        p_bootstrap=min(max(2 * sides, 1 / len(drawn)), 1.0),
        better=int((by_pair > 0).sum()),
        worse=int((by_pair < 0).sum()),
        equal=int((by_pair == 0).sum()),
        p_wilcoxon=float(wilcoxon(by_pair).pvalue) if differs else 1.0,
    )
