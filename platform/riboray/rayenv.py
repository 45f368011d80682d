"""Ray settings that only work before Ray is imported. This file does not import it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from riboray.errors import ConfigError

__all__ = ["LOCAL", "check_memory_per_worker", "prepare_ray", "use_token"]

LOCAL = "local"

_SETTINGS = {
    # A library must not phone home unasked.
    "RAY_USAGE_STATS_ENABLED": "0",
    # How soon a worker's failure or end is noticed; the default is after two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Otherwise tasks on a machine with GPUs that ask for none would warn.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # Ray Tune tells of itself in boxes otherwise, however quiet it is asked to be.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ctrl-C must not look as if all trials had been given up.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Errors of calls are told once, in words; what went with a machine is made again.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}

_LOCAL_SETTINGS = {
    # See the notes of `prepare_ray`.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # An actor that looks out for notices to a cluster's machines; this one gets none.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def prepare_ray(address: str | None) -> str:
    """Decide which Ray to use and set what it reads when it is imported.

    Parameters
    ----------
    address : str or None
        Address of a cluster, or ``local``. None: ``RAY_ADDRESS`` if it is set (it is inside
        ``ray job submit``), else ``local``.

    Returns
    -------
    str
        The address to hand to `riboray.pipeline.connect`.

    Notes
    -----
    A Ray of our own listens on loopback alone. Ray 2.60 has no option for that: given
    ``127.0.0.1`` it looks up the machine's outer address and binds every interface. The setting
    that makes it stay on loopback is the one meant for desktop systems.
    """
    resolved = address or os.environ.get("RAY_ADDRESS") or LOCAL
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if resolved == LOCAL:
        for name, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(name, value)
    return resolved


def use_token() -> None:
    """Have Ray's clients send the token, if there is one; they keep it to themselves otherwise.

    As `prepare_ray`, before Ray is imported.
    """
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path("~/.ray/auth_token").expanduser()
    if Path(file).is_file():
        with suppress(OSError):
            Path(file).chmod(0o600)  # Ray makes it readable by all
    if "RAY_AUTH_TOKEN" in os.environ or Path(file).is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_memory_per_worker(value: float | None) -> None:
    """Refuse a reservation of memory that is none.

    Raises
    ------
    ConfigError
        If it is not a number above 0.
    """
    if value is not None and not 0 < value < 1e6:
        raise ConfigError(f"memory_per_worker must be a number of GiB above 0, not {value}")
