"""Nodes that are killed and nodes that join: the speed changes, the steps do not."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
import yaml

from riboray.corpus import IngestConfig, ingest
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.options import parse_config
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.loop import run
from riboray.pretraining.sessions import LocalSession
from riboray.pretraining.streams import iterate_stream
from riboray.pretraining.trainer import Trainer
from tests.integration.helpers import TINY, kill, records, start, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def steps(run_folder):
    return [r for r in records(run_folder) if r["kind"] == "train"]


def workers(run_folder):
    found = steps(run_folder)
    return found[-1]["workers"] if found else 0


def test_workers_come_and_go_and_the_batches_stay(tmp_path, cluster):
    """Two nodes, one killed, another added: every global step is that of a run in one process."""
    corpus = tmp_path / "corpus"
    shape = {"corpus": [SAMPLE_CORPUS], "alignments": [SAMPLE_ALIGNMENTS], "pairs_per_family": 30}
    ingest(IngestConfig(**shape, output=str(corpus)))
    node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    folder = tmp_path / "runs" / "r"
    command = ["pretrain", "--corpus", str(corpus), *TINY, "--run-name", "r"]
    command += ["--num-workers", "[1, 2]", "--record-seconds", "0", "--max-steps", "1000000"]
    command += ["--resize-minutes", "0.1", "--checkpoint-minutes", "0.05"]
    # The nodes stay on loopback by a setting that who connects must share; see riboray.rayenv.
    port = cluster.address.rpartition(":")[2]
    command += ["--track", "[]", "--ray-address", f"127.0.0.1:{port}"]
    log = (tmp_path / "log").open("w")
    # A node's death is noticed after Ray Train has asked for workers on it once more: by default
    # it waits a minute for them.
    variables = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}
    variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    process = start(command, tmp_path, stderr=log, **variables)
    try:
        wait_for(lambda: len(steps(folder)) > 20 and workers(folder) == 2, message="no two workers")
        wait_for(lambda: any(folder.glob("checkpoints/step-*/manifest.json")))
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: workers(folder) == 1, message="did not go on with one worker")
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        wait_for(lambda: workers(folder) == 2, message="did not grow again")
        many = len(steps(folder)) + 10
        wait_for(lambda: len(steps(folder)) > many, message="no steps after growing")
    finally:
        code = kill(process, signal.SIGINT)
        log.close()
    assert code == 130, (tmp_path / "log").read_text()
    found = steps(folder)
    numbers = [r["step"] for r in found]
    assert numbers == list(range(1, len(numbers) + 1)), "no step twice, none skipped"
    assert {r["workers"] for r in found} == {1, 2}
    told = [r["message"] for r in records(folder) if r["kind"] == "event"]
    assert any("a worker failed" in m for m in told), told
    assert sum("resumed at step" in m for m in told) >= 2, told
    assert yaml.safe_load((folder / "resolved_config.yaml").read_text())["batches_per_step"] == 2
    in_one_process, _ = undisturbed(corpus, folder, len(numbers))
    assert [r["batches_crc32"] for r in found] == [r["batches_crc32"] for r in in_one_process]
    # The sums over workers are added in another order: float32 rounding, which AdamW amplifies.
    first, other = ([r["mlm_loss"] for r in rs[:20]] for rs in (found, in_one_process))
    assert first == pytest.approx(other, rel=1e-3)


def undisturbed(corpus, folder, count):
    """The records of the same options' first steps without Ray, and the trainer after them."""
    stored = folder / "resolved_config.yaml"
    config = parse_config("pretrain", PretrainConfig, ["--config", str(stored)])
    data, session = prepare_data(corpus, config, config.batches_per_step), LocalSession()
    trainer = Trainer(config, torch.device("cpu"))

    class Enough(Exception):
        pass

    class Counts(LocalSession):
        def publish(self, record):
            session.publish(record)
            if record["kind"] == "train" and record["step"] == count:
                raise Enough

    with pytest.raises(Enough):
        run(config, trainer, data.specs, iterate_stream, data.validation, Counts())
    return [r for r in session.records if r["kind"] == "train"], trainer


def test_a_failure_that_comes_again_ends_the_run(ray_local, sample_corpus, tmp_path, monkeypatch):
    """Attempts without a new checkpoint are counted; the last failure is what the user reads."""
    from riboray.errors import RiborayError
    from riboray.pretraining.checkpoints import CheckpointStore
    from tests.integration.test_pipeline import CONFIG, pretraining_run

    config = replace(CONFIG, max_failures=1, max_steps=50)
    data = prepare_data(sample_corpus, config, 2)
    # A window that does not exist: reading it fails in the worker, again and again.
    window = data.specs["mlm"].windows[0]._replace(path=str(tmp_path / "gone.parquet"))
    specs = {**data.specs, "mlm": replace(data.specs["mlm"], windows=(window,))}
    store, told = CheckpointStore(tmp_path / "checkpoints"), []
    training = pretraining_run(config, data, store, tmp_path, specs)
    with pytest.raises(RiborayError, match="gone.parquet"):
        training.fit(told.append, lambda: False)
    failures = [r for r in told if r["kind"] == "event"]
    assert len(failures) == 2, failures


def test_a_machine_that_goes_while_workers_connect_is_a_failure_like_any(
    ray_local, sample_corpus, tmp_path, monkeypatch
):
    """Ray Train ends the run then; what of gloo it says is a real one's."""
    from ray.train import ControllerError

    from riboray.errors import RiborayError
    from riboray.pretraining.checkpoints import CheckpointStore
    from riboray.pretraining.pipeline import TrainingRun
    from tests.integration.test_pipeline import CONFIG, pretraining_run

    class Lost:
        def fit(self):
            message = "Gloo connectFullMesh failed with timed out connecting: Connection refused"
            raise ControllerError(RuntimeError(message))

    config = replace(CONFIG, max_failures=2, max_steps=3)
    data = prepare_data(sample_corpus, config, 2)
    made, times = TrainingRun._trainer, [2]

    def trainer(self, board):
        times[0] -= 1
        return Lost() if times[0] >= 0 else made(self, board)

    monkeypatch.setattr(TrainingRun, "_trainer", trainer)
    store, told = CheckpointStore(tmp_path / "checkpoints"), []
    training = pretraining_run(config, data, store, tmp_path)
    training.fit(told.append, lambda: False)
    assert [r["step"] for r in told if r["kind"] == "train"][-1] == 3
    assert sum("a worker failed" in r.get("message", "") for r in told) == 2
    times[0] = 3
    other = replace(training, directory=tmp_path / "other", store=CheckpointStore(tmp_path / "o"))
    with pytest.raises(RiborayError, match="connectFullMesh"):
        other.fit(told.append, lambda: False)


def test_starting_anew_is_no_failure_and_a_checkpoint_forgives(ray_local):
    import ray

    from riboray.pretraining.progress.pipeline import ProgressBoard

    board = ProgressBoard.remote()
    assert [ray.get(board.begin_attempt.remote(0)) for _ in range(5)] == [0] * 5
    ray.get([board.note_failure.remote(), board.note_failure.remote()])
    assert ray.get(board.begin_attempt.remote(0)) == 2
    assert ray.get(board.begin_attempt.remote(100)) == 0
    ray.get(board.note_failure.remote())
    assert ray.get(board.begin_attempt.remote(100)) == 1
    ray.kill(board)


def test_kill_minus_nine_of_driver_and_worker_changes_no_step(tmp_path):
    """Every loss of every step, and the weights, are those of a run that nobody disturbed.

    The undisturbed one is the loop alone, in this process and without Ray. Two workers that
    resume: `test_pipeline`.
    """
    import psutil

    from riboray.model import load_checkpoint

    count = 300
    command = ["pretrain", *TINY, "--record-seconds", "0", "--max-steps", str(count)]
    command += ["--checkpoint-minutes", "0.03", "--evaluations", "3", "--track", "[]"]
    command += ["--num-workers", "1", "--run-name", "rough"]
    folder = tmp_path / "runs" / "rough"
    for disturbance in ("driver", "worker"):
        before = len(steps(folder))
        process = start(command, tmp_path)
        try:
            wait_for(lambda b=before: len(steps(folder)) > b + 40, message="no steps")
            if disturbance == "driver":
                kill(process)
                continue
            family = psutil.Process(process.pid).children(recursive=True)
            (victim,) = [p for p in family if "RayTrainWorker" in "".join(p.cmdline())]
            os.kill(victim.pid, signal.SIGKILL)
            assert process.wait(240) == 0, process.stderr.read()
        finally:
            process.poll() is None and kill(process)
    told = [r["message"] for r in records(folder) if r["kind"] == "event"]
    # Resumed twice; from one and the same checkpoint, that is told once.
    assert any("resumed at step" in m for m in told), told
    assert any("a worker failed" in m for m in told), told
    quiet, trainer = undisturbed(folder / "corpus", folder, count)
    keys = ("step", "mlm_loss", "mlm_accuracy", "sal_loss", "gradient_norm", "batches_crc32")
    a, b = ([{k: r[k] for k in keys} for r in rs] for rs in (quiet, steps(folder)))
    assert len(a) == count
    assert a == b
    loaded = load_checkpoint(folder / "checkpoint").model.state_dict()
    for key, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, loaded[key]), key
    assert json.loads((folder / "summary.json").read_text())["steps"] == count
