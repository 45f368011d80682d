"""A crew of processes: grows with the work, loses machines, tells what is wrong.

Run by test_crew.py in a process that no other Ray has been in.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from riboray.crew.folders import common_file
from riboray.crew.size import Needs, Size
from riboray.errors import ConfigError, OutputError, RiborayError
from tests.integration.helpers import wait_for

pytestmark = [pytest.mark.ray]


@pytest.fixture
def joined(cluster):
    """A head without a CPU of its own for work, joined by this process."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()


def square(number, seconds=0.0):
    time.sleep(seconds)
    return number**2, os.getpid()


def make(size):
    time.sleep(0.5)  # so long that each process makes some
    return np.full(size, 7, np.int8), None


def look(array, mark, gate):
    """Use an array once a file is there."""
    mark.touch()
    wait_for(gate.exists)
    return int(array[0][0]) * len(array[0])


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number):
    if number == 3:
        raise ConfigError("three is one too many")
    raise ValueError("a bug")


def test_it_asks_for_what_the_work_is_worth(joined, monkeypatch):
    """Two processes at first; more once calls turn out to be long; pending ones are withdrawn."""
    from riboray.crew import pipeline

    monkeypatch.setattr(pipeline, "_GRAIN", 1.0)
    crew = pipeline.Crew(Size(1, 3), Needs())
    results = [r for _, r in crew.each(((k, (square, k)) for k in range(5)), 5)]
    assert sorted(square for square, _ in results) == [0, 1, 4, 9, 16]
    assert len(crew._all) == 1, "nobody else is wanted for short calls"
    found, most = {}, 0
    for k, (_, process) in crew.each(((k, (square, k, 0.4)) for k in range(20)), 20):
        if k == 4:
            joined.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        found[k] = process
        most = max(most, len(crew._all))
    assert sorted(found) == list(range(20))
    assert most == 3, "as many as are worth it and allowed, whether there is room or not"
    assert len(set(found.values())) == 2, "as there was room"
    assert len(crew._all) == 2, "the one that never came is not wanted any more"
    crew.dismiss()


def test_a_machine_goes_with_a_call_and_with_an_array(joined, tmp_path):
    """The call is made again elsewhere; who needs the array is told that it is gone."""
    from riboray.crew import pipeline
    from riboray.pipeline import LostObject

    node = joined.add_node(num_cpus=1, node_ip_address="127.0.0.1", resources={"there": 1})
    crew = pipeline.Crew(Size(2, 2), Needs())
    calls = [(k, (square, k, 0.5)) for k in range(8)]
    wait_for(lambda: list(crew.each(calls, 8)) and crew.count == 2)
    calls = [(k, (make, 1 << 20)) for k in range(4)]
    made = dict(crew.each(calls, keep=True))
    marks, gate = [tmp_path / f"{k}" for k in range(4)], tmp_path / "gate"
    calls = [(k, (look, made[k], marks[k], gate)) for k in range(4)]
    results = {}

    def collect():
        for k, result in crew.each(calls):
            results[k] = result

    thread = threading.Thread(target=collect)
    thread.start()
    wait_for(lambda: sum(mark.exists() for mark in marks) == 2)
    joined.remove_node(node, allow_graceful=False)
    gate.touch()
    thread.join(timeout=120)
    assert sorted(results) == [0, 1, 2, 3]
    lost = [k for k, result in results.items() if isinstance(result, LostObject)]
    kept = [k for k in results if k not in lost]
    assert lost, "arrays lay on the node that is gone"
    assert kept, "and on the one that is there"
    assert {results[k] for k in kept} == {7 << 20}
    crew.dismiss()


def test_what_cannot_succeed(joined, monkeypatch, tmp_path):
    """Calls that kill or fail; and a machine without the shared disk, whose files would be lost."""
    from riboray.crew import pipeline

    monkeypatch.setattr(pipeline, "_PATIENCE", 0.1)
    for call, error, message in (
        ((die, 0), RiborayError, "trying ended its process 5 times: is there enough memory?"),
        ((fail, 3), ConfigError, "three is one too many"),
        ((fail, 4), RiborayError, "trying failed: ValueError: a bug"),
    ):
        crew = pipeline.Crew(Size(1, 1), Needs())
        with pytest.raises(error, match=message) as caught:
            list(crew.each([(None, call)], what="trying"))
        assert caught.value.exit_code == error("").exit_code
        crew.dismiss()
    with common_file("auto", tmp_path) as probe:
        crew = pipeline.Crew(Size(1, 1), Needs(), probe)
        assert [r[0] for _, r in crew.each([(None, (square, 3))])] == [9]
        crew.dismiss()
    assert list(tmp_path.iterdir()) == [], "nothing stays"
    crew = pipeline.Crew(Size(1, 1), Needs(), probe)
    with pytest.raises(OutputError, match="is not the same folder on"):
        list(crew.each([(None, (square, 3))]))
    crew.dismiss()
