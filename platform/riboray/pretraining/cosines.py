"""Cosines of chosen base pairs, with gradient: the device's half of structural alignment learning.

A violation needs one row of each side. Gathering rows costs a copy of them, forward and backward,
which a GPU hides and a CPU does not: there, compiled code reads the embeddings where they lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from riboray.pretraining.violations import Violations

__all__ = ["gathered_scores", "upload", "violated_scores"]

#: Norms below this count as this, as in `torch.nn.functional.normalize`.
_LEAST_NORM = 1e-12

#: Type of an index. A signed one might be negative and count from the end: no vector code.
_Place = np.uint64


def violated_scores(hidden_a: Tensor, hidden_b: Tensor, violations: Violations) -> Tensor:
    """Sum the signed cosines of the violations of each pair of RNAs.

    Parameters
    ----------
    hidden_a, hidden_b : Tensor, shapes=(n, width_a, H) and (n, width_b, H), float32 or float64
        Base embeddings, padded; with gradient.
    violations : Violations
        Which base pairs, and their signs.

    Returns
    -------
    Tensor, shape=(n,)
        The best alignment's match scores less the reference's. On a CPU it can be differentiated
        once.
    """
    if hidden_a.device.type != "cpu":
        return gathered_scores(hidden_a, hidden_b, violations)
    scores: Tensor = _ViolatedScores.apply(hidden_a, hidden_b, violations)  # type: ignore[no-untyped-call]
    return scores


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """Bring numbers to a device; to a GPU without waiting for the work queued there."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from pageable memory the copy would wait
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def gathered_scores(hidden_a: Tensor, hidden_b: Tensor, violations: Violations) -> Tensor:
    """Do what `violated_scores` does, on any device, by gathering rows."""
    device = hidden_a.device
    index = np.stack([violations.pair, violations.first, violations.second])
    pair, first, second = upload(index, device)
    rows_a = functional.normalize(hidden_a[pair, first], dim=-1, eps=_LEAST_NORM)
    rows_b = functional.normalize(hidden_b[pair, second], dim=-1, eps=_LEAST_NORM)
    cosines = (rows_a * rows_b).sum(-1) * upload(violations.sign, device)
    return cosines.new_zeros(len(hidden_a)).index_add(0, pair, cosines)


def _memory(hidden: Tensor) -> tuple[NDArray[Any], tuple[int, int]]:
    """Return what a padded batch of embeddings is a view of, in one dimension, and its strides.

    So a slice of a larger batch needs no copy, and the kernels see contiguous memory.
    """
    if hidden.stride(2) != 1 or hidden.numel() == 0:
        hidden = hidden.contiguous()
    steps = hidden.stride()
    span = sum((size - 1) * step for size, step in zip(hidden.shape, steps, strict=True)) + 1
    flat = hidden.detach().as_strided((max(span, 0),), (1,))
    return flat.numpy(), (steps[0], steps[1])


class _ViolatedScores(torch.autograd.Function):
    """What `gathered_scores` computes, on a CPU."""

    @staticmethod
    def forward(ctx: Any, hidden_a: Tensor, hidden_b: Tensor, violations: Violations) -> Tensor:
        a, steps_a = _memory(hidden_a)
        b, steps_b = _memory(hidden_b)
        totals = np.zeros(len(hidden_a), np.float64)
        slopes = np.empty((3, len(violations.pair)), a.dtype)
        cells = violations.pair, violations.first, violations.second, violations.sign
        _score_kernel(a, b, (*steps_a, *steps_b), hidden_a.shape[2], cells, totals, slopes)
        ctx.save_for_backward(hidden_a, hidden_b)
        ctx.cells, ctx.slopes = cells, slopes
        return torch.from_numpy(totals.astype(a.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_a, hidden_b = ctx.saved_tensors
        a, steps_a = _memory(hidden_a)
        b, steps_b = _memory(hidden_b)
        gradient_a = torch.zeros(hidden_a.shape, dtype=hidden_a.dtype)
        gradient_b = torch.zeros(hidden_b.shape, dtype=hidden_b.dtype)
        steps = (*steps_a, *steps_b, *gradient_a.stride()[:2], *gradient_b.stride()[:2])
        weights = gradient.contiguous().numpy()
        outputs = gradient_a.view(-1).numpy(), gradient_b.view(-1).numpy()
        width = hidden_a.shape[2]
        _gradient_kernel(a, b, steps, width, ctx.cells, ctx.slopes, weights, *outputs)
        return gradient_a, gradient_b, None


# Sums over an embedding may be reordered, which vectorises them; NaN is still NaN.
@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _score_kernel(
    a: Any, b: Any, steps: Any, width: int, cells: Any, totals: Any, slopes: Any
) -> None:
    """Add up the signed cosines of each pair, and keep what their gradients are made of.

    The gradient of a cosine with respect to the row of a is ``slopes[0]`` times the row of b minus
    ``slopes[1]`` times the row of a; with respect to the row of b likewise, with ``slopes[2]``.
    """
    cast = a.dtype.type
    pair, first, second, sign = cells
    for v in range(len(pair)):
        at_a = _Place(pair[v] * steps[0] + first[v] * steps[1])
        at_b = _Place(pair[v] * steps[2] + second[v] * steps[3])
        dot = square_a = square_b = cast(0)
        for k in range(_Place(width)):
            x, y = a[at_a + k], b[at_b + k]
            dot += x * y
            square_a += x * x
            square_b += y * y
        norm_a, norm_b = np.sqrt(square_a), np.sqrt(square_b)
        scale_a = cast(1) / max(norm_a, cast(_LEAST_NORM))
        scale_b = cast(1) / max(norm_b, cast(_LEAST_NORM))
        cosine = dot * scale_a * scale_b
        totals[pair[v]] += sign[v] * cosine
        slopes[0, v] = scale_a * scale_b
        slopes[1, v] = cosine * scale_a * scale_a if norm_a > cast(_LEAST_NORM) else cast(0)
        slopes[2, v] = cosine * scale_b * scale_b if norm_b > cast(_LEAST_NORM) else cast(0)


@njit(nogil=True, cache=True)
def _gradient_kernel(
    a: Any,
    b: Any,
    steps: Any,
    width: int,
    cells: Any,
    slopes: Any,
    weights: Any,
    gradient_a: Any,
    gradient_b: Any,
) -> None:
    """Add the gradients of the cosines, times the weights of their pairs, to the embeddings'."""
    pair, first, second, sign = cells
    for v in range(len(pair)):
        p, i, j = pair[v], first[v], second[v]
        weight = weights[p] * sign[v]
        if weight == 0:
            continue
        across, along_a = slopes[0, v] * weight, slopes[1, v] * weight
        along_b = slopes[2, v] * weight
        at_a, at_b = _Place(p * steps[0] + i * steps[1]), _Place(p * steps[2] + j * steps[3])
        to_a, to_b = _Place(p * steps[4] + i * steps[5]), _Place(p * steps[6] + j * steps[7])
        for k in range(_Place(width)):
            x, y = a[at_a + k], b[at_b + k]
            gradient_a[to_a + k] += across * y - along_a * x
            gradient_b[to_b + k] += across * x - along_b * y
