"""Whether disk and memory can hold what is about to be made."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from riboray.errors import OutputError

__all__ = ["byte_size", "check_disk", "check_memory", "spill_folder"]


def byte_size(number: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def check_disk(directory: Path, size: float, advice: str) -> None:
    """Refuse an output that its disk cannot hold.

    Parameters
    ----------
    directory : Path
        Where it is to be made; need not exist yet.
    size : float
        Bytes expected.
    advice : str
        What the user can do.

    Raises
    ------
    OutputError
        If more than 95 % of the free space would be taken.
    """
    existing = next(path for path in [directory, *directory.parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if size > 0.95 * free:
        reason = f"about {byte_size(size)} are needed, but only {byte_size(free)} are free"
        raise OutputError(directory, f"{reason}; {advice}")


def spill_folder() -> Path:
    """Return where a Ray on this machine puts what does not fit its object store."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())


def check_memory(size: float, what: str, advice: str) -> None:
    """Refuse work that needs more memory than this machine has available.

    Raises
    ------
    OutputError
        Where the system tells (Linux) and it is not enough.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return
    available = 1024.0 * int(line.split()[1])
    if size > 0.9 * available:
        reason = f"needs about {byte_size(size)} of memory, {byte_size(available)} are available"
        raise OutputError(what, f"{reason}; {advice}")
