"""The verb `align --all-pairs`: plan, estimate, run, report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from riboray.alignment.chunks import embedding_chunks
from riboray.alignment.config import AlignConfig, AlignmentOptions
from riboray.alignment.estimate import (
    Estimate,
    embed_side,
    fit_null,
    measure_pace,
    sample_sequences,
)
from riboray.alignment.hits import tsv_header
from riboray.alignment.plan import Plan, TileSpec, plan_all_pairs, plan_pairs
from riboray.alignment.selection import best_of_each
from riboray.alignment.similarity import Projection, fit_projection
from riboray.alignment.store import PairStore, TileReport
from riboray.alignment.tiles import Rule
from riboray.console import Progress, say
from riboray.corpus.rejects import write_rejects
from riboray.corpus.sequences import NamedSequences, read_sequences
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError, OutputError, RiborayError
from riboray.manifest import Manifest, atomic_path, write_json
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint
from riboray.rayenv import prepare_ray

if TYPE_CHECKING:
    from riboray.alignment.pipeline import TileRunner

__all__ = ["Prepared", "align_all_pairs", "check_room", "duration", "prepare", "run_tiles"]


@dataclass(frozen=True)
class Prepared:
    """What a comparison starts from.

    Attributes
    ----------
    loaded : LoadedCheckpoint
        The model.
    embedder : Embedder
        The same, ready to embed.
    named : NamedSequences
        The input.
    projection : Projection or None
        To fewer dimensions, if asked for.
    rule : Rule
        With the null model and the thresholds.
    """

    loaded: LoadedCheckpoint
    embedder: Embedder
    named: NamedSequences
    projection: Projection | None
    rule: Rule


def prepare(
    config: AlignmentOptions,
    inputs: list[str],
    comparisons: Callable[[int], int],
    targets: Callable[[], list[str]] | None = None,
) -> Prepared:
    """Read model and sequences; fit projection and chance scores.

    Parameters
    ----------
    config : AlignmentOptions
        Options.
    inputs : list of str
        FASTA files.
    comparisons : callable
        Number of comparisons for a number of sequences, for E-values.
    targets : callable, optional
        Gives sampled targets if they are another set.

    Returns
    -------
    Prepared
    """
    loaded = load_checkpoint(Path(config.checkpoint).resolve())
    tokens = loaded.model.config.tokens
    named = read_sequences(
        inputs,
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        ambiguity=tokens.id_of("N") is not None,
    )
    embedder = Embedder(loaded.model)
    sample = named.sequences if targets is None else [*named.sequences, *targets()]
    projection = None
    if config.dimensions is not None:
        rows = embed_side(embedder, sample_sequences(sample, config.seed)).sequences.embeddings
        projection = fit_projection(rows, config.dimensions, config.seed)
        say(
            f"  projection  to {config.dimensions} of {rows.shape[1]} dimensions: a cosine is off "
            f"by {projection.rms_error:.4f} (root mean square), {projection.max_error:.3f} at most"
        )
    rule = Rule(config.gaps, config.mode, config.arithmetic, config.min_score)
    if config.statistics:
        null = fit_null(
            embedder,
            named.sequences,
            rule,
            projection=projection,
            seed=config.seed,
            targets=None if targets is None else targets(),
        )
        rule = replace(rule, null=null)
        if null is None:
            say("  statistics  left out: shuffles of sequences this long would take too long")
        elif config.max_evalue is not None:
            count = comparisons(len(named))
            rule = replace(rule, min_z=null.z_at_evalue(config.max_evalue, count))
    return Prepared(loaded, embedder, named, projection, rule)


def check_room(directory: Path, output_bytes: float, store_bytes: float) -> None:
    """Refuse work whose output or embeddings cannot be held.

    Raises
    ------
    OutputError
        If the disk of the output, or memory and disk that hold base embeddings, are too small.
    """
    existing = next(path for path in [directory, *directory.parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if output_bytes > 0.95 * free:
        raise OutputError(
            directory,
            f"the output would take about {_size(output_bytes)}, but only {_size(free)} are free; "
            "filter with --min-score, --max-evalue or --top-k, or write elsewhere",
        )
    spill = shutil.disk_usage("/tmp").free  # noqa: S108  (where Ray spills)
    if store_bytes > 0.8 * spill:
        raise OutputError(
            directory,
            f"the base embeddings would take {_size(store_bytes)}, but Ray has only "
            f"{_size(spill)} to spill them to; use --storage float16 or --dimensions",
        )


def align_all_pairs(config: AlignConfig) -> dict[str, Any]:
    """Align every sequence with every other.

    Returns
    -------
    dict
        Counts, times and parameters: the summary.

    Raises
    ------
    RiborayError
        See the error types: bad input, an output directory of another run, no room.
    """
    address = prepare_ray(config.ray_address)
    directory = Path(config.output or "alignments").resolve()
    work = prepare(config, config.input, lambda n: n * (n - 1) // 2)
    if len(work.named) < 2:
        raise ConfigError(f"one sequence in {', '.join(config.input)}: nothing to align it with")
    work = replace(work, rule=replace(work.rule, top_k=config.top_k))
    lengths = np.array([len(s) for s in work.named.sequences], np.int32)
    plan = plan_all_pairs(lengths)
    estimate = measure_pace(
        work.embedder,
        work.named.sequences,
        work.rule,
        scores_only=config.scores_only,
        projection=work.projection,
        seed=config.seed,
    )
    size = _announce(config, work, plan, estimate, lengths)
    store = PairStore(directory, config.identity(config.input, work.loaded.sha256))
    if config.dry_run:
        check_room(directory, *size)
        return {"dry_run": True, "cells": plan.cells, "pairs": plan.pairs, **asdict(estimate)}
    finished = store.claim()
    if finished is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **finished.counts, **finished.details}
    check_room(directory, *size)
    _write_beside(config, work, directory)
    return _run(config, work, plan, store, address)


def _announce(
    config: AlignConfig, work: Prepared, plan: Plan, estimate: Estimate, lengths: NDArray[np.int32]
) -> tuple[float, float]:
    """Print what is ahead; return bytes of output and of base embeddings."""
    workers = config.num_workers or os.cpu_count() or 1
    reported = plan.pairs * estimate.reported
    if config.top_k is not None:
        reported = min(plan.pairs, config.top_k * len(lengths))
    output = reported * estimate.bytes_per_pair
    width = config.dimensions or work.embedder.width
    memory = float(lengths.sum()) * width * (2 if config.storage == "float16" else 4)
    embedding = float(lengths.sum()) / estimate.nucleotides_per_second
    seconds = (plan.cells / estimate.cells_per_second + embedding) / workers
    count = len(lengths)
    say(f"  {count:,} sequences, {lengths.min()} to {lengths.max()} nt; {plan.pairs:,} pairs")
    pace = estimate.cells_per_second / 1e9
    say(
        f"  {plan.cells:.3g} cells in {len(plan.tiles)} tiles; {pace:.2f} billion a second and "
        f"process, {workers} processes: about {duration(seconds)}"
    )
    say(f"  about {reported:,.0f} pairs to report, {_size(output)}; embeddings {_size(memory)}")
    return output, memory


def _write_beside(config: AlignConfig, work: Prepared, directory: Path) -> None:
    """Write the resolved options, the chance scores and the rejects next to the result."""
    with atomic_path(directory / "resolved_config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(asdict(config), sort_keys=False), "utf-8")
    if work.rule.null is not None:
        write_json(directory / "chance_scores.json", work.rule.null.to_json())
    if work.named.rejects:
        write_rejects(work.named.rejects, directory)


def _run(
    config: AlignConfig, work: Prepared, plan: Plan, store: PairStore, address: str
) -> dict[str, Any]:
    from riboray.alignment.pipeline import Context, TileRunner, running

    named, start = work.named, time.monotonic()
    ordered = [named.sequences[k] for k in plan.order.tolist()]
    context = Context(
        rule=work.rule,
        ids=[named.ids[k] for k in plan.order.tolist()],
        lengths=np.array([len(s) for s in ordered], np.int32),
        comparisons=plan.pairs,
        scores_only=config.scores_only,
        storage=config.storage,
    )
    chunks = embedding_chunks(str(work.loaded.path), ordered, plan.chunks, work.projection)
    with running(address, config.num_workers) as workers:
        runner = TileRunner(store, context, chunks, None, workers)
        tiles, scored = plan.tiles, None
        try:
            if config.top_k is not None:
                scored, tiles = _choose_best(runner, store, plan, context, config.top_k)
            reports = run_tiles(runner, store, tiles, "align", "aligning")
        except KeyboardInterrupt:
            say(f"  stopped; the same command goes on from the tiles in {store.directory}")
            raise
    if scored is None:
        scored = sum(report.scored for report in reports.values())
    if scored != plan.pairs:
        raise RiborayError(f"{scored:,} pairs were compared, but there are {plan.pairs:,}")
    elapsed = time.monotonic() - start
    times = {
        "seconds": round(elapsed, 1),
        "align_seconds": round(runner.seconds, 1),
        "workers": workers,
    }
    return _finish(store, plan, reports, named, times, config.scores_only)


def run_tiles(
    runner: TileRunner, store: PairStore, tiles: list[TileSpec], phase: str, label: str
) -> dict[str, TileReport]:
    """Run the tiles that are not committed yet; return every tile's report by file name."""
    text = phase == "align"
    prefix = "" if text else f"{phase}-"
    reports: dict[str, TileReport] = {}
    missing = []
    for tile in tiles:
        report = store.committed(prefix + tile.name, text=text)
        if report is None:
            missing.append(tile)
        else:
            reports[prefix + tile.name] = report
    if reports:
        say(f"  {len(reports)} of {len(tiles)} tiles are done already")
    if not missing:
        return reports
    embedding = Progress("  embedding ")
    runner.prepare(missing, lambda n, of: embedding.update(n / of, f"{n} of {of} chunks"))
    embedding.close()
    total = max(sum(tile.cells for tile in tiles), 1)
    done = total - sum(tile.cells for tile in missing)
    progress, start, before = Progress(f"  {label}  ", done / total), time.monotonic(), done
    for tile, report in runner.run(missing, phase):
        reports[prefix + tile.name] = report
        done += tile.cells
        pace = (done - before) / (time.monotonic() - start) / 1e9
        found = sum(r.reported for r in reports.values())
        progress.update(
            done / total,
            f"{len(reports)} of {len(tiles)} tiles  {pace:.2f} Gcells/s  {found:,} pairs",
        )
    progress.close()
    return reports


def _choose_best(
    runner: TileRunner, store: PairStore, plan: Plan, context: Any, top_k: int
) -> tuple[int, list[TileSpec]]:
    """Score everything; return the pairs compared and tiles of the best pairs of each sequence."""
    reports = run_tiles(runner, store, plan.tiles, "score", "scoring ")
    query, target = np.empty(0, np.int64), np.empty(0, np.int64)
    score = np.empty(0, np.float32)
    for name in sorted(reports):
        table = store.read(name)
        query = np.concatenate([query, table["query_index"].to_numpy()])
        target = np.concatenate([target, table["target_index"].to_numpy()])
        score = np.concatenate([score, table["score"].to_numpy()])
        kept = best_of_each((query, target), score, top_k, exactly=True)
        query, target, score = query[kept], target[kept], score[kept]
    tiles = plan_pairs(plan, query, target, context.lengths, context.lengths)
    return sum(report.scored for report in reports.values()), tiles


def _finish(
    store: PairStore,
    plan: Plan,
    reports: dict[str, TileReport],
    named: NamedSequences,
    times: dict[str, float],
    scores_only: bool,
) -> dict[str, Any]:
    counts = {
        "sequences_read": len(named) + len(named.rejects),
        "sequences_aligned": len(named),
        "sequences_rejected": len(named.rejects),
        "pairs_compared": plan.pairs,
        "pairs_reported": sum(report.reported for report in reports.values()),
        "cells": plan.cells,
    }
    manifest: Manifest = store.finish(
        sorted(reports), tsv_header(scores_only), counts, {"tiles": len(reports)}
    )
    summary = {
        "output": str(store.directory),
        **manifest.counts,
        **times,
        "pairs_per_second": round(plan.pairs / max(times["seconds"], 0.1), 1),
    }
    write_json(store.directory / "summary.json", summary)
    say(
        f"  {plan.pairs:,} pairs compared, {counts['pairs_reported']:,} reported in "
        f"{duration(times['seconds'])}: {store.directory / 'pairs.tsv'} and {store.pairs}"
    )
    return summary


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def duration(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
