"""Files that are either whole or absent, and the manifest that proves a directory complete.

Commit rule: write under a temporary name on the same filesystem, fsync, rename; the manifest,
with the size, hash and rows of every file, goes last. Who finds a manifest finds all of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from riboray import __version__
from riboray.console import say, warn
from riboray.errors import ConfigError, CorpusError, OutputError

__all__ = [
    "MANIFEST_NAME",
    "OWNER_NAME",
    "FileEntry",
    "Manifest",
    "atomic_directory",
    "atomic_path",
    "check_schema",
    "check_writable",
    "claim",
    "entered",
    "exclusive",
    "fingerprint",
    "finished",
    "read_manifest",
    "sha256_file",
    "tidy",
    "warn_if_temporary",
    "write_config",
    "write_json",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
OWNER_NAME = "owner.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FileEntry:
    """One file of a directory: its name, rows (where it has rows), bytes and sha256."""

    name: str
    rows: int | None
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, rows: int | None = None) -> FileEntry:
        """Measure the file at ``path``."""
        return cls(path.name, rows, path.stat().st_size, sha256_file(path))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory holds and which configuration made it."""

    kind: str
    """What the directory is: ``corpus``, ``checkpoint``, …"""
    fingerprint: str
    """Hash of the configuration and inputs, from `fingerprint`."""
    files: tuple[FileEntry, ...]
    """Every file, sorted by name."""
    counts: dict[str, int] = field(default_factory=dict)
    """Accounting of records."""
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else a reader needs."""
    schema_version: int = SCHEMA_VERSION
    riboray_version: str = __version__


def fingerprint(values: Mapping[str, Any]) -> str:
    """Hash a configuration (anything JSON can hold) to 16 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written, rather than after the work.

    Raises
    ------
    ConfigError
        Naming the option and the path.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{option} {path} is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be written ({error.strerror})") from error


def check_schema(path: Path | str, metadata: Mapping[bytes, bytes] | None, newest: int) -> None:
    """Refuse a file whose columns may mean something that this riboray does not know.

    Parameters
    ----------
    path : Path or str
        The file.
    metadata : mapping of bytes to bytes, optional
        Of its Arrow schema; files of others have no version, and pass.
    newest : int
        Version of the schema that is written now.

    Raises
    ------
    CorpusError
        If the file's is higher.
    """
    found = (metadata or {}).get(b"riboray.schema_version", b"0").decode()
    if not found.isdigit() or int(found) > newest:
        raise CorpusError(path, f"schema version {found} is newer than this riboray; update it")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's contents, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes ``path``, else it is removed.

    The rename is atomic because the temporary file lies in the same directory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory to fill; on success it becomes ``path``, else it is removed.

    Raises
    ------
    OutputError
        If ``path`` exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(path, "exists already; choose another directory or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            _sync(entry)
        temporary.chmod(0o755)
        if path.exists():
            path.rmdir()
        temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Write resolved options as YAML, in their order."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(dict(values), sort_keys=False), "utf-8")


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``directory``; call it after every other file is in place."""
    write_json(directory / MANIFEST_NAME, asdict(manifest))


def read_manifest(directory: Path, kind: str, *, verify: bool = False) -> Manifest | None:
    """Read a directory's manifest and check that its files are there.

    Parameters
    ----------
    directory : Path
        The directory.
    kind : str
        The kind expected.
    verify : bool
        Also compare every file's sha256.

    Returns
    -------
    Manifest or None
        None if there is no manifest: the directory was never completed.

    Raises
    ------
    CorpusError
        If the manifest cannot be read, is of another kind or a newer schema, or a file is
        missing, of another size or (with ``verify``) of other content.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        files = tuple(FileEntry(**entry) for entry in values.pop("files"))
        manifest = Manifest(files=files, **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorpusError(path, f"not a riboray manifest ({error})") from error
    if manifest.kind != kind:
        raise CorpusError(directory, f"holds {manifest.kind}, not {kind}")
    if manifest.schema_version > SCHEMA_VERSION:
        raise CorpusError(
            path,
            f"has schema version {manifest.schema_version}, newer than {SCHEMA_VERSION}, the "
            "newest this riboray reads; update riboray",
        )
    for entry in manifest.files:
        file = directory / entry.name
        if not file.is_file() or file.stat().st_size != entry.bytes:
            raise CorpusError(file, "is missing or of another size than its manifest says")
        if verify and sha256_file(file) != entry.sha256:
            raise CorpusError(file, "has other content than its manifest says")
    return manifest


def _holds_something(directory: Path) -> bool:
    """Tell whether a directory is not empty, but for a lock and a marker never finished."""
    ours = (f".{OWNER_NAME}.", ".lock")
    return any(not entry.name.startswith(ours) for entry in directory.iterdir())


def finished(directory: Path, kind: str, identity: str) -> Manifest | None:
    """Return the manifest of a directory that this very work completed.

    Parameters
    ----------
    directory : Path
        The output directory, which need not exist.
    kind : str
        What the work makes.
    identity : str
        Hash of all that decides the result.

    Returns
    -------
    Manifest or None
        None if the work is not done.

    Raises
    ------
    OutputError
        If the directory holds something else, or was made from other inputs or options.
    """
    marker = directory / OWNER_NAME
    if not marker.is_file():
        if directory.exists() and (not directory.is_dir() or _holds_something(directory)):
            raise OutputError(
                directory, "exists already and holds something else; choose another --output"
            )
        return None
    try:
        owner = json.loads(marker.read_text("utf-8"))
        owned = (owner["kind"], owner["identity"]) == (kind, identity)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(marker, "cannot be read; remove the directory") from error
    if not owned:
        there = owner["kind"] if owner["kind"] != kind else f"{kind} of other inputs or options"
        raise OutputError(directory, f"holds {there}; choose another --output or remove it")
    manifest = read_manifest(directory, kind)
    if manifest is not None and manifest.fingerprint != identity:
        raise OutputError(directory, f"holds {kind} of other inputs or options; remove it")
    return manifest


@contextmanager
def exclusive(directory: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of a directory; the lock dies with the process.

    Parameters
    ----------
    directory : Path
        An existing directory; it gets a file ``.lock``.
    busy : str
        What to say if another process is in it.

    Raises
    ------
    OutputError
        If another process is in it, or its file system knows no locks.
    """
    with (directory / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(directory, busy) from error
        except OSError as error:
            raise OutputError(directory, f"cannot be locked ({error.strerror})") from error
        yield


def claim(directory: Path, kind: str, identity: str) -> Manifest | None:
    """Make an output directory and write down whose it is, or enter one that is ours.

    Returns
    -------
    Manifest or None
        As `finished`.

    Raises
    ------
    OutputError
        As `finished`.
    """
    done = finished(directory, kind, identity)
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / OWNER_NAME).is_file():
        write_json(directory / OWNER_NAME, {"kind": kind, "identity": identity})
    return done


@contextmanager
def entered(directory: Path, kind: str, identity: str, doing: str) -> Iterator[Manifest | None]:
    """Make an output directory or enter one that is ours, and keep other processes out of it.

    Parameters
    ----------
    directory, kind, identity
        As for `finished`.
    doing : str
        What is being done into it, for whoever comes second.

    Yields
    ------
    Manifest or None
        If another process has finished the work since one looked, its manifest.

    Raises
    ------
    OutputError
        As `exclusive` and `claim`.
    """
    warn_if_temporary(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive(directory, f"another process is {doing} into it"):
        done = claim(directory, kind, identity)
        try:
            yield done
        except KeyboardInterrupt:
            say(f"  stopped; the same command goes on from what is in {directory}")
            raise


def warn_if_temporary(directory: Path) -> None:
    """Warn of an output that is lost with the job: in a cluster's copy of the code."""
    if "working_dir_files" in directory.resolve().parts:
        warn(f"{directory} lies in the job's temporary copy of the code: give an absolute path")


def tidy(directory: Path) -> None:
    """Remove what a finished directory needs no more: files never committed, and the lock."""
    for left_over in [*directory.glob(".*.*"), directory / ".lock"]:
        with suppress(OSError):
            left_over.unlink()
