"""The verb `search`: choose candidates, align them, report the best."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.alignment.candidates import fit_prefilter, index_folder, sample_texts
from riboray.alignment.chunks import embedding_chunks, load_targets
from riboray.alignment.config import SearchConfig
from riboray.alignment.estimate import measure_pace
from riboray.alignment.hits import HIT_SCHEMA, tsv_header, write_arrow, write_tsv
from riboray.alignment.index import describe_rows, open_database
from riboray.alignment.plan import Plan, TileSpec, plan_pairs, plan_search
from riboray.alignment.preparation import Prepared, duration, prepare, write_beside
from riboray.alignment.rounds import choose_best, run_tiles
from riboray.alignment.selection import best_of_each
from riboray.alignment.sides import Side
from riboray.alignment.store import PairStore
from riboray.console import Progress, say
from riboray.embedding.store import EmbeddingSet
from riboray.manifest import atomic_path
from riboray.rayenv import LOCAL, prepare_ray
from riboray.room import byte_size, check_disk, spill_folder

if TYPE_CHECKING:
    from riboray.alignment.pipeline import Context
    from riboray.crew.pipeline import Crew

__all__ = ["search"]

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Queries and rows of the database."""


def search(config: SearchConfig) -> dict[str, Any]:
    """Find the relatives of every query in a database of embeddings.

    Returns
    -------
    dict
        Counts, times and parameters: the summary.

    Raises
    ------
    RiborayError
        On bad input, a database of another model, or an output directory of another search.
    """
    address = prepare_ray(config.ray_address)
    directory = Path(config.output).resolve()
    database, loaded = open_database(config.db, config.checkpoint)
    identity = config.identity(config.query, loaded.sha256 + database.identity)
    store = PairStore(directory, identity, direct=False)
    finished = store.finished()
    if finished is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **finished.counts}
    sample = sample_texts(database, config.seed)
    work = prepare(config, loaded, config.query, lambda _: len(database), sample)
    _announce(config, work, database, sample, directory, local=address == LOCAL)
    if config.dry_run:
        return {"dry_run": True, "queries": len(work.named), "targets": len(database)}
    with store.entered("searching") as done:
        if done is not None:
            return {"output": str(directory), **done.counts}
        write_beside(config, work, directory)
        return _run(config, work, database, store, address)


def _announce(
    config: SearchConfig,
    work: Prepared,
    database: EmbeddingSet,
    sample: list[str],
    directory: Path,
    *,
    local: bool,
) -> None:
    """Print what is ahead; refuse what cannot be held."""
    queries = len(work.named)
    per_query = len(database)
    if config.prefilter != "none":
        per_query = min(per_query, config.candidates * (2 if config.prefilter == "both" else 1))
    mean = sum(map(len, sample)) / len(sample)
    cells = sum(map(len, work.named.sequences)) * mean * per_query
    everything = [*work.named.sequences, *sample]
    estimate = measure_pace(work.embedder, everything, work.rule, maker=work.maker)
    workers = config.num_workers or (os.cpu_count() or 1 if local else 1)
    seconds = cells / estimate.cells_per_second
    targets = min(per_query * queries, len(database))
    if not database.per_base:
        seconds += targets * mean / estimate.nucleotides_per_second
    hits = queries * min(config.max_hits, per_query)
    output = 4.0 * hits * estimate.bytes_per_pair + 70.0 * queries * per_query
    width = config.dimensions or work.embedder.width
    base = (targets * mean) * width * (2 if config.dtype == "float16" else 4)
    say(f"  {queries:,} queries, {len(database):,} targets; {per_query:,} compared per query")
    say(
        f"  {cells:.3g} cells at most, {estimate.cells_per_second / 1e9:.2f} billion a second and "
        f"process: about {duration(seconds / workers)} with {workers} of them, and the prefilter"
    )
    say(f"  at most {hits:,} hits; {byte_size(output)}, embeddings {byte_size(base)}")
    check_disk(directory, output, "search for fewer queries, or write elsewhere")
    if local:
        advice = "use --dtype float16, --dimensions or fewer queries at once"
        check_disk(spill_folder(), base, advice)


def _run(
    config: SearchConfig, work: Prepared, database: EmbeddingSet, store: PairStore, address: str
) -> dict[str, Any]:
    from riboray.alignment.pipeline import TileRunner
    from riboray.crew.pipeline import crew_on

    start = time.monotonic()
    checkpoint = work.loaded.name
    with crew_on(address, config.num_workers, config.memory_per_worker, store.work) as crew:
        pairs = None
        if config.prefilter != "none":
            pairs = _candidates(config, work, database, store, crew)
        targets = np.arange(len(database)) if pairs is None else np.unique(pairs[1])
        plan, context = _plan(config, work, database, targets, pairs)
        assert plan.target_order is not None
        assert context.target_lengths is not None
        loaders: list[Callable[[], Side]] = [
            partial(
                load_targets,
                database,
                targets[plan.target_order[first:last]],
                first,
                checkpoint,
                work.maker,
            )
            for first, last in plan.target_chunks
        ]
        ordered = [work.named.sequences[k] for k in plan.order.tolist()]
        chunks = embedding_chunks(checkpoint, ordered, plan.chunks, work.maker)
        runner = TileRunner(crew, store, context, chunks, loaders)
        tiles = plan.tiles if pairs is None else _chosen(plan, pairs, targets, context)
        reports = run_tiles(runner, store, tiles, "score")
        best = _rank(work)
        query, target = choose_best(store, tiles, config.max_hits, best, both=False)
        chosen = plan_pairs(plan, query, target, context.lengths, context.target_lengths)
        run_tiles(runner, store, chosen, "align")
    compared = sum(report.scored for report in reports.values())
    table = _best(store, chosen, config.max_hits, best, plan)
    return _finish(config, work, database, store, table, compared, time.monotonic() - start)


def _rank(work: Prepared) -> str:
    """Rank by significance where there is one: raw scores of other lengths say little."""
    return "score" if work.rule.null is None else "z_score"


def _plan(
    config: SearchConfig,
    work: Prepared,
    database: EmbeddingSet,
    targets: NDArray[np.int64],
    pairs: Pairs | None,
) -> tuple[Plan, Context]:
    """Plan the comparison of the queries with some rows of the database."""
    from riboray.alignment.pipeline import Context

    named = work.named
    lengths = np.array([len(s) for s in named.sequences], np.int32)
    ids, target_lengths = describe_rows(database, targets)
    share = 1.0 if pairs is None else len(pairs[0]) / (len(lengths) * len(targets))
    plan = plan_search(lengths, target_lengths, share)
    assert plan.target_order is not None
    context = Context(
        rule=work.rule,
        ids=[named.ids[k] for k in plan.order.tolist()],
        lengths=lengths[plan.order],
        comparisons=len(database),  # an E-value is about one query
        scores_only=False,
        storage=config.dtype,
        target_ids=[ids[k] for k in plan.target_order.tolist()],
        target_lengths=target_lengths[plan.target_order],
    )
    return plan, context


def _candidates(
    config: SearchConfig,
    work: Prepared,
    database: EmbeddingSet,
    store: PairStore,
    crew: Crew,
) -> Pairs:
    """Find every query's candidates in all files; return pairs of query and global row.

    They are written down: a run that goes on works on the same pairs.
    """
    from riboray.alignment.pipeline import find_candidates

    path = store.work / "candidates.npz"
    if path.is_file():
        with np.load(path) as stored:
            return stored["query"], stored["row"]
    folder = index_folder(database, store.work)
    chooser = fit_prefilter(database, config.prefilter, config.kmer, folder)
    texts, checkpoint = work.named.sequences, work.loaded.name
    progress = Progress("  prefilter")
    best = find_candidates(
        crew,
        database,
        chooser,
        texts,
        checkpoint,
        config.candidates,
        lambda done, files: progress.update(done / files, f"{done} of {files} files"),
    )
    progress.close()
    query = np.concatenate([np.repeat(np.arange(len(texts)), c.rows.shape[1]) for c in best])
    rows = np.concatenate([c.rows.ravel() for c in best])
    # A pair that several prefilters chose is one pair.
    pairs = np.unique(np.column_stack([query, rows]), axis=0)
    with atomic_path(path) as temporary, temporary.open("wb") as sink:
        np.savez(sink, query=pairs[:, 0], row=pairs[:, 1])
    return pairs[:, 0], pairs[:, 1]


def _chosen(
    plan: Plan,
    pairs: Pairs,
    targets: NDArray[np.int64],
    context: Any,
) -> list[TileSpec]:
    """Translate candidate pairs to indices of the plan and group them into tiles."""
    assert plan.target_order is not None
    place = np.empty(len(plan.order), np.int64)
    place[plan.order] = np.arange(len(plan.order))
    target_place = np.empty(len(plan.target_order), np.int64)
    target_place[plan.target_order] = np.arange(len(plan.target_order))
    query, target = place[pairs[0]], target_place[np.searchsorted(targets, pairs[1])]
    return plan_pairs(plan, query, target, context.lengths, context.target_lengths)


def _best(
    store: PairStore, tiles: list[TileSpec], max_hits: int, column: str, plan: Plan
) -> pa.Table:
    """Read all tiles and keep every query's best hits: queries as in the input, best hit first."""
    tables = [store.read("align", tile) for tile in tiles]
    if not tables:
        return HIT_SCHEMA.empty_table()
    table = pa.concat_tables(tables).unify_dictionaries()
    query = table["query_index"].to_numpy()
    values = table[column].to_numpy().astype(np.float32)
    target = table["target_index"].to_numpy()
    kept = np.flatnonzero(best_of_each((query,), values, max_hits, exactly=True))
    order = kept[np.lexsort((target[kept], -values[kept], plan.order[query[kept]]))]
    return table.take(pa.array(order)).drop_columns(["query_index", "target_index"])


def _finish(
    config: SearchConfig,
    work: Prepared,
    database: EmbeddingSet,
    store: PairStore,
    table: pa.Table,
    compared: int,
    seconds: float,
) -> dict[str, Any]:
    """Write all hits as one file, in Arrow and TSV."""
    segment = store.work / "hits.tsv"
    write_tsv(table, segment)
    write_arrow(table, store.pairs / "hits.arrow", {"identity": store.identity})
    counts = {
        "queries_read": len(work.named) + len(work.named.rejects),
        "queries_searched": len(work.named),
        "queries_rejected": len(work.named.rejects),
        "targets": len(database),
        "pairs_compared": compared,
        "pairs_reported": table.num_rows,
    }
    summary = {
        "output": str(store.directory),
        **counts,
        "prefilter": config.prefilter,
        "seconds": round(seconds, 1),
    }
    store.finish(tsv_header(scores_only=False), [segment], counts, summary)
    say(
        f"  {counts['queries_read']:,} read = {len(work.named):,} searched + "
        f"{len(work.named.rejects):,} rejected"
    )
    say(f"  {table.num_rows:,} hits in {duration(seconds)}: {store.directory / 'pairs.tsv'}")
    return summary
