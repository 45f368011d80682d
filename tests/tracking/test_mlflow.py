"""Runs in MLflow: its own local database, and a server that is slow, refuses or is gone."""

from __future__ import annotations

import json
import time

import pytest

pytest.importorskip("mlflow", reason="needs the extra: pip install -e '.[mlflow]'")
pytest.importorskip("sqlalchemy", reason="needs the extra: pip install -e '.[mlflow]'")
pytest.importorskip("alembic", reason="needs the extra: pip install -e '.[mlflow]'")

from riboray.errors import ConfigError
from riboray.tracking.courier import Courier, Item, Pace
from riboray.tracking.mlflow import MlflowRun
from riboray.tracking.trackers import Trackers, open_trackers
from tests.tracking.helpers import Said, event, train, validation, wait_for
from tests.tracking.mlflowserver import MlflowServer

pytestmark = pytest.mark.trackers

CONFIG = {"seed": 7, "model": {"hidden_size": 24}, "corpus": ["x" * 9000]}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Nothing of the user's, no trials but ours, and nothing that outlives the test."""
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name in ("NAME", "ID"):
        monkeypatch.delenv(f"MLFLOW_EXPERIMENT_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(monkeypatch):
    server = MlflowServer()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.close()


def run(folder, records, resume_step=0, status="finished", config=None):
    """One session of a run."""
    trackers = open_trackers(["mlflow"], folder, "my run", config or CONFIG, resume_step)
    for record in records:
        trackers.log(record)
    trackers.close(status)


def client_of(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def runs_of(folder):
    """All runs in a run directory's database."""
    client = client_of(folder)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments)


def history(folder, name):
    """Steps and values of a metric."""
    [found] = runs_of(folder)
    points = client_of(folder).get_metric_history(found.info.run_id, name)
    return [(point.step, point.value) for point in points]


def test_a_run_and_its_resumption_are_one_run_of_mlflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    before = int(1000 * time.time())
    records = [validation(0, mlm_loss=2.0, sal_f1=float("nan"))]
    records += [train(step, mlm_loss=1.0, objectives="mlm") for step in range(10, 51, 10)]
    records += [event(50, "a worker was lost")]
    run(folder, records, status="failed")
    [first] = runs_of(folder)
    assert first.info.status == "FAILED"
    # It goes on from step 30: what is trained a second time is not drawn a second time.
    records = [train(step, mlm_loss=1.0, objectives="mlm+sal") for step in range(36, 70, 6)]
    records += [validation(66, mlm_loss=1.5), event(66, "all is well")]
    run(folder, records, resume_step=30, config=CONFIG | {"seed": 8})
    [found] = runs_of(folder)
    assert found.info.run_id == first.info.run_id
    assert (found.info.status, found.info.run_name) == ("FINISHED", "my run")
    steps = [*range(10, 51, 10), 54, 60, 66]
    assert history(folder, "train/mlm_loss") == [(step, 1.0) for step in steps]
    assert history(folder, "validation/mlm_loss") == [(0, 2.0), (66, 1.5)]
    assert "validation/sal_f1" not in found.data.metrics
    assert found.data.params["seed"] == "7"
    assert found.data.params["model.hidden_size"] == "24"
    assert len(found.data.params["corpus"]) == 6000
    tags = found.data.tags
    assert tags["resumed_with.seed"] == "8"
    assert tags["train/objectives"] == "mlm+sal"
    notes = tags["riboray.events"].splitlines()
    assert [line.split(": ")[1] for line in notes] == ["a worker was lost", "all is well"]
    points = client_of(folder).get_metric_history(found.info.run_id, "train/mlm_loss")
    assert all(before <= point.timestamp <= 1000 * time.time() for point in points)
    # Nothing beside the run directory, where MLflow itself would put its files.
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlflow.json"}


@pytest.mark.parametrize("sent", [1, 70])
def test_what_is_sent_twice_is_there_once(tmp_path, sent):
    """After an answer that was lost, MLflow gets the same points a second time."""
    items = [
        Item(100.0 + step, train(step, **{f"m{k}": 1.0 for k in range(30)})) for step in range(sent)
    ]
    backend = MlflowRun(tmp_path, "run", {}, 0)
    backend.open()
    told = dict(backend._tags)
    backend.write(items)
    backend._tags = told
    backend.write(items)
    backend.close("finished")
    assert history(tmp_path, "train/m3") == [(step, 1.0) for step in range(sent)]


def test_no_request_holds_more_than_mlflow_takes(tmp_path, server):
    server.behaviour = 0.5  # meanwhile, all others wait and go together
    run(tmp_path, [train(step, **{f"m{k}": 1.0 for k in range(48)}) for step in range(90)])
    assert server.metrics("train/m47") == [(step, 1.0) for step in range(90)]
    assert 900 <= max(len(batch.get("metrics", ())) for batch in server.batches) <= 1000


def test_as_many_events_are_kept_as_fit(tmp_path):
    backend = MlflowRun(tmp_path, "run", {}, 0)
    backend.open()
    backend.write([Item(0.0, event(n, f"event {n} {'y' * 100}")) for n in range(100)])
    backend.write([Item(0.0, event(100, "z" * 9000))])
    backend.write([Item(0.0, event(101, "the last"))])
    backend.close("stopped")
    [found] = runs_of(tmp_path)
    assert found.info.status == "KILLED"
    lines = found.data.tags["riboray.events"].splitlines()
    assert lines == ["step 101, 1970-01-01 00:00:00 UTC: the last"]


@pytest.mark.parametrize("behaviour", [1.0, "refuse", "hang"])
def test_a_server_in_trouble_costs_training_nothing(tmp_path, server, behaviour, capsys):
    """The caller's time for 500 records: 10 ms of CPU at most, whatever the server does."""
    trackers = open_trackers(["mlflow"], tmp_path, "run", CONFIG, 0, close_seconds=8)
    server.behaviour = behaviour
    wall, cpu = time.perf_counter(), time.thread_time()
    for step in range(500):
        trackers.log(train(step, mlm_loss=1.0))
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    assert cpu < 0.01
    assert wall < 1
    began = time.perf_counter()
    trackers.close("finished")
    assert time.perf_counter() - began < 15
    said = Said(capsys).lines()
    if behaviour == 1.0:  # slow, yet quick enough for many records at once
        assert server.metrics("train/mlm_loss") == [(step, 1.0) for step in range(500)]
        assert not said
    else:
        assert any("500 records did not get there" in line for line in said)


def test_records_wait_until_a_server_answers_again(tmp_path, server, capsys):
    pace = Pace(first_pause=0.05, longest_pause=0.1)
    trackers = open_trackers(["mlflow"], tmp_path, "run", CONFIG, 0, pace=pace)
    trackers.log(train(1, mlm_loss=1.0))
    wait_for(lambda: server.metrics("train/mlm_loss"))
    server.behaviour = "refuse"
    for step in range(2, 40):
        trackers.log(train(step, mlm_loss=1.0))
    said = Said(capsys)
    wait_for(said.lines)
    time.sleep(0.3)
    server.behaviour = "fast"
    wait_for(lambda: len(said.lines()) == 2)
    trackers.close("finished")
    assert server.metrics("train/mlm_loss") == [(step, 1.0) for step in range(1, 40)]
    assert server.run["info"]["status"] == "FINISHED"
    assert "training goes on" in said.lines()[0]
    assert "works again" in said.lines()[1]


def test_a_server_that_dies_is_told_of_and_left(tmp_path, server, capsys):
    pace = Pace(first_pause=0.05, longest_pause=0.1)
    trackers = open_trackers(["mlflow"], tmp_path, "run", CONFIG, 0, pace=pace)
    server.close()
    for step in range(10):
        trackers.log(train(step, mlm_loss=1.0))
    said = Said(capsys)
    wait_for(said.lines)
    began = time.perf_counter()
    trackers.close("failed")
    assert time.perf_counter() - began < 15
    assert any("10 records did not get there" in line for line in said.lines())


def test_a_run_deleted_on_the_server_is_made_anew(tmp_path, server):
    run(tmp_path, [train(1, mlm_loss=1.0)])
    server.deleted = True
    run(tmp_path, [train(2, mlm_loss=2.0)], resume_step=1)
    assert server.metrics("train/mlm_loss") == [(1, 1.0), (2, 2.0)]


def test_a_password_in_the_address_is_kept_nowhere(tmp_path, server, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//me:secret@"))
    run(tmp_path, [train(1, mlm_loss=1.0)])
    known = json.loads((tmp_path / "mlflow.json").read_text())
    assert known == {server.uri: "r1"}
    printed = capfd.readouterr()
    assert "secret" not in printed.out + printed.err
    server.close()
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, [])
    assert "secret" not in str(caught.value)


def test_no_server_is_a_configuration_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"tracker mlflow cannot be used: .*127\.0\.0\.1"):
        open_trackers(["mlflow"], tmp_path, "run", {}, 0)


def test_a_courier_abandoned_at_the_end_sends_nothing_later(tmp_path, server, capsys):
    """Else it would mix with a session that follows in the same process."""
    courier = Courier(MlflowRun(tmp_path, "run", {}, 0), Pace(first_pause=0.05))
    courier.open(60)
    server.behaviour = 2.0
    trackers = Trackers([courier], close_seconds=0.2)
    for step in range(350):
        trackers.log(train(step, mlm_loss=1.0))
    trackers.close("stopped")
    courier._thread.join(60)
    # At most what was in hand: a first record or so, or one batch.
    assert len(server.metrics("train/mlm_loss")) <= MlflowRun.batch
    assert any("records did not get there" in line for line in Said(capsys).lines())
