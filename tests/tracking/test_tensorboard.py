"""Event files, read back as TensorBoard reads them."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from riboray.tracking.courier import Item
from riboray.tracking.tensorboard import EventFiles
from riboray.tracking.trackers import open_trackers
from tests.tracking.eventfile import (
    OlderReader,
    as_fast_reader,
    as_read_from_the_start,
    curve,
    files,
    read_events,
    stored,
)
from tests.tracking.helpers import Said, event, train, validation, wait_for

CONFIG = {"seed": 7, "model": {"hidden_size": 24, "heads": ["lm"]}, "max_steps": None}


def run(folder, records, resume_step=0, status="finished"):
    """One session of a run."""
    trackers = open_trackers(["tensorboard"], folder, "run", CONFIG, resume_step)
    for record in records:
        trackers.log(record)
    trackers.close(status)
    return folder / "tensorboard"


def test_training_and_validation_are_curves_of_their_own_over_steps(tmp_path):
    before = time.time()
    records = [validation(0, sal_f1=math.nan, mlm_loss=1.5)]
    records += [train(step, mlm_loss=1 / step, workers=2) for step in (10, 20, 30)]
    records += [validation(30, sal_f1=0.5, mlm_loss=1.25, best=True)]
    points = stored(run(tmp_path, records))
    expected = [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    # Event files keep float32: relative error 2**-24.
    assert curve(points, "train/mlm_loss") == [(s, pytest.approx(v, rel=6e-8)) for s, v in expected]
    assert curve(points, "validation/mlm_loss") == [(0, 1.5), (30, 1.25)]
    assert curve(points, "validation/sal_f1") == [(30, 0.5)]
    assert curve(points, "validation/best") == [(30, 1.0)]
    assert curve(points, "train/workers") == [(10, 2.0), (20, 2.0), (30, 2.0)]
    assert all(before <= point.when <= time.time() for point in points)


def test_the_time_of_a_point_is_when_it_was_logged(tmp_path):
    backend = EventFiles(tmp_path, "run", CONFIG, 0)
    backend.open()
    backend.write([Item(1234.5, train(1, mlm_loss=1.0))])
    backend.close("finished")
    points = stored(tmp_path / "tensorboard")
    assert {point.when for point in points if point.tag == "train/mlm_loss"} == {1234.5}


def test_events_and_objectives_are_text(tmp_path):
    records = [
        train(5, objectives="mlm"),
        train(6, objectives="mlm"),
        event(6, "a worker was lost"),
    ]
    records += [event(6, "2 workers now"), train(7, objectives="mlm+sal")]
    points = stored(run(tmp_path, records, status="stopped"))
    changes = [(5, "mlm"), (7, "mlm+sal")]
    assert curve(points, "train/objectives/text_summary") == changes
    # The default reader shows the last text of a step: it has to hold them all.
    shown = curve(as_fast_reader(tmp_path / "tensorboard"), "event/text_summary")
    assert shown == [(6, "a worker was lost\n\n2 workers now"), (7, "the run stopped")]


@pytest.mark.parametrize(("status", "ends"), [("finished", 1), ("stopped", 0), ("failed", 0)])
def test_the_configuration_is_text_and_hyperparameters(tmp_path, status, ends):
    folder = run(tmp_path, [train(1)], status=status)
    [(_, text)] = curve(stored(folder), "config/text_summary")
    expected = ["seed: 7", "model.hidden_size: 24", 'model.heads: ["lm"]', "max_steps: None"]
    assert [line.strip() for line in text.splitlines()] == expected
    values = [v for path in files(folder) for e in read_events(path) for v in e.summary.value]
    [start] = [v for v in values if v.tag == "_hparams_/session_start_info"]
    content = HParamsPluginData.FromString(start.metadata.plugin_data.content)
    assert content.session_start_info.hparams["seed"].number_value == 7
    assert content.session_start_info.hparams["model.heads"].string_value == '["lm"]'
    # TensorBoard shows the first ending of a run for ever: only the last may be written.
    assert len([v for v in values if v.tag == "_hparams_/session_end_info"]) == ends


def test_a_resumed_run_draws_no_step_twice(tmp_path):
    records = [validation(0, mlm_loss=2)]
    records += [train(step, mlm_loss=1) for step in range(10, 151, 10)]
    records[11:11] = [validation(100, mlm_loss=2)]
    records += [validation(150, mlm_loss=2), event(150, "the disk is full")]
    run(tmp_path, records, status="failed")
    records = [train(step, mlm_loss=10) for step in range(103, 131, 9)]
    folder = run(tmp_path, records, resume_step=100)
    points = stored(folder)
    old = [(step, 1.0) for step in range(10, 101, 10)]
    new = [(step, 10.0) for step in range(103, 131, 9)]
    assert curve(points, "train/mlm_loss") == old + new
    assert curve(points, "validation/mlm_loss") == [(0, 2.0), (100, 2.0)]
    for reader in (as_fast_reader, as_read_from_the_start):
        shown = reader(folder)
        assert curve(shown, "train/mlm_loss") == old + new, reader.__name__
        assert curve(shown, "validation/mlm_loss") == [(0, 2.0), (100, 2.0)], reader.__name__
        # What happened in the steps taken back has happened all the same.
        texts = curve(shown, "event/text_summary")
        assert texts == [
            (100, "(at step 150) the disk is full\n\nthe run failed"),
            (130, "the run finished"),
        ], reader.__name__


def test_a_tensorboard_that_looks_on_forgets_what_is_taken_back(tmp_path):
    records = [train(step, mlm_loss=1) for step in (10, 20, 30)] + [validation(30, mlm_loss=1)]
    folder = run(tmp_path, records, status="failed")
    reader = OlderReader(folder)
    assert len(curve(reader.look(), "train/mlm_loss")) == 3
    run(tmp_path, [train(25, mlm_loss=2)], resume_step=20)
    assert curve(reader.look(), "train/mlm_loss") == [(10, 1.0), (20, 1.0), (25, 2.0)]
    assert curve(reader.look(), "validation/mlm_loss") == []


def test_a_run_that_begins_again_has_nothing_of_before(tmp_path):
    run(tmp_path, [validation(0, mlm_loss=2), train(10, mlm_loss=1)], status="failed")
    folder = run(tmp_path, [validation(0, mlm_loss=3), train(7, mlm_loss=4)])
    assert curve(stored(folder), "validation/mlm_loss") == [(0, 3.0)]
    assert curve(as_read_from_the_start(folder), "train/mlm_loss") == [(7, 4.0)]


def test_a_lost_worker_takes_training_back_within_a_session(tmp_path):
    records = [
        train(10, objectives="mlm"),
        train(20),
        validation(20),
        event(20, "a worker was lost"),
    ]
    records += [train(14, objectives="mlm"), train(24), validation(24), train(30)]
    folder = run(tmp_path, records)
    for reader in (stored, as_fast_reader, as_read_from_the_start):
        points = reader(folder)
        assert [step for step, _ in curve(points, "train/progress")] == [10, 14, 24, 30]
        assert curve(points, "event/text_summary") == [
            (13, "(at step 20) a worker was lost"),
            (30, "the run finished"),
        ]


@st.composite
def histories(draw):
    """Sessions of a run: each a resume step and the records that follow, with falls back."""
    sessions, reached = [], 0
    for _ in range(draw(st.integers(1, 3))):
        resume = draw(st.integers(0, reached)) if sessions else 0
        step, records = resume, []
        for _ in range(draw(st.integers(0, 12))):
            if draw(st.integers(0, 5)) == 0:
                step = draw(st.integers(resume, step))
            step += draw(st.integers(1, 4))
            records.append(("train", step))
            if draw(st.booleans()):
                records.append(("validation", step))
        sessions.append((resume, records))
        reached = max(reached, step)
    return sessions


def reference(sessions):
    """Which records are left, the plain way: going back drops all that came later."""
    left = []
    for number, (resume, records) in enumerate(sessions):
        if number:
            left = [r for r in left if r[2] <= resume and resume > 0]
        trained = resume or -1
        for count, (kind, step) in enumerate(records):
            if kind == "train":
                if step <= trained:
                    left = [r for r in left if r[2] < step]
                trained = step
            left.append((number, kind, step, count))
    return left


@given(histories())
@settings(max_examples=40, deadline=None)
def test_files_hold_what_is_left_of_any_history(sessions):
    folder = Path(tempfile.mkdtemp())
    try:
        for number, (resume, records) in enumerate(sessions):
            backend = EventFiles(folder, "run", {}, resume)
            backend.open()
            for count, (kind, step) in enumerate(records):
                record = {"kind": kind, "step": step, "n": 100 * number + count}
                backend.write([Item(1.0, record)])
            backend.close("stopped")
        expected = reference(sessions)
        for reader in (stored, as_fast_reader, as_read_from_the_start):
            points = reader(folder / "tensorboard")
            for kind in ("train", "validation"):
                wanted = [(s, 100.0 * n + c) for n, k, s, c in expected if k == kind]
                assert curve(points, f"{kind}/n") == wanted, reader.__name__
        assert not [p for p in folder.iterdir() if p.name != "tensorboard"]
    finally:
        shutil.rmtree(folder)


def test_a_file_that_a_crash_broke_off_is_mended_when_the_run_is_resumed(tmp_path):
    folder = run(tmp_path, [train(step, mlm_loss=1) for step in (10, 20)], status="stopped")
    [path] = files(folder)
    path.write_bytes(path.read_bytes()[:-5])
    run(tmp_path, [train(30, mlm_loss=2)], resume_step=20)
    curves = curve(stored(folder), "train/mlm_loss")
    assert curves == [(10, 1.0), (20, 1.0), (30, 2.0)]


class FullDisk:
    """An open file that takes so many more bytes."""

    def __init__(self, handle, room):
        self._handle, self._room = handle, room

    def write(self, data):
        self._handle.write(data[: max(self._room, 0)])
        self._room -= len(data)
        if self._room < 0:
            self._handle.flush()
            raise OSError(28, "No space left on device")

    def __getattr__(self, name):
        return getattr(self._handle, name)


@pytest.mark.parametrize("room", [0, 5, 13, 30, 60])
def test_a_disk_that_was_full_costs_nothing_once_there_is_room(tmp_path, monkeypatch, room, capsys):
    import tensorboardX.record_writer as library

    folder = tmp_path / "tensorboard"
    trackers = open_trackers(["tensorboard"], tmp_path, "run", CONFIG, 0)
    trackers.log(train(1, mlm_loss=1))
    wait_for(lambda: curve(stored(folder, whole=False), "train/mlm_loss"))
    opened = library.open_file
    backend = trackers._couriers[0]._backend
    backend._file._writer = FullDisk(backend._file._writer, room)
    monkeypatch.setattr(library, "open_file", lambda path: FullDisk(opened(path), room))
    said = Said(capsys)
    trackers.log(train(2, mlm_loss=2))
    wait_for(said.lines)
    monkeypatch.setattr(library, "open_file", opened)
    trackers.log(train(3, mlm_loss=3))
    trackers.close("finished")
    # As TensorBoard does: each file up to where it breaks off.
    points = as_set(curve(stored(folder, whole=False), "train/mlm_loss"))
    assert points == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert "No space left" in said.lines()[0]


def as_set(points):
    """Points without repetition, in order."""
    return sorted(set(points))


def test_files_are_read_in_the_order_they_were_written_even_if_the_clock_goes_back(
    tmp_path, monkeypatch
):
    now = time.time()
    for session in range(3):
        monkeypatch.setattr(time, "time", lambda session=session: now - 100 * session)
        run(tmp_path, [train(session + 1, mlm_loss=session)], resume_step=session)
    points = curve(stored(tmp_path / "tensorboard"), "train/mlm_loss")
    assert points == [(1, 0.0), (2, 1.0), (3, 2.0)]
