"""Attention within packed sequences as an operation of PyTorch, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from riboray.model.attention_backward import attend_backward
from riboray.model.attention_kernels import attend
from riboray.model.uncompiled import uncompiled

__all__ = ["Offsets", "over_sequences", "packed_attention"]

#: Where sequences begin in a packed batch, and where the last one ends; shape (N + 1,).
Offsets = NDArray[np.int64]

#: Scores (of every head) that a thread must get for waking it to pay: about half a millisecond.
_WORTHWHILE = 50_000


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="riboray-attention")


def over_sequences(
    work: Callable[[Offsets], object], offsets: Offsets, linear_cost: int = 0
) -> None:
    """Share sequences out over as many threads as PyTorch has.

    Parameters
    ----------
    work : callable
        Called with the offsets of a stretch of sequences; must let go of the interpreter's lock.
    offsets : ndarray, shape=(N + 1,), dtype=int64
        All sequences. The result must not depend on how they are shared out.
    linear_cost : int
        Work that grows with a sequence's length, in scores a token.
    """
    lengths = np.diff(offsets)
    costs = np.concatenate([[0], np.cumsum(lengths * (lengths + linear_cost))])
    workers = min(torch.get_num_threads(), int(costs[-1]) // _WORTHWHILE, len(lengths))
    if workers < 2:
        work(offsets)
        return
    cuts = np.searchsorted(costs, costs[-1] * np.arange(1, workers) / workers)
    edges = np.unique(np.concatenate([[0], cuts, [len(lengths)]]))
    parts = [offsets[a : b + 1] for a, b in pairwise(edges)]
    for _ in _pool(workers).map(work, parts):
        pass


class _PackedAttention(torch.autograd.Function):
    """`riboray.model.attention_kernels.attend` with its gradient."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, offsets: Offsets, heads: int) -> Tensor:
        projected = projected.contiguous()
        hidden, total = projected.shape[0] // 3, projected.shape[1]
        context = projected.new_empty(hidden, total)
        statistics = projected.new_empty(2, heads, total)
        arrays = projected.numpy(), context.numpy(), statistics.numpy()
        over_sequences(lambda part: attend(arrays[0], part, heads, *arrays[1:]), offsets)
        ctx.save_for_backward(projected, context, statistics)
        ctx.offsets, ctx.heads = offsets, heads
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        projected, context, statistics = (tensor.detach().numpy() for tensor in ctx.saved_tensors)
        inward = gradient.contiguous().numpy()
        result = torch.empty(projected.shape)
        outward = result.numpy()

        def work(part: Offsets) -> None:
            attend_backward(projected, part, ctx.heads, context, statistics, inward, outward)

        over_sequences(work, ctx.offsets)
        return result, None, None


@uncompiled
def packed_attention(projected: Tensor, offsets: Offsets, heads: int) -> Tensor:
    """Attend within every sequence of a packed batch.

    Parameters
    ----------
    projected : Tensor, shape=(3·A·D, T), dtype=float32
        Queries, keys and values of all tokens, each head by head; on the CPU.
    offsets : ndarray, shape=(N + 1,), dtype=int64
        Where sequences begin, from 0 to T, never falling.
    heads : int
        A.

    Returns
    -------
    Tensor, shape=(A·D, T), dtype=float32
        Differentiable once.

    Raises
    ------
    ValueError
        If types, shapes or offsets are others: the kernels would reach beyond the arrays.
    """
    features, total = projected.shape
    rising = offsets[0] == 0 and offsets[-1] == total and bool((np.diff(offsets) >= 0).all())
    if offsets.dtype != np.int64 or not rising:
        raise ValueError(f"offsets must be int64 and rise from 0 to {total}, the number of tokens")
    if projected.dtype != torch.float32 or features % (3 * heads):
        raise ValueError(f"3 x {heads} heads of float32 cannot be {features} {projected.dtype}")
    context: Tensor = _PackedAttention.apply(projected, offsets, heads)  # type: ignore[no-untyped-call]
    return context
