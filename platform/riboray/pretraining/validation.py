"""Measuring a model on held-out data; the workers share the batches out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from riboray.alignment import align_batch, count_aligned
from riboray.pretraining.contrasts import contrast_loss
from riboray.pretraining.passes import PairEmbeddings
from riboray.pretraining.streams import PairBatch, TokenBatch
from riboray.pretraining.trainer import Trainer

__all__ = ["Validation", "evaluate"]


@dataclass(frozen=True)
class Validation:
    """The held-out batches; every worker holds all of them and measures its share."""

    mlm: list[TokenBatch]
    sal: list[PairBatch]
    ss: list[TokenBatch] = field(default_factory=list)


@torch.inference_mode()
def evaluate(trainer: Trainer, validation: Validation) -> dict[str, float]:
    """Measure the model, with averaged weights if there are any, on held-out data.

    Parameters
    ----------
    trainer : Trainer
        This worker's trainer.
    validation : Validation
        The same batches on every worker.

    Returns
    -------
    dict
        ``mlm_loss`` (nats), ``mlm_accuracy``, ``mlm_targets``; ``sal_loss``, ``sal_f1``,
        ``sal_sensitivity``, ``sal_ppv`` (over aligned pairs of bases, micro-averaged),
        ``sal_pairs``; ``ss_loss`` (nats), ``ss_accuracy``; if families are contrasted,
        ``sfp_loss`` (nats) and ``sfp_accuracy``, over all different sequences of the pairs at
        once. What there is no data for is left out.
    """
    trainer.model.eval()
    with trainer.averaged_weights():
        measured = _measure_tokens(trainer, validation.mlm, "mlm")
        pooled = _Pooled(trainer, validation.sal) if "sfp" in trainer.config.objectives else None
        measured |= _measure_alignments(trainer, validation.sal, pooled)
        structure = _measure_tokens(trainer, validation.ss, "ss")
    structure.pop("ss_targets", None)
    return measured | structure | (pooled.measure() if pooled else {})


def _measure_tokens(trainer: Trainer, batches: list[TokenBatch], name: str) -> dict[str, float]:
    sums = [0.0] * 3
    for batch in batches[trainer.rank :: trainer.world_size]:
        loss = trainer.token_loss(batch, name)
        sums[0] += float(loss.total)
        sums[1] += float(loss.correct)
        sums[2] += loss.targets
    total, correct, targets = trainer.all_sum(sums)
    if not targets:
        return {}
    return {
        f"{name}_loss": total / targets,
        f"{name}_accuracy": correct / targets,
        f"{name}_targets": targets,
    }


def _measure_alignments(
    trainer: Trainer, batches: list[PairBatch], pooled: _Pooled | None
) -> dict[str, float]:
    sums = [0.0] * 5
    for number in range(trainer.rank, len(batches), trainer.world_size):
        pairs = batches[number]
        pending = trainer.launch(pairs)
        if pooled:
            pooled.add(number, pending)
        scores, lengths_a, lengths_b = pending.scores(), pending.lengths_a, pending.lengths_b
        best = align_batch(scores, lengths_a, lengths_b, trainer.config.gaps).partners
        for index, count in enumerate(count_aligned(best, pairs.reference)):
            sums[index] += count
        sums[3] += float(trainer.finish(pending).sum())
        sums[4] += len(pairs.reference)
    common, predicted, wanted, total, pair_count = trainer.all_sum(sums)
    if not pair_count:
        return {}
    return {
        "sal_loss": total / pair_count,
        "sal_f1": 2 * common / max(predicted + wanted, 1),
        "sal_sensitivity": common / max(wanted, 1),
        "sal_ppv": common / max(predicted, 1),
        "sal_pairs": pair_count,
    }


class _Pooled:
    """Pooled embeddings of all held-out pairs, gathered from the workers that measure them."""

    def __init__(self, trainer: Trainer, batches: list[PairBatch]) -> None:
        self._trainer, self._batches = trainer, batches
        self._sizes = [len(batch.lengths) for batch in batches]
        size = (sum(self._sizes), trainer.config.model.hidden_size)
        self._rows = torch.zeros(size, dtype=torch.float64)

    def add(self, number: int, pairs: PairEmbeddings) -> None:
        """Take in a batch, by its number."""
        start = sum(self._sizes[:number])
        self._rows[start : start + self._sizes[number]] = pairs.pooled().double().cpu()

    def measure(self) -> dict[str, float]:
        """Contrast all sequences with all, each of them once."""
        sequences = [
            row[:length].tobytes()
            for batch in self._batches
            for row, length in zip(batch.input_ids, batch.lengths, strict=True)
        ]
        families = [batch.sequence_families for batch in self._batches]
        gathered = self._trainer.all_sum(self._rows.flatten().tolist())
        if not gathered:
            return {}
        _, different = np.unique(np.array(sequences, object), return_index=True)
        rows = torch.tensor(gathered).view(self._rows.shape)[different]
        temperature = self._trainer.config.sfp_temperature
        loss = contrast_loss(rows, np.concatenate(families)[different], temperature)
        if not loss.anchors:
            return {}
        return {
            "sfp_loss": float(loss.total) / loss.anchors,
            "sfp_accuracy": float(loss.correct) / loss.anchors,
        }
