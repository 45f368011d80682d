"""Jobs on a cluster through Ray's own client, and Ray's own check of a cluster's file."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import time
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from riboray.console import relay
from riboray.errors import ConfigError, RiborayError
from riboray.launch.config import SubmitConfig
from riboray.launch.submission import JobPlan

__all__ = ["RAY_VERSION", "Jobs", "prepared", "upload"]

RAY_VERSION: str = ray.__version__

#: Seconds between looks at a job whose log has ended but which has not.
_PATIENCE = 1.0
#: Seconds for which a head that does not answer is asked again.
_LONGEST_SILENCE = 120.0


#: Ray tells which files it leaves out, folder by folder.
_quiet = logging.getLogger("riboray.launch")
_quiet.setLevel(logging.WARNING)
for _name in (
    *("ray.autoscaler", "ray.dashboard", "ray._private.runtime_env"),
    # Their own levels are set where they are made.
    *("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"),
):
    logging.getLogger(_name).setLevel(logging.ERROR)


class Jobs:
    """The jobs of a cluster.

    Parameters
    ----------
    address : str
        Of its dashboard.

    Raises
    ------
    ConfigError
        If nobody answers there, or a token is wanted.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._shown, self._heard = 0, time.monotonic()
        try:
            self._client = JobSubmissionClient(address)
        except ConnectionError as error:
            raise ConfigError(
                f"no cluster at {address}; `ray dashboard cluster.yaml` brings its port here"
            ) from error
        except Exception as error:  # whatever the version and the token check raise
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> RiborayError:
        text = " ".join(str(error).split())
        if any(word in text for word in ("401", "403", "Authentication", "nauthorized", "token")):
            return ConfigError(
                f"the cluster at {self._address} wants its token: set RAY_AUTH_TOKEN, or put it "
                "into ~/.ray/auth_token"
            )
        # Of a traceback of the head's, the last error says it.
        told = re.findall(r"\w+(?:Error|Exception): (.+?)(?= Traceback |$)", text)
        return RiborayError(
            f"the cluster at {self._address} refuses: {(told or [text])[-1][:300].strip()}"
        )

    def begin(self, config: SubmitConfig, plan: JobPlan) -> str:
        """Send the job; return its name.

        Raises
        ------
        RiborayError
            If the cluster does not take it.
        """
        try:
            name: str = self._client.submit_job(
                entrypoint=plan.entrypoint,
                runtime_env=copy.deepcopy(plan.runtime_env),
                submission_id=config.name,
                entrypoint_num_cpus=config.driver_cpus or None,
                entrypoint_memory=int(config.driver_memory * 2**30) or None,
            )
        except Exception as error:  # of several kinds
            raise self._refused(error) from error
        return name

    def follow(self, name: str) -> tuple[int, str]:
        """Print a job's log until it ends.

        Returns
        -------
        tuple
            Exit code, and what became of the job.
        """
        failing: float | None = None
        while True:
            try:
                asyncio.run(self._show(name))
                info = self._client.get_job_info(name)
                failing = None
            except KeyboardInterrupt:
                raise
            except Exception as error:  # the connection broke: the head may come back
                now = time.monotonic()
                failing = now if failing is None or self._heard > failing else failing
                if now - failing > _LONGEST_SILENCE:
                    return 1, f"cannot be followed any more: {' '.join(str(error).split())[:300]}"
                time.sleep(_PATIENCE)
                continue
            if info.status.is_terminal():
                return self._outcome(info)
            time.sleep(_PATIENCE)

    async def _show(self, name: str) -> None:
        """Print what the log has beyond what was printed before the connection broke."""
        passed = 0
        async for text in self._client.tail_job_logs(name):
            self._heard = time.monotonic()
            fresh = text[max(self._shown - passed, 0) :]
            passed += len(text)
            self._shown = max(self._shown, passed)
            relay(fresh)

    @staticmethod
    def _outcome(info: Any) -> tuple[int, str]:
        if info.status == JobStatus.SUCCEEDED:
            return 0, "is done"
        if info.status == JobStatus.STOPPED:
            return 130, "was stopped"
        code = info.driver_exit_code
        if code:
            return (code if 0 < code < 256 else 1), f"failed with exit code {code}"
        return 1, f"failed: {' '.join((info.message or 'no reason is known').split())[:500]}"


def upload(runtime_env: dict[str, Any]) -> tuple[int, int]:
    """Count the files that are sent along, and their bytes."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    files = size = 0

    def count(path: Path) -> None:
        nonlocal files, size
        if path.is_file():
            files, size = files + 1, size + path.stat().st_size

    folders = [runtime_env.get("working_dir"), *runtime_env.get("py_modules", [])]
    for folder in filter(None, folders):
        excludes = [_get_excludes(Path(folder), runtime_env.get("excludes", []))]
        _dir_travel(Path(folder), excludes, count, include_gitignore=True, logger=_quiet)
    return files, size


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Complete a cluster's file as ``ray up`` does.

    Raises
    ------
    ConfigError
        If Ray would refuse it.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        whole: dict[str, Any] = prepare_config(copy.deepcopy(config))
        validate_config(whole)
    except Exception as error:  # jsonschema's, ValueError, KeyError, NotImplementedError
        where = ".".join(map(str, getattr(error, "absolute_path", ())))
        message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        place = f"{where}: " if where else ""
        raise ConfigError(f"{place}{' '.join(str(message).split())}") from error
    return whole
