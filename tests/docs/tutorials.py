"""A page with commands, run from top to bottom as a reader would.

Blocks of ``bash`` run in one shell after the other, in one folder; blocks of ``python`` with the
same interpreter. A block of ``text`` is what the blocks before it print, numbers aside: each of its
lines must be there, in this order. ``…`` stands for anything.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.integration.helpers import environment

_BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All blocks that run, and what they print."""
    return [Block(*match.groups()) for match in _BLOCK.finditer(page.read_text("utf-8"))]


def run_page(page: Path, folder: Path) -> None:
    """Run a page in an empty folder and compare what it prints; end what still runs."""
    groups: list[int] = []
    try:
        _run_blocks(page, folder, groups)
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


def _run_blocks(page: Path, folder: Path, groups: list[int]) -> None:
    env = environment()
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    printed = ""
    for block in blocks_of(page):
        if block.kind == "text":
            check(block.text, printed, page.name)
            printed = ""
            continue
        shell = ["bash", "-euo", "pipefail"] if block.kind == "bash" else [sys.executable]
        with (folder / ".printed").open("w+") as output:  # a pipe would wait for what runs on
            process = subprocess.Popen(
                [*shell, "-c", block.text],
                cwd=folder,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            groups.append(process.pid)
            code = process.wait(timeout=600)
            output.seek(0)
            new = output.read()
        if os.environ.get("SHOW_TUTORIALS"):
            print(f"$ {block.text}{new}", flush=True)
        assert code == 0, f"{page.name}: {block.text}\n{new}"
        printed += new


def check(wanted: str, printed: str, name: str) -> None:
    """Find every line that is wanted, in order, whatever its numbers are."""
    lines = iter([_without_numbers(line) for line in printed.splitlines()])
    for line in wanted.splitlines():
        form = ".*".join(map(re.escape, _without_numbers(line).split("…")))
        if not any(re.fullmatch(form, found) for found in lines):
            raise AssertionError(f"{name}: not printed (here): {line!r}\n{printed}")


def _without_numbers(line: str) -> str:
    return re.sub(r"\d[\d,.:]*", "0", " ".join(line.split()))
