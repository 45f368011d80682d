"""Pre-training on Ray: Ray Data streams the batches, Ray Train runs the workers.

This file only connects: what is computed stands in `streams`, `trainer` and `loop`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from riboray.errors import ConfigError, RiborayError
from riboray.pipeline import first_line
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.loop import Record, run
from riboray.pretraining.streams import Cursor, MlmBatch, PairBatch, StreamSpec, read_visit
from riboray.pretraining.trainer import Trainer, Validation

__all__ = ["TrainingRun", "VisitDatasource", "gpus_wanted", "open_stream"]

#: Rows, and visits, that one Ray Data execution covers at most. The first execution of a stream
#: covers one visit, so that training can begin.
_ROWS_PER_EXECUTION = 16_384
_VISITS_PER_EXECUTION = 16
#: A read task claims no CPU: the workers may hold all the cluster has, and a task that waited for
#: one would wait for ever. Reading is light, and at most two tasks of a stream run at a time.
_READ_CPUS = 0
_BATCH_TYPES: dict[str, type[MlmBatch] | type[PairBatch]] = {"mlm": MlmBatch, "sal": PairBatch}
_BATCH_SCHEMA = pa.schema([("visit", pa.int64()), ("batch", pa.int32()), ("payload", pa.binary())])


def gpus_wanted(config: PretrainConfig, resources: dict[str, float]) -> bool:
    """Decide whether each worker gets a GPU.

    With ``device="auto"``, if the cluster has enough of them now.

    Raises
    ------
    ConfigError
        If GPUs are asked for and there is none.
    """
    if config.device == "gpu" and not resources.get("GPU"):
        raise ConfigError("device is gpu, but the cluster has no GPU now; use cpu or auto")
    if config.device != "auto":
        return config.device == "gpu"
    return resources.get("GPU", 0) >= config.num_workers


class VisitDatasource(Datasource):
    """Visits of one stream as Ray Data blocks: each read task makes one window's batches.

    Parameters
    ----------
    spec : StreamSpec
        What the stream holds.
    stream : int
        Number of the stream.
    visits : range
        The stream's visits to cover.
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
        """Return one task a visit, in order."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(self._read_function(visit), metadata, schema=_BATCH_SCHEMA)
            for visit in self._visits
        ]

    def _read_function(self, visit: int) -> Callable[[], Iterable[pa.Table]]:
        reference, number = self._spec, visit * self._streams + self._stream

        def read() -> Iterable[pa.Table]:
            batches = read_visit(ray.get(reference), number)
            payloads = [to_bytes(dict(vars(batch))) for batch in batches]
            count = len(payloads)
            columns = [[visit] * count, list(range(count)), payloads]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, _BATCH_SCHEMA, strict=True)]
            return [pa.Table.from_arrays(arrays, schema=_BATCH_SCHEMA)]

        return read


def open_stream(
    spec: StreamSpec, stream: int, cursor: Cursor
) -> Iterator[tuple[Cursor, MlmBatch | PairBatch]]:
    """Give what `streams.iterate_stream` gives, made by Ray Data ahead of time.

    Notes
    -----
    Reading begins with the call, not with the first batch taken. Ray Data works in bursts: an
    execution makes the batches of a few visits, all of them, in the object store, while the
    batches of the execution before are trained on. Iterating over a running execution instead
    would cost a training process a third of its time: Ray 2.60's scheduling loop spins, holding
    the interpreter's lock, as long as it waits for its consumer.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ray-data")
    executions = _executions(spec, cursor.visit)
    first = pool.submit(_make_batches, spec, stream, next(executions))

    def batches() -> Iterator[tuple[Cursor, MlmBatch | PairBatch]]:
        upcoming, batch_type = first, _BATCH_TYPES[spec.objective]
        with pool:
            while True:
                tables = upcoming.result()
                upcoming = pool.submit(_make_batches, spec, stream, next(executions))
                for table in tables:
                    for row in ray.get(table).to_pylist():
                        if (row["visit"], row["batch"]) >= cursor:
                            following = Cursor(row["visit"], row["batch"] + 1)
                            yield following, batch_type(**from_bytes(row["payload"]))

    return batches()


def _executions(spec: StreamSpec, first: int) -> Iterator[range]:
    """Divide a stream's visits into executions, without end."""
    largest = max(window.rows for window in spec.windows)
    size = min(max(_ROWS_PER_EXECUTION // largest, 1), _VISITS_PER_EXECUTION)
    yield range(first, first + 1)
    for start in itertools.count(first + 1, size):
        yield range(start, start + size)


def _make_batches(spec: StreamSpec, stream: int, visits: range) -> list[Any]:
    """Execute a few visits of a stream; return references to their tables, in order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    dataset = ray.data.read_datasource(
        VisitDatasource(spec, stream, visits),
        override_num_blocks=len(visits),
        num_cpus=_READ_CPUS,
        concurrency=2,
    )
    tables: list[Any] = dataset.to_arrow_refs()
    return tables


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Where the workers post their metrics and the driver reads them; carries the stop request."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._stop = False

    def post(self, record: Record) -> None:
        """Keep a record."""
        self._records.append(record)

    def since(self, start: int) -> list[Record]:
        """Return the records from number ``start`` on."""
        return self._records[start:]

    def request_stop(self) -> None:
        """Ask the workers to stop after their current step."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Tell whether to stop."""
        return self._stop


class RaySession:
    """The loop's session inside a Ray Train worker."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answer: Any = None
        self._stop = False

    def publish(self, record: Record) -> None:
        """Post without waiting."""
        self._board.post.remote(record)

    def stop_requested(self) -> bool:
        """Look whether the answer to an earlier question is here; never wait for it."""
        if self._answer is None:
            self._answer = self._board.stop_requested.remote()
        ready, _ = ray.wait([self._answer], timeout=0)
        if ready:
            self._stop = ray.get(self._answer)
            self._answer = None
        return self._stop

    def commit(self, record: Record, directory: Path | None) -> None:
        """Report to Ray Train, which copies the checkpoint to storage."""
        checkpoint = None
        if directory is not None:
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(record, checkpoint=checkpoint)

    def restore(self) -> Path | None:
        """Fetch the newest checkpoint to this node."""
        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else Path(checkpoint.to_directory())


@dataclass(frozen=True)
class _WorkerArguments:
    config: PretrainConfig
    specs: dict[str, StreamSpec]
    validation: Validation


def _train_worker(arguments: dict[str, Any]) -> None:
    """Run one Ray Train worker."""
    values: _WorkerArguments = ray.get(arguments["values"][0])
    config = values.config
    torch.set_num_threads(config.cpus_per_worker)
    trainer = Trainer(config, ray.train.torch.get_device())
    session = RaySession(arguments["board"])
    run(config, trainer, values.specs, open_stream, values.validation, session)


@dataclass(frozen=True)
class TrainingRun:
    """A run of Ray Train, from start to its last checkpoint.

    Attributes
    ----------
    config : PretrainConfig
        With every default filled in.
    specs, validation
        From `data.prepare_data`.
    directory : Path
        Run directory, absolute; Ray Train keeps its checkpoints in ``train/`` below it.
    use_gpu : bool
        Whether each worker gets a GPU.
    """

    config: PretrainConfig
    specs: dict[str, StreamSpec]
    validation: Validation
    directory: Path
    use_gpu: bool

    def fit(self, on_record: Callable[[Record], None], on_wait: Callable[[], bool]) -> Path:
        """Train, passing each record on as it comes.

        Parameters
        ----------
        on_record : callable
            Called with every record, in order, from this thread.
        on_wait : callable
            Called a few times a second; returns whether the user asked to stop.

        Returns
        -------
        Path
            The last checkpoint, in Ray Train's storage.

        Raises
        ------
        RiborayError
            If training failed for good.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ProgressBoard.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        arguments = _WorkerArguments(self.config, self.specs, self.validation)
        trainer = ray.train.torch.TorchTrainer(
            _train_worker,
            train_loop_config={"values": [ray.put(arguments)], "board": board},
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.config.num_workers,
                use_gpu=self.use_gpu,
                resources_per_worker={
                    "CPU": self.config.cpus_per_worker,
                    **({"GPU": 1} if self.use_gpu else {}),
                },
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(self.directory),
                failure_config=ray.train.FailureConfig(max_failures=self.config.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=self.config.keep_checkpoints
                ),
            ),
        )
        outcome: dict[str, Any] = {}

        def fit() -> None:
            try:
                outcome["result"] = trainer.fit()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        seen, asked = 0, False
        while thread.is_alive():
            thread.join(timeout=0.25)
            records = ray.get(board.since.remote(seen))
            seen += len(records)
            for record in records:
                on_record(record)
            if on_wait() and not asked:
                board.request_stop.remote()
                asked = True
        for record in ray.get(board.since.remote(seen)):
            on_record(record)
        ray.kill(board)
        if "error" in outcome:
            raise _explain(outcome["error"]) from outcome["error"]
        checkpoint = outcome["result"].checkpoint
        if checkpoint is None:
            raise RiborayError("training ended without a checkpoint")
        return Path(checkpoint.path)


def _explain(error: BaseException) -> RiborayError:
    """Find the error of ours inside Ray Train's, or wrap the first worker's."""
    failures = list(getattr(error, "worker_failures", {}).values())
    cause: BaseException | None = failures[0] if failures else error
    innermost = error
    while cause is not None:
        if isinstance(cause, RiborayError):
            return cause
        innermost, cause = cause, getattr(cause, "cause", None) or cause.__cause__
    return RiborayError(f"training failed: {first_line(innermost)}")
