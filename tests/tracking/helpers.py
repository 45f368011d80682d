"""Records as the training loop makes them."""

from __future__ import annotations

import sys
import time


def train(step, **fields):
    """A training record."""
    return {
        "kind": "train",
        "step": step,
        "progress": step / 1000,
        "elapsed_s": 2.0 * step,
    } | fields


def validation(step, **fields):
    """A measurement."""
    return {"kind": "validation", "step": step, "progress": 0.5, "elapsed_s": 1.0} | fields


def event(step, message):
    """Something that happened."""
    return {"kind": "event", "step": step, "progress": 0.5, "elapsed_s": 1.0, "message": message}


def wait_for(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


class Said:
    """What was told to the user: lines on standard error that warn."""

    def __init__(self, capsys):
        self._capsys = capsys
        self._text = ""

    def lines(self):
        """Every warning so far."""
        captured = self._capsys.readouterr()
        self._text += captured.err
        sys.stdout.write(captured.out)
        return [line for line in self._text.splitlines() if "warning" in line]
