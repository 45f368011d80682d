"""One worker's side of pre-training: model, optimiser, averaged weights, and the steps.

Nothing here knows Ray. With ``torch.distributed`` initialised, sums go over all workers; without,
over this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.errors import RiborayError
from riboray.model.heads import RnaBertForPreTraining
from riboray.model.positions import sinusoids
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.device_alignment import can_align
from riboray.pretraining.hostcopy import HostCopy
from riboray.pretraining.losses import (
    MlmLoss,
    PendingViolations,
    Violations,
    find_violations,
    match_scores,
    mlm_loss,
    submit_violations,
    violation_loss,
)
from riboray.pretraining.meter import StepMetrics, training_flops
from riboray.pretraining.optimizers import make_optimizers
from riboray.pretraining.passes import PairEmbeddings, PendingPairs, StepWork, step_metrics
from riboray.pretraining.reduction import all_sum, rank, reduce_gradients, world_size
from riboray.pretraining.start import start_from
from riboray.pretraining.streams import Batch, PairBatch, TokenBatch
from riboray.pretraining.targets import Counts, count_targets

__all__ = ["Trainer"]


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
        self.model = RnaBertForPreTraining(config.model)
        if config.position_init == "sinusoidal":
            with torch.no_grad():
                places = self.model.model.embeddings.position_embeddings.weight
                count, width = places.shape
                places.copy_(sinusoids(count, width, config.model.initializer_range))
        if config.init is not None:
            start_from(self.model, config.init)
        self.model.to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizers = make_optimizers(self.model, config)
        on_gpu = device.type == "cuda"
        self.bf16 = config.precision == "bfloat16" or (config.precision == "auto" and on_gpu)
        self._encode: Any = self.model
        if config.compile and on_gpu:
            # One layer, whose code serves all: compiling takes a sixth of the time.
            for layer in self.model.model.encoder.layer:
                layer.compile(dynamic=True)
        elif config.compile:
            self._encode = torch.compile(self.model, dynamic=True)
        # All alignments at once (a temperature) are the CPU's work alone.
        self.aligns_itself = can_align(device) and not config.sal_temperature
        self.updates = 0
        self._average: list[Tensor] | None = None
        if config.ema_decay:
            self._average = [p.detach().clone() for p in self.parameters]
        # A thread beside the one core of a CPU worker would only take turns with it.
        threads = config.cpus_per_worker if on_gpu else config.cpus_per_worker - 1
        self._threads = ThreadPoolExecutor(threads, "alignment") if threads else None
        self._parts = max(threads, 1)

    @property
    def rank(self) -> int:
        """This worker's number."""
        return rank()

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return world_size()

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over all workers."""
        return all_sum(values, self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _embed(self, batch: Batch) -> Tensor:
        hidden: Tensor = self._encode(
            self._to_device(batch.input_ids), self._to_device(batch.lengths)
        )
        return hidden

    def token_loss(self, batch: TokenBatch, objective: str) -> MlmLoss:
        """Embed a batch and sum the loss over its targets, by the head of the objective."""
        head = self.model.ss_head if objective == "ss" else self.model.lm_head
        assert head is not None
        with self._autocast():
            return mlm_loss(self._embed(batch), torch.from_numpy(batch.labels), head)

    def embed_pairs(self, batch: PairBatch) -> PairEmbeddings:
        """Embed the sequences of all pairs."""
        model = self.config.model
        first, special = int(model.add_bos), int(model.add_bos) + int(model.add_eos)
        with self._autocast():
            hidden = self._embed(batch)
        return PairEmbeddings.of(batch, hidden.float()[:, first:], batch.lengths - special)

    def launch(self, batch: PairBatch) -> PendingPairs:
        """Embed pairs and send their match scores on the way to the CPU."""
        pairs = self.embed_pairs(batch)
        return PendingPairs(**vars(pairs), scores=HostCopy(match_scores(*pairs.hidden)))

    def align(self, pending: PendingPairs) -> Violations:
        """Find the alignments that the loss is made of, here and now."""
        return find_violations(pending.scores(), *self._alignment_of(pending))

    def align_aside(self, pending: PendingPairs) -> PendingViolations | None:
        """Have the threads find them, if there are any."""
        if self._threads is None:
            return None
        wanted = self._alignment_of(pending)
        return submit_violations(self._threads, self._parts, pending.scores, *wanted)

    def _alignment_of(self, pending: PendingPairs) -> tuple[Any, ...]:
        """Return lengths, references, penalties, margins and temperature."""
        lengths, config = (pending.lengths_a, pending.lengths_b), self.config
        rule = config.gaps, config.margins, config.sal_temperature
        return *lengths, pending.batch.reference, *rule

    def finish(self, pending: PendingPairs) -> Tensor:
        """Return the structural-alignment loss of every pair, shape (n,)."""
        return violation_loss(*pending.hidden, self.align(pending))

    def step(
        self,
        mlm: Sequence[TokenBatch],
        pairs: Sequence[PairBatch],
        ss: Sequence[TokenBatch] = (),
        *,
        learning_rate: float,
        counts: Counts | None = None,
    ) -> StepMetrics:
        """Do this worker's part of one optimiser step.

        Parameters
        ----------
        mlm, pairs, ss : sequence of batches
            This worker's batches of the global step; several of a kind accumulate.
        learning_rate : float
            Learning rate of the step.
        counts : Counts, optional
            `count_targets` summed over all workers, if the caller knows it already. It says
            what is learnt from the pairs, too: by default, all objectives of the run.

        Returns
        -------
        StepMetrics
            Over all workers. Losses are means over the *global* number of targets, so
            how batches are spread over workers changes nothing but rounding.

        Raises
        ------
        RiborayError
            If the gradient is not finite; weights are as before.
        """
        objectives = self.config.objectives
        counts = counts or Counts(*self.all_sum(count_targets(mlm, pairs, ss, objectives)))
        work = self._learn(mlm, pairs, ss, counts)
        batches: list[Batch] = [*mlm, *pairs, *ss]
        lengths = [batch.lengths for batch in batches]
        size = [
            float(sum(int(n.sum()) for n in lengths)),
            float(sum(batch.input_ids.size for batch in batches)),
            float(sum(len(batch.reference) for batch in pairs)),
            training_flops(self.config.model, lengths),
        ]
        sums = self._reduce_gradients(work.sums, size)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):  # the same on all workers, and no weight has been touched
            raise RiborayError(
                "training diverged: the gradient is NaN or infinite; try a lower learning_rate"
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group.get("lr_scale", 1.0)
            optimizer.step()
        self._update_average()
        return step_metrics(sums, counts, norm, work.waited)

    def warm_up(
        self, mlm: Sequence[TokenBatch], pairs: Sequence[PairBatch], ss: Sequence[TokenBatch] = ()
    ) -> None:
        """Pass batches forward and backward and forget it, so that whatever compiles has.

        In a new installation the kernels of the backward pass take ten seconds, and a
        ``torch.compile`` more: a run that may train for two minutes has them before its clock
        starts. Weights, optimiser and random numbers stay as they are.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            counts = count_targets(mlm, pairs, ss, self.config.objectives)
            self._learn(mlm, pairs, ss, counts)
        self.model.zero_grad(set_to_none=True)

    def _learn(
        self,
        mlm: Sequence[TokenBatch],
        pairs: Sequence[PairBatch],
        ss: Sequence[TokenBatch],
        counts: Counts,
    ) -> StepWork:
        """Pass this worker's batches forward and backward."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        work = StepWork(self, counts)
        work.learn(mlm, pairs, ss)
        return work

    def _reduce_gradients(self, sums: Sequence[Tensor], size: Sequence[float]) -> list[float]:
        """Add gradients and a few numbers up over the workers, in one message."""
        known = torch.tensor(list(size), dtype=torch.float64, device=self.device)
        return reduce_gradients(
            self.parameters, torch.cat([torch.stack(list(sums)).double(), known])
        )

    def _update_average(self) -> None:
        """Move the averaged weights towards the weights; faster while there are few steps."""
        self.updates += 1
        if self._average is None:
            return
        decay = min(self.config.ema_decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights, if there are any, into the model for a while."""
        if self._average is None:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        self._set(self._average)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the next steps and is not in the model of a checkpoint."""
        state: dict[str, Any] = {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "updates": self.updates,
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        if self._average is not None:  # the checkpoint's model is then the average
            state["weights"] = self.model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, with the checkpoint's model under ``model``."""
        if self._average is not None:
            self.model.load_state_dict(state["model"])
            self._average = [p.detach().clone() for p in self.parameters]
        self.model.load_state_dict(state.get("weights", state["model"]))
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.updates = state["updates"]
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
