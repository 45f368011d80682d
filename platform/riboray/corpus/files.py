"""Opening input files, here or in remote storage, plain or gzip, with errors one can act on."""

from __future__ import annotations

import errno
import gzip
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from riboray.errors import InputError

__all__ = [
    "file_system",
    "first_bytes",
    "first_line",
    "is_remote",
    "local_path",
    "location",
    "opened",
    "opened_raw",
]


def is_remote(path: str | Path) -> bool:
    """Tell whether a path is a URL such as ``s3://…``, ``gs://…`` or ``https://…``."""
    return "://" in str(path) and not str(path).startswith("file://")


def file_system(url: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URL and the path on it.

    Object stores go through pyarrow itself; everything else (``http``, ``memory``, …) through
    fsspec.

    Raises
    ------
    InputError
        If no file system knows the scheme.
    """
    import fsspec
    import pyarrow as pa
    from pyarrow import fs

    try:
        if url.split("://")[0] in ("s3", "gs", "gcs"):
            return cast(tuple[Any, str], fs.FileSystem.from_uri(url))
        foreign, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, pa.ArrowInvalid, OSError) as error:
        raise InputError(url, f"no way to read it ({first_line(error)})") from error
    return fs.PyFileSystem(fs.FSSpecHandler(foreign)), path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def unusable(path: Path, what: str) -> str | None:
    """Say why a local path cannot be a ``what`` file, or None if it can be one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return f"is a directory, not a {what} file"
    if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer for ever
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        return f"is {kind}, not a {what} file; save the data to a file first"
    return None


@contextmanager
def opened_raw(path: str | Path, error: type[InputError], what: str) -> Iterator[BinaryIO]:
    """Open a file, local or remote, for reading its bytes as they are, at any place.

    Raises
    ------
    InputError
        Of type ``error``, if it is missing, unreadable or no file; also while it is read inside
        the ``with`` block.
    """
    try:
        if is_remote(path):
            system, name = file_system(str(path))
            with system.open_input_file(name) as handle:
                yield cast(BinaryIO, handle)
            return
        local = local_path(path)
        if (reason := unusable(local, what)) is not None:
            raise error(local, reason)
        with local.open("rb") as handle:
            yield handle
    except FileNotFoundError as cause:
        reason = _why_not_found(str(path))
        missing = error(path, reason or "no such file")
        missing.exit_code = missing.exit_code if reason is None else 1
        raise missing from cause
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise
    except OSError as cause:
        reason = f"cannot be read ({cause.strerror or first_line(cause)})"
        failure = error(path, reason)
        # Parquet's own complaints carry no number. Anything else but these may have passed when
        # the same command is given again, and what is done by then must be kept.
        lasting = (None, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
        if is_remote(path) or cause.errno not in lasting:
            failure.exit_code = 1
        raise failure from cause
    except Exception as cause:
        if not type(cause).__module__.startswith("aiohttp"):
            raise
        broken = error(path, f"the connection broke ({first_line(cause)})")
        broken.exit_code = 1
        raise broken from cause


def _why_not_found(path: str) -> str | None:
    """Say why a URL was not found although it may be there, else None.

    fsspec says "not found", too, if a server refuses or is out of order.
    """
    if not path.startswith(("http://", "https://")):
        return None
    import requests

    try:
        status = requests.head(path, timeout=30, allow_redirects=True).status_code
    except requests.RequestException as error:
        return f"the server does not answer ({type(error).__name__})"
    return None if status in (404, 410) else f"cannot be fetched (HTTP status {status})"


def location(path: str) -> str:
    """Return a path that means the same to a process in another directory."""
    return path if is_remote(path) else str(local_path(path).resolve())


def local_path(path: str | Path) -> Path:
    """Return a local path, also of a ``file://`` URL."""
    return Path(str(path).removeprefix("file://"))


def first_bytes(path: str | Path, error: type[InputError], what: str, count: int = 64) -> bytes:
    """Return what a plain or gzip file begins with, blank lines left out.

    Raises
    ------
    InputError
        As `opened`, and if there is nothing.
    """
    with opened(path, error, what, lambda: None) as handle:
        start = handle.read(count).lstrip()
    if not start:
        raise error(path, "is empty")
    return start


@contextmanager
def opened(
    path: str | Path, error: type[InputError], what: str, record: Callable[[], int | None]
) -> Iterator[BinaryIO]:
    """Open a plain or gzip file for reading bytes; turn what goes wrong into ``error``.

    Parameters
    ----------
    path : str or Path
        The file, or its URL.
    error : type
        Error to raise.
    what : str
        What the file should be, for the message.
    record : callable
        Returns the number of the record being read, for the message.

    Raises
    ------
    InputError
        Of type ``error``, if the file is missing, a directory, unreadable, or damaged gzip;
        the latter also while it is read inside the ``with`` block.
    """
    try:
        with opened_raw(path, error, what) as raw:
            magic = raw.read(2)
            raw.seek(0)
            if magic != b"\x1f\x8b":
                yield raw
                return
            with gzip.GzipFile(fileobj=raw, mode="rb") as handle:
                yield cast(BinaryIO, handle)
    except EOFError as cause:
        reason = "gzip file ends too early: it is truncated; fetch it again"
        raise error(path, reason, record()) from cause
    except (gzip.BadGzipFile, zlib.error) as cause:
        raise error(path, f"gzip file is damaged ({cause}); fetch it again", record()) from cause
