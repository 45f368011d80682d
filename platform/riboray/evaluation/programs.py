"""Other aligners, run side by side where they are installed."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from Bio import AlignIO
from numpy.typing import NDArray

from riboray.alignment.columns import aligned_columns
from riboray.alphabet import normalise
from riboray.errors import ConfigError
from riboray.evaluation.references import GAP_SIGNS, ReferencePair
from riboray.evaluation.scores import Aligned

__all__ = ["PROGRAMS", "Program", "align_by_program", "installed", "version_of"]


@dataclass(frozen=True)
class Program:
    """How a program aligns two RNAs.

    Attributes
    ----------
    command : tuple of str
        Its words. ``{input}`` is a FASTA file of both, ``{a}`` and ``{b}`` one of each,
        ``{output}`` where it should write; without that, its standard output is read.
    form : str
        ``fasta`` or ``clustal``: what it writes.
    version : tuple of str
        Words that make it tell its version, after its name.
    """

    command: tuple[str, ...]
    form: str = "fasta"
    version: tuple[str, ...] = ("--version",)

    @property
    def executable(self) -> str:
        """The program's file, which must be on PATH."""
        return self.command[0]


_MAFFT = ("--quiet", "--thread", "1", "{input}")

PROGRAMS: dict[str, Program] = {
    "mafft-ginsi": Program(("mafft", "--globalpair", "--maxiterate", "1000", *_MAFFT)),
    "mafft-qinsi": Program(("mafft-qinsi", *_MAFFT)),
    "clustalw": Program(
        (
            *("clustalw", "-INFILE={input}", "-OUTFILE={output}"),
            *("-OUTPUT=FASTA", "-TYPE=DNA", "-QUIET"),
        ),
        version=("-HELP",),
    ),
    "muscle": Program(
        ("muscle", "-align", "{input}", "-output", "{output}", "-threads", "1"),
        version=("-version",),
    ),
    "probcons-rna": Program(("probcons-RNA", "{input}"), version=()),
    "fsa": Program(("fsa", "{input}")),
    "locarna": Program(("locarna", "--clustal={output}", "{a}", "{b}"), form="clustal"),
    "sparse": Program(("sparse", "--clustal={output}", "{a}", "{b}"), form="clustal"),
    "dafs": Program(("dafs", "{input}")),
}
"""Programs with their usual options for few, short sequences, one thread each."""


def installed() -> list[str]:
    """Return the names of the programs that are on PATH."""
    return [name for name, program in PROGRAMS.items() if shutil.which(program.executable)]


def version_of(program: Program) -> str:
    """Return what a program says of its version, in one line; nothing if it does not."""
    try:
        done = subprocess.run(
            [program.executable, *program.version],
            capture_output=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    text = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if re.search(r"\d\.\d|v\d", line)]
    return told[0][:100] if told else ""


def align_by_program(
    program: Program,
    pairs: Sequence[ReferencePair],
    workers: int,
    timeout: float,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[Aligned, list[str | None]]:
    """Align pairs by a program, one process a pair.

    Parameters
    ----------
    program : Program
        Installed.
    pairs : sequence of ReferencePair
        The pairs.
    workers : int
        Processes at a time.
    timeout : float
        Seconds after which a process is ended.
    advance : callable
        Told how many pairs are done.

    Returns
    -------
    Aligned
        CPU seconds are those of the process and its children, its start included. A pair that it
        cannot align has no aligned bases.
    list of str or None
        For each pair, why it could not.

    Raises
    ------
    ConfigError
        If it fails on every pair.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(_align_one, program, pair, timeout, stop) for pair in pairs]
        done = []
        try:
            for number, future in enumerate(running, start=1):
                done.append(future.result())
                advance(number)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    failures = [reason for _, _, reason in done]
    if all(failures):
        raise ConfigError(f"{program.executable} aligns no pair; the first: {failures[0]}")
    seconds = np.array([spent for _, spent, _ in done])
    return Aligned([partners for partners, _, _ in done], seconds), failures


def _align_one(
    program: Program, pair: ReferencePair, timeout: float, stop: threading.Event
) -> tuple[NDArray[np.int32], float, str | None]:
    nothing = np.full(len(pair.sequences[0]), -1, np.int32)
    with _workplace(pair) as (folder, files):
        command = [word.format_map(files) for word in program.command]
        code, seconds, said = _run(command, folder, timeout, stop)
        if code is None:
            return nothing, seconds, f"still running after {timeout:g} s"
        if code:
            return nothing, seconds, f"exit code {code}: {said[-200:]}"
        written = Path(
            files["output"] if "{output}" in " ".join(program.command) else folder / "out"
        )
        try:
            rows = _rows(written.read_text("utf-8"), program.form)
        except (OSError, ValueError) as error:
            return nothing, seconds, f"no alignment written ({error})"
    if [row.replace("-", "") for row in rows] != list(pair.sequences):
        return nothing, seconds, "it wrote other sequences than it was given"
    return aligned_columns(*rows).partners, seconds, None


@contextmanager
def _workplace(pair: ReferencePair) -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a folder with the sequences, under names that no program stumbles over."""
    with tempfile.TemporaryDirectory(prefix="riboray-") as name:
        folder = Path(name)
        records = [f">{name}\n{text}\n" for name, text in zip("ab", pair.sequences, strict=True)]
        for stem, text in (("a", records[0]), ("b", records[1]), ("input", "".join(records))):
            (folder / f"{stem}.fa").write_text(text, "ascii")
        files = {stem: str(folder / f"{stem}.fa") for stem in ("a", "b", "input")}
        yield folder, files | {"output": str(folder / "aligned")}


def _run(
    command: list[str], folder: Path, timeout: float, stop: threading.Event
) -> tuple[int | None, float, str]:
    """Run a program; return exit code (None: it took too long), CPU seconds and last words."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        ends = time.monotonic() + timeout
        pause, code = 0.002, None
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > ends or stop.is_set():
                os.killpg(process.pid, 9)
                _, _, usage = os.wait4(process.pid, 0)
                break
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        process.returncode = -9 if code is None else code
    said = (folder / "err").read_text("utf-8", "replace").strip()
    return code, usage.ru_utime + usage.ru_stime, " ".join(said.split())


def _rows(text: str, form: str) -> list[str]:
    """Return the two gapped rows, a first, upper case with U for T.

    Raises
    ------
    ValueError
        If they are not there.
    """
    alignment = AlignIO.read(io.StringIO(text), form)  # type: ignore[no-untyped-call]
    rows = {r.id: normalise(str(r.seq)).translate(GAP_SIGNS) for r in alignment}
    missing = {"a", "b"} - rows.keys()
    if missing:
        raise ValueError(f"no row {', '.join(sorted(missing))}")
    return [rows["a"], rows["b"]]
