"""One worker's side of pre-training: model, optimiser, steps, measurements, state.

Nothing here knows Ray. With ``torch.distributed`` initialised, sums go over all workers; without,
over this one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from riboray.alignment import align_batch, count_aligned
from riboray.errors import CheckpointError
from riboray.model.checkpoint import load_checkpoint, write_checkpoint_files
from riboray.model.heads import RnaBertForPreTraining
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.losses import MlmLoss, base_similarity, mlm_loss, sal_loss
from riboray.pretraining.masking import IGNORE
from riboray.pretraining.streams import MlmBatch, PairBatch

__all__ = ["StepMetrics", "Trainer", "Validation", "learning_rate_factor"]

Lengths = NDArray[np.int32]

STATE_FOLDER = "training_state"


@dataclass(frozen=True)
class Validation:
    """The held-out batches; every worker holds all of them and measures its share."""

    mlm: list[MlmBatch]
    sal: list[PairBatch]


@dataclass(frozen=True)
class StepMetrics:
    """What a global step did, summed over all workers."""

    mlm_loss: float
    """Mean cross-entropy of the targets, nats; NaN without targets."""
    mlm_accuracy: float
    """Share of targets predicted right."""
    sal_loss: float
    """Mean structural-alignment loss of the pairs; NaN without pairs."""
    tokens: int
    """Nucleotides seen, padding not counted."""
    pairs: int
    """Pairs aligned."""
    gradient_norm: float
    """Norm of the gradient before clipping."""


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Return the learning rate's share of its peak at ``progress`` in [0, 1].

    It rises linearly from near 0 to 1 over ``warmup``, then falls to 0 as half a cosine.
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Trainer:
    """Model, optimiser and the arithmetic of a step.

    Parameters
    ----------
    config : PretrainConfig
        The run's configuration.
    device : torch.device
        Where to compute.
    """

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)
        self.model = RnaBertForPreTraining(config.model).to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),  # as usual for BERT: 0.999 remembers the first steps too long
            fused=True,
        )
        on_gpu = device.type == "cuda"
        self._bf16 = config.precision == "bf16" or (config.precision == "auto" and on_gpu)

    @property
    def rank(self) -> int:
        """This worker's number."""
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return dist.get_world_size() if dist.is_initialized() else 1

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over all workers."""
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        if dist.is_initialized():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self._bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _embed(self, batch: MlmBatch | PairBatch) -> Tensor:
        ids = torch.from_numpy(batch.input_ids).to(self.device)
        lengths = torch.from_numpy(batch.lengths).to(self.device)
        hidden: Tensor = self.model(ids, lengths)
        return hidden

    def _similarity(self, batch: PairBatch) -> tuple[Tensor, Lengths, Lengths]:
        """Match scores and lengths of a batch of pairs, in nucleotides."""
        model = self.config.model
        first, special = int(model.add_bos), int(model.add_bos) + int(model.add_eos)
        with self._autocast():
            hidden = self._embed(batch)
        count = len(batch.reference)
        width = batch.reference.shape[1]
        hidden = hidden.float()[:, first:]
        lengths = batch.lengths - special
        similarity = base_similarity(hidden[:count, :width], hidden[count:])
        return similarity, lengths[:count], lengths[count:]

    def _mlm_loss(self, batch: MlmBatch) -> MlmLoss:
        with self._autocast():
            hidden = self._embed(batch)
            assert self.model.lm_head is not None
            labels = torch.from_numpy(batch.labels).to(self.device)
            return mlm_loss(hidden, labels, self.model.lm_head)

    def _sal_loss(
        self, batch: PairBatch, similarity: Tensor, lengths_a: Lengths, lengths_b: Lengths
    ) -> Tensor:
        gaps, margins = self.config.gaps, self.config.margins
        return sal_loss(similarity, lengths_a, lengths_b, batch.reference, gaps, margins)

    def step(
        self,
        mlm: Sequence[MlmBatch],
        sal: Sequence[PairBatch],
        *,
        rate_factor: float,
        sal_weight: float,
    ) -> StepMetrics:
        """Do this worker's part of one optimiser step.

        Parameters
        ----------
        mlm, sal : sequence of batches
            This worker's batches of the global step.
        rate_factor : float
            Learning rate as a share of its peak.
        sal_weight : float
            Weight of structural alignment learning; 0 skips it.

        Returns
        -------
        StepMetrics
            Over all workers. Losses are means over the *global* number of targets and pairs, so
            how batches are spread over workers changes nothing but rounding.
        """
        config = self.config
        self.model.train()
        local_targets = sum(int((batch.labels != IGNORE).sum()) for batch in mlm)
        local_pairs = sum(len(batch.reference) for batch in sal)
        targets, pairs = self.all_sum([local_targets, local_pairs])
        self.optimizer.zero_grad(set_to_none=True)
        sums = {"mlm": 0.0, "correct": 0.0, "sal": 0.0}
        for batch in mlm:
            loss = self._mlm_loss(batch)
            (loss.total * (config.mlm_weight / max(targets, 1))).backward()  # type: ignore[no-untyped-call]
            sums["mlm"] += float(loss.total.detach())
            sums["correct"] += float(loss.correct)
        for pair_batch in sal:
            similarity, lengths_a, lengths_b = self._similarity(pair_batch)
            losses = self._sal_loss(pair_batch, similarity, lengths_a, lengths_b)
            (losses.sum() * (sal_weight / max(pairs, 1))).backward()  # type: ignore[no-untyped-call]
            sums["sal"] += float(losses.detach().sum())
        tokens = sum(int(lengths.sum()) for lengths in _lengths(mlm, sal))
        reduced = self._reduce_gradients([*sums.values(), tokens])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_factor
        self.optimizer.step()
        return StepMetrics(
            mlm_loss=reduced[0] / targets if targets else math.nan,
            mlm_accuracy=reduced[1] / targets if targets else math.nan,
            sal_loss=reduced[2] / pairs if pairs else math.nan,
            tokens=int(reduced[3]),
            pairs=int(pairs),
            gradient_norm=float(norm),
        )

    def _reduce_gradients(self, extra: Sequence[float]) -> list[float]:
        """Add gradients and a few numbers up over the workers, in one message.

        With half a million parameters there is nothing to overlap, and heads that a step does
        not use simply contribute nothing: simpler than DistributedDataParallel, and as fast.
        """
        if not dist.is_initialized():
            return list(extra)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            # A head that no worker used keeps its None: the optimiser then leaves it alone.
            if parameter.grad is not None:
                parameter.grad.copy_(part.view_as(parameter))
        return self.all_sum(extra)

    @torch.inference_mode()
    def evaluate(self, validation: Validation) -> dict[str, float]:
        """Measure on held-out data, sharing the batches out over the workers.

        Returns
        -------
        dict
            ``mlm_loss`` (nats), ``mlm_accuracy``, ``mlm_targets``; ``sal_loss``, ``sal_f1``,
            ``sal_sensitivity``, ``sal_ppv`` (over aligned pairs of bases, micro-averaged),
            ``sal_pairs``. What there is no data for is left out.
        """
        self.model.eval()
        sums = [0.0] * 8
        for batch in validation.mlm[self.rank :: self.world_size]:
            loss = self._mlm_loss(batch)
            sums[0] += float(loss.total)
            sums[1] += float(loss.correct)
            sums[2] += loss.targets
        for pairs in validation.sal[self.rank :: self.world_size]:
            similarity, lengths_a, lengths_b = self._similarity(pairs)
            best = align_batch(
                similarity.cpu().numpy(), lengths_a, lengths_b, self.config.gaps
            ).partners
            losses = self._sal_loss(pairs, similarity, lengths_a, lengths_b)
            for index, count in enumerate(count_aligned(best, pairs.reference), start=3):
                sums[index] += count
            sums[6] += float(losses.sum())
            sums[7] += len(pairs.reference)
        mlm_total, correct, targets, common, predicted, wanted, sal_total, pair_count = (
            self.all_sum(sums)
        )
        measured: dict[str, float] = {}
        if targets:
            measured |= {
                "mlm_loss": mlm_total / targets,
                "mlm_accuracy": correct / targets,
                "mlm_targets": targets,
            }
        if pair_count:
            measured |= {
                "sal_loss": sal_total / pair_count,
                "sal_f1": 2 * common / max(predicted + wanted, 1),
                "sal_sensitivity": common / max(wanted, 1),
                "sal_ppv": common / max(predicted, 1),
                "sal_pairs": pair_count,
            }
        return measured

    def save(self, directory: Path, state: dict[str, Any], history: list[dict[str, Any]]) -> None:
        """Write a checkpoint: the model, and all that resuming needs.

        Parameters
        ----------
        directory : Path
            An existing directory.
        state : dict
            Step, elapsed seconds and cursors; anything JSON can hold.
        history : list of dict
            The metrics so far, one record a line of ``metrics.jsonl``.
        """
        write_checkpoint_files(self.model, directory)
        folder = directory / STATE_FOLDER
        folder.mkdir()
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", "utf-8")
        lines = "".join(json.dumps(record) + "\n" for record in history)
        (directory / "metrics.jsonl").write_text(lines, "utf-8")

    def load(self, directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Take up a checkpoint that `save` wrote; return its state and history.

        Raises
        ------
        CheckpointError
            If it holds another model, or no training state.
        """
        loaded = load_checkpoint(directory, vocabulary=self.config.model.vocabulary)
        if loaded.model.config != self.config.model:
            raise CheckpointError(directory, "holds a model of another configuration")
        self.model.load_state_dict(loaded.model.state_dict())
        folder = directory / STATE_FOLDER
        try:
            state = json.loads((folder / "state.json").read_text("utf-8"))
            optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
            lines = (directory / "metrics.jsonl").read_text("utf-8").splitlines()
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(directory, f"no usable training state ({error})") from error
        self.optimizer.load_state_dict(optimizer)
        return state, [json.loads(line) for line in lines]


def _lengths(mlm: Sequence[MlmBatch], sal: Sequence[PairBatch]) -> Iterator[Lengths]:
    yield from (batch.lengths for batch in mlm)
    yield from (batch.lengths for batch in sal)
