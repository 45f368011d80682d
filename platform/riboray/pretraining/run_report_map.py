"""A picture of what a run's model makes of its corpus: embeddings of a sample in two dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.corpus.records import is_validation
from riboray.embedding.embedder import Embedder
from riboray.embedding.plane import LEAST_POINTS, lay_out
from riboray.embedding.pooling import pool

__all__ = ["EmbeddingMap", "Sample", "draw_sample", "map_embeddings"]

Role = Literal["training", "held out", "held-out family"]

#: Row groups looked at, at most: 262,144 rows as riboray writes them.
_GROUPS = 64
#: Sequences embedded at a time.
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sequences of a corpus, chosen by hash.

    Attributes
    ----------
    ids, sequences : list of str
        The sequences.
    types : list of str or None
        RNA type, or else family, of each; None where unknown.
    roles : list of str
        ``training``, ``held out`` or ``held-out family``.
    kind : str
        What ``types`` are: ``RNA type``, ``family`` or nothing.
    total : int
        Sequences of the corpus, training and validation.
    """

    ids: list[str]
    sequences: list[str]
    types: list[str | None]
    roles: list[Role]
    kind: str
    total: int


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Points of the map.

    Attributes
    ----------
    points : ndarray, shape=(n, 2), dtype=float64
        t-SNE coordinates, each axis scaled alike to [0, 1].
    neighbour, chance : float or None
        Share of sequences of a known type whose nearest neighbour by cosine (in all dimensions, not
        in the picture) has the same type; and what that share would be if types were shuffled.
    """

    points: NDArray[np.float64]
    neighbour: float | None
    chance: float | None


def draw_sample(
    corpus: Path,
    limit: int,
    *,
    held_out_families: Sequence[str],
    validation_share: float,
    seed: int,
) -> Sample:
    """Choose sequences of a corpus: up to half of them held out, the rest from training.

    Parameters
    ----------
    corpus : Path
        Corpus directory.
    limit : int
        Sequences to choose, at most.
    held_out_families : sequence of str
        Families whose members are kept out of training.
    validation_share : float
        Share kept out by hash, unless the corpus sets sequences apart itself.
    seed : int
        Another seed chooses others.

    Returns
    -------
    Sample
        Those of the least hashes, held out first. Of a corpus of more than 64 row groups, 64 at
        equal distances are looked at.
    """
    files = {
        apart: sorted(corpus.glob(f"{'validation_' * apart}sequences-*.parquet"))
        for apart in (False, True)
    }
    hidden = _member_hashes(corpus, held_out_families)
    tables, total = [], 0
    for apart, paths in files.items():
        table, rows = _some_rows(paths)
        total += rows
        if table is None:
            continue
        hashes = table["sha256_64"].to_numpy()
        share = 0.0 if files[True] else validation_share
        roles = np.where(is_validation(hashes, share) | apart, 1, 0)
        roles[np.isin(hashes, hidden)] = 2
        tables.append(table.append_column("role", pa.array(roles, pa.int8())))
    if not tables:
        return Sample(ids=[], sequences=[], types=[], roles=[], kind="", total=0)
    table = pa.concat_tables(tables, promote_options="default")
    table = table.take(pa.array(_choose(table, limit, seed)))
    names: tuple[Role, ...] = ("training", "held out", "held-out family")
    kind, types = _types(table)
    return Sample(
        ids=table["id"].to_pylist(),
        sequences=table["sequence"].to_pylist(),
        types=types,
        roles=[names[role] for role in table["role"].to_pylist()],
        kind=kind,
        total=total,
    )


def _some_rows(files: list[Path]) -> tuple[pa.Table | None, int]:
    """Read all row groups of small corpora, some of large ones; return them and all rows."""
    groups, total = [], 0
    for path in files:
        metadata = pq.read_metadata(path)
        total += metadata.num_rows
        groups += [(path, group) for group in range(metadata.num_row_groups)]
    if not groups:
        return None, total
    places = np.unique(np.linspace(0, len(groups) - 1, min(len(groups), _GROUPS)).astype(int))
    wanted = ("id", "sequence", "rna_type", "family", "sha256_64")
    tables = []
    for path, number in (groups[place] for place in places):
        with pq.ParquetFile(path) as file:
            columns = [name for name in wanted if name in file.schema_arrow.names]
            table = file.read_row_group(number, columns=columns)
        for name in ("rna_type", "family"):
            if name in columns:  # each group has a dictionary of its own
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, table[name].cast(pa.string()))
        tables.append(table)
    return pa.concat_tables(tables, promote_options="default"), total


def _member_hashes(corpus: Path, families: Sequence[str]) -> NDArray[np.uint64]:
    files = sorted(corpus.glob("members-*.parquet"))
    if not files or not families:
        return np.empty(0, np.uint64)
    chosen = ds.field("family").isin(pa.array(families, pa.string()))
    table = ds.dataset(files).to_table(columns=["sha256_64"], filter=chosen)
    return np.unique(table["sha256_64"].to_numpy())


def _choose(table: pa.Table, limit: int, seed: int) -> NDArray[np.intp]:
    """Return rows by the order of their hashes, as many held out as training if there are."""
    # An odd factor permutes the hashes: another seed, another order.
    factor = np.uint64((2 * seed + 1) % (1 << 64))
    keys = table["sha256_64"].to_numpy() * factor
    roles = table["role"].to_numpy()
    order = np.argsort(keys, kind="stable")
    held_out, training = order[roles[order] > 0], order[roles[order] == 0]
    few = min(len(held_out), max(limit // 2, limit - len(training)))
    return np.concatenate([held_out[:few], training[: limit - few]])


def _types(table: pa.Table) -> tuple[str, list[str | None]]:
    """Return the RNA types, or else the families, or else nothing."""
    for name, kind in (("rna_type", "RNA type"), ("family", "family")):
        if name in table.column_names and table[name].null_count < table.num_rows:
            return kind, table[name].to_pylist()
    return "", [None] * table.num_rows


def map_embeddings(sample: Sample, embedder: Embedder, seed: int) -> EmbeddingMap:
    """Embed sequences and lay the means of their base embeddings out in the plane.

    Parameters
    ----------
    sample : Sample
        At least `LEAST_POINTS` sequences.
    embedder : Embedder
        The run's model.
    seed : int
        Of the layout.

    Returns
    -------
    EmbeddingMap
        The same on every call, but for the rounding of another machine.

    Raises
    ------
    InvalidSequenceError
        If a sequence holds a nucleotide that the model has no token for.
    """
    pooled = _pooled(sample.sequences, embedder)
    neighbour, chance = _neighbours(pooled, sample.types)
    return EmbeddingMap(points=lay_out(pooled, seed), neighbour=neighbour, chance=chance)


def _pooled(sequences: Sequence[str], embedder: Embedder) -> NDArray[np.float64]:
    """Average the base embeddings of each sequence, a few hundred at a time."""
    pooled = np.empty((len(sequences), embedder.width))
    # Of one length, sequences share batches without padding.
    order = sorted(range(len(sequences)), key=lambda k: len(sequences[k]))
    for start in range(0, len(order), _CHUNK):
        chosen = order[start : start + _CHUNK]
        for k, rows in zip(chosen, embedder.per_base([sequences[k] for k in chosen]), strict=True):
            pooled[k] = pool(rows, "mean")
    return pooled


def _neighbours(
    pooled: NDArray[np.float64], types: Sequence[str | None]
) -> tuple[float | None, float | None]:
    """Return how often the nearest neighbour has the same type, and how often by chance."""
    known = np.array([k for k, name in enumerate(types) if name is not None], dtype=np.intp)
    names = [types[k] for k in known]
    if len(known) < LEAST_POINTS or len(set(names)) < 2:
        return None, None
    unit = pooled[known] / np.maximum(np.linalg.norm(pooled[known], axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = cosine.argmax(axis=1)
    same = float(np.mean([name == names[k] for name, k in zip(names, nearest, strict=True)]))
    n = len(known)
    return same, sum(c * (c - 1) for c in Counter(names).values()) / (n * (n - 1))
