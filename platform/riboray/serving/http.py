"""The service over HTTP: routes, bodies, keys and limits; no Ray."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException

from riboray import __version__
from riboray.serving.answers import error_body
from riboray.serving.arrow import ARROW_TYPE
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.inputs import read_fasta_body
from riboray.serving.keys import KeyRing
from riboray.serving.metrics import METRICS_TYPE, Metrics
from riboray.serving.schemas import (
    AlignRequest,
    AlignResponse,
    EmbedRequest,
    EmbedResponse,
    ErrorResponse,
    FillRequest,
    FillResponse,
    MapRequest,
    MapResponse,
    OpenAIRequest,
    OpenAIResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from riboray.serving.service import Health, Info, Service
from riboray.serving.web import WEB_FILES, add_file

__all__ = ["Guard", "build_api"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Answered without a key: whether the service is up is for whoever watches it, and the page holds
#: nothing but itself.
_OPEN = frozenset({"/healthz", "/readyz", *WEB_FILES})

#: Where FASTA is as good as JSON.
_FASTA_PATHS = frozenset({"/v1/embed", "/v1/fill-mask", "/v1/map", "/v1/tokenize"})
_FASTA_TYPES = frozenset({"text/x-fasta", "application/x-fasta", "text/plain"})

_LINES = "application/x-ndjson"

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def _answer(error: ServiceError) -> JSONResponse:
    body = ErrorResponse(error=error_body(error))
    return JSONResponse(
        body.model_dump(exclude_none=True), status_code=error.code.status, headers=error.headers
    )


class Guard:
    """What every request goes through before anything is computed.

    Parameters
    ----------
    app : ASGI application
        Behind it.
    keys : KeyRing
        Who may ask.
    body_bytes : int
        Bytes of a body at most.
    seconds : float
        Until a request is given up.
    metrics : Metrics
        Counts answers.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        keys: KeyRing,
        body_bytes: int,
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics
        self._body_bytes, self._seconds = body_bytes, seconds

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
            try:
                headers = Headers(scope=scope)
                if scope["path"] not in _OPEN:
                    self._keys.check(headers.get("authorization"), headers.get("x-api-key"))
                async with asyncio.timeout(self._seconds):
                    body = await self._body(headers, receive)
                    if scope["method"] == "POST":
                        body = _as_json(scope, headers, body)
                    await self._app(scope, _once(body, receive), guarded)
            except TimeoutError as error:
                raise ServiceError(
                    ErrorCode.TIMEOUT, f"no answer within {self._seconds:g} s: ask for less at once"
                ) from error
        except ServiceError as error:
            if begun:
                raise
            await _answer(error)(scope, receive, guarded)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Read the body, no more of it than may be."""
        too_large = ServiceError(
            ErrorCode.TOO_LARGE, f"the body has more than {self._body_bytes:,} bytes"
        )
        given = headers.get("content-length", "0")
        if given.isdecimal() and int(given) > self._body_bytes:
            raise too_large
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ServiceError(ErrorCode.MALFORMED, "the body ended early")
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._body_bytes:
                raise too_large
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _once(body: bytes, receive: Receive) -> Receive:
    """Hand a body that was read over, and after it what else is received."""
    waiting = [body]

    async def next_message() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return next_message


def _as_json(scope: Scope, headers: Headers, body: bytes) -> bytes:
    """Check the type of a body; turn FASTA, with the query's options, into what JSON would be."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return body
    if kind not in _FASTA_TYPES or scope["path"] not in _FASTA_PATHS:
        also = " or text/x-fasta" if scope["path"] in _FASTA_PATHS else ""
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"send application/json{also}, not {kind[:100]!r}"
        )
    options: dict[str, Any] = dict(QueryParams(scope["query_string"]))
    for name in ("layer", "top_k"):
        if options.get(name, "").isdecimal():
            options[name] = int(options[name])
    named = [{"id": name, "sequence": text} for name, text in read_fasta_body(body)]
    MutableHeaders(scope=scope)["content-type"] = "application/json"
    return json.dumps({**options, "sequences": named}).encode()


async def _json_lines(items: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    """Write items line by line; what goes wrong on the way is the last line."""
    try:
        async for item in items:
            yield item.model_dump_json(exclude_none=True) + "\n"
    except ServiceError as error:
        yield ErrorResponse(error=error_body(error)).model_dump_json(exclude_none=True) + "\n"


def _refused(error: RequestValidationError) -> ServiceError:
    """Say what is wrong with a request's first field that is not as it should be."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
    message = str(first["msg"])[:500]
    return ServiceError(ErrorCode.MALFORMED, f"{where}: {message}" if where else message)


_STATUS_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.MALFORMED}


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(ServiceError)
    async def told(request: Request, error: ServiceError) -> JSONResponse:
        return _answer(error)

    @api.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(_refused(error))

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        code = _STATUS_CODES.get(error.status_code, ErrorCode.MALFORMED)
        answer = _answer(ServiceError(code, str(error.detail)))
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _answer(ServiceError(ErrorCode.INTERNAL, "riboray failed; its log says why"))


_ERRORS: dict[int | str, dict[str, Any]] = {
    code.status: {"model": ErrorResponse, "description": code.value.replace("_", " ")}
    for code in ErrorCode
}


def _fasta_too(example: str) -> dict[str, Any]:
    content = {"text/x-fasta": {"schema": {"type": "string"}, "example": example}}
    return {"requestBody": {"content": content}}


def _add_state(api: FastAPI, service: Service) -> None:
    """Add the page, and what tells of the service itself."""
    for path, (name, media_type) in WEB_FILES.items():
        add_file(api, path, name, media_type)

    @api.get("/healthz", summary="Is the service up?")
    async def healthz() -> Health:
        return service.health()

    @api.get("/readyz", summary="Can the service answer?")
    async def readyz() -> Health:
        return service.health()

    @api.get(
        "/metrics",
        summary="Numbers of this replica, for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=METRICS_TYPE)

    @api.get("/v1/info", summary="Which model is this?")
    async def info() -> Info:
        return service.info()


def _add_model(api: FastAPI, service: Service) -> None:
    """Add what asks the model."""

    @api.post(
        "/v1/embed",
        summary="Embeddings of sequences or of their bases",
        response_model_exclude_none=True,
        response_model=EmbedResponse,
        responses={200: {"content": {ARROW_TYPE: {}, _LINES: {}}}},
        openapi_extra=_fasta_too(">hairpin\nGGGAAACCC\n"),
    )
    async def embed(request: EmbedRequest, http: Request) -> EmbedResponse | Response:
        """Answer as ``Accept`` says: JSON, an Arrow stream, or JSON line by line as it is made."""
        accepted = http.headers.get("accept", "")
        if ARROW_TYPE in accepted:
            return Response(await service.embed_arrow(request), media_type=ARROW_TYPE)
        if _LINES in accepted:
            items = service.embed_items(request)
            return StreamingResponse(_json_lines(items), media_type=_LINES)
        return await service.embed(request)

    @api.post(
        "/v1/fill-mask",
        summary="Hidden nucleotides",
        response_model_exclude_none=True,
        openapi_extra=_fasta_too(">hairpin\nGGG<mask>AACCC\n"),
    )
    async def fill_mask(request: FillRequest) -> FillResponse:
        return await service.fill_mask(request)

    @api.post("/v1/align", summary="Structural alignments", response_model_exclude_none=True)
    async def align(request: AlignRequest) -> AlignResponse:
        return await service.align(request)

    _add_more(api, service)


def _add_more(api: FastAPI, service: Service) -> None:
    @api.post(
        "/v1/map",
        summary="Where sequences lie among known families",
        response_model_exclude_none=True,
        openapi_extra=_fasta_too(">hairpin\nGGGAAACCC\n"),
    )
    async def place(request: MapRequest) -> MapResponse:
        return await service.map(request)

    @api.post(
        "/v1/tokenize",
        summary="Tokens of sequences",
        response_model_exclude_none=True,
        openapi_extra=_fasta_too(">hairpin\nGGGAAACCC\n"),
    )
    async def tokenize(request: TokenizeRequest) -> TokenizeResponse:
        return service.tokenize(request)

    @api.post("/v1/embeddings", summary="Embeddings, for OpenAI's clients")
    async def embeddings(request: OpenAIRequest) -> OpenAIResponse:
        return await service.openai_embeddings(request)


def build_api(
    service: Service, keys: KeyRing | None = None, request_seconds: float = 60.0
) -> FastAPI:
    """Put a service behind HTTP.

    Parameters
    ----------
    service : Service
        Answers.
    keys : KeyRing, optional
        Who may ask; by default everybody.
    request_seconds : float
        Until a request is given up.

    Returns
    -------
    FastAPI
        With `Guard` in front of it.
    """

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    api = FastAPI(
        lifespan=lifespan,
        title="riboray",
        version=__version__,
        description="RNABERT, an RNA language model, as a service.",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    _add_error_handlers(api)
    api.add_middleware(
        Guard,
        keys=keys or KeyRing({}),
        body_bytes=service.limits.body_bytes,
        seconds=request_seconds,
        metrics=service.metrics,
    )

    _add_state(api, service)
    _add_model(api, service)
    return api
