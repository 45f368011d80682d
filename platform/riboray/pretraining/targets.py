"""What the losses of a step are means over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from riboray.pretraining.masking import IGNORE
from riboray.pretraining.streams import PairBatch, TokenBatch

__all__ = ["Counts", "count_anchors", "count_targets"]


class Counts(NamedTuple):
    """What a global step is a mean over, for each objective; 0 for those it does not learn."""

    mlm: float
    """Masked nucleotides."""
    sal: float
    """Pairs to align."""
    ss: float
    """Nucleotides of known structure class."""
    sfp: float = 0.0
    """Sequences whose family can be told from another in their batch."""


def count_anchors(families: NDArray[np.integer]) -> int:
    """Count the sequences of a batch that have a stranger, given each one's family."""
    return len(families) if len(np.unique(families)) > 1 else 0


def count_targets(
    mlm: Sequence[TokenBatch],
    pairs: Sequence[PairBatch],
    ss: Sequence[TokenBatch],
    objectives: Sequence[str],
) -> Counts:
    """Count a worker's share of what a step is a mean over; of pairs, by what is learnt."""
    masked, classes = (
        float(sum(int((batch.labels != IGNORE).sum()) for batch in batches))
        for batches in (mlm, ss)
    )
    aligned = sum(len(b.reference) for b in pairs) if "sal" in objectives else 0
    anchors = sum(count_anchors(b.sequence_families) for b in pairs) if "sfp" in objectives else 0
    return Counts(masked, float(aligned), classes, float(anchors))
