"""The verb `finetune`: from labelled RNAs to a model that predicts."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from riboray import __version__
from riboray.console import say
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.run import FinetuneRun
from riboray.manifest import write_config
from riboray.pretraining.rundir import (
    RunDirectory,
    check_ownership,
    finished_summary,
    owned,
    rehearsal,
    undone_on_failure,
)
from riboray.pretraining.start import keep_start

__all__ = ["finetune"]

Record = dict[str, Any]


def finetune(config: FinetuneConfig) -> Record:
    """Fine-tune a model and leave a run directory; return the summary.

    Raises
    ------
    InputError, ConfigError, OutputError
        If inputs, options or run directory cannot be used; nothing half-written is left.
    Interrupted
        After Ctrl-C or SIGTERM, once a checkpoint is safe.

    Notes
    -----
    The run directory holds ``checkpoint/`` (the model), ``summary.json``, ``metrics.jsonl``,
    ``training_curve.png``, ``predictions.parquet`` (of what was tested on), ``splits.parquet`` and
    ``rejects.parquet`` (where every record went), ``resolved_config.yaml``, ``checkpoints/`` and
    ``trials/`` (for resuming).
    """
    name = config.run_name or datetime.now(UTC).strftime("finetune-%Y%m%d-%H%M%S")
    config = replace(config, run_name=name)
    run = RunDirectory(Path(config.storage).resolve() / name)
    check_ownership(config, run)
    if config.dry_run:
        return _rehearse(config, run)
    with owned(config, run, "finetune") as is_new:
        with undone_on_failure(run, is_new):
            run.mark(fingerprint=config.fingerprint(), version=__version__)
            kept, sha256 = keep_start(config.checkpoint, run.path / "start")
            run.hold("start", sha256, f"{config.checkpoint} has changed")
            work = FinetuneRun(replace(config, checkpoint=kept), run)
            run.hold("data", work.identity(), "its inputs have changed")
            if (done := finished_summary(config, run)) is not None:
                say(f"run {name} is complete already: {run.path}")
                return done
            write_config(run.config, asdict(config))
            work.account()
        return work.do()


def _rehearse(config: FinetuneConfig, run: RunDirectory) -> Record:
    """Read, split and check everything elsewhere, tell of it, and leave nothing."""
    with rehearsal(config, run) as made:
        work = FinetuneRun(config, made)
        work.account()
        if len(work.trials) > 1:
            say(f"  trials      {len(work.trials):,}")
    prepared = work.prepared
    return {
        "dry_run": True,
        "run": config.run_name,
        "directory": str(run.path),
        "labels": prepared.data.task.describe(),
        "records": len(prepared.data),
        "rejected": len(prepared.rejects),
        "trials": len(work.trials),
        "folds": [
            {name: len(getattr(fold, name)) for name in ("train", "validation", "test")}
            for fold in work.folds
        ],
    }
