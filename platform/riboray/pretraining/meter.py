"""What training costs: model arithmetic, the matrix product's ceiling, and averages of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from riboray.model.config import RnaBertConfig

__all__ = ["Meter", "StepMetrics", "matmul_ceiling", "training_flops"]

#: Side of the square matrices of the ceiling, how often it is measured, and seconds each time.
_CEILING_SIZE = {"cpu": 1024, "cuda": 8192}
_CEILING_TRIALS = 5
_CEILING_SECONDS = 0.05


@dataclass(frozen=True)
class StepMetrics:
    """What a global step did, summed over all workers (times: this worker's)."""

    mlm_loss: float
    """Mean cross-entropy of the masked nucleotides, nats; NaN without any."""
    mlm_accuracy: float
    """Share of them predicted right."""
    sal_loss: float
    """Mean structural-alignment loss of the pairs; NaN without pairs."""
    ss_loss: float
    """Mean cross-entropy of structure classes, nats; NaN without any."""
    ss_accuracy: float
    """Share of them predicted right."""
    sfp_loss: float
    """Mean family-contrast loss of the sequences, nats; NaN without any to tell apart."""
    sfp_accuracy: float
    """Share of them whose most similar other of the batch is of their family."""
    tokens: int
    """Nucleotides seen, padding not counted."""
    slots: int
    """Places for tokens in the batches, padding counted."""
    pairs: int
    """Pairs of sequences seen."""
    flops: float
    """Arithmetic of the model, see `training_flops`."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    alignment_wait: float
    """Seconds spent waiting for alignments."""


def training_flops(model: RnaBertConfig, lengths: Sequence[NDArray[np.integer]]) -> float:
    """Count the floating-point operations of training on sequences, padding left out.

    Parameters
    ----------
    model : RnaBertConfig
        Its shape.
    lengths : sequence of ndarray, dtype=integer
        Tokens of every sequence, batch by batch.

    Returns
    -------
    float
        Multiplications and additions of the encoder's matrix products, forward and backward
        (three times forward). Heads, norms, alignments and the optimiser are left out: they are
        a few per cent.
    """
    total = sum(float(model.layer_flops(batch).sum()) for batch in lengths)
    return 3.0 * model.num_hidden_layers * total


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Measure what a large matrix product reaches on a device, in floating-point operations/s.

    The best of a few trials, and on a single core in processor time: whatever else runs on the
    machine meanwhile, and much does when training starts, can only make it look slower.
    """
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.thread_time
    size = _CEILING_SIZE["cuda" if on_gpu else "cpu"]
    # Of random numbers: a chip that is limited by its power is faster with those that repeat.
    chance = torch.Generator(device).manual_seed(0)  # the run's own is left as it is
    a, b = (torch.randn(size, size, device=device, dtype=dtype, generator=chance) for _ in range(2))

    def trial() -> float:
        start, count, spent = clock(), 0, 0.0
        while spent < _CEILING_SECONDS:
            a @ b
            if on_gpu:
                torch.cuda.synchronize(device)
            count, spent = count + 1, clock() - start
        return 2.0 * size**3 * count / spent

    trial()  # warm up
    return max(trial() for _ in range(_CEILING_TRIALS))


@dataclass
class Meter:
    """Averages of training metrics since the last record.

    Attributes
    ----------
    ceiling : float
        Floating-point operations/s that all workers' matrix products reach together; 0 if it
        was not measured.
    """

    ceiling: float = 0.0
    steps: list[StepMetrics] = field(default_factory=list)
    data_wait: float = 0.0
    crc: int = 0
    since: float = field(default_factory=time.monotonic)

    def restart(self) -> None:
        """Begin anew, after something that was no training."""
        self.steps, self.data_wait, self.crc = [], 0.0, 0
        self.since = time.monotonic()

    def record(self) -> dict[str, Any]:
        """Return the averages and begin anew."""
        seconds = max(time.monotonic() - self.since, 1e-9)
        steps = self.steps
        tokens = sum(s.tokens for s in steps)
        values: dict[str, Any] = {
            "tokens_per_s": tokens / seconds,
            "pairs_per_s": sum(s.pairs for s in steps) / seconds,
            "padding_efficiency": tokens / max(sum(s.slots for s in steps), 1),
            "data_wait": self.data_wait / seconds,
            "alignment_wait": sum(s.alignment_wait for s in steps) / seconds,
        }
        values["batches_crc32"] = self.crc
        if self.ceiling:
            values["mfu"] = sum(s.flops for s in steps) / seconds / self.ceiling
        for name in (
            "mlm_loss",
            "mlm_accuracy",
            "sal_loss",
            "ss_loss",
            "ss_accuracy",
            "sfp_loss",
            "sfp_accuracy",
            "gradient_norm",
        ):
            numbers = [n for s in steps if not math.isnan(n := getattr(s, name))]
            if numbers:
                values[name] = sum(numbers) / len(numbers)
        self.restart()
        return values
