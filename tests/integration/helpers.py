"""Running the command line as a user does, in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

#: A model and a run that take seconds; everything else is as for real.
TINY = [
    "--model.hidden-size=24",
    "--model.num-hidden-layers=1",
    "--model.num-attention-heads=4",
    "--pairs-per-family=30",
    "--validation-pairs=10",
    "--evaluations=1",
]


def environment() -> dict[str, str]:
    """The environment without anything that would point to another Ray."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}


def start(arguments, cwd, stderr=subprocess.PIPE, as_json=True, **variables):
    """Start ``riboray VERB …`` in a process group of its own, as a shell would.

    With ``--json`` unless that is not wanted, or the verb has no result to wait for. Further
    keywords are environment variables.
    """
    words = [*map(str, arguments)]
    words += ["--json"] if as_json and words[0] not in ("serve", "submit") else []
    command = [sys.executable, "-m", "riboray.cli", *words]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
        # Tests that run in the background inherit that Ctrl-C is ignored; a user's shell does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def riboray(*arguments, cwd, timeout=400, as_json=True):
    """Run ``riboray VERB …`` to its end, as `start`; return exit code, stdout, stderr."""
    process = start(arguments, cwd, as_json=as_json)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def riboray_at(folder: Path, *arguments, cwd, timeout=600):
    """Run the command that lies in a folder; return exit code, stdout, stderr."""
    done = subprocess.run(
        [folder / "riboray", *map(str, arguments)],
        cwd=cwd,
        env={k: v for k, v in environment().items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout, done.stderr


def succeed(command, env, timeout=600):
    """Run a command in the source tree, expect that it succeeds, and return what it printed."""
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_fasta(path, sequences, prefix="s"):
    """Write sequences with numbers as ids."""
    path.write_text("".join(f">{prefix}{k} RNA\n{s}\n" for k, s in enumerate(sequences)))
    return path


def records(run: Path) -> list[dict]:
    """The records a run has written so far."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds=300, message="nothing happened"):
    """Wait until ``condition()`` is true and return what it returned.

    The limit is there to end a test that hangs. In a new installation, kernels compile for a
    minute, and a machine may have much else to do.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(message)


def kill(process: subprocess.Popen, how: int = signal.SIGKILL) -> int:
    """Send a signal, wait for the command's end, and clear away what it leaves.

    SIGINT goes to the whole group, as a terminal sends it; anything else to the process alone.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    try:
        return process.wait(60)
    finally:
        for child in children:  # Ray's own processes outlive a killed driver by half a minute
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
