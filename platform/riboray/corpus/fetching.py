"""The verb `fetch`: the files of RNAcentral and Rfam, whole and checked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests

from riboray.console import say
from riboray.corpus.download import Download, RemoteFile, Upstream, new_session, note_of, probe
from riboray.corpus.meter import Meter
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.errors import ConfigError, OutputError, RiborayError
from riboray.manifest import atomic_path, sha256_file, write_json
from riboray.room import byte_size, check_disk

__all__ = ["DATABASES", "Database", "FetchConfig", "fetch"]

_READ = 1 << 18
_INFLATED = 1 << 20


@dataclass(frozen=True)
class Database:
    """Where a database keeps its files: folder of the releases, of the newest one, paths in it."""

    base_url: str
    releases: str
    current: str
    files: dict[str, str]
    default: tuple[str, ...]


DATABASES: dict[str, Database] = {
    "rnacentral": Database(
        base_url="https://ftp.ebi.ac.uk/pub/databases/RNAcentral",
        releases="releases/",
        current="current_release/",
        files={
            "active": "sequences/rnacentral_active.fasta.gz",
            "species-specific": "sequences/rnacentral_species_specific_ids.fasta.gz",
            "id-mapping": "id_mapping/id_mapping.tsv.gz",
            "rfam-annotations": "rfam/rfam_annotations.tsv.gz",
        },
        default=("active", "id-mapping"),
    ),
    "rfam": Database(
        base_url="https://ftp.ebi.ac.uk/pub/databases/Rfam",
        releases="",
        current="CURRENT/",
        files={"seed": "Rfam.seed.gz", "clans": "Rfam.clanin"},
        default=("seed",),
    ),
    # It comes with riboray: no address.
    "sample": Database(
        base_url="",
        releases="",
        current="",
        files={"sequences": Path(SAMPLE_CORPUS).name, "families": Path(SAMPLE_ALIGNMENTS).name},
        default=("sequences", "families"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Download the files of RNA databases: ``riboray fetch rnacentral --release 26.0``.

    A download that was cut off goes on where it stopped when the same command is run again.
    """

    POSITIONAL: ClassVar[str] = "databases"
    VALUES: ClassVar[dict[str, tuple[str, ...]]] = {"databases": tuple(DATABASES)}

    databases: list[str] = field(default_factory=list)
    """What to fetch from: rnacentral, rfam, or sample, the nine families that come with riboray;
    may be given first, without the flag."""
    release: str | None = None
    """Release, such as 26.0 (RNAcentral) or 15.0 (Rfam); the newest by default. In
    YAML it needs quotes."""
    output: str = "databases"
    """Directory for the files; each release has a folder in it, such as rnacentral-26.0."""
    files: list[str] = field(default_factory=list)
    """Which files. rnacentral: active, species-specific, id-mapping, rfam-annotations (by default
    active and id-mapping); rfam: seed, clans (by default seed); sample: sequences, families."""
    base_url: str | None = None
    """Address of a mirror, in place of the database's folder at the EBI, such as
    https://ftp.ebi.ac.uk/pub/databases/RNAcentral; the paths below it stay the same."""
    update: bool = False
    """Replace a file that is there already if it has changed upstream."""
    retries: int = 10
    """Attempts that may fail, one after another, without a new byte before the command gives up."""

    dry_run: bool = False
    """Ask for the sizes of the files, say them, and stop."""

    def __post_init__(self) -> None:
        names = ", ".join(DATABASES)
        if not self.databases:
            raise ConfigError(f"nothing to fetch: name a database ({names})")
        for name in self.databases:
            if name not in DATABASES:
                raise ConfigError(f"unknown database {name!r}; there are {names}")
        self._check_files()
        if self.release is not None and len(set(self.databases)) > 1:
            raise ConfigError("each database counts its releases by itself; fetch them one by one")
        if self.release is not None and not re.fullmatch(r"\d+\.\d+[\w.-]*", self.release):
            raise ConfigError(f"release must be written as 26.0, not {self.release!r}")
        if "sample" in self.databases and (self.release or self.base_url):
            raise ConfigError("sample comes with riboray: it has no releases and no address")
        if self.base_url is not None:
            _check_url(self.base_url)
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, not {self.retries}")

    def _check_files(self) -> None:
        listing = "; ".join(
            f"{name} has {', '.join(DATABASES[name].files)}"
            for name in dict.fromkeys(self.databases)
        )
        for file in self.files:
            if not any(file in DATABASES[name].files for name in self.databases):
                raise ConfigError(f"unknown file {file!r}; {listing}")
        for name in self.databases:
            if self.files and not set(self.files) & set(DATABASES[name].files):
                raise ConfigError(f"--files names none of {name}; {listing}")

    def plan(self) -> list[tuple[RemoteFile, Path]]:
        """Return every file to fetch and where it goes."""
        files = []
        for name in dict.fromkeys(self.databases):
            database = DATABASES[name]
            base = (self.base_url or database.base_url).rstrip("/") + "/"
            folder = f"{database.releases}{self.release}/" if self.release else database.current
            target = Path(self.output) / f"{name}-{self.release or 'current'}"
            target = target if base != "/" else Path(self.output) / name
            wanted = self.files or database.default
            for path in (path for key, path in database.files.items() if key in wanted):
                remote = RemoteFile(f"{base}{folder}{path}", f"{base}{database.releases}")
                files.append((remote, target / remote.name))
        return files


def _check_url(url: str) -> None:
    """Refuse what is no address of a folder on the web."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        # A password would be written into the notes beside the files.
        usable = usable and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        usable = False
    if not usable:
        rule = "must be http://… or https://…, without a password, ? or #"
        raise ConfigError(f"base_url {rule}, not {url!r}")


def fetch(config: FetchConfig) -> dict[str, Any]:
    """Download the files that a configuration names.

    Parameters
    ----------
    config : FetchConfig
        What to fetch and where to.

    Returns
    -------
    dict
        ``files``, with path, URL, bytes, sha256, the byte at which an earlier download was taken
        up and the number of requests for contents, and ``bytes``, their sum.

    Raises
    ------
    RiborayError
        If a file cannot be had or is damaged.
    OutputError
        If the disk is too small, or another process is fetching the same file.
    """
    with new_session() as session:
        if config.dry_run:
            return _rehearse(session, config)
        files = [
            _fetch_file(session, config, *item) if item[0].url.startswith("http") else _copy(*item)
            for item in config.plan()
        ]
    return {"files": files, "bytes": sum(file["bytes"] for file in files)}


def _rehearse(session: requests.Session, config: FetchConfig) -> dict[str, Any]:
    """Say how large the files are and which of them are there."""
    files, wanted = [], 0
    for file, target in config.plan():
        bundled = Path(SAMPLE_CORPUS).with_name(file.name)
        remote = file.url.startswith("http")
        size = probe(session, file, config.retries).size if remote else bundled.stat().st_size
        there = target.is_file() and target.stat().st_size == size
        known = "of unknown size" if size is None else byte_size(size)
        say(f"{target}: {known}, {'is there already' if there else f'from {file.url}'}")
        files.append({"path": str(target), "url": file.url, "bytes": size, "there": there})
        wanted += 0 if there or size is None else size
    check_disk(Path(config.output), wanted, "make room or choose another --output")
    return {"dry_run": True, "files": files, "bytes": wanted}


def _copy(file: RemoteFile, target: Path) -> dict[str, Any]:
    """Write a file that comes with riboray."""
    source = Path(SAMPLE_CORPUS).with_name(file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    say(f"{target}: {byte_size(target.stat().st_size)}, whole")
    note = {"url": str(source), "size": target.stat().st_size, "sha256": sha256_file(target)}
    return _result(target, note, 0, 0)


def _fetch_file(
    session: requests.Session, config: FetchConfig, file: RemoteFile, target: Path
) -> dict[str, Any]:
    """Fetch one file unless it is there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(target.parent, "is a file, not a directory") from error
    existed = target.exists()
    if existed and (there := _there(session, config, file, target)):
        return there
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as handle:
        # It may have come between the two calls, from another process.
        if target.exists() and not existed and (there := _there(session, config, file, target)):
            return there
        meter = Meter(file.name, f" from {file.url}")
        download = Download(session, file, part, handle, config.retries, meter.show)
        try:
            with closing(meter):
                download.run()
            sha256 = _checked(part, file, download.upstream.size)
        except KeyboardInterrupt:
            kept = byte_size(download.position)
            say(f"{file.name}: stopped; {kept} are kept, and the same command goes on from there")
            raise
        note = asdict(download.upstream) | {
            "url": file.url,
            "size": download.position,
            "sha256": sha256,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.fsync(handle.fileno())
        # In this order a crash in between leaves no file without its note.
        write_json(_source_of(target), note)
        part.replace(target)
        note_of(part).unlink(missing_ok=True)
        say(f"{target}: {byte_size(download.position)}, whole")
        return _result(target, note, download.resumed_from, download.attempts)


def _source_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.source.json")


def _result(target: Path, note: dict[str, Any], resumed: int, attempts: int) -> dict[str, Any]:
    what = {"path": str(target), "url": note["url"], "bytes": note["size"]}
    return what | {"sha256": note["sha256"], "resumed_from": resumed, "attempts": attempts}


def _there(
    session: requests.Session, config: FetchConfig, file: RemoteFile, target: Path
) -> dict[str, Any] | None:
    """Return the result for a file that need not be fetched again, None if it must be."""
    if not target.is_file():
        raise OutputError(target, "is no file; remove it or choose another --output")
    try:
        note = json.loads(_source_of(target).read_text("utf-8"))
        known = Upstream(note["size"], note["etag"], note["last_modified"])
        result = _result(target, note, 0, 0)
    except (OSError, ValueError, TypeError, KeyError):
        known = Upstream()
    if known.size != target.stat().st_size:
        if config.update:
            return None
        raise OutputError(
            target,
            f"is there already, but not as a finished fetch leaves it ({_source_of(target).name} "
            "is missing or names another size); remove it, or let --update replace it",
        )
    try:
        now = probe(session, file, config.retries if config.update else 0)
    except RiborayError as error:
        if config.update:
            raise
        say(f"{target}: is there already; whether it has changed upstream is not known ({error})")
        return result
    if known.agrees(now):
        say(f"{target}: is there already")
    elif config.update:
        say(f"{target}: has changed upstream; fetching it again")
        return None
    else:
        say(f"{target}: is there already, but has changed upstream; --update replaces it")
    return result


@contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """Open a partial file for this process alone; the lock goes when the process does."""
    while True:
        handle = part.open("a+b", buffering=0)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise OutputError(
                part, "another process is fetching it; wait for it or choose another --output"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                handle.close()
                raise
            say(f"{part}: this file system has no locks; fetch it with one command at a time")
        if _is_at(handle, part):
            break
        handle.close()  # its owner finished and renamed it between the two calls
    try:
        yield handle
    finally:
        if _is_at(handle, part) and os.fstat(handle.fileno()).st_size == 0:
            part.unlink()
            note_of(part).unlink(missing_ok=True)
        handle.close()


def _is_at(handle: FileIO, path: Path) -> bool:
    """Tell whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _checked(part: Path, file: RemoteFile, size: int | None) -> str:
    """Return a download's sha256, or remove it if it is damaged."""
    have = part.stat().st_size
    sha256, damage = _sha256_of(part, file.name)
    if size is not None and have != size:
        damage = f"{have:,} bytes came, not {size:,}"
    if not damage:
        return sha256
    part.unlink()
    note_of(part).unlink(missing_ok=True)
    raise RiborayError(
        f"{file.url}: was damaged in transfer ({damage}) and is removed; run the command again"
    )


def _sha256_of(path: Path, name: str) -> tuple[str, str]:
    """Read a file to its end; return its sha256 and what is wrong with it, if it is gzip.

    Upstream publishes no checksums; gzip carries one of its own.
    """
    digest, member = hashlib.sha256(), zlib.decompressobj(wbits=31)
    size, done = path.stat().st_size, 0
    with path.open("rb") as handle, closing(Meter(f"checking {name}")) as meter:
        while block := handle.read(_READ):
            digest.update(block)
            try:
                member = _unpacked(member, block) if name.endswith(".gz") else member
            except zlib.error as error:
                return "", f"bad gzip data: {error}"
            meter.show(done := done + len(block), size)
    cut = name.endswith(".gz") and not member.eof
    return digest.hexdigest(), "its gzip data end too early" if cut else ""


def _unpacked(member: Any, block: bytes) -> Any:
    """Unpack a block of gzip into nothing; return the member in which it ends."""
    while block:
        if member.eof:
            if not (block := block.lstrip(b"\0")):  # gzip may be padded
                break
            member = zlib.decompressobj(wbits=31)
        member.decompress(block, _INFLATED)
        block = member.unconsumed_tail or member.unused_data
    return member
