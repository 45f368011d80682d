"""What a job consists of, and handing it to a cluster."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import riboray
from riboray.console import say
from riboray.errors import ConfigError, RiborayError
from riboray.launch.config import SubmitConfig
from riboray.rayenv import use_token
from riboray.room import byte_size

__all__ = ["JobPlan", "plan_job", "submit"]

_ADDRESS = "http://127.0.0.1:8265"
#: Bytes of a working directory that Ray takes.
_LARGEST = 100 << 20
#: Options that say where verbs write.
_WRITES = {"pretrain": "storage", "finetune": "storage"}
_HERE_ONLY = ("submit", "check-cluster")


@dataclass(frozen=True)
class JobPlan:
    """A job, ready to be sent.

    Attributes
    ----------
    address : str
        Of the dashboard.
    entrypoint : str
        Command line that runs on the cluster.
    runtime_env : dict
        What is sent along, as Ray wants it.
    configs : str
        Files of options that lie here, for people.
    scratch : str
        Folder that holds copies of them if nothing else is sent.
    """

    address: str
    entrypoint: str
    runtime_env: dict[str, Any]
    configs: str = ""
    scratch: str = ""


def submit(config: SubmitConfig) -> dict[str, Any]:
    """Submit a job and follow it; return what was sent and how it ended.

    Raises
    ------
    RiborayError
        With the job's exit code, if that is not 0.
    """
    use_token()
    from riboray.launch.pipeline import Jobs

    with tempfile.TemporaryDirectory() as scratch:
        plan = plan_job(config, Path(scratch))
        _announce(plan)
        if config.dry_run:
            return {"dry_run": True, "address": plan.address, "runs": plan.entrypoint}
        jobs = Jobs(plan.address)
        name = jobs.begin(config, plan)
    say(f"  job         {name}")
    if not config.wait:
        say(f"  to follow   ray job logs --follow --address {plan.address} {name}")
        return {"job": name, "address": plan.address, "runs": plan.entrypoint, "status": "sent"}
    try:
        code, message = jobs.follow(name)
    except KeyboardInterrupt:
        say(f"\n  the job goes on; to end it: ray job stop --address {plan.address} {name}")
        raise
    if code:
        failure = RiborayError(f"job {name} {message}")
        failure.exit_code = code
        raise failure
    say(f"  job         {name} is done")
    return {"job": name, "address": plan.address, "runs": plan.entrypoint, "status": "done"}


def _announce(plan: JobPlan) -> None:
    """Say what is about to be sent; refuse what Ray would not take."""
    from riboray.launch.pipeline import upload

    say(f"  cluster     {plan.address}")
    say(f"  runs        {plan.entrypoint}")
    modules = plan.runtime_env.get("py_modules", [])
    for folder in filter(None, [plan.runtime_env.get("working_dir"), *modules]):
        files, size = upload({**plan.runtime_env, "working_dir": folder, "py_modules": []})
        what = plan.configs if folder == plan.scratch else folder
        say(f"  sends       {what}: {files:,} file{'s'[: files != 1]}, {byte_size(size)}")
        if size > _LARGEST:
            raise ConfigError(
                f"{folder} has {byte_size(size)}, and Ray takes {byte_size(_LARGEST)}: name what "
                "is not needed in .rayignore or with --exclude"
            )


def plan_job(config: SubmitConfig, scratch: Path) -> JobPlan:
    """Decide what is sent and what runs there.

    Parameters
    ----------
    config : SubmitConfig
        The options.
    scratch : Path
        An empty folder. Where no folder is sent, files of options are put there, and it is sent.

    Raises
    ------
    ConfigError
        If the verb is unknown, its options are wrong, or it would write where nothing stays.
    """
    verb, arguments = _verb(config.command)
    if config.check:
        _check(verb, arguments)
    package = Path(riboray.__file__).resolve().parent
    root = package.parents[1]
    source = (root / "jobs" / f"{verb.split()[0]}.py").is_file() and (root / ".rayignore").is_file()
    folder = config.working_dir or (str(root) if source else None)
    runtime_env: dict[str, Any] = {}
    if folder is not None:
        if not Path(folder).is_dir():
            raise ConfigError(f"working_dir: {folder} is no folder")
        runtime_env["working_dir"] = str(Path(folder).resolve())
    if folder is not None and Path(folder).resolve() == root:
        start = ["python", f"jobs/{verb.split()[0]}.py"]
    else:  # nodes may lack riboray, or have another version
        runtime_env["py_modules"] = [str(package)]
        start = ["python", "-m", "riboray.cli", verb.split()[0]]
    configs = _config_files(arguments)
    if folder is None and configs:
        for file in configs:
            (scratch / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, scratch / file)
        runtime_env["working_dir"] = str(scratch)
    elif folder is not None:
        _check_sent(configs, Path(folder))
    excludes = [*config.exclude, *(["__pycache__"] if "py_modules" in runtime_env else [])]
    if excludes:
        runtime_env["excludes"] = excludes
    if config.pip:
        runtime_env["pip"] = _packages(config.pip)
    command = shlex.join([*start, *config.command[1:]])
    return JobPlan(_address(config), command, runtime_env, ", ".join(configs), str(scratch))


def _config_files(arguments: list[str]) -> list[str]:
    """Return files of options, given by relative paths, that lie here."""
    given = [b for a, b in pairwise(arguments) if a == "--config"]
    given += [a.partition("=")[2] for a in arguments if a.startswith("--config=")]
    files = [os.path.normpath(f) for f in given if not Path(f).is_absolute() and Path(f).is_file()]
    for file in files:
        if file.startswith(".."):
            raise ConfigError(f"--config {file}: lies above this folder; the job could not find it")
    return files


def _check_sent(configs: list[str], folder: Path) -> None:
    for file in configs:
        if not (folder / file).is_file() or not (folder / file).samefile(file):
            raise ConfigError(
                f"--config {file} is not in {folder}, which is sent to the cluster; with "
                "--working-dir . this folder is"
            )


def _verb(command: list[str]) -> tuple[str, list[str]]:
    from riboray.verbs import VERBS, verb_of

    verb, rest = verb_of(command)
    if verb not in VERBS or verb in _HERE_ONLY:
        known = ", ".join(name for name in VERBS if name not in _HERE_ONLY)
        raise ConfigError(f"{' '.join(command[:2])}: not something to submit; verbs: {known}")
    return verb, rest


def _check(verb: str, arguments: list[str]) -> None:
    """Read the verb's options as the job will, and refuse to write where nothing stays."""
    from riboray.options import parse_config
    from riboray.verbs import VERBS

    config_class = VERBS[verb].load_config()
    try:
        config = parse_config(verb, config_class, arguments)
    except ConfigError as error:
        raise ConfigError(f"{verb}: {error}") from error
    name = _WRITES.get(verb, "output")
    path = getattr(config, name, None)
    if isinstance(path, str) and not Path(path).is_absolute():
        raise ConfigError(
            f"{verb}: --{name} {path} is relative, and a job's folder goes with the job: give an "
            "absolute path that all nodes share"
        )


def _packages(given: list[str]) -> list[str]:
    """Return packages, read from requirements files where one is named."""
    packages: list[str] = []
    for item in given:
        if item.endswith(".txt"):
            try:
                lines = Path(item).read_text("utf-8").splitlines()
            except OSError as error:
                raise ConfigError(f"{item}: {error.strerror}") from error
            packages += [line.strip() for line in lines if line.strip()[:1] not in ("", "#")]
        else:
            packages.append(item)
    return packages


def _address(config: SubmitConfig) -> str:
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or _ADDRESS
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"address {address}: give the dashboard's, such as {_ADDRESS}")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        say(f"  warning     the token goes to {parts.hostname} unencrypted; see docs/operations.md")
    return address.rstrip("/")
