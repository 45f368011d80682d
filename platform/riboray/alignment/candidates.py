"""Which sequences of a directory of embeddings are worth an alignment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from riboray.alignment.diagonals import diagonal_scores
from riboray.alignment.kmers import BestTargets, KmerIndex, KmerWeights
from riboray.alignment.prefilter import Whitening, build_index, nearest
from riboray.corpus.strings import Strings
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = [
    "Candidates",
    "Prefilter",
    "choose_candidates",
    "first_width",
    "fit_prefilter",
    "index_file",
    "index_folder",
    "indexed",
    "merge_candidates",
    "rank_by_diagonals",
    "sample_texts",
    "search_shard",
    "stored_texts",
]

#: Sequences that whitening and k-mer weights are fitted to at most.
_SAMPLE = 20_000

#: Length of the k-mers that are looked for on diagonals.
_WORD = 5

#: Sequences chosen by k-mers wherever they are, at least, of which diagonals choose.
_WIDTH = 500

#: Queries whose candidates' sequences are in memory together.
_QUERIES = 64


@dataclass(frozen=True)
class Prefilter:
    """What chooses candidates, fitted to the database.

    Attributes
    ----------
    whitening, kmers : Whitening or None, KmerWeights or None
        None where that prefilter is not used.
    words : ndarray, shape=(4**5,), dtype=float32
        Weights of the k-mers that are looked for on diagonals.
    index_folder : str
        Where the index of each file lies, or will.
    """

    whitening: Whitening | None
    kmers: KmerWeights | None
    words: NDArray[np.float32]
    index_folder: str


@dataclass(frozen=True)
class Candidates:
    """Best targets for every query, of one prefilter.

    Attributes
    ----------
    rows : ndarray, shape=(queries, c), dtype=int64
        Global row numbers.
    similarity : ndarray, shape=(queries, c), dtype=float32
        What they were ranked by.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]

    def best(self, count: int) -> Candidates:
        """Keep the best: by similarity, then row."""
        order = np.lexsort((self.rows, -self.similarity), axis=1)[:, :count]
        return Candidates(
            np.take_along_axis(self.rows, order, axis=1),
            np.take_along_axis(self.similarity, order, axis=1),
        )


def merge_candidates(old: Candidates | None, new: Candidates, count: int) -> Candidates:
    """Keep the best of two, whatever order they come in."""
    if old is None:
        return new.best(count)
    rows = np.concatenate([old.rows, new.rows], axis=1)
    return Candidates(rows, np.concatenate([old.similarity, new.similarity], axis=1)).best(count)


def first_width(count: int) -> int:
    """Return how many sequences k-mers choose for diagonals to choose ``count`` of them."""
    return max(_WIDTH, 2 * count)


def index_folder(database: EmbeddingSet, output: Path) -> Path:
    """Keep indices beside the embeddings, or in the output where that cannot be written."""
    beside = database.directory / "index" / database.identity
    try:
        beside.mkdir(parents=True, exist_ok=True)
        if os.access(beside, os.W_OK):
            return beside
    except OSError:
        pass
    return output


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
    path = folder / f"weights-{k}.npz"
    if not path.is_file():
        pooled, sequences = _sample(database)
        whitening, weights = Whitening.fit(pooled), KmerWeights.fit(sequences, k).weights
        words = KmerWeights.fit(sequences, _WORD).weights ** 2
        earlier = next(iter(sorted(folder.glob("weights-*.npz"))), None)
        if earlier is not None:
            with np.load(earlier) as stored:
                whitening = Whitening(stored["centre"], stored["basis"])
        with atomic_path(path) as temporary, temporary.open("wb") as sink:
            np.savez(
                sink,
                centre=whitening.centre,
                basis=whitening.basis,
                weights=weights,
                words=words,
            )
    try:
        with np.load(path) as stored:
            whitening = Whitening(stored["centre"], stored["basis"])
            kmers, words = KmerWeights(k, stored["weights"]), stored["words"]
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(path, f"cannot be read ({error}); remove {folder}") from error
    return Prefilter(
        whitening if kind in ("both", "embedding") else None,
        kmers if kind in ("both", "kmer") else None,
        words,
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
        pooled.append(database.views_of(number, "embedding")[chosen])
        sequences += database.take(number, chosen, ["sequence"])["sequence"].to_pylist()
    return np.concatenate(pooled), sequences


def sample_texts(database: EmbeddingSet, seed: int) -> list[str]:
    """Draw a few hundred sequences of a database."""
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(database), min(400, len(database)), replace=False))
    found = stored_texts(database, rows)
    return [found.text(row) for row in range(len(found))]


def _pooled_path(database: EmbeddingSet, number: int, prefilter: Prefilter) -> Path:
    return Path(prefilter.index_folder) / f"{database.files[number].stem}.usearch"


def _kmers_path(database: EmbeddingSet, number: int, prefilter: Prefilter, k: int) -> Path:
    return Path(prefilter.index_folder) / f"{database.files[number].stem}.holders-{k}.npz"


def indexed(database: EmbeddingSet, number: int, prefilter: Prefilter) -> bool:
    """Tell whether the indices of a file are there."""
    paths = []
    if prefilter.whitening is not None:
        paths.append(_pooled_path(database, number, prefilter))
    if prefilter.kmers is not None:
        paths.append(_kmers_path(database, number, prefilter, prefilter.kmers.k))
    return all(path.is_file() for path in paths)


def index_file(database: EmbeddingSet, number: int, prefilter: Prefilter) -> KmerIndex | None:
    """Make the indices of a file, if they are not there; return the one of k-mers, if it is used.

    The other one is mapped whenever it is asked.
    """
    if prefilter.whitening is not None:
        _pooled_index(database, number, prefilter)
    return None if prefilter.kmers is None else _kmer_index(database, number, prefilter)


def _pooled_index(database: EmbeddingSet, number: int, prefilter: Prefilter) -> Path:
    """Return the index of a file's pooled embeddings; made once."""
    path = _pooled_path(database, number, prefilter)
    if not path.is_file():
        assert prefilter.whitening is not None
        build_index(prefilter.whitening.apply(database.views_of(number, "embedding")), path)
    return path


def _kmer_index(database: EmbeddingSet, number: int, prefilter: Prefilter) -> KmerIndex:
    """Return which sequences of a file hold each k-mer; made once, then read."""
    weights = prefilter.kmers
    assert weights is not None
    path = _kmers_path(database, number, prefilter, weights.k)
    if not path.is_file():
        texts = database.table(number, ["sequence"])["sequence"].to_pylist()
        KmerIndex.build(texts, weights).save(path)
    return KmerIndex.load(path)


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
        The queries, from `KmerWeights.queries`, where that prefilter is used.
    count : int
        Candidates of each query and prefilter; of k-mers `first_width` of it.

    Returns
    -------
    list of Candidates
        One a prefilter. The index of the file is built if it is not there yet.
    """
    first, found = int(database.starts[number]), []
    if prefilter.whitening is not None:
        path = _pooled_index(database, number, prefilter)
        rows, similarity = nearest(path, prefilter.whitening.apply(pooled), count)
        found.append(Candidates(rows + first, similarity))
    if prefilter.kmers is not None and kmers is not None:
        best = BestTargets(kmers, first_width(count))
        best.look_in(_kmer_index(database, number, prefilter), first)
        found.append(Candidates(*best.found()))
    return found


def stored_texts(database: EmbeddingSet, rows: NDArray[np.int64]) -> Strings:
    """Return the sequences of some rows, by global row number, ascending."""
    found = [
        Strings.from_arrow(database.take(number, local, ["sequence"])["sequence"])
        for number, _, local in database.by_file(rows)
    ]
    return Strings.concatenate(found)


def rank_by_diagonals(
    texts_of: Callable[[NDArray[np.int64]], Strings],
    prefilter: Prefilter,
    texts: list[str],
    rows: NDArray[np.int64],
    count: int,
) -> Candidates:
    """Choose among the sequences that share most k-mers with each query, by where they share them.

    Parameters
    ----------
    texts_of : callable
        Returns the sequences of some rows, which ascend.
    prefilter : Prefilter
        Fitted to the database.
    texts : list of str
        The queries.
    rows : ndarray, shape=(queries, c), dtype=int64
        Their candidates so far.
    count : int
        Candidates of each to keep.
    """
    parts = []
    for start in range(0, len(texts), _QUERIES):
        chosen = rows[start : start + _QUERIES]
        members, places = np.unique(chosen, return_inverse=True)
        queries = Strings.of(texts[start : start + _QUERIES])
        places = places.reshape(chosen.shape)
        scores = diagonal_scores(queries, texts_of(members), places, prefilter.words)
        parts.append(Candidates(chosen, scores).best(count))
    return Candidates(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.similarity for part in parts]),
    )


def choose_candidates(
    database: EmbeddingSet,
    prefilter: Prefilter,
    texts: list[str],
    pooled: NDArray[np.float32],
    texts_of: Callable[[NDArray[np.int64]], Strings],
    count: int,
    kmers: Sequence[KmerIndex | None] = (),
) -> list[Candidates]:
    """Find candidates in all files; see `search_shard` and `rank_by_diagonals`.

    ``kmers``, one a file, from `index_file`, are for who asks again and again.

    Returns
    -------
    list of Candidates
        One a prefilter, of ``count`` at most.
    """
    chosen: list[Candidates] = []
    if prefilter.whitening is not None:
        near: Candidates | None = None
        whitened = prefilter.whitening.apply(pooled)
        for number, first in enumerate(database.starts[:-1].tolist()):
            path = _pooled_index(database, number, prefilter)
            rows, similarity = nearest(path, whitened, count)
            near = merge_candidates(near, Candidates(rows + first, similarity), count)
        assert near is not None
        chosen.append(near)
    if prefilter.kmers is not None:
        best = BestTargets(prefilter.kmers.queries(texts), first_width(count))
        for number, first in enumerate(database.starts[:-1].tolist()):
            known = kmers[number] if kmers else None
            if known is None:
                known = _kmer_index(database, number, prefilter)
            best.look_in(known, first)
        rows, _ = best.found()
        chosen.append(rank_by_diagonals(texts_of, prefilter, texts, rows, count))
    return chosen
