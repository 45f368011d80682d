"""Files of a clustering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from riboray.clustering.communities import Clustering
from riboray.clustering.representatives import cohesion
from riboray.clustering.sequences import ROWS, Sequences
from riboray.manifest import FileEntry, atomic_path

__all__ = ["CLUSTER_SCHEMA", "write_clusters"]

CLUSTER_SCHEMA = pa.schema(
    [
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("representative", pa.string(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("mean_length", pa.float32(), nullable=False),
        pa.field("edges", pa.int64(), nullable=False),
        pa.field("density", pa.float32(), nullable=False),
        pa.field("cohesion", pa.float32(), nullable=False),
        pa.field("silhouette", pa.float32(), nullable=False),
    ],
    metadata={b"riboray.schema_version": b"1"},
)
"""One cluster a row, largest first; ``cluster`` counts from 1 and names its alignment. The last
four columns: `riboray.clustering.representatives.Cohesion`."""


def write_clusters(
    directory: Path, sequences: Sequences, clustering: Clustering, matrix: sparse.csr_matrix
) -> list[FileEntry]:
    """Write ``clusters.tsv``, ``representatives.fasta`` and ``clusters.parquet``.

    Parameters
    ----------
    directory : Path
        Where to.
    sequences, clustering
        What was clustered, and how.
    matrix : csr_matrix, shape=(n, n)
        The graph, symmetric.

    Returns
    -------
    list of FileEntry
        For the manifest.
    """
    table = directory / "clusters.tsv"
    owner = np.repeat(clustering.representatives, clustering.sizes)
    with atomic_path(table) as temporary, temporary.open("w", encoding="utf-8") as sink:
        for start in range(0, len(owner), ROWS):
            here = slice(start, start + ROWS)
            heads = sequences.ids.take(pa.array(owner[here])).to_pylist()
            members = sequences.ids.take(pa.array(clustering.order[here])).to_pylist()
            sink.writelines(f"{h}\t{m}\n" for h, m in zip(heads, members, strict=True))
    fasta = directory / "representatives.fasta"
    sequences.write_fasta(fasta, clustering.representatives)
    figures = directory / "clusters.parquet"
    with atomic_path(figures) as temporary:
        pq.write_table(_table(sequences, clustering, matrix), temporary, compression="zstd")
    rows = {table: len(owner), fasta: len(clustering), figures: len(clustering)}
    return [FileEntry.of(path, count) for path, count in rows.items()]


def _table(sequences: Sequences, clustering: Clustering, matrix: sparse.csr_matrix) -> pa.Table:
    measured = cohesion(matrix, clustering.labels)
    nucleotides = np.bincount(clustering.labels, sequences.lengths, len(clustering))
    ids = sequences.ids.take(pa.array(clustering.representatives))
    columns = {
        "cluster": np.arange(1, len(clustering) + 1, dtype=np.int32),
        "representative": ids,
        "size": clustering.sizes.astype(np.int32),
        "mean_length": (nucleotides / clustering.sizes).astype(np.float32),
        "edges": measured.edges,
        "density": measured.density,
        "cohesion": measured.cohesion,
        "silhouette": measured.silhouette,
    }
    return pa.table(columns, schema=CLUSTER_SCHEMA)
