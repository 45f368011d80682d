"""`riboray finetune` on a real Ray: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from riboray.cli import main
from riboray.errors import ConfigError, OutputError
from riboray.finetuning.config import FinetuneConfig, LabelColumns, SearchSpace
from riboray.finetuning.datasets import prepare
from riboray.finetuning.driver import finetune
from riboray.finetuning.learner import Learner
from riboray.finetuning.loop import run
from riboray.finetuning.plan import TrialResult
from riboray.model import load_checkpoint
from riboray.predicting.predictor import Predictor
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.sessions import LocalSession
from tests.disks import small_disk
from tests.integration.helpers import kill, records, start, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def config(hairpins, tiny_checkpoint, tmp_path):
    def made(**options):
        usual = {
            "train": [hairpins],
            "checkpoint": tiny_checkpoint,
            "storage": str(tmp_path / "runs"),
            "run_name": "r",
            "track": [],
            "num_workers": 1,
            "test_share": 0.2,
            "validation_share": 0.2,
            "batch_size": 8,
            "learning_rate": 0.01,
        }
        return FinetuneConfig(**{**usual, **options})

    return made


def rows_of(path):
    with Path(path).open(newline="") as handle:
        return {row["id"]: row for row in csv.DictReader(handle)}


def test_numbers_are_learnt_and_everything_is_left(ray_local, config, hairpins, tmp_path):
    """The share of G and C, which a model of any size can count."""
    asked = config(columns=LabelColumns(label=["gc"]), num_workers=2, max_epochs=30.0)
    summary = finetune(asked)
    folder = tmp_path / "runs" / "r"
    assert summary["task"] == {
        "level": "sequence",
        "problem": "regression",
        "labels": ["gc"],
        "structures": False,
    }
    counts = summary["data"]
    assert counts["train"] + counts["validation"] + counts["test"] == counts["used"] == 60
    assert summary["test"]["spearman"] > 0.8
    model = load_checkpoint(folder / "checkpoint").model
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    known = rows_of(hairpins)
    predicted = Predictor(model).predict([known[row["id"]]["sequence"] for row in table]).rows
    for row, values in zip(table, predicted, strict=True):
        assert row["label"] == pytest.approx([float(known[row["id"]]["gc"])], abs=1e-6)
        assert row["values"] == pytest.approx(values.tolist(), abs=1e-5)
    splits = pq.read_table(folder / "splits.parquet").to_pylist()
    assert {row["id"] for row in splits} == set(known)
    assert {row["id"] for row in splits if row["part"] == "test"} == {r["id"] for r in table}
    assert yaml.safe_load((folder / "resolved_config.yaml").read_text())["max_epochs"] == 30.0
    assert (folder / "training_curve.png").stat().st_size > 5000
    assert json.loads((folder / "summary.json").read_text()) == summary
    # Given again, it is over; with other labels, it is another run; with other files, none.
    assert finetune(asked) == summary
    with pytest.raises(OutputError, match="other options"):
        finetune(config(columns=LabelColumns(label=["kind"])))
    Path(hairpins).write_text(Path(hairpins).read_text().replace("h3,", "h03,"))
    with pytest.raises(OutputError, match="inputs have changed"):
        finetune(asked)


def test_two_workers_learn_what_one_learns(ray_local, config, tmp_path):
    """Sums are added in another order: float32 rounding, amplified by AdamW over 15 steps."""
    asked = config(columns=LabelColumns(label=["kind"]), max_epochs=3.0, num_workers=2, dropout=0.0)
    finetune(asked)
    prepared = prepare(asked, None, ambiguity=True)
    (fold,) = prepared.folds
    learner = Learner(asked, prepared.data, fold.train, torch.device("cpu"))
    alone = LocalSession()
    run(asked, learner, fold, alone)
    together = records(tmp_path / "runs" / "r")
    ours, theirs = (
        [r for r in found if r["kind"] == "validation"] for found in (alone.records, together)
    )
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "accuracy", "auroc"):
            assert a[name] == pytest.approx(b[name], abs=2e-3), name


def test_structures_are_learnt_with_their_threshold(ray_local, config, tmp_path):
    summary = finetune(config(columns=LabelColumns(label=["structure"]), max_epochs=4.0))
    assert summary["task"]["level"] == "contact"
    folder = tmp_path / "runs" / "r"
    head = load_checkpoint(folder / "checkpoint").model.head_config
    assert head.threshold == summary["threshold"]
    assert {"precision_at_l", "structure_f1"} <= summary["test"].keys()
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert np.mean([row["f1"] for row in table]) == pytest.approx(
        summary["test"]["structure_f1"], abs=1e-6
    )


def test_every_record_is_tested_on_once_and_the_model_knows_all(ray_local, config, tmp_path):
    asked = config(
        columns=LabelColumns(label=["kind"], group="family"),
        split="family",
        leave_one_out=True,
        max_epochs=2.0,
        learn="frozen",
    )
    summary = finetune(asked)
    folder = tmp_path / "runs" / "r"
    assert [fold["name"] for fold in summary["folds"]] == [f"f{k}" for k in range(3)]
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert sorted(row["id"] for row in table) == sorted(f"h{k}" for k in range(60))
    assert {row["fold"] for row in table if row["id"] == "h7"} == {"f1"}
    means = summary["cross_validation"]["accuracy"]
    each = [fold["metrics"]["accuracy"] for fold in summary["folds"]]
    assert means["mean"] == pytest.approx(np.mean(each))
    assert means["sd"] == pytest.approx(np.std(each, ddof=1))
    right = np.mean([row["label"] == row["prediction"] for row in table])
    assert right == pytest.approx(means["mean"], abs=1e-6), "folds of one size"
    assert load_checkpoint(folder / "checkpoint").model.head_config.labels == ("tetraloop", "uucg")
    assert summary["steps"] == max(round(summary["epochs"] * 8), 1)
    assert finetune(asked) == summary


def test_a_search_hands_the_best_trial_over(ray_local, config, tmp_path):
    asked = config(
        columns=LabelColumns(label=["gc"]),
        max_epochs=5.0,
        search=SearchSpace(learning_rate=[1e-6, 0.01], dropout=[0.0, 0.5]),
        trials=3,
    )
    summary = finetune(asked)
    assert len(summary["trials"]) == 3
    scores = {t["name"]: t["best"] for t in summary["trials"] if not t["stopped"]}
    best = max(scores, key=scores.get)
    chosen = next(t for t in summary["trials"] if t["name"] == best)
    assert summary["options"] == chosen["options"]
    trial = tmp_path / "runs" / "r" / "trials" / best
    ours = load_checkpoint(tmp_path / "runs" / "r" / "checkpoint").model.state_dict()
    theirs = load_checkpoint(CheckpointStore(trial / "checkpoints").best()).model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert TrialResult.read(trial, asked.limits()).metrics["spearman"] == pytest.approx(
        summary["test"]["spearman"], abs=1e-6
    )


def test_a_search_survives_a_value_that_diverges(ray_local, config, tmp_path):
    """Also one of a single value, which is trained with as if it had been given."""
    columns = LabelColumns(label=["gc"])
    search = SearchSpace(learning_rate=[1e30, 0.01])
    summary = finetune(config(columns=columns, max_epochs=3.0, search=search))
    told = {t["options"]["learning_rate"]: t["failed"] for t in summary["trials"]}
    assert "diverged" in told[1e30]
    assert told[0.01] is None
    assert summary["options"] == {"learning_rate": 0.01}
    alone = config(columns=columns, max_epochs=1.0, search=replace(search, learning_rate=[0.02]))
    assert finetune(replace(alone, run_name="one"))["options"] == {"learning_rate": 0.02}
    rates = [r["learning_rate"] for r in records(tmp_path / "runs" / "one") if r["kind"] == "train"]
    assert 0 < max(rates) <= 0.02
    with pytest.raises(ConfigError, match="dropout must be in"):
        finetune(config(columns=columns, search=SearchSpace(dropout=[1.5]), run_name="no"))


def test_ctrl_c_in_a_search_keeps_what_is_done(
    ray_local, hairpins, tiny_checkpoint, tmp_path, capsys
):
    command = ["finetune", hairpins, "--columns.label", "gc", "--checkpoint", tiny_checkpoint]
    command += [*CLI, "--folds", "3", "--max-epochs", "60", "--patience", "0", "--refit", "false"]
    folder = tmp_path / "runs" / "r" / "trials"
    process = start(command, tmp_path)
    wait_for(lambda: list(folder.glob("*/checkpoints/step-*")), message="no trial has begun")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "trials that are done are kept" in err.strip().splitlines()[-1]
    assert not (tmp_path / "runs" / "r" / "summary.json").exists()
    code, _, err = here(*command, "--storage", tmp_path / "runs", capsys=capsys)
    assert code == 0, err
    summary = json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())
    assert len(summary["folds"]) == 3
    # With more epochs, folds go on from where they were.
    longer = [*command, "--max-epochs", "62", "--storage", tmp_path / "runs"]
    code, _, err = here(*longer, capsys=capsys)
    assert code == 0, err
    newest = max(CheckpointStore(folder / "fold-001" / "checkpoints").steps())
    assert newest > 60 * (newest // 62)


def test_a_trial_whose_process_dies_goes_on(ray_local, config, tmp_path):
    """Killed once in the middle: the same result as undisturbed."""
    from riboray.finetuning.plan import list_trials
    from riboray.finetuning.trials.pipeline import TrialWork, run_trials

    asked = config(
        columns=LabelColumns(label=["gc"]), max_epochs=60.0, patience=0, folds=2, dropout=0.0
    )
    prepared = prepare(asked, None, ambiguity=True)
    trials = {t.name: t for t in list_trials(asked, prepared.folds)}

    def go(folder, tell):
        work = TrialWork(asked, prepared.data, prepared.folds, "spearman", trials, folder, True)
        return run_trials(work, use_gpu=False, tell=tell)

    undisturbed = go(tmp_path / "a", lambda name, result: None)
    killed = []

    def kill_once(name, result):
        if result is not None and result["step"] > 5 and not killed:
            mine = psutil.Process().children(recursive=True)
            workers = [p for p in mine if "ImplicitFunc" in "".join(p.cmdline()[:1])]
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

    found = go(tmp_path / "b", kill_once)
    assert killed
    assert found == undisturbed


CLI = ("--num-workers", "1", "--track", "[]", "--run-name", "r", "--batch-size", "4")


def here(*arguments, capsys):
    """Run ``riboray VERB …`` in this process; return exit code, stdout, stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_killed_in_the_middle_the_same_command_goes_on(
    ray_local, hairpins, tiny_checkpoint, tmp_path, capsys
):
    """kill -9 after some epochs, and Ctrl-C after some more: the model of an undisturbed run."""
    command = ["finetune", hairpins, "--columns.label", "gc", "--checkpoint", tiny_checkpoint]
    command += [*CLI, "--patience", "0", "--checkpoint-minutes", "0.01"]
    full = [*command, "--max-epochs", "60"]
    folder = tmp_path / "runs" / "r"

    def after(epochs):
        return any(r["epochs"] >= epochs for r in records(folder))

    first = start(full, tmp_path)
    wait_for(lambda: after(8))
    kill(first)
    second = start(full, tmp_path)
    wait_for(lambda: after(25))
    os.killpg(second.pid, signal.SIGINT)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 130, err
    assert "--run-name r" in err
    for storage in (folder.parent, tmp_path / "whole"):
        code, _, err = here(*full, "--storage", storage, capsys=capsys)
        assert code == 0, err
    a, b = (
        load_checkpoint(path / "r" / "checkpoint").model.state_dict()
        for path in (folder.parent, tmp_path / "whole")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)
    events = [r["message"] for r in records(folder) if r["kind"] == "event"]
    assert sum("resumed" in message for message in events) == 2


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("a,ACGU,x\nb,ACGU,x\n", [], "record 1: all 2 records to train on"),
        ("a,ACGU,1.5\nb,ACGU,\n", [], "record 2: no label"),
        ("a,ACGU,1.5\nb,ACGU,nan\n", [], "record 2: no label"),
        (
            "a,ACGU,1.5\nb,ACGUU,two\n",
            ["--problem", "regression"],
            "record 2: .*'two' is no number",
        ),
        ("a,ACGU,(..)\nb,ACGUU,(..)\n", ["--level", "contact"], "record 2: a structure of 4"),
        ("a,ACGU,EESS\nb,ACGUU,EES\n", ["--level", "nucleotide"], "record 2: a label of 3 items"),
        ("a,AC!U,x\nb,ACGUU,y\n", [], "record 1: character '!' at position 3"),
    ],
)
def test_what_is_wrong_is_told_with_its_record(
    text, options, told, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("id,sequence,label\n" + text)
    shares = ["--validation-share", "0", "--test-share", "0"]
    arguments = ["finetune", "t.csv", "--checkpoint", tiny_checkpoint, *CLI, *shares, *options]
    code, out, err = here(*arguments, capsys=capsys)
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("riboray finetune: t.csv, ")
    assert re.search(told, last), last
    assert not (tmp_path / "runs").exists()
    assert out == ""


def test_a_class_that_is_new_in_validation_is_told_or_left_out(
    ray_local, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{k},ACGU{'A' * k},{'xy'[k % 2]}\n" for k in range(20))
    (tmp_path / "train.csv").write_text("id,sequence,label\n" + rows)
    (tmp_path / "v.csv").write_text("id,sequence,label\nv1,ACG,x\nv2,ACC,new\nv3,GGG,y\n")
    arguments = ["finetune", "train.csv", "--validation", "v.csv", "--test-share", "0", *CLI]
    arguments += ["--checkpoint", tiny_checkpoint, "--max-epochs", "1"]
    code, _, err = here(*arguments, capsys=capsys)
    assert code == 2
    assert "v.csv, record 2: class 'new' is none of 'x', 'y'" in err
    code, _, err = here(*arguments, "--on-unknown", "reject", capsys=capsys)
    assert code == 0, err
    (reject,) = pq.read_table(tmp_path / "runs" / "r" / "rejects.parquet").to_pylist()
    assert (reject["record"], reject["id"]) == (2, "v2")
    summary = json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())
    assert summary["data"]["records"] == 23
    assert (summary["data"]["train"], summary["data"]["validation"]) == (20, 2)
    # The model that came of it is gone on with, unless the labels are of something else.
    model = str(tmp_path / "runs" / "r" / "checkpoint")
    (tmp_path / "numbers.csv").write_text("id,sequence,label\n1,ACG,0.5\n2,ACC,2.5\n")
    numbers = ["finetune", "numbers.csv", "--checkpoint", model, "--run-name", "n"]
    code, _, err = here(*numbers, capsys=capsys)
    assert code == 2
    assert "numbers.csv, record 1: " in err
    assert "--new-head" in err


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    ray_local, tiny_checkpoint, hairpins, tmp_path, capsys
):
    with small_disk(tmp_path / "disk", "1m") as disk:
        arguments = ["finetune", hairpins, "--columns.label", "gc", *CLI]
        arguments += ["--checkpoint", tiny_checkpoint, "--storage", str(disk.path)]
        arguments += ["--checkpoint-minutes", "0.01", "--patience", "0"]
        code, _, err = here(*arguments, "--max-epochs", "5", capsys=capsys)
        assert code == 2
        assert "MiB free, but the run needs about" in err
        disk.resize("200m")
        process = start([*arguments, "--max-epochs", "2000"], tmp_path)
        wait_for(lambda: list((disk.path / "r" / "checkpoints").glob("step-*")))
        filler = disk.fill(leave=0)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert "No space left" in err, err
        filler.unlink()
        code, _, err = here(*arguments, "--max-epochs", "5", capsys=capsys)
        assert code == 0, err
        assert (disk.path / "r" / "summary.json").is_file()
