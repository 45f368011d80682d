"""The verb `align --all-pairs`: plan, estimate, run, report."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.chunks import embedding_chunks
from riboray.alignment.config import AlignConfig
from riboray.alignment.estimate import Estimate, measure_pace
from riboray.alignment.hits import tsv_header
from riboray.alignment.plan import Plan, TileSpec, plan_all_pairs, plan_pairs
from riboray.alignment.preparation import Prepared, duration, prepare, write_beside
from riboray.alignment.rounds import choose_best, run_tiles
from riboray.alignment.store import PairStore, TileReport
from riboray.console import say
from riboray.corpus.sequences import NamedSequences
from riboray.errors import ConfigError, RiborayError
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import LOCAL, prepare_ray
from riboray.room import byte_size, check_disk, check_memory, spill_folder

if TYPE_CHECKING:
    from riboray.alignment.pipeline import Context, TileRunner

__all__ = ["align_all_pairs", "check_room"]

#: Memory of a process besides its tile: libraries, working arrays.
_PROCESS_BYTES = 600e6


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
    loaded = load_checkpoint(config.checkpoint)
    store = PairStore(directory, config.identity(config.input, loaded.sha256))
    finished = store.finished()
    if finished is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **finished.counts}
    work = prepare(config, loaded, config.input, lambda n: n * (n - 1) // 2)
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
        maker=work.maker,
        seed=config.seed,
    )
    _announce(config, work, plan, estimate, lengths, directory, local=address == LOCAL)
    if config.dry_run:
        return {"dry_run": True, "cells": plan.cells, "pairs": plan.pairs, **asdict(estimate)}
    with store.entered("aligning") as done:
        if done is not None:
            return {"output": str(directory), **done.counts}
        write_beside(config, work, directory)
        return _run(config, work, plan, store, address)


def _announce(
    config: AlignConfig,
    work: Prepared,
    plan: Plan,
    estimate: Estimate,
    lengths: NDArray[np.int32],
    directory: Path,
    *,
    local: bool,
) -> None:
    """Print what is ahead; refuse what cannot be held."""
    workers = config.num_workers or (os.cpu_count() or 1 if local else 1)
    reported = plan.pairs * estimate.reported
    if config.top_k is not None:
        reported = min(plan.pairs, config.top_k * len(lengths))
    # Arrow, TSV in pieces, and TSV joined, for a moment all at once.
    output = 3 * reported * estimate.bytes_per_pair
    if config.top_k is not None:
        chunk = max(stop - start for start, stop in plan.chunks)
        output += 60.0 * len(plan.tiles) * min(2 * chunk * config.top_k, chunk**2)
    width = config.dimensions or work.embedder.width
    base = float(lengths.sum()) * width * (2 if config.dtype == "float16" else 4)
    embedding = float(lengths.sum()) / estimate.nucleotides_per_second
    seconds = (plan.cells / estimate.cells_per_second + embedding) / workers
    say(
        f"  {len(lengths):,} sequences, {lengths.min()} to {lengths.max()} nt; {plan.pairs:,} pairs"
    )
    processes = f"{workers} processes" if workers > 1 else "one process"
    say(
        f"  {plan.cells:.3g} cells in {len(plan.tiles)} tiles; "
        f"{estimate.cells_per_second / 1e9:.2f} billion a second and process: about "
        f"{duration(seconds)} with {processes}"
    )
    room = f"{byte_size(output)}, embeddings {byte_size(base)}"
    say(f"  about {reported:,.0f} pairs to report; {room}")
    check_room(directory, output, base, workers, width, plan, local=local)


def check_room(
    directory: Path,
    output: float,
    embeddings: float,
    workers: int,
    width: int,
    plan: Plan,
    *,
    local: bool,
) -> None:
    """Refuse work that disk or memory cannot hold; of a cluster, only the output is known.

    Raises
    ------
    OutputError
        Saying what is needed, what there is, and what to do.
    """
    advice = "filter with --min-score, --max-evalue or --top-k, or write elsewhere"
    check_disk(directory, output, advice)
    if not local:
        return
    smaller = "use --dtype float16 or --dimensions"
    check_disk(spill_folder(), embeddings, smaller)
    sizes = [stop - start for start, stop in [*plan.chunks, *plan.target_chunks]]
    tile = 2.0 * max(sizes) * 400 * width * 4
    advice = "use fewer --num-workers"
    check_memory(workers * (_PROCESS_BYTES + tile), "aligning", advice)


def _run(
    config: AlignConfig, work: Prepared, plan: Plan, store: PairStore, address: str
) -> dict[str, Any]:
    from riboray.alignment.pipeline import Context, TileRunner
    from riboray.crew.pipeline import crew_on

    named, start = work.named, time.monotonic()
    ordered = [named.sequences[k] for k in plan.order.tolist()]
    context = Context(
        rule=work.rule,
        ids=[named.ids[k] for k in plan.order.tolist()],
        lengths=np.array([len(s) for s in ordered], np.int32),
        comparisons=plan.pairs,
        scores_only=config.scores_only,
        storage=config.dtype,
    )
    chunks = embedding_chunks(work.loaded.name, ordered, plan.chunks, work.maker)
    with crew_on(address, config.num_workers, config.memory_per_worker, store.work) as crew:
        runner = TileRunner(crew, store, context, chunks, None)
        tiles, reports, scored = _rounds(config, runner, store, plan, context)
        times: dict[str, float] = {
            "seconds": round(time.monotonic() - start, 1),
            "align_seconds": round(runner.seconds, 1),
            "workers": crew.count,
        }
    if scored != plan.pairs:
        raise RiborayError(f"{scored:,} pairs were compared, but there are {plan.pairs:,}")
    return _finish(store, plan, tiles, reports, named, times, scores_only=config.scores_only)


def _rounds(
    config: AlignConfig, runner: TileRunner, store: PairStore, plan: Plan, context: Context
) -> tuple[list[TileSpec], dict[str, TileReport], int]:
    """Score first where the best of each sequence are wanted, then align; count what was scored."""
    tiles = plan.tiles
    if config.top_k is None:
        reports = run_tiles(runner, store, tiles, "align")
        return tiles, reports, sum(report.scored for report in reports.values())
    scored = run_tiles(runner, store, tiles, "score")
    query, target = choose_best(store, tiles, config.top_k, "score", both=True)
    tiles = plan_pairs(plan, query, target, context.lengths, context.lengths)
    reports = run_tiles(runner, store, tiles, "align")
    return tiles, reports, sum(report.scored for report in scored.values())


def _finish(
    store: PairStore,
    plan: Plan,
    tiles: list[TileSpec],
    reports: dict[str, TileReport],
    named: NamedSequences,
    times: dict[str, float],
    *,
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
    pace = round(plan.pairs / max(times["seconds"], 0.1), 1)
    summary = {"output": str(store.directory), **counts, **times, "pairs_per_second": pace}
    segments = [store.work / f"{tile.name}.tsv" for tile in sorted(tiles, key=lambda t: t.name)]
    store.finish(tsv_header(scores_only), segments, counts, summary)
    say(
        f"  {counts['sequences_read']:,} read = {len(named):,} aligned + "
        f"{len(named.rejects):,} rejected"
    )
    say(
        f"  {plan.pairs:,} pairs compared, {counts['pairs_reported']:,} reported in "
        f"{duration(times['seconds'])}: {store.directory / 'pairs.tsv'} and {store.pairs}"
    )
    return summary
