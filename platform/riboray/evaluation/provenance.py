"""Where the data of a report come from: files with their hashes, the machine, the versions."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from riboray.corpus.files import is_remote
from riboray.info import InfoConfig, info
from riboray.manifest import fingerprint, sha256_file

__all__ = ["Source", "describe_machine", "sources_of"]


@dataclass(frozen=True)
class Source:
    """A file, or a folder of files.

    Attributes
    ----------
    role : str
        What it was used for.
    path : str
        As it was given.
    files, bytes : int
        How many there are, and how large together.
    sha256 : str
        Of the file; of a folder, the first digits of the hash of names and hashes.
    """

    role: str
    path: str
    files: int
    bytes: int
    sha256: str


def sources_of(role: str, paths: Sequence[str]) -> list[Source]:
    """Hash files and folders; what is read over the network is named only."""
    found = []
    for path in paths:
        if is_remote(path):
            found.append(Source(role, path, 1, 0, ""))
        elif (top := Path(path)).is_dir():
            files = sorted(file for file in top.rglob("*") if file.is_file())
            hashes = {str(file.relative_to(top)): sha256_file(file) for file in files}
            size = sum(file.stat().st_size for file in files)
            found.append(Source(role, path, len(files), size, fingerprint(hashes)))
        elif top.is_file():
            found.append(Source(role, path, 1, top.stat().st_size, sha256_file(top)))
    return found


def describe_machine() -> dict[str, str]:
    """Return date, versions and hardware, as words."""
    known = info(InfoConfig())
    packages = ", ".join(f"{name} {version}" for name, version in known["packages"].items())
    return {
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "riboray": known["riboray"],
        "processor": f"{known['processor']}, {known['cpus']} CPUs, {known['memory_gib']} GiB",
        "GPUs": ", ".join(known["gpus"]) or "none",
        "system": f"Python {known['python']}, {known['platform']}",
        "packages": packages,
    }
