"""The training loop of one worker, read from top to bottom. It knows no Ray."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.streams import Cursor, MlmBatch, PairBatch, StreamSpec
from riboray.pretraining.trainer import StepMetrics, Trainer, Validation, learning_rate_factor

__all__ = ["LocalSession", "OpenStream", "Session", "run"]

Record = dict[str, Any]
Batches = Iterator[tuple[Cursor, MlmBatch | PairBatch]]
OpenStream = Callable[[StreamSpec, int, Cursor], Batches]

#: Seconds between two records of training metrics, at least; grows with the run, so that a
#: week's run has a few thousand records and not millions.
_RECORD_SECONDS = 1.0


class Session(Protocol):
    """What the loop needs from the world around it."""

    def publish(self, record: Record) -> None:
        """Show and keep a record of metrics; rank 0 only, must not block."""

    def stop_requested(self) -> bool:
        """Tell whether the user asked this worker to stop after the current step."""

    def commit(self, record: Record, directory: Path | None) -> None:
        """Persist a checkpoint (rank 0 gives the directory); called by all ranks together."""

    def restore(self) -> Path | None:
        """Give the directory of the checkpoint to go on from, if there is one."""


@dataclass
class LocalSession:
    """A session in this process: keeps records, discards checkpoints unless given a folder."""

    folder: Path | None = None
    resume_from: Path | None = None
    records: list[Record] = field(default_factory=list)

    def publish(self, record: Record) -> None:
        """Keep the record."""
        self.records.append(record)

    def stop_requested(self) -> bool:
        """Never."""
        return False

    def commit(self, record: Record, directory: Path | None) -> None:
        """Move the checkpoint to ``folder/step-N``."""
        if self.folder is not None and directory is not None:
            directory.rename(self.folder / f"step-{record['step']}")

    def restore(self) -> Path | None:
        """Give ``resume_from``."""
        return self.resume_from


class _Feed:
    """This worker's streams of one objective, and where each stands."""

    def __init__(
        self, spec: StreamSpec, trainer: Trainer, open_stream: OpenStream, cursors: list[Cursor]
    ) -> None:
        self.spec = spec
        self.mine = list(range(trainer.rank, spec.streams, trainer.world_size))
        self.cursors = cursors
        # Opened at once: data is read ahead while the untrained model is measured.
        self._batches: dict[int, Batches] = {k: open_stream(spec, k, cursors[k]) for k in self.mine}

    def wait(self) -> None:
        """Wait for the first batches to be there."""
        for stream, batches in self._batches.items():
            self._batches[stream] = itertools.chain([next(batches)], batches)

    def take(self) -> list[MlmBatch | PairBatch]:
        """Take the next batch of every stream of this worker."""
        taken = []
        for stream, batches in self._batches.items():
            self.cursors[stream], batch = next(batches)
            taken.append(batch)
        return taken

    @property
    def visits(self) -> int:
        """Windows this worker's streams have finished."""
        return sum(self.cursors[stream].visit for stream in self.mine)

    def all_cursors(self, trainer: Trainer) -> list[list[int]]:
        """Return every stream's cursor, gathered from all workers."""
        mine = set(self.mine)
        own = [n for k, c in enumerate(self.cursors) for n in (c if k in mine else (0, 0))]
        flat = [int(n) for n in trainer.all_sum(own)]
        return [flat[i : i + 2] for i in range(0, len(flat), 2)]


class _Meter:
    """Averages of training metrics since the last record."""

    def __init__(self) -> None:
        self.steps: list[StepMetrics] = []
        self.since = time.monotonic()

    def record(self, now: float) -> Record:
        """Return the averages and start anew."""
        seconds = max(now - self.since, 1e-9)
        values: Record = {
            "tokens_per_s": sum(s.tokens for s in self.steps) / seconds,
            "pairs_per_s": sum(s.pairs for s in self.steps) / seconds,
        }
        for name in ("mlm_loss", "mlm_accuracy", "sal_loss", "gradient_norm"):
            numbers = [n for s in self.steps if not math.isnan(n := getattr(s, name))]
            if numbers:
                values[name] = sum(numbers) / len(numbers)
        self.steps, self.since = [], now
        return values


class _Now(NamedTuple):
    """Where the run stands, agreed on by all workers."""

    record: Record
    progress: float
    elapsed: float
    stopping: bool

    @property
    def finished(self) -> bool:
        return self.progress >= 1


class _Run:
    """A run that is going on: what `run` does, one method a line of it."""

    def __init__(
        self,
        config: PretrainConfig,
        trainer: Trainer,
        specs: dict[str, StreamSpec],
        open_stream: OpenStream,
        validation: Validation,
        session: Session,
    ) -> None:
        self.config, self.trainer, self.specs = config, trainer, specs
        self.validation, self.session = validation, session
        state: Record = {"step": 0, "elapsed_s": 0.0, "evaluated": -1, "cursors": {}}
        self.history: list[Record] = []
        checkpoint = session.restore()
        if checkpoint is not None:
            state, self.history = trainer.load(checkpoint)
        self.feeds = {
            name: _Feed(spec, trainer, open_stream, _cursors(state["cursors"].get(name), spec))
            for name, spec in specs.items()
        }
        self.step_number: int = state["step"]
        self.evaluated: int = state["evaluated"]
        self.base = self.last_checkpoint = self.last_record = float(state["elapsed_s"])
        self.start = time.monotonic()
        self.meter = _Meter()
        self.rate = 0.0
        self.just_begun = True

    def emit(self, record: Record) -> None:
        self.history.append(record)
        if self.trainer.rank == 0:
            self.session.publish(record)

    def begin(self) -> None:
        """Measure the untrained model, wait for data, and start the clock."""
        if self.evaluated < 0:
            beginning = {"step": 0, "progress": 0.0, "elapsed_s": 0.0}
            beginning |= _named(dict.fromkeys(self.feeds, 0.0))
            measured = self.trainer.evaluate(self.validation)
            self.emit({"kind": "validation", **beginning, **measured})
            self.evaluated = 0
        for feed in self.feeds.values():
            feed.wait()
        self.start = self.meter.since = time.monotonic()

    def look(self) -> _Now:
        """Find out, together with the other workers, where the run stands."""
        local = (self.base + time.monotonic() - self.start, self.session.stop_requested())
        visits = (feed.visits for feed in self.feeds.values())
        shared = self.trainer.all_sum([*local, *visits])
        elapsed = shared[0] / self.trainer.world_size
        epochs = {
            name: count / len(self.specs[name].windows)
            for name, count in zip(self.feeds, shared[2:], strict=True)
        }
        step = self.step_number
        progress = _progress(self.config, step, elapsed, next(iter(epochs.values())))
        record = {"step": step, "progress": progress, "elapsed_s": round(elapsed, 3)}
        return _Now({**record, **_named(epochs)}, progress, elapsed, shared[1] > 0)

    def measure(self, now: _Now) -> Record | None:
        """Measure on held-out data if it is time."""
        due = int(now.progress * (self.config.evaluations + 1))
        if self.just_begun:
            # A finished run that goes on with wider limits is at an earlier share of them.
            self.evaluated, self.just_begun = min(self.evaluated, due), False
        if due <= self.evaluated and not now.finished:
            return None
        self.record(now)
        measured = {"kind": "validation", **now.record, **self.trainer.evaluate(self.validation)}
        self.emit(measured)
        self.evaluated = due
        self.meter.since = time.monotonic()
        return measured

    def checkpoint(self, now: _Now, measured: bool) -> None:
        """Write a checkpoint after a measurement, before a stop, and every so often."""
        late = now.elapsed - self.last_checkpoint > 60 * self.config.checkpoint_minutes
        if not (measured or late or now.stopping):
            return
        self.record(now)
        state = {
            "step": self.step_number,
            "elapsed_s": now.elapsed,
            "evaluated": self.evaluated,
            "cursors": {name: feed.all_cursors(self.trainer) for name, feed in self.feeds.items()},
        }
        record = {"kind": "checkpoint", **now.record}
        _commit(self.trainer, self.session, state, self.history, record)
        self.last_checkpoint = now.elapsed

    def step(self, now: _Now) -> None:
        """Take a step and, every so often, record what it did."""
        config = self.config
        factor = learning_rate_factor(now.progress, config.warmup)
        sal_on = "sal" in self.feeds and now.progress >= config.sal_start
        metrics = self.trainer.step(
            cast(list[MlmBatch], self.feeds["mlm"].take() if "mlm" in self.feeds else []),
            cast(list[PairBatch], self.feeds["sal"].take() if sal_on else []),
            rate_factor=factor,
            sal_weight=config.sal_weight,
        )
        self.step_number += 1
        self.meter.steps.append(metrics)
        self.rate = config.learning_rate * factor
        if now.elapsed - self.last_record >= max(_RECORD_SECONDS, now.elapsed / 2000):
            self.record(now)

    def record(self, now: _Now) -> None:
        """Record the steps since the last record, if there are any."""
        if self.meter.steps:
            values = {"step": self.step_number, "learning_rate": self.rate}
            averages = self.meter.record(time.monotonic())
            self.emit({"kind": "train", **now.record, **values, **averages})
            self.last_record = now.elapsed


def run(
    config: PretrainConfig,
    trainer: Trainer,
    specs: dict[str, StreamSpec],
    open_stream: OpenStream,
    validation: Validation,
    session: Session,
) -> Record:
    """Train until a limit of the configuration is reached, or the session says stop.

    Parameters
    ----------
    config : PretrainConfig
        The run.
    trainer : Trainer
        Model and optimiser; taken up from the session's checkpoint if there is one.
    specs : dict of str to StreamSpec
        The objectives there is data for: ``mlm``, ``sal``.
    open_stream : callable
        Opens a stream at a cursor, for example `streams.iterate_stream`.
    validation : Validation
        Held-out batches.
    session : Session
        Progress, checkpoints, stop requests.

    Returns
    -------
    dict
        The last record: step, progress and final measurements.
    """
    state = _Run(config, trainer, specs, open_stream, validation, session)
    state.begin()
    while True:
        now = state.look()
        measured = state.measure(now)
        state.checkpoint(now, measured is not None)
        if now.finished or now.stopping:
            return {**now.record, **(measured or {}), "finished": now.finished}
        state.step(now)


def _named(epochs: dict[str, float]) -> Record:
    return {f"{name}_epochs": round(value, 4) for name, value in epochs.items()}


def _cursors(stored: list[list[int]] | None, spec: StreamSpec) -> list[Cursor]:
    if stored is None:
        return [Cursor()] * spec.streams
    return [Cursor(*pair) for pair in stored]


def _progress(config: PretrainConfig, step: int, elapsed: float, epochs: float) -> float:
    """Share of the run that is done, by whichever limit is nearest."""
    shares = [0.0]
    if config.max_steps is not None:
        shares.append(step / config.max_steps)
    if config.max_minutes is not None:
        shares.append(elapsed / (60 * config.max_minutes))
    if config.max_epochs is not None:
        shares.append(epochs / config.max_epochs)
    return min(max(shares), 1.0)


def _commit(
    trainer: Trainer, session: Session, state: Record, history: list[Record], record: Record
) -> None:
    """Write a checkpoint on rank 0 and hand it over; the other ranks take part with nothing."""
    if trainer.rank != 0:
        session.commit(record, None)
        return
    with tempfile.TemporaryDirectory(prefix="riboray-") as folder:
        directory = Path(folder) / "checkpoint"
        directory.mkdir()
        trainer.save(directory, state, history)
        session.commit(record, directory)
