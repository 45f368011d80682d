"""Keeping `torch.compile` away from functions that it cannot compile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

__all__ = ["uncompiled"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def uncompiled(function: _Function) -> _Function:
    """Do what `torch.compiler.disable` does, from the moment that there is a compiler.

    Parameters
    ----------
    function : callable
        Anything that calls kernels outside PyTorch.

    Returns
    -------
    callable
        The same, for `torch.compile` to leave alone.

    Notes
    -----
    `torch.compiler.disable` imports the compiler, which takes as long as all the rest of PyTorch
    (1.6 s of a core), in every process that loads a model, and most of them never compile.
    """
    guarded: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # nobody compiles in this process
            return function(*arguments, **options)
        if not guarded:
            guarded.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return guarded[0](*arguments, **options)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # do not look inside this either
    return call  # type: ignore[return-value]
