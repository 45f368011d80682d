"""Ray Data and Ray Train for real: two workers, real files, a worker killed for real."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from riboray.errors import CheckpointError, ConfigError
from riboray.model import load_checkpoint
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.loop import run
from riboray.pretraining.sessions import LocalSession
from riboray.pretraining.streams import Cursor, iterate_stream
from riboray.pretraining.trainer import Trainer
from riboray.pretraining.work import Work
from riboray.rayenv import LOCAL
from tests.conftest import tiny_config

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def corpus(sample_corpus):
    return sample_corpus


CONFIG = PretrainConfig(
    model=tiny_config(),
    validation_families=["RF00003", "RF00006"],
    validation_pairs=20,
    max_steps=12,
    evaluations=2,
    num_workers=2,
    batches_per_step=2,
)


@pytest.mark.parametrize(
    ("executions", "tasks", "apart"), [(1, 1, False), (4, 3, False), (2, 2, True)]
)
@pytest.mark.parametrize("objective", ["mlm", "sal", "groups"])
def test_ray_data_yields_the_very_stream(
    ray_local, corpus, objective, executions, tasks, apart, monkeypatch
):
    """On a machine of few cores, on one of many, and made by another process, as for a GPU."""
    from riboray.pretraining.feeding import pipeline as feeding

    monkeypatch.setattr(feeding, "_EXECUTIONS", executions)
    monkeypatch.setattr(feeding, "_TASKS", tasks)
    feeding._pool.cache_clear()
    maker = feeding.start_maker() if apart else None
    open_stream = partial(feeding.open_stream, maker=maker)
    config = CONFIG
    if objective == "groups":
        objective, config = "sal", replace(CONFIG, group_size=4, pair_tokens_per_batch=2048)
    spec = prepare_data(corpus, config, 2).specs[objective]
    for cursor, count in ((Cursor(0, 0), 60), (Cursor(1, 3), 20), (Cursor(2, 999), 5)):
        expected = itertools.islice(iterate_stream(spec, 1, cursor), count)
        found = itertools.islice(open_stream(spec, 1, cursor), count)
        for (at, a), (there, b) in zip(expected, found, strict=True):
            assert at == there
            assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in vars(a))


def pretraining_run(config, data, store, folder, specs=None):
    from riboray.pretraining.pipeline import TrainingRun, pretraining_worker

    work = Work(config, specs or data.specs, data.validation, store)
    return TrainingRun(config, pretraining_worker, work, store, folder, use_gpu=False)


def fit(corpus, folder, config=CONFIG, on_record=lambda _: None, stop=lambda: False):
    data = prepare_data(corpus, config, 2)
    records = []

    def keep(record):
        records.append(record)
        on_record(record)

    store = CheckpointStore(folder / "checkpoints")
    training = pretraining_run(config, data, store, folder)
    return training.fit(keep, stop), records


@pytest.fixture(scope="module")
def two_workers(ray_local, corpus, tmp_path_factory):
    return fit(corpus, tmp_path_factory.mktemp("two"))


def test_two_workers_compute_what_one_process_computes(two_workers, corpus):
    """Sums are added in another order: float32 rounding, amplified by AdamW over 12 steps, stays
    below 1e-4 of a loss of 3."""
    checkpoint, records = two_workers
    data = prepare_data(corpus, CONFIG, 2)
    trainer, session = Trainer(CONFIG, torch.device("cpu")), LocalSession()
    last = run(CONFIG, trainer, data.specs, iterate_stream, data.validation, session)
    final = records[-1]
    assert final["step"] == last["step"] == 12
    for name in ("mlm_loss", "sal_loss", "mlm_targets", "sal_pairs"):
        assert final[name] == pytest.approx(last[name], rel=1e-4), name
    loaded = load_checkpoint(checkpoint).model.state_dict()
    for key, tensor in trainer.model.state_dict().items():
        assert torch.allclose(tensor, loaded[key], atol=2e-3), key


def test_records_reach_the_driver_in_order(two_workers):
    _, records = two_workers
    assert [r["step"] for r in records] == sorted(r["step"] for r in records)
    assert [r["step"] for r in records if r["kind"] == "validation"] == [0, 4, 8, 12]


def test_the_same_directory_resumes(two_workers, corpus, tmp_path):
    """A run that stops at step 8 and goes on to 12 ends where a run through 12 ends."""
    through, _ = two_workers
    requested = []

    def stop_at_8(record):
        if record["kind"] == "validation" and record["step"] == 8:
            requested.append(True)

    first, records = fit(corpus, tmp_path, on_record=stop_at_8, stop=lambda: bool(requested))
    stopped = records[-1]["step"]
    assert 8 <= stopped <= 12
    second, more = fit(corpus, tmp_path)
    assert more[-1]["step"] == 12
    if stopped < 12:
        assert min(r["step"] for r in more) > 8
    assert first != second or stopped == 12
    a, b = (load_checkpoint(path).model.state_dict() for path in (through, second))
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_a_killed_worker_is_replaced_and_nothing_is_lost(two_workers, corpus, tmp_path):
    through, _ = two_workers
    killed = []

    def kill_once(record):
        if record["kind"] == "validation" and record["step"] == 4 and not killed:
            mine = psutil.Process().children(recursive=True)
            # Ray names its processes after their actor; only ours are children of this process.
            workers = [p for p in mine if "RayTrainWorker" in "".join(p.cmdline())]
            assert len(workers) == 2
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

    checkpoint, records = fit(corpus, tmp_path, on_record=kill_once)
    assert killed
    assert not psutil.pid_exists(killed[0])
    assert records[-1]["step"] == 12
    a, b = (load_checkpoint(path).model.state_dict() for path in (through, checkpoint))
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_an_error_in_a_worker_is_told_as_it_is(two_workers, corpus, tmp_path):
    shutil.copytree(two_workers[0].parent, tmp_path / "checkpoints")
    other = replace(CONFIG, model=replace(CONFIG.model, num_hidden_layers=1), max_failures=0)
    with pytest.raises(CheckpointError, match="another configuration"):
        fit(corpus, tmp_path, other)


def test_gpus_are_asked_for_only_where_they_are():
    from riboray.pretraining.pipeline import gpus_wanted

    assert not gpus_wanted(CONFIG, LOCAL, {"CPU": 4})
    assert not gpus_wanted(CONFIG, LOCAL, {"CPU": 4, "GPU": 1})
    assert gpus_wanted(CONFIG, LOCAL, {"CPU": 4, "GPU": 2})
    assert gpus_wanted(replace(CONFIG, device="gpu"), LOCAL, {"GPU": 1})
    assert not gpus_wanted(replace(CONFIG, device="cpu"), LOCAL, {"GPU": 8})
    with pytest.raises(ConfigError, match="no GPU"):
        gpus_wanted(replace(CONFIG, device="gpu"), LOCAL, {"CPU": 4})
    assert gpus_wanted(replace(CONFIG, device="gpu"), "auto", {}), "an autoscaler may bring them"


def test_our_ray_listens_on_loopback_alone(ray_local):
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        connections = []
        with suppress(psutil.NoSuchProcess):  # workers come and go
            connections = process.net_connections("inet")
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), (
                    process.name(),
                    connection.laddr,
                )
