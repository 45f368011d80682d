"""Measuring a model on held-out data; the workers share the batches out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from riboray.alignment import align_batch, count_aligned
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
        ``sal_pairs``; ``ss_loss`` (nats), ``ss_accuracy``. What there is no data for is left
        out.
    """
    trainer.model.eval()
    with trainer.averaged_weights():
        measured = _measure_tokens(trainer, validation.mlm, "mlm")
        measured |= _measure_alignments(trainer, validation.sal)
        structure = _measure_tokens(trainer, validation.ss, "ss")
    structure.pop("ss_targets", None)
    return measured | structure


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


def _measure_alignments(trainer: Trainer, batches: list[PairBatch]) -> dict[str, float]:
    sums = [0.0] * 5
    for pairs in batches[trainer.rank :: trainer.world_size]:
        pending = trainer.launch(pairs)
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
