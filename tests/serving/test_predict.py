"""`/v1/predict/{task}`: the numbers of `riboray.load(…).predict`, and what they mean."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

import riboray
from riboray.corpus.structure import base_pairs
from riboray.errors import CheckpointError, ConfigError
from riboray.serving.config import ServeConfig
from riboray.serving.driver import resolved
from riboray.serving.names import named_tasks
from riboray.serving.service import Service
from riboray.serving.tasks import Tasks
from tests.conftest import random_sequences
from tests.serving.helpers import FASTA, LIMITS, TASKS, ask, post, save_tasks

SEQUENCES = random_sequences(np.random.default_rng(6), 5, 10, 60)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return save_tasks(tmp_path_factory.mktemp("predict"))


@pytest.fixture
def service(checkpoint, checkpoints):
    return Service(str(checkpoint), LIMITS, tasks=checkpoints)


@pytest.mark.parametrize("task", TASKS)
def test_numbers(service, checkpoints, task):
    head = TASKS[task]
    answer = post(service, f"/v1/predict/{task}", {"sequences": SEQUENCES, "matrix": True})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["task"], told["model"]) == (task, task)
    assert (told["level"], told["problem"]) == (head.level, head.problem)
    assert told["outputs"] == list(head.labels[-head.outputs :])
    assert told["usage"] == {"sequences": 5, "nucleotides": sum(map(len, SEQUENCES))}
    wanted = riboray.load(checkpoints[task]).predict(SEQUENCES)
    for item, row in zip(told["results"], wanted, strict=True):
        assert np.allclose(item["values"], row, atol=1e-5)


def test_what_the_numbers_mean(service):
    body = {"sequences": SEQUENCES, "matrix": True}
    bodies = [("POST", f"/v1/predict/{task}", {"json": body}) for task in TASKS]
    answers = dict(zip(TASKS, ask(service, *bodies), strict=True))
    found = {task: answer.json()["results"] for task, answer in answers.items()}
    for item in found["kind"]:
        assert item["label"] == "abc"[int(np.argmax(item["values"]))]
    for item in found["coding"]:
        assert item["label"] == ("no", "yes")[item["values"][0] >= 0.5]
    for item in found["tags"]:
        assert item["labels"] == [n for n, p in zip("abc", item["values"], strict=True) if p >= 0.5]
    for item in found["weight"]:
        assert item.keys() == {"index", "values"}
    for item in found["element"]:
        assert item["labels"] == ["abc"[k] for k in np.argmax(item["values"], 1)]
    for item in found["paired"]:
        assert item["labels"] == [("no", "yes")[p >= 0.5] for (p,) in item["values"]]
    for item in found["distance"]:
        assert item.keys() == {"index", "values"}


def test_structures(service):
    body = {"sequences": SEQUENCES, "threshold": 0.2, "matrix": True}
    for item, text in zip(
        post(service, "/v1/predict/structure", body).json()["results"], SEQUENCES, strict=True
    ):
        chances = np.array(item["values"])[..., 0]
        pairs = {(p["i"], p["j"]): p["probability"] for p in item["pairs"]}
        assert pairs == pytest.approx(
            {(i, j): chances[i, j] for i, j in np.argwhere(np.triu(chances >= 0.2, 1))}
        )
        partner = base_pairs(item["structure"])
        assert len(partner) == len(text)
        for i, j in enumerate(partner.tolist()):
            if j > i:
                assert text[i] + text[j] in ("AU", "UA", "CG", "GC", "GU", "UG")
                assert (i, j) in pairs
    plain = post(service, "/v1/predict/structure", {"sequences": SEQUENCES}).json()["results"]
    assert all("values" not in item for item in plain)
    body = {"sequences": ["A" * 20], "threshold": 0, "canonical": False}
    (item,) = post(service, "/v1/predict/structure", body).json()["results"]
    assert "(" in item["structure"]
    body["canonical"] = True
    (item,) = post(service, "/v1/predict/structure", body).json()["results"]
    assert item["structure"] == "." * 20


def test_mistakes(service):
    path = "/v1/predict/kind"
    answer = post(service, path, {"sequences": ["ACGU", "ACJ"]}).json()
    assert answer["results"][1]["error"]["code"] == "invalid_sequence"
    assert "values" in answer["results"][0]
    assert post(service, "/v1/predict/other", {"sequences": ["A"]}).status_code == 404
    assert post(service, "/v1/predict/..%2Fkind", {"sequences": ["A"]}).status_code == 404
    assert post(service, path, {"sequences": ["A"], "threshold": 2}).status_code == 400
    assert post(service, path, {"sequences": ["A"], "threshhold": 0.2}).status_code == 400
    many = {"sequences": ["A" * 600, "ACGU"]}
    first, second = post(service, "/v1/predict/structure", many).json()["results"]
    assert first["error"]["code"] == "too_large"
    assert second["structure"] == "...."


def test_too_many_pairs(checkpoint, checkpoints):
    """What is answered is counted before it is made."""
    limits = replace(LIMITS, numbers=3_000)
    small = Service(str(checkpoint), limits, tasks=checkpoints)
    body = {"sequences": ["ACGU" * 12]}
    assert post(small, "/v1/predict/structure", body).status_code == 200
    answer = post(small, "/v1/predict/structure", {**body, "threshold": 0})
    assert answer.status_code == 413


def test_a_model_that_goes_is_its_tasks_matter(checkpoint, tmp_path):
    """The service goes on with all else; one that is put in its place is not taken for it."""
    tasks = save_tasks(tmp_path)
    service = Service(str(checkpoint), LIMITS, tasks=tasks)
    shutil.rmtree(tasks["kind"])
    shutil.copytree(tasks["tags"], tasks["kind"])
    for _ in range(5):
        (item,) = post(service, "/v1/predict/kind", {"sequences": ["ACGU"]}).json()["results"]
        assert item["error"]["code"] == "internal"
        assert "cannot be loaded any more" in item["error"]["message"]
    assert not service.is_broken
    (item,) = post(service, "/v1/predict/tags", {"sequences": ["ACGU"]}).json()["results"]
    assert "values" in item


def test_fasta_with_options(service):
    text = ">one\nGGGAAAACCC\n>two\nACGU\n"
    call = ("POST", "/v1/predict/structure?matrix=true&threshold=0.1", {})
    call[2].update(content=text, headers=FASTA)
    (answer,) = ask(service, call)
    assert [item["id"] for item in answer.json()["results"]] == ["one", "two"]
    assert "values" in answer.json()["results"][0]


def test_what_there_is(service):
    post(service, "/v1/predict/kind", {"sequences": ["ACGU"]})
    info, numbers = ask(service, ("GET", "/v1/info", {}), ("GET", "/metrics", {}))
    tasks = {t["task"]: t for t in info.json()["tasks"]}
    assert tasks.keys() == TASKS.keys()
    assert tasks["kind"]["labels"] == ["a", "b", "c"]
    assert len(tasks["kind"]["sha256"]) == 64
    assert "/tasks/" not in info.text, "where files lie is nobody's business"
    assert 'path="/v1/predict/kind"' in numbers.text


def test_models_come_and_go(checkpoints):
    tasks = Tasks(checkpoints, kept=2)
    first = tasks.predictor("kind")
    assert tasks.predictor("kind") is first
    tasks.predictor("tags")
    tasks.predictor("kind")
    tasks.predictor("weight")  # the tags' goes, which was asked for longest ago
    assert tasks.predictor("kind") is first
    assert list(tasks._loaded) == ["weight", "kind"]


def test_without_tasks(checkpoint):
    service = Service(str(checkpoint), LIMITS)
    assert post(service, "/v1/predict/kind", {"sequences": ["A"]}).status_code == 404


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["kind"], "expected NAME=CHECKPOINT"),
        (["a/b=x"], "a name is of letters"),
        (["=x"], "a name is of letters"),
        (["a=x", "a=y"], "two are called 'a'"),
    ],
)
def test_names(given, message):
    with pytest.raises(ConfigError, match=message):
        ServeConfig(tasks=given)


def test_a_model_that_predicts_nothing(checkpoint, checkpoints, monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match="no prediction head; --tasks kind needs one"):
        Tasks({"kind": str(checkpoint)})
    monkeypatch.chdir(tmp_path)
    config = ServeConfig(checkpoint=str(checkpoint), tasks=[f"kind={checkpoints['kind']}"])
    assert named_tasks(resolved(config).tasks) == {"kind": checkpoints["kind"]}
