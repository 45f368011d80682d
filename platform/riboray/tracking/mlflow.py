"""A run in MLflow: on the server that ``MLFLOW_TRACKING_URI`` names, else in the run directory."""

from __future__ import annotations

import getpass
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from riboray import __version__
from riboray.errors import ConfigError
from riboray.manifest import write_json
from riboray.tracking.courier import CREDENTIALS, Item, Status
from riboray.tracking.records import flatten, labels, measurements

__all__ = ["MlflowRun"]

#: Read when mlflow is imported or asks a server. A library must not phone home unasked; and who
#: tries again himself needs no client that tries for minutes (mlflow's defaults: 7 times, 120 s).
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password, if it has one
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_EXPERIMENT = "riboray"
_HERE = "run directory"
#: A tag of our own: the run's description is the user's to write.
_EVENTS = "riboray.events"
#: Limits of MLflow's: characters of a parameter, of a tag, and metrics of a request with tags.
_PARAM_CHARACTERS = 6000
_TAG_CHARACTERS = 5000
_METRICS_WITH_TAGS = 900
_ENDINGS: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowRun:
    """One run of MLflow's, gone on with when the run is resumed.

    Parameters
    ----------
    directory : Path
        The run directory. ``mlflow.json`` there says which run of which server this is.
    run_name : str
        The run's name in MLflow.
    config : dict
        The configuration, for the parameters.
    resume_step : int
        Unused: the run itself says up to where it has curves.

    Notes
    -----
    MLflow cannot take a point back. Steps that are trained again after a resume are therefore not
    written again: training repeats them, and the curves stay single.
    """

    name = "mlflow"
    batch = 100

    def __init__(
        self, directory: Path, run_name: str, config: dict[str, Any], resume_step: int
    ) -> None:
        self._directory = directory
        self._run_name = run_name
        self._config = flatten(config)
        self._tags: dict[str, str] = {}
        self._client: Any = None
        self._run_id = ""

    def open(self) -> None:
        """Connect, and find or make the run."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            database = f"sqlite:///{self._directory / 'mlflow.db'}"
            self._client = MlflowClient(tracking_uri=uri or database)
            run = self._known_run(uri) or self._new_run(uri)
        except ImportError as error:
            raise ConfigError(
                f"tracker mlflow lacks {error.name or error}: pip install 'riboray[mlflow]'"
            ) from error
        self._run_id = run.info.run_id
        self._tags = dict(run.data.tags)
        self._log_params(dict(run.data.params))

    def write(self, items: list[Item]) -> None:
        """Send the records' numbers in as few requests as MLflow allows."""
        from mlflow.entities import Metric, RunTag

        tags = dict(self._tags)
        metrics = []
        for when, record in items:
            kind, step = record["kind"], int(record["step"])
            if kind == "event":
                clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))
                line = f"step {step:,}, {clock} UTC: {record['message']}"
                tags[_EVENTS] = _newest_lines(f"{tags.get(_EVENTS, '')}\n{line}")
            elif step > int(tags.get(f"riboray.{kind}_step", -1)):
                for name, value in measurements(record).items():
                    metrics.append(Metric(name, value, int(1000 * when), step))
                tags |= {**labels(record), f"riboray.{kind}_step": str(step)}
        changed = {name: text for name, text in tags.items() if self._tags.get(name) != text}
        rest = [RunTag(name, text) for name, text in changed.items()]
        # The client cuts long lists, and sends tags first. They say what has been sent: they go
        # with the last. If anything fails all is sent again, and MLflow keeps one of equal points.
        others, last = metrics[:-_METRICS_WITH_TAGS], metrics[-_METRICS_WITH_TAGS:]
        self._client.log_batch(self._run_id, metrics=others, synchronous=True)
        self._client.log_batch(self._run_id, metrics=last, tags=rest, synchronous=True)
        self._tags = tags

    def close(self, status: Status) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run_id, status=_ENDINGS[status])

    def _known_run(self, uri: str | None) -> Any:
        """Return the run that an earlier session made, running again, unless it is gone."""
        from mlflow.exceptions import MlflowException

        run_id = self._run_ids().get(_place(uri))
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        return run

    def _new_run(self, uri: str | None) -> Any:
        """Make a run and note, before anything else, which one it is."""
        tags = {"riboray.version": __version__, "riboray.directory": str(self._directory)}
        with suppress(Exception):  # a user without a name
            tags["mlflow.user"] = getpass.getuser()
        run = self._client.create_run(self._experiment(uri), run_name=self._run_name, tags=tags)
        known = self._run_ids() | {_place(uri): run.info.run_id}
        write_json(self._directory / "mlflow.json", known)
        return run

    def _run_ids(self) -> dict[str, str]:
        """Return the run's id at every place that it has been tracked at."""
        path = self._directory / "mlflow.json"
        ids: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return ids

    def _experiment(self, uri: str | None) -> str:
        """Return the id of the experiment that the environment names, made if need be."""
        from mlflow.exceptions import MlflowException

        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is None:
            artifacts = (self._directory / "mlartifacts").as_uri() if uri is None else None
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:  # no other run has made it between the two questions
                    raise
        return str(found.experiment_id)

    def _log_params(self, known: dict[str, str]) -> None:
        """Write the configuration; MLflow lets no parameter change, so what did becomes a tag."""
        from mlflow.entities import Param

        values = {name: _clipped(str(value)) for name, value in self._config.items()}
        new = [Param(name, text) for name, text in values.items() if name not in known]
        self._client.log_batch(self._run_id, params=new, synchronous=True)
        changed = {
            f"resumed_with.{name}": text
            for name, text in values.items()
            if known.get(name, text) != text
        }
        for name, text in changed.items():
            self._client.set_tag(self._run_id, name, text[:_TAG_CHARACTERS])


def _place(uri: str | None) -> str:
    """Name a server in a file that others may read."""
    return _HERE if uri is None else CREDENTIALS.sub("//", uri)


def _clipped(text: str) -> str:
    """Shorten what MLflow would refuse; the run directory has it in full."""
    return text if len(text) <= _PARAM_CHARACTERS else f"{text[: _PARAM_CHARACTERS - 1]}…"


def _newest_lines(text: str) -> str:
    """Return as many of the last lines as a tag can hold."""
    lines = text.strip("\n").splitlines()
    while len(lines) > 1 and len("\n".join(lines)) > _TAG_CHARACTERS:
        lines = lines[1:]
    return "\n".join(lines)[:_TAG_CHARACTERS]
