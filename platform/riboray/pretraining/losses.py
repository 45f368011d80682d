"""The two objectives of RNABERT: masked language modelling and structural alignment learning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from riboray.alignment import GapPenalties, Margins, align_batch, gap_costs
from riboray.model.heads import PredictionHead
from riboray.pretraining.masking import IGNORE

__all__ = ["MlmLoss", "base_similarity", "mlm_loss", "sal_loss"]


class MlmLoss(NamedTuple):
    """What masked language modelling made of a batch."""

    total: Tensor
    """Sum of the targets' cross-entropies, in nats; a scalar with gradient."""
    correct: Tensor
    """Targets predicted right; a scalar."""
    targets: int
    """Number of targets."""


def mlm_loss(hidden: Tensor, labels: Tensor, head: PredictionHead) -> MlmLoss:
    """Sum the cross-entropy over the targets.

    Parameters
    ----------
    hidden : Tensor, shape=(B, L, H)
        Base embeddings of the masked batch.
    labels : Tensor, shape=(B, L), dtype=integer
        Original tokens at targets, `IGNORE` elsewhere.
    head : PredictionHead
        The language-model head; computed at targets only.

    Returns
    -------
    MlmLoss
        Sums, not means: batches of different sizes on different workers add up exactly.
    """
    at = labels != IGNORE
    wanted = labels[at].long()
    logits = head(hidden[at]).float()
    total = functional.cross_entropy(logits, wanted, reduction="sum")
    return MlmLoss(total, (logits.argmax(-1) == wanted).sum(), wanted.numel())


def base_similarity(embeddings_a: Tensor, embeddings_b: Tensor) -> Tensor:
    """Cosine of every base of a with every base of b.

    Parameters
    ----------
    embeddings_a, embeddings_b : Tensor, shapes=(n, width_a, H) and (n, width_b, H)
        Base embeddings, padded.

    Returns
    -------
    Tensor, shape=(n, width_a, width_b)
        Match scores in [-1, 1].
    """
    a = functional.normalize(embeddings_a, dim=-1)
    b = functional.normalize(embeddings_b, dim=-1)
    return a @ b.transpose(1, 2)


def sal_loss(
    similarity: Tensor,
    lengths_a: NDArray[np.integer],
    lengths_b: NDArray[np.integer],
    reference: NDArray[np.integer],
    gaps: GapPenalties | None = None,
    margins: Margins | None = None,
) -> Tensor:
    """Structured max-margin loss of structural alignment learning.

    Parameters
    ----------
    similarity : Tensor, shape=(n, width_a, width_b)
        Match scores, with gradient.
    lengths_a, lengths_b : ndarray, shape=(n,), dtype=integer
        Lengths in nucleotides.
    reference : ndarray, shape=(n, width_a), dtype=integer
        Partners of the reference alignments.
    gaps : GapPenalties, optional
        RNABERT's 1.0 + 0.1·k by default.
    margins : Margins, optional
        RNABERT's 0.1 and 0.05 by default.

    Returns
    -------
    Tensor, shape=(n,)
        ``max over alignments (score + margin) - score(reference)``: never negative, and 0 exactly
        when the reference scores higher than any other alignment by that one's margin.

    Notes
    -----
    The maximum is found outside autograd by the aligner that everything else uses; given its
    alignment, the loss is linear in the match scores, and the gradient flows through the cells
    gathered: +1 on cells aligned wrongly, -1 on reference cells missed, 0 elsewhere
    (a subgradient, as for any maximum). Objective: Akiyama & Sakakibara 2022,
    doi:10.1093/nargab/lqac012.
    """
    gaps, margins = gaps or GapPenalties(), margins or Margins()
    best = align_batch(
        similarity.detach().float().cpu().numpy(),
        lengths_a,
        lengths_b,
        gaps,
        reference=reference,
        margins=margins,
    ).partners
    wrong = (best >= 0) & (best != reference)
    missed = (reference >= 0) & (best != reference)
    constant = (
        margins.false * wrong.sum(1)
        + margins.missed * missed.sum(1)
        - gap_costs(best, lengths_a, lengths_b, gaps)
        + gap_costs(reference, lengths_a, lengths_b, gaps)
    )
    # Cells that both alignments share cancel: gather only those that differ.
    difference = _gather(similarity, best, wrong) - _gather(similarity, reference, missed)
    offset = torch.as_tensor(constant, dtype=similarity.dtype, device=similarity.device)
    # In exact arithmetic the sum cannot be negative; rounding can make it -1e-6.
    return (difference + offset).clamp(min=0)


def _gather(similarity: Tensor, partners: NDArray[np.integer], chosen: NDArray[np.bool_]) -> Tensor:
    """Sum the match scores of the chosen aligned pairs; shape (n,)."""
    index = torch.as_tensor(np.where(chosen, partners, 0), dtype=torch.int64).to(similarity.device)
    weight = torch.as_tensor(chosen).to(similarity.device)
    cells = similarity.gather(2, index[..., None]).squeeze(2)
    return (cells * weight).sum(1)
