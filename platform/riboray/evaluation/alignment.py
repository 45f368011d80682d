"""The verb `evaluate alignment`: methods side by side on the same reference alignments."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from riboray import __version__
from riboray.alignment.columns import aligned_columns, gapped_strings
from riboray.console import Progress, say, warn
from riboray.corpus.config import read_families
from riboray.corpus.rejects import write_rejects
from riboray.errors import ConfigError, CorpusError
from riboray.evaluation.accuracy import pair_f1, tally
from riboray.evaluation.config import EvaluateAlignmentConfig
from riboray.evaluation.figures import draw_by_identity
from riboray.evaluation.methods import ByScores, Failures, Method, list_methods
from riboray.evaluation.references import (
    ReferencePair,
    References,
    read_pair_table,
    read_references,
)
from riboray.evaluation.scores import Aligned
from riboray.evaluation.summary import Measured, Summary, show_summary, summarise
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_path,
    entered,
    fingerprint,
    finished,
    tidy,
    write_config,
    write_json,
    write_manifest,
)

__all__ = ["ALIGNMENT_EVALUATION_KIND", "evaluate_alignment"]

ALIGNMENT_EVALUATION_KIND = "alignment evaluation"
_COLUMNS = ("family", "id_a", "id_b", "aligned_a", "aligned_b", "cpu_seconds", "failure")


def evaluate_alignment(config: EvaluateAlignmentConfig) -> dict[str, Any]:
    """Measure aligners on reference alignments; return the figures.

    Raises
    ------
    RiborayError
        On input that cannot be used; if development and reference share a sequence; if the output
        directory holds something else.

    Notes
    -----
    The directory gets ``alignment.json``, ``methods.tsv``, ``pairs.parquet``,
    ``f1_by_identity.png``, the alignments of every method in ``alignments/`` (which
    ``--predictions`` reads again), ``rejects.parquet`` and ``resolved_config.yaml``.
    """
    references = _references(config)
    methods = list_methods(config)
    development = _development(config, references)
    identity = _identity(config, references, development, methods)
    directory = Path(config.output).resolve()
    done = finished(directory, ALIGNMENT_EVALUATION_KIND, identity)
    if done is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **done.details}
    with entered(directory, ALIGNMENT_EVALUATION_KIND, identity, "evaluating") as done:
        if done is not None:
            return {"output": str(directory), **done.details}
        write_config(directory / "resolved_config.yaml", asdict(config))
        _fit(methods, development)
        measured = [
            _measure(number, method, references.pairs, directory)
            for number, method in enumerate(methods)
        ]
        summary = summarise(references, measured, config)
        show_summary(summary)
        return _finish(directory, identity, references, measured, summary)


def _references(config: EvaluateAlignmentConfig) -> References:
    found = read_references(
        config.reference,
        pairs_per_family=config.pairs_per_family,
        max_length=config.max_length,
        ambiguity=config.ambiguity == "keep",
        families=read_families(config.families),
        seed=config.seed,
    )
    read = len(found.pairs) + len(found.rejects)
    if config.max_pairs is not None and len(found.pairs) > config.max_pairs:
        generator = np.random.default_rng(config.seed)
        rows = generator.choice(len(found.pairs), config.max_pairs, replace=False)
        found.pairs = [found.pairs[row] for row in np.sort(rows)]
    families = len({pair.family for pair in found.pairs})
    say(
        f"  reference   {len(found.pairs):,} of {read:,} pairs, {families:,} families, "
        f"{len(found.sequences):,} sequences"
    )
    return found


def _development(
    config: EvaluateAlignmentConfig, references: References
) -> list[ReferencePair] | None:
    """Read the pairs to fit gap penalties to.

    Raises
    ------
    ConfigError
        If one of their sequences is in the reference.
    """
    if not config.fit_gaps:
        return None
    found = read_references(
        config.fit_gaps,
        pairs_per_family=config.pairs_per_family,
        max_length=config.max_length,
        ambiguity=config.ambiguity == "keep",
        seed=config.seed,
    )
    tested = set(references.sequences)
    shared = [pair for pair in found.pairs if tested & set(pair.sequences)]
    if shared:
        first = shared[0]
        names = first.id_a if first.sequences[0] in tested else first.id_b
        raise ConfigError(
            f"--fit-gaps: {len(shared):,} of {len(found.pairs):,} development pairs have a "
            f"sequence of the reference, the first {names} ({first.family}); penalties fitted to "
            "what is measured would flatter"
        )
    return found.pairs


def _identity(
    config: EvaluateAlignmentConfig,
    references: References,
    development: list[ReferencePair] | None,
    methods: Sequence[Method],
) -> str:
    """Hash all that decides the result."""

    def content(pairs: list[ReferencePair]) -> list[Any]:
        return [[*p.sequences, p.columns.partners.tolist(), p.identity, p.family] for p in pairs]

    options = asdict(config)
    for name in ("output", "num_workers", "checkpoint", "predictions", "reference", "fit_gaps"):
        options.pop(name)
    return fingerprint(
        {
            "options": options,
            "reference": fingerprint({"pairs": content(references.pairs)}),
            "development": fingerprint({"pairs": content(development or [])}),
            "methods": [[m.name, {**m.about, "path": None}, _gaps(m)] for m in methods],
            "version": __version__,
        }
    )


def _gaps(method: Method) -> list[float] | None:
    if isinstance(method, ByScores):
        return [method.gaps.open, method.gaps.extend]
    return None


def _fit(methods: Sequence[Method], development: list[ReferencePair] | None) -> None:
    for method in methods:
        if development is None or not isinstance(method, ByScores):
            continue
        fitted = method.fit(development)
        gaps = f"open {fitted.gaps.open:g}, extend {fitted.gaps.extend:g}"
        say(
            f"  fitted      {method.name}: {gaps}; F1 {fitted.before:.4f} -> {fitted.f1:.4f} on "
            f"{fitted.pairs:,} development pairs"
        )


def _measure(number: int, method: Method, pairs: list[ReferencePair], directory: Path) -> Measured:
    """Align the reference's pairs by one method, unless that is done already."""
    path = directory / "alignments" / f"{number:02d}.tsv"
    if not path.is_file():
        start = time.monotonic()
        progress = Progress(f"  {method.name}")

        def advance(done: int) -> None:
            rate = done / max(time.monotonic() - start, 1e-9)
            progress.update(done / len(pairs), f"{rate:,.1f} pairs/s")

        try:
            aligned, failures = method.align(pairs, advance)
        finally:
            progress.close()
        _write_alignments(path, pairs, aligned, failures)
    rows = [record.values for record in read_pair_table(path)]
    found = [aligned_columns(row["aligned_a"], row["aligned_b"]) for row in rows]
    if [(c.sequence_a, c.sequence_b) for c in found] != [pair.sequences for pair in pairs]:
        raise CorpusError(path, "holds other pairs than the reference; remove it")
    partners = [columns.partners for columns in found]
    counts = tally(partners, [pair.columns.partners for pair in pairs])
    seconds = np.array([float(row["cpu_seconds"]) for row in rows])
    failed = [row["failure"] for row in rows if row["failure"]]
    if failed:
        warn(f"{method.name} fails on {len(failed):,} pairs; the first: {failed[0]}")
    return Measured(method, counts, seconds, failed, path)


def _write_alignments(
    path: Path, pairs: list[ReferencePair], aligned: Aligned, failures: Failures
) -> None:
    """Write a table of pairs, which `read_predictions` reads."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as sink:
        sink.write("\t".join(_COLUMNS) + "\n")
        for pair, partners, seconds, failure in zip(
            pairs, aligned.partners, aligned.seconds.tolist(), failures, strict=True
        ):
            rows = gapped_strings(*pair.sequences, partners)
            spent = "nan" if math.isnan(seconds) else f"{seconds:.6g}"
            texts = [pair.family, pair.id_a, pair.id_b, *rows, spent, failure or ""]
            sink.write("\t".join(" ".join(text.split()) for text in texts) + "\n")


def _finish(
    directory: Path,
    identity: str,
    references: References,
    measured: list[Measured],
    summary: Summary,
) -> dict[str, Any]:
    write_json(directory / "alignment.json", summary)
    with atomic_path(directory / "methods.tsv") as temporary:
        temporary.write_text(_methods_table(summary), "utf-8")
    with atomic_path(directory / "pairs.parquet") as temporary:
        pq.write_table(_pairs_table(references.pairs, measured), temporary)
    draw_by_identity(directory / "f1_by_identity.png", references.pairs, measured)
    names = ["alignment.json", "methods.tsv", "pairs.parquet", "f1_by_identity.png"]
    if write_rejects(references.rejects, directory):
        names.append("rejects.parquet")
    files = [FileEntry.of(directory / name) for name in names]
    for one in measured:
        entry = FileEntry.of(one.alignments, len(references.pairs))
        files.append(replace(entry, name=f"{one.alignments.parent.name}/{entry.name}"))
    details = {"pairs": summary["reference"]["pairs"], "methods": summary["overview"]}
    write_manifest(
        directory,
        Manifest(
            kind=ALIGNMENT_EVALUATION_KIND,
            fingerprint=identity,
            files=tuple(sorted(files, key=lambda entry: entry.name)),
            counts=summary["reference"]["counts"],
            details=details,
        ),
    )
    tidy(directory)
    say(f"  figure      {directory / 'f1_by_identity.png'}")
    say(f"  figures     {directory / 'alignment.json'}")
    return {"output": str(directory), **details}


def _methods_table(summary: Summary) -> str:
    rows = summary["overview"]
    lines = ["\t".join(rows[0])]
    lines += ["\t".join("" if v is None else f"{v}" for v in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def _pairs_table(pairs: list[ReferencePair], measured: list[Measured]) -> pa.Table:
    """One row for each pair and method."""
    tables = []
    for one in measured:
        columns = {
            "method": pa.array([one.method.name] * len(pairs)).dictionary_encode(),
            "family": [pair.family for pair in pairs],
            "id_a": [pair.id_a for pair in pairs],
            "id_b": [pair.id_b for pair in pairs],
            "identity": [pair.identity for pair in pairs],
            **{n: one.counts[:, k] for k, n in enumerate(("common", "predicted", "reference"))},
            "f1": pair_f1(one.counts),
            "cpu_seconds": one.seconds,
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="default")
