"""The verb `info`: what a bug report needs to say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riboray import __version__

__all__ = ["InfoConfig", "info", "processor"]

_PACKAGES = ("torch", "ray", "numpy", "pyarrow", "numba", "safetensors", "biopython")


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Print versions, devices and settings, for bug reports."""

    checkpoint: str | None = None
    """Describe this checkpoint too."""


def info(config: InfoConfig) -> dict[str, Any]:
    """Describe this installation and machine.

    Parameters
    ----------
    config : InfoConfig
        A checkpoint to describe, optionally.

    Returns
    -------
    dict
        Versions, devices, Ray settings; nothing secret.
    """
    import torch

    from riboray.model.bundled import bundled_models
    from riboray.model.checkpoint import describe, load_checkpoint

    report: dict[str, Any] = {
        "riboray": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "models": bundled_models(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "ray_address": os.environ.get("RAY_ADDRESS"),
        "ray_auth_mode": os.environ.get("RAY_AUTH_MODE"),
    }
    if config.checkpoint is not None:
        report["checkpoint"] = describe(load_checkpoint(config.checkpoint))
    return report


def processor() -> str:
    """Return the name of this machine's processor, as far as it tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
