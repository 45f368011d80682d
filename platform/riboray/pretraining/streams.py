"""Endless, reproducible streams of training batches out of a corpus.

A corpus is a set of *windows* (Parquet row groups). Epoch e visits them in an order drawn from
(seed, e); visit number ``g = e * windows + position`` goes to stream ``g mod streams``. A global
step takes one batch from each stream, and a worker serves the streams ``k`` with
``k mod workers == rank``. So what a step trains on depends on the seed and the number of streams,
never on the number of workers, and a stream never runs dry: all ranks take equal steps.

A *cursor* (visit, batch) per stream says where to go on.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.alignment import aligned_columns
from riboray.alphabet import encode
from riboray.batching import plan_batches
from riboray.corpus.records import hash64, is_validation, shard_metadata
from riboray.model.config import RnaBertConfig
from riboray.pretraining.groups import Group, GroupRule, draw_groups, load_profiles
from riboray.pretraining.masking import IGNORE, MaskingRule, mask_batch, sequence_keys
from riboray.pretraining.pairs import AlignedPair, aligned_pairs, crop_some
from riboray.pretraining.sampling import PairSampling

__all__ = [
    "Batch",
    "Cursor",
    "PairBatch",
    "StreamSpec",
    "TokenBatch",
    "Window",
    "arrays_of",
    "checksum",
    "find_windows",
    "group_batch",
    "iterate_stream",
    "mlm_batch",
    "pair_batch",
    "read_visit",
    "structure_batch",
    "structured_members",
]

#: Tokens of a sequence whose batches are filled up. Those of longer ones cost as much with fewer
#: tokens, since attention grows with the square: workers wait for the dearest batch of a step.
_TYPICAL_LENGTH = 80


@dataclass(frozen=True)
class TokenBatch:
    """A batch with a label for some of its tokens: masked nucleotides, or structure classes.

    Attributes
    ----------
    input_ids, labels : ndarray, shape=(n, width), dtype=uint8
        What the model sees, and the targets: original tokens or structure classes
        (`masking.IGNORE` elsewhere).
    lengths : ndarray, shape=(n,), dtype=int32
        Tokens per row.
    """

    input_ids: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    lengths: NDArray[np.int32]


@dataclass(frozen=True)
class PairBatch:
    """A batch of reference alignments.

    Attributes
    ----------
    input_ids : ndarray, shape=(2 * n, width), dtype=uint8
        First the n sequences a, then the n sequences b; see `rows`, too.
    lengths : ndarray, shape=(2 * n,), dtype=int32
        Tokens per row.
    reference : ndarray, shape=(n, width_a), dtype=int32
        Partners of the reference alignments, in nucleotides (``<cls>`` not counted).
    families : ndarray, shape=(n,), dtype=uint64
        Family of each pair, as a hash of its name.
    rows : ndarray, shape=(n, 2), dtype=int32, optional
        Of groups: the rows of a and b of each pair; there are as many rows as sequences then,
        not 2 n.
    """

    input_ids: NDArray[np.uint8]
    lengths: NDArray[np.int32]
    reference: NDArray[np.int32]
    families: NDArray[np.uint64]
    rows: NDArray[np.int32] | None = None

    @property
    def sequence_families(self) -> NDArray[np.uint64]:
        """Family of each row."""
        if self.rows is None:
            return np.tile(self.families, 2)
        found = np.empty(len(self.lengths), dtype=np.uint64)
        for side in (0, 1):
            found[self.rows[:, side]] = self.families
        return found


Batch = TokenBatch | PairBatch


def arrays_of(batch: Batch) -> dict[str, NDArray[Any]]:
    """Return what a batch holds, by name: what makes it again."""
    return {name: array for name, array in vars(batch).items() if array is not None}


def checksum(batches: Iterable[Batch]) -> int:
    """Sum up the CRC-32 of every batch, modulo 2^32: the same in any order.

    Families and rows are left out: they follow from what the other arrays tell apart.
    """
    total = 0
    for batch in batches:
        crc = 0
        for name, array in arrays_of(batch).items():
            if name in ("families", "rows"):
                continue
            crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
        total += crc
    return total % (1 << 32)


class Window(NamedTuple):
    """One row group of one Parquet file."""

    path: str
    row_group: int
    rows: int


class Cursor(NamedTuple):
    """Where a stream stands: next visit of this stream, and batches already taken of it."""

    visit: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """All that decides what a stream holds."""

    objective: Literal["mlm", "sal", "ss"]
    windows: tuple[Window, ...]
    streams: int
    """Streams in all; one global step takes a batch from each."""
    seed: int
    token_budget: int
    model: RnaBertConfig
    masking: MaskingRule
    held_out_hashes: tuple[int, ...] = ()
    """Sequences (by `sha256_64`) that training must not see."""
    held_out_families: tuple[str, ...] = ()
    """Families whose alignments training must not see."""
    validation_share: float = 0.0
    """Share of sequences, by hash, kept for validation."""
    sampling: PairSampling | None = None
    """How often each pair is taken; once an epoch if None."""
    jitter: float = 8.0
    """Nucleotides of length noise when sorting; small against lengths, so padding stays rare."""
    crop_pairs: float = 0.0
    """Share of pairs of which one sequence is cut to a fragment."""
    mask_pairs: bool = False
    """Whether the sequences of pairs are masked, too."""
    groups: GroupRule | None = None
    """How groups of members are made, which then take the place of pairs."""
    phases: tuple[StreamSpec, ...] = ()
    """What the stream holds in each phase of the curriculum, if that is not the same in all."""

    def in_phase(self, number: int) -> StreamSpec:
        """Return what the stream holds in a phase; after the last, what it held in that."""
        return self.phases[min(number, len(self.phases) - 1)] if self.phases else self


def find_windows(files: list[Path]) -> tuple[Window, ...]:
    """List the row groups of Parquet files, in order."""
    return tuple(
        Window(str(path), group, metadata.row_group(group).num_rows)
        for path in files
        for metadata in [shard_metadata(path)]
        for group in range(metadata.num_row_groups)
    )


def visit_window(spec: StreamSpec, visit: int) -> tuple[int, Window]:
    """Return epoch and window of a global visit number."""
    epoch, position = divmod(visit, len(spec.windows))
    order = np.random.default_rng([spec.seed, 1, epoch]).permutation(len(spec.windows))
    return epoch, spec.windows[int(order[position])]


_COLUMNS = {
    "mlm": ["id", "sequence", "length", "sha256_64"],
    "sal": [
        *("family", "id_a", "id_b", "aligned_a", "aligned_b"),
        *("length_a", "length_b", "identity"),
    ],
    "ss": ["family", "sequence", "ss_classes"],
}


def read_visit(spec: StreamSpec, visit: int) -> list[TokenBatch] | list[PairBatch]:
    """Read, filter, batch and encode one window; the result depends on the arguments alone."""
    epoch, window = visit_window(spec, visit)
    if spec.groups is not None:
        return _group_batches(spec, spec.groups, visit, window)
    with pq.ParquetFile(window.path) as file:
        table = file.read_row_group(window.row_group, columns=_COLUMNS[spec.objective])
    generator = np.random.default_rng([spec.seed, 2, visit])
    if spec.objective == "mlm":
        return _mlm_batches(spec, epoch, table, generator)
    if spec.held_out_families:
        held_out = pa.array(spec.held_out_families, pa.string())
        table = table.filter(pc.invert(pc.is_in(table["family"], value_set=held_out)))
    if spec.objective == "ss":
        return _structure_batches(spec, table, generator)
    return _pair_batches(spec, epoch, table, generator)


def _plan(
    spec: StreamSpec, lengths: NDArray[np.integer], rows: int, generator: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Group inputs, given by their lengths in nucleotides, of ``rows`` rows each."""
    tokens = lengths + int(spec.model.add_bos) + int(spec.model.add_eos)
    typical = float(spec.model.layer_flops(np.array(_TYPICAL_LENGTH)))
    return plan_batches(
        rows * tokens,
        spec.token_budget,
        costs=rows * spec.model.layer_flops(tokens),
        cost_budget=spec.token_budget / _TYPICAL_LENGTH * typical,
        jitter=spec.jitter,
        generator=generator,
    )


def _mlm_batches(
    spec: StreamSpec, epoch: int, table: pa.Table, generator: np.random.Generator
) -> list[TokenBatch]:
    hashes = table["sha256_64"].to_numpy()
    keep = ~is_validation(hashes, spec.validation_share)
    if spec.held_out_hashes:
        keep &= ~np.isin(hashes, np.array(spec.held_out_hashes, dtype=np.uint64))
    table = table.filter(pa.array(keep))
    sequences, ids = table["sequence"].to_pylist(), table["id"].to_pylist()
    keys = sequence_keys(ids)
    model, rule = spec.model, spec.masking
    batches = []
    for rows in _plan(spec, table["length"].to_numpy(), 1, generator):
        chosen = [sequences[row] for row in rows]
        pattern = epoch % rule.patterns
        batches.append(mlm_batch(chosen, keys[rows], pattern, spec.seed, model, rule))
    return batches


def _structure_batches(
    spec: StreamSpec, table: pa.Table, generator: np.random.Generator
) -> list[TokenBatch]:
    table = structured_members(table, spec.model.max_sequence_length)
    sequences, classes = (table[c].to_pylist() for c in ("sequence", "ss_classes"))
    lengths = pc.binary_length(table["sequence"]).to_numpy()
    return [
        structure_batch([sequences[r] for r in rows], [classes[r] for r in rows], spec.model)
        for rows in _plan(spec, lengths, 1, generator)
    ]


def _pair_batches(
    spec: StreamSpec, epoch: int, table: pa.Table, generator: np.random.Generator
) -> list[PairBatch]:
    if spec.sampling is not None:
        table = table.take(pa.array(spec.sampling.draw(table, generator)))
    pairs = aligned_pairs(table)
    if spec.crop_pairs:
        pairs = crop_some(pairs, spec.crop_pairs, generator)
    lengths = np.array([pair.length for pair in pairs], dtype=np.int64)
    ids = [table[name].to_pylist() for name in ("id_a", "id_b")] if spec.mask_pairs else []
    batches = []
    for rows in _plan(spec, lengths, 2, generator):
        batch = pair_batch([pairs[row] for row in rows], spec.model)
        if spec.mask_pairs:
            keys = sequence_keys([column[row] for column in ids for row in rows])
            pattern = epoch % spec.masking.patterns
            masked, _ = mask_batch(
                batch.input_ids, keys, pattern, spec.seed, spec.model.tokens, spec.masking
            )
            batch = replace(batch, input_ids=masked)
        batches.append(batch)
    return batches


def _group_batches(
    spec: StreamSpec, rule: GroupRule, visit: int, window: Window
) -> list[PairBatch]:
    """Draw as many sequences as the window has members."""
    longest = spec.model.max_sequence_length
    profiles = load_profiles(rule.files, tuple(rule.shares), spec.held_out_hashes, longest)
    generator = np.random.default_rng([spec.seed, 3, visit])
    count = max(window.rows // rule.size, 1)
    groups = draw_groups(rule, profiles, count, longest, generator)
    lengths = np.array([group.length for group in groups], dtype=np.int64)
    batches = []
    for number, rows in enumerate(_plan(spec, lengths, rule.size, generator)):
        batch = group_batch([groups[row] for row in rows], spec.model)
        if spec.mask_pairs:
            names = [f"{visit}:{number}:{row}" for row in range(len(batch.lengths))]
            tokens, keys = batch.input_ids, sequence_keys(names)
            masked, _ = mask_batch(tokens, keys, 0, spec.seed, spec.model.tokens, spec.masking)
            batch = replace(batch, input_ids=masked)
        batches.append(batch)
    return batches


def group_batch(groups: list[Group], model: RnaBertConfig) -> PairBatch:
    """Encode groups of members, each sequence once, and all pairs within each."""
    sequences = [text for group in groups for text in group.sequences]
    tokens, lengths = encode(sequences, model.tokens, add_bos=model.add_bos, add_eos=model.add_eos)
    firsts = np.cumsum([0, *(len(group.sequences) for group in groups)])
    rows = np.concatenate([g.pairs + first for g, first in zip(groups, firsts, strict=False)])
    partners = [found for group in groups for found in group.partners]
    reference = np.full((len(partners), max(map(len, partners))), -1, dtype=np.int32)
    for row, found in zip(reference, partners, strict=True):
        row[: len(found)] = found
    families = np.repeat(
        np.array([group.family for group in groups], dtype=np.uint64),
        [len(group.pairs) for group in groups],
    )
    return PairBatch(tokens, lengths, reference, families, rows.astype(np.int32))


def mlm_batch(
    sequences: list[str],
    keys: NDArray[np.uint64],
    pattern: int,
    seed: int,
    model: RnaBertConfig,
    rule: MaskingRule,
) -> TokenBatch:
    """Encode sequences and hide nucleotides of them; see `mask_batch`."""
    tokens, lengths = encode(sequences, model.tokens, add_bos=model.add_bos, add_eos=model.add_eos)
    return TokenBatch(*mask_batch(tokens, keys, pattern, seed, model.tokens, rule), lengths)


def pair_batch(pairs: list[AlignedPair], model: RnaBertConfig) -> PairBatch:
    """Encode reference alignments."""
    columns = [aligned_columns(pair.a, pair.b) for pair in pairs]
    sequences = [c.sequence_a for c in columns] + [c.sequence_b for c in columns]
    tokens, lengths = encode(sequences, model.tokens, add_bos=model.add_bos, add_eos=model.add_eos)
    reference = np.full((len(columns), max(len(c.partners) for c in columns)), -1, dtype=np.int32)
    for row, column in zip(reference, columns, strict=True):
        row[: len(column.partners)] = column.partners
    families = np.array([hash64(pair.family) for pair in pairs], dtype=np.uint64)
    return PairBatch(tokens, lengths, reference, families)


def structured_members(table: pa.Table, max_length: int) -> pa.Table:
    """Return the members that have a structure and fit the model."""
    fits = pc.less_equal(pc.binary_length(table["sequence"]), max_length)
    return table.filter(pc.and_(pc.is_valid(table["ss_classes"]), fits))


def structure_batch(sequences: list[str], classes: list[str], model: RnaBertConfig) -> TokenBatch:
    """Encode sequences and their structure classes, a digit a nucleotide; 0 is no target."""
    tokens, lengths = encode(sequences, model.tokens, add_bos=model.add_bos, add_eos=model.add_eos)
    labels = np.full(tokens.shape, IGNORE, dtype=np.uint8)
    first = int(model.add_bos)
    for row, digits in zip(labels, classes, strict=True):
        values = np.frombuffer(digits.encode("ascii"), dtype=np.uint8) - ord("0")
        row[first : first + len(values)] = np.where(values == 0, IGNORE, values)
    return TokenBatch(tokens, labels, lengths)


def iterate_stream(
    spec: StreamSpec, stream: int, cursor: Cursor = Cursor(0, 0)
) -> Iterator[tuple[Cursor, Batch]]:
    """Yield a stream's batches from a cursor on, each with the cursor to go on from after it.

    This is the stream itself; `pipeline.open_stream` yields the same through Ray Data.
    """
    skip = cursor.batch
    for visit in itertools.count(cursor.visit):
        batches = read_visit(spec, visit * spec.streams + stream)
        for number in range(skip, len(batches)):
            yield Cursor(visit, number + 1), batches[number]
        skip = 0
