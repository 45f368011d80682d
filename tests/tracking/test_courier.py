"""Records on their way to places that are slow, refuse, or are gone."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.errors import ConfigError, OutputError
from riboray.tracking.courier import Courier, Pace, in_short
from riboray.tracking.trackers import Trackers
from tests.tracking.helpers import Said, train, wait_for

QUICK = Pace(first_pause=0.01, longest_pause=0.02)


class Place:
    """A backend in memory that does as it is told."""

    name = "place"

    def __init__(self, behave=lambda record: None, batch=1):
        self.batch = batch
        self.behave = behave
        self.steps = []
        self.batches = []
        self.status = None

    def open(self):
        pass

    def write(self, items):
        for item in items:
            self.behave(item.record)
        self.steps += [item.record["step"] for item in items]
        self.batches.append(len(items))

    def close(self, status):
        self.status = status


def opened(place, pace=QUICK, close_seconds=30.0):
    courier = Courier(place, pace)
    courier.open(10)
    return Trackers([courier], close_seconds=close_seconds)


def test_records_arrive_in_order_and_closing_drains():
    place = Place(lambda record: time.sleep(0.002))
    trackers = opened(place)
    for step in range(300):
        trackers.log(train(step))
    assert len(place.steps) < 300, "nothing was left to drain"
    trackers.close("finished")
    assert place.steps == list(range(300))
    assert place.status == "finished"


def test_a_record_is_what_it_was_when_it_was_logged():
    seen = []
    gate = threading.Event()
    place = Place(lambda record: (gate.wait(10), seen.append(record["mlm_loss"])))
    trackers = opened(place)
    record = train(1, mlm_loss=0.5)
    trackers.log(record)
    record["mlm_loss"] = 7.0
    gate.set()
    trackers.close("finished")
    assert seen == [0.5]


@pytest.mark.parametrize("place", ["sleeps", "raises", "hangs"])
def test_logging_costs_the_caller_the_same_whatever_the_place_does(place, capsys):
    """20 µs a record of this thread's CPU at most (3 measured), and no wait: 1,000 in a second."""
    gate = threading.Event()

    def behave(record):
        if place == "raises":
            raise ConnectionError("gone")
        gate.wait(0.2 if place == "sleeps" else 60)

    trackers = opened(Place(behave), close_seconds=0.1)
    wall, cpu = time.perf_counter(), time.thread_time()
    for step in range(1000):
        trackers.log(train(step))
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    began = time.perf_counter()
    trackers.close("finished")
    closing = time.perf_counter() - began
    gate.set()
    assert cpu < 0.02
    assert wall < 1  # one wait for the place would be 200 s
    assert closing < 5
    assert any("did not get there" in line for line in Said(capsys).lines())


@given(capacity=st.integers(1, 20), count=st.integers(0, 60), batch=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_the_queue_is_bounded_and_what_does_not_fit_is_counted(capacity, count, batch):
    gate, taken = threading.Event(), threading.Event()
    place = Place(lambda record: (taken.set(), gate.wait(30)), batch)
    courier = Courier(place, Pace(capacity=capacity))
    courier.open(10)
    courier.log(train(0))
    assert taken.wait(10)  # the first is in hand, all others wait
    for step in range(1, count + 1):
        courier.log(train(step))
    assert courier.undelivered == count + 1
    gate.set()
    courier.begin_close("finished")
    courier.finish(time.monotonic() + 30)
    kept = min(count, capacity)
    assert place.steps == list(range(kept + 1))
    assert courier.undelivered == count - kept
    assert max(place.batches) <= batch


def test_dropping_is_told_once_and_counted_at_the_end(capsys):
    gate, taken = threading.Event(), threading.Event()
    place = Place(lambda record: (taken.set(), gate.wait(30)))
    trackers = opened(place, Pace(capacity=5))
    trackers.log(train(0))
    assert taken.wait(10)
    for step in range(1, 10):
        trackers.log(train(step))
    gate.set()
    trackers.close("finished")
    said = Said(capsys).lines()
    assert len([line for line in said if "5 records wait" in line]) == 1
    assert [line for line in said if "4 records did not get there" in line]


def test_a_failure_is_told_once_and_tried_again_until_it_works(capsys):
    failures = iter(range(5))

    def behave(record):
        if record["step"] == 2 and next(failures, None) is not None:
            raise ConnectionError("https://me:secret@host/api refused")

    place = Place(behave)
    trackers = opened(place)
    for step in range(5):
        trackers.log(train(step))
    wait_for(lambda: len(place.steps) == 5)
    trackers.close("finished")
    assert place.steps == list(range(5))
    said = Said(capsys).lines()
    assert len(said) == 2
    assert "https://***@host/api refused" in said[0]
    assert "works again" in said[1]


def test_one_record_that_is_always_refused_does_not_keep_the_others(capsys):
    def behave(record):
        if record["step"] == 1:
            raise ValueError("no such metric")

    place = Place(behave)
    trackers = opened(place, Pace(first_pause=0.01, longest_pause=0.02, patience=0.1))
    for step in range(4):
        trackers.log(train(step))
    wait_for(lambda: len(place.steps) == 3)
    trackers.close("finished")
    assert place.steps == [0, 2, 3]
    assert [line for line in Said(capsys).lines() if "1 records did not get there" in line]


def test_closing_tries_what_fails_once_more_and_waits_for_nothing(capsys):
    def behave(record):
        raise ConnectionError("gone")

    place = Place(behave)
    trackers = opened(place, Pace(first_pause=600))
    for step in range(20):
        trackers.log(train(step))
    said = Said(capsys)
    wait_for(lambda: any("gone" in line for line in said.lines()))
    began = time.monotonic()
    trackers.close("failed")
    assert time.monotonic() - began < 5
    assert place.status == "failed"
    assert any("20 records did not get there (ConnectionError: gone)" in x for x in said.lines())


def test_nothing_is_taken_after_closing_and_closing_twice_is_closing_once():
    place = Place()
    trackers = opened(place)
    trackers.log(train(1))
    trackers.close("stopped")
    trackers.log(train(2))
    trackers.close("finished")
    assert (place.steps, place.status) == ([1], "stopped")


def test_what_cannot_be_opened_is_an_error_that_names_it():
    class Broken(Place):
        def open(self):
            raise PermissionError("read-only file system")

    with pytest.raises(ConfigError, match=r"tracker place cannot be used: .*read-only"):
        Courier(Broken()).open(10)


def test_an_error_of_ours_keeps_its_kind():
    class Broken(Place):
        def open(self):
            raise OutputError("there", "belongs to another run")

    with pytest.raises(OutputError, match="belongs to another run"):
        Courier(Broken()).open(10)


def test_what_opens_too_late_is_closed_again():
    gate = threading.Event()

    class Slow(Place):
        def open(self):
            gate.wait(30)

    place = Slow()
    with pytest.raises(ConfigError, match="gave no answer within"):
        Courier(place).open(0.05)
    gate.set()
    wait_for(lambda: place.status is not None)
    assert place.status == "failed"


def test_another_tracker_that_raises_is_told_once_and_left_out(capsys):
    class Moody:
        calls = 0

        def log(self, record):
            self.calls += 1
            raise RuntimeError("not today")

        def close(self, status):
            raise RuntimeError("nor now")

    place, moody = Place(), Moody()
    trackers = opened(place)
    trackers.add(moody)
    for step in range(3):
        trackers.log(train(step))
    trackers.close("finished")
    assert (moody.calls, place.steps) == (1, [0, 1, 2])
    assert len(Said(capsys).lines()) == 1


def test_messages_are_short_and_without_passwords():
    text = in_short(ValueError(f"\n first https://user:pa55@host:1/x {'y' * 1000}\nsecond"))
    assert text.startswith("ValueError: first https://***@host:1/x yyy")
    assert len(text) == 600
    assert "pa55" not in text
