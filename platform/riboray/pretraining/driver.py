"""The verb `pretrain`: from files to a trained checkpoint in a run directory."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from riboray import __version__
from riboray.console import say
from riboray.corpus import IngestConfig, ingest
from riboray.corpus.driver import say_counts
from riboray.corpus.ingestion import CORPUS_KIND
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS, SAMPLE_HELD_OUT
from riboray.errors import ConfigError, CorpusError, OutputError
from riboray.manifest import (
    Manifest,
    exclusive,
    read_manifest,
    write_config,
    write_json,
)
from riboray.pretraining.checkpoints import CheckpointStore, step_of
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import TrainingData, prepare_data
from riboray.pretraining.display import (
    Display,
    announce,
    merge_records,
    print_summary,
)
from riboray.pretraining.interrupts import Interrupted, stop_on_signal
from riboray.pretraining.report import (
    draw_training_curve,
    read_records,
    summarise,
    write_records,
)
from riboray.pretraining.rundir import (
    RunDirectory,
    adopt_streams,
    check_ownership,
    finished_summary,
)
from riboray.pretraining.start import keep_start
from riboray.pretraining.work import Work
from riboray.rayenv import prepare_ray
from riboray.tracking.trackers import open_trackers

__all__ = ["Interrupted", "pretrain"]

Record = dict[str, Any]

#: What the bundled sample runs with where nothing else is asked for.
_SAMPLE_MINUTES = 1.75
_SAMPLE_PAIRS = 120
_DEFAULT_EPOCHS = 10.0


def pretrain(config: PretrainConfig) -> Record:
    """Pre-train RNABERT and leave a run directory.

    Parameters
    ----------
    config : PretrainConfig
        The run; without inputs, the bundled sample.

    Returns
    -------
    dict
        The summary, also written as ``summary.json``.

    Raises
    ------
    InputError, ConfigError, OutputError
        If inputs, options or run directory cannot be used; nothing half-written is left.
    Interrupted
        After Ctrl-C or SIGTERM, once a checkpoint is safe.

    Notes
    -----
    The run directory holds ``resolved_config.yaml``, ``corpus/``, ``checkpoints/`` (for
    resuming), ``checkpoint/`` (the trained model), ``metrics.jsonl``, ``training_curve.png``
    and ``summary.json``.
    """
    config = _resolve(config)
    assert config.run_name is not None
    run = RunDirectory(Path(config.storage).resolve() / config.run_name)
    config = adopt_streams(config, run)
    check_ownership(config, run)
    _check_inputs(config)
    say(f"riboray {__version__}  pretrain  {run.path}")
    if "working_dir_files" in Path.cwd().parts and not Path(config.storage).is_absolute():
        say("  warning     --storage is relative: it lies in the job's temporary copy of the code")
    is_new = not run.path.exists() or not any(run.path.iterdir())
    run.path.mkdir(parents=True, exist_ok=True)
    with exclusive(run.path, "another process is training in it"):
        check_ownership(config, run)
        try:
            corpus = _claim(config, run)
            kept = _keep_start(config, run)
            if (done := finished_summary(config, run)) is not None:
                say(f"run {config.run_name} is complete already: {run.checkpoint}")
                return done
            data = prepare_data(corpus, kept, config.batches_per_step or 1)
            write_config(run.config, asdict(config))
        except BaseException:
            if is_new:
                shutil.rmtree(run.path, ignore_errors=True)
                with suppress(OSError):
                    run.path.parent.rmdir()  # if it was made for this run, it is empty now
            raise
        return _train(kept, run, data)


def _claim(config: PretrainConfig, run: RunDirectory) -> Path:
    """Mark the directory as this run's, and make or check its corpus.

    The mark comes first: a run killed while it ingests is known as this run when it comes again.
    """
    mark = {"fingerprint": config.fingerprint(), "version": __version__}
    known = json.loads(run.marker.read_text("utf-8")) if run.marker.is_file() else {}
    if not known:
        write_json(run.marker, mark)
    corpus, manifest = _corpus_of(config, run)
    if known.get("corpus", manifest.fingerprint) != manifest.fingerprint:
        raise OutputError(run.path, "its inputs have changed since it began; use a new --run-name")
    write_json(run.marker, {**known, **mark, "corpus": manifest.fingerprint})
    say_counts(manifest, str(corpus))
    return corpus


def _keep_start(config: PretrainConfig, run: RunDirectory) -> PretrainConfig:
    """Have the checkpoint that the run starts from in its directory, and always the same one."""
    if config.init is None:
        return config
    kept, sha256 = keep_start(config.init, run.path / "start")
    known = json.loads(run.marker.read_text("utf-8"))
    if known.get("start", sha256) != sha256:
        raise OutputError(
            run.path, f"{config.init} has changed since it began; use a new --run-name"
        )
    write_json(run.marker, {**known, "start": sha256})
    return replace(config, init=kept)


def _resolve(config: PretrainConfig) -> PretrainConfig:
    """Fill in defaults that depend on other options."""
    changes: dict[str, Any] = {}
    if not config.corpus and not config.alignments:
        changes |= {"corpus": [SAMPLE_CORPUS], "alignments": [SAMPLE_ALIGNMENTS]}
        if not config.validation_families:
            changes["validation_families"] = list(SAMPLE_HELD_OUT)
            changes["validation_pairs"] = min(config.validation_pairs, _SAMPLE_PAIRS)
    if config.max_steps is config.max_epochs is config.max_minutes is None and not config.has_end:
        if "corpus" in changes:
            changes["max_minutes"] = _SAMPLE_MINUTES
        else:
            changes["max_epochs"] = _DEFAULT_EPOCHS
    if config.run_name is None:
        changes["run_name"] = datetime.now(UTC).strftime("pretrain-%Y%m%d-%H%M%S")
    return replace(config, **changes)


def _check_inputs(config: PretrainConfig) -> None:
    """Find the commonest mistakes before anything is created."""
    for path in (*config.corpus, *config.alignments):
        if not Path(path).exists():
            raise CorpusError(path, "no such file")
    free = shutil.disk_usage(_first_existing(Path(config.storage).resolve())).free
    sizes = [Path(p).stat().st_size for p in (*config.corpus, *config.alignments)]
    # Parquet shards take about as much as gzip; pairs of alignments up to ten times their file.
    needed = 2 * sum(sizes) + 10 * sum(sizes[len(config.corpus) :]) + (64 << 20)
    if free < needed:
        raise OutputError(
            config.storage, f"{free >> 20} MiB free, but the run needs about {needed >> 20} MiB"
        )


def _first_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _corpus_of(config: PretrainConfig, run: RunDirectory) -> tuple[Path, Manifest]:
    """Return the corpus directory: one given, or one made from the files given."""
    has_codes = config.model.tokens.id_of("N") is not None
    folders = [path for path in config.corpus if Path(path).is_dir()]
    if not folders:
        corpus = run.path / "corpus"
        manifest = ingest(
            IngestConfig(
                corpus=config.corpus,
                alignments=config.alignments,
                output=str(corpus),
                max_length=config.max_length,
                ambiguity="keep" if has_codes else "reject",
                pairs_per_family=config.pairs_per_family,
                seed=config.seed,
            ),
            report=lambda line: say(f"  {line}"),
        )
        return corpus, manifest
    if len(config.corpus) > 1 or config.alignments:
        raise ConfigError("a corpus directory stands alone: it holds its alignments already")
    corpus = Path(folders[0]).resolve()
    found = read_manifest(corpus, CORPUS_KIND)
    if found is None:
        raise CorpusError(corpus, "no corpus manifest; make one with `riboray ingest`")
    made_with = found.details["config"]
    if made_with["max_length"] > config.max_length:
        longest = made_with["max_length"]
        raise ConfigError(
            f"{corpus} may hold {longest} nt, more than max_length={config.max_length}"
        )
    if made_with["ambiguity"] == "keep" and not has_codes:
        raise ConfigError(
            f"{corpus} may hold ambiguity codes, for which the {config.model.vocabulary!r} "
            "vocabulary has no tokens; ingest with --ambiguity reject"
        )
    return corpus, found


def _train(config: PretrainConfig, run: RunDirectory, data: TrainingData) -> Record:
    address = prepare_ray(config.ray_address)
    from riboray.pipeline import connect
    from riboray.pretraining.pipeline import TrainingRun, gpus_wanted, pretraining_worker
    from riboray.tracking.pipeline import RunGauges, metrics_address

    announce(config, data)
    least, most = config.worker_range
    store = CheckpointStore(run.checkpoints, config.keep_checkpoints)
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
        display = Display(run, [trackers.log])
        status: Literal["finished", "stopped", "failed"] = "failed"
        try:
            work = Work(config, data.specs, data.validation, store)
            training = TrainingRun(config, pretraining_worker, work, store, run.path, use_gpu)
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
    chosen = (store.best() or newest) if config.final == "best" else newest
    return _finish(config, run, data, chosen, records)


def _finish(
    config: PretrainConfig,
    run: RunDirectory,
    data: TrainingData,
    chosen: Path,
    records: list[Record],
) -> Record:
    """Put the trained model, the figure and the summary into the run directory."""
    staged = run.path / f".checkpoint-{time.time_ns()}"
    shutil.copytree(chosen, staged)
    if data.trained is not None:
        data.trained.write(staged)
    aside = staged.with_name(f"{staged.name}-old")
    if run.checkpoint.exists():
        run.checkpoint.rename(aside)
    staged.rename(run.checkpoint)
    shutil.rmtree(aside, ignore_errors=True)
    draw_training_curve(records, run.path / "training_curve.png", f"riboray {config.run_name}")
    summary = {
        "run": config.run_name,
        "checkpoint": str(run.checkpoint),
        **summarise(records, step_of(chosen)),
        "data": data.counts,
        "held_out_families": list(data.held_out_families),
        "limits": config.limits(),
        "riboray_version": __version__,
    }
    write_json(run.summary, summary)
    print_summary(run, summary)
    return summary
