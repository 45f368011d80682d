"""Checkpoints are whole or absent, verified when read, and pruned to the last and the best."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riboray.pretraining.checkpoints import CheckpointStore, Score


def filled(store, steps, scores=()):
    scores = dict(scores)

    def write(step):
        def fill(folder):
            (folder / "weights.bin").write_bytes(bytes(range(256)) * 4 + str(step).encode())
            (folder / "training_state").mkdir()
            (folder / "training_state" / "state.json").write_text(json.dumps({"step": step}))

        return fill

    for step in steps:
        value = scores.get(step)
        store.save(step, write(step), None if value is None else Score(0, "f1", value))
    return store


def newest(store):
    warnings = []
    found = store.newest(warnings.append)
    return (None if found is None else int(found.name.removeprefix("step-"))), warnings


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    scores = {2: 0.5, 4: 0.9, 6: 0.9, 8: 0.1}
    store = filled(CheckpointStore(tmp_path, keep=2), range(1, 11), scores)
    assert store.steps() == [4, 9, 10], "of two that are as good, the first"
    assert store.best() == store.path(4)
    assert newest(store) == (10, [])


def test_the_best_stays_the_best_when_it_is_saved_again(tmp_path):
    """As when a run that goes on is stopped before its next step: nothing is measured anew."""
    store = filled(CheckpointStore(tmp_path, keep=1), [1, 2], {1: 0.9, 2: 0.95})
    filled(store, [2, 3])
    assert store.best() == store.path(2)


def test_a_later_phase_has_its_own_best(tmp_path):
    store = filled(CheckpointStore(tmp_path, keep=1), [1, 2], {1: 100.0})
    store.save(3, lambda folder: None, Score(1, "loss", -5.0))
    filled(store, [4])
    assert store.best() == store.path(3)
    assert store.steps() == [3, 4]


def test_without_measurements_there_is_no_best(tmp_path):
    store = filled(CheckpointStore(tmp_path, keep=3), [1, 2])
    assert store.best() is None
    assert CheckpointStore(tmp_path / "none").steps() == []
    assert CheckpointStore(tmp_path / "none").newest(print) is None


FILES = ["weights.bin", "training_state/state.json", "manifest.json"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(FILES),
    how=st.sampled_from(["truncate", "flip", "remove", "empty", "append"]),
    where=st.integers(0, 10_000),
)
def test_any_damage_is_noticed_and_the_one_before_is_used(tmp_path, file, how, where):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    store = filled(CheckpointStore(tmp_path / "s", keep=3), [1, 2, 3])
    path = store.path(3) / file
    content = path.read_bytes()
    at = where % len(content)
    damaged = {
        "truncate": content[:at],
        "flip": content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :],
        "empty": b"",
        "append": content + b"x",
        "remove": None,
    }[how]
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    step, warnings = newest(store)
    if file == "manifest.json" and how in ("flip", "append") and step == 3:
        # A flipped character of a manifest can leave it meaning the same for every file.
        assert warnings == []
        return
    assert step == 2
    assert len(warnings) == 1
    assert "checkpoint of step 3 is damaged" in warnings[0]
    assert store.steps() == [1, 2]
    assert (tmp_path / "s" / "damaged-step-000000003").is_dir()
    assert newest(store) == (2, []), "it warns once"
    filled(store, [3])
    assert newest(store) == (3, [])


def test_all_damaged_means_from_the_beginning(tmp_path):
    store = filled(CheckpointStore(tmp_path, keep=3), [1, 2])
    for step in (1, 2):
        (store.path(step) / "weights.bin").unlink()
    step, warnings = newest(store)
    assert step is None
    assert len(warnings) == 2


@pytest.mark.parametrize("kill_at", range(12))
def test_a_crash_at_any_write_leaves_a_whole_checkpoint(tmp_path, monkeypatch, kill_at):
    """Stop at the n-th renaming, removing or syncing: what is found is step 1 or step 2, whole."""
    store = filled(CheckpointStore(tmp_path, keep=1), [1])
    calls = iter(range(1000))

    class Killed(BaseException):
        pass

    def dying(real):
        def call(*args, **kwargs):
            if next(calls) >= kill_at:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            filled(store, [2])
            died = False
        except Killed:
            died = True
    step, warnings = newest(store)
    assert step in (1, 2)
    assert warnings == []
    assert died or step == 2
    filled(store, [3])
    assert newest(store) == (3, [])


def test_the_same_step_again_replaces_and_a_full_disk_does_not(tmp_path):
    store = filled(CheckpointStore(tmp_path), [5])

    def fails(folder):
        (folder / "weights.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.save(5, fails)
    assert newest(store) == (5, [])
    assert (store.path(5) / "weights.bin").read_bytes().startswith(bytes(range(256)))
    store.save(5, lambda folder: (folder / "weights.bin").write_bytes(b"new") and None)
    assert (store.path(5) / "weights.bin").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000005"]
