"""Trackers opened by name, several at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from riboray.errors import ConfigError
from riboray.tracking import trackers as module
from riboray.tracking.trackers import Trackers, open_trackers
from tests.tracking.eventfile import curve, stored
from tests.tracking.helpers import train


def test_no_tracker_is_fine():
    trackers = open_trackers([], None, "run", {}, 0)
    trackers.log(train(1))
    trackers.close("finished")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="'tensorbord'; choose from tensorboard, mlflow, wandb"):
        open_trackers(["tensorboard", "tensorbord"], tmp_path, "run", {}, 0)
    assert not list(tmp_path.iterdir()), "something was opened first"


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_library_names_what_installs_it(tmp_path, name, root):
    """In a process of its own, in which the library cannot be found."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import riboray.tracking.trackers as trackers\n"
        "from riboray.errors import ConfigError\n"
        f"sys.modules[{name!r}] = None\n"
        "try:\n"
        f"    trackers.open_trackers(['tensorboard', {name!r}], Path('.'), 'run', {{}}, 0)\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(root / "platform")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"pip install 'riboray[{name}]'" in done.stdout
    assert not list(tmp_path.iterdir()), "something was opened first"


def test_a_folder_of_the_librarys_name_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "some_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(module.TRACKERS, "some", (("some_tracker",), "'riboray[some]'", None))
    with pytest.raises(ConfigError, match="tracker some needs some_tracker, not installed here"):
        open_trackers(["some"], tmp_path, "run", {}, 0)


def test_a_tracker_that_cannot_be_opened_closes_those_before_it(tmp_path, monkeypatch):
    class Broken:
        name, batch = "broken", 1

        def __init__(self, *arguments):
            pass

        def open(self):
            raise OSError(30, "Read-only file system")

    monkeypatch.setitem(module.TRACKERS, "broken", ((), "nothing", Broken))
    with pytest.raises(ConfigError, match="tracker broken cannot be used: .*Read-only"):
        open_trackers(["tensorboard", "broken"], tmp_path, "run", {}, 0)
    texts = curve(stored(tmp_path / "tensorboard"), "event/text_summary")
    assert texts == [(0, "the run failed")]


def test_a_directory_that_cannot_be_written_is_an_error_before_training(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=r"tracker tensorboard cannot be used: .*File exists"):
        open_trackers(["tensorboard"], tmp_path, "run", {}, 0)


def test_a_name_given_twice_counts_once(tmp_path):
    trackers = open_trackers(["tensorboard", "tensorboard"], tmp_path, "run", {}, 0)
    trackers.log(train(1, mlm_loss=1))
    trackers.close("finished")
    assert curve(stored(tmp_path / "tensorboard"), "train/mlm_loss") == [(1, 1.0)]


def test_records_go_to_every_tracker(tmp_path):
    class List:
        def __init__(self):
            self.records, self.status = [], None

        def log(self, record):
            self.records.append(record)

        def close(self, status):
            self.status = status

    trackers, other = open_trackers(["tensorboard"], tmp_path, "run", {}, 0), List()
    trackers.add(other)
    trackers.log(train(1, mlm_loss=1))
    trackers.close("stopped")
    assert (other.records, other.status) == ([train(1, mlm_loss=1)], "stopped")
    assert curve(stored(tmp_path / "tensorboard"), "train/mlm_loss") == [(1, 1.0)]


def test_a_process_ends_although_a_tracker_hangs(root):
    """Ten seconds for the imports of a busy machine; the tracker would hang for an hour."""
    code = (
        "import time\n"
        "from riboray.tracking.courier import Courier\n"
        "from riboray.tracking.trackers import Trackers\n"
        "class Place:\n"
        "    name, batch = 'place', 1\n"
        "    def open(self): pass\n"
        "    def write(self, items): time.sleep(3600)\n"
        "    def close(self, status): pass\n"
        "courier = Courier(Place()); courier.open(5)\n"
        "trackers = Trackers([courier], close_seconds=0.2)\n"
        "trackers.log({'kind': 'event', 'step': 1, 'message': 'x'})\n"
        "trackers.close('finished')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(root / "platform")}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "place: 1 records did not get there (no answer in time)" in done.stderr
    assert time.monotonic() - began < 40


def test_all_trackers_close_within_one_limit():
    class Slow:
        batch = 1

        def __init__(self, number):
            self.name = f"place {number}"

        def open(self):
            pass

        def write(self, items):
            time.sleep(60)

        def close(self, status):
            pass

    couriers = [module.Courier(Slow(number)) for number in range(4)]
    for courier in couriers:
        courier.open(5)
    trackers = Trackers(couriers, close_seconds=0.5)
    trackers.log(train(1))
    began = time.monotonic()
    trackers.close("finished")
    assert time.monotonic() - began < 1.9  # one after another would be 2 s


def test_importing_loads_no_tracking_library(root):
    code = (
        "import sys, riboray.tracking.trackers; "
        "heavy = {'mlflow', 'wandb', 'tensorboardX', 'torch', 'ray'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(root / "platform")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
