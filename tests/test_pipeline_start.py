"""Starting a Ray of our own on a machine that has much else to do."""

import pytest

from riboray import pipeline
from riboray.errors import RiborayError
from riboray.rayenv import LOCAL


def _slow(times):
    """Stand in for Ray's own start, which gives up after half a minute; how often it was asked."""
    asked = []

    def init(**options):
        assert options["address"] == LOCAL
        asked.append(options)
        if len(asked) <= times:
            raise Exception("The current node timed out during startup. This could happen …")

    return init, asked


@pytest.mark.parametrize(("times", "tries"), [(0, 1), (2, 3)])
def test_a_start_that_takes_too_long_is_tried_again(monkeypatch, times, tries):
    init, asked = _slow(times)
    monkeypatch.setattr(pipeline.ray, "init", init)
    monkeypatch.setattr(pipeline, "_protect_token", lambda: None)
    pipeline._start(LOCAL, 1, 0)
    assert len(asked) == tries


def test_it_is_given_up_with_one_message(monkeypatch):
    init, asked = _slow(9)
    monkeypatch.setattr(pipeline.ray, "init", init)
    with pytest.raises(RiborayError, match="does not start on this machine"):
        pipeline._start(LOCAL, 1, 0)
    assert len(asked) == 3


def test_other_failures_are_not_hidden(monkeypatch):
    def init(**_):
        raise ValueError("something else")

    monkeypatch.setattr(pipeline.ray, "init", init)
    with pytest.raises(ValueError, match="something else"):
        pipeline._start(LOCAL, 1, 0)
