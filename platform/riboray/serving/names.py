"""Names of tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from riboray.errors import ConfigError

__all__ = ["named_tasks"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def named_tasks(given: Sequence[str]) -> dict[str, str]:
    """Read values of the form ``NAME=CHECKPOINT``.

    Raises
    ------
    ConfigError
        If one is not, or a name is given twice or is none that a path can have.
    """
    found: dict[str, str] = {}
    for value in given:
        name, equals, checkpoint = value.partition("=")
        if not equals or not checkpoint:
            raise ConfigError(f"--tasks {value!r}: expected NAME=CHECKPOINT")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--tasks {name!r}: a name is of letters, digits, '_', '-' and '.'")
        if name in found:
            raise ConfigError(f"--tasks: two are called {name!r}")
        found[name] = checkpoint
    return found
