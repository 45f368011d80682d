"""How likely a score is by chance: scores of shuffled sequences, as a function of lengths.

Raw scores of different lengths cannot be compared. Real sequences are aligned with sequences
shuffled so that their dinucleotides stay (Altschul & Erickson 1985,
doi:10.1093/oxfordjournals.molbev.a040370: stacking, and so much of what a model sees, depends on
them). Mean and spread of those scores are fitted as functions of both lengths and of the pair's
*affinity*, the mean similarity of all bases of the one with all bases of the other: two GC-rich
RNAs align better than chance without being related. Without affinity the scores of unrelated
pairs are skewed and related pairs hardly stand out; with it they are close to normal
(docs/results.md, "Chance scores"). What skew is left is taken up by a Pearson type III
distribution, a shifted gamma (Webber & Barton 2001, doi:10.1093/bioinformatics/17.12.1158, found
gamma for global alignments of proteins).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["NullModel", "dinucleotide_shuffle", "fit_null_model"]


def dinucleotide_shuffle(sequence: str, generator: np.random.Generator) -> str:
    """Shuffle a sequence, keeping the count of every dinucleotide, and both ends.

    Parameters
    ----------
    sequence : str
        Any text.
    generator : Generator
        Source of randomness.

    Returns
    -------
    str
        A uniformly drawn Eulerian path through the graph of the sequence's dinucleotides
        (Altschul & Erickson 1985).
    """
    if len(sequence) < 4:
        return sequence
    successors: dict[str, list[str]] = {}
    for left, right in pairwise(sequence):
        successors.setdefault(left, []).append(right)
    last = sequence[-1]
    exits = _last_exits(successors, last, generator)
    walk: dict[str, list[str]] = {}
    for symbol, following in successors.items():
        rest = list(following)
        if symbol in exits:
            rest.remove(exits[symbol])
        order = generator.permutation(len(rest))
        walk[symbol] = [rest[k] for k in order] + ([exits[symbol]] if symbol in exits else [])
    used = dict.fromkeys(walk, 0)
    shuffled = [sequence[0]]
    for _ in range(len(sequence) - 1):
        here = shuffled[-1]
        shuffled.append(walk[here][used[here]])
        used[here] += 1
    return "".join(shuffled)


def _last_exits(
    successors: dict[str, list[str]], last: str, generator: np.random.Generator
) -> dict[str, str]:
    """Draw each symbol's last exit such that following exits leads to ``last`` from anywhere.

    A random walk to the tree built so far (Wilson 1996) draws such a tree with the weights of the
    edges, which is what makes all shuffles equally likely.
    """
    exits: dict[str, str] = {}
    done = {last}
    for start in successors:
        here, path = start, {}
        while here not in done:
            following = successors[here]
            path[here] = following[generator.integers(len(following))]
            here = path[here]
        here = start
        while here not in done:
            exits[here] = path[here]
            done.add(here)
            here = path[here]
    return exits


@dataclass(frozen=True)
class NullModel:
    """Distribution of the scores of unrelated pairs.

    Attributes
    ----------
    mean : tuple of float
        Coefficients of the mean: constant, shorter length, longer length, the square root of
        their product, and the shorter length times the affinity.
    log_spread : tuple of float
        Coefficients of the logarithm of the standard deviation: constant, logarithm of the shorter
        length, of the longer, affinity.
    skew, location, scale : float
        Pearson type III (gamma) distribution of the standardised scores.
    pairs : int
        Pairs it was fitted to.
    shortest, longest : int
        Lengths it was fitted to; beyond them it extrapolates.
    """

    mean: tuple[float, ...]
    log_spread: tuple[float, ...]
    skew: float
    location: float
    scale: float
    pairs: int
    shortest: int
    longest: int

    def z_scores(
        self,
        scores: NDArray[Any],
        lengths_a: NDArray[Any],
        lengths_b: NDArray[Any],
        affinity: NDArray[Any],
    ) -> NDArray[np.float64]:
        """Return standard deviations above what lengths and affinity give by chance."""
        location, log_spread = _design(lengths_a, lengths_b, affinity)
        expected = location @ np.array(self.mean)
        spread = np.exp(log_spread @ np.array(self.log_spread))
        deviations: NDArray[np.float64] = (np.asarray(scores, np.float64) - expected) / spread
        return deviations

    def p_values(self, z_scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that an unrelated pair of these lengths scores as high."""
        tail: NDArray[np.float64] = stats.pearson3.sf(
            z_scores, self.skew, loc=self.location, scale=self.scale
        )
        return tail

    def evalues(self, z_scores: NDArray[np.float64], comparisons: int) -> NDArray[np.float64]:
        """Return how many unrelated pairs of this many are expected to score as high."""
        return self.p_values(z_scores) * comparisons

    def z_at_evalue(self, evalue: float, comparisons: int) -> float:
        """Return the standardised score that has this E-value among so many comparisons."""
        chance = min(evalue / max(comparisons, 1), 1.0)
        return float(stats.pearson3.isf(chance, self.skew, loc=self.location, scale=self.scale))

    def to_json(self) -> dict[str, Any]:
        """Return the parameters, for a summary."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NullModel:
        """Make one of what `to_json` returned."""
        return cls(
            **{**values, "mean": tuple(values["mean"]), "log_spread": tuple(values["log_spread"])}
        )


def _design(
    lengths_a: NDArray[Any], lengths_b: NDArray[Any], affinity: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Regressors of the mean, (n, 5), and of the logarithm of the spread, (n, 4)."""
    short = np.minimum(lengths_a, lengths_b).astype(np.float64)
    long = np.maximum(lengths_a, lengths_b).astype(np.float64)
    ones = np.ones_like(short)
    close = np.asarray(affinity, np.float64)
    location = np.column_stack([ones, short, long, np.sqrt(short * long), short * close])
    return location, np.column_stack([ones, np.log(short), np.log(long), close])


def fit_null_model(
    scores: NDArray[Any],
    lengths_a: NDArray[Any],
    lengths_b: NDArray[Any],
    affinity: NDArray[Any],
) -> NullModel:
    """Fit the distribution of chance scores.

    Parameters
    ----------
    scores : ndarray, shape=(n,)
        Scores of pairs that are unrelated, such as real against shuffled sequences.
    lengths_a, lengths_b : ndarray, shape=(n,)
        Their lengths.
    affinity : ndarray, shape=(n,)
        Mean similarity of all their bases: the product of their mean embeddings.

    Returns
    -------
    NullModel

    Raises
    ------
    ValueError
        If there are fewer than 100 pairs.
    """
    if len(scores) < 100:
        raise ValueError(f"{len(scores)} pairs are too few to fit a distribution; 100 are needed")
    values = np.asarray(scores, np.float64)
    location, log_spread = _design(lengths_a, lengths_b, affinity)
    # Weighted least squares: the spread of one round weights the next.
    spread = np.ones_like(values)
    for _ in range(3):
        mean = np.linalg.lstsq(location / spread[:, None], values / spread, rcond=None)[0]
        residual = np.abs(values - location @ mean)
        # The mean of |x| is sqrt(2/pi) standard deviations for a normal x; what is off by it is
        # made up for by the scale fitted below.
        gamma = _fit_spread(log_spread, residual * np.sqrt(np.pi / 2))
        spread = np.exp(log_spread @ gamma)
    z = (values - location @ mean) / spread
    scale = float(z.std())
    # A negative skew would put an end to the distribution: P = 0 just beyond the scores seen.
    # Sequences of one letter all score alike: no shape to be seen.
    skew = float(np.clip(stats.skew(z), 0.0, 2.0)) if scale > 1e-6 else 0.0
    return NullModel(
        mean=tuple(mean.tolist()),
        log_spread=tuple(gamma.tolist()),
        skew=skew,
        location=float(z.mean()),
        scale=max(scale, 1e-6),
        pairs=len(values),
        shortest=int(min(np.min(lengths_a), np.min(lengths_b))),
        longest=int(max(np.max(lengths_a), np.max(lengths_b))),
    )


def _fit_spread(regressors: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit ``sizes ~ exp(regressors @ gamma)`` by iterated least squares (Gauss–Newton)."""
    gamma = np.zeros(regressors.shape[1])
    gamma[0] = np.log(max(float(sizes.mean()), 1e-6))
    for _ in range(30):
        predicted = np.exp(regressors @ gamma)
        step = np.linalg.lstsq(regressors, sizes / predicted - 1.0, rcond=None)[0]
        gamma = gamma + np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-6:
            break
    return gamma
