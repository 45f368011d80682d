"""Options that every kind of training has: where the run lies, its workers, what it keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from riboray.errors import ConfigError
from riboray.manifest import fingerprint
from riboray.rayenv import check_memory_per_worker

__all__ = ["TRACKERS", "RunOptions"]

#: Where records can go; see `riboray.tracking`.
TRACKERS = ("tensorboard", "mlflow", "wandb")

#: Options below, all of which may differ when a run is resumed: where it lies, how fast it is.
_RESUMABLE = (
    "run_name",
    "storage",
    "num_workers",
    "cpus_per_worker",
    "memory_per_worker",
    "resize_minutes",
    "device",
    "ray_address",
    "max_failures",
    "checkpoint_minutes",
    "keep_checkpoints",
    "record_seconds",
    "track",
    "dry_run",
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What runs of Ray Train have in common."""

    RESUMABLE: ClassVar[tuple[str, ...]] = ()
    """Further options that may differ when a run is resumed."""
    SHOWN_LAST: ClassVar[tuple[str, ...]] = _RESUMABLE
    """Options that the help shows after those of a kind of training."""
    LIMITS: ClassVar[tuple[str, ...]] = ()
    """Options that end a run, or choose what it hands over: with others, a finished run goes on."""

    run_name: str | None = None
    """Name of the run directory. The name of an unfinished run resumes it; by default a new name
    is made from the time."""
    storage: str = "runs"
    """Where run directories lie. On a cluster: a path that every node sees."""
    checkpoint_minutes: float = 2.0
    """Minutes between checkpoints; every measurement makes one too."""
    keep_checkpoints: int = 2
    """Checkpoints kept for resuming, the newest; the best one is kept beside them."""
    record_seconds: float = 1.0
    """Seconds between records of training metrics, at least; they grow with the run. 0: every
    step."""
    track: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where records go beside metrics.jsonl: tensorboard, mlflow, wandb."""
    num_workers: int | list[int] = 2
    """Training workers; [least, most] for as many as the cluster has room for, which may change
    while the run goes on."""
    cpus_per_worker: int = 1
    """CPUs of a worker; on a laptop, more workers are faster than more threads."""
    memory_per_worker: float | None = None
    """GiB that each process reserves of its machine; nothing by default. Say it where machines have
    less memory than their CPUs' processes take: Ray then puts fewer there, or adds machines."""
    resize_minutes: float = 1.0
    """Minutes between looks at whether more workers fit, with [least, most]."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where workers train: on GPUs if the cluster has one for each."""
    ray_address: str | None = None
    """Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own on this machine)."""
    max_failures: int = 3
    """Failures without a new checkpoint in between after which the run gives up; before, it goes
    on from the last checkpoint."""
    dry_run: bool = False
    """Read and check the input, say what would be trained on, and stop; nothing is left."""

    def __post_init__(self) -> None:
        check_memory_per_worker(self.memory_per_worker)
        self.check_positive(
            "cpus_per_worker", "resize_minutes", "keep_checkpoints", "checkpoint_minutes"
        )
        self.check_not_negative("max_failures", "record_seconds")
        unknown = sorted(set(self.track) - set(TRACKERS))
        if unknown:
            raise ConfigError(f"track: {', '.join(unknown)}: known are {', '.join(TRACKERS)}")
        given = self.num_workers
        numbers = given if isinstance(given, list) else [given]
        if len(numbers) not in (1, 2) or sorted(numbers) != numbers or numbers[0] < 1:
            raise ConfigError(f"num_workers must be a number or [least, most], not {given}")
        name = self.run_name
        if name is not None and (not name or name.startswith(".") or "/" in name):
            raise ConfigError(f"run_name {name!r} cannot name a directory")

    def check_positive(self, *names: str) -> None:
        """Refuse values that are not above 0; None is none."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, not {value}")

    def check_not_negative(self, *names: str) -> None:
        """Refuse values below 0."""
        for name in names:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")

    def check_shares(self, *names: str) -> None:
        """Refuse values outside of [0, 1)."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the largest number of workers."""
        given = self.num_workers
        return (given[0], given[-1]) if isinstance(given, list) else (given, given)

    def limits(self) -> dict[str, Any]:
        """Return what ends the run; a finished run with other limits goes on."""
        return {name: getattr(self, name) for name in self.LIMITS}

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the options that decide what the run computes."""
        free = (*_RESUMABLE, *self.RESUMABLE)
        return {k: v for k, v in asdict(self).items() if k not in free}

    def fingerprint(self) -> str:
        """Hash all that decides what the run computes; a resumed run must have the same."""
        return fingerprint(self.fingerprint_values())
