"""The loop of one worker of a fine-tuning, read from top to bottom. It knows no Ray."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.learner import Learner, Step
from riboray.finetuning.metrics import LOWER_IS_BETTER, chosen_metric
from riboray.finetuning.splitting import Fold
from riboray.finetuning.state import restore_tuning, write_tuning
from riboray.pretraining.checkpoints import CheckpointStore, Score
from riboray.pretraining.curriculum import learning_rate
from riboray.pretraining.reduction import all_sum, rank, world_size
from riboray.pretraining.sessions import Session

__all__ = ["run", "steps_of"]

Record = dict[str, Any]

#: Seconds between questions whether a machine is about to be taken away.
_NOTICE_SECONDS = 5.0


def steps_of(config: FinetuneConfig, records: int) -> tuple[int, int]:
    """Return the steps of an epoch, and of the run at most."""
    epoch = max(-(-records // config.batch_size), 1)
    return epoch, max(round(config.max_epochs * epoch), 1)


def epoch_order(rows: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return records in the order of an epoch: by seed and epoch, on any number of workers."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


class _Now(NamedTuple):
    """Where the run stands, agreed on by all workers."""

    elapsed: float
    stopping: bool
    checkpoint_asked: bool


class _Run:
    """A run that is going on: what `run` does, one method a line of it."""

    def __init__(
        self,
        config: FinetuneConfig,
        learner: Learner,
        fold: Fold,
        session: Session,
        store: CheckpointStore | None,
        stop_step: int | None,
    ) -> None:
        self.config, self.learner, self.fold = config, learner, fold
        self.session, self.store = session, store
        self.metric = chosen_metric(config.metric, learner.head)
        self.measured = _drawn(fold.validation, config.measured, config.seed)
        self.epoch_steps, self.last_step = steps_of(config, len(fold.train))
        self.stop_step = self.last_step if stop_step is None else stop_step
        self.warnings: list[str] = []
        self.state, self.history = restore_tuning(learner, store, self.warnings.append)
        # With other limits, a run that ended by itself may go on.
        self.state.ended &= 0 < config.patience <= self.state.stale
        self.score: Score | None = None
        done = self.state.step >= self.stop_step and self.state.evaluated >= 0
        self.measured_step = self.state.step if done else -1
        self.base = self.last_checkpoint = self.last_record = self.state.elapsed_s
        self.last_notice = self.base
        self.start = time.monotonic()
        self.steps: list[Step] = []
        self.rate = 0.0
        self.since = self.base
        self._order: tuple[int, NDArray[np.int64]] | None = None

    # -- what is told ------------------------------------------------------------------------

    def place(self, elapsed: float) -> Record:
        """Tell where the run stands."""
        step = self.state.step
        progress = 1.0 if self.state.ended else min(step / self.stop_step, 1.0)
        epochs = round(step / self.epoch_steps, 4)
        where = {"step": step, "progress": progress, "elapsed_s": round(elapsed, 3)}
        return {**where, "epochs": epochs}

    def emit(self, record: Record) -> None:
        self.history.append(record)
        if rank() == 0:
            self.session.publish(record)

    def tell(self, message: str, elapsed: float) -> None:
        """Record something that happened; rank 0 alone has it in its history."""
        if rank() == 0:
            self.emit({"kind": "event", **self.place(elapsed), "message": message})

    def record(self, elapsed: float) -> None:
        """Record the steps since the last record, if there are any."""
        if not self.steps:
            return
        spent = max(elapsed - self.since, 1e-9)
        values = {
            "learning_rate": self.rate,
            "workers": world_size(),
            "loss": float(np.mean([step.loss for step in self.steps])),
            "gradient_norm": float(np.mean([step.gradient_norm for step in self.steps])),
            "tokens_per_s": sum(step.tokens for step in self.steps) / spent,
            "sequences_per_s": sum(step.sequences for step in self.steps) / spent,
        }
        self.emit({"kind": "train", **self.place(elapsed), **values})
        self.steps, self.last_record, self.since = [], elapsed, elapsed

    # -- a round ------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Measure the model before anything is learnt, or tell that the run goes on."""
        is_new = self.state.evaluated < 0
        if is_new:
            self.measure(self.base)
        else:
            self.tell(f"resumed at step {self.state.step} with {world_size()} workers", self.base)
        for warning in self.warnings:
            self.tell(warning, self.base)
        self.start = time.monotonic()
        return is_new

    def look(self) -> _Now:
        """Find out, together with the other workers, where the run stands."""
        asked = self.session.requests()
        clock = self.base + time.monotonic() - self.start
        shared = all_sum([clock, asked.stop, asked.checkpoint], self.learner.device)
        return _Now(shared[0] / world_size(), shared[1] > 0, shared[2] > 0)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state.ended or self.state.step >= self.stop_step

    def measure_if_due(self, now: _Now) -> bool:
        """Measure on validation records after each epoch, and at the end."""
        epochs = self.state.step // self.epoch_steps
        last = self.finished and self.state.step != self.measured_step
        if epochs <= self.state.evaluated and not last:
            return False
        self.record(now.elapsed)
        self.measure(now.elapsed)
        # Measuring is no training: what is recorded next begins here.
        self.since = self.base + time.monotonic() - self.start
        patience = self.config.patience
        if 0 < patience <= self.state.stale and not self.finished:
            self.state.ended = True
            message = f"no better {self.metric} in {self.state.stale} measurements: the run ends"
            self.tell(message, now.elapsed)
        return True

    def measure(self, elapsed: float) -> None:
        """Measure, and note whether this is the best model so far."""
        measured: Record = self.learner.measure(self.measured) if len(self.measured) else {}
        is_best = False
        if self.metric in measured:
            sign = -1 if self.metric in LOWER_IS_BETTER else 1
            value = sign * measured[self.metric]
            # A metric that has reached its end does not tell models apart; their losses do.
            tie = -measured.get("loss", 0.0)
            better = self.state.best is None or value > self.state.best
            is_best = better or (value, tie) > (self.state.best, self.state.tie)
            if is_best:
                self.state.best, self.state.tie = value, tie
            self.state.stale = 0 if better else self.state.stale + 1
            self.score = Score(0, self.metric, value, tie)
        else:
            self.score = None
        if measured:
            self.emit({"kind": "validation", **self.place(elapsed), **measured, "best": is_best})
        self.state.evaluated = self.state.step // self.epoch_steps
        self.measured_step = self.state.step

    def checkpoint(self, now: _Now, measured: bool) -> None:
        """Write a checkpoint of a new best model, before a stop, and every so often."""
        late = now.elapsed - self.last_checkpoint > 60 * self.config.checkpoint_minutes
        leaving = False
        if now.elapsed - self.last_notice > _NOTICE_SECONDS:
            self.last_notice = now.elapsed
            leaving = self.session.losing_machine()
        if leaving:
            self.tell("a machine is about to be taken away: saving a checkpoint", now.elapsed)
        is_best = self.score is not None and self.state.stale == 0
        best = measured and (is_best or self.finished)
        if not (best or late or leaving or now.stopping or now.checkpoint_asked):
            return
        self.record(now.elapsed)
        self.state.elapsed_s = now.elapsed
        self.last_checkpoint = now.elapsed
        if rank() == 0 and self.store is not None:
            try:
                self.store.save(self.state.step, self._write, self.score if measured else None)
            except OSError as error:
                if now.stopping or self.finished:
                    raise
                self.tell(f"checkpoint not written ({error.strerror or error})", now.elapsed)

    def _write(self, directory: Any) -> None:
        write_tuning(self.learner, directory, self.state, self.history)

    def step(self) -> None:
        """Learn from the next records."""
        epoch, place = divmod(self.state.step, self.epoch_steps)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.fold.train, self.config.seed, epoch))
        size = self.config.batch_size
        rows = self._order[1][place * size : (place + 1) * size]
        config, progress = self.config, self.state.step / self.last_step
        self.rate = learning_rate(config.peak_rate, progress, config.warmup, config.schedule)
        seed = (config.seed * 1_000_003 + self.state.step) * 4096 % (1 << 62)
        self.steps.append(self.learner.step(rows, self.rate, seed))
        self.state.step += 1

    def record_if_due(self, now: _Now) -> None:
        """Record now and then: rarely enough that a week's run has a few thousand records."""
        interval = self.config.record_seconds
        if interval and now.elapsed - self.last_record < max(interval, now.elapsed / 2000):
            return
        self.record(now.elapsed)


def _drawn(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def run(
    config: FinetuneConfig,
    learner: Learner,
    fold: Fold,
    session: Session,
    store: CheckpointStore | None = None,
    stop_step: int | None = None,
) -> Record:
    """Learn until the limit, until measurements get no better, or until the session says stop.

    Parameters
    ----------
    config : FinetuneConfig
        The run.
    learner : Learner
        Model and optimiser; taken up from the newest checkpoint if there is one.
    fold : Fold
        What is trained on and measured.
    session : Session
        Progress and requests.
    store : CheckpointStore, optional
        Where checkpoints are kept; without one, nothing is.
    stop_step : int, optional
        Stop after this step, with the learning rate that a run to its limit has there.

    Returns
    -------
    dict
        Where the run stands at the end, and whether it is ``finished``.
    """
    state = _Run(config, learner, fold, session, store, stop_step)
    measured = state.begin()
    while True:
        now = state.look()
        state.record_if_due(now)
        measured = state.measure_if_due(now) or measured
        state.checkpoint(now, measured)
        if state.finished or now.stopping:
            where = state.place(now.elapsed)
            return {**where, "finished": state.finished, "best": state.state.best}
        measured = False
        state.step()
