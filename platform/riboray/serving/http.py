"""The service over HTTP: routes, bodies, keys and limits; no Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from riboray import __version__
from riboray.serving.answers import error_body
from riboray.serving.arrow import ARROW_TYPE
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.guard import Guard, answer_of
from riboray.serving.keys import KeyRing
from riboray.serving.metrics import METRICS_TYPE
from riboray.serving.openai import OpenAIRequest, OpenAIResponse
from riboray.serving.predictions import PredictRequest, PredictResponse
from riboray.serving.schemas import (
    AlignRequest,
    AlignResponse,
    EmbedRequest,
    EmbedResponse,
    ErrorResponse,
    FillRequest,
    FillResponse,
    Health,
    Info,
    MapRequest,
    MapResponse,
    SearchRequest,
    SearchResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from riboray.serving.service import Service
from riboray.serving.web import WEB_FILES, add_file

__all__ = ["build_api"]

_LINES = "application/x-ndjson"

_log = logging.getLogger(__name__)

#: Share of a request's seconds after which a streamed answer says itself that it ends early.
_STREAM_SHARE = 0.9


async def _json_lines(items: AsyncIterator[BaseModel], seconds: float) -> AsyncIterator[str]:
    """Write items line by line; what goes wrong on the way is the last line."""
    end = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            async with asyncio.timeout_at(end):
                item = await anext(items, None)
            if item is None:
                return
            yield item.model_dump_json(exclude_none=True) + "\n"
            await asyncio.sleep(0)  # others are served, too
    except ServiceError as error:
        told = error
    except TimeoutError:
        told = ServiceError(ErrorCode.TIMEOUT, f"not all within {seconds:g} s: ask for less")
    except Exception:
        _log.exception("a streamed answer failed")
        told = ServiceError(ErrorCode.INTERNAL, "riboray failed; its log says why")
    yield ErrorResponse(error=error_body(told)).model_dump_json(exclude_none=True) + "\n"


async def _json(answer: BaseModel) -> Response:
    """Write a large answer aside: others are served meanwhile."""
    content = await asyncio.to_thread(answer.model_dump_json, exclude_none=True)
    return Response(content, media_type="application/json")


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
        return answer_of(error)

    @api.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer_of(_refused(error))

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        code = _STATUS_CODES.get(error.status_code, ErrorCode.MALFORMED)
        answer = answer_of(ServiceError(code, str(error.detail)))
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer


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


def _add_model(api: FastAPI, service: Service, seconds: float) -> None:
    """Add what asks the model."""

    @api.post(
        "/v1/embed",
        summary="Embeddings of sequences or of their bases",
        response_model=EmbedResponse,
        responses={200: {"content": {ARROW_TYPE: {}, _LINES: {}}}},
        openapi_extra=_fasta_too(">hairpin\nGGGAAACCC\n"),
    )
    async def embed(request: EmbedRequest, http: Request) -> Response:
        """Answer as ``Accept`` says: JSON, an Arrow stream, or JSON line by line as it is made."""
        accepted = http.headers.get("accept", "")
        if ARROW_TYPE in accepted:
            return Response(await service.embed_arrow(request), media_type=ARROW_TYPE)
        if _LINES in accepted:
            items = service.embed_items(request)
            return StreamingResponse(_json_lines(items, seconds), media_type=_LINES)
        return await _json(await service.embed(request))

    @api.post(
        "/v1/fill-mask",
        summary="Hidden nucleotides",
        response_model=FillResponse,
        openapi_extra=_fasta_too(">hairpin\nGGG<mask>AACCC\n"),
    )
    async def fill_mask(request: FillRequest) -> Response:
        return await _json(await service.fill_mask(request))

    @api.post("/v1/align", summary="Structural alignments", response_model=AlignResponse)
    async def align(request: AlignRequest) -> Response:
        return await _json(await service.align(request))

    @api.post(
        "/v1/search",
        summary="Relatives in the database",
        response_model=SearchResponse,
        openapi_extra=_fasta_too(">hairpin\nGGGAAACCC\n"),
    )
    async def search(request: SearchRequest) -> Response:
        return await _json(await service.search(request))

    @api.post(
        "/v1/predict/{task}",
        summary="What a task's model predicts",
        response_model=PredictResponse,
        openapi_extra=_fasta_too(">hairpin\nGGGAAAACCC\n"),
    )
    async def predict(task: str, request: PredictRequest) -> Response:
        return await _json(await service.predict(task, request))

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
        limits=service.limits,
        seconds=request_seconds,
        metrics=service.metrics,
    )

    _add_state(api, service)
    _add_model(api, service, _STREAM_SHARE * request_seconds)
    paths = [route.path for route in api.routes if isinstance(route, APIRoute)]
    tasks = [f"/v1/predict/{info.task}" for info in service.tasks.infos]
    service.metrics.tell_apart([*paths, *tasks])
    return api
