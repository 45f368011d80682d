"""Searching a database through the service."""

import random

import pyarrow as pa
import pytest

from riboray.alignment.hits import HIT_SCHEMA
from riboray.alignment.index import open_database
from riboray.embedding import driver
from riboray.embedding.config import EmbedConfig
from riboray.errors import CorpusError
from riboray.serving.inputs import Limits
from riboray.serving.service import Service
from tests.serving.helpers import LIMITS, ask, post

#: Of sequences in the database, which are all other than each other.
_COUNT = 60


def _changed(text, share, rng):
    return "".join(rng.choice("ACGU") if rng.random() < share else letter for letter in text)


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(2)
    return ["".join(rng.choices("ACGU", k=rng.randint(40, 120))) for _ in range(_COUNT)]


@pytest.fixture(scope="module", params=["per-base", "pooled"])
def database(request, checkpoint, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("db")
    fasta = folder / "targets.fa"
    fasta.write_text("".join(f">t{k}\n{text}\n" for k, text in enumerate(texts)))
    options = {"input": [str(fasta)], "checkpoint": str(checkpoint), "output": str(folder / "db")}
    driver.embed(EmbedConfig(**options, per_base=request.param == "per-base"))
    return folder / "db"


@pytest.fixture(scope="module")
def searcher(checkpoint, database):
    return Service(str(checkpoint), Limits(sequences=50, length=1_000), db=str(database))


def test_relatives_are_found_first(searcher, texts):
    rng = random.Random(3)
    queries = [{"id": "near", "sequence": _changed(texts[7], 0.1, rng)}, "ACGZ", texts[21]]
    body = {"sequences": queries, "candidates": 20, "max_hits": 5, "targets": True}
    found = post(searcher, "/v1/search", body).json()
    assert found["database"] == _COUNT
    assert found["usage"]["sequences"] == 2
    near, wrong, same = found["results"]
    assert wrong["error"]["code"] == "invalid_sequence"
    assert near["id"] == "near"
    best = near["hits"][0]
    assert (best["target"], best["sequence"]) == ("t7", texts[7])
    assert best["identity"] > 0.8
    assert best["evalue"] < 0.01
    assert same["hits"][0]["target"] == "t21"
    assert same["hits"][0]["identity"] == 1
    assert same["hits"][0]["cigar"] == f"{len(texts[21])}M"
    assert same["hits"][0]["normalised_score"] == pytest.approx(1, abs=2e-3)  # float16 bases
    for item in (near, same):
        order = [hit["z_score"] for hit in item["hits"]]
        assert order == sorted(order, reverse=True)
        assert len(order) <= 5
        assert max(hit["evalue"] for hit in item["hits"]) <= 10


def test_hits_are_those_of_an_alignment_by_itself(searcher, texts):
    rng = random.Random(4)
    query = _changed(texts[3], 0.2, rng)
    body = {"sequences": [query], "max_hits": 10, "max_evalue": None, "targets": True}
    for mode in ("global", "semiglobal", "local"):
        (item,) = post(searcher, "/v1/search", {**body, "mode": mode}).json()["results"]
        assert len(item["hits"]) == 10
        asked = {"query": query, "targets": [h["sequence"] for h in item["hits"]], "mode": mode}
        aligned = post(searcher, "/v1/align", asked).json()["results"]
        for hit, alone in zip(item["hits"], aligned, strict=True):
            assert hit["score"] == pytest.approx(alone["score"], abs=0.02)  # float16 bases
            if hit["cigar"] == alone["cigar"]:
                assert hit["query_start"] == alone["query_start"]
                assert hit["target_end"] == alone["target_end"]


def test_every_candidate_is_looked_at(searcher, texts):
    body = {"sequences": texts[:2], "candidates": _COUNT, "max_hits": 1000, "max_evalue": None}
    for item in post(searcher, "/v1/search", body).json()["results"]:
        assert sorted(hit["target"] for hit in item["hits"]) == sorted(
            f"t{k}" for k in range(_COUNT)
        )


def test_nothing_found_is_an_empty_list(searcher):
    body = {"sequences": ["A" * 30], "max_evalue": 1e-200}
    (item,) = post(searcher, "/v1/search", body).json()["results"]
    assert item["hits"] == []


def test_fasta_and_what_is_too_much(searcher, checkpoint, database):
    headers = {"content-type": "text/x-fasta"}
    (answer,) = ask(
        searcher, ("POST", "/v1/search", {"content": b">q\nACGUACGUAC\n", "headers": headers})
    )
    assert answer.json()["results"][0]["id"] == "q"
    query = "max_hits=2&max_evalue=null&targets=true&mode=local&candidates=10"
    body = {"content": b">q\nACGUACGUAC\n", "headers": headers}
    (answer,) = ask(searcher, ("POST", f"/v1/search?{query}", body))
    hits = answer.json()["results"][0]["hits"]
    assert len(hits) == 2
    assert all(hit["sequence"] for hit in hits)
    (answer,) = ask(searcher, ("POST", "/v1/search?max_evalue=1e-3&max_hits=007", body))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("max_hits:")
    (info,) = ask(searcher, ("GET", "/v1/info", {}))
    assert info.json()["database"] == _COUNT
    small = Service(str(checkpoint), Limits(search_cells=50_000, numbers=50_000), db=str(database))
    answer = post(small, "/v1/search", {"sequences": ["ACGU", "ACGU" * 50]})
    assert "hits" in answer.json()["results"][0]
    assert answer.json()["results"][1]["error"]["code"] == "too_large"
    answer = post(small, "/v1/search", {"sequences": ["ACGU"] * 4, "max_hits": 1000})
    assert answer.status_code == 413


def test_without_a_database(service):
    answer = post(service, "/v1/search", {"sequences": ["ACGU"]})
    assert answer.status_code == 404
    assert "--db" in answer.json()["error"]["message"]
    (info,) = ask(service, ("GET", "/v1/info", {}))
    assert "database" not in {k: v for k, v in info.json().items() if v is not None}


def test_a_database_of_another_model_is_refused(database, checkpoint):
    with pytest.raises(CorpusError, match="scores between two models mean nothing"):
        open_database(str(database), "rnabert")
    with pytest.raises(CorpusError, match="no complete embeddings"):
        Service(str(checkpoint), LIMITS, db=str(database.parent))


def test_a_database_on_a_disk_that_cannot_be_written(database, checkpoint, monkeypatch):
    """The index goes elsewhere, and finds the same."""
    monkeypatch.setattr("riboray.alignment.candidates.os.access", lambda *_: False)
    other = Service(str(checkpoint), LIMITS, db=str(database))
    body = {"sequences": ["ACGUACGUACGUACGUAC"], "max_evalue": None}
    assert post(other, "/v1/search", body).json()["results"][0]["hits"]


def test_the_table_is_the_one_of_the_verb(searcher):
    """Its columns are; what else a hit tells, it tells besides."""
    index = searcher.worker.index
    rows = index.candidates(["ACGUACGUAC"], searcher.worker.embedder.per_base(["ACGUACGUAC"]), 5)
    bases = searcher.worker.embedder.per_base(["ACGUACGUAC"])[0]
    table = index.search("ACGUACGUAC", bases, rows[0], max_evalue=None)
    assert isinstance(table, pa.Table)
    assert table.column_names == [*HIT_SCHEMA.names, "row"]
    assert table.num_rows == len(rows[0])


def test_however_many_targets_are_in_memory_together(searcher, texts, monkeypatch):
    body = {"sequences": texts[:3], "max_hits": 7, "max_evalue": None}
    whole = post(searcher, "/v1/search", body).json()["results"]
    monkeypatch.setattr("riboray.alignment.plan._LARGEST_CHUNK", 150)
    parts = post(searcher, "/v1/search", body).json()["results"]
    for one, other in zip(whole, parts, strict=True):
        for hit, again in zip(one["hits"], other["hits"], strict=True):
            assert hit["score"] == pytest.approx(again.pop("score"), abs=1e-4)
            assert hit["z_score"] == pytest.approx(again.pop("z_score"), abs=1e-3)
            for name in ("target", "cigar", "query_start", "target_end"):
                assert hit[name] == again[name]
