"""A run in Weights & Biases: in the run directory, and on the server if the user is logged in."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from riboray.errors import ConfigError
from riboray.manifest import write_json
from riboray.tracking.courier import Item, Status
from riboray.tracking.records import Record, flatten, labels, measurements

__all__ = ["WandbRun"]

_PROJECT = "riboray"
#: W&B's own server, and the name under which most users have their key.
_HOST, _OLD_HOST = "api.forge.coreweave.com", "api.wandb.ai"
#: Seconds that W&B may take to answer when a run begins, and to upload what is left at its end.
#: Below the tracker's own limits, so that W&B's better message is the one that is shown.
_INIT_SECONDS = 60.0
_FINISH_SECONDS = 25.0


class WandbRun:
    """One run of W&B's, gone on with when the run is resumed.

    Parameters
    ----------
    directory : Path
        The run directory; W&B writes to ``wandb/`` below it. ``wandb.json`` holds the run's id.
    run_name : str
        The run's name in W&B.
    config : dict
        The configuration.
    resume_step : int
        Unused: ``wandb/steps.json`` says up to where there are curves.

    Notes
    -----
    W&B takes no step that is lower than one before. Steps that are trained again after a resume
    are therefore not written again: training repeats them, and the curves stay single.
    """

    name = "wandb"
    batch = 1

    def __init__(
        self, directory: Path, run_name: str, config: dict[str, Any], resume_step: int
    ) -> None:
        self._directory = directory
        self._run_name = run_name
        self._config = flatten(config)
        self._run: Any = None
        self._steps: dict[str, int] = {}
        self._row: tuple[int, list[str]] = (0, [])

    def open(self) -> None:
        """Begin or go on; offline, unless there is a key or the environment says otherwise."""
        # A library must not phone home unasked; this is read when wandb is imported.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        (self._directory / "wandb").mkdir(exist_ok=True)
        self._steps = _read(self._steps_path)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=self._run_name,
            id=self._run_id(),
            dir=str(self._directory),
            config=self._config,
            allow_val_change=True,
            mode=_mode(wandb.setup().settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=_INIT_SECONDS,
                finish_timeout=_FINISH_SECONDS,
            ),
        )
        self._row = (max([0, *self._steps.values()]), [])

    def write(self, items: list[Item]) -> None:
        """Write records; those of one step become one row."""
        for _, record in items:
            self._write(record)

    def _write(self, record: Record) -> None:
        kind, step = record["kind"], int(record["step"])
        row, messages = self._row
        if kind == "event":
            # A row is closed once there is a later one: an event comes at the newest, if late.
            values: dict[str, Any] = {}
            messages = [*(messages if step <= row else []), record["message"]]
            values["event"] = "\n".join(messages)
        elif step <= self._steps.get(kind, -1):
            return
        else:
            values = {**measurements(record), **labels(record)}
            messages = messages if step <= row else []
        step_of_row = max(step, row)
        self._run.log(values, step=step_of_row)
        self._row = (step_of_row, messages)
        if kind != "event":
            self._steps[kind] = step
            self._keep_steps()

    def close(self, status: Status) -> None:
        """Upload what is left; mark the run."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == "failed"))

    @property
    def _steps_path(self) -> Path:
        return self._directory / "wandb" / "steps.json"

    def _run_id(self) -> str:
        """Return the id that an earlier session chose, or a new one."""
        path = self._directory / "wandb.json"
        known = _read(path).get("id")
        if known is None:
            known = secrets.token_hex(4)
            write_json(path, {"id": known})
        return str(known)

    def _keep_steps(self) -> None:
        """Note the step of each kind of record; without a sync, for it is only a convenience."""
        temporary = self._steps_path.with_suffix(".new")
        temporary.write_text(json.dumps(self._steps), "utf-8")
        temporary.replace(self._steps_path)


def _read(path: Path) -> dict[str, Any]:
    """Read a small JSON file; empty if there is none or a crash has emptied it."""
    values: dict[str, Any] = {}
    with suppress(FileNotFoundError, json.JSONDecodeError):
        values = json.loads(path.read_text("utf-8"))
    return values


def _mode(settings: Any) -> str:
    """Return W&B's mode: as the user set it, else online with a key and offline without.

    Raises
    ------
    ConfigError
        If it is set to online and there is no key: W&B would ask for one on the terminal.
    """
    asked = os.environ.get("WANDB_MODE") or (settings.mode if settings.mode != "online" else None)
    has_key = bool(settings.api_key) or _has_credentials(settings.base_url)
    if asked in ("online", "run", "shared") and not has_key:
        raise ConfigError(
            f"WANDB_MODE is {asked}, but there is no key for {settings.base_url}: "
            "set WANDB_API_KEY, or log in with `wandb login`"
        )
    return str(asked or ("online" if has_key else "offline"))


def _has_credentials(base_url: str) -> bool:
    """Tell whether the environment or the user's netrc file has a key for a server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    host = urlsplit(base_url).netloc
    hosts = {host, _OLD_HOST if host == _HOST else host}
    with suppress(OSError, netrc.NetrcParseError):
        entries = netrc.netrc(path)
        return any(entries.authenticators(name) for name in hosts)
    return False
