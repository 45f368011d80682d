"""One worker's side of fine-tuning: passes forward and backward, and measuring."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from riboray.batching import plan_batches
from riboray.embedding.embedder import TOKEN_BUDGETS
from riboray.errors import RiborayError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Dataset, class_counts
from riboray.finetuning.features import features_of, tokens_of
from riboray.finetuning.metrics import Evidence, compute_metrics
from riboray.finetuning.model import Scale, TuningModel, class_weights, kept_head, make_head
from riboray.finetuning.targets import contact_rows
from riboray.model.checkpoint import load_checkpoint
from riboray.model.prediction import HeadConfig, loss_terms
from riboray.predicting.predictor import probabilities
from riboray.pretraining.reduction import rank, reduce_gradients, world_size

__all__ = ["KEPT_BYTES", "Diverged", "Learner", "Step"]

#: Pairs of nucleotides that are looked at together, by device.
_PAIR_BUDGETS = {"cpu": 1 << 21, "cuda": 1 << 25}

#: Bytes of what a frozen encoder made that are kept in memory.
KEPT_BYTES = 2 << 30

Rows = NDArray[np.int64]


class Diverged(RiborayError):
    """Training led to numbers that are none."""


@dataclass(frozen=True)
class Step:
    """What a step did, over all workers.

    Attributes
    ----------
    loss : float
        Mean over known labels; of pairs, over nucleotides.
    tokens, sequences : int
        What went through the model.
    gradient_norm : float
        Before it was scaled down.
    """

    loss: float
    tokens: int
    sequences: int
    gradient_norm: float


class Learner:
    """A model that learns from labelled RNAs.

    Parameters
    ----------
    config : FinetuneConfig
        The run.
    data : Dataset
        All records.
    rows : ndarray, dtype=int64
        Those to train on: they decide scale, weights and where a head begins.
    device : torch.device
        Where to compute.
    known : dict of int to ndarray, optional
        What the head reads of records, if the encoder is frozen and it was made before; see
        `all_features`.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: Dataset,
        rows: Rows,
        device: torch.device,
        known: dict[int, NDArray[np.float32]] | None = None,
    ) -> None:
        self.config, self.data, self.device = config, data, device
        start = load_checkpoint(config.checkpoint).model
        kept = kept_head(start, config)
        self.head: HeadConfig = make_head(data, config, kept)
        targets = [data.targets[row] for row in rows.tolist()]
        scale = Scale.of(targets, self.head)
        prior = None if kept is not None else _prior(targets, rows, data, self.head)
        self.tuning = TuningModel(
            start, self.head, config, scale, prior, keeps_head=kept is not None
        )
        self.model = self.tuning.model.to(device)
        self.parameters = self.tuning.parameters
        self.optimizer = torch.optim.AdamW(self.tuning.groups(), lr=config.peak_rate, fused=True)
        weights = class_weights(targets, data, config)
        self.weights = None if weights is None else weights.to(device)
        self.sizes = tokens_of([len(text) for text in data.sequences], self.model)
        budget = config.token_budget or TOKEN_BUDGETS.get(device.type, TOKEN_BUDGETS["cpu"])
        self.budget = max(budget, start.config.max_position_embeddings)
        on_gpu = device.type == "cuda"
        self.bf16 = config.precision == "bfloat16" or (config.precision == "auto" and on_gpu)
        self._features: dict[int, Tensor] = {}
        self._bytes = 0
        if known is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # nobody writes to them
                made = {k: torch.from_numpy(part).to(device) for k, part in known.items()}
            self._features = made
            self._bytes = KEPT_BYTES

    @property
    def is_contact(self) -> bool:
        """Whether pairs are predicted."""
        return self.head.level == "contact"

    def step(self, rows: Rows, learning_rate: float, seed: int) -> Step:
        """Take an optimiser step with all workers.

        Parameters
        ----------
        rows : ndarray, dtype=int64
            Records of the step; this worker takes every so manieth.
        learning_rate : float
            Of the head.
        seed : int
            Of what dropout leaves out.

        Raises
        ------
        Diverged
            If the gradient is not finite; weights are as before.
        """
        mine = rows[rank() :: world_size()]
        torch.manual_seed(seed + rank())
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for batch in self._batches(mine):
            loss, counted = self._loss(batch, self._logits(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            sums[:2] += torch.stack([loss.detach().double(), counted.double()])
        sums[2] = float(self.sizes[mine].sum())
        sums[3] = len(mine)
        self._fill_gradients()
        total, weight, tokens, sequences = reduce_gradients(self.parameters, sums)
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad /= max(weight, 1e-30)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):  # the same on all workers, and no weight has been touched
            raise Diverged(
                "training diverged: the gradient is NaN or infinite; try a lower learning_rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]
        self.optimizer.step()
        loss_now = total / weight if weight else 0.0
        return Step(loss_now, int(tokens), int(sequences), norm)

    def _fill_gradients(self) -> None:
        """Have a gradient for all parameters: a worker may have had no record."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _batches(self, rows: Rows) -> Iterator[list[int]]:
        """Cut records into what goes through the model at once."""
        if not len(rows):
            return
        costs, most = None, np.inf
        if self.is_contact:
            lengths = np.array([len(self.data.sequences[k]) for k in rows.tolist()], np.float64)
            costs, most = lengths**2, _PAIR_BUDGETS.get(self.device.type, _PAIR_BUDGETS["cpu"])
        for batch in plan_batches(self.sizes[rows], self.budget, costs=costs, cost_budget=most):
            yield rows[batch].tolist()

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _logits(self, batch: list[int]) -> list[Tensor]:
        """Predict of records, in their order."""
        return self.model.of_features([part.float() for part in self._features_of(batch)])

    def _features_of(self, batch: list[int]) -> list[Tensor]:
        """Return what the head reads; of a frozen encoder, what was made before."""
        if self.config.learn != "frozen":
            with self._autocast():
                return features_of(self.model, [self.data.sequences[k] for k in batch])
        new = [k for k in batch if k not in self._features]
        found: dict[int, Tensor] = {}
        if new:
            with torch.no_grad():
                made = features_of(self.model, [self.data.sequences[k] for k in new])
            found = dict(zip(new, (part.clone() for part in made), strict=True))
            size = sum(part.nbytes for part in found.values())
            if self._bytes + size <= KEPT_BYTES:
                self._features |= found
                self._bytes += size
        return [found[k] if k in found else self._features[k] for k in batch]

    def all_features(self, rows: Rows) -> dict[int, NDArray[np.float32]]:
        """Make what the head reads of records, by an encoder that is frozen."""
        found: dict[int, NDArray[np.float32]] = {}
        self.model.eval()
        for batch in self._batches(rows):
            made = self._features_of(batch)
            found |= {k: part.cpu().numpy() for k, part in zip(batch, made, strict=True)}
            self._features, self._bytes = {}, 0
        return found

    def _loss(self, batch: list[int], logits: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of records, by what is predicted, and how much it counts."""
        if not self.is_contact:
            labels = self._labels([self.data.targets[k] for k in batch])
            rows = torch.stack(logits) if self.head.level == "sequence" else torch.cat(logits)
            return loss_terms(rows, labels, self.head.problem, self.weights)
        total, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for k, matrix in zip(batch, logits, strict=True):
            length = len(self.data.sequences[k])
            if length < 2:
                total = total + 0 * matrix.sum()
                continue
            labels = self._labels([contact_rows(self.data.targets[k], length)])
            loss, weight = loss_terms(_pairs(matrix), labels, self.head.problem, self.weights)
            # The pairs of a nucleotide count as much as those of another, however long its RNA.
            total = total + loss * length / torch.where(weight > 0, weight, 1.0)
            count = count + length * (weight > 0)
        return total, count

    def _labels(self, targets: Sequence[NDArray[Any]]) -> Tensor:
        width = () if self.head.problem == "multiclass" else (self.head.outputs,)
        scaled = [self.tuning.scale.scaled(target).reshape(-1, *width) for target in targets]
        return torch.from_numpy(np.concatenate(scaled)).to(self.device)

    @torch.no_grad()
    def collect(self, rows: Rows) -> Evidence:
        """Predict records, this worker's share of them, and collect what measurements need."""
        self.model.eval()
        found = Evidence()
        for batch in self._batches(rows[rank() :: world_size()]):
            logits = self._logits(batch)
            total, weight = self._loss(batch, logits)
            found.loss += float(total)
            found.weight += float(weight)
            for k, part in zip(batch, logits, strict=True):
                self._add(found, k, part)
        return found

    def _add(self, found: Evidence, k: int, logits: Tensor) -> None:
        length, target = len(self.data.sequences[k]), self.data.targets[k]
        if self.is_contact:
            if length < 2:
                return
            logits, target = _pairs(logits), contact_rows(target, length)
        values = probabilities(logits.float(), self.head).cpu().numpy()
        values = self.tuning.scale.plain(values) if self.head.problem == "regression" else values
        if self.is_contact and self.head.problem == "binary":
            found.add_pairs(values.ravel(), target.ravel(), length)
            return
        width = () if self.head.problem == "multiclass" else (self.head.outputs,)
        add = found.add_some if self.is_contact else found.add_values
        add(values.reshape(-1, self.head.outputs), target.reshape(-1, *width))

    def measure(self, rows: Rows) -> dict[str, float]:
        """Measure on records, all workers together; each gets the same."""
        evidence = self.collect(rows)
        if dist.is_initialized() and world_size() > 1:
            parts: list[Any] = [None] * world_size()
            dist.all_gather_object(parts, evidence)
            evidence = Evidence.merged(parts)
        return compute_metrics(evidence, self.head)

    def state_dict(self) -> dict[str, Any]:
        """Return weights as they are learnt, and the optimiser's state."""
        learnt = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        return {"weights": learnt, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.model.load_state_dict(self.model.state_dict() | state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


def _pairs(matrix: Tensor) -> Tensor:
    """Return what is predicted of pairs i < j; shape (n, n, C) to (n (n - 1) / 2, C)."""
    first, second = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    return matrix[first, second]


def _prior(
    targets: Sequence[NDArray[Any]], rows: Rows, data: Dataset, head: HeadConfig
) -> NDArray[np.float32] | None:
    """Return the bias by which a head that knows nothing predicts how frequent classes are."""
    if head.problem == "regression":
        return None
    if head.level == "contact" and data.task.structures:
        # Of every nucleotide's pairs, on average over nucleotides.
        lengths = np.array([len(data.sequences[row]) for row in rows.tolist()], np.float64)
        pairs = np.array([len(target) for target in targets], np.float64)
        share = (2 * pairs / np.maximum(lengths - 1, 1)).sum() / lengths.sum()
        share = min(max(share, 1e-6), 0.5)
        return np.array([math.log(share / (1 - share))], np.float32)
    counts = class_counts(targets, data.task) + 1
    shares = counts / counts.sum() if head.problem == "multiclass" else counts[1] / counts[0]
    found: NDArray[np.float32] = np.log(shares).astype(np.float32)
    return found
