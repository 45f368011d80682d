"""Whether machines see the same folder: what is written to another one is lost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from riboray.errors import OutputError
from riboray.rayenv import LOCAL

__all__ = ["common_file", "unshared", "visible"]


def visible(probe: str) -> bool:
    """Tell whether a file of the driver's is seen here; a network disk may need a moment."""
    for _ in range(20):
        if Path(probe).exists():
            return True
        time.sleep(0.25)
    return False


def unshared(folder: str | Path, machine: str) -> OutputError:
    """Make the error that says that a folder is not the same on all machines."""
    return OutputError(
        str(folder), f"is not the same folder on {machine}: write to storage that all nodes share"
    )


@contextmanager
def common_file(address: str, folder: Path | None) -> Iterator[str | None]:
    """Have a file in a folder by which other machines tell that it is the same folder."""
    if address == LOCAL or folder is None:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix=".seen-", dir=folder.absolute()) as file:
        yield file.name
