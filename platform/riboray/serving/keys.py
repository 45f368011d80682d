"""API keys: what is known of them is a hash, and comparing takes the same time for all."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from riboray.errors import ConfigError, InputError
from riboray.serving.errors import ErrorCode, ServiceError

__all__ = ["KEYS_VARIABLE", "KeyRing", "new_key"]

KEYS_VARIABLE = "RIBORAY_API_KEYS"
"""Environment variable with keys' hashes, as in a file, separated by commas."""

_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9_.@-]{1,64}):(?P<hash>[0-9a-f]{64})")


def new_key(name: str) -> tuple[str, str]:
    """Make a key.

    Parameters
    ----------
    name : str
        Whose it is.

    Returns
    -------
    key, entry : str
        The key, of 256 random bits, for the client; and the line for the file, which does not
        give it away.

    Raises
    ------
    ConfigError
        If the name has other characters than letters, digits and ``_.@-``, or more than 64.
    """
    key = f"rbr_{secrets.token_urlsafe(32)}"
    entry = f"{name}:{_digest(key)}"
    if not _ENTRY.fullmatch(entry):
        raise ConfigError(f"{name!r} cannot be the name of a key: use letters, digits and _.@-")
    return key, entry


def _digest(key: str) -> str:
    # Keys are long and random: what slows down guessing of passwords is not needed.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class KeyRing:
    """The keys that open the service.

    Attributes
    ----------
    hashes : mapping of str to str
        Hash of each key, by its name. Empty: the service is open to all who reach it.
    """

    hashes: Mapping[str, str]

    @classmethod
    def read(cls, path: str | None = None, environment: Mapping[str, str] = os.environ) -> KeyRing:
        """Read hashes from a file and from the environment.

        Parameters
        ----------
        path : str, optional
            A line a key, ``name:sha256``; empty lines and those that begin with # do not count.
        environment : mapping, optional
            Where `KEYS_VARIABLE` may be.

        Raises
        ------
        InputError
            If the file cannot be read, or a line is no entry. The line is not shown: it may be a
            key that was put there by mistake.
        """
        entries: list[tuple[str, int, str]] = []
        if path is not None:
            try:
                lines = Path(path).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(path, f"cannot be read ({error})") from error
            entries += [(path, number, line.strip()) for number, line in enumerate(lines, start=1)]
        given = environment.get(KEYS_VARIABLE, "")
        entries += [
            (KEYS_VARIABLE, number, entry.strip())
            for number, entry in enumerate(given.split(","), start=1)
        ]
        hashes: dict[str, str] = {}
        for source, number, entry in entries:
            if not entry or entry.startswith("#"):
                continue
            if (found := _ENTRY.fullmatch(entry)) is None:
                raise InputError(source, "is no `name:sha256` of a key", number)
            if hashes.setdefault(found["name"], found["hash"]) != found["hash"]:
                raise InputError(source, f"{found['name']} has another key already", number)
        return cls(hashes)

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self.hashes)

    def check(self, authorization: str | None, header: str | None = None) -> str | None:
        """Tell whose key a request has.

        Parameters
        ----------
        authorization : str, optional
            The ``Authorization`` header: ``Bearer KEY``.
        header : str, optional
            The ``X-API-Key`` header: the key.

        Returns
        -------
        str or None
            The key's name; None if none is needed.

        Raises
        ------
        ServiceError
            ``UNAUTHENTICATED`` without a key, ``FORBIDDEN`` with an unknown one.
        """
        if not self:
            return None
        key = header
        scheme, _, rest = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":  # another may be for a proxy in front
            key = rest.strip()
        if not key:
            raise ServiceError(
                ErrorCode.UNAUTHENTICATED,
                "send a key: `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            )
        digest = _digest(key)
        # All are compared, whichever it is.
        same = [n for n, known in self.hashes.items() if hmac.compare_digest(known, digest)]
        if not same:
            raise ServiceError(ErrorCode.FORBIDDEN, "the key is not known")
        return same[0]
