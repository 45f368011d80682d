"""The verb `evaluate clustering`: which similarity finds families, on sequences with labels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riboray import __version__
from riboray.console import say
from riboray.corpus.files import location
from riboray.corpus.records import Reject
from riboray.corpus.rejects import write_rejects
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError
from riboray.evaluation.agreement import (
    average_precisions,
    bootstrap_interval,
    clustering_agreement,
    nearest_neighbour_hits,
)
from riboray.evaluation.clustering_summary import show_table, write_figure, write_table
from riboray.evaluation.config import named_paths
from riboray.evaluation.labelled import LabelledSequences, OnDuplicate, read_labelled
from riboray.evaluation.measures import DEFAULT_MEASURES, MEASURES, Subject
from riboray.evaluation.models import NamedModel, load_models, training_overlap
from riboray.evaluation.partition import ClusterMethod, partition
from riboray.manifest import (
    FileEntry,
    Manifest,
    entered,
    fingerprint,
    finished,
    sha256_file,
    tidy,
    write_config,
    write_json,
    write_manifest,
)

__all__ = ["EvaluateClusteringConfig", "evaluate_clustering"]

KIND = "clustering evaluation"
_REPORT = "clustering.json"


@dataclass(frozen=True, kw_only=True)
class EvaluateClusteringConfig:
    """Measure how well similarities find families: ``riboray evaluate clustering RNAS.fa``.

    Every sequence in turn is a query: is its most similar other of its family (1-NN), and how far
    ahead do its relatives stand (mAP)? Then all are clustered and the clusters compared with the
    families (ARI, NMI, homogeneity, completeness, V-measure).
    """

    POSITIONAL: ClassVar[str] = "input"

    input: list[str] = field(default_factory=list)
    """FASTA whose headers are ``>id label``, or Stockholm, one or many families; plain or gzip.
    May be given first, without the flag."""
    labels: str | None = None
    """Table of ids and labels, separated by tabs; it goes before what the files say."""
    checkpoint: list[str] = field(default_factory=list)
    """Models to measure: [NAME=]PATH, behind it ,padding=masked or ,padding=original. Without any,
    only measures that need none."""
    measures: list[str] = field(default_factory=lambda: list(DEFAULT_MEASURES))
    """Similarities to measure; `all` for all of them."""
    output: str = "clustering-evaluation"
    """Directory to make: table, figure and everything as JSON."""
    clusters: int | None = None
    """Clusters to make; as many as there are labels by default."""
    cluster_with: ClusterMethod = "agglomerative"
    """``agglomerative``: average linkage. ``spectral``: spectral clustering, as in the RNABERT
    paper; it finds families worse, and those of different sizes much worse."""
    max_sequences: int = 2000
    """Sequences compared, at most; of more, so many are drawn, small families first whole."""
    keep_repeats: bool = False
    """Keep records whose sequence and label were read before; they find their twins."""
    duplicate_ids: OnDuplicate = "error"
    """What to do with a second record of one id: stop, or leave it out."""
    resamples: int = 1000
    """Draws of families for the 95 % intervals."""
    seed: int = 0
    """Of draws and of spectral clustering."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to evaluate on: give FASTA or Stockholm files with labels")
        known = {**MEASURES, "all": None}
        for name in self.measures:
            if name not in known:
                raise ConfigError(f"unknown measure {name!r}; known are {', '.join(known)}")
        if not self.measures:
            raise ConfigError(f"no measure: choose from {', '.join(known)}")
        for name, lowest in (("max_sequences", 2), ("resamples", 1)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if self.clusters is not None and self.clusters < 2:
            raise ConfigError(f"clusters must be at least 2, not {self.clusters}")
        named_paths(self.checkpoint, "checkpoint", ("padding",))

    @property
    def chosen(self) -> list[str]:
        """The measures asked for, each once."""
        return list(MEASURES) if "all" in self.measures else list(dict.fromkeys(self.measures))


class _Trial(NamedTuple):
    """One similarity to measure: a measure, and the model it looks through, if it needs one."""

    measure: str
    model: str | None
    subject: Subject


def evaluate_clustering(config: EvaluateClusteringConfig) -> dict[str, Any]:
    """Measure every measure with every model; return, and write, what was found.

    Returns
    -------
    dict
        ``results`` holds a row a measure and model; the rest says what was measured, and how.

    Raises
    ------
    InputError
        If sequences, labels or a checkpoint cannot be read.
    ConfigError
        If there is one label only, or there are fewer sequences than clusters.
    OutputError
        If the output directory holds something else.
    """
    directory = Path(config.output).resolve()
    models = load_models(config.checkpoint)
    identity = _identity(config, models)
    if finished(directory, KIND, identity) is not None:
        say(f"  {directory} is complete already")
        return _read_report(directory)
    data = _read(config, models)
    trials = list(_trials(config, data, models))
    with entered(directory, KIND, identity, "evaluating") as done:
        if done is not None:
            return _read_report(directory)
        results = [_measure(config, data, trial) for trial in trials]
        report = _report(config, data, models, results)
        _write(config, directory, identity, report, data.rejects)
        tidy(directory)
    show_table(report)
    say(f"  written to  {directory}")
    return {**report, "output": str(directory)}


def _identity(config: EvaluateClusteringConfig, models: Sequence[NamedModel]) -> str:
    values = asdict(config)
    for name in ("output", "checkpoint", "input", "labels"):
        values.pop(name)
    files = [*config.input, *([config.labels] if config.labels else [])]
    contents = [sha256_file(Path(path)) if Path(path).is_file() else path for path in files]
    weights = {m.name: [m.loaded.sha256, m.model.config.padding] for m in models}
    values |= {"files": contents, "weights": weights, "version": __version__}
    return fingerprint(values)


def _read(config: EvaluateClusteringConfig, models: Sequence[NamedModel]) -> LabelledSequences:
    """Read the sequences, draw from them, and check that they can be clustered."""
    vocabularies = [named.model.config.tokens for named in models]
    data = read_labelled(
        config.input,
        config.labels,
        duplicate_ids=config.duplicate_ids,
        keep_repeats=config.keep_repeats,
        ambiguity=all(tokens.id_of("N") is not None for tokens in vocabularies),
    ).sample(config.max_sequences, config.seed)
    say(f"  input       {data.describe()}")
    clusters = config.clusters or len(data.sizes)
    if clusters > len(data):
        raise ConfigError(f"{len(data)} sequences cannot form {clusters} clusters; ask for fewer")
    if data.alone == len(data):
        raise ConfigError("of no label were two sequences drawn; raise --max-sequences")
    return data


def _trials(
    config: EvaluateClusteringConfig,
    data: LabelledSequences,
    models: Sequence[NamedModel],
) -> Iterator[_Trial]:
    """Yield the measures that need no model, then those of each model."""
    plain = Subject(data.sequences)
    left = [name for name in config.chosen if MEASURES[name].needs_model]
    for name in config.chosen:
        if not MEASURES[name].needs_model:
            yield _Trial(name, None, plain)
    if left and not models:
        if len(left) == len(config.chosen):
            raise ConfigError(f"{', '.join(left)}: need --checkpoint")
        say(f"  left out    {', '.join(left)}: need --checkpoint")
    for named in models:
        subject = Subject(data.sequences, Embedder(named.model))
        for name in left:
            yield _Trial(name, named.name, subject)


def _measure(
    config: EvaluateClusteringConfig, data: LabelledSequences, trial: _Trial
) -> dict[str, Any]:
    """Measure one similarity."""
    began = time.process_time()
    similarity = MEASURES[trial.measure].compute(trial.subject)
    seconds = time.process_time() - began
    labels = data.labels
    hits, precisions = (
        nearest_neighbour_hits(similarity, labels),
        average_precisions(similarity, labels),
    )
    clusters = partition(
        similarity, config.clusters or len(data.sizes), config.cluster_with, seed=config.seed
    )
    row: dict[str, Any] = {"measure": trial.measure, "model": trial.model}
    for name, values in (("one_nearest_neighbour", hits), ("mean_average_precision", precisions)):
        row[name] = float(np.nanmean(values))
        row[f"{name}_interval"] = bootstrap_interval(
            values, labels, resamples=config.resamples, seed=config.seed
        )
    row |= asdict(clustering_agreement(labels, clusters.tolist()))
    row["cpu_seconds"] = round(seconds, 3)
    row["classes"] = _by_class(data, hits, precisions)
    where = f" with {trial.model}" if trial.model else ""
    say(
        f"  measured    {trial.measure}{where}: 1-NN {row['one_nearest_neighbour']:.3f}, "
        f"mAP {row['mean_average_precision']:.3f}, ARI {row['ari']:.3f} ({seconds:.1f} CPU s)"
    )
    return row


def _by_class(
    data: LabelledSequences, hits: NDArray[np.float64], precisions: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    labels = np.array(data.labels)
    return {
        label: {
            "sequences": size,
            "one_nearest_neighbour": float(hits[labels == label].mean()),
            "mean_average_precision": float(precisions[labels == label].mean()),
        }
        for label, size in sorted(data.sizes.items())
        if size > 1
    }


def _report(
    config: EvaluateClusteringConfig,
    data: LabelledSequences,
    models: Sequence[NamedModel],
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "inputs": config.input,
        "sequences": len(data),
        "labels": len(data.sizes),
        "alone": data.alone,
        "left_out": dict(data.left_out),
        "queries": len(data) - data.alone,
        "clusters": config.clusters or len(data.sizes),
        "cluster_with": config.cluster_with,
        "models": {
            named.name: {
                **named.about,
                "training_overlap": training_overlap(named.name, named.loaded, data.sequences),
            }
            for named in models
        },
        "results": results,
    }


def _write(
    config: EvaluateClusteringConfig,
    directory: Path,
    identity: str,
    report: dict[str, Any],
    rejects: list[Reject],
) -> None:
    """Write everything, the manifest last."""
    write_json(directory / _REPORT, report)
    write_table(report, directory / "clustering.tsv")
    write_figure(report, directory / "clustering.png")
    values = {**asdict(config), "input": [location(path) for path in config.input]}
    write_config(directory / "resolved_config.yaml", values)
    rows = {"clustering.tsv": len(report["results"]), "rejects.parquet": len(rejects)}
    names = [_REPORT, "clustering.png", "clustering.tsv", "resolved_config.yaml"]
    if write_rejects(rejects, directory):
        names.append("rejects.parquet")
    write_manifest(
        directory,
        Manifest(
            kind=KIND,
            fingerprint=identity,
            files=tuple(FileEntry.of(directory / name, rows.get(name)) for name in names),
            counts={name: report[name] for name in ("sequences", "labels", "alone", "queries")},
            details={"inputs": report["inputs"], "models": report["models"]},
        ),
    )


def _read_report(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / _REPORT).read_text("utf-8"))
    show_table(report)
    return {**report, "output": str(directory)}
