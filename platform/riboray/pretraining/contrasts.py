"""The family contrast: pooled embeddings of one family alike, those of others unlike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from riboray.pretraining.cosines import upload

__all__ = ["ContrastLoss", "contrast_loss", "pooled_means"]


class ContrastLoss(NamedTuple):
    """What the family contrast made of a batch."""

    total: Tensor
    """Sum of the anchors' losses, in nats; a scalar with gradient."""
    correct: Tensor
    """Anchors whose most similar other sequence is of their family; a scalar."""
    anchors: int
    """Sequences with a relative and a stranger to tell apart."""


def pooled_means(hidden: Tensor, lengths: NDArray[np.integer]) -> Tensor:
    """Average the base embeddings of every sequence: the embedding `riboray embed` gives.

    Parameters
    ----------
    hidden : Tensor, shape=(n, width, H)
        Base embeddings, padded.
    lengths : ndarray, shape=(n,), dtype=integer
        Bases of each sequence, at least one.

    Returns
    -------
    Tensor, shape=(n, H), dtype=float32 (float64 for float64 embeddings)
    """
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    counts = torch.from_numpy(np.asarray(lengths, np.int64)).to(hidden.device)
    places = torch.arange(hidden.shape[1], device=hidden.device)
    real = (places < counts[:, None]).to(hidden.dtype)
    sums = torch.einsum("nlh,nl->nh", hidden, real)
    return sums / counts[:, None]


def contrast_loss(
    pooled: Tensor, families: NDArray[np.integer], temperature: float
) -> ContrastLoss:
    """Sum the loss of telling relatives from strangers, for every sequence of a batch.

    Parameters
    ----------
    pooled : Tensor, shape=(n, H)
        Embeddings of sequences, of any length; with gradient.
    families : ndarray, shape=(n,), dtype=integer
        Family of each, by number.
    temperature : float
        Cosines are divided by it.

    Returns
    -------
    ContrastLoss
        Sums, not means. A batch of one family, or without relatives, has no anchors and loss 0.

    Notes
    -----
    The loss of an anchor is the mean over its relatives p of
    ``-log(exp(s_p) / (exp(s_p) + sum over strangers n of exp(s_n)))``, s being cosines over the
    temperature: supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362) by InfoNCE
    (van den Oord et al. 2018, arXiv:1807.03748), but other relatives are no strangers to p. Memory
    and time are O(n^2 + n · H).
    """
    family = families[:, None] == families
    chosen = family.sum(1) > 1
    chosen &= ~family.all(1)
    relatives = family & ~np.eye(len(family), dtype=np.bool_)
    anchors = np.flatnonzero(chosen)
    kin, related, rows = (upload(x, pooled.device) for x in (family, relatives, anchors))
    with torch.autocast(pooled.device.type, enabled=False):
        unit = functional.normalize(pooled, dim=-1)
        scores = unit[rows] @ unit.T / temperature
        kin, related = kin[rows], related[rows]
        strangers = scores.masked_fill(kin, -torch.inf).logsumexp(1, keepdim=True)
        losses = functional.softplus(strangers - scores).masked_fill(~related, 0)
        total = (losses.sum(1) / related.sum(1)).sum()
        nearest = scores.detach().masked_fill(kin & ~related, -torch.inf).argmax(1, keepdim=True)
    return ContrastLoss(total, related.gather(1, nearest).sum(), len(anchors))
