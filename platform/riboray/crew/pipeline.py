"""A crew of Ray actors that grows with the work and with the cluster.

How many processes to ask for is known to nobody beforehand: a cluster that scales itself may have
no node yet, and says nowhere how many it could have. So a crew begins with a process for every CPU
(or GPU) that is there, a few at least, sees how long a call takes, and asks for more as long as
each would have a minute's work. What it asks for is the demand that an autoscaler sees. Processes
that the cluster has no room for wait; calls go to those that are there.
"""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from riboray.console import say
from riboray.crew.folders import common_file, unshared, visible
from riboray.crew.size import Needs, Size, crew_size
from riboray.errors import RiborayError
from riboray.pipeline import LostObject, cause_of, connect, fetch

import ray  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["Crew", "crew_on", "shared"]

#: Calls with an actor at a time: one that it works on and one that follows.
_AHEAD = 2
#: How often a call may take its process with it.
_DEATHS = 5
#: Calls under way beyond which all that are ready are taken at once.
_MANY = 64
#: Processes asked for in place of those that could not begin.
_TRIES = 3
#: Seconds after which a process that died is asked again whether it is back; twice as many each
#: time, up to the second number.
_PATIENCE, _LONGEST = 1.0, 30.0
#: Seconds after a machine's loss in which calls are not to blame for lost processes.
_AFTERMATH = 60.0
#: Seconds of work for which another process is asked for: a machine takes minutes to come.
_GRAIN = 60.0

#: How Ray tells that a process is gone; the latter if it ended it for want of memory.
_LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)

T = TypeVar("T")


@ray.remote(max_restarts=-1)
class _Worker:
    """A process that calls functions."""

    def ready(self, probe: str | None) -> str:
        """Answer once the process is there; name its machine if that does not see a file."""
        return "" if probe is None or visible(probe) else socket.gethostname()

    @ray.method(num_returns=2)
    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
        """Call a function; references among its arguments have been fetched.

        Returns
        -------
        tuple
            Seconds it took, and its result, which need not leave this machine.
        """
        start = time.perf_counter()
        result = function(*arguments)
        return time.perf_counter() - start, result


_cache: dict[str, Any] = {}


def shared(box: list[Any]) -> Any:
    """Fetch what all calls share once a process. In a list, Ray does not fetch it for each call."""
    (reference,) = box
    key = reference.hex()
    if key not in _cache:
        _cache[key] = ray.get(reference)
    return _cache[key]


@dataclass
class _Call:
    """A call to be made, and how many processes it has lost."""

    label: Any
    arguments: tuple[Any, ...]
    deaths: int = 0


class Crew:
    """Actors that make calls, of which some may not be there yet, or not any more.

    Parameters
    ----------
    size : Size
        How many; see the module's description.
    needs : Needs
        What each holds.
    probe : str, optional
        A file that every process must see.
    """

    def __init__(self, size: Size, needs: Needs, probe: str | None = None) -> None:
        self.size, self.needs, self._probe = size, needs, probe
        self._all: list[Any] = []
        self._there: dict[Any, None] = {}  # a set that keeps its order
        self._awaited: dict[Any, Any] = {}
        # Whom to give the next call, once for every call that one may still be given.
        self._slots: deque[Any] = deque()
        self._unbegun = 0
        self._due: dict[Any, float] = {}
        self._patience: dict[Any, float] = {}
        self._warm: set[Any] = set()
        self._machines: set[str] = set()
        self._lost_machine = -math.inf
        self._told = time.monotonic()
        self._running: dict[Any, tuple[_Call, Any, Any]] = {}
        self._again: deque[_Call] = deque()

    @property
    def count(self) -> int:
        """How many processes there are now."""
        return len(self._there)

    def each(
        self,
        calls: Iterable[tuple[T, tuple[Any, ...]]],
        total: int | None = None,
        *,
        what: str = "the work",
        keep: bool = False,
        last: bool = False,
    ) -> Iterator[tuple[T, Any]]:
        """Make calls, and yield each one's label and result as it comes.

        What a function writes must be whole or absent, and the same each time: a call whose
        process is lost is made again.

        Parameters
        ----------
        calls : iterable of tuple
            A label, and a function with its arguments. Drawn from as processes become free.
        total : int, optional
            How many there are.
        what : str
            What it is, for messages.
        keep : bool
            Leave results in the memory of the machine that made them, and yield references.
        last : bool
            Whether no others follow: processes without work are given back then, and a cluster
            shrinks while the last ones work.

        Yields
        ------
        tuple
            Label, and result: a `LostObject` if a reference among the arguments leads nowhere,
            since its machine is gone.

        Raises
        ------
        RiborayError
            If a call fails, or takes its process with it again and again, or no process can begin.
        """
        source = (_Call(label, call) for label, call in calls)
        following = next(source, None)
        self._want(min(self.size.least, self.size.least if total is None else total))
        self._machines = _machines()
        done, timed, seconds = 0, 0, 0.0
        while following or self._again or self._running:
            self._ask_again()
            while (following or self._again) and self._slots:
                if self._again:
                    self._hand(self._again.popleft())
                elif following is not None:
                    self._hand(following)
                    following = next(source, None)
            if following is None and not self._again:
                self._send_home(idle=last)
            for reference in self._wait():
                if reference in self._awaited:
                    self._welcome(reference)
                elif (found := self._collect(reference, what, keep=keep)) is not None:
                    spent, label, result = found
                    done += 1
                    if spent is not None:
                        timed, seconds = timed + 1, seconds + spent / self.needs.calls
                    if following is not None and timed:
                        left = None if total is None else total - done
                        self._adjust(self._worth(left, seconds / timed))
                    yield label, result

    def _worth(self, left: int | None, seconds: float) -> int:
        """Return how many processes so many calls of so many seconds are worth asking for."""
        if left is None:
            return 2 * len(self._there)
        return min(math.ceil(left * seconds / _GRAIN), left)

    def _adjust(self, count: int) -> None:
        """Ask for as many processes, or take back what was asked for beyond them and not there."""
        self._want(count)
        if (excess := len(self._all) - max(count, self.size.least)) > 0:
            busy = {actor for _, actor, _ in self._running.values()}
            awaited = [actor for actor in self._awaited.values() if actor not in busy]
            self._dismiss(awaited[:excess])

    def _ask_again(self) -> None:
        """Ask processes that died whether they are back, those whose time has come."""
        now = time.monotonic()
        for actor in [actor for actor, due in self._due.items() if due <= now]:
            del self._due[actor]
            self._await(actor)

    def _want(self, count: int) -> None:
        for _ in range(min(count, self.size.most) - len(self._all)):
            options = self.needs.options()
            actor = _Worker.options(**options).remote()  # type: ignore[attr-defined]
            self._all.append(actor)
            self._await(actor)

    def _await(self, actor: Any) -> None:
        self._awaited[actor.ready.remote(self._probe)] = actor

    def _wait(self) -> list[Any]:
        references = [*self._running, *self._awaited]
        now = time.monotonic()
        patience = min(60.0, min(self._due.values(), default=math.inf) - now)
        if not self._there and now - self._told >= 60:
            self._told = now
            say(self.needs.no_room())
        if not references:
            time.sleep(max(patience, 0.0))
            return []
        patience = max(patience, 0.0)
        done, _ = ray.wait(references, num_returns=1, fetch_local=False, timeout=patience)
        if len(references) > _MANY:  # looking takes as long as there are references: take all
            done, _ = ray.wait(
                references, num_returns=len(references), fetch_local=False, timeout=0
            )
        found: list[Any] = done
        return found

    def _hand(self, call: _Call) -> None:
        actor = self._slots.popleft()
        status, value = actor.call.remote(*call.arguments)
        self._running[status] = call, actor, value

    def _welcome(self, reference: Any) -> None:
        actor = self._awaited.pop(reference)
        try:
            machine = ray.get(reference)
        except _LOST as error:
            if getattr(error, "actor_init_failed", False):
                self._replace(actor, error)
                return
            wait = self._patience.get(actor, _PATIENCE)  # died again, or there is no room for it
            self._due[actor] = time.monotonic() + wait
            self._patience[actor] = min(2 * wait, _LONGEST)
            return
        except ray.exceptions.RayError as error:
            self._replace(actor, error)
            return
        if machine:
            assert self._probe is not None
            raise unshared(Path(self._probe).parent, machine)
        self._patience.pop(actor, None)
        self._warm.discard(actor)
        self._there[actor] = None
        self._slots.appendleft(actor)
        self._slots.extend([actor] * (_AHEAD - 1))

    def _replace(self, actor: Any, error: Exception) -> None:
        """Ask for another process: its machine may be at fault, for want of disk, say."""
        self._all.remove(actor)
        self._unbegun += 1
        if self._unbegun <= _TRIES:
            say(f"  a process could not begin: {cause_of(error)}")
            self._want(len(self._all) + 1)
        elif not (self._there or self._awaited or self._running or self._due):
            raise RiborayError(f"no process can begin: {cause_of(error)}") from error

    def _collect(
        self, status: Any, what: str, *, keep: bool
    ) -> tuple[float | None, Any, Any] | None:
        """Return seconds, label and result; if its process died, the call is made again.

        Seconds are None for a process's first call: it loads the model, and compiles.
        """
        call, actor, value = self._running.pop(status)
        try:
            seconds = ray.get(status)
        except _LOST as error:
            if actor in self._there:
                del self._there[actor]
                self._slots = deque(one for one in self._slots if one != actor)
                self._await(actor)
            self._put_back(call, what, error)
            return None
        except ray.exceptions.RayError:
            try:
                fetch(status, what)
            except LostObject as lost:
                self._release(actor)
                return None, call.label, lost
            raise
        self._release(actor)
        first = actor not in self._warm
        self._warm.add(actor)
        try:
            return None if first else seconds, call.label, value if keep else ray.get(value)
        except ray.exceptions.ObjectLostError as error:  # went with its machine since
            self._put_back(call, what, error)
            return None

    def _release(self, actor: Any) -> None:
        if actor in self._there:  # it may have died since
            self._slots.append(actor)

    def _put_back(self, call: _Call, what: str, error: Exception) -> None:
        """Have a call made again, unless that has been tried often enough."""
        if gone := self._machines - (here := _machines()):
            self._lost_machine = time.monotonic()
        self._machines = here if gone else self._machines | here
        if time.monotonic() - self._lost_machine >= _AFTERMATH:
            call.deaths += 1
        if call.deaths >= _DEATHS:
            raise RiborayError(
                f"{what} ended its process {_DEATHS} times: is there enough memory? "
                f"{cause_of(error)}"
            ) from error
        self._again.append(call)

    def _send_home(self, *, idle: bool) -> None:
        """Take back what was asked for and has not come, and what has nothing to do any more."""
        busy = {actor for _, actor, _ in self._running.values()}
        if idle:
            self._dismiss([actor for actor in self._there if actor not in busy])
        if self._running:
            # Those that died with work that nobody has asked for yet may be needed for it.
            pending = [*self._awaited.values(), *self._due]
            self._dismiss([actor for actor in pending if actor not in busy])

    def _dismiss(self, actors: list[Any]) -> None:
        for actor in actors:
            ray.kill(actor)
            self._all.remove(actor)
        gone = set(actors)
        self._there = {actor: None for actor in self._there if actor not in gone}
        self._slots = deque(actor for actor in self._slots if actor not in gone)
        self._awaited = {r: actor for r, actor in self._awaited.items() if actor not in gone}
        self._due = {actor: due for actor, due in self._due.items() if actor not in gone}

    def dismiss(self) -> None:
        """End all processes."""
        self._dismiss(list(self._all))
        self._running.clear()
        self._again.clear()


def _machines() -> set[str]:
    """Name the machines that are there."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


@contextmanager
def crew_on(
    address: str,
    asked: int | list[int] | None,
    memory: float | None = None,
    folder: Path | None = None,
) -> Iterator[Crew]:
    """Connect to Ray, or start one on this machine, and have a crew there.

    Parameters
    ----------
    address : str
        Which Ray.
    asked : int, list of int or None
        How many processes; see `crew_size`.
    memory : float, optional
        GiB that each holds, beside a CPU.
    folder : Path, optional
        Where they write, which must be the same folder on all machines.
    """
    most = asked[1] if isinstance(asked, list) else asked
    with connect(address, cpus=most or 0) as resources, common_file(address, folder) as probe:
        crew = Crew(crew_size(asked, address, resources), Needs(memory=memory), probe)
        try:
            yield crew
        finally:
            crew.dismiss()
