"""The service over HTTP, without a network: requests go to the application itself."""

import base64
import json

import numpy as np
import pyarrow as pa
import pytest

from riboray.alignment import GapPenalties
from riboray.serving import service as service_module
from riboray.serving.work import AlignJob, EmbedJob
from tests.serving.helpers import ask, post


def worker_of(service):
    return service.worker


def test_what_is_up(service):
    health, ready, info = ask(
        service, *(("GET", path, {}) for path in ("/healthz", "/readyz", "/v1/info"))
    )
    assert health.json() == ready.json() == {"status": "ok"}
    told = info.json()
    assert told["checkpoint"]["vocabulary"] == "multimolecule"
    assert told["limits"]["sequences"] == 50
    assert "path" not in told["checkpoint"]
    for answer in (health, info):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "none"])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(service, pooling, encoding):
    texts = ["GGGAAACCC", "acgt", "ACGUN" * 100]
    body = {"sequences": [texts[0], {"id": "x", "sequence": texts[1]}, texts[2]]}
    answer = post(service, "/v1/embed", {**body, "pooling": pooling, "encoding": encoding})
    assert answer.status_code == 200
    found = answer.json()
    assert found["dimensions"] == 24
    assert found["usage"] == {"sequences": 3, "nucleotides": 513}
    assert [item.get("id") for item in found["results"]] == [None, "x", None]
    per_base = None if pooling == "none" else pooling
    wanted = worker_of(service).run(
        [EmbedJob(t.upper().replace("T", "U"), 2, per_base) for t in texts]
    )
    for item, rows, text in zip(found["results"], wanted, texts, strict=True):
        assert item["length"] == len(text)
        shown = item["embedding"]
        if encoding == "base64":
            shown = np.frombuffer(base64.b64decode(shown), "<f4").reshape(rows.shape)
        assert np.allclose(shown, rows, atol=1e-5)


def test_one_bad_sequence_fails_alone(service):
    sequences = ["ACGU", "ACGZ", {"id": "long", "sequence": "A" * 1_001}, "", "GGG"]
    answer = post(service, "/v1/embed", {"sequences": sequences})
    assert answer.status_code == 200
    items = answer.json()["results"]
    assert [("embedding" in item, "error" in item) for item in items] == [
        (True, False), (False, True), (False, True), (False, True), (True, False)
    ]  # fmt: skip
    assert items[1]["error"] == {
        "code": "invalid_sequence",
        "message": "'Z' at position 4 is no nucleotide",
        "type": "invalid_request_error",
        "index": 1,
        "position": 3,
    }
    assert (items[2]["id"], items[2]["error"]["code"]) == ("long", "too_large")
    assert answer.json()["usage"] == {"sequences": 2, "nucleotides": 7}


def test_fasta(service):
    body = ">a first\nACGU\nACGU\n>b\nGGG\n"
    headers = {"content-type": "text/x-fasta; charset=utf-8"}
    (answer,) = ask(
        service,
        ("POST", "/v1/embed?pooling=none&layer=1", {"content": body, "headers": headers}),
    )
    assert answer.status_code == 200, answer.text
    items = answer.json()["results"]
    assert [(item["id"], item["length"], len(item["embedding"])) for item in items] == [
        ("a", 8, 8),
        ("b", 3, 3),
    ]


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_arrow(service, pooling):
    body = {"sequences": ["ACGU", {"id": "bad", "sequence": "Z"}, "GGGAA"], "pooling": pooling}
    headers = {"accept": "application/vnd.apache.arrow.stream"}
    (answer,) = ask(service, ("POST", "/v1/embed", {"json": body, "headers": headers}))
    assert answer.headers["content-type"] == headers["accept"]
    table = pa.ipc.open_stream(answer.content).read_all()
    table.validate(full=True)
    assert table["id"].to_pylist() == [None, "bad", None]
    assert table["length"].to_pylist() == [4, None, 5]
    assert table["error"].to_pylist() == [None, "invalid_sequence", None]
    shown = post(service, "/v1/embed", body).json()["results"]
    for row, item in zip(table["embedding"].to_pylist(), shown, strict=True):
        assert (row is None) == ("error" in item)
        assert row is None or np.allclose(row, item["embedding"], atol=1e-6)


def test_line_by_line(service, monkeypatch):
    monkeypatch.setattr(service_module, "_STREAMED", 8)
    sequences = ["ACGU" * (1 + k % 5) for k in range(49)] + ["Z"]
    headers = {"accept": "application/x-ndjson"}
    body = {"sequences": sequences}
    (answer,) = ask(service, ("POST", "/v1/embed", {"json": body, "headers": headers}))
    items = [json.loads(line) for line in answer.text.splitlines()]
    assert [item["index"] for item in items] == list(range(50))
    whole = post(service, "/v1/embed", body).json()["results"]
    for one, other in zip(items[:-1], whole[:-1], strict=True):
        assert np.allclose(one["embedding"], other["embedding"], atol=1e-5)
    assert items[-1]["error"]["index"] == 49
    (wrong,) = ask(service, ("POST", "/v1/embed", {"json": {"sequences": []}, "headers": headers}))
    assert wrong.status_code == 400


def test_hidden_nucleotides(service):
    answer = post(service, "/v1/fill-mask", {"sequences": ["AC<mask>GU", "ACGU"], "top_k": 28})
    first, second = answer.json()["results"]
    (hidden,) = first["hidden"]
    assert hidden["position"] == 2
    assert sum(hidden["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    values = list(hidden["probabilities"].values())
    assert values == sorted(values, reverse=True)
    letters = {k: v for k, v in hidden["probabilities"].items() if k in "ACGU"}
    assert first["filled"] == f"AC{max(letters, key=letters.get)}GU"
    assert second["error"]["code"] == "invalid_sequence"


def test_alignments(service):
    body = {
        "query": {"id": "q", "sequence": "GGGAAACCC"},
        "targets": ["GGCUAACGCC", {"id": "bad", "sequence": "Z"}, "GGGAAACCC"],
        "mode": "global",
        "gaps": {"open": 2, "extend": 0.5},
    }
    found = post(service, "/v1/align", body).json()["results"]
    job = AlignJob("GGGAAACCC", "GGCUAACGCC", "global", GapPenalties(2, 0.5))
    (wanted,) = worker_of(service).run([job])
    assert found[0]["score"] == pytest.approx(wanted.score, abs=1e-4)
    assert (found[0]["query_aligned"], found[0]["target_aligned"]) == wanted.view.rows
    assert found[0]["cigar"] == wanted.cigar
    assert len(found[0]["column_scores"]) == found[0]["aligned_length"]
    assert (found[1]["id"], found[1]["error"]["position"]) == ("bad", 0)
    assert found[2]["cigar"] == "9M"
    assert found[2]["score"] == pytest.approx(9, abs=1e-3)
    one = post(service, "/v1/align", {"query": "ACG", "targets": ["ACGU"], "similarity": True})
    assert np.array(one.json()["results"][0]["similarity"]).shape == (3, 4)


def test_tokens(service):
    (item,) = post(service, "/v1/tokenize", {"sequences": ["acgt"]}).json()["results"]
    ids = [service.tokens.id_of(letter) for letter in "ACGU"]
    assert (item["ids"], item["tokens"]) == (ids, list("ACGU"))


def test_openai(service):
    name = service.name
    answer = post(
        service, "/v1/embeddings", {"model": name, "input": ["ACGU", "GGG"], "user": "me"}
    )
    found = answer.json()
    assert found["object"] == "list"
    assert [d["index"] for d in found["data"]] == [0, 1]
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    (wanted,) = worker_of(service).run([EmbedJob("GGG", 2)])
    assert np.allclose(found["data"][1]["embedding"], wanted, atol=1e-5)
    for body, status in (
        ({"model": "gpt", "input": "ACGU"}, 404),
        ({"model": name, "input": "ACGZ"}, 422),
        ({"model": name, "input": []}, 400),
        ({"model": name, "input": "ACGU", "dimensions": 5}, 400),
    ):
        answer = post(service, "/v1/embeddings", body)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_the_map_is_made_once(service):
    body = {"sequences": ["GGGAAACCC", "Z"]}
    first, second = ask(service, *(("POST", "/v1/map", {"json": body}) for _ in range(2)))
    assert first.json()["reference"] == second.json()["reference"]
    good, bad = first.json()["results"]
    assert {"x", "y"} <= good.keys()
    assert bad["error"]["code"] == "invalid_sequence"
    families = {point["family"] for point in first.json()["reference"]}
    assert len(families) == 9


def test_numbers_for_prometheus(service):
    good, bad = {"sequences": ["ACGU", "GGG"]}, {"sequences": []}
    ask(service, *(("POST", "/v1/embed", {"json": b}) for b in (good, good, bad)))
    ask(service, ("GET", "/nothing/at/all", {}))
    (answer,) = ask(service, ("GET", "/metrics", {}))
    assert answer.headers["content-type"].startswith("text/plain")
    numbers = dict(
        line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")
    )
    assert numbers['riboray_requests_total{path="/v1/embed",status="200"}'] == "2.0"
    assert numbers['riboray_requests_total{path="/v1/embed",status="400"}'] == "1.0"
    assert numbers['riboray_requests_total{path="other",status="404"}'] == "1.0"
    assert numbers["riboray_batch_nucleotides_sum"] == "14.0"
    assert numbers["riboray_waiting_nucleotides"] == "0.0"
    assert float(numbers["riboray_computing_seconds_total"]) > 0


def test_many_at_once_are_answered_as_each_alone(service):
    bodies = [{"sequences": ["ACGU" * (k + 1), "GGC" * (k + 2)]} for k in range(12)]
    together = ask(service, *(("POST", "/v1/embed", {"json": b}) for b in bodies))
    for body, answer in zip(bodies, together, strict=True):
        alone = post(service, "/v1/embed", body).json()["results"]
        for one, other in zip(answer.json()["results"], alone, strict=True):
            assert np.allclose(one["embedding"], other["embedding"], atol=1e-5)


def test_the_document(service):
    (answer,) = ask(service, ("GET", "/openapi.json", {}))
    document = answer.json()
    embed = document["paths"]["/v1/embed"]["post"]
    assert set(embed["requestBody"]["content"]) == {"application/json", "text/x-fasta"}
    assert {"200", "400", "401", "413", "429", "503"} <= set(embed["responses"])
    assert json.dumps(document).count("examples") > 3


def test_a_query_with_many_targets_is_embedded_once(service, monkeypatch):
    """Whatever batches its targets fall into, and with what they would give by themselves."""
    query, targets = "GGGAAACCC" * 20, ["ACGU" * 30, "GGG" * 40, "GGGAAACCC" * 19]
    seen = []
    embed = service.worker._embed

    def watched(jobs):
        seen.extend(job.sequence for job in jobs)
        return embed(jobs)

    monkeypatch.setattr(service.worker, "_embed", watched)
    found = post(service, "/v1/align", {"query": query, "targets": targets}).json()["results"]
    assert sorted(seen) == sorted([query, *targets])
    for target, item in zip(targets, found, strict=True):
        (alone,) = post(service, "/v1/align", {"query": query, "targets": [target]}).json()[
            "results"
        ]
        assert item["cigar"] == alone["cigar"]
        assert item["score"] == pytest.approx(alone["score"], abs=1e-3)
