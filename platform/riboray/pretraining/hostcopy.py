"""Bringing a device's numbers to the CPU without stopping the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["HostCopy"]


class HostCopy:
    """A tensor on its way to the CPU; calling it waits for its arrival.

    Parameters
    ----------
    tensor : Tensor, dtype=float32
        On any device, without gradient.

    Notes
    -----
    From a GPU the copy is queued into pinned memory behind the work that makes the tensor. Who
    calls waits for that event alone, with the interpreter's lock released: a thread can align
    while the main thread queues the next forward pass.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: Any = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = tensor

    def __call__(self) -> NDArray[np.float32]:
        """Return the numbers, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        array: NDArray[np.float32] = self._host.numpy()
        return array
