"""Following a job's log through connections that break, on a made-up client."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from riboray.launch import pipeline

LINES = ["one\n", "two\n", "three\n"]


class Client:
    """Gives so many lines a connection, of all that there are, and breaks then, or closes."""

    def __init__(self, breaks, status=JobStatus.SUCCEEDED, code=0):
        self.breaks, self.status, self.code = list(breaks), status, code

    async def tail_job_logs(self, name):
        shown, how = self.breaks.pop(0) if self.breaks else (len(LINES), "close")
        for line in LINES[:shown]:
            yield line
        if how == "break":
            raise RuntimeError("WebSocket closed with 1006")

    def get_job_info(self, name):
        ended = not self.breaks
        status = self.status if ended else JobStatus.RUNNING
        return SimpleNamespace(status=status, driver_exit_code=self.code, message="why")


@pytest.fixture
def follow(monkeypatch):
    monkeypatch.setattr(pipeline, "_PATIENCE", 0)

    def run(client):
        jobs = pipeline.Jobs.__new__(pipeline.Jobs)
        jobs._client, jobs._shown, jobs._heard = client, 0, 0.0
        return jobs.follow("job")

    return run


@pytest.mark.parametrize(
    "breaks",
    [
        [],
        [(1, "close"), (3, "close")],
        [(2, "break"), (1, "break"), (0, "break"), (3, "break")],
        [(0, "close"), (2, "break")],
    ],
)
def test_every_line_comes_once(follow, capsys, breaks):
    assert follow(Client(breaks)) == (0, "is done")
    assert capsys.readouterr().out == "".join(LINES)


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (JobStatus.FAILED, 2, (2, "failed with exit code 2")),
        (JobStatus.FAILED, -9, (1, "failed with exit code -9")),
        (JobStatus.FAILED, None, (1, "failed: why")),
        (JobStatus.STOPPED, None, (130, "was stopped")),
    ],
)
def test_what_became_of_it(follow, status, code, outcome):
    assert follow(Client([], status, code)) == outcome


def test_a_head_that_stays_away(follow, monkeypatch):
    """Silence counts from the first failure on, however long the job has run before."""
    clock = iter([0.0, 1000.0, 1050.0, 1119.0, 1121.0, 1122.0])
    made_up = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None)
    monkeypatch.setattr(pipeline, "time", made_up)
    client = Client([(1, "break")] + [(0, "break")] * 9)
    code, message = follow(client)
    assert code == 1
    assert "cannot be followed any more: WebSocket closed" in message
    assert len(client.breaks) == 6, "it was tried for two minutes"
