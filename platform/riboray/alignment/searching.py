"""The verb `search`: choose candidates, align them, report the best."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from riboray.alignment.allpairs import Prepared, duration, prepare, run_tiles
from riboray.alignment.chunks import embedding_chunks
from riboray.alignment.config import SearchConfig
from riboray.alignment.database import Candidates, Prefilter, fit_prefilter, load_targets
from riboray.alignment.estimate import measure_pace
from riboray.alignment.hits import tsv_header, write_arrow, write_tsv
from riboray.alignment.plan import Plan, TileSpec, plan_pairs, plan_search
from riboray.alignment.selection import best_of_each
from riboray.alignment.store import PairStore
from riboray.alignment.tiles import Side
from riboray.console import Progress, say
from riboray.corpus.rejects import write_rejects
from riboray.embedding.store import EmbeddingSet, pool
from riboray.errors import CorpusError
from riboray.manifest import atomic_path, write_json
from riboray.rayenv import prepare_ray

__all__ = ["search"]


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
    database = EmbeddingSet.open(Path(config.db).resolve())
    sample = _sampled(database, config.seed)
    work = prepare(config, config.query, lambda _: len(database), lambda: sample)
    if work.loaded.sha256 != database.model:
        raise CorpusError(
            database.directory,
            f"was embedded with the model {database.model[:12]}…, not with "
            f"{config.checkpoint} ({work.loaded.sha256[:12]}…); scores between two models mean "
            "nothing: embed it anew, or name its checkpoint",
        )
    identity = config.identity(config.query, work.loaded.sha256 + database.identity)
    _announce(config, work, database, sample)
    if config.dry_run:
        return {"dry_run": True, "queries": len(work.named), "targets": len(database)}
    store = PairStore(directory, identity)
    finished = store.claim()
    if finished is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **finished.counts, **finished.details}
    with atomic_path(directory / "resolved_config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(asdict(config), sort_keys=False), "utf-8")
    if work.named.rejects:
        write_rejects(work.named.rejects, directory)
    try:
        return _run(config, work, database, store, address)
    except KeyboardInterrupt:
        say(f"  stopped; the same command goes on from what is in {directory}")
        raise


def _sampled(database: EmbeddingSet, seed: int) -> list[str]:
    """Draw a few hundred sequences of the database."""
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(database), min(400, len(database)), replace=False))
    files = np.searchsorted(database.starts, rows, side="right") - 1
    texts: list[str] = []
    for number in np.unique(files).tolist():
        local = rows[files == number] - database.starts[number]
        texts += database.take(number, local, ["sequence"])["sequence"].to_pylist()
    return texts


def _announce(
    config: SearchConfig, work: Prepared, database: EmbeddingSet, sample: list[str]
) -> None:
    """Print what is ahead."""
    queries = len(work.named)
    per_query = len(database)
    if config.prefilter != "none":
        per_query = min(per_query, config.candidates * (2 if config.prefilter == "both" else 1))
    mean = sum(map(len, sample)) / len(sample)
    cells = sum(map(len, work.named.sequences)) * mean * per_query
    estimate = measure_pace(work.embedder, sample, work.rule, projection=work.projection)
    workers = config.num_workers or os.cpu_count() or 1
    seconds = cells / estimate.cells_per_second
    if not database.per_base:
        seconds += min(per_query * queries, len(database)) * mean / estimate.nucleotides_per_second
    say(f"  {queries:,} queries, {len(database):,} targets; {per_query:,} aligned per query")
    say(
        f"  {cells:.3g} cells at most, {estimate.cells_per_second / 1e9:.2f} billion a second and "
        f"process, {workers} processes: about {duration(seconds / workers)} and the prefilter"
    )


def _run(
    config: SearchConfig, work: Prepared, database: EmbeddingSet, store: PairStore, address: str
) -> dict[str, Any]:
    from riboray.alignment.pipeline import Context, TileRunner, find_candidates, running

    start = time.monotonic()
    named = work.named
    with running(address, config.num_workers) as workers:
        pairs = None
        if config.prefilter != "none":
            folder = _index_folder(database, store.directory)
            chooser = fit_prefilter(database, config.prefilter, config.kmer, folder, config.seed)
            pairs = _candidates(config, work, database, chooser, workers, find_candidates)
        targets = np.arange(len(database)) if pairs is None else np.unique(pairs[1])
        lengths = np.array([len(s) for s in named.sequences], np.int32)
        ids, target_lengths = _described(database, targets)
        plan = plan_search(lengths, target_lengths)
        assert plan.target_order is not None
        ordered = [named.sequences[k] for k in plan.order.tolist()]
        context = Context(
            rule=work.rule,
            ids=[named.ids[k] for k in plan.order.tolist()],
            lengths=lengths[plan.order],
            comparisons=len(database),  # an E-value is about one query
            scores_only=False,
            storage=config.storage,
            target_ids=[ids[k] for k in plan.target_order.tolist()],
            target_lengths=target_lengths[plan.target_order],
        )
        checkpoint = str(work.loaded.path)
        loaders: list[Callable[[], Side]] = [
            partial(
                load_targets,
                database,
                targets[plan.target_order[first:last]],
                first,
                checkpoint,
                work.projection,
            )
            for first, last in plan.target_chunks
        ]
        chunks = embedding_chunks(checkpoint, ordered, plan.chunks, work.projection)
        runner = TileRunner(store, context, chunks, loaders, workers)
        tiles = plan.tiles if pairs is None else _chosen(plan, pairs, targets, context)
        reports = run_tiles(runner, store, tiles, "align", "aligning")
    compared = sum(report.scored for report in reports.values())
    table = _best(store, sorted(reports), config.max_hits)
    return _finish(config, work, database, store, table, compared, time.monotonic() - start)


def _index_folder(database: EmbeddingSet, output: Path) -> Path:
    """Keep indices beside the embeddings, or in the output where that cannot be written."""
    beside = database.directory / "index" / database.identity
    try:
        beside.mkdir(parents=True, exist_ok=True)
        return beside
    except OSError:
        return output / "index"


def _described(
    database: EmbeddingSet, rows: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int32]]:
    """Return ids and lengths of some rows, in their order (sorted)."""
    ids: list[str] = []
    lengths: list[int] = []
    files = np.searchsorted(database.starts, rows, side="right") - 1
    for number in np.unique(files).tolist():
        local = rows[files == number] - database.starts[number]
        table = database.take(number, local, ["id", "length"])
        ids += table["id"].to_pylist()
        lengths += table["length"].to_pylist()
    return ids, np.array(lengths, np.int32)


def _candidates(
    config: SearchConfig,
    work: Prepared,
    database: EmbeddingSet,
    chooser: Prefilter,
    workers: int,
    find: Callable[..., Any],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find every query's candidates in all files; return pairs of query and global row."""
    texts = work.named.sequences
    how = read_pooling(database)
    pooled = np.stack([pool(rows, how) for rows in work.embedder.per_base(texts)])
    progress = Progress("  prefilter")
    best: list[Candidates] = []
    files = len(database.files)
    results = find(database, chooser, pooled, texts, config.candidates, workers)
    for done, found in enumerate(results, start=1):
        pairs_of_two = zip(best or found, found, strict=True)
        best = [_merge(old, new, config.candidates) for old, new in pairs_of_two] if best else found
        progress.update(done / files, f"{done} of {files} files")
    progress.close()
    query = np.concatenate([np.repeat(np.arange(len(texts)), c.rows.shape[1]) for c in best])
    rows = np.concatenate([c.rows.ravel() for c in best])
    # A pair that several prefilters chose is one pair.
    pairs = np.unique(np.column_stack([query, rows]), axis=0)
    return pairs[:, 0], pairs[:, 1]


def read_pooling(database: EmbeddingSet) -> str:
    """Return how the database pooled its embeddings: queries are pooled likewise."""
    from riboray.embedding.store import read_metadata

    return read_metadata(database.files[0]).get("pooling", "mean")


def _merge(old: Candidates, new: Candidates, count: int) -> Candidates:
    rows = np.concatenate([old.rows, new.rows], axis=1)
    similarity = np.concatenate([old.similarity, new.similarity], axis=1)
    # By similarity, then row: whatever order the files come in, the result is the same.
    order = np.lexsort((rows, -similarity), axis=1)[:, :count]
    return Candidates(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1)
    )


def _chosen(
    plan: Plan,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
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


def _best(store: PairStore, names: list[str], max_hits: int) -> pa.Table:
    """Read all tiles and keep every query's best hits, best first."""
    tables = [store.read(name) for name in names]
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    query = table["query"].combine_chunks().indices.to_numpy().astype(np.int64)
    # By significance where there is one: raw scores of different lengths cannot be compared.
    key = "score" if table["z_score"].null_count else "z_score"
    values = table[key].to_numpy().astype(np.float32)
    kept = np.flatnonzero(best_of_each((query,), values, max_hits, exactly=True))
    order = kept[np.lexsort((kept, -values[kept], query[kept]))]
    return table.take(pa.array(order))


def _finish(
    config: SearchConfig,
    work: Prepared,
    database: EmbeddingSet,
    store: PairStore,
    table: pa.Table,
    compared: int,
    seconds: float,
) -> dict[str, Any]:
    """Replace the tiles by one file of hits, in Arrow and TSV."""
    write_tsv(table, store.segments / "hits.tsv")
    write_arrow(table, store.pairs / "hits.arrow", {"identity": store.identity})
    counts = {
        "queries_read": len(work.named) + len(work.named.rejects),
        "queries_searched": len(work.named),
        "queries_rejected": len(work.named.rejects),
        "targets": len(database),
        "pairs_compared": compared,
        "pairs_reported": table.num_rows,
    }
    store.finish(["hits"], tsv_header(scores_only=False), counts, {"prefilter": config.prefilter})
    shutil.rmtree(store.directory / "index", ignore_errors=True)
    summary = {"output": str(store.directory), **counts, "seconds": round(seconds, 1)}
    write_json(store.directory / "summary.json", summary)
    say(f"  {table.num_rows:,} hits in {duration(seconds)}: {store.directory / 'pairs.tsv'}")
    return summary
