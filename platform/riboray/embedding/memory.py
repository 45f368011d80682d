"""Results on their way from a GPU, and what to do when its memory does not suffice."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.errors import InvalidSequenceError, RiborayError

__all__ = ["DeviceCopy", "lasting", "release", "why_failed"]


class DeviceCopy:
    """Tensors on their way to the host.

    From a GPU the copy runs beside what the GPU computes next, into pinned memory.

    Parameters
    ----------
    tensors : list of Tensor
        What to fetch.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._event: torch.cuda.Event | None = None
        if tensors and tensors[0].is_cuda:
            pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            for host, tensor in zip(pinned, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._tensors = pinned
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def arrays(self) -> list[NDArray[np.float32]]:
        """Wait for the copy and return it."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


def lasting(error: Exception) -> bool:
    """Tell whether an error would come again for any batch: a broken device, a wrong call."""
    broken = getattr(torch, "AcceleratorError", ())
    return isinstance(error, (InvalidSequenceError, OSError)) or (
        bool(broken) and isinstance(error, broken) and not is_out_of_memory(error)
    )


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory did not suffice, on the device or on the host."""
    words = ("not enough memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        # PyTorch's allocator on a CPU, and what on a GPU its allocator does not manage.
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in words)
    )


def release(error: Exception, device: torch.device) -> None:
    """Give unused memory back before a smaller batch is tried."""
    error.__traceback__ = None  # its frames hold the batch
    if device.type == "cuda" and is_out_of_memory(error):
        torch.cuda.empty_cache()


def why_failed(error: Exception) -> str:
    """Say in a line why a sequence could not be embedded."""
    if is_out_of_memory(error):
        return "not enough memory to embed it"
    if isinstance(error, RiborayError):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"cannot be embedded ({type(error).__name__}: {lines[0]})"
