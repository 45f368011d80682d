"""Runs in Weights & Biases, offline: the files it keeps, read back."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("wandb", reason="needs the extra: pip install -e '.[wandb]'")

from riboray.errors import ConfigError
from riboray.tracking.trackers import open_trackers
from riboray.tracking.wandb import _mode
from tests.tracking.helpers import event, train, validation
from tests.tracking.wandbfile import exit_code, rows, run_of, summary

pytestmark = pytest.mark.trackers

CONFIG = {"seed": 7, "model": {"hidden_size": 24}}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """No key of the user's, and none of W&B's settings; its process ends with the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    import wandb

    wandb.teardown()


def run(folder, records, resume_step=0, status="finished"):
    """One session of a run; returns the file that W&B keeps it in."""
    folder.mkdir(exist_ok=True)
    before = set(folder.glob("wandb/offline-run-*/run-*.wandb"))
    trackers = open_trackers(["wandb"], folder, "my run", CONFIG, resume_step)
    for record in records:
        trackers.log(record)
    trackers.close(status)
    [path] = set(folder.glob("wandb/offline-run-*/run-*.wandb")) - before
    return path


def test_a_session_is_rows_over_steps(tmp_path):
    records = [validation(0, mlm_loss=2.0, sal_f1=float("nan"))]
    records += [train(10, mlm_loss=1.0, objectives="mlm"), train(20, mlm_loss=0.5)]
    records += [validation(20, mlm_loss=1.5, best=True), event(20, "a worker was lost")]
    records += [event(20, "1 worker now"), train(30, mlm_loss=0.25), event(25, "too late")]
    path = run(tmp_path / "run", records)
    found = rows(path)
    assert [row["_step"] for row in found] == [0, 10, 20, 30]
    assert found[0] == {"_step": 0, "validation/mlm_loss": 2.0}
    assert found[1]["train/objectives"] == "mlm"
    assert found[2]["train/mlm_loss"] == 0.5
    assert found[2]["validation/mlm_loss"] == 1.5
    assert found[2]["validation/best"] == 1.0
    assert found[2]["event"] == "a worker was lost\n1 worker now"
    assert found[3]["event"] == "too late"
    about = run_of(path)
    assert (about.display_name, about.project) == ("my run", "riboray")
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert (config["seed"], config["model.hidden_size"]) == (7, 24)
    assert (exit_code(path), summary(path)["status"]) == (0, "finished")


def test_a_resumed_run_is_the_same_run_and_repeats_no_step(tmp_path):
    folder = tmp_path / "run"
    first = run(folder, [train(s, mlm_loss=1.0) for s in (10, 20, 30)], status="failed")
    records = [train(s, mlm_loss=2.0) for s in (15, 25, 35)] + [validation(35, mlm_loss=1.0)]
    second = run(folder, records, resume_step=10, status="stopped")
    assert run_of(first).run_id == run_of(second).run_id
    assert run_of(first).run_id == json.loads((folder / "wandb.json").read_text())["id"]
    curve = [(r["_step"], r["train/mlm_loss"]) for r in rows(first) + rows(second)]
    assert curve == [(10, 1.0), (20, 1.0), (30, 1.0), (35, 2.0)]
    assert exit_code(first) == 1
    assert (exit_code(second), summary(second)["status"]) == (0, "stopped")


def test_an_emptied_note_of_steps_is_no_obstacle(tmp_path):
    folder = tmp_path / "run"
    run(folder, [train(10, mlm_loss=1.0)])
    (folder / "wandb" / "steps.json").write_text("")
    path = run(folder, [train(20, mlm_loss=1.0)], resume_step=10)
    assert [row["_step"] for row in rows(path)] == [20]


class Settings:
    """What W&B says about itself, before anything is set."""

    mode = "online"
    api_key = None
    base_url = "https://api.forge.coreweave.com"


def test_without_a_key_it_is_offline():
    assert _mode(Settings) == "offline"


@pytest.mark.parametrize(
    ("machine", "mode"),
    [
        ("api.wandb.ai", "online"),
        ("api.forge.coreweave.com", "online"),
        ("wandb.elsewhere.org", "offline"),
    ],
)
def test_who_has_logged_in_is_online(tmp_path, machine, mode):
    (tmp_path / "netrc").write_text(f"machine {machine}\nlogin user\npassword {'k' * 40}\n")
    assert _mode(Settings) == mode


def test_a_key_in_the_environment_means_online_and_the_mode_goes_before_it(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert _mode(Settings) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert _mode(Settings) == "offline"


def test_online_without_a_key_is_an_error_and_no_question(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="no key for .*WANDB_API_KEY"):
        open_trackers(["wandb"], tmp_path, "run", {}, 0)


def test_disabled_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trackers = open_trackers(["wandb"], tmp_path, "run", CONFIG, 0)
    trackers.log(train(1, mlm_loss=1.0))
    trackers.close("finished")
    assert not list(tmp_path.glob("wandb/*run*"))
