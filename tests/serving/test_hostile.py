"""Requests over HTTP that are wrong, too large, made to take long, or given up."""

import asyncio
import json
import time

import pytest

from riboray.serving.http import build_api
from riboray.serving.inputs import Limits
from riboray.serving.keys import KEYS_VARIABLE, KeyRing, new_key
from riboray.serving.service import Service
from tests.serving.helpers import FASTA, JSON, ask, post

TYPE = "unsupported_media_type"
TWO = {"query": "A", "targets": ["A", "C"]}


@pytest.mark.parametrize(
    ("path", "request_", "status", "code"),
    [
        ("/v1/embed", {"content": b"{", "headers": JSON}, 400, "malformed"),
        ("/v1/embed", {"content": b"\xff", "headers": JSON}, 400, "malformed"),
        ("/v1/embed", {"json": {}}, 400, "malformed"),
        ("/v1/embed", {"json": {"sequences": []}}, 400, "malformed"),
        ("/v1/embed", {"json": {"sequences": [1]}}, 400, "malformed"),
        ("/v1/embed", {"json": {"sequences": ["A"], "pool": "mean"}}, 400, "malformed"),
        ("/v1/embed", {"json": {"sequences": ["A"], "layer": 99}}, 400, "malformed"),
        ("/v1/embed", {"json": {"sequences": ["A"] * 51}}, 413, "too_large"),
        ("/v1/embed", {"json": {"sequences": ["A" * 999] * 6}}, 413, "too_large"),
        ("/v1/embed", {"json": {"sequences": ["A" * 21_000]}}, 413, "too_large"),
        ("/v1/embed", {"content": b"x", "headers": {"content-type": "image/png"}}, 415, TYPE),
        ("/v1/embed", {"content": b"ACGU", "headers": FASTA}, 400, "malformed"),
        ("/v1/align", {"content": b">a\nA", "headers": FASTA}, 415, TYPE),
        ("/v1/align", {"json": {"query": "Z", "targets": ["A"]}}, 422, "invalid_sequence"),
        ("/v1/align", {"json": {**TWO, "gaps": {"open": -1}}}, 400, "malformed"),
        ("/v1/align", {"json": {**TWO, "similarity": True}}, 400, "malformed"),
        ("/v1/nothing", {"json": {}}, 404, "not_found"),
        ("/healthz", {"json": {}}, 405, "malformed"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_answered(service, path, request_, status, code):
    (answer,) = ask(service, ("POST", path, request_))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_key_is_needed_where_there_are_keys(service):
    key, entry = new_key("me")
    ring = KeyRing.read(None, {KEYS_VARIABLE: entry})
    good = {"authorization": f"Bearer {key}"}
    answers = ask(
        service,
        ("GET", "/healthz", {}),
        ("GET", "/v1/info", {}),
        ("GET", "/v1/info", {"headers": {"authorization": "Bearer no"}}),
        ("GET", "/v1/info", {"headers": good}),
        ("GET", "/openapi.json", {}),
        ("POST", "/v1/embed", {"json": {"sequences": ["A"]}, "headers": {"x-api-key": key}}),
        keys=ring,
    )
    assert [a.status_code for a in answers] == [200, 401, 403, 200, 401, 200]
    assert answers[1].headers["www-authenticate"] == "Bearer"


def test_a_request_that_takes_too_long(service, monkeypatch):
    release = asyncio.Event()

    async def never(request):
        await release.wait()

    monkeypatch.setattr(service, "embed", never)
    answer = post(service, "/v1/embed", {"sequences": ["A"]}, request_seconds=0.05)
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "timeout"


def test_a_failure_tells_nothing_of_itself(service, monkeypatch):
    async def broken(request):
        raise RuntimeError("secret path")

    monkeypatch.setattr(service, "embed", broken)
    answer = post(service, "/v1/embed", {"sequences": ["A"]})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b'path="/v1/embed",status="500"} 1.0' in service.metrics.text()


def test_a_model_that_fails_is_logged_and_found(service, monkeypatch, caplog):
    def broken(sequences, wanted):
        raise RuntimeError("secret path")

    monkeypatch.setattr(service.worker.embedder, "embed", broken)
    for _ in range(3):
        (item,) = post(service, "/v1/embed", {"sequences": ["A"]}).json()["results"]
        assert item["error"]["message"] == "it could not be computed"
    assert "secret path" in caplog.text
    assert service.is_broken
    (answer,) = ask(service, ("GET", "/healthz", {}))
    assert answer.status_code == 503


def test_a_streamed_answer_says_that_it_ends_early(service, monkeypatch):
    async def slow(jobs, first=0):
        await asyncio.sleep(60)

    monkeypatch.setattr(service, "_compute", slow)
    headers = {"accept": "application/x-ndjson"}
    body = {"json": {"sequences": ["A"]}, "headers": headers}
    (answer,) = ask(service, ("POST", "/v1/embed", body), request_seconds=0.2)
    assert json.loads(answer.text)["error"]["code"] == "timeout"


def test_who_leaves_is_not_computed_for(service):
    """The ASGI messages of a client that sends a request and goes away."""

    async def leave():
        app = build_api(service)
        began = asyncio.Event()
        cancelled = []

        async def embed(request):
            began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        service.embed = embed
        body = json.dumps({"sequences": ["A"]}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await began.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/embed", "raw_path": b"/v1/embed",
            "query_string": b"", "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("y", 1),
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 10)
        assert cancelled == [True]

    asyncio.run(leave())


def test_the_end_of_a_replica_closes_its_queue(service):
    async def live():
        app = build_api(service)
        async with app.router.lifespan_context(app):
            assert not service._batcher.closed
        assert service._batcher.closed

    asyncio.run(live())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fill-mask", {"sequences": ["<mask>" * 3_000]}),
        ("/v1/embed", {"sequences": [1] * 6_000}),
        ("/v1/embed", {"sequences": [""] * 6_000}),
        ("/v1/embed", {"sequences": ["A"], **{f"x{k}": 1 for k in range(1_000)}}),
        ("/v1/embed", {"sequences": [{f"x{k}": 1 for k in range(1_000)}]}),
        ("/v1/embed", [[[[]]]]),
        ("/v1/embeddings", {"model": "tiny", "input": [1] * 6_000}),
    ],
)
def test_bodies_made_to_take_long_are_refused_at_once(service, path, body):
    start = time.perf_counter()
    answer = post(service, path, body)
    assert time.perf_counter() - start < 1.0
    assert answer.status_code in (200, 400, 413)
    assert len(answer.content) < 2_000
    assert answer.status_code != 200 or "error" in answer.json()["results"][0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/embed", '{"sequences": [{"sequence": "A", "id": "\\ud800"}]}'),
        ("/v1/embeddings", '{"model": "\\ud800", "input": "A"}'),
        ("/v1/embed", "[" * 10_000),
        ("/v1/embed", "NaN"),
    ],
)
def test_texts_that_no_answer_could_repeat(service, path, text):
    (answer,) = ask(service, ("POST", path, {"content": text.encode(), "headers": JSON}))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed"


def test_a_long_number_in_the_query(service):
    body = {"content": b">a\nACGU\n", "headers": FASTA}
    (answer,) = ask(service, ("POST", "/v1/embed?layer=" + "9" * 5_000, body))
    assert answer.status_code == 400


def test_answers_of_too_many_numbers(checkpoint):
    limits = Limits(numbers=1_000)
    service = Service(str(checkpoint), limits)
    for path, body in (
        ("/v1/embed", {"sequences": ["A" * 50], "pooling": "none"}),
        ("/v1/embed", {"sequences": ["A"] * 50}),
        ("/v1/fill-mask", {"sequences": ["<mask>" * 100], "top_k": 28}),
        ("/v1/align", {"query": "A" * 500, "targets": ["A" * 501]}),
    ):
        answer = post(service, path, body)
        assert answer.status_code == 413, path
        assert "numbers, more than the 1,000" in answer.json()["error"]["message"]


def test_more_than_may_wait_is_never_taken(checkpoint):
    service = Service(str(checkpoint), capacity=100)
    assert post(service, "/v1/embed", {"sequences": ["A" * 101]}).status_code == 413
    assert post(service, "/v1/embed", {"sequences": ["A" * 100]}).status_code == 200
