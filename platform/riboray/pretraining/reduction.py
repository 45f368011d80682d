"""Sums over all workers of a run; over this one where there is no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from riboray.errors import RiborayError

__all__ = ["all_sum", "from_rank_zero", "rank", "reduce_gradients", "world_size"]

T = TypeVar("T")


def rank() -> int:
    """Return this worker's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(values: Sequence[float], device: torch.device) -> list[float]:
    """Add numbers up over all workers."""
    if world_size() == 1:  # a device would have to finish what is queued first
        return [float(value) for value in values]
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def reduce_gradients(parameters: Sequence[nn.Parameter], extra: Tensor) -> list[float]:
    """Add gradients and a few numbers up over the workers, in one message.

    With half a million parameters there is nothing to overlap, and heads that a step does not use
    simply contribute nothing: simpler than DistributedDataParallel, and as fast.

    Parameters
    ----------
    parameters : sequence of Parameter
        Their gradients become the sums. One that no worker used keeps its None: an optimiser then
        leaves it alone.
    extra : Tensor, shape=(n,), dtype=float64
        The numbers.

    Returns
    -------
    list of float
        The numbers' sums.
    """
    if not dist.is_initialized():
        return extra.tolist()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    # Two float32 numbers for each of the sums: a float32 alone counts exactly to 2^24 only.
    high = extra.float()
    low = (extra - high.double()).float()
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), high, low])
    dist.all_reduce(flat)
    sizes = [p.numel() for p in parameters]
    *parts, high, low = torch.split(flat, [*sizes, len(extra), len(extra)])
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))
    return (high.double() + low.double()).tolist()


def from_rank_zero(read: Callable[[], T], device: torch.device) -> T:
    """Have rank 0 read something, and give it to all workers, who call this together.

    So all have the same even if one of them saw an older listing of a shared file system.

    Raises
    ------
    RiborayError
        The reader's, on every worker.
    """
    payload: list[Any] = [None]
    if rank() == 0:
        try:
            payload = [read()]
        except RiborayError as error:
            payload = [error]
    if dist.is_initialized():
        # Pickled by our own rank 0, not by whoever made a file.
        dist.broadcast_object_list(payload, src=0, device=device)
    found: T | RiborayError = payload[0]
    if isinstance(found, RiborayError):
        raise found
    return found
