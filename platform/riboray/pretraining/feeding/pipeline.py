"""The streams of training batches, read ahead by Ray Data."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from riboray.pretraining.streams import (
    Batch,
    Cursor,
    PairBatch,
    StreamSpec,
    TokenBatch,
    arrays_of,
    read_visit,
)

__all__ = ["VisitDatasource", "open_stream", "start_maker"]

#: Rows, and visits, that one Ray Data execution covers at most; and rows where a GPU, in whose
#: seconds an execution takes long to begin, has a process to make batches. The first execution of
#: a stream covers one visit, so that training can begin.
_ROWS_PER_EXECUTION, _ROWS_FOR_A_GPU = 16_384, 65_536
_VISITS_PER_EXECUTION = 16
#: A read task claims no CPU: the workers may hold all the cluster has, and a task that waited for
#: one would wait for ever.
_READ_CPUS = 0
#: Executions at a time of a worker, all its streams together, and read tasks of an execution.
#: A core makes batches of a million tokens in half a second, but every task at a time is a
#: process, which takes seconds of a core to start, just when training starts too.
_CORES = os.cpu_count() or 1
_EXECUTIONS = min(max(_CORES // 4, 1), 4)
_TASKS = min(max(_CORES // 4, 1), 4)
_BATCH_TYPES: dict[str, type[TokenBatch] | type[PairBatch]] = {
    "mlm": TokenBatch,
    "sal": PairBatch,
    "ss": TokenBatch,
}
_BATCH_SCHEMA = pa.schema([("visit", pa.int64()), ("batch", pa.int32()), ("payload", pa.binary())])


class VisitDatasource(Datasource):
    """Visits of one stream as Ray Data blocks.

    Parameters
    ----------
    spec : StreamSpec
        What the stream holds.
    stream : int
        Number of the stream.
    visits : range
        The stream's visits to cover.

    Notes
    -----
    A read task makes the batches of several visits. On a cluster whose CPUs are all held by
    workers, Ray ends an idle process at once: a task a visit would start a process a visit.
    """

    def __init__(self, spec: StreamSpec, stream: int, visits: range) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._spec = ray.put(spec)
        self._streams = spec.streams
        self._stream = stream
        self._visits = visits

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown; blocks are small and Ray Data measures them as they come."""
        return None

    def get_read_tasks(self, parallelism: int, *args: object, **kwargs: object) -> list[ReadTask]:
        """Return ``parallelism`` tasks, or one a visit if those are fewer, in order."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        size = -(-len(self._visits) // parallelism)
        parts = [self._visits[i : i + size] for i in range(0, len(self._visits), size)]
        return [
            ReadTask(self._read_function(part), metadata, schema=_BATCH_SCHEMA) for part in parts
        ]

    def _read_function(self, visits: range) -> Callable[[], Iterable[pa.Table]]:
        reference, streams, stream = self._spec, self._streams, self._stream

        def read() -> Iterable[pa.Table]:
            spec = ray.get(reference)
            for visit in visits:
                batches = read_visit(spec, visit * streams + stream)
                payloads = [to_bytes(arrays_of(batch)) for batch in batches]
                count = len(payloads)
                columns = [[visit] * count, list(range(count)), payloads]
                arrays = [pa.array(c, f.type) for c, f in zip(columns, _BATCH_SCHEMA, strict=True)]
                yield pa.Table.from_arrays(arrays, schema=_BATCH_SCHEMA)

        return read


def open_stream(
    spec: StreamSpec, stream: int, cursor: Cursor, maker: Any = None
) -> Iterator[tuple[Cursor, Batch]]:
    """Give what `streams.iterate_stream` gives, made by Ray Data ahead of time.

    Parameters
    ----------
    spec : StreamSpec
        What the stream holds.
    stream : int
        Number of the stream.
    cursor : Cursor
        Where to begin.
    maker : actor handle, optional
        From `start_maker`: who executes, instead of threads of this process.

    Notes
    -----
    Reading begins with the call, not with the first batch taken. Ray Data works in bursts: an
    execution makes the batches of a few visits, all of them, in the object store, while the
    batches of the executions before are trained on. Iterating over a running execution instead
    would cost a training process a third of its time: Ray 2.60's scheduling loop spins, holding
    the interpreter's lock, as long as it waits for its consumer. A burst's loop spins as well,
    which a process that feeds a GPU, a thousand operations a step, cannot spare: see `start_maker`.
    """
    make, rows = _make_batches, _ROWS_PER_EXECUTION
    if maker is not None:
        make, rows = partial(_have_made, maker), _ROWS_FOR_A_GPU
    executions = _executions(spec, cursor.visit, rows)
    ahead: deque[Future[list[Any]]] = deque()

    def submit() -> None:
        # What is next is said here and not in the pool, whose threads may begin out of order.
        ahead.append(_pool().submit(make, spec, stream, next(executions), _TASKS))

    def make_first(visits: range) -> list[Any]:
        tables = make(spec, stream, visits, _TASKS)
        # The first is short, and the second must be there when it is used up; but before the
        # second of one stream comes the first of every other.
        submit()
        return tables

    ahead.append(_pool().submit(make_first, next(executions)))

    def batches() -> Iterator[tuple[Cursor, Batch]]:
        batch_type = _BATCH_TYPES[spec.objective]
        try:
            while True:
                tables = ahead.popleft().result()
                submit()
                for table in tables:
                    for row in ray.get(table).to_pylist():
                        if (row["visit"], row["batch"]) >= cursor:
                            following = Cursor(row["visit"], row["batch"] + 1)
                            yield following, batch_type(**from_bytes(row["payload"]))
        finally:  # closed: nobody wants what is not begun
            wait([execution for execution in ahead if not execution.cancel()])

    return batches()


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that wait for executions, of all streams of this process."""
    return ThreadPoolExecutor(_EXECUTIONS, thread_name_prefix="ray-data")


def _executions(spec: StreamSpec, first: int, rows: int) -> Iterator[range]:
    """Divide a stream's visits into executions of about so many rows, without end."""
    largest = max(window.rows for window in spec.windows)
    size = min(max(rows // largest, 1), _VISITS_PER_EXECUTION)
    yield range(first, first + 1)
    for start in itertools.count(first + 1, size):
        yield range(start, start + size)


def _make_batches(spec: StreamSpec, stream: int, visits: range, tasks: int) -> list[Any]:
    """Execute a few visits of a stream, by so many tasks; return references to their tables."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    dataset = ray.data.read_datasource(
        VisitDatasource(spec, stream, visits),
        override_num_blocks=min(tasks, len(visits)),
        num_cpus=_READ_CPUS,
        concurrency=tasks,
    )
    tables: list[Any] = dataset.to_arrow_refs()
    return tables


class _Maker:
    """Executes for a training process, in a process of its own."""

    def make(self, spec: StreamSpec, stream: int, visits: range, tasks: int) -> list[Any]:
        """Do what `_make_batches` does."""
        return _make_batches(spec, stream, visits, tasks)


def start_maker() -> Any:
    """Start a process that makes batches for this one, on the same node.

    Whoever holds a GPU hands it thousands of operations a second, and gives up the interpreter's
    lock at each: with a loop of Ray Data's in the same process, every one of them could wait for
    the lock to come back. The process ends with the last handle of it. If it is killed, what it
    made is lost, and reading fails: the run goes on from its newest checkpoint, with another.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    maker = ray.remote(_Maker)
    return maker.options(num_cpus=0, max_concurrency=_EXECUTIONS, scheduling_strategy=here).remote()


def _have_made(maker: Any, spec: StreamSpec, stream: int, visits: range, tasks: int) -> list[Any]:
    tables: list[Any] = ray.get(maker.make.remote(spec, stream, visits, tasks))
    return tables
