"""The verb `pretrain`: from files to a trained checkpoint in a run directory."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from riboray import __version__
from riboray.console import say
from riboray.corpus import IngestConfig, ingest
from riboray.corpus.driver import say_counts, tell
from riboray.corpus.ingestion import CORPUS_KIND
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS, SAMPLE_HELD_OUT
from riboray.errors import ConfigError, CorpusError
from riboray.manifest import (
    Manifest,
    read_manifest,
    write_config,
    write_json,
)
from riboray.pretraining.checkpoints import CheckpointStore, step_of
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import TrainingData, prepare_data
from riboray.pretraining.display import (
    announce,
    print_summary,
)
from riboray.pretraining.interrupts import Interrupted
from riboray.pretraining.report import (
    draw_training_curve,
    summarise,
)
from riboray.pretraining.rundir import (
    RunDirectory,
    adopt_streams,
    check_ownership,
    check_room,
    finished_summary,
    owned,
    rehearsal,
    undone_on_failure,
)
from riboray.pretraining.running import train
from riboray.pretraining.start import keep_start
from riboray.pretraining.work import Work
from riboray.rayenv import prepare_ray

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
    if config.dry_run:
        return _rehearse(config, run)
    with owned(config, run, "pretrain") as is_new:
        with undone_on_failure(run, is_new):
            corpus = _claim(config, run)
            kept = _keep_start(config, run)
            if (done := finished_summary(config, run)) is not None:
                say(f"run {config.run_name} is complete already: {run.checkpoint}")
                return done
            data = prepare_data(corpus, kept, config.batches_per_step or 1)
            write_config(run.config, asdict(config))
        return _train(kept, run, data)


def _rehearse(config: PretrainConfig, run: RunDirectory) -> Record:
    """Prepare the run elsewhere, tell of it, and leave nothing."""
    with rehearsal(config, run) as made:
        corpus = _claim(config, made)
        kept = _keep_start(config, made)
        data = prepare_data(corpus, kept, config.batches_per_step or 1)
        announce(kept, data)
    return {
        "dry_run": True,
        "run": config.run_name,
        "directory": str(run.path),
        "data": data.counts,
        "held_out_families": list(data.held_out_families),
        "limits": config.limits(),
    }


def _claim(config: PretrainConfig, run: RunDirectory) -> Path:
    """Mark the directory as this run's, and make or check its corpus.

    The mark comes first: a run killed while it ingests is known as this run when it comes again.
    """
    run.mark(fingerprint=config.fingerprint(), version=__version__)
    corpus, manifest = _corpus_of(config, run)
    run.hold("corpus", manifest.fingerprint, "its inputs have changed")
    say_counts(manifest, None if config.dry_run else str(corpus))
    return corpus


def _keep_start(config: PretrainConfig, run: RunDirectory) -> PretrainConfig:
    """Have the checkpoint that the run starts from in its directory, and always the same one."""
    if config.init is None:
        return config
    kept, sha256 = keep_start(config.init, run.path / "start")
    run.hold("start", sha256, f"{config.init} has changed")
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
    sizes = [Path(p).stat().st_size for p in (*config.corpus, *config.alignments)]
    # Parquet shards take about as much as gzip; pairs of alignments up to ten times their file.
    needed = 2 * sum(sizes) + 10 * sum(sizes[len(config.corpus) :]) + (64 << 20)
    check_room(config.storage, needed)


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
            report=tell,
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
    from riboray.pretraining.pipeline import pretraining_worker

    announce(config, data)
    store = CheckpointStore(run.checkpoints, config.keep_checkpoints)
    work = Work(config, data.specs, data.validation, store)
    newest, records = train(config, run, store, pretraining_worker, work, address)
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

    def fill(folder: Path) -> None:
        shutil.copytree(chosen, folder, dirs_exist_ok=True)
        if data.trained is not None:
            data.trained.write(folder)

    run.hand_over(fill)
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
