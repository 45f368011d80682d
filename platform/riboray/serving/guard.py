"""What every request goes through before it is answered: keys, limits, clocks, and who leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders, QueryParams

from riboray.serving.answers import error_body
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.inputs import Limits, read_fasta_body, too_many
from riboray.serving.keys import KeyRing
from riboray.serving.metrics import Metrics
from riboray.serving.schemas import ErrorResponse
from riboray.serving.web import WEB_FILES

__all__ = ["Guard", "answer_of"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger(__name__)

#: Answered without a key: whether the service is up is for whoever watches it, and the page holds
#: nothing but itself.
_OPEN = frozenset({"/healthz", "/readyz", *WEB_FILES})

#: Where FASTA is as good as JSON.
#: What an option of a query is, if it is no text: a number, yes or no, or nothing.
_NO_TEXT = re.compile(r"-?(0|[1-9]\d{0,8})(\.\d{1,9})?([eE][-+]?\d{1,3})?|true|false|null")

_FASTA_PATHS = frozenset({"/v1/embed", "/v1/fill-mask", "/v1/map", "/v1/search", "/v1/tokenize"})
_PREDICT = "/v1/predict/"
_FASTA_TYPES = frozenset({"text/x-fasta", "application/x-fasta", "text/plain"})

#: Fields of a request, and of one of its sequences, at most: more than there are. Each that is not
#: known would become a message of a kilobyte.
_FIELDS = 32

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def answer_of(error: ServiceError) -> JSONResponse:
    """Make the HTTP answer of an error."""
    body = ErrorResponse(error=error_body(error))
    return JSONResponse(
        body.model_dump(exclude_none=True), status_code=error.code.status, headers=error.headers
    )


class _Left(Exception):
    """The client is gone."""


class Guard:
    """What every request goes through before anything is computed.

    Parameters
    ----------
    app : ASGI application
        Behind it.
    keys : KeyRing
        Who may ask.
    limits : Limits
        How much a request may hold.
    seconds : float
        Until a request is given up.
    metrics : Metrics
        Counts answers.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        keys: KeyRing,
        limits: Limits,
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics
        self._limits, self._seconds = limits, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the ASGI protocol."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, arrived = False, time.monotonic()

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                spent = time.monotonic() - arrived
                self._metrics.count(scope["path"], message["status"], spent)
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._serve(scope, receive, guarded)
        except _Left:
            return
        except Exception as error:
            if begun:
                raise
            if not isinstance(error, ServiceError):
                _log.exception("a request failed")
                error = ServiceError(ErrorCode.INTERNAL, "riboray failed; its log says why")
            await answer_of(error)(scope, receive, guarded)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["path"] not in _OPEN:
            self._keys.check(headers.get("authorization"), headers.get("x-api-key"))
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(headers, receive)
                if scope["method"] == "POST":
                    body = self._as_json(scope, headers, body)
                await self._while_there(scope, body, receive, send)
        except TimeoutError as error:
            raise ServiceError(
                ErrorCode.TIMEOUT, f"no answer within {self._seconds:g} s: ask for less at once"
            ) from error

    async def _while_there(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Have a request answered, until its client leaves."""
        left = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        waiting = [body]

        async def next_message() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        watcher = asyncio.ensure_future(watch())
        answer = asyncio.ensure_future(self._app(scope, next_message, send))
        try:
            await asyncio.wait({watcher, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise _Left
            answer.result()
        finally:
            for task in (watcher, answer):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Read the body, no more of it than may be."""
        most = self._limits.body_bytes
        too_large = ServiceError(ErrorCode.TOO_LARGE, f"the body has more than {most:,} bytes")
        given = headers.get("content-length", "0")
        if given.isdecimal() and (len(given) > 15 or int(given) > most):
            raise too_large
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Left
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _as_json(self, scope: Scope, headers: Headers, body: bytes) -> bytes:
        """Check a body; turn FASTA, with the query's options, into what JSON would be."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            self._check_json(body)
            return body
        takes = scope["path"] in _FASTA_PATHS or scope["path"].startswith(_PREDICT)
        if kind not in _FASTA_TYPES or not takes:
            also = " or text/x-fasta" if takes else ""
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"send application/json{also}, not {kind[:100]!r}"
            )
        options: dict[str, Any] = dict(QueryParams(scope["query_string"]))
        for name, text in options.items():
            if _NO_TEXT.fullmatch(text):
                options[name] = json.loads(text)
        named = [{"id": name, "sequence": text} for name, text in read_fasta_body(body)]
        self._check_count(named)
        MutableHeaders(scope=scope)["content-type"] = "application/json"
        return json.dumps({**options, "sequences": named}).encode()

    def _check_count(self, sequences: list[Any]) -> None:
        if len(sequences) > self._limits.sequences:
            raise too_many(self._limits)

    def _check_json(self, body: bytes) -> None:
        """Refuse what a request's model would make a message of for each of a million parts."""
        try:
            value = from_json(body)
        except ValueError as error:
            reason = f"the body is no JSON: {str(error)[:200]}"
            raise ServiceError(ErrorCode.MALFORMED, reason) from error
        if not isinstance(value, dict):
            raise ServiceError(ErrorCode.MALFORMED, "the body is no JSON object")
        parts = [value]
        for given in value.values():
            if isinstance(given, list):
                self._check_count(given)
                parts += [part for part in given if isinstance(part, dict)]
                if wrong := next((p for p in given if not isinstance(p, str | dict)), None):
                    reason = f"{str(wrong)[:50]!r} is no sequence"
                    raise ServiceError(ErrorCode.MALFORMED, reason)
        if any(len(part) > _FIELDS for part in parts):
            raise ServiceError(ErrorCode.MALFORMED, f"more than {_FIELDS} fields")
