"""AdamW, and Muon for the matrices of the encoder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from riboray.pretraining.config import PretrainConfig

__all__ = ["Muon", "make_optimizers", "orthogonalise"]

#: Coefficients of the quintic Newton-Schulz iteration, and how often it is done: singular values
#: come out between about 0.7 and 1.2, which serves as well as 1 (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5

#: What makes a step as large as one of AdamW, per entry of a matrix (Liu et al. 2025).
_RMS = 0.2

#: As usual for BERT: 0.999 remembers the first steps too long.
_BETAS = (0.9, 0.98)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring all singular values near 1, and keep the singular vectors.

    Parameters
    ----------
    matrices : Tensor, shape=(k, m, n)
        With m at most n for speed; of any size.

    Returns
    -------
    Tensor, shape=(k, m, n)
        Zero matrices stay zero.

    Notes
    -----
    In the type it is given: on a CPU, bfloat16 takes many times as long as float32.
    """
    a, b, c = _QUINTIC
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


class Muon(Optimizer):
    """Momentum, orthogonalised: for matrices that multiply hidden states.

    Every direction of a gradient counts alike, the rare ones too, so that fewer steps are needed
    than with AdamW. Matrices of one shape, or of the transposed one, are worked on together.

    Parameters
    ----------
    params : iterable of Parameter, or of groups of them
        Matrices.
    lr : float
        Learning rate, in AdamW's terms: steps are as large.
    momentum : float, optional
        Of the average of gradients, which Nesterov's way looks ahead with.
    weight_decay : float, optional
        Decoupled, as AdamW's.

    Notes
    -----
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the size of steps: Liu et al.
    2025, arXiv:2502.16982. `torch.optim.Muon` does the same one matrix at a time in bfloat16.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[tuple(sorted(parameter.shape))].append(parameter)
            for parameters in alike.values():
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        averages = []
        for parameter in parameters:
            state = self.state[parameter]
            if "average" not in state:
                state["average"] = torch.zeros_like(parameter)
            averages.append(state["average"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
        steps = orthogonalise(torch.stack([_wide(matrix) for matrix in ahead]))
        size = _RMS * math.sqrt(max(parameters[0].shape)) * group["lr"]
        kept = 1 - group["lr"] * group["weight_decay"]
        turned = [
            step if parameter.shape == step.shape else step.mT
            for parameter, step in zip(parameters, steps, strict=True)
        ]
        torch._foreach_mul_(parameters, kept)
        torch._foreach_add_(parameters, turned, alpha=-size)


def _wide(matrix: Tensor) -> Tensor:
    """Transpose a matrix that is higher than wide."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def make_optimizers(model: nn.Module, config: PretrainConfig) -> list[Optimizer]:
    """Make AdamW, with weight decay on matrices only, and Muon if it is wanted.

    Muon's are the matrices of the encoder's layers; its groups have the learning rate's factor as
    ``lr_scale``.
    """
    mine: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        of_layers = ".encoder." in name and parameter.ndim == 2
        (mine if of_layers and config.optimizer == "muon" else others).append(parameter)
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = config.learning_rate
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=_BETAS, fused=True)]
    if mine:
        group = {"params": mine, "lr_scale": config.muon_scale}
        optimizers.append(Muon([group], lr=rate, weight_decay=config.weight_decay))
    return optimizers
