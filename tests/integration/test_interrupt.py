"""Ctrl-C, SIGTERM and kill -9 of the driver: the same command goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal

import psutil
import pytest
import torch

from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.pretraining.checkpoints import CheckpointStore
from tests.integration.helpers import TINY, records, riboray, start, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAMED = ["pretrain", *TINY, "--checkpoint-minutes", "0.05", "--run-name", "r"]
RUN = [*NAMED, "--max-steps", "100000"]


def steps(run):
    return max((r["step"] for r in records(run) if r["kind"] == "train"), default=0)


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    run = tmp_path / "runs" / "r"
    process = start(RUN, tmp_path)
    try:
        wait_for(lambda: steps(run) > 3, message="no training")
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group gets it
        _, err = process.communicate(timeout=120)
    finally:
        process.poll() is None and process.kill()
    assert process.returncode == 130
    assert "stopping after this step" in err
    last = err.strip().splitlines()[-1]
    assert "checkpoint saved" in last
    assert "--run-name r" in last
    stopped = int(last.split("stopped at step ")[1].split(",")[0])
    assert stopped >= steps(run) > 3
    code, _, err = riboray(*NAMED, "--max-steps", str(stopped + 5), cwd=tmp_path)
    assert code == 0, err
    assert "is complete already" in err.splitlines()[1], "the corpus is not made twice"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == stopped + 5
    resumed = [r["step"] for r in records(run) if r["kind"] != "event"]
    assert resumed == sorted(resumed)
    assert resumed[0] == 0, "the history of the first part is kept"
    assert load_checkpoint(run / "checkpoint").model is not None
    # A finished run is recognised; a run with other options is refused.
    code, _, err = riboray(*NAMED, "--max-steps", str(stopped + 5), cwd=tmp_path)
    assert (code, "is complete already" in err) == (0, True)
    code, _, err = riboray(*RUN, "--learning-rate", "0.5", cwd=tmp_path)
    assert code == 2
    assert "belongs to a run with other options" in err


def test_a_killed_driver_resumes_from_its_last_checkpoint(tmp_path):
    """One that starts from a checkpoint and learns alignments from groups."""
    torch.manual_seed(8)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    save_checkpoint(RnaBertForPreTraining(RnaBertConfig(**shape)), tmp_path / "first")
    run, options = tmp_path / "runs" / "r", ["--init", "first", "--group-size", "4"]
    options += ["--pair-tokens-per-batch", "2048"]
    process = start([*RUN, *options], tmp_path)
    wait_for(
        lambda: steps(run) > 3 and sorted(run.glob("checkpoints/step-*/manifest.json")),
        message="no checkpoint",
    )
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=30)
    # Ray's processes notice that their driver is gone and end by themselves.
    _, alive = psutil.wait_procs(family, timeout=15)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=15)
    saved = max(CheckpointStore(run / "checkpoints").steps())  # they train on until they notice
    shutil.rmtree(tmp_path / "first")  # a run that goes on needs it no more
    code, _, err = riboray(*NAMED, *options, "--max-steps", str(saved + 30), cwd=tmp_path)
    assert code == 0, err
    assert json.loads((run / "summary.json").read_text())["steps"] == saved + 30
    history = [r["step"] for r in records(run) if r["kind"] != "event"]
    assert history == sorted(history), "no step was trained on twice in the history"


def test_two_processes_cannot_share_a_run(tmp_path):
    process = start(RUN, tmp_path)
    try:
        wait_for(lambda: (tmp_path / "runs" / "r" / "run.json").exists())
        code, _, err = riboray(*RUN, cwd=tmp_path)
        assert code == 2
        assert "another process is training in it" in err.splitlines()[-1]
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 130
