"""Options of ``riboray submit`` and ``riboray check-cluster``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from riboray.errors import ConfigError

__all__ = ["CheckClusterConfig", "SubmitConfig"]


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Run a verb on a cluster: `riboray submit [options] VERB [options of the verb]`.

    The job runs on the cluster whether this command stays or not; its exit code becomes this one's.
    """

    REST: ClassVar[str] = "command"

    command: list[str] = field(default_factory=list)
    """The verb and its options, as after `riboray`; is given last. Paths are the cluster's."""
    address: str | None = None
    """Address of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS, else
    http://127.0.0.1:8265, where `ray dashboard cluster.yaml` puts it. The token is
    RAY_AUTH_TOKEN's or ~/.ray/auth_token's."""
    working_dir: str | None = None
    """Folder to send along, in which the job runs; by default the source tree, if riboray runs from
    one. What its .rayignore and .gitignore name stays here."""
    exclude: list[str] = field(default_factory=list)
    """Further patterns of what stays here, as in .gitignore."""
    pip: list[str] = field(default_factory=list)
    """Packages, or the path of a requirements.txt, that the cluster's nodes are to install for this
    job; for clusters whose nodes lack them."""
    name: str | None = None
    """Name of the job, which no other job there has; made up by default."""
    driver_cpus: float = 0
    """CPUs for the process that hands out the work. With 0 it runs on the head node."""
    driver_memory: float = 0
    """GiB for that process."""
    wait: bool = True
    """Follow the job to its end; no leaves it alone."""
    check: bool = True
    """Check the verb's options here first; no if they name files that only the cluster has."""
    dry_run: bool = False
    """Print what would be sent, and where to, and stop."""

    def __post_init__(self) -> None:
        if not self.command:
            raise ConfigError("nothing to run: riboray submit [options] VERB [options of the verb]")
        for name in ("driver_cpus", "driver_memory"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class CheckClusterConfig:
    """Check a cluster's file before `ray up` or `kubectl apply`: `riboray check-cluster FILE`."""

    POSITIONAL: ClassVar[str] = "file"

    file: list[str] = field(default_factory=list)
    """Files to check; may be given first."""

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("nothing to check: give a file such as cluster.yaml")
