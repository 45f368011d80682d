"""What the user pointed at: files, folders, patterns and URLs as a list of files to read."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from riboray.corpus.files import (
    file_system,
    first_line,
    is_remote,
    local_path,
    location,
    opened_raw,
)
from riboray.errors import CorpusError, FastaError, InputError
from riboray.manifest import MANIFEST_NAME, OWNER_NAME

__all__ = ["FASTA_SUFFIXES", "InputFile", "find_inputs", "identify"]

FASTA_SUFFIXES = (".fa", ".fasta", ".fna", ".ffn", ".frn", ".fas", ".fsa")
"""Endings by which FASTA files are found in a folder, each also with ``.gz`` or ``.bgz``."""

_WANTED = (*(f"{s}{z}" for s in FASTA_SUFFIXES for z in ("", ".gz", ".bgz")), ".parquet")

#: A file up to this size is known by its whole content, a larger one by size, time and its ends.
_HASHED_BYTES = 256 << 20
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """One file to read.

    Attributes
    ----------
    path : str
        As found, below what was given; a local path or a URL. It names the file in what is written.
    location : str
        The same, for processes in any directory.
    kind : str
        ``fasta``, ``fasta.gz`` or ``parquet``.
    size : int
        Bytes.
    identity : str
        Changes with the content, not with the name.
    """

    path: str
    location: str
    kind: Literal["fasta", "fasta.gz", "parquet"]
    size: int
    identity: str = field(repr=False)


def find_inputs(
    paths: Sequence[str], output: Path | None = None, *, validation: bool = False
) -> list[InputFile]:
    """Find the files that paths, folders, patterns and URLs stand for.

    Parameters
    ----------
    paths : sequence of str
        A folder stands for the FASTA and Parquet files below it, by their endings; a folder that
        `riboray ingest` made, for its sequences. A pattern holds ``*``, ``?`` or ``[``.
    output : Path, optional
        A directory in which nothing is input, though it may lie in a folder given.
    validation : bool
        Whether what a corpus sets apart for validation is taken, too.

    Returns
    -------
    list of InputFile
        In the order given; what a folder or a pattern stands for, sorted by name.

    Raises
    ------
    InputError
        If a path leads to nothing, a file stands twice, or cannot be looked at.
    """
    found: list[str] = []
    for path in paths:
        found += _expand(path, output, validation)
    seen: set[str] = set()
    for path in found:
        key = location(path)
        try:
            path.encode()
        except UnicodeEncodeError as error:
            shown = path.encode("utf-8", "backslashreplace").decode()
            raise CorpusError(shown, "its name is not UTF-8; rename it") from error
        if key in seen:
            raise CorpusError(path, "is given twice")
        seen.add(key)
    return [_look_at(path) for path in found]


def _expand(path: str, output: Path | None, validation: bool) -> list[str]:
    if is_remote(path):
        return _expand_remote(path)
    local = local_path(path)
    if local.is_dir():
        return _below(local, output, validation)
    if glob.has_magic(path) and not local.exists():
        folder, pattern = _split_pattern(str(local))
        matches = sorted(Path(folder).glob(pattern))
        files = [str(match) for match in matches if not match.is_dir()]
        if not files:
            raise FastaError(path, "no file matches")
        return files
    return [str(local)]


def _split_pattern(path: str) -> tuple[str, str]:
    """Split a path into the folder before the first wildcard and the pattern, or nothing."""
    first = re.search(r"[^/]*[*?\[]", path)
    return (path[: first.start()], path[first.start() :]) if first else (path, "")


def _below(folder: Path, output: Path | None, validation: bool) -> list[str]:
    """List the files of a folder that look like input; corpora below it are not."""
    if (folder / MANIFEST_NAME).is_file() and (folder / OWNER_NAME).is_file():
        stems = ("sequences", "validation_sequences")[: 1 + validation]
        shards = [path for stem in stems for path in sorted(folder.glob(f"{stem}-*.parquet"))]
        if not shards:
            raise CorpusError(folder, "holds no sequences")
        return [str(shard) for shard in shards]
    made = {marker.parent.resolve() for marker in folder.rglob(OWNER_NAME)}
    made |= {output} if output is not None else set()
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(_WANTED)
        and not path.name.startswith(".")
        and path.is_file()
        and not made & set(path.resolve().parents)
    )
    if not files:
        endings = ", ".join((*FASTA_SUFFIXES, ".parquet"))
        raise CorpusError(folder, f"no file below ends in {endings} (or .gz): name the files")
    return [str(path) for path in files]


def _expand_remote(url: str) -> list[str]:
    from pyarrow import fs

    bare, _, query = url.partition("?") if url.startswith(("s3://", "gs://")) else (url, "", "")
    if url.startswith(("http://", "https://")):
        return [url]  # nothing can be listed over HTTP
    folder, pattern = _split_pattern(bare)
    suffix = f"?{query}" if query else ""
    system, name = file_system(folder.rstrip("/") + suffix)
    try:
        if system.get_file_info(name).type != fs.FileType.Directory:
            return [url]
        entries = system.get_file_info(fs.FileSelector(name, recursive=True))
    except OSError as error:
        raise FastaError(url, f"cannot be read ({first_line(error)})") from error
    files = [e.path.removeprefix(name).lstrip("/") for e in entries if e.type == fs.FileType.File]
    if pattern:
        # As for local files, a star does not reach into folders unless it is doubled.
        depth = None if "**" in pattern else pattern.count("/")
        wanted = [f for f in files if fnmatch.fnmatchcase(f, pattern)]
        wanted = [f for f in wanted if depth is None or f.count("/") == depth]
    else:
        wanted = [f for f in files if f.lower().endswith(_WANTED)]
    if not wanted:
        raise FastaError(url, "no file matches" if pattern else "no FASTA or Parquet file below")
    return [f"{folder.rstrip('/')}/{f}{suffix}" for f in sorted(wanted)]


def local_size(path: str) -> int:
    """Return the bytes of a local file; 0 for a remote one."""
    return 0 if is_remote(path) else local_path(path).stat().st_size


def identify(path: str, error: type[InputError], what: str) -> str:
    """Return what tells the content of a file, local or remote.

    Raises
    ------
    InputError
        Of type ``error``, if it cannot be read or is empty.
    """
    with opened_raw(path, error, what) as handle:
        size = handle.seek(0, 2)
        if not size:
            raise error(path, "is empty")
        return _identity(path, handle, size)


def _look_at(path: str) -> InputFile:
    with opened_raw(path, FastaError, "FASTA") as handle:
        magic = handle.read(4)
        size = handle.seek(0, 2)
        if not size:
            raise FastaError(path, "is empty")
        identity = _identity(path, handle, size)
    if magic == b"PAR1":
        return InputFile(path, location(path), "parquet", size, identity)
    return InputFile(
        path, location(path), "fasta.gz" if magic[:2] == b"\x1f\x8b" else "fasta", size, identity
    )


def _identity(path: str, handle: BinaryIO, size: int) -> str:
    digest = hashlib.sha256(f"{size}\n".encode())
    handle.seek(0)
    if size <= _HASHED_BYTES and not is_remote(path):
        while chunk := handle.read(_END_BYTES):
            digest.update(chunk)
        return digest.hexdigest()
    if not is_remote(path):
        digest.update(f"{local_path(path).stat().st_mtime_ns}\n".encode())
    digest.update(handle.read(_END_BYTES))
    handle.seek(max(size - _END_BYTES, 0))
    digest.update(handle.read(_END_BYTES))
    return digest.hexdigest()
