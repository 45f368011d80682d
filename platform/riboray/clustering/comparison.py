"""Comparing the sequences with each other: all pairs of some, chosen pairs of many.

All pairs are aligned by the verb `align`, many sequences are embedded by `embed`, in a folder of
the output; chosen pairs are aligned in rounds (`riboray.clustering.chosen`). All of it goes on
where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from riboray.alignment.allpairs import align_all_pairs
from riboray.alignment.candidates import (
    fit_prefilter,
    index_file,
    index_folder,
    indexed,
    sample_texts,
)
from riboray.alignment.config import AlignConfig, AlignmentOptions
from riboray.alignment.preparation import fit_comparison, load_fit, save_fit
from riboray.alignment.rowfiles import RowFiles
from riboray.clustering.chosen import BlockReport, Chosen, compare_block, write_candidates
from riboray.clustering.config import ClusterConfig
from riboray.clustering.edges import collect_edges, needed_values, open_hits
from riboray.clustering.graph import EdgeCollector, Graph
from riboray.clustering.sequences import Sequences
from riboray.console import Progress, say
from riboray.embedding.config import EmbedConfig
from riboray.embedding.driver import embed
from riboray.embedding.embedder import Embedder
from riboray.embedding.store import EmbeddingSet
from riboray.errors import ConfigError
from riboray.model.checkpoint import LoadedCheckpoint
from riboray.rayenv import prepare_ray

if TYPE_CHECKING:
    from riboray.crew.pipeline import Crew

__all__ = ["Comparison", "compare_all", "compare_chosen", "embed_many", "read_compared", "rehearse"]

#: Text of a file of embeddings, at least and at most, and files aimed at: enough for all workers to
#: have some, few enough for an index to be worth its reading.
_LEAST_BYTES, _MOST_BYTES, _FILES = 256 << 10, 8 << 20, 16

#: Sequences whose candidates are found by one task, and whose pairs are aligned by one.
_BLOCK = 5_000

#: Edges of a sequence where a prefilter chose its candidates, unless asked for otherwise.
_NEIGHBORS = 50


@dataclass(frozen=True)
class Comparison:
    """A graph, and what was compared for it.

    Attributes
    ----------
    graph : Graph
        Significant pairs.
    how : str
        ``all pairs``, ``prefilter`` or ``hits``.
    pairs : int
        Pairs compared; of given hits, pairs read.
    """

    graph: Graph
    how: str
    pairs: int


def read_compared(config: ClusterConfig, sequences: Sequences, path: str) -> Comparison:
    """Make the graph of pairs compared before.

    Raises
    ------
    CorpusError
        As `riboray.clustering.edges.collect_edges`.
    """
    collector = EdgeCollector(len(sequences), config.neighbors)
    pairs = collect_edges(open_hits(path), sequences, config, collector)
    return Comparison(collector.graph(mutual=config.mutual), "hits", pairs)


def _dimensions(config: ClusterConfig, loaded: LoadedCheckpoint) -> int | None:
    """Return how many dimensions to project to; None where the model has no more."""
    wanted = config.dimensions
    return wanted if wanted is not None and wanted < loaded.model.config.hidden_size else None


def compare_all(
    config: ClusterConfig, sequences: Sequences, work: Path, loaded: LoadedCheckpoint
) -> Comparison:
    """Align every sequence with every other.

    Parameters
    ----------
    config : ClusterConfig
        Options.
    sequences : Sequences
        At least one.
    work : Path
        Folder for what is made on the way.
    loaded : LoadedCheckpoint
        The model.
    """
    count = len(sequences)
    collector = EdgeCollector(count, config.neighbors)
    if count == 1:
        return Comparison(collector.graph(), "all pairs", 0)
    fasta = work / "sequences.fasta"
    if not fasta.is_file():
        sequences.write_fasta(fasta, np.arange(count))
    evalue = None
    if config.method != "spectral" and config.max_evalue is not None:
        evalue = config.max_evalue * count / 2  # ours is of one sequence, align's of all pairs
    output = work / "pairs"
    made = align_all_pairs(_all_pairs(config, [str(fasta)], str(output), loaded, evalue))
    collect_edges(open_hits(str(output)), sequences, config, collector)
    graph = collector.graph(mutual=config.mutual)
    return Comparison(graph, "all pairs", int(made["pairs_compared"]))


def _all_pairs(
    config: ClusterConfig,
    paths: list[str],
    output: str,
    loaded: LoadedCheckpoint,
    evalue: float | None,
) -> AlignConfig:
    return AlignConfig(
        input=paths,
        all_pairs=True,
        checkpoint=loaded.name,
        output=output,
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        mode=config.mode,
        centred=config.centred,
        gaps=config.gaps,
        dimensions=_dimensions(config, loaded),
        arithmetic=config.arithmetic,
        scores_only=config.weight != "identity",
        max_evalue=evalue,
        num_workers=config.num_workers,
        memory_per_worker=config.memory_per_worker,
        ray_address=config.ray_address,
        dry_run=config.dry_run,
        seed=config.seed,
    )


def rehearse(
    config: ClusterConfig, records: int, loaded: LoadedCheckpoint | None, *, exhaustive: bool
) -> dict[str, Any]:
    """Say how much would be compared, and how long that takes where it can be told.

    Parameters
    ----------
    config : ClusterConfig
        Options.
    records : int
        Sequences.
    loaded : LoadedCheckpoint or None
        The model; None where pairs were compared before.
    exhaustive : bool
        Whether all pairs would be compared.
    """
    told: dict[str, Any] = {"dry_run": True, "sequences": records}
    if config.hits is not None:
        say(f"  {records:,} sequences; pairs of {config.hits} would be read")
        return told
    assert loaded is not None  # found before anything else
    of_fasta = not Path(config.input[0]).is_dir()
    if exhaustive:
        pairs = records * (records - 1) // 2
        if of_fasta and records > 1:
            made = align_all_pairs(_all_pairs(config, config.input, config.output, loaded, 1e-3))
            return {**told, **made}
    else:
        pairs = records * config.candidates * (2 if config.prefilter == "both" else 1)
        if of_fasta:
            told["embedding"] = embed(_embedding(config, config.output, loaded.name))
    say(f"  {records:,} sequences, {pairs:,} pairs to compare{'' if exhaustive else ' at most'}")
    return {**told, "pairs": pairs}


def _embedding(config: ClusterConfig, output: str, checkpoint: str) -> EmbedConfig:
    return EmbedConfig(
        input=config.input,
        checkpoint=checkpoint,
        output=output,
        per_base=config.per_base,
        shard_bytes=_shard_bytes(config.input),
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        num_workers=config.num_workers,
        memory_per_worker=config.memory_per_worker,
        ray_address=config.ray_address,
        dry_run=config.dry_run,
    )


def embed_many(config: ClusterConfig, work: Path, checkpoint: str) -> EmbeddingSet:
    """Embed FASTA files with too many sequences for all pairs."""
    embed(_embedding(config, str(work / "embeddings"), checkpoint))
    return EmbeddingSet.open(work / "embeddings")


def _shard_bytes(paths: list[str]) -> int:
    """Return how much text goes into one file of embeddings."""
    size = sum(Path(path).stat().st_size for path in paths)
    return min(max(size // _FILES, _LEAST_BYTES), _MOST_BYTES)


def compare_chosen(
    config: ClusterConfig, sequences: Sequences, work: Path, loaded: LoadedCheckpoint
) -> Comparison:
    """Align those pairs of many sequences that a prefilter chooses.

    Parameters
    ----------
    config, sequences, work, loaded
        As `compare_all`; the sequences have embeddings.
    """
    stored = sequences.stored
    assert stored is not None
    stored.check_searchable(loaded.model.config.num_hidden_layers)
    chosen = _prepared(config, stored, work, loaded)
    chosen.rows.begin(sequences.lengths)
    paths = [chosen.edges(number) for number in range(chosen.blocks)]
    if not all(path.is_file() for path in paths):
        _run_rounds(chosen)
    neighbors = config.neighbors or min(_NEIGHBORS, config.candidates)
    collector, pairs = EdgeCollector(len(sequences), neighbors), 0
    for path in paths:
        with np.load(path) as found:
            collector.add(found["first"], found["second"], found["weight"])
            pairs += int(found["pairs"])
    return Comparison(collector.graph(mutual=config.mutual), "prefilter", pairs)


def _prepared(
    config: ClusterConfig, stored: EmbeddingSet, work: Path, loaded: LoadedCheckpoint
) -> Chosen:
    """Fit what pairs are chosen and judged by, to samples."""
    path = work / "fitted.npz"
    if not path.is_file():
        options = AlignmentOptions(
            checkpoint=loaded.name,
            mode=config.mode,
            gaps=config.gaps,
            max_evalue=config.max_evalue,
            centred=config.centred,
            dimensions=_dimensions(config, loaded),
            seed=config.seed,
        )
        sample = sample_texts(stored, config.seed)
        save_fit(path, *fit_comparison(options, Embedder(loaded.model), sample, len(stored)))
    maker, rule = load_fit(path)
    if rule.null is None and {"z_score", "evalue"} & set(needed_values(config)):
        raise ConfigError(
            "sequences this long are compared without statistics: use --weight normalised_score "
            "and --min-normalised-score, without --max-evalue"
        )
    chooser = fit_prefilter(stored, config.prefilter, config.kmer, index_folder(stored, work))
    width = _dimensions(config, loaded) or loaded.model.config.hidden_size
    rows = RowFiles(work / "rows", stored, width, maker, loaded.name)
    return Chosen(config, stored, chooser, rows, rule, work, _BLOCK)


def _run_rounds(chosen: Chosen) -> None:
    """Do what is not done yet."""
    from riboray.crew.pipeline import crew_on

    config, database, chooser = chosen.config, chosen.database, chosen.chooser
    files, blocks = range(len(database.files)), range(chosen.blocks)
    address = prepare_ray(config.ray_address)
    folder = chosen.rows.path(0).parent
    with crew_on(address, config.num_workers, config.memory_per_worker, folder) as crew:
        unmade = [n for n in files if not chosen.rows.path(n).is_file()]
        _round(crew, "making rows", len(files), [(chosen.rows.make, n) for n in unmade])
        unmade = [n for n in files if not indexed(database, n, chooser)]
        calls = [(index_file, database, n, chooser) for n in unmade]
        _round(crew, "indexing", len(files), calls)
        unmade = [n for n in blocks if not chosen.candidates(n).is_file()]
        _round(crew, "prefilter", len(blocks), [(write_candidates, chosen, n) for n in unmade])
        unmade = [n for n in blocks if not chosen.edges(n).is_file()]
        _round(crew, "aligning", len(blocks), [(compare_block, chosen, n) for n in unmade])


def _round(crew: Crew, label: str, total: int, calls: Sequence[tuple[Any, ...]]) -> None:
    """Make the calls that are left of so many; of reports, show the sums."""
    if not calls:
        return
    done, start = total - len(calls), time.monotonic()
    progress, reports = Progress(f"  {label:<11}", done / total), BlockReport()
    for _, report in crew.each(((None, call) for call in calls), len(calls), what=label):
        done += 1
        figures = f"{done:,} of {total:,}"
        if isinstance(report, BlockReport):
            reports += report
            figures += "  " + reports.describe(time.monotonic() - start)
        progress.update(done / total, figures)
    progress.close()
