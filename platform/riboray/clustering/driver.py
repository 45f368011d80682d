"""The verb `cluster`: compare, cut, choose representatives, write."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from riboray import __version__
from riboray.alignment.columns import GapPenalties
from riboray.clustering.aligning import FOLDER, Family, align_families, alignment_name, families
from riboray.clustering.communities import Clustering, cluster_graph
from riboray.clustering.comparison import (
    Comparison,
    compare_all,
    compare_chosen,
    embed_many,
    read_compared,
    rehearse,
)
from riboray.clustering.config import ClusterConfig
from riboray.clustering.edges import open_hits
from riboray.clustering.figure import FIGURE, draw, pooled_sample
from riboray.clustering.outputs import write_clusters
from riboray.clustering.sequences import Sequences, count_records, find_model, open_input
from riboray.clustering.spectral import check_spectral
from riboray.console import Progress, say
from riboray.corpus.rejects import write_rejects
from riboray.embedding.store import EmbeddingSet
from riboray.errors import RiborayError
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_path,
    entered,
    fingerprint,
    finished,
    sha256_file,
    tidy,
    write_config,
    write_json,
    write_manifest,
)
from riboray.model.checkpoint import LoadedCheckpoint
from riboray.rayenv import LOCAL, prepare_ray

__all__ = ["CLUSTERS_KIND", "cluster"]

CLUSTERS_KIND = "clusters"


@dataclass(frozen=True)
class _Work:
    """What a run starts from."""

    config: ClusterConfig
    directory: Path
    address: str
    stored: EmbeddingSet | None
    loaded: LoadedCheckpoint | None
    records: int

    @property
    def folder(self) -> Path:
        """Folder of what is made on the way, removed at the end."""
        return self.directory / "work"

    @property
    def checkpoint(self) -> str:
        """What to call the model; checked to be there where it is needed."""
        assert self.loaded is not None
        return self.loaded.name

    @property
    def exhaustive(self) -> bool:
        """Whether all pairs are aligned."""
        return self.config.method == "spectral" or self.records <= self.config.exhaustive


def cluster(config: ClusterConfig) -> dict[str, Any]:
    """Cluster sequences; return the counts.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that something else made.
    """
    address = prepare_ray(config.ray_address)
    directory = Path(config.output).resolve()
    stored = open_input(config)
    records = count_records(config) if stored is None else len(stored)
    if config.method == "spectral":
        check_spectral(records, config.clusters or 1)
    loaded = find_model(config, stored)
    work = _Work(config, directory, address, stored, loaded, records)
    identity = _identity(work)
    done = finished(directory, CLUSTERS_KIND, identity)
    if done is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **done.counts}
    if config.dry_run:
        return rehearse(config, records, loaded, exhaustive=work.exhaustive)
    is_new = not directory.exists()
    with entered(directory, CLUSTERS_KIND, identity, "clustering") as done:
        if done is not None:
            return {"output": str(directory), **done.counts}
        work.folder.mkdir(exist_ok=True)
        try:
            return _cluster(work, identity)
        except RiborayError as error:
            useful = any(work.folder.glob("*/manifest.json")) or any(work.folder.glob("edges-*"))
            if error.exit_code == 2 and is_new and not useful:
                shutil.rmtree(directory, ignore_errors=True)
            raise


def _identity(work: _Work) -> str:
    config, stored, loaded = work.config, work.stored, work.loaded
    contents = [sha256_file(Path(path)) for path in config.input] if stored is None else []
    return fingerprint(
        {
            **config.fingerprint_values(),
            "input": contents if stored is None else stored.identity,
            "hits": None if config.hits is None else open_hits(config.hits).identity,
            "weights": None if loaded is None else loaded.sha256,
            "version": __version__,
        }
    )


def _cluster(work: _Work, identity: str) -> dict[str, Any]:
    config, directory, began = work.config, work.directory, time.monotonic()
    write_config(directory / "resolved_config.yaml", asdict(config))
    sequences, rejected = _read(work)
    compared = _compare(work, sequences)
    graph = compared.graph
    compared_in = time.monotonic() - began
    say(
        f"  {len(sequences):,} sequences, {compared.pairs:,} pairs ({compared.how}), "
        f"{len(graph.first):,} of them linked"
    )
    if not len(graph.first):
        say("  no two sequences are linked: every one is a cluster of its own")
    matrix = graph.adjacency()
    clustering = cluster_graph(matrix, config)
    files = write_clusters(directory, sequences, clustering, matrix)
    files += _rejects(work, sequences, rejected)
    if config.alignments:
        files += _align(work, sequences, clustering)
    if config.figure:
        sample = pooled_sample(sequences, work.loaded, config.seed)
        draw(directory / FIGURE, sequences, clustering, sample, config.seed)
        files.append(FileEntry.of(directory / FIGURE))
    counts = _counts(sequences, rejected, compared, clustering)
    seconds = time.monotonic() - began
    summary = {
        "output": str(directory),
        **counts,
        "method": config.method,
        "compared": compared.how,
        "compare_seconds": round(compared_in, 1),
        "seconds": round(seconds, 1),
    }
    write_json(directory / "summary.json", summary)
    _commit(directory, files, counts, identity, config)
    return summary


def _read(work: _Work) -> tuple[Sequences, int]:
    """Read the sequences, and how many records were left out; embed them first if they are many."""
    config = work.config
    if work.stored is not None:
        say(f"  reading     {work.records:,} sequences in {work.stored.directory}")
        return Sequences.of_embeddings(work.stored), 0
    if config.hits is None and not work.exhaustive:
        stored = embed_many(config, work.folder, work.checkpoint)
        sequences = Sequences.of_embeddings(stored)
        return sequences, work.records - len(sequences)
    ambiguity = True
    if work.loaded is not None:
        ambiguity = work.loaded.model.config.tokens.id_of("N") is not None
    sequences = Sequences.of_fasta(config, ambiguity=ambiguity)
    return sequences, len(sequences.rejects)


def _compare(work: _Work, sequences: Sequences) -> Comparison:
    config = work.config
    if config.method == "spectral":  # records may have been left out
        check_spectral(len(sequences), config.clusters or 1)
    if config.hits is not None:
        return read_compared(config, sequences, config.hits)
    assert work.loaded is not None  # found before anything else was done
    compare = compare_all if work.exhaustive else compare_chosen
    return compare(config, sequences, work.folder, work.loaded)


def _rejects(work: _Work, sequences: Sequences, rejected: int) -> list[FileEntry]:
    """Write down what was left out; of embedded FASTA, `embed` did."""
    path = work.directory / "rejects.parquet"
    if not rejected:
        return []
    if sequences.rejects:
        write_rejects(sequences.rejects, work.directory)
    else:
        with atomic_path(path) as temporary:
            shutil.copyfile(work.folder / "embeddings" / path.name, temporary)
    return [FileEntry.of(path, rejected)]


def _align(work: _Work, sequences: Sequences, clustering: Clustering) -> list[FileEntry]:
    """Align every cluster of two or more; return the files."""
    directory, total = work.directory, int((clustering.sizes > 1).sum())
    (directory / FOLDER).mkdir(exist_ok=True)
    done = sum((directory / alignment_name(k)).is_file() for k in range(total))
    progress = Progress("  aligning clusters", done / max(total, 1))
    for count in _aligned(work, families(directory, sequences, clustering)):
        done += count
        progress.update(done / total, f"{done:,} of {total:,} clusters")
    progress.close()
    entries = []
    for number, size in enumerate(clustering.sizes[:total].tolist()):
        name = alignment_name(number)
        entry = FileEntry.of(directory / name)
        entries.append(FileEntry(name, size, entry.bytes, entry.sha256))
    say(f"  {total:,} alignments in {directory / FOLDER}")
    return entries


def _aligned(work: _Work, pieces: Iterator[list[Family]]) -> Iterator[int]:
    """Align pieces of work by a crew, or one in this process; yield clusters done."""
    config = work.config
    options = (work.checkpoint, GapPenalties(), config.mode)
    few = list(islice(pieces, 2))
    if len(few) < 2 and work.address == LOCAL:  # done before a Ray would have started
        yield from (align_families(piece, *options) for piece in few)
        return
    from riboray.crew.pipeline import crew_on

    calls = ((None, (align_families, piece, *options)) for piece in chain(few, pieces))
    with crew_on(
        work.address, config.num_workers, config.memory_per_worker, work.directory
    ) as crew:
        for _, done in crew.each(calls, what="aligning"):
            yield done


def _counts(
    sequences: Sequences, rejected: int, compared: Comparison, clustering: Clustering
) -> dict[str, int]:
    """Count, and check that every sequence is in exactly one cluster."""
    clustered, alone = int(clustering.sizes.sum()), int((clustering.sizes == 1).sum())
    if not len(sequences) == clustered == len(np.unique(clustering.order)):
        raise RiborayError(
            f"{len(sequences)} sequences, but {clustered} members of clusters; this is a bug"
        )
    counts = {
        "sequences_read": len(sequences) + rejected,
        "sequences_clustered": clustered,
        "sequences_rejected": rejected,
        "pairs_compared": compared.pairs,
        "edges": len(compared.graph.first),
        "clusters": len(clustering),
        "single_sequences": alone,
        "largest_cluster": int(clustering.sizes[0]),
    }
    say(
        f"  {counts['sequences_read']:,} read = {clustered - alone:,} in "
        f"{len(clustering) - alone:,} clusters + {alone:,} alone + {rejected:,} rejected; "
        f"the largest has {counts['largest_cluster']:,}"
    )
    return counts


def _commit(
    directory: Path,
    files: list[FileEntry],
    counts: dict[str, int],
    identity: str,
    config: ClusterConfig,
) -> None:
    """Write the manifest, last, and tidy up."""
    manifest = Manifest(
        kind=CLUSTERS_KIND,
        fingerprint=identity,
        files=tuple(sorted(files, key=lambda entry: entry.name)),
        counts=counts,
        details={"method": config.method, "weight": config.weight, "inputs": config.input},
    )
    write_manifest(directory, manifest)
    shutil.rmtree(directory / "work", ignore_errors=True)
    tidy(directory)
