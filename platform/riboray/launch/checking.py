"""What a cluster's file lacks, told before machines cost money."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from riboray.console import show
from riboray.errors import ConfigError, InputError
from riboray.launch.config import CheckClusterConfig

__all__ = ["check_cluster", "find_problems"]

#: A parameter without a value: ``shared=""  # FILL IN``, ``project_id: null  # FILL IN``.
_UNFILLED = re.compile(
    r"""^[\s-]*([\w.-]+)\s*[=:]\s*(?:&\w+\s+)?(?:(?:""|''|null|~)?\s*\#\s*FILL\ IN|FILL-IN\b)""",
    re.X,
)
_IMAGE = re.compile(r"^(?:[\w.:-]+/)*rayproject/ray(?:-\w+)?:(\d+\.\d+\.\d+)")


def check_cluster(config: CheckClusterConfig) -> dict[str, Any]:
    """Check files for ``ray up`` and for KubeRay.

    Raises
    ------
    ConfigError
        If there is a problem; all are printed.
    """
    problems = []
    for file in config.file:
        found = find_problems(Path(file))
        problems += found
        for problem in found:
            show(f"{file}: {problem}")
        if not found:
            show(f"{file}: nothing is missing")
    if problems:
        some = f"{len(problems)} problems" if len(problems) > 1 else "one problem"
        raise ConfigError(f"{some}, see above")
    return {"files": config.file, "problems": 0}


def find_problems(path: Path) -> list[str]:
    """List what is wrong with a file, nothing if all is well.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        text = path.read_text("utf-8")
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), getattr(error, "strerror", None) or "is not text") from error
    except yaml.YAMLError as error:
        return [f"not valid YAML ({' '.join(str(error).split())})"]
    if not documents or not all(isinstance(document, dict) for document in documents):
        return ["describes no cluster"]
    problems = list(_unfilled(text))
    for document in documents:
        kubernetes = "kind" in document
        problems += _kubernetes_problems(document) if kubernetes else _ray_problems(document)
    return problems


def _unfilled(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _UNFILLED.match(line):
            yield f"line {number}: fill in {found[1]!r}"


def _versions(value: Any) -> set[str]:
    """Find the versions of Ray's images anywhere in a document."""
    if isinstance(value, dict):
        return set().union(*map(_versions, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(_versions, value)) if value else set()
    found = _IMAGE.match(value) if isinstance(value, str) else None
    return {found[1]} if found else set()


def _kubernetes_problems(document: dict[str, Any]) -> Iterator[str]:
    from riboray.launch.pipeline import RAY_VERSION

    spec = document.get("spec", {})
    for cluster in (spec, spec.get("rayClusterSpec"), spec.get("rayClusterConfig")):
        if not isinstance(cluster, dict) or "headGroupSpec" not in cluster:
            continue
        if (version := cluster.get("rayVersion")) != RAY_VERSION:
            yield f"rayVersion is {version}, but this riboray runs on {RAY_VERSION}"
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield "authOptions.mode is not token: whoever reaches the cluster can run code on it"


def _ray_problems(config: dict[str, Any]) -> Iterator[str]:
    from riboray.launch.pipeline import RAY_VERSION, prepared

    try:
        whole = prepared(config)
    except ConfigError as error:
        yield str(error)
        return
    for version in sorted(_versions(config) - {RAY_VERSION}):
        yield f"an image has Ray {version}, but this riboray runs on {RAY_VERSION}"
    for local in whole.get("file_mounts", {}).values():
        if not Path(local).expanduser().exists():
            hint = ": make it with ray get-auth-token --generate" if "auth_token" in local else ""
            yield f"file_mounts: {local} is not there{hint}"
    yield from _security_problems(whole)


def _security_problems(config: dict[str, Any]) -> Iterator[str]:
    options = " ".join(config.get("docker", {}).get("run_options", []))
    for which in ("head", "worker"):
        starts = [c for c in config[f"{which}_start_ray_commands"] if "ray start" in c]
        if not all("RAY_AUTH_MODE=token" in c + options for c in starts):
            yield f"{which}_start_ray_commands: without RAY_AUTH_MODE=token, anyone may run code"
        if any("--dashboard-host=0.0.0.0" in c for c in starts):
            yield f"{which}_start_ray_commands: the dashboard listens beyond this machine"
    token = Path("~/.ray/auth_token").expanduser()
    if token.is_file() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"{token} is readable by others: chmod 600 it"
