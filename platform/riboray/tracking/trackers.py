"""Several trackers as one, opened by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from riboray.console import say
from riboray.errors import ConfigError
from riboray.tracking.courier import Backend, Courier, Pace, Status, in_short
from riboray.tracking.mlflow import MlflowRun
from riboray.tracking.records import Record
from riboray.tracking.tensorboard import EventFiles
from riboray.tracking.wandb import WandbRun

__all__ = ["TRACKERS", "Tracker", "Trackers", "open_trackers"]

_BackendFactory = Callable[[Path, str, dict[str, Any], int], Backend]

#: Every tracker: the modules it needs, what installs them, and how it is made.
TRACKERS: dict[str, tuple[tuple[str, ...], str, _BackendFactory]] = {
    "tensorboard": (("tensorboardX",), "tensorboardX", EventFiles),
    "mlflow": (("mlflow", "sqlalchemy", "alembic"), "'riboray[mlflow]'", MlflowRun),
    "wandb": (("wandb",), "'riboray[wandb]'", WandbRun),
}

#: Seconds within which a tracker must be open. A first database of MLflow takes about five.
_OPEN_SECONDS = 90.0
#: Seconds that all trackers together get to deliver what waits when the run ends.
_CLOSE_SECONDS = 30.0


class Tracker(Protocol):
    """Somewhere that records go. Neither method may block for long or raise."""

    def log(self, record: Record) -> None:
        """Take a record: ``kind``, ``step``, ``progress``, ``elapsed_s`` and what was measured."""

    def close(self, status: Status) -> None:
        """Take no more records; say how the run ended."""


class Trackers:
    """Trackers of one run; a tracker itself.

    Parameters
    ----------
    couriers : iterable of Courier
        Open ones, each with a thread of its own.
    close_seconds : float
        Seconds that they get, together, to deliver what waits when the run ends.
    """

    def __init__(
        self, couriers: Iterable[Courier] = (), *, close_seconds: float = _CLOSE_SECONDS
    ) -> None:
        self._couriers = tuple(couriers)
        self._others: list[Tracker] = []
        self._close_seconds = close_seconds
        self._closed = False

    def add(self, tracker: Tracker) -> None:
        """Let another tracker, such as the gauges, have every record too.

        It is called from the thread that logs. If it raises, it is told once and left out.
        """
        self._others.append(tracker)

    def log(self, record: Record) -> None:
        """Forward a record to all; never waits, never raises."""
        for courier in self._couriers:
            courier.log(record)
        for tracker in tuple(self._others):
            try:
                tracker.log(record)
            except Exception as error:
                self._others.remove(tracker)
                _warn(tracker, error)

    def close(self, status: Status) -> None:
        """Deliver what waits, and say how the run ended; a second call does nothing.

        What cannot be delivered in time is counted and told.
        """
        if self._closed:
            return
        self._closed = True
        for courier in self._couriers:
            courier.begin_close(status)
        for tracker in self._others:
            try:
                tracker.close(status)
            except Exception as error:
                _warn(tracker, error)
        deadline = time.monotonic() + self._close_seconds
        for courier in self._couriers:
            courier.finish(deadline)


def open_trackers(
    names: list[str],
    directory: Path,
    run_name: str,
    config: dict[str, Any],
    resume_step: int,
    *,
    pace: Pace | None = None,
    open_seconds: float = _OPEN_SECONDS,
    close_seconds: float = _CLOSE_SECONDS,
) -> Trackers:
    """Open trackers by name.

    Parameters
    ----------
    names : list of str
        Any of ``tensorboard``, ``mlflow``, ``wandb``; a name given twice counts once.
    directory : Path
        The run directory, which exists. TensorBoard's files go to ``tensorboard/``; MLflow's and
        W&B's too unless their environment variables name a server.
    run_name : str
        What the run is called.
    config : dict
        The resolved configuration, nested dictionaries allowed.
    resume_step : int
        Step of the checkpoint that the run goes on from; 0 if it begins. Of what was drawn before,
        all after this step is superseded.
    pace, open_seconds, close_seconds
        Limits of queue and waiting; the defaults are for runs of minutes to weeks.

    Returns
    -------
    Trackers
        Close them, with how the run ended, whatever happens.

    Raises
    ------
    ConfigError
        If a name is unknown, a library is missing, or a tracker cannot be opened. Those opened
        before it are closed again.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        _check(name)
    couriers: list[Courier] = []
    try:
        for name in names:
            backend = TRACKERS[name][2](directory, run_name, config, resume_step)
            courier = Courier(backend, pace)
            courier.open(open_seconds)
            couriers.append(courier)
    except BaseException:
        Trackers(couriers, close_seconds=close_seconds).close("failed")
        raise
    return Trackers(couriers, close_seconds=close_seconds)


def _check(name: str) -> None:
    """Find out whether a tracker can be had, before any is opened."""
    if name not in TRACKERS:
        raise ConfigError(f"there is no tracker {name!r}; choose from {', '.join(TRACKERS)}")
    modules, package, _ = TRACKERS[name]
    # A folder of that name in the working directory, as W&B makes one, can be imported but is none.
    missing = [name for name in modules if not ((spec := find_spec(name)) and spec.origin)]
    if missing:
        raise ConfigError(
            f"tracker {name} needs {' and '.join(missing)}, not installed here: "
            f"pip install {package}"
        )


def _warn(tracker: Tracker, error: Exception) -> None:
    name = type(tracker).__name__
    with suppress(Exception):
        say(f"  warning     {name}: {in_short(error)}; it is left out, training goes on")
