"""A fine-tuning run: trained, chosen, measured, handed over."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from riboray import __version__
from riboray.console import say
from riboray.corpus.rejects import write_rejects
from riboray.corpus.trained import TrainedSequences
from riboray.errors import ConfigError, RiborayError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Prepared, describe_counts, prepare
from riboray.finetuning.display import (
    TrialLines,
    announce,
    figures_line,
    measured_line,
    panels,
    print_summary,
    results_of,
)
from riboray.finetuning.metrics import chosen_metric
from riboray.finetuning.model import (
    check_learners,
    check_options,
    class_weights,
    kept_head,
    make_head,
)
from riboray.finetuning.plan import (
    Trial,
    TrialResult,
    best_options,
    list_trials,
    mean_and_spread,
    options_text,
)
from riboray.finetuning.splitting import Fold
from riboray.finetuning.trial import PREDICTIONS_NAME, store_of
from riboray.finetuning.work import TuningWork
from riboray.manifest import atomic_path, write_json
from riboray.model.checkpoint import load_checkpoint, write_checkpoint_files
from riboray.model.prediction import RnaBertForPrediction
from riboray.pretraining.checkpoints import CheckpointStore, step_of
from riboray.pretraining.interrupts import Interrupted
from riboray.pretraining.report import draw_training_curve, read_records, write_records
from riboray.pretraining.rundir import (
    RunDirectory,
    check_room,
)
from riboray.pretraining.running import train
from riboray.rayenv import LOCAL, prepare_ray

__all__ = ["FinetuneRun"]

Record = dict[str, Any]

#: Bytes for what is small: records, predictions, notes.
_ROOM = 32 << 20


class FinetuneRun:
    """A run: its options, data and directory."""

    def __init__(self, config: FinetuneConfig, run: RunDirectory) -> None:
        self.config, self.run = config, run
        check_learners(config)
        loaded = load_checkpoint(config.checkpoint)
        kept = kept_head(loaded.model, config)
        ambiguity = loaded.model.config.tokens.id_of("N") is not None
        self.prepared: Prepared = prepare(config, kept, ambiguity=ambiguity)
        self.data, self.folds = self.prepared.data, self.prepared.folds
        check_options(config, self.data, kept)
        head = make_head(self.data, config, kept)
        self.metric = chosen_metric(config.metric, head)
        first = self.folds[0].train.tolist()
        class_weights([self.data.targets[row] for row in first], self.data, config)
        self.trials = list_trials(config, self.folds)
        for trial in self.trials:
            trial.configured(config)  # raises where a value cannot be
        # Weights, and of what is learnt gradients' averages twice and the weights again.
        size = 4 * sum(p.nbytes for p in loaded.model.parameters())
        check_room(config.storage, len(self.trials) * (config.keep_checkpoints + 3) * size + _ROOM)
        if config.search.axes and not len(self.folds[0].validation):
            raise ConfigError("a search needs validation records: --validation-share above 0")
        self.trained = TrainedSequences.read(loaded.path) if loaded.path.is_dir() else None
        known = self.trained
        self.overlap = None if known is None else known.overlap(self.data.sequences)

    def identity(self) -> str:
        """Hash what is learnt from: records, labels, splits."""
        found = hashlib.sha256()
        for name, sequence, target in zip(
            self.prepared.ids, self.data.sequences, self.data.targets, strict=True
        ):
            found.update(f"{name}\t{sequence}\t{target.shape}\t".encode())
            found.update(np.ascontiguousarray(target).tobytes())
        for fold in self.folds:
            for rows in (fold.train, fold.validation, fold.test):
                found.update(rows.tobytes() + b"|")
        return found.hexdigest()[:16]

    def account(self) -> None:
        """Say, and write down, where every record went."""
        announce(self.config, self.prepared)
        write_rejects(self.prepared.rejects, self.run.path)
        with atomic_path(self.run.path / "splits.parquet") as temporary:
            pq.write_table(self.prepared.table(), temporary)
        if self.overlap is not None:
            about = "" if self.overlap.exact else "about "
            say(
                f"  seen before {about}{self.overlap.masked:,} of the sequences, and "
                f"{about}{self.overlap.aligned:,} in alignments, by the model when it was "
                "pre-trained"
            )

    def do(self) -> Record:
        """Train, choose, measure, hand over."""
        address = prepare_ray(self.config.ray_address)
        if len(self.trials) == 1:
            return self._train_one(address)
        from riboray.pipeline import connect

        most = self.config.worker_range[1] * self.config.cpus_per_worker
        # For trials and for what is trained after them.
        with connect(address, cpus=most) as resources:
            results = self._run_trials(address, resources)
            if len(self.folds) == 1:
                return self._finish_search(results)
            return self._finish_folds(results, address)

    # -- one training -------------------------------------------------------------------------

    def _train_one(self, address: str) -> Record:
        options = self.trials[0].options  # of a search that has one combination alone
        config, fold = self.trials[0].configured(self.config), self.folds[0]
        store = CheckpointStore(self.run.checkpoints, config.keep_checkpoints)
        records, newest = self._fit(config, fold, store, address)
        chosen = store.best() or newest
        told = {"options": options} if options else {}
        return self._finish(fold, chosen, records, told)

    def _fit(
        self,
        config: FinetuneConfig,
        fold: Fold,
        store: CheckpointStore,
        address: str,
        stop_step: int | None = None,
    ) -> tuple[list[Record], Path]:
        from riboray.finetuning.pipeline import tuning_worker

        values = TuningWork(config, self.data, fold, store, stop_step)
        newest, records = train(
            config,
            self.run,
            store,
            tuning_worker,
            values,
            address,
            figures=figures_line,
            measured=measured_line,
        )
        return records, newest

    # -- many ---------------------------------------------------------------------------------

    def _run_trials(self, address: str, resources: dict[str, float]) -> dict[str, TrialResult]:
        from riboray.finetuning.trials.pipeline import TrialWork, run_trials
        from riboray.pretraining.pipeline import gpus_wanted

        folds = [fold.name for fold in self.folds]
        lines = TrialLines(self.trials, self.metric, folds)
        trials = {trial.name: trial for trial in self.trials}
        folder = self.run.path / "trials"
        work = TrialWork(
            self.config, self.data, self.folds, self.metric, trials, folder, address == LOCAL
        )
        use_gpu = gpus_wanted(replace(self.config, num_workers=1), address, resources)
        say(f"  trials      {len(self.trials)}")
        try:
            return run_trials(work, use_gpu=use_gpu, tell=lines.tell)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "stopped; trials that are done are kept, and others go on from their "
                f"checkpoints: run the same command with --run-name {self.config.run_name}"
            ) from error

    def _finish_search(self, results: dict[str, TrialResult]) -> Record:
        """Hand over the model of the best trial."""
        finished = [t for t in self.trials if not results[t.name].stopped]
        options = best_options(finished, results)
        trial = next(t for t in finished if t.options == options)
        config = trial.configured(self.config)
        say(f"\n  chosen      {options_text(options)}")
        store = store_of(config, self.run.path / "trials" / trial.name)
        chosen = store.best() or store.newest(say)
        assert chosen is not None
        records = read_records(chosen / "metrics.jsonl")
        told = {"options": options, "trials": results_of(self.trials, results)}
        write_records(self.run.metrics, records)
        return self._finish(self.folds[0], chosen, records, told)

    def _finish_folds(self, results: dict[str, TrialResult], address: str) -> Record:
        """Sum up a cross-validation, and train on all records."""
        for failure in (r.failed for r in results.values()):
            if failure is not None and not self.config.search.axes:
                raise RiborayError(failure)
        options = best_options(self.trials, results) if self.config.search.axes else {}
        if options:
            say(f"\n  chosen      {options_text(options)}")
        chosen = [t for t in self.trials if t.options == options]
        found = [results[t.name] for t in chosen]
        self._gather_predictions(chosen)
        told: Record = {
            "folds": [
                {
                    "name": self.folds[t.fold].name,
                    "records": len(self.folds[t.fold].test),
                    "metrics": r.metrics,
                    "epochs": r.epochs,
                    "threshold": r.threshold,
                    "confusion": r.confusion,
                }
                for t, r in zip(chosen, found, strict=True)
            ],
            "cross_validation": mean_and_spread([r.metrics for r in found]),
        }
        if self.config.search.axes:
            told |= {"options": options, "trials": results_of(self.trials, results)}
        config = replace(self.config, **options)
        if not config.refit:
            return self._summarise(told)
        return self._refit(config, found, told, address)

    def _refit(
        self, config: FinetuneConfig, found: Sequence[TrialResult], told: Record, address: str
    ) -> Record:
        """Train on all records for as long as was best on average; nothing is left to measure."""
        from riboray.finetuning.loop import steps_of

        every = np.arange(len(self.data))
        none = np.empty(0, np.int64)
        epochs = float(np.mean([r.epochs for r in found]))
        stop = max(round(epochs * steps_of(config, len(every))[0]), 1)
        say(f"\n  refit       on all {len(every):,} records, {epochs:.1f} epochs")
        store = CheckpointStore(self.run.checkpoints, config.keep_checkpoints)
        records, newest = self._fit(config, Fold("all", every, none, none), store, address, stop)
        threshold = float(np.median([r.threshold for r in found]))
        model = _read(newest)
        model.head_config = replace(model.head_config, threshold=threshold)
        self._hand_over(model)
        return self._summarise({**told, "epochs": epochs, "steps": step_of(newest)}, records)

    def _gather_predictions(self, trials: Sequence[Trial]) -> None:
        """Put what was predicted in all folds, each record once, into one table."""
        tables = []
        for trial in trials:
            table = pq.read_table(self.run.path / "trials" / trial.name / PREDICTIONS_NAME)
            name = pa.array([self.folds[trial.fold].name] * len(table), pa.string())
            tables.append(table.append_column("fold", name))
        self._write_predictions(pa.concat_tables(tables))

    # -- the end ------------------------------------------------------------------------------

    def _finish(
        self,
        fold: Fold,
        chosen: Path,
        records: list[Record],
        told: Record,
    ) -> Record:
        """Measure the chosen model and put it into its place."""
        from riboray.finetuning.outcome import choose_threshold, measure_model

        model = choose_threshold(_read(chosen), self.data, fold.validation)
        step = step_of(chosen)
        measured = [r for r in records if r["kind"] == "validation" and r["step"] == step]
        if measured:
            skipped = {"kind", "step", "progress", "elapsed_s", "epochs", "best"}
            told["validation"] = {k: v for k, v in measured[-1].items() if k not in skipped}
        told |= {"steps": step, "threshold": model.head_config.threshold}
        if len(fold.test):
            outcome = measure_model(model, self.data, fold.test)
            self._write_predictions(outcome.predictions)
            told |= {"test": outcome.metrics, "confusion": outcome.confusion}
        self._hand_over(model)
        return self._summarise(told, records)

    def _hand_over(self, model: RnaBertForPrediction) -> None:
        def fill(folder: Path) -> None:
            write_checkpoint_files(model, folder)
            if self.trained is not None:  # it has seen these, too
                self.trained.write(folder)

        self.run.hand_over(fill)

    def _write_predictions(self, table: pa.Table) -> None:
        ids = pa.array([self.prepared.ids[row] for row in table["row"].to_pylist()], pa.string())
        table = table.drop_columns(["row"]).add_column(0, "id", ids)
        with atomic_path(self.run.path / PREDICTIONS_NAME) as temporary:
            pq.write_table(table, temporary)

    def _summarise(self, told: Record, records: list[Record] | None = None) -> Record:
        task = self.data.task
        summary: Record = {
            "run": self.config.run_name,
            "task": {
                "level": task.level,
                "problem": task.problem,
                "labels": list(task.labels),
                "structures": task.structures,
            },
            "metric": self.metric,
            "split": self.config.split,
            "data": describe_counts(self.prepared) | {"shared_sequences": self.prepared.shared},
            "seen_in_pretraining": None if self.overlap is None else asdict(self.overlap),
            **told,
            "limits": self.config.limits(),
            "riboray_version": __version__,
        }
        if records is not None:
            summary["checkpoint"] = str(self.run.checkpoint)
            names = {name for r in records if r["kind"] == "validation" for name in r}
            title = f"riboray {self.config.run_name}"
            draw_training_curve(
                records,
                self.run.path / "training_curve.png",
                title,
                panels(sorted(names)),
                across="epochs",
            )
        write_json(self.run.summary, summary)
        print_summary(summary, self.run.path)
        return summary


def _read(checkpoint: Path) -> RnaBertForPrediction:
    model = load_checkpoint(checkpoint).model
    assert isinstance(model, RnaBertForPrediction)
    return model
