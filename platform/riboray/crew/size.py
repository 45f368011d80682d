"""How many processes a crew has, and what each of them holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from riboray.rayenv import LOCAL

__all__ = ["Needs", "Size", "crew_size"]

#: Processes to begin with on a cluster that has no CPU yet.
_FIRST = 4
#: Processes on a cluster, at most, unless a number is given.
_MOST = 4096


@dataclass(frozen=True)
class Size:
    """How many processes a crew has: so many at once, and so many at most."""

    least: int
    most: int

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least}"
        return f"{self.least} and more" if self.most == _MOST else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class Needs:
    """What a process holds of its machine.

    Attributes
    ----------
    cpus, gpus : int
        Numbers of them.
    memory : float, optional
        GiB. None: it is not counted.
    calls : int
        Calls that run at a time.
    """

    cpus: int = 1
    gpus: int = 0
    memory: float | None = None
    calls: int = 1

    def share(self) -> dict[str, Any]:
        """Return Ray's options of a task."""
        share: dict[str, Any] = {"num_cpus": self.cpus}
        if self.gpus:
            share["num_gpus"] = self.gpus
        if self.memory is not None:
            share["memory"] = int(self.memory * 2**30)
        return share

    def options(self) -> dict[str, Any]:
        """Return Ray's options of an actor."""
        return self.share() | {"max_concurrency": self.calls}

    def no_room(self) -> str:
        """Return what a user is told while there is no room for a process."""
        return f"  waiting     the cluster has no room for a process yet ({self})"

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU"]
        if self.gpus:
            parts.append(f"{self.gpus} GPU")
        if self.memory is not None:
            parts.append(f"{self.memory:g} GiB")
        return ", ".join(parts)


def crew_size(
    asked: int | list[int] | None, address: str, resources: dict[str, float], kind: str = "CPU"
) -> Size:
    """Decide how many processes to use.

    Parameters
    ----------
    asked : int, list of int or None
        Number, or least and most, as the user gave them.
    address : str
        Which Ray.
    resources : dict
        What it has now.
    kind : str
        ``CPU`` or ``GPU``, of which each process holds one.
    """
    if isinstance(asked, list):
        return Size(*asked)
    if asked:
        return Size(asked, asked)
    if address == LOCAL:
        count = (os.cpu_count() or 1) if kind == "CPU" else max(int(resources.get(kind, 1)), 1)
        return Size(count, count)
    return Size(max(int(resources.get(kind, 0)), _FIRST if kind == "CPU" else 1), _MOST)
