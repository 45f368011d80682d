"""The objectives of RNABERT: predicting tokens, and structural alignment learning.

Structural alignment learning comes in three steps, so that a trainer can let the CPU align while
the device goes on: `match_scores` on the device, `find_violations` on the CPU, `violation_loss` on
the device again. `sal_loss` is all three.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from riboray.alignment import GapPenalties, Margins
from riboray.model.heads import PredictionHead
from riboray.pretraining.cosines import upload, violated_scores
from riboray.pretraining.masking import IGNORE
from riboray.pretraining.violations import (
    PendingViolations,
    Violations,
    find_violations,
    submit_violations,
)

__all__ = [
    "MlmLoss",
    "PendingViolations",
    "Violations",
    "base_similarity",
    "find_violations",
    "match_scores",
    "mlm_loss",
    "sal_loss",
    "submit_violations",
    "violation_loss",
]


class MlmLoss(NamedTuple):
    """What masked language modelling, or predicting structure classes, made of a batch."""

    total: Tensor
    """Sum of the targets' cross-entropies, in nats; a scalar with gradient."""
    correct: Tensor
    """Targets predicted right; a scalar."""
    targets: int
    """Number of targets."""


def mlm_loss(hidden: Tensor, labels: Tensor, head: PredictionHead) -> MlmLoss:
    """Sum the cross-entropy over the targets.

    Predicting the structure class of every base is the same sum, with the other head and classes
    for labels.

    Parameters
    ----------
    hidden : Tensor, shape=(B, L, H)
        Base embeddings of the batch.
    labels : Tensor, shape=(B, L), dtype=integer
        Original tokens, or structure classes, at targets; `IGNORE` elsewhere. On the CPU, too, if
        the embeddings are not: how many targets there are is known then without waiting.
    head : PredictionHead
        The language-model or structure head; computed at targets only.

    Returns
    -------
    MlmLoss
        Sums, not means: batches of different sizes on different workers add up exactly.
    """
    labels = labels.flatten()
    at = torch.nonzero(labels != IGNORE)[:, 0]
    wanted = labels[at].long()
    if labels.device != hidden.device:
        at, wanted = (upload(numbers.numpy(), hidden.device) for numbers in (at, wanted))
    logits = head(hidden.flatten(0, 1)[at]).float()
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


@torch.no_grad()
def match_scores(hidden_a: Tensor, hidden_b: Tensor) -> Tensor:
    """Cosine of every base of a with every base of b, for aligning: without gradient.

    Parameters
    ----------
    hidden_a, hidden_b : Tensor, shapes=(n, width_a, H) and (n, width_b, H)
        Base embeddings, padded.

    Returns
    -------
    Tensor, shape=(n, width_a, width_b), dtype=float32
        Match scores in [-1, 1], on the device of the embeddings; float32 under autocast too.
    """
    with torch.autocast(hidden_a.device.type, enabled=False):
        return base_similarity(hidden_a.float(), hidden_b.float())


def violation_loss(hidden_a: Tensor, hidden_b: Tensor, violations: Violations) -> Tensor:
    """Make the structural-alignment loss of the violations found.

    Parameters
    ----------
    hidden_a, hidden_b : Tensor, shapes=(n, width_a, H) and (n, width_b, H)
        Base embeddings, padded; with gradient.
    violations : Violations
        What `find_violations` made of their match scores.

    Returns
    -------
    Tensor, shape=(n,), dtype=float32 (float64 for float64 embeddings)
        ``max over alignments (score + margin) - score(reference)``: never negative, and 0 exactly
        when the reference scores higher than any other alignment by that one's margin. With a
        temperature, the soft maximum: always above 0.

    Notes
    -----
    Given the alignment, the loss is linear in the match scores, +1 for those of pairs aligned
    falsely and -1 for those missed (a subgradient, as for any maximum). Only the cosines of the
    violations are computed and differentiated: O(violations · H), where the whole similarity
    matrix takes O(width_a · width_b · H) three times. On a CPU compiled code does that in one
    pass forward and one backward; elsewhere the rows are gathered.
    """
    if hidden_a.dtype != torch.float64:
        hidden_a, hidden_b = hidden_a.float(), hidden_b.float()
    with torch.autocast(hidden_a.device.type, enabled=False):
        scores = violated_scores(hidden_a, hidden_b, violations)
        # In exact arithmetic the sum cannot be negative; rounding can make it -1e-6.
        return (scores + upload(violations.offset, scores.device)).clamp(min=0)


def sal_loss(
    hidden_a: Tensor,
    hidden_b: Tensor,
    lengths_a: NDArray[np.integer],
    lengths_b: NDArray[np.integer],
    reference: NDArray[np.integer],
    gaps: GapPenalties | None = None,
    margins: Margins | None = None,
    temperature: float = 0.0,
) -> Tensor:
    """Structured max-margin loss of structural alignment learning, from base embeddings.

    Parameters
    ----------
    hidden_a, hidden_b : Tensor, shapes=(n, width_a, H) and (n, width_b, H)
        Base embeddings, padded; with gradient.
    lengths_a, lengths_b, reference, gaps, margins, temperature
        As for `find_violations`.

    Returns
    -------
    Tensor, shape=(n,)
        As from `violation_loss`. Objective: Akiyama & Sakakibara 2022, doi:10.1093/nargab/lqac012.
    """
    match = match_scores(hidden_a, hidden_b).cpu().numpy()
    pairs = match, lengths_a, lengths_b, reference
    violations = find_violations(*pairs, gaps, margins, temperature)
    return violation_loss(hidden_a, hidden_b, violations)
