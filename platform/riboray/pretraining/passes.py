"""The forward and backward passes of a step, and what they add up to."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.pretraining.contrasts import contrast_loss, pooled_means
from riboray.pretraining.cosines import upload
from riboray.pretraining.device_alignment import aligned_loss
from riboray.pretraining.hostcopy import HostCopy
from riboray.pretraining.losses import PendingViolations, violation_loss
from riboray.pretraining.meter import StepMetrics
from riboray.pretraining.streams import PairBatch, TokenBatch
from riboray.pretraining.targets import Counts

if TYPE_CHECKING:
    from riboray.pretraining.trainer import Trainer

__all__ = ["PairEmbeddings", "PendingPairs", "StepWork", "step_metrics"]

Lengths = NDArray[np.int32]


@dataclass(frozen=True)
class PairEmbeddings:
    """A batch of pairs that is embedded.

    Attributes
    ----------
    batch : PairBatch
        The pairs.
    embeddings : Tensor, shape=(sequences, width, H)
        Base embeddings of the batch's rows, padded.
    sizes : ndarray, shape=(sequences,), dtype=int32
        Nucleotides of each row.
    hidden_a, hidden_b, lengths_a, lengths_b
        The same of the sequences a and of the sequences b of the pairs.
    """

    batch: PairBatch
    embeddings: Tensor
    sizes: Lengths
    hidden_a: Tensor
    hidden_b: Tensor
    lengths_a: Lengths
    lengths_b: Lengths

    @classmethod
    def of(cls, batch: PairBatch, embeddings: Tensor, sizes: Lengths) -> PairEmbeddings:
        """Tell the sequences a from the sequences b."""
        count, width = batch.reference.shape
        if batch.rows is None:
            hidden = embeddings[:count, :width], embeddings[count:]
            return cls(batch, embeddings, sizes, *hidden, sizes[:count], sizes[count:])
        a, b = batch.rows.astype(np.int64).T
        rows_a, rows_b = upload(a, embeddings.device), upload(b, embeddings.device)
        hidden = embeddings[:, :width][rows_a], embeddings[rows_b]
        return cls(batch, embeddings, sizes, *hidden, sizes[a], sizes[b])

    @property
    def hidden(self) -> tuple[Tensor, Tensor]:
        """Base embeddings of the sequences a and of the sequences b, padded."""
        return self.hidden_a, self.hidden_b

    def pooled(self) -> Tensor:
        """Return the mean base embedding of every row of the batch, shape (sequences, H)."""
        return pooled_means(self.embeddings, self.sizes)

    def scales(self, power: float) -> Tensor:
        """Return what each pair's loss counts: 100 nucleotides over its length, to a power."""
        longest = np.maximum(self.lengths_a, self.lengths_b)
        return upload((100.0 / longest) ** power, self.embeddings.device).float()


@dataclass(frozen=True)
class PendingPairs(PairEmbeddings):
    """A batch of pairs that is embedded and on its way to being aligned."""

    scores: HostCopy
    """Match scores, shape (n, width_a, width_b), once they are there."""


class StepWork:
    """One worker's part of a step.

    Parameters
    ----------
    trainer : Trainer
        Embeds and aligns.
    counts : Counts
        What the step is a mean over, on all workers; says what is learnt from pairs.

    Attributes
    ----------
    waited : float
        Seconds spent waiting for alignments.
    """

    def __init__(self, trainer: Trainer, counts: Counts) -> None:
        config = trainer.config
        self._trainer = trainer
        self._counts = counts
        self._scales: dict[str, float] = {
            name: getattr(config, f"{name}_weight") / max(count, 1.0)
            for name, count in counts._asdict().items()
        }
        zero = torch.zeros((), device=trainer.device)
        names = ("mlm", "mlm_right", "sal", "ss", "ss_right", "sfp", "sfp_right")
        self._sums = dict.fromkeys(names, zero)
        self.waited = 0.0

    @property
    def sums(self) -> list[Tensor]:
        """What `step_metrics` makes means of."""
        return list(self._sums.values())

    def learn(
        self, mlm: Sequence[TokenBatch], pairs: Sequence[PairBatch], ss: Sequence[TokenBatch]
    ) -> None:
        """Pass batches forward and backward.

        Pairs are embedded first; while CPU threads align them, the device goes on with a batch
        of tokens, or with the next pairs; or it aligns them itself. The order of the backward
        passes is fixed: timing changes no result.
        """
        tokens = iter([*(("mlm", b) for b in mlm), *(("ss", b) for b in ss)])
        pending: deque[Any] = deque()
        for pair_batch in pairs:
            launched = self._launch(pair_batch)
            if self._trainer.aligns_itself:  # nothing to wait for: its memory is free again
                self._learn_pairs(*launched)
            else:
                pending.append(launched)
            if (beside := next(tokens, None)) is not None:
                self._learn_tokens(*beside)
            if len(pending) > 1:
                self._learn_pairs(*pending.popleft())
        for objective, batch in tokens:
            self._learn_tokens(objective, batch)
        while pending:
            self._learn_pairs(*pending.popleft())

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value

    def _learn_tokens(self, objective: str, batch: TokenBatch) -> None:
        loss = self._trainer.token_loss(batch, objective)
        (loss.total * self._scales[objective]).backward()  # type: ignore[no-untyped-call]
        self._add(objective, loss.total.detach())
        self._add(f"{objective}_right", loss.correct)

    def _launch(self, batch: PairBatch) -> tuple[PairEmbeddings, PendingViolations | None]:
        if not self._counts.sal or self._trainer.aligns_itself:
            return self._trainer.embed_pairs(batch), None
        pending = self._trainer.launch(batch)
        return pending, self._trainer.align_aside(pending)

    def _learn_pairs(self, pairs: PairEmbeddings, aside: PendingViolations | None) -> None:
        terms = []
        if self._counts.sal:
            terms.append(self._alignment_loss(pairs, aside) * self._scales["sal"])
        # Batches without anchors, too: then no worker is without gradients where others have some.
        if self._counts.sfp:
            terms.append(self._contrast_loss(pairs) * self._scales["sfp"])
        if terms:
            torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]

    def _alignment_loss(self, pairs: PairEmbeddings, aside: PendingViolations | None) -> Tensor:
        config = self._trainer.config
        if isinstance(pairs, PendingPairs):
            start = time.monotonic()
            violations = aside.result() if aside else self._trainer.align(pairs)
            self.waited += time.monotonic() - start
            losses = violation_loss(*pairs.hidden, violations)
        else:
            lengths, rule = (pairs.lengths_a, pairs.lengths_b), (config.gaps, config.margins)
            losses = aligned_loss(*pairs.hidden, *lengths, pairs.batch.reference, *rule)
        if power := config.sal_length_power:
            losses = losses * pairs.scales(power)
        total = losses.sum()
        self._add("sal", total.detach())
        return total

    def _contrast_loss(self, pairs: PairEmbeddings) -> Tensor:
        families = pairs.batch.sequence_families
        temperature = self._trainer.config.sfp_temperature
        loss = contrast_loss(pairs.pooled(), families, temperature)
        self._add("sfp", loss.total.detach())
        self._add("sfp_right", loss.correct)
        return loss.total


def step_metrics(sums: Sequence[float], counts: Counts, norm: float, waited: float) -> StepMetrics:
    """Make means of sums over all workers: those of `StepWork`, then tokens, places and so on."""
    mlm, mlm_right, sal, ss, ss_right, sfp, sfp_right, tokens, slots, pairs, flops = sums

    def mean(total: float, count: float) -> float:
        return total / count if count else math.nan

    return StepMetrics(
        mlm_loss=mean(mlm, counts.mlm),
        mlm_accuracy=mean(mlm_right, counts.mlm),
        sal_loss=mean(sal, counts.sal),
        ss_loss=mean(ss, counts.ss),
        ss_accuracy=mean(ss_right, counts.ss),
        sfp_loss=mean(sfp, counts.sfp),
        sfp_accuracy=mean(sfp_right, counts.sfp),
        tokens=int(tokens),
        slots=int(slots),
        pairs=int(pairs),
        flops=flops,
        gradient_norm=norm,
        alignment_wait=waited,
    )
