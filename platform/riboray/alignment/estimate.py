"""Before long work: chance scores, pace and size, measured on a sample of the input."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.hits import hits_table
from riboray.alignment.lockstep import LANES
from riboray.alignment.sides import Rule, Side, TileHits
from riboray.alignment.similarity import RowMaker, SequenceSet, unit_rows
from riboray.alignment.statistics import NullModel, dinucleotide_shuffle, fit_null_model
from riboray.alignment.tiles import align_tile, score_tile
from riboray.embedding.embedder import Embedder
from riboray.errors import RiborayError

__all__ = ["Estimate", "embed_side", "fit_null", "make_side", "measure_pace", "sample_sequences"]

#: Nucleotides of a sample at most: embedded in seconds, and all its pairs aligned in about one.
_SAMPLE_NUCLEOTIDES = 16_000
_SAMPLE_SEQUENCES = LANES

#: Cells of one timed tile at most, and the longest sequence in it.
_CELLS_TIMED, _LONGEST_TIMED = 3e7, 2000

#: Nucleotides of shuffled sequences, unless the fit needs more.
_SHUFFLED = 50_000


def embed_side(
    embedder: Embedder,
    texts: Sequence[str],
    *,
    first: int = 0,
    maker: RowMaker = RowMaker(),
) -> Side:
    """Embed sequences as one side of a tile.

    Parameters
    ----------
    embedder : Embedder
        The model.
    texts : sequence of str
        Sequences, longest first.
    first : int
        Index of the first of them.
    maker : RowMaker
        Makes rows of base embeddings.

    Returns
    -------
    Side

    Raises
    ------
    RiborayError
        If the model gives a value that is not finite.
    """
    try:
        rows = maker.rows(embedder.per_base(texts))
    except ValueError as error:
        raise RiborayError(f"the model cannot be used: {error}") from error
    return make_side(rows, texts, first=first)


def make_side(rows: NDArray[np.float32], texts: Sequence[str], *, first: int = 0) -> Side:
    """Put rows and their sequences together as one side; see `embed_side`."""
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    codes = np.frombuffer("".join(texts).encode(), np.uint8)
    return Side(SequenceSet(rows, starts), codes, first)


def sample_sequences(sequences: Sequence[str], seed: int) -> list[str]:
    """Draw sequences spread over all lengths, longest first, of a bounded number of nucleotides."""
    by_length = sorted(sequences, key=len, reverse=True)
    mean = sum(map(len, sequences)) / len(sequences)
    count = int(min(len(sequences), _SAMPLE_SEQUENCES, max(2, _SAMPLE_NUCLEOTIDES // mean)))
    # One from each of `count` strata of equal size.
    generator = np.random.default_rng(seed)
    edges = np.linspace(0, len(by_length), count + 1)
    places = np.floor(edges[:-1] + generator.uniform(0, 1, count) * np.diff(edges)).astype(int)
    chosen: list[str] = []
    used = 0
    for place in np.minimum(places, len(by_length) - 1).tolist():
        if len(chosen) >= 2 and used + len(by_length[place]) > 2 * _SAMPLE_NUCLEOTIDES:
            continue
        chosen.append(by_length[place])
        used += len(by_length[place])
    return chosen


def fit_null(
    embedder: Embedder,
    sequences: Sequence[str],
    rule: Rule,
    *,
    maker: RowMaker = RowMaker(),
    seed: int = 0,
    targets: Sequence[str] | None = None,
) -> NullModel | None:
    """Fit chance scores: sampled sequences against shuffled ones.

    Parameters
    ----------
    embedder : Embedder
        The model.
    sequences : sequence of str
        What will be aligned, or the queries.
    rule : Rule
        Mode and gaps are used.
    maker : RowMaker
        As in the alignment itself.
    seed : int
        Seed of the sample and of the shuffles.
    targets : sequence of str, optional
        Targets, if they are another set: these are shuffled.

    Returns
    -------
    NullModel or None
        None if enough shuffles of sequences this long would take minutes.
    """
    generator = np.random.default_rng(seed)
    real = sample_sequences(sequences, seed)
    originals = real if targets is None else sample_sequences(targets, seed)
    # A few sequences are shuffled many times, for a distribution to be seen.
    pairs = len(real) * max(len(originals) - 1, 1)
    total = sum(map(len, originals))
    copies = max(1, min(-(-400 // pairs), max(_SHUFFLED, 100 // pairs * total) // total))
    if copies * pairs < 100 or copies * total > 8 * _SHUFFLED:
        return None
    shuffled = [
        (dinucleotide_shuffle(text, generator), source)
        for source, text in enumerate(originals)
        for _ in range(copies)
    ]
    plain = replace(rule, arithmetic="float32", min_score=None, min_z=None, top_k=None, null=None)
    a = embed_side(embedder, real, maker=maker)
    b = embed_side(embedder, [text for text, _ in shuffled], maker=maker)
    found = score_tile(a, b, plain, same=False)
    source = np.array([source for _, source in shuffled])[found.target]
    # A sequence and its own shuffle share their composition: not what unrelated pairs do.
    kept = np.ones(len(source), bool)
    if targets is None and len(real) > 2:
        kept = source != found.query
    return fit_null_model(
        found.score[kept],
        a.sequences.lengths[found.query[kept]],
        b.sequences.lengths[found.target[kept]],
        found.affinity[kept],
    )


@dataclass(frozen=True)
class Estimate:
    """Measured on a sample.

    Attributes
    ----------
    cells_per_second : float
        Of one process.
    nucleotides_per_second : float
        Embedded by one process.
    reported : float
        Share of pairs that pass the filters, 1.0 without any.
    bytes_per_pair : float
        Of one output, Arrow or TSV, per reported pair.
    """

    cells_per_second: float
    nucleotides_per_second: float
    reported: float
    bytes_per_pair: float


def measure_pace(
    embedder: Embedder,
    sequences: Sequence[str],
    rule: Rule,
    *,
    scores_only: bool = False,
    maker: RowMaker = RowMaker(),
    seed: int = 0,
    seconds: float = 1.0,
) -> Estimate:
    """Align a sample of the input for about a second, on one core."""
    texts = sample_sequences(sequences, seed)
    embedder.per_base(texts[:2])
    start = time.perf_counter()
    side = embed_side(embedder, texts, maker=maker)
    embedding_time = time.perf_counter() - start
    run = score_tile if scores_only or rule.top_k is not None else align_tile
    hits = run(side, side, rule, same=True)
    width = side.sequences.embeddings.shape[1]
    return Estimate(
        _cells_per_second(sequences, width, rule, run, seconds),
        float(side.lengths.sum()) / embedding_time,
        # None among a few thousand does not mean none: three would still be likely not to show.
        min(1.0, (len(hits.score) + 3) / max(hits.scored, 1)) if rule.filters else 1.0,
        _bytes_per_pair(side, rule, scores_only),
    )


def _cells_per_second(
    sequences: Sequence[str],
    width: int,
    rule: Rule,
    run: Callable[..., TileHits],
    seconds: float,
) -> float:
    """Align blocks as the real ones are: neighbours by length. Random embeddings do for that."""
    lengths = np.sort([len(text) for text in sequences])[::-1]
    generator = np.random.default_rng(0)
    tiles = []
    # Where the nucleotides are, there the time goes.
    for share in (0.1, 0.35, 0.6, 0.85):
        at = int(np.searchsorted(np.cumsum(lengths), share * lengths.sum()))
        near = lengths[max(min(at, len(lengths) - LANES), 0) :][:LANES]
        near = np.minimum(near, _LONGEST_TIMED)
        count = int(np.clip(_CELLS_TIMED / (near.sum() * near.max()), 1, 16))
        few = near[:: max(len(near) // count, 1)][:count]
        tiles.append(tuple(_random_side(sizes, width, generator) for sizes in (few, near)))
    tiny = _random_side(np.array([3, 2]), width, generator)
    run(tiny, tiny, rule, same=False)  # compiles
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a, b = tiles[0]
        run(a, b, rule, same=False)
        done += int(a.lengths.sum()) * int(b.lengths.sum())
        tiles = [*tiles[1:], tiles[0]]
    return done / (time.perf_counter() - start)


def _random_side(lengths: NDArray[np.integer], width: int, generator: np.random.Generator) -> Side:
    rows = unit_rows(generator.normal(size=(int(lengths.sum()), width)))
    starts = np.cumsum([0, *lengths.tolist()], dtype=np.int64)
    return Side(SequenceSet(rows, starts), np.full(len(rows), ord("A"), np.uint8))


def _bytes_per_pair(side: Side, rule: Rule, scores_only: bool) -> float:
    """Weigh the report of a few pairs as Arrow; TSV takes about as much."""
    starts = side.sequences.starts[:3]
    few = Side(
        SequenceSet(side.sequences.embeddings[: starts[-1]], starts), side.nucleotides[: starts[-1]]
    )
    plain = replace(rule, min_score=None, min_z=None, top_k=None)
    run = score_tile if scores_only else align_tile
    hits = run(few, few, plain, same=False)
    lengths: NDArray[np.int32] = few.sequences.lengths
    table = hits_table(hits, ["x" * 12] * 2, lengths, rule.null, 1)
    return float(1.0 * table.nbytes / max(table.num_rows, 1) + 20)
