"""Comparing the sequences with each other: all pairs of some, a search of many against themselves.

Everything is done by the verbs `align`, `embed` and `search`, in a folder of the output; each of
them goes on where it stopped.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.allpairs import align_all_pairs
from riboray.alignment.config import AlignConfig, SearchConfig
from riboray.alignment.prefilter import Whitening
from riboray.alignment.searching import search
from riboray.clustering.config import ClusterConfig
from riboray.clustering.edges import collect_edges, open_hits
from riboray.clustering.graph import EdgeCollector, Graph
from riboray.clustering.sequences import Sequences
from riboray.console import say
from riboray.embedding.config import EmbedConfig
from riboray.embedding.driver import embed
from riboray.embedding.store import EmbeddingSet
from riboray.manifest import atomic_path
from riboray.model.checkpoint import LoadedCheckpoint
from riboray.rayenv import prepare_ray

__all__ = ["Comparison", "compare_all", "compare_chosen", "embed_many", "read_compared"]

#: Queries of one search: its candidates and their base embeddings are in memory together.
_QUERIES = 10_000

#: Text of a file of embeddings, and so sequences in one index: few large ones are searched faster
#: than many small ones.
_SHARD_BYTES = 16 << 20

#: Edges of a sequence where a prefilter chose its candidates, unless asked for otherwise.
_NEIGHBORS = 50

#: Sequences that groups of neighbours are fitted to, groups at most, and members aimed at.
_SAMPLE, _GROUPS, _MEMBERS = 20_000, 256, 2_000


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
    made = align_all_pairs(
        AlignConfig(
            input=[str(fasta)],
            all_pairs=True,
            checkpoint=str(loaded.path),
            output=str(output),
            mode=config.mode,
            centred=config.centred,
            gaps=config.gaps,
            dimensions=_dimensions(config, loaded),
            arithmetic=config.arithmetic,
            scores_only=config.weight != "identity",
            max_evalue=evalue,
            num_workers=config.num_workers,
            ray_address=config.ray_address,
            seed=config.seed,
        )
    )
    collect_edges(open_hits(str(output)), sequences, config, collector)
    graph = collector.graph(mutual=config.mutual)
    return Comparison(graph, "all pairs", int(made["pairs_compared"]))


def embed_many(config: ClusterConfig, work: Path, checkpoint: Path) -> EmbeddingSet:
    """Embed FASTA files with too many sequences for all pairs."""
    embed(
        EmbedConfig(
            input=config.input,
            checkpoint=str(checkpoint),
            output=str(work / "embeddings"),
            per_base=config.per_base,
            shard_bytes=_SHARD_BYTES,
            duplicate_ids=config.duplicate_ids,
            on_invalid=config.on_invalid,
            num_workers=config.num_workers,
            ray_address=config.ray_address,
        )
    )
    return EmbeddingSet.open(work / "embeddings")


def compare_chosen(
    config: ClusterConfig, sequences: Sequences, work: Path, loaded: LoadedCheckpoint
) -> Comparison:
    """Search many sequences among themselves, some of them at a time.

    Each search takes neighbours together, so that their candidates are few different ones. What
    came out of a search is kept as its edges alone.

    Parameters
    ----------
    config, sequences, work, loaded
        As `compare_all`; the sequences have embeddings.
    """
    stored = sequences.stored
    assert stored is not None
    neighbors = config.neighbors or min(_NEIGHBORS, config.candidates)
    collector, pairs = EdgeCollector(len(sequences), neighbors), 0
    order = _neighbours_together(stored, work / "order.npy", config.seed)
    batches = -(-len(order) // _QUERIES)
    paths = [work / f"edges-{number:05d}.npz" for number in range(batches)]
    if not all(path.is_file() for path in paths):
        from riboray.pipeline import connect

        # One Ray for all searches: to start one for each takes seconds, and starting can fail.
        with connect(prepare_ray(config.ray_address), cpus=config.num_workers or 0):
            for number, path in enumerate(paths):
                if path.is_file():
                    continue
                say(f"  search {number + 1} of {batches}")
                rows = np.sort(order[number * _QUERIES : (number + 1) * _QUERIES])
                _search_batch(config, sequences, rows, path, loaded, neighbors)
    for path in paths:
        with np.load(path) as found:
            collector.add(found["first"], found["second"], found["weight"])
            pairs += int(found["pairs"])
    return Comparison(collector.graph(mutual=config.mutual), "prefilter", pairs)


def _search_batch(
    config: ClusterConfig,
    sequences: Sequences,
    rows: NDArray[np.int64],
    path: Path,
    loaded: LoadedCheckpoint,
    neighbors: int,
) -> None:
    """Search some sequences among all and write the edges to ``path``."""
    stored, fasta, output = sequences.stored, path.with_suffix(".fasta"), path.with_suffix(".hits")
    assert stored is not None
    if not fasta.is_file():
        sequences.write_fasta(fasta, rows)
    made = search(
        SearchConfig(
            query=[str(fasta)],
            db=str(stored.directory),
            checkpoint=str(loaded.path),
            output=str(output),
            prefilter=config.prefilter,
            kmer=config.kmer,
            candidates=config.candidates + 1,  # the nearest is the sequence itself
            max_hits=neighbors + 1,
            max_evalue=config.max_evalue,
            mode=config.mode,
            centred=config.centred,
            gaps=config.gaps,
            dimensions=_dimensions(config, loaded),
            storage="float16",
            num_workers=config.num_workers,
            ray_address=config.ray_address,
            seed=config.seed,
        )
    )
    collector = EdgeCollector(len(sequences), neighbors)
    collect_edges(open_hits(str(output)), sequences, config, collector)
    edges = collector.graph()
    with atomic_path(path) as temporary, temporary.open("wb") as sink:
        np.savez(
            sink,
            first=edges.first,
            second=edges.second,
            weight=edges.weight,
            pairs=np.int64(made["pairs_compared"]),
        )
    shutil.rmtree(output, ignore_errors=True)
    fasta.unlink(missing_ok=True)


def _neighbours_together(stored: EmbeddingSet, path: Path, seed: int) -> NDArray[np.int64]:
    """Order sequences so that those with near pooled embeddings stand together; shape (n,).

    It decides which are searched for in one go, not what is found.
    """
    if path.is_file():
        return np.asarray(np.load(path), np.int64)
    if len(stored) <= _QUERIES:
        order = np.arange(len(stored))
    else:
        groups = _grouped(stored, seed)
        order = np.argsort(groups, kind="stable")
    with atomic_path(path) as temporary, temporary.open("wb") as sink:
        np.save(sink, order)
    return order


def _grouped(stored: EmbeddingSet, seed: int) -> NDArray[np.int32]:
    """Give every sequence a group by k-means of whitened embeddings; near groups, near numbers."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(stored), min(_SAMPLE, len(stored)), replace=False))
    sample = np.concatenate(
        [stored.views_of(number, "embedding")[local] for number, _, local in stored.by_file(rows)]
    )
    whitening = Whitening.fit(sample)
    count = min(_GROUPS, max(2, len(stored) // _MEMBERS), len(sample))
    model = MiniBatchKMeans(count, random_state=seed, n_init=1).fit(whitening.apply(sample))
    leaves = leaves_list(linkage(model.cluster_centers_, "average", optimal_ordering=True))
    place = np.empty(count, np.int32)
    place[leaves] = np.arange(count)
    parts = []
    for number in range(len(stored.files)):
        view = stored.views_of(number, "embedding")
        for start in range(0, len(view), _SAMPLE):
            vectors = whitening.apply(view[start : start + _SAMPLE])
            parts.append(place[model.predict(vectors)])
    return np.concatenate(parts)
