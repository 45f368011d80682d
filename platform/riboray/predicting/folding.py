"""Secondary structures from probabilities of pairs."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alphabet import normalise

__all__ = ["CANONICAL", "allowed_pairs", "dot_bracket", "fold"]

#: Pairs that stems are made of: Watson and Crick's, and G with U.
CANONICAL = frozenset({"AU", "UA", "CG", "GC", "GU", "UG"})

#: Nucleotides that a hairpin loop has at least (sterically; Turner rules).
_LOOP = 3


def allowed_pairs(sequence: str) -> NDArray[np.bool_]:
    """Tell which nucleotides can pair by what they are; shape (n, n)."""
    letters = np.frombuffer(normalise(sequence).encode("ascii"), np.uint8)
    allowed = np.zeros((len(letters), len(letters)), np.bool_)
    for pair in CANONICAL:
        allowed |= (letters[:, None] == ord(pair[0])) & (letters[None, :] == ord(pair[1]))
    return allowed


def fold(
    chances: NDArray[np.floating],
    *,
    sequence: str | None = None,
    threshold: float = 0.5,
) -> NDArray[np.int32]:
    """Find the structure without crossing pairs that has the most probability above a threshold.

    Parameters
    ----------
    chances : ndarray, shape=(n, n), dtype=float
        Probability that nucleotides i and j pair; what stands below the diagonal is not read.
    sequence : str, optional
        With it, only A with U, C with G and G with U may pair.
    threshold : float
        A pair counts its probability less this. One that is less likely is in no structure.

    Returns
    -------
    ndarray, shape=(n,), dtype=int32
        Partner of each nucleotide, or -1; at least three lie between partners.

    Notes
    -----
    Maximum expected accuracy by Nussinov's recursion (Nussinov and Jacobson 1980,
    doi:10.1073/pnas.77.11.6309; Do et al. 2006, doi:10.1093/bioinformatics/btl246), in O(n³) time
    and O(n²) memory. Of equally good structures, the one in which later nucleotides pair least.
    """
    gain = np.asarray(chances, np.float64) - threshold
    if sequence is not None:
        gain = np.where(allowed_pairs(sequence), gain, -1.0)
    found: NDArray[np.int32] = _fold_kernel(np.ascontiguousarray(gain))
    return found


@njit(cache=True, nogil=True)
def _fold_kernel(gain: NDArray[np.float64]) -> NDArray[np.int32]:
    """Fill the table from short stretches to long ones, and trace it back."""
    n = len(gain)
    best = np.zeros((n + 1, n + 1))  # of stretches from i up to, not including, j
    for i in range(n - 1, -1, -1):
        for j in range(i + _LOOP + 2, n + 1):
            top = best[i, j - 1]  # the last one is alone
            for k in range(i, j - _LOOP - 1):  # or with k
                if gain[k, j - 1] > 0:
                    value = best[i, k] + best[k + 1, j - 1] + gain[k, j - 1]
                    top = max(top, value)
            best[i, j] = top
    partner = np.full(n, -1, np.int32)
    stack = [(0, n)]
    while stack:
        i, j = stack.pop()
        if j - i < _LOOP + 2:
            continue
        if best[i, j] == best[i, j - 1]:
            stack.append((i, j - 1))
            continue
        for k in range(i, j - _LOOP - 1):
            if gain[k, j - 1] > 0:
                value = best[i, k] + best[k + 1, j - 1] + gain[k, j - 1]
                if value == best[i, j]:
                    partner[k], partner[j - 1] = j - 1, k
                    stack.append((i, k))
                    stack.append((k + 1, j - 1))
                    break
    return partner


def dot_bracket(partner: NDArray[np.integer]) -> str:
    """Write a structure without crossing pairs, shape (n,), as dot-bracket notation."""
    return "".join("." if j < 0 else "(" if j > i else ")" for i, j in enumerate(partner.tolist()))
