"""The training loop of one worker, read from top to bottom. It knows no Ray."""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple, cast

import torch

from riboray.pretraining.checkpoints import CheckpointStore, Score
from riboray.pretraining.config import METRICS, PretrainConfig
from riboray.pretraining.curriculum import (
    STREAMS,
    Phase,
    Position,
    advance,
    curriculum_progress,
    learning_rate,
    next_phase,
    passes_made,
    phase_at,
)
from riboray.pretraining.feeds import Feed, OpenStream
from riboray.pretraining.meter import Meter, matmul_ceiling
from riboray.pretraining.sessions import Session
from riboray.pretraining.state import restore_state, write_state
from riboray.pretraining.streams import PairBatch, StreamSpec, TokenBatch, checksum
from riboray.pretraining.targets import Counts, count_targets
from riboray.pretraining.trainer import Trainer
from riboray.pretraining.validation import Validation, evaluate

__all__ = ["run"]

Record = dict[str, Any]

#: Seconds between questions whether a machine is about to be taken away; notice is given half a
#: minute or more ahead, and asking is a message between all workers.
_NOTICE_SECONDS = 5.0


class _Now(NamedTuple):
    """Where the run stands, agreed on by all workers."""

    record: Record
    progress: float
    spent: float
    elapsed: float
    stopping: bool
    checkpoint_asked: bool

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
        store: CheckpointStore | None,
    ) -> None:
        self.config, self.trainer, self.specs = config, trainer, specs
        self.validation, self.session, self.store = validation, session, store
        self.warnings: list[str] = []
        self.state, self.history = restore_state(trainer, store, self.warnings.append)
        self.feeds = {
            name: Feed(
                spec,
                trainer,
                open_stream,
                self.state.cursors.get(name),
                self.state.position.phase,
            )
            for name, spec in specs.items()
        }
        self.base = self.last_checkpoint = self.last_record = self.state.elapsed_s
        self.last_notice = self.base
        self.start = time.monotonic()
        self.meter = Meter()
        self.counts, self.crc = Counts(0, 0, 0), 0
        self.rate, self.trained = 0.0, (0, "")
        self.just_begun = True
        self.score: Score | None = None

    # -- what is told ------------------------------------------------------------------------

    def emit(self, record: Record) -> None:
        self.history.append(record)
        if self.trainer.rank == 0:
            self.session.publish(record)

    def tell(self, message: str, now: Record) -> None:
        """Record something that happened; rank 0 alone has it in its history."""
        if self.trainer.rank == 0:
            self.emit({"kind": "event", **now, "message": message})

    def record(self, now: _Now) -> None:
        """Record the steps since the last record, if there are any."""
        if not self.meter.steps:
            return
        self.meter.data_wait = sum(feed.take_wait() for feed in self.feeds.values())
        values = {
            "learning_rate": self.rate,
            "phase": self.trained[0],
            "objectives": self.trained[1],
            "workers": self.trainer.world_size,
        }
        self.emit({"kind": "train", **now.record, **values, **self.meter.record()})
        self.last_record = now.elapsed

    # -- the beginning ------------------------------------------------------------------------

    def begin(self) -> None:
        """Measure the untrained model, wait for data and compilers, and start the clock."""
        beginning: Record = {"step": self.state.step, "progress": 0.0}
        beginning |= {"elapsed_s": self.state.elapsed_s, **_named(dict.fromkeys(self.feeds, 0.0))}
        for name in self.active:
            self.feeds[name].open()  # read ahead while the untrained model is measured
        if self.state.evaluated < 0:
            measured = evaluate(self.trainer, self.validation)
            self.emit({"kind": "validation", **beginning, **measured})
            self.state.evaluated = 0
        else:
            before = self.history[-1] if self.history else {}
            known = beginning.keys() - {"step", "elapsed_s"}
            beginning |= {name: before[name] for name in known if name in before}
            workers = self.trainer.world_size
            self.tell(f"resumed at step {self.state.step} with {workers} workers", beginning)
        for warning in self.warnings:
            self.tell(warning, beginning)
        self.trainer.warm_up(*self.peek())
        for feed in self.feeds.values():
            feed.take_wait()
        ceiling = self._ceiling()
        self.start = time.monotonic()
        self.meter = Meter(ceiling)

    def _ceiling(self) -> float:
        """Measure what all workers' matrix products could reach together."""
        dtype = torch.bfloat16 if self.trainer.bf16 else torch.float32
        self.trainer.all_sum([0.0])  # wait for each other: they may share what they measure
        return self.trainer.all_sum([matmul_ceiling(self.trainer.device, dtype)])[0]

    # -- a round ------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The phase of the next step; the last one once all are over."""
        return phase_at(self.config.curriculum, self.state.position)

    @property
    def active(self) -> list[str]:
        """The streams that the phase reads."""
        return list(dict.fromkeys(STREAMS[name] for name in self.learnt))

    @property
    def learnt(self) -> list[str]:
        """The objectives of the phase that there is data for."""
        names = self.config.learnt_in(self.phase)
        return [name for name in names if STREAMS[name] in self.feeds]

    def peek(self) -> tuple[list[TokenBatch], list[PairBatch], list[TokenBatch]]:
        """Return this worker's mlm, pair and ss batches of the next step; none of what rests."""
        active = self.active
        names = dict.fromkeys(STREAMS.values())
        batches = [self.feeds[name].peek() if name in active else [] for name in names]
        return cast(tuple[list[TokenBatch], list[PairBatch], list[TokenBatch]], tuple(batches))

    def _count(self) -> list[float]:
        """Count what this worker's next step is a mean over, and sum its batches' checksum."""
        batches = self.peek()
        counts = count_targets(*batches, self.learnt)
        return [*counts, float(checksum(itertools.chain(*batches)))]

    def look(self) -> _Now:
        """Find out, together with the other workers, where the run stands.

        One message a step carries all that has to be agreed on: the clock, requests, passes, and
        what the next step is a mean over.
        """
        asked = self.session.requests()
        clock = self.base + time.monotonic() - self.start
        visits = [feed.visits for feed in self.feeds.values()]
        shared = self.trainer.all_sum(
            [clock, asked.stop, asked.checkpoint, *self._count(), *visits]
        )
        elapsed = shared[0] / self.trainer.world_size
        *counts, crc = shared[3 : 4 + len(Counts._fields)]
        self.counts, self.crc = Counts(*counts), int(crc)
        epochs = {
            name: count / len(self.specs[name].windows)
            for name, count in zip(self.feeds, shared[4 + len(Counts._fields) :], strict=True)
        }
        progress, spent = self._advance(elapsed, epochs)
        record = {"step": self.state.step, "progress": progress, "elapsed_s": round(elapsed, 3)}
        record |= _named(epochs)
        return _Now(record, progress, spent, elapsed, shared[1] > 0, shared[2] > 0)

    def _advance(self, elapsed: float, epochs: dict[str, float]) -> tuple[float, float]:
        """Move on in the curriculum if it is time; return progress, and by the limits alone."""
        config, step, before = self.config, self.state.step, self.state.position
        passes = passes_made(config.curriculum, before, epochs)
        spent = _spent(config, step, elapsed, passes)
        after = advance(config.curriculum, before, step, epochs, spent)
        if after != before:
            self._enter(after)
        learnt = curriculum_progress(config.curriculum, self.state.position, step, epochs, spent)
        return max(spent, learnt), spent

    def _enter(self, position: Position) -> None:
        """Begin another phase: other streams, another measure of what is best."""
        rested = set(self.active)
        self.state.position, self.state.best, self.state.stale = position, None, 0
        for name in rested - set(self.active):
            self.feeds[name].close()
        for feed in self.feeds.values():
            feed.enter(position.phase)
        *counts, crc = self.trainer.all_sum(self._count())
        self.counts, self.crc = Counts(*counts), int(crc)

    def measure(self, now: _Now) -> Record | None:
        """Measure on held-out data if it is time."""
        due = int(now.progress * (self.config.evaluations + 1))
        if self.just_begun:
            # A finished run that goes on with wider limits is at an earlier share of them.
            self.state.evaluated, self.just_begun = min(self.state.evaluated, due), False
        if due <= self.state.evaluated and not now.finished:
            return None
        self.record(now)
        measured = evaluate(self.trainer, self.validation)
        is_best = self._compare(measured)
        self.emit({"kind": "validation", **now.record, **measured, "best": is_best})
        self.state.evaluated = due
        for feed in self.feeds.values():
            feed.take_wait()  # as the clock of the meter: what was waited until now is no training
        self.meter.restart()
        return measured

    def _compare(self, measured: Record) -> bool:
        """Note how good the model is; tell whether it is the best of its phase."""
        metric = self.config.metric_of(self.phase)
        if metric not in measured:
            self.score = None
            return False
        value = measured[metric] if METRICS[metric] else -measured[metric]
        self.score = Score(self.state.position.phase, metric, value)
        is_best = self.state.best is None or value > self.state.best
        self.state.best = value if is_best else self.state.best
        self.state.stale = 0 if is_best else self.state.stale + 1
        return is_best

    def stop_early(self, now: _Now) -> _Now:
        """End the phase if measurements no longer get better; the last one ends the run."""
        if not 0 < self.config.patience <= self.state.stale or now.finished:
            return now
        position, phases = self.state.position, self.config.curriculum
        metric = self.config.metric_of(self.phase)
        message = f"no better {metric} in {self.state.stale} measurements"
        if position.phase + 1 >= len(phases):
            # It stays so: the same command, given again, finds that the run is over.
            now = now._replace(progress=1.0, record={**now.record, "progress": 1.0})
            self.tell(f"{message}: the run ends", now.record)
            return now
        self.tell(f"{message}: on to phase {position.phase + 2}", now.record)
        epochs = {name: now.record[f"{name}_epochs"] for name in self.feeds}
        self._enter(next_phase(phases, position, self.state.step, epochs, now.spent))
        return now

    def checkpoint(self, now: _Now, measured: bool) -> None:
        """Write a checkpoint after a measurement, before a stop, and every so often."""
        late = now.elapsed - self.last_checkpoint > 60 * self.config.checkpoint_minutes
        leaving = False
        if now.elapsed - self.last_notice > _NOTICE_SECONDS:
            self.last_notice = now.elapsed
            leaving = self.session.losing_machine()
        if leaving:
            self.tell("a machine is about to be taken away: saving a checkpoint", now.record)
        if not (measured or late or leaving or now.stopping or now.checkpoint_asked):
            return
        self.record(now)
        self.state.elapsed_s = now.elapsed
        self.state.cursors = {
            name: feed.all_cursors(self.trainer) for name, feed in self.feeds.items()
        }
        self.last_checkpoint = now.elapsed
        if self.trainer.rank == 0 and self.store is not None:
            try:
                self.store.save(self.state.step, self._write, self.score if measured else None)
            except OSError as error:
                if now.stopping or now.finished:
                    raise
                self.tell(f"checkpoint not written ({error.strerror or error})", now.record)

    def _write(self, directory: Any) -> None:
        write_state(self.trainer, directory, self.state, self.history)

    def step(self, now: _Now) -> None:
        """Take a step and, every so often, record what it did."""
        config = self.config
        peak = self.phase.learning_rate or config.learning_rate
        self.rate = learning_rate(peak, now.progress, config.warmup, config.schedule)
        metrics = self.trainer.step(*self.peek(), learning_rate=self.rate, counts=self.counts)
        for name in self.active:
            self.feeds[name].advance()
        self.trained = (self.state.position.phase, "+".join(self.learnt))
        self.state.step += 1
        self.meter.steps.append(metrics)
        self.meter.crc = (self.meter.crc + self.crc) % (1 << 32)

    def record_if_due(self, now: _Now) -> None:
        """Record now and then: rarely enough that a week's run has a few thousand records."""
        interval = self.config.record_seconds
        if interval and now.elapsed - self.last_record < max(interval, now.elapsed / 2000):
            return
        self.record(now)


def run(
    config: PretrainConfig,
    trainer: Trainer,
    specs: dict[str, StreamSpec],
    open_stream: OpenStream,
    validation: Validation,
    session: Session,
    store: CheckpointStore | None = None,
) -> Record:
    """Train until a limit of the configuration is reached, or the session says stop.

    Parameters
    ----------
    config : PretrainConfig
        The run.
    trainer : Trainer
        Model and optimiser; taken up from the newest checkpoint if there is one.
    specs : dict of str to StreamSpec
        What there is data for: ``mlm``, ``sal`` (pairs, for ``sfp`` too), ``ss``.
    open_stream : callable
        Opens a stream at a cursor, for example `streams.iterate_stream`.
    validation : Validation
        Held-out batches.
    session : Session
        Progress and requests.
    store : CheckpointStore, optional
        Where checkpoints are kept; without one, nothing is.

    Returns
    -------
    dict
        The last record: step, progress and final measurements.
    """
    state = _Run(config, trainer, specs, open_stream, validation, session, store)
    state.begin()
    while True:
        now = state.look()
        state.record_if_due(now)
        measured = state.measure(now)
        now = state.stop_early(now)
        state.checkpoint(now, measured is not None)
        if now.finished or now.stopping:
            return {**now.record, **(measured or {}), "finished": now.finished}
        state.step(now)


def _named(epochs: dict[str, float]) -> Record:
    return {f"{name}_epochs": round(value, 4) for name, value in epochs.items()}


def _spent(config: PretrainConfig, step: int, elapsed: float, epochs: float) -> float:
    """Share of the run's limits that is spent, by whichever is nearest."""
    shares = [0.0]
    if config.max_steps is not None:
        shares.append(step / config.max_steps)
    if config.max_minutes is not None:
        shares.append(elapsed / (60 * config.max_minutes))
    if config.max_epochs is not None:
        shares.append(epochs / config.max_epochs)
    return min(max(shares), 1.0)
