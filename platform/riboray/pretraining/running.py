"""A training from the driver's side: shown, tracked, stopped by Ctrl-C, resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from riboray.console import say
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.display import Display, merge_records
from riboray.pretraining.interrupts import Interrupted, stop_on_signal
from riboray.pretraining.options import RunOptions
from riboray.pretraining.report import (
    figures_line,
    read_records,
    validation_line,
    write_records,
)
from riboray.pretraining.rundir import RunDirectory
from riboray.tracking.trackers import open_trackers

__all__ = ["train"]

Record = dict[str, Any]


def train(
    config: RunOptions,
    run: RunDirectory,
    store: CheckpointStore,
    worker: Callable[[dict[str, Any]], None],
    values: Any,
    address: str,
    *,
    figures: Callable[[Record], str] = figures_line,
    measured: Callable[[Record], str] = validation_line,
) -> tuple[Path, list[Record]]:
    """Train on Ray Train until the end, and keep the records.

    Parameters
    ----------
    config : RunOptions
        With every default filled in.
    run : RunDirectory
        Whose records and trackers.
    store : CheckpointStore
        Where checkpoints go.
    worker, values
        What each worker runs and is given; see `TrainingRun`.
    address : str
        From `prepare_ray`, called before.
    figures, measured : callable
        Put records into words.

    Returns
    -------
    newest : Path
        The last checkpoint.
    records : list of dict
        All of the run, also in ``metrics.jsonl``.

    Raises
    ------
    Interrupted
        After Ctrl-C or SIGTERM, once a checkpoint is safe.
    RiborayError
        If training failed for good.
    """
    from riboray.pipeline import connect
    from riboray.pretraining.pipeline import TrainingRun, gpus_wanted
    from riboray.tracking.pipeline import RunGauges, metrics_address

    least, most = config.worker_range
    with connect(address, cpus=most * config.cpus_per_worker) as resources:
        use_gpu = gpus_wanted(config, address, resources)
        device = "GPU" if use_gpu else f"{config.cpus_per_worker} CPU"
        workers = f"{most}" if least == most else f"{least} to {most}"
        say(f"  workers     {workers}, {device} each")
        if (where := metrics_address()) is not None:
            say(f"  Prometheus  {where}")
        begun = max(store.steps(), default=0)
        trackers = open_trackers(config.track, run.path, run.path.name, asdict(config), begun)
        trackers.add(RunGauges(run.path.name))
        display = Display(run, [trackers.log], figures, measured)
        status: Literal["finished", "stopped", "failed"] = "failed"
        try:
            training = TrainingRun(config, worker, values, store, run.path, use_gpu)
            with stop_on_signal() as stop:
                newest = training.fit(display.show, lambda: stop.is_requested)
            records = merge_records(read_records(newest / "metrics.jsonl"), display.records)
            write_records(run.metrics, records)
            finished = records[-1]["progress"] >= 1
            status = "finished" if finished else "stopped"
        finally:
            display.close()
            trackers.close(status)
    if not finished:
        step = records[-1]["step"]
        raise Interrupted(
            f"stopped at step {step}, checkpoint saved; to go on, run the same command with "
            f"--run-name {config.run_name}"
        )
    return newest, records
