"""A run directory as a report reads it: options, records, state, where its model and corpus lie.

The run may be going on, killed, or made by another version: what is absent is None, and what is
out of the ordinary is said in `RunView.notes` instead of failing.
"""

from __future__ import annotations

import fcntl
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from riboray.errors import ConfigError, CorpusError, InputError
from riboray.manifest import Manifest, read_manifest
from riboray.options import parse_config
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import OBJECTIVES
from riboray.pretraining.rundir import RunDirectory

__all__ = [
    "Phase",
    "RunView",
    "candidate_checkpoints",
    "find_corpus",
    "number",
    "phases_of",
    "read_run",
]

Record = dict[str, Any]
State = Literal["finished", "going on", "stopped"]

KINDS = ("train", "validation", "event")

#: Beyond this, a value is that of a run which diverged, and cannot be drawn beside others.
_ABSURD = 10**30

_STEP_FOLDER = re.compile(r"step-(\d+)")


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What is known about a run.

    Attributes
    ----------
    directory : RunDirectory
        Where it lies.
    state : str
        ``finished``, ``going on`` (a process holds the directory's lock) or ``stopped``.
    options : dict
        ``resolved_config.yaml`` as it is.
    config : PretrainConfig or None
        The options, if this riboray can read them.
    summary : dict
        ``summary.json``; empty before the end.
    records : list of dict
        Training, validation and event records in order, without those that a resume undid.
    written : datetime
        When the last record was written (UTC).
    notes : list of str
        What a reader of the report should know about the data.
    """

    directory: RunDirectory
    state: State
    options: Record
    config: PretrainConfig | None
    summary: Record
    records: list[Record]
    written: datetime
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name: that of its directory."""
        return self.directory.path.name

    @property
    def training(self) -> list[Record]:
        """Records of training."""
        return [r for r in self.records if r["kind"] == "train"]

    @property
    def validations(self) -> list[Record]:
        """Measurements."""
        return [r for r in self.records if r["kind"] == "validation"]

    @property
    def events(self) -> list[Record]:
        """What happened to the run."""
        return [r for r in self.records if r["kind"] == "event"]

    @property
    def last(self) -> Record:
        """The record that says how far the run is."""
        return _last(self.records)


def _last(records: list[Record]) -> Record:
    return next((r for r in reversed(records) if r["kind"] != "event"), records[-1])


def number(record: Record, name: str) -> float | None:
    """Return a number of a record, or None if it is absent, no number, or beyond ±1e30."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is converted: an integer of JSON may be too large for a float.
    return float(value) if -_ABSURD < value < _ABSURD else None


def read_run(path: Path) -> RunView:
    """Read a run directory.

    Parameters
    ----------
    path : Path
        What `riboray pretrain` made.

    Returns
    -------
    RunView
        The run as it stands.

    Raises
    ------
    InputError
        If it is no run directory, holds no metrics yet, or a file in it is damaged. A last line of
        metrics that is still being written is left out instead.
    """
    run = RunDirectory(path.resolve())
    if not run.path.is_dir():
        raise InputError(path, "no such directory; give a run directory of `riboray pretrain`")
    if not run.marker.is_file() and not run.config.is_file():
        reason = f"not a run directory (it has neither {run.marker.name} nor {run.config.name})"
        raise InputError(path, f"{reason}; give one that `riboray pretrain` made")
    if not run.metrics.is_file():
        raise InputError(run.metrics, "no metrics yet; the run has measured nothing so far")
    notes: list[str] = []
    records = _read_metrics(run.metrics, notes)
    if not records:
        raise InputError(run.metrics, "no metrics yet; the run has measured nothing so far")
    options, config = _read_options(run, notes)
    summary = _read_json(run.summary) if run.summary.is_file() else {}
    return RunView(
        directory=run,
        state=_state_of(run, summary, _last(records)),
        options=options,
        config=config,
        summary=summary,
        records=records,
        written=datetime.fromtimestamp(run.metrics.stat().st_mtime, UTC),
        notes=notes,
    )


def _state_of(run: RunDirectory, summary: Record, last: Record) -> State:
    if _is_locked(run.path / ".lock"):
        return "going on"
    # A finished run that went on with wider limits and was stopped still has its old summary.
    reached = number(last, "progress")
    return "finished" if summary and (reached is None or reached >= 1) else "stopped"


def _is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock that `riboray.manifest.exclusive` takes."""
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def _read_json(path: Path) -> Record:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(path, f"is damaged ({error})") from error
    if not isinstance(value, dict):
        raise InputError(path, "is damaged (not a JSON object)")
    return value


def _read_options(run: RunDirectory, notes: list[str]) -> tuple[Record, PretrainConfig | None]:
    if not run.config.is_file():
        notes.append(f"{run.config.name} is missing: the run's options are unknown.")
        return {}, None
    try:
        options = yaml.safe_load(run.config.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(run.config, f"is damaged ({' '.join(str(error).split())})") from error
    if not isinstance(options, dict):
        raise InputError(run.config, "is damaged (not a mapping of options)")
    try:
        config = parse_config("pretrain", PretrainConfig, ["--config", str(run.config)])
    except ConfigError as error:
        notes.append(f"The run's options are not those of this version of riboray ({error}).")
        return options, None
    return options, config


def _read_metrics(path: Path, notes: list[str]) -> list[Record]:
    """Read the records, leave out a torn last line and what a resume undid, and say both."""
    whole, newline, rest = path.read_bytes().rpartition(b"\n")
    records = [_record(path, i, line) for i, line in _lines(whole + newline)]
    if rest.strip():
        try:
            records.append(_record(path, whole.count(b"\n") + 2, rest))
        except InputError:
            notes.append(
                f"The last line of {path.name} is incomplete (it is being written, or the run was "
                "killed while it wrote) and was left out."
            )
    records = [record for record in records if record["kind"] in KINDS]
    kept, undone = _without_undone(records)
    if undone:
        notes.append(
            f"{undone:,} record{'s' * (undone > 1)} of steps that a resume from an earlier "
            "checkpoint repeated were left out."
        )
    strange = sum(any(_is_strange(r, name) for name in r) for r in kept)
    if strange:
        notes.append(
            f"{strange:,} record{'s hold' if strange > 1 else ' holds'} a value that is NaN, "
            "infinite or beyond all measure, and is not drawn. The training may have diverged."
        )
    return kept


def _is_strange(record: Record, name: str) -> bool:
    value = record[name]
    return type(value) in (int, float) and number(record, name) is None


def _lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    return ((i, line) for i, line in enumerate(text.split(b"\n"), start=1) if line.strip())


def _record(path: Path, line: int, text: bytes) -> Record:
    """Read one line, or say that it is damaged."""
    try:
        record = json.loads(text)
        fits = (
            isinstance(record["kind"], str)
            and isinstance(record["step"], int)
            and not isinstance(record["step"], bool)
            and 0 <= record["step"] < 1 << 53
            and number(record, "elapsed_s") is not None
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise InputError(
            path,
            "is damaged: not a record with kind, step and elapsed_s; remove the line to go on "
            "without it",
            record=f"line {line}",
        )
    checked: Record = record
    return checked


def _without_undone(records: list[Record]) -> tuple[list[Record], int]:
    """Leave out training and measurements whose step comes again later in the file."""
    kept: list[Record] = []
    lowest = math.inf
    for record in reversed(records):
        if record["kind"] == "event":
            kept.append(record)
        elif record["step"] <= lowest:
            lowest = record["step"]
            kept.append(record)
    return kept[::-1], len(records) - len(kept)


class Phase(NamedTuple):
    """A stretch of the run with the same objectives."""

    label: str
    steps: tuple[float, float]
    """First step before it and last step of it."""
    seconds: tuple[float, float]
    """The same in seconds of training."""


def phases_of(run: RunView) -> list[Phase]:
    """Cut the run where its phase or its objectives change; records without either are skipped.

    A run whose records do not name objectives has those whose losses are recorded.
    """
    phases: list[Phase] = []
    last_key: tuple[Any, str] | None = None
    before = (0.0, 0.0)
    for record in run.training:
        key = (record.get("phase"), _objectives(record))
        now = (float(record["step"]), float(record["elapsed_s"]))
        if key[1]:
            if key == last_key:
                label, steps, seconds = phases[-1]
                phases[-1] = Phase(label, (steps[0], now[0]), (seconds[0], now[1]))
            else:
                phases.append(Phase(key[1], (before[0], now[0]), (before[1], now[1])))
                last_key = key
        before = now
    return phases


def _objectives(record: Record) -> str:
    named = record.get("objectives")
    if not isinstance(named, str):
        named = "+".join(name for name in OBJECTIVES if f"{name}_loss" in record)
    return " + ".join(part.strip().upper() for part in named.split("+") if part.strip())


def candidate_checkpoints(run: RunView) -> list[tuple[int | None, Path]]:
    """List directories that may hold the run's model, newest first, each with its step if known."""
    folders: list[tuple[float, int, int | None, Path]] = []
    for path in (run.directory.path / "checkpoints").glob("step-*"):
        match = _STEP_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            folders.append((int(match[1]), 0, int(match[1]), path))
    if run.directory.checkpoint.is_dir():
        step = run.summary.get("steps")
        known = step if isinstance(step, int) else None
        # Of two of the same step, the finished model comes first.
        folders.append((-1 if known is None else known, 1, known, run.directory.checkpoint))
    return [(step, path) for _, _, step, path in sorted(folders, reverse=True, key=lambda f: f[:2])]


def find_corpus(run: RunView) -> tuple[Path, Manifest]:
    """Return the corpus the run was trained on.

    Raises
    ------
    CorpusError
        If it was moved away, or another corpus lies where it was.
    """
    own = run.directory.path / "corpus"
    given = run.options.get("corpus")
    folder = Path(str(given[0])) if isinstance(given, list) and given else own
    if own.is_dir():
        folder = own
    manifest = read_manifest(folder, "corpus") if folder.is_dir() else None
    if manifest is None:
        raise CorpusError(folder, "the run's corpus is not there (any more)")
    marker = _read_json(run.directory.marker) if run.directory.marker.is_file() else {}
    if marker.get("corpus", manifest.fingerprint) != manifest.fingerprint:
        raise CorpusError(folder, "holds another corpus than the one the run was trained on")
    return folder, manifest
