"""A file system that fills up."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A small file system, mounted for a test."""

    path: Path

    def resize(self, size: str) -> None:
        """Give it another size, such as ``20m``."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def fill(self, leave: int) -> Path:
        """Write a file that leaves so many bytes, or none if somebody else writes meanwhile."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as sink:
            state = os.statvfs(self.path)
            rest = b"x" * max(state.f_bavail * state.f_frsize - leave, 0)
            while rest:
                try:
                    rest = rest[sink.write(rest) :]
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
        return filler


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Disk]:
    """Mount a disk of some size, such as ``600k``; skip the test where that is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
