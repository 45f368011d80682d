"""Position embeddings to begin training with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sinusoids"]

#: Longest wave in units of the positions there are: the waves tell the ends apart.
_LONGEST = 2.0


def sinusoids(positions: int, width: int, size: float) -> Tensor:
    """Return waves of the position, as of Vaswani et al. 2017 (arXiv:1706.03762, section 3.5).

    Of such vectors one matrix makes those of the positions k further on, for any k. So attention to
    neighbours is a simple thing to learn; of random vectors it has to be learnt position by
    position.

    Parameters
    ----------
    positions : int
        How many.
    width : int
        Dimensions; an odd one leaves a dimension 0.
    size : float
        Root mean square of the entries (of an even width).

    Returns
    -------
    Tensor, shape=(positions, width), dtype=float32
        Sines, then cosines, of wavelengths from 2 pi positions to twice as many positions as there
        are, in a geometric series.
    """
    pairs = width // 2
    longest = max(_LONGEST * positions / (2 * math.pi), 1.0)
    steps = torch.arange(pairs, dtype=torch.float64) / max(pairs - 1, 1)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * longest**-steps
    waves = torch.zeros(positions, width)
    waves[:, : 2 * pairs] = torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2) * size
    return waves
