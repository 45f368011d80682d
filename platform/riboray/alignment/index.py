"""A database of embeddings that one process keeps open and searches again and again. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.alignment.candidates import (
    choose_candidates,
    fit_prefilter,
    index_file,
    index_folder,
    sample_texts,
    stored_texts,
)
from riboray.alignment.chunks import load_targets
from riboray.alignment.columns import GapPenalties, Mode
from riboray.alignment.estimate import fit_null, make_side
from riboray.alignment.hits import HIT_SCHEMA, hits_table
from riboray.alignment.plan import cut
from riboray.alignment.selection import best_of_each
from riboray.alignment.sides import Rule, Side, TileHits
from riboray.alignment.similarity import RowMaker
from riboray.alignment.tiles import align_pairs, score_pairs
from riboray.embedding.embedder import Embedder
from riboray.embedding.origin import model_of
from riboray.embedding.pooling import pool
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CorpusError
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint

__all__ = ["SearchIndex", "describe_rows", "open_database"]

#: Length of the k-mers that candidates are chosen by, as of `riboray search`.
_KMER = 6


def open_database(path: str, checkpoint: str = "") -> tuple[EmbeddingSet, LoadedCheckpoint]:
    """Open a database of embeddings, and the model that made it.

    Parameters
    ----------
    path : str
        Directory that `riboray embed` made.
    checkpoint : str, optional
        Model; by default the one that embedded the database, from where it was then.

    Returns
    -------
    EmbeddingSet, LoadedCheckpoint

    Raises
    ------
    CorpusError
        If there is none, if it cannot be searched, or if another model made it.
    """
    database = EmbeddingSet.open(Path(path).resolve())
    checkpoint = checkpoint or model_of(database.directory)
    loaded = load_checkpoint(checkpoint)
    if loaded.sha256 != database.model:
        raise CorpusError(
            database.directory,
            f"was embedded with the model {database.model[:12]}…, not with "
            f"{checkpoint} ({loaded.sha256[:12]}…); scores between two models mean "
            "nothing: embed it anew, or name its checkpoint",
        )
    database.check_searchable(loaded.model.config.num_hidden_layers)
    return database, loaded


def describe_rows(
    database: EmbeddingSet, rows: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int32]]:
    """Return ids and lengths of some rows of a database, in their order (sorted)."""
    ids: list[str] = []
    lengths: list[int] = []
    for number, _, local in database.by_file(rows):
        table = database.take(number, local, ["id", "length"])
        ids += table["id"].to_pylist()
        lengths += table["length"].to_pylist()
    return ids, np.array(lengths, np.int32)


class SearchIndex:
    """A database, ready to be searched in this process.

    Candidates, alignments and scores are those of `riboray search` with its defaults. Chance
    scores are fitted to the database alone, once a mode, since the queries are not known yet.

    Parameters
    ----------
    database : EmbeddingSet
        From `open_database`. Indices are made if they are not there, beside the embeddings; on a
        disk that cannot be written, in ``folder``.
    embedder : Embedder
        The model that made it.
    checkpoint : str
        The same, as `load_checkpoint` reads it: for a database without base embeddings.
    folder : Path
        See above.
    statistics : bool
        Whether hits have z-scores and E-values.
    """

    def __init__(
        self,
        database: EmbeddingSet,
        embedder: Embedder,
        checkpoint: str,
        folder: Path,
        *,
        statistics: bool = True,
    ) -> None:
        if not len(database):
            raise CorpusError(database.directory, "holds no sequence: there is nothing to search")
        self.database = database
        self._embedder, self._checkpoint, self._maker = embedder, checkpoint, RowMaker()
        self._prefilter = fit_prefilter(database, "both", _KMER, index_folder(database, folder))
        numbers = range(len(database.files))
        self._kmers = [index_file(database, number, self._prefilter) for number in numbers]
        self._sample = sample_texts(database, 0)
        self.mean_length = sum(map(len, self._sample)) / len(self._sample)
        self._statistics = statistics
        self._rules: dict[Mode, Rule] = {}

    def rule(self, mode: Mode) -> Rule:
        """Return how sequences are aligned, with chance scores, which are fitted once a mode."""
        if mode not in self._rules:
            rule = Rule(GapPenalties(), mode)
            if self._statistics:
                sample = self._sample
                null = fit_null(self._embedder, sample, rule, targets=sample)
                rule = replace(rule, null=null)
            self._rules[mode] = rule
        return self._rules[mode]

    def _score(self, a: Side, rule: Rule, rows: NDArray[np.int64], first: int) -> TileHits:
        """Score some rows, longest first, numbered from ``first`` on; leave out what fails."""
        b = load_targets(self.database, rows, first, self._checkpoint, self._maker)
        return score_pairs(a, b, rule, np.zeros(len(rows), np.int64), np.arange(len(rows)))

    def candidates(
        self, texts: Sequence[str], bases: Sequence[NDArray[np.floating]], count: int
    ) -> list[NDArray[np.int64]]:
        """Choose what is worth an alignment, for each query: rows of the database, ascending."""
        pooled = np.stack([pool(rows, self.database.pooling) for rows in bases])
        found = choose_candidates(
            self.database,
            self._prefilter,
            list(texts),
            pooled,
            partial(stored_texts, self.database),
            count,
            self._kmers,
        )
        return [np.unique(np.concatenate([c.rows[q] for c in found])) for q in range(len(texts))]

    def search(
        self,
        query: str,
        bases: NDArray[np.floating],
        rows: NDArray[np.int64],
        *,
        mode: Mode = "global",
        max_hits: int = 100,
        max_evalue: float | None = 10.0,
    ) -> pa.Table:
        """Align a query with candidates and report the best.

        Parameters
        ----------
        query : str
            A sequence.
        bases : ndarray, shape=(n, H)
            Its base embeddings.
        rows : ndarray, shape=(c,), dtype=int64
            Candidates, from `candidates`.
        mode : Mode
            Global, semi-global or local.
        max_hits : int
            Hits at most.
        max_evalue : float, optional
            Of a hit at most.

        Returns
        -------
        pyarrow.Table
            Of `HIT_SCHEMA`, best first, and ``row``: each target's row in the database.
        """
        rule = self.rule(mode)
        if max_evalue is not None and rule.null is not None:
            rule = replace(rule, min_z=rule.null.z_at_evalue(max_evalue, len(self.database)))
        ids, lengths = describe_rows(self.database, rows)
        order = np.lexsort((rows, -lengths))  # a side has its longest sequence first
        rows, lengths, ids = rows[order], lengths[order], [ids[k] for k in order.tolist()]
        a = make_side(self._maker.rows([bases]), [query])
        parts = [self._score(a, rule, rows[first:last], first) for first, last in cut(lengths)]
        target = np.concatenate([part.target for part in parts])
        scores = np.concatenate([part.score for part in parts])
        values = scores
        if rule.null is not None:
            sizes = np.full(len(target), len(query), np.int32), lengths[target]
            affinity = np.concatenate([part.affinity for part in parts])
            values = rule.null.z_scores(scores, *sizes, affinity).astype(np.float32)
        kept = best_of_each((np.zeros_like(target),), values, max_hits, exactly=True)
        chosen = np.sort(target[kept])  # longest first, as all of them are
        if not len(chosen):
            return HIT_SCHEMA.empty_table().append_column("row", pa.array([], pa.int64()))
        rows, lengths, ids = rows[chosen], lengths[chosen], [ids[k] for k in chosen.tolist()]
        b = load_targets(self.database, rows, 0, self._checkpoint, self._maker)
        hits = align_pairs(a, b, rule, np.zeros(len(rows), np.int64), np.arange(len(rows)))
        own = np.array([len(query)], np.int32)
        table = hits_table(hits, ["query"], own, rule.null, len(self.database), ids, lengths)
        table = table.append_column("row", pa.array(rows[hits.target]))
        ranked = table["score" if rule.null is None else "z_score"].to_numpy().astype(np.float32)
        return table.take(pa.array(np.lexsort((rows[hits.target], -ranked))))
