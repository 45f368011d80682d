"""What can be wrong with a request, and the HTTP status of each; said here and nowhere else."""

from __future__ import annotations

import math
from enum import StrEnum

from riboray.errors import RiborayError

__all__ = ["ErrorCode", "ServiceError"]


class ErrorCode(StrEnum):
    """What is wrong, as a word that a program can compare."""

    MALFORMED = "malformed"
    """The body or a parameter is not what the endpoint takes."""
    UNAUTHENTICATED = "unauthenticated"
    """A key is needed, and none was sent."""
    FORBIDDEN = "forbidden"
    """The key is not one of those that are known."""
    NOT_FOUND = "not_found"
    """There is no such model, index or page."""
    TIMEOUT = "timeout"
    """The answer took longer than requests may."""
    TOO_LARGE = "too_large"
    """The body, the number of sequences or one's length is over a limit."""
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    """The body is of a type that the endpoint does not read."""
    INVALID_SEQUENCE = "invalid_sequence"
    """A sequence is empty, or holds a character that is no nucleotide."""
    OVERLOADED = "overloaded"
    """More is waiting than may; come again later."""
    INTERNAL = "internal"
    """A failure of riboray itself."""
    NOT_READY = "not_ready"
    """The model is not loaded yet, or the service is ending."""

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return _STATUS[self]


_STATUS = {
    ErrorCode.MALFORMED: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TIMEOUT: 408,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.INVALID_SEQUENCE: 422,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.NOT_READY: 503,
}


class ServiceError(RiborayError):
    """A request, or one item of it, that cannot be answered.

    Parameters
    ----------
    code : ErrorCode
        What is wrong.
    message : str
        What is wrong and what to do about it, for a person.
    index : int, optional
        Which sequence of the request, from 0 on.
    position : int, optional
        Which character of it, from 0 on.
    retry_after : float, optional
        Seconds after which to try again.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        index: int | None = None,
        position: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.index = index
        self.position = position
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to the answer."""
        if self.code is ErrorCode.UNAUTHENTICATED:
            return {"WWW-Authenticate": "Bearer"}
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(math.ceil(self.retry_after), 1))}
