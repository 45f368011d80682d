"""A crew on made-up clusters whose machines die and come back, without Ray.

Real processes are killed in tests/integration/test_crew.py; here are thousands of other stories.
"""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest

from riboray.crew import pipeline
from riboray.crew.size import Needs, Size
from riboray.errors import RiborayError
from riboray.pipeline import LostObject

RAY = pipeline.ray


class Reference:
    """Something under way: ``state`` is None, "done", "lost" or "gone" (with its machine)."""

    numbers = itertools.count()

    def __init__(self, value=None):
        self.state, self.value, self.number = None, value, next(self.numbers)


class Actor:
    """A process that is there or not; calls to one that is not there are lost."""

    def __init__(self):
        self.alive = self.killed = False
        self.calls = []
        self.ready = SimpleNamespace(remote=self._ready)
        self.call = SimpleNamespace(remote=self._call)

    def _ready(self, probe):
        reference = Reference("")
        self.calls.append((reference,))
        return reference

    def _call(self, function, *arguments):
        status, value = Reference(1.0), Reference(arguments)
        if self.alive:
            self.calls.append((status, value))
        else:
            status.state = value.state = "lost"
        return status, value


class Cluster:
    """Room for so many actors, which shrinks now and then but never to nothing."""

    exceptions = RAY.exceptions

    def __init__(self, room, dice):
        self.actors, self._room, self._dice = [], room, dice

    def options(self, **_):
        return self

    def remote(self):
        self.actors.append(Actor())
        return self.actors[-1]

    def wait(self, references, num_returns, fetch_local, timeout):
        for _ in range(3000):
            if done := [r for r in references if r.state]:
                return done[:num_returns], []
            self._go_on()
            if timeout < 1:
                return [], []
        raise AssertionError("waits for ever")

    def _go_on(self):
        there = [actor for actor in self.actors if actor.alive]
        for actor in self.actors:
            if not actor.alive and not actor.killed and len(there) < self._room:
                actor.alive = True
                there.append(actor)
        if not there:
            return
        actor = self._dice.choice(there)
        if self._dice.random() < 0.15:
            for references in actor.calls:
                for reference in references:
                    reference.state = "lost"
            actor.calls, actor.alive = [], False
            if self._room > 1 and self._dice.random() < 0.15:
                self._room -= 1
        elif actor.calls:
            references = actor.calls.pop(0)
            for reference in references:
                reference.state = "done"
            if len(references) == 2 and self._dice.random() < 0.1:
                references[1].state = "gone"

    def get(self, reference):
        if reference.state == "lost":
            raise self.exceptions.RayActorError
        if reference.state == "gone":
            raise self.exceptions.ObjectLostError("0" * 56, None, "")
        return reference.value

    def nodes(self):
        return [{"NodeID": "a", "Alive": True}]

    def kill(self, actor):
        assert not actor.killed
        actor.killed, actor.alive = True, False


@pytest.fixture
def on(monkeypatch):
    """Put the crew's module on a made-up cluster."""
    monkeypatch.setattr(pipeline, "_PATIENCE", 0)

    def put(cluster):
        monkeypatch.setattr(pipeline, "ray", cluster)
        monkeypatch.setattr(pipeline, "_Worker", cluster)
        monkeypatch.setattr("riboray.pipeline.ray", cluster)
        return cluster

    return put


def calls_of(count):
    return ((k, (print, k)) for k in range(count))


def test_every_call_is_made_whatever_dies(on, monkeypatch):
    monkeypatch.setattr(pipeline, "_DEATHS", 10**9)
    monkeypatch.setattr(pipeline, "_GRAIN", 3.0)
    for seed in range(2000):
        dice = random.Random(seed)
        monkeypatch.setattr(pipeline, "_MANY", dice.choice([0, 64]))
        least = dice.randint(1, 4)
        most = least + dice.choice([0, 3])
        cluster = on(Cluster(dice.randint(1, most), dice))
        crew = pipeline.Crew(Size(least, most), Needs())
        rounds = dice.randint(1, 3)
        for number in range(rounds):
            count = dice.randint(0, 12)
            known = count if dice.random() < 0.5 else None
            last = number == rounds - 1 and dice.random() < 0.5
            found = list(crew.each(calls_of(count), known, last=last))
            assert sorted(k for k, _ in found) == list(range(count)), seed
            assert all(result == (k,) for k, result in found), seed
            assert len([a for a in cluster.actors if not a.killed]) <= most, seed
        crew.dismiss()
        assert all(actor.killed for actor in cluster.actors), seed


def test_a_call_that_ends_its_process_again_and_again_ends_the_run(on, monkeypatch):
    cluster = on(Cluster(2, random.Random(0)))

    def deadly(self, function, *arguments):
        status, value = Reference(1.0), Reference(arguments)
        status.state = value.state = "lost" if arguments == (1,) else "done"
        return status, value

    monkeypatch.setattr(Actor, "_call", deadly)
    with pytest.raises(RiborayError, match="trying ended its process 5 times"):
        list(pipeline.Crew(Size(2, 2), Needs()).each(calls_of(3), 3, what="trying"))
    assert cluster.actors


def test_a_process_that_cannot_begin_ends_the_run(on):
    lost = RAY.exceptions.ActorDiedError()
    lost._actor_init_failed = True
    assert lost.actor_init_failed

    def get(reference):
        raise lost

    cluster = on(Cluster(9, random.Random(0)))
    cluster.get = get
    with pytest.raises(RiborayError, match="no process can begin"):
        list(pipeline.Crew(Size(1, 1), Needs()).each(calls_of(1)))
    assert len(cluster.actors) == 4, "others were tried"


def without_deaths(cluster):
    """Time goes on, and nothing goes wrong."""
    for actor in cluster.actors:
        actor.alive = True
        for references in actor.calls[:1]:
            for reference in references:
                reference.state = "done"
        actor.calls = actor.calls[1:]


def test_a_machine_on_which_none_can_begin_is_done_without(on, capsys, monkeypatch):
    """Its disk is full, say: what is there goes on."""
    lost = RAY.exceptions.RuntimeEnvSetupError("No space left on device")
    cluster = on(Cluster(2, random.Random(0)))
    get = cluster.get

    def or_not(reference):
        if reference.value == "" and reference is not first[0]:
            raise lost
        return get(reference)

    first = []
    ready = Actor._ready

    def remember(self, probe):
        first.append(ready(self, probe))
        return first[-1]

    cluster.get = or_not
    monkeypatch.setattr(Actor, "_ready", remember)
    monkeypatch.setattr(Cluster, "_go_on", without_deaths)
    found = dict(pipeline.Crew(Size(2, 2), Needs()).each(calls_of(40), 40))
    assert sorted(found) == list(range(40))
    assert "a process could not begin: RuntimeEnvSetupError" in capsys.readouterr().err


def test_a_call_whose_argument_is_gone_is_told(on, monkeypatch):
    on(Cluster(1, random.Random(0)))

    def without(self, function, *arguments):
        status, value = Reference(1.0), Reference(arguments)
        status.state = value.state = "gone" if arguments == (1,) else "done"
        return status, value

    monkeypatch.setattr(Actor, "_call", without)
    found = dict(pipeline.Crew(Size(1, 1), Needs()).each(calls_of(3), 3, what="trying"))
    assert found[0] == (0,)
    assert found[2] == (2,)
    assert isinstance(found[1], LostObject)


def test_what_is_asked_for(on):
    """A cluster without a CPU is asked for few at first, and for as many as are worth it then."""
    cluster = on(Cluster(100, random.Random(1)))
    crew = pipeline.Crew(Size(4, 50), Needs())
    list(crew.each(calls_of(3), 3))
    assert len(cluster.actors) == 3, "no more than there are calls"
    assert crew._worth(600, 1.0) == 10
    assert crew._worth(600, 3600.0) == 600
    assert crew._worth(30, 0.01) == 1
    crew.dismiss()
