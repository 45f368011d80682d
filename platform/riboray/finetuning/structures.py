"""How well predicted secondary structures are: base pairs that are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riboray.predicting.folding import dot_bracket, fold

__all__ = ["THRESHOLDS", "FoldedRna", "best_threshold", "fold_rna", "structure_metrics"]

#: Probabilities that are tried as the least one of a pair in a structure.
THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)


@dataclass(frozen=True)
class FoldedRna:
    """A predicted structure and how it compares with the reference.

    Attributes
    ----------
    structure : str
        Dot-bracket.
    right, predicted, real : int
        Base pairs: in both, in the prediction, in the reference.
    """

    structure: str
    right: int
    predicted: int
    real: int

    @property
    def f1(self) -> float:
        """Twice the right pairs over those of both; 1 if neither has any."""
        both = self.predicted + self.real
        return 2 * self.right / both if both else 1.0

    @property
    def sensitivity(self) -> float:
        """Share of the reference's pairs that are predicted; 1 if it has none."""
        return self.right / self.real if self.real else 1.0

    @property
    def ppv(self) -> float:
        """Share of the predicted pairs that are right; 1 if there are none."""
        return self.right / self.predicted if self.predicted else 1.0


def fold_rna(
    chances: NDArray[np.float32], sequence: str, pairs: NDArray[np.int32], threshold: float
) -> FoldedRna:
    """Fold an RNA as `riboray predict` does, and compare.

    Parameters
    ----------
    chances : ndarray, shape=(n, n), dtype=float32
        Probability that two nucleotides pair.
    sequence : str
        Upper case, with U: only A and U, C and G, G and U pair.
    pairs : ndarray, shape=(p, 2), dtype=int32
        The reference's, the first nucleotide below the second. Pairs that cross others, or that are
        none of these, count, too: they are missed.
    threshold : float
        See `fold`.
    """
    partner = fold(chances, sequence=sequence, threshold=threshold)
    right = int(np.count_nonzero(partner[pairs[:, 0]] == pairs[:, 1])) if len(pairs) else 0
    return FoldedRna(
        dot_bracket(partner), right, int(np.count_nonzero(partner >= 0)) // 2, len(pairs)
    )


def structure_metrics(folded: Sequence[FoldedRna]) -> dict[str, float]:
    """Return means over RNAs."""
    if not folded:
        return {}
    return {
        f"structure_{name}": float(np.mean([getattr(rna, name) for rna in folded]))
        for name in ("f1", "sensitivity", "ppv")
    }


def best_threshold(folded: dict[float, list[FoldedRna]]) -> float:
    """Return the threshold whose structures have the highest mean F1; of equals, the highest."""
    if not any(folded.values()):
        return 0.5
    return max(folded, key=lambda t: (float(np.mean([rna.f1 for rna in folded[t]])), t))
