"""The pool of actors against made-up clusters whose machines die and come back, without Ray.

Real actors are killed in tests/integration/test_embed.py; here are thousands of other stories.
"""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest

from riboray.embedding import pipeline
from riboray.errors import RiborayError


class Reference:
    """A call under way: ``state`` is None, "done" or "lost"."""

    numbers = itertools.count()

    def __init__(self, actor):
        self.actor, self.state, self.number = actor, None, next(self.numbers)


class Actor:
    """A process that is there or not; calls to one that is not there are lost."""

    def __init__(self):
        self.alive = self.killed = False
        self.calls = []
        self.ready = SimpleNamespace(remote=self._ready)
        self.make = SimpleNamespace(remote=self._make)

    def _ready(self):
        reference = Reference(self)
        self.calls.append(reference)
        return reference

    def _make(self, part, where):
        reference = Reference(self)
        if self.alive:
            self.calls.append(reference)
        else:
            reference.state = "lost"
        return reference


class Cluster:
    """Room for so many actors, which shrinks now and then but never to nothing."""

    exceptions = pipeline.ray.exceptions

    def __init__(self, actors, room, dice):
        self.actors, self._room, self._dice = actors, room, dice

    def wait(self, references, num_returns, fetch_local, timeout):
        for _ in range(3000):
            if done := [r for r in references if r.state]:
                return done[:1], []
            self._go_on()
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
            for reference in actor.calls:
                reference.state = "lost"
            actor.calls, actor.alive = [], False
            if self._room > 1 and self._dice.random() < 0.15:
                self._room -= 1
        elif actor.calls:
            actor.calls.pop(0).state = "done"

    def get(self, reference):
        if reference.state == "lost":
            raise self.exceptions.RayActorError
        return {"rows": 1}

    def kill(self, actor):
        actor.killed, actor.alive = True, False


def test_every_part_is_done_once_whatever_dies(monkeypatch):
    monkeypatch.setattr(pipeline, "_PATIENCE", 0)
    monkeypatch.setattr(pipeline, "_DEATHS", 10**9)
    for seed in range(2000):
        dice = random.Random(seed)
        count = dice.randint(1, 4)
        actors = [Actor() for _ in range(count)]
        monkeypatch.setattr(pipeline, "ray", Cluster(actors, dice.randint(1, count), dice))
        parts = [SimpleNamespace(number=k) for k in range(dice.randint(1, 12))]
        crew = pipeline._Crew(list(actors))
        done = [part.number for part, _ in crew.run((part, None) for part in parts)]
        assert sorted(done) == list(range(len(parts))), seed
        crew.dismiss()
        assert all(actor.killed for actor in actors), seed


def test_a_part_that_ends_its_process_again_and_again_ends_the_run(monkeypatch):
    monkeypatch.setattr(pipeline, "_PATIENCE", 0)
    actors = [Actor(), Actor()]
    cluster = Cluster(actors, 2, random.Random(0))
    monkeypatch.setattr(pipeline, "ray", cluster)
    fatal = SimpleNamespace(number=3)

    def deadly(part, where):
        reference = Reference(None)
        reference.state = "lost" if part is fatal else "done"
        return reference

    for actor in actors:
        actor.make = SimpleNamespace(remote=deadly)
    parts = [SimpleNamespace(number=0), fatal, SimpleNamespace(number=5)]
    with pytest.raises(RiborayError, match="part 3 of the input ended its process 5 times"):
        list(pipeline._Crew(actors).run((part, None) for part in parts))


def test_a_process_that_cannot_begin_ends_the_run(monkeypatch):
    lost = pipeline.ray.exceptions.ActorDiedError()
    lost._actor_init_failed = True
    assert lost.actor_init_failed

    def get(reference):
        raise lost

    cluster = Cluster([Actor()], 1, random.Random(0))
    cluster.get = get
    monkeypatch.setattr(pipeline, "ray", cluster)
    with pytest.raises(RiborayError, match="a process could not begin"):
        list(pipeline._Crew(cluster.actors).run([(SimpleNamespace(number=0), None)]))
