"""Opening input files, plain or gzip, with errors a person can act on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from riboray.errors import InputError

__all__ = ["is_gzip", "opened"]


def is_gzip(path: Path) -> bool:
    """Tell whether a file is gzip by its first bytes, whatever it is called."""
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


@contextmanager
def opened(
    path: Path, error: type[InputError], what: str, record: Callable[[], int | None]
) -> Iterator[BinaryIO]:
    """Open a plain or gzip file for reading bytes; turn what goes wrong into ``error``.

    Parameters
    ----------
    path : Path
        The file.
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
    if not path.is_file():
        raise error(path, f"is a directory, not a {what} file" if path.is_dir() else "no such file")
    try:
        plain = not is_gzip(path)
        with path.open("rb") if plain else cast(BinaryIO, gzip.open(path, "rb")) as handle:
            yield handle
    except EOFError as cause:
        reason = "gzip file ends too early: it is truncated; fetch it again"
        raise error(path, reason, record()) from cause
    except (gzip.BadGzipFile, zlib.error) as cause:
        raise error(path, f"gzip file is damaged ({cause}); fetch it again", record()) from cause
    except OSError as cause:
        raise error(path, f"cannot be read ({cause.strerror or cause})", record()) from cause
