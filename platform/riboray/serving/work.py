"""What a replica computes: jobs of several kinds on one model, batch by batch."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from riboray.alignment import GapPenalties
from riboray.alignment.columns import Mode
from riboray.alignment.described import describe_alignments
from riboray.alignment.formats import PairView
from riboray.alignment.index import SearchIndex
from riboray.alignment.longpairs import align_embeddings
from riboray.alignment.similarity import RowMaker
from riboray.alphabet import encode
from riboray.embedding.embedder import Embedder, Wanted
from riboray.embedding.likelihood import hidden_logits
from riboray.errors import RiborayError
from riboray.predicting.folding import fold
from riboray.predicting.predictor import Predictor
from riboray.serving.errors import ErrorCode, ServiceError

_log = logging.getLogger(__name__)

__all__ = [
    "AlignJob",
    "Aligned",
    "EmbedJob",
    "FillJob",
    "Job",
    "PredictJob",
    "Prediction",
    "SearchJob",
    "Worker",
]

Rows = NDArray[np.float32]

#: Cells of an alignment that take as long as a nucleotide's embedding.
_CELLS_A_NUCLEOTIDE = 4_000


@dataclass(frozen=True)
class EmbedJob:
    """Embed a sequence; the result is an array of shape (H,), or (length, H) per base.

    Attributes
    ----------
    sequence : str
        Nucleotides that the model has tokens for.
    layer : int
        From 0, what goes into the first layer, on.
    pooling : str or None
        ``mean``, ``max`` or ``first``; None for base embeddings.
    """

    sequence: str
    layer: int
    pooling: str | None = "mean"

    @property
    def cost(self) -> int:
        """Nucleotides."""
        return len(self.sequence)


@dataclass(frozen=True)
class FillJob:
    """Ask for hidden nucleotides; the result is their probabilities, shape (hidden, tokens).

    Attributes
    ----------
    sequence : str
        As of an `EmbedJob`; at most what the model takes at once. Any nucleotide at hidden places.
    hidden : tuple of int
        Positions, from 0 on.
    """

    sequence: str
    hidden: tuple[int, ...]

    @property
    def cost(self) -> int:
        """Nucleotides."""
        return len(self.sequence)


@dataclass(frozen=True)
class AlignJob:
    """Align two sequences; the result is an `Aligned`.

    Attributes
    ----------
    query, target : str
        As of an `EmbedJob`.
    mode : Mode
        Global, semi-global or local.
    gaps : GapPenalties
        Penalties.
    centred : bool
        See `RowMaker`.
    similarity : bool
        Whether the match scores of all pairs of bases are wanted.
    bases : ndarray, shape=(n, H), dtype=float32, or None
        The query's base embeddings, if they are known.
    """

    query: str
    target: str
    mode: Mode = "global"
    gaps: GapPenalties = field(default_factory=GapPenalties)
    centred: bool = False
    similarity: bool = False
    bases: Rows | None = field(default=None, compare=False, repr=False)

    @property
    def cost(self) -> int:
        """Nucleotides, and what aligning takes in terms of them."""
        n, m = len(self.query), len(self.target)
        embedded = m if self.bases is not None else n + m
        return embedded + n * m // _CELLS_A_NUCLEOTIDE


@dataclass(frozen=True)
class Aligned:
    """An alignment.

    Attributes
    ----------
    score : float
        Match scores less gap penalties.
    partners : ndarray, shape=(n,), dtype=int32
        Partner in the target of each base of the query, -1 for none.
    cigar : str
        See `Description.cigar`.
    figures : dict of str to int
        See `Description.values`.
    view : PairView
        Gapped rows, and the match score of each column.
    similarity : ndarray, shape=(n, m), dtype=float32, or None
        Match scores, where they were asked for.
    """

    score: float
    partners: NDArray[np.int32]
    cigar: str
    figures: dict[str, int]
    view: PairView
    similarity: Rows | None


@dataclass(frozen=True)
class SearchJob:
    """Search the database for a sequence; the result is a table, see `SearchIndex.search`.

    Attributes
    ----------
    query : str
        As of an `EmbedJob`.
    mean_length : float
        Of the database's sequences.
    mode : Mode
        Global, semi-global or local.
    candidates : int
        Sequences that each prefilter hands on.
    max_hits : int
        Hits at most.
    max_evalue : float or None
        Of a hit at most.
    """

    query: str
    mean_length: float
    mode: Mode = "global"
    candidates: int = 500
    max_hits: int = 100
    max_evalue: float | None = 10.0

    @property
    def cells(self) -> int:
        """Pairs of bases that are compared, about and at most."""
        return int(len(self.query) * self.mean_length * 2 * self.candidates)

    @property
    def cost(self) -> int:
        """Nucleotides, and what aligning takes in terms of them."""
        return len(self.query) + self.cells // _CELLS_A_NUCLEOTIDE


@dataclass(frozen=True)
class PredictJob:
    """Ask a prediction model; the result is a `Prediction`.

    Attributes
    ----------
    sequence : str
        As of an `EmbedJob`.
    task : str
        Name of the model's task.
    outputs : int
        Numbers that are predicted in all.
    fold : bool
        Whether a structure is wanted, of a model that predicts pairs.
    threshold : float
        Of the structure, see `fold`.
    canonical : bool
        Likewise.
    """

    sequence: str
    task: str
    outputs: int
    fold: bool = False
    threshold: float = 0.5
    canonical: bool = True

    @property
    def cost(self) -> int:
        """Nucleotides, and what the numbers and the structure take in terms of them."""
        length = len(self.sequence)
        steps = length**3 // 6 if self.fold else 0
        return length + (self.outputs + steps // 16) // _CELLS_A_NUCLEOTIDE


@dataclass(frozen=True)
class Prediction:
    """What a model predicts of a sequence.

    Attributes
    ----------
    rows : ndarray, dtype=float32
        Of shape (C,), (length, C) or (length, length, C); see `Predicted`.
    partner : ndarray, shape=(length,), dtype=int32, or None
        The structure, where one was asked for.
    """

    rows: Rows
    partner: NDArray[np.int32] | None = None


Job = EmbedJob | FillJob | AlignJob | SearchJob | PredictJob


class Worker:
    """Computes batches of jobs.

    Parameters
    ----------
    embedder : Embedder
        The model.
    index : SearchIndex, optional
        What is searched.
    predictors : callable, optional
        Returns the model of a task's name.
    """

    def __init__(
        self,
        embedder: Embedder,
        index: SearchIndex | None = None,
        predictors: Callable[[str], Predictor] | None = None,
    ) -> None:
        self.embedder, self.index, self._predictors = embedder, index, predictors
        self._last = embedder.config.num_hidden_layers

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Compute jobs of any kinds; a result for each, in their order.

        Raises
        ------
        RiborayError
            If a job cannot be computed. The others can, without it.
        """
        kinds: dict[object, list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            kind: object = type(job)
            if isinstance(job, EmbedJob):
                kind = (EmbedJob, job.layer, job.pooling)
            elif isinstance(job, SearchJob):
                kind = (SearchJob, job.candidates)
            elif isinstance(job, PredictJob):
                kind = (PredictJob, job.task)
            kinds[kind].append(number)
        compute: dict[type, Callable[[list[Any]], Sequence[Any]]] = {
            EmbedJob: self._embed,
            FillJob: self._fill,
            AlignJob: self._align,
            SearchJob: self._search,
            PredictJob: self._predict,
        }
        results: list[Any] = [None] * len(jobs)
        for numbers in kinds.values():
            chosen: list[Any] = [jobs[number] for number in numbers]
            found = compute[type(chosen[0])](chosen)
            for number, result in zip(numbers, found, strict=True):
                results[number] = result
        return results

    def _embed(self, jobs: list[EmbedJob]) -> Sequence[Rows]:
        layer, pooling = jobs[0].layer, jobs[0].pooling
        wanted = Wanted((layer,), pooling, per_base=pooling is None)
        found = self.embedder.embed([job.sequence for job in jobs], wanted)
        for reason in found.failed.values():
            raise RiborayError(f"could not be embedded: {reason}")
        rows: Sequence[Rows] = (
            found.per_base[layer] if pooling is None else list(found.pooled[layer])
        )
        return rows

    def _fill(self, jobs: list[FillJob]) -> list[Rows]:
        tokens = self.embedder.config.tokens
        rows = [encode([job.sequence], tokens)[0][0] for job in jobs]
        hidden = [np.array(job.hidden, dtype=np.int64) for job in jobs]
        logits = hidden_logits(self.embedder, rows, hidden)
        shares: Rows = torch.softmax(logits, dim=-1).cpu().numpy()
        return np.split(shares, np.cumsum([len(places) for places in hidden])[:-1])

    def _align(self, jobs: list[AlignJob]) -> list[Aligned]:
        bases = {job.query: job.bases for job in jobs if job.bases is not None}
        every = dict.fromkeys(text for job in jobs for text in (job.query, job.target))
        texts = [text for text in every if text not in bases]
        found = self._embed([EmbedJob(text, self._last, None) for text in texts]) if texts else []
        bases |= dict(zip(texts, found, strict=True))
        return [align_pair(job, bases[job.query], bases[job.target]) for job in jobs]

    def _search(self, jobs: list[SearchJob]) -> list[pa.Table]:
        index = self.index
        assert index is not None
        texts = [job.query for job in jobs]
        bases = self._embed([EmbedJob(text, self._last, None) for text in texts])
        chosen = index.candidates(texts, bases, jobs[0].candidates)
        return [
            index.search(
                *(job.query, own, rows),
                mode=job.mode,
                max_hits=job.max_hits,
                max_evalue=job.max_evalue,
            )
            for job, own, rows in zip(jobs, bases, chosen, strict=True)
        ]

    def _predict(self, jobs: list[PredictJob]) -> Sequence[Prediction | ServiceError]:
        assert self._predictors is not None
        try:
            predictor = self._predictors(jobs[0].task)
        except RiborayError:  # that task's matter alone: the replica is well
            _log.exception("the model of %s cannot be loaded", jobs[0].task)
            reason = "the task's model cannot be loaded any more; the log says why"
            return [ServiceError(ErrorCode.INTERNAL, reason) for _ in jobs]
        found = predictor.predict([job.sequence for job in jobs])
        for reason in found.failed.values():
            raise RiborayError(f"could not be predicted: {reason}")
        return [_folded(job, rows) for job, rows in zip(jobs, found.rows, strict=True)]


def _folded(job: PredictJob, rows: Rows) -> Prediction:
    if not job.fold:
        return Prediction(rows)
    sequence = job.sequence if job.canonical else None
    return Prediction(rows, fold(rows[..., 0], sequence=sequence, threshold=job.threshold))


def align_pair(job: AlignJob, query: Rows, target: Rows) -> Aligned:
    """Align two sequences whose base embeddings, shapes (n, H) and (m, H), are known."""
    flat = RowMaker(job.centred).rows([query, target])
    a, b = flat[: len(query)], flat[len(query) :]
    score, partners = align_embeddings(a, b, job.gaps, job.mode)
    assert partners is not None
    match = np.einsum("ij,ij->i", a, b[np.maximum(partners, 0)]).astype(np.float32)
    names, sequences = ("query", "target"), (job.query, job.target)
    letters = [np.frombuffer(text.encode("ascii"), np.uint8) for text in sequences]
    start, end = np.array([0]), np.array([len(job.target)])
    described = describe_alignments(
        partners[None], letters[0], letters[1], start, end, whole=job.mode == "global"
    )
    return Aligned(
        score=float(score),
        partners=partners,
        cigar=described.cigar[0].as_py(),
        figures={name: int(values[0]) for name, values in described.values.items()},
        view=PairView.of(names, sequences, partners, match, job.mode),
        similarity=a @ b.T if job.similarity else None,
    )
