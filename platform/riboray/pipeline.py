"""Connecting to Ray: a cluster that is there, or a Ray of our own on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import riboray
from riboray.console import say
from riboray.errors import ConfigError, RiborayError
from riboray.rayenv import LOCAL

__all__ = ["LostObject", "cause_of", "connect", "fetch"]

#: CPUs that a Ray of our own offers beyond those that workers hold. Ray ends processes that idle
#: beyond the number of CPUs: without these, the light tasks that feed the workers would start a
#: process each time.
_SPARE_CPUS = 2
_OBJECT_STORE_BYTES = 512 << 20


class LostObject(RiborayError):
    """What lay in a machine's memory is gone with it, and can be made again."""


@contextmanager
def connect(address: str, *, cpus: float, spare: int = _SPARE_CPUS) -> Iterator[dict[str, float]]:
    """Connect to Ray for the length of a ``with`` block, within another one to the same Ray.

    Parameters
    ----------
    address : str
        What `riboray.rayenv.prepare_ray` returned, before this module was imported.
    cpus : float
        CPUs that the work holds for itself.
    spare : int
        CPUs that a Ray of our own offers beyond them. It starts a process for each.

    Yields
    ------
    dict
        Resources the cluster has now.

    Raises
    ------
    ConfigError
        If there is no Ray at the address.
    RiborayError
        If a Ray of our own does not start.
    """
    if ray.is_initialized():  # a verb that runs others holds it open for them
        yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        return
    try:
        _start(address, cpus, spare)
    except SystemExit as error:  # Ray's own handler of SIGTERM, while it starts
        raise KeyboardInterrupt from error
    if threading.current_thread() is threading.main_thread():
        # Ray has put a handler here that leaves at once, without cleaning up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ("ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()


def _start(address: str, cpus: float, spare: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address != LOCAL:
        try:
            ray.init(address=address, runtime_env=_shipped_code(), **quiet)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            reason = cause_of(error)
            if "AuthenticationError" in reason:
                reason = (
                    "wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's"
                )
                raise ConfigError(f"the Ray cluster at {address} {reason}") from error
            raise ConfigError(f"no Ray cluster at {address}: {reason}") from error
        return
    # Handed down by the environment and not by a runtime environment, for which Ray would start
    # an agent, and new processes in place of those that it starts anyway: 1.3 s of 7.
    os.environ.update(_worker_environment() | _source_path())
    # Ray makes itself a token for the loopback ports of a local cluster, and says so at length.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    options = {
        "num_cpus": max(os.cpu_count() or 1, int(cpus)) + spare,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
        **quiet,
    }
    for last in (False, False, True):
        try:
            ray.init(address=LOCAL, **options)
            break
        except Exception as error:  # of no kind of its own
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if last:
                raise RiborayError(f"Ray does not start on this machine: {error}") from error
            say("  Ray did not start within its half minute; once more")
    _protect_token()


_HUB = ("HF_ENDPOINT", "HF_HUB_OFFLINE")


def _worker_environment() -> dict[str, str]:
    # One thread a process: pools of several libraries on few cores fight each other.
    threads = {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Where models of the Hugging Face Hub are had from; its token would be shown by Ray.
    return threads | {name: os.environ[name] for name in _HUB if name in os.environ}


def _source_tree() -> Path | None:
    """Return the package's folder if riboray runs from a source tree, else None.

    As a module that a job took along, Ray gives it to the workers, too.
    """
    package = Path(riboray.__file__).resolve().parent
    places = ("site-packages", "dist-packages", "py_modules_files")
    installed = any(part in places for part in package.parts)
    return None if installed else package


def _source_path() -> dict[str, str]:
    """Let workers on this machine import what the driver imports."""
    package = _source_tree()
    if package is None:
        return {}
    paths = [str(package.parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _shipped_code() -> dict[str, Any]:
    """Send riboray along if it runs from a source tree, which a cluster's nodes may lack."""
    package = _source_tree()
    environment: dict[str, Any] = {"env_vars": _worker_environment()}
    if package is not None:
        environment["py_modules"] = [str(package)]
    return environment


def _protect_token() -> None:
    """Make Ray's token readable by its owner only; Ray writes it for everyone."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)


def cause_of(error: BaseException) -> str:
    """Return the line of a (remote) error that says what happened."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"


def fetch(reference: Any, what: str = "a task") -> Any:
    """Fetch a task's result; turn its failure into an error that a person can act on.

    Raises
    ------
    RiborayError
        The task's own, or one that says what happened to it. Work that is committed piece by
        piece is kept: the same command goes on.
    LostObject
        If something the task needed, or its result, went with a machine.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.ObjectLostError as error:
        raise LostObject(f"{what} lost what it needs with a machine") from error
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ray.exceptions.ObjectLostError):
            raise LostObject(f"{what} lost what it needs with a machine") from error
        if isinstance(cause, RiborayError):
            raise cause from error
        if isinstance(cause, OSError):
            where = f"{cause.filename}: " if cause.filename else ""
            raise RiborayError(
                f"{where}{cause.strerror or cause}; what is done is kept: "
                "put this right and give the same command again"
            ) from error
        raise RiborayError(f"{what} failed: {cause_of(cause)}") from error
    except ray.exceptions.RayError as error:
        raise RiborayError(f"Ray lost {what}: {cause_of(error)}") from error
