"""A directory of embeddings as the database of a search: its index, its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from riboray.alignment.estimate import embed_side, make_side
from riboray.alignment.kmers import KmerWeights, shared_kmers
from riboray.alignment.prefilter import Whitening, build_index, nearest
from riboray.alignment.sides import Side
from riboray.alignment.similarity import RowMaker
from riboray.embedding.shards import cached_embedder
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = ["Candidates", "Prefilter", "fit_prefilter", "load_targets", "search_shard"]

#: Sequences that whitening and k-mer weights are fitted to at most.
_SAMPLE = 20_000


@dataclass(frozen=True)
class Prefilter:
    """What chooses candidates, fitted to the database.

    Attributes
    ----------
    whitening, kmers : Whitening or None, KmerWeights or None
        None where that prefilter is not used.
    index_folder : str
        Where the index of each file lies, or will.
    """

    whitening: Whitening | None
    kmers: KmerWeights | None
    index_folder: str


@dataclass(frozen=True)
class Candidates:
    """Best targets of one file for every query, of one prefilter.

    Attributes
    ----------
    rows : ndarray, shape=(queries, c), dtype=int64
        Global row numbers.
    similarity : ndarray, shape=(queries, c), dtype=float32
        What they were ranked by.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]


def fit_prefilter(database: EmbeddingSet, kind: str, k: int, folder: Path) -> Prefilter:
    """Fit whitening and k-mer weights to a sample of the database, once.

    They are kept beside the index: an index answers only to the whitening it was built with.

    Parameters
    ----------
    database : EmbeddingSet
        The database.
    kind : str
        ``both``, ``embedding`` or ``kmer``.
    k : int
        Length of the k-mers.
    folder : Path
        Where index, whitening and weights lie, or will.
    """
    path = folder / f"prefilter-{k}.npz"
    if not path.is_file():
        pooled, sequences = _sample(database)
        whitening, weights = Whitening.fit(pooled), KmerWeights.fit(sequences, k).weights
        earlier = next(iter(sorted(folder.glob("prefilter-*.npz"))), None)
        if earlier is not None:
            with np.load(earlier) as stored:
                whitening = Whitening(stored["centre"], stored["basis"])
        with atomic_path(path) as temporary, temporary.open("wb") as sink:
            np.savez(sink, centre=whitening.centre, basis=whitening.basis, weights=weights)
    try:
        with np.load(path) as stored:
            whitening = Whitening(stored["centre"], stored["basis"])
            kmers = KmerWeights(k, stored["weights"])
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(path, f"cannot be read ({error}); remove {folder}") from error
    return Prefilter(
        whitening if kind in ("both", "embedding") else None,
        kmers if kind in ("both", "kmer") else None,
        str(folder),
    )


def _sample(database: EmbeddingSet) -> tuple[NDArray[np.float32], list[str]]:
    """Draw pooled embeddings and sequences from all files, the same every time."""
    generator = np.random.default_rng(0)
    share = min(1.0, _SAMPLE / max(len(database), 1))
    pooled, sequences = [], []
    for number, rows in enumerate(database.rows):
        count = max(1, round(rows * share)) if rows else 0
        chosen = np.sort(generator.choice(rows, count, replace=False))
        table = database.take(number, chosen, ["embedding", "sequence"])
        pooled.append(_matrix(table["embedding"]))
        sequences.extend(table["sequence"].to_pylist())
    return np.concatenate(pooled), sequences


def _matrix(column: object) -> NDArray[np.float32]:
    """Turn a column of embeddings into an array of shape (n, d)."""
    whole = column.combine_chunks()  # type: ignore[attr-defined]
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(whole), -1)


def search_shard(
    database: EmbeddingSet,
    number: int,
    prefilter: Prefilter,
    pooled: NDArray[np.float32],
    kmers: sparse.csr_matrix | None,
    count: int,
) -> list[Candidates]:
    """Find candidates for all queries in one file of the database.

    Parameters
    ----------
    database : EmbeddingSet
        The database.
    number : int
        Which file.
    prefilter : Prefilter
        Fitted to the database.
    pooled : ndarray, shape=(queries, d), dtype=float32
        Pooled embeddings of the queries.
    kmers : csr_matrix or None
        k-mer vectors of the queries, where that prefilter is used.
    count : int
        Candidates of each query and prefilter.

    Returns
    -------
    list of Candidates
        One a prefilter. The index of the file is built if it is not there yet.
    """
    first, found = int(database.starts[number]), []
    if prefilter.whitening is not None:
        path = Path(prefilter.index_folder) / f"{database.files[number].stem}.usearch"
        if not path.is_file():
            vectors = _matrix(database.table(number, ["embedding"])["embedding"])
            build_index(prefilter.whitening.apply(vectors), path)
        rows, similarity = nearest(path, prefilter.whitening.apply(pooled), count)
        found.append(Candidates(rows + first, similarity))
    if prefilter.kmers is not None and kmers is not None:
        targets = _kmers_of(database, number, prefilter.kmers, Path(prefilter.index_folder))
        rows, similarity = shared_kmers(kmers, targets, count)
        found.append(Candidates(rows + first, similarity))
    return found


def _kmers_of(
    database: EmbeddingSet, number: int, weights: KmerWeights, folder: Path
) -> sparse.csc_matrix:
    """Return which sequences of a file hold each k-mer; made once, then read."""
    path = folder / f"{database.files[number].stem}.kmers-{weights.k}.npz"
    if not path.is_file():
        texts = database.table(number, ["sequence"])["sequence"].to_pylist()
        made = weights.vectors(texts).tocsc()
        with atomic_path(path) as temporary, temporary.open("wb") as sink:
            np.savez(sink, data=made.data, indices=made.indices, indptr=made.indptr)
    shape = (int(database.rows[number]), 4**weights.k)
    try:
        with np.load(path) as stored:
            parts = stored["data"], stored["indices"], stored["indptr"]
        return sparse.csc_matrix(parts, shape=shape)
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(path, f"cannot be read ({error}); remove it") from error


def load_targets(
    database: EmbeddingSet,
    rows: NDArray[np.int64],
    first: int,
    checkpoint: str,
    maker: RowMaker,
) -> Side:
    """Load some rows of a database as one side of a tile.

    Parameters
    ----------
    database : EmbeddingSet
        The database.
    rows : ndarray, shape=(n,), dtype=int64
        Global row numbers, in the order wanted.
    first : int
        Index of the first of them among the targets.
    checkpoint : str
        Model that embeds them if the database holds no base embeddings.
    maker : RowMaker
        Makes rows of base embeddings.

    Returns
    -------
    Side
    """
    texts = [""] * len(rows)
    bases: list[NDArray[np.floating]] = [np.empty((0, 0))] * len(rows)
    for number, places, local in database.by_file(rows):
        found = database.take(number, local, ["sequence"])["sequence"].to_pylist()
        for place, text in zip(places.tolist(), found, strict=True):
            texts[place] = text
        if database.per_base:
            stored = database.base_embeddings(number, local)
            for place, embeddings in zip(places.tolist(), stored, strict=True):
                bases[place] = embeddings
    if not database.per_base:
        embedder = cached_embedder(checkpoint)
        return embed_side(embedder, texts, first=first, maker=maker)
    return make_side(maker.rows(bases), texts, first=first)
