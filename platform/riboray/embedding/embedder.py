"""Base and sequence embeddings of sequences of any length, in batches of a token budget.

An RNA longer than the model's positions is embedded in windows: as wide as the model allows, each
half a window further, the last one flush with the end; where windows overlap, their embeddings are
averaged.

A batch that fails, for want of memory say, is halved and tried again; a sequence that fails by
itself is reported and the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.alphabet import encode_packed
from riboray.batching import plan_batches, window_starts
from riboray.embedding.memory import DeviceCopy, lasting, release, why_failed
from riboray.embedding.pooling import Pool, pool_packed
from riboray.errors import InvalidSequenceError, RiborayError
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["TOKEN_BUDGETS", "Embedded", "Embedder", "Wanted"]

#: Tokens of a batch, by device. On a CPU what a batch needs should stay in the caches; a GPU wants
#: enough to be busy.
TOKEN_BUDGETS = {"cpu": 8_192, "cuda": 131_072}

#: Batches under way on a GPU: one that computes and one whose result comes back.
_IN_FLIGHT = 2


@dataclass(frozen=True)
class Wanted:
    """What is to be made of each sequence.

    Attributes
    ----------
    layers : tuple of int
        Layers, from 0 (what goes into the first) on.
    pooling : str, optional
        ``mean``, ``max`` or ``first``; None if no sequence embeddings are wanted.
    per_base : bool
        Whether base embeddings are wanted.
    """

    layers: tuple[int, ...]
    pooling: str | None = "mean"
    per_base: bool = False


@dataclass
class Embedded:
    """Embeddings of some sequences, by layer.

    Attributes
    ----------
    pooled : dict of int to ndarray, shape=(n, H), dtype=float32
        A row a sequence; what stands in the row of one that failed has no meaning.
    per_base : dict of int to list of ndarray, shape=(length, H), dtype=float32
        A row a nucleotide, special tokens stripped.
    failed : dict of int to str
        Sequences that could not be embedded, and why.
    """

    pooled: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    per_base: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class Embedder:
    """A model that embeds sequences.

    Parameters
    ----------
    model : RnaBertForPreTraining
        In evaluation mode.
    token_budget : int, optional
        Tokens of a batch, padding included, at most; `TOKEN_BUDGETS` by default.
    device : str
        Torch device to run on.
    precision : str
        ``float32`` or ``bfloat16``; results are float32 either way.
    compile : bool
        Whether the encoder is compiled with `torch.compile`.
    """

    def __init__(
        self,
        model: RnaBertForPreTraining,
        *,
        token_budget: int | None = None,
        device: str = "cpu",
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        self.config = model.config
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.precision = precision
        if compile:
            self.model.model.compile(dynamic=True)
        budget = token_budget or TOKEN_BUDGETS.get(self.device.type, TOKEN_BUDGETS["cpu"])
        # A batch must hold at least one window of full width.
        self.token_budget = max(budget, self.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """Size of a base embedding."""
        return self.config.hidden_size

    @cached_property
    def _last(self) -> int:
        return self.config.num_hidden_layers

    def windows(self, length: int) -> int:
        """Count the windows a sequence of this length takes."""
        return len(window_starts(length, self.config.max_sequence_length))

    def per_base(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Embed every base of every sequence, by the last layer.

        Parameters
        ----------
        sequences : sequence of str
            RNA or DNA of at least one nucleotide.

        Returns
        -------
        list of ndarray, shape=(length, H), dtype=float32
            One row a nucleotide, special tokens stripped; the same whatever shares the batch
            (to about 1e-6).

        Raises
        ------
        InvalidSequenceError
            If a sequence holds a character without a token.
        ValueError
            If a sequence is empty.
        RiborayError
            If one cannot be embedded.
        """
        found = self.embed(sequences, Wanted((self._last,), None, per_base=True))
        for index, reason in found.failed.items():
            raise RiborayError(f"sequence {index} ({len(sequences[index])} nt): {reason}")
        return found.per_base[self._last]

    def embed(self, sequences: Sequence[str], wanted: Wanted) -> Embedded:
        """Embed sequences; the same numbers whatever shares the batch, to about 1e-6.

        Parameters
        ----------
        sequences : sequence of str
            RNA or DNA of at least one nucleotide.
        wanted : Wanted
            What is to be made of them.

        Raises
        ------
        InvalidSequenceError
            If a sequence holds a character without a token.
        ValueError
            If a sequence is empty.
        """
        found, count = Embedded(), len(sequences)
        for layer in wanted.layers:
            if wanted.pooling is not None:
                found.pooled[layer] = np.zeros((count, self.width), np.float32)
            if wanted.per_base:
                found.per_base[layer] = [np.empty((0, self.width), np.float32)] * count
        sizes = np.fromiter(map(len, sequences), dtype=np.int64, count=count)
        if count and not sizes.min():
            raise ValueError(f"sequence {int(sizes.argmin())} is empty")
        longest = self.config.max_sequence_length
        short = np.flatnonzero(sizes <= longest)
        try:
            self._embed_short(sequences, short, sizes, wanted, found)
        except InvalidSequenceError:
            encode_packed(sequences, self.config.tokens)  # raises, and knows which of all it is
            raise
        for index in np.flatnonzero(sizes > longest).tolist():
            try:
                self._embed_long(sequences[index], index, wanted, found)
            except Exception as error:  # of this sequence alone: the others go on
                if lasting(error):
                    raise
                found.failed[index] = why_failed(error)
        return found

    def _embed_short(
        self,
        sequences: Sequence[str],
        rows: NDArray[np.intp],
        sizes: NDArray[np.int64],
        wanted: Wanted,
        found: Embedded,
    ) -> None:
        """Embed sequences that fit the model: longest first, so that want of memory shows soon."""

        def make(batch: list[int]) -> list[Tensor]:
            hidden, edges = self.hidden([sequences[k] for k in batch], wanted.layers)
            lengths = edges[1:] - edges[:-1]
            made: list[Tensor] = []
            for state in hidden:
                if wanted.pooling is not None:
                    made.append(pool_packed(state, edges, wanted.pooling))
                if wanted.per_base:
                    made.append(state)
            assert int(lengths.sum()) == len(hidden[0])
            return made

        def keep(batch: list[int], made: list[NDArray[np.float32]]) -> None:
            following = iter(made)
            edges = np.cumsum(sizes[batch])[:-1]
            for layer in wanted.layers:
                if wanted.pooling is not None:
                    found.pooled[layer][batch] = next(following)
                if wanted.per_base:
                    parts = np.split(next(following), edges)
                    for index, part in zip(batch, parts, strict=True):
                        found.per_base[layer][index] = part

        extra = int(self.config.add_bos) + int(self.config.add_eos)
        batches = [rows[b].tolist() for b in plan_batches(sizes[rows] + extra, self.token_budget)]
        found.failed |= self.in_batches(batches, make, keep)

    def in_batches(
        self,
        batches: list[list[int]],
        make: Callable[[list[int]], list[Tensor]],
        keep: Callable[[list[int], list[NDArray[np.float32]]], None],
    ) -> dict[int, str]:
        """Do something batch by batch, a failing one by halves.

        Parameters
        ----------
        batches : list of list of int
            Numbers of the items of each.
        make : callable
            Turns a batch into tensors on the device.
        keep : callable
            Receives a batch and its tensors as arrays; on a GPU while the next one computes.

        Returns
        -------
        dict of int to str
            Items that failed by themselves, and why.
        """
        failed: dict[int, str] = {}
        todo = batches[::-1]
        flying: deque[tuple[list[int], DeviceCopy]] = deque()
        while todo or flying:
            if todo and len(flying) < _IN_FLIGHT:
                batch = todo.pop()
                try:
                    flying.append((batch, DeviceCopy(make(batch))))
                except Exception as error:
                    self._give_back(batch, error, todo, failed)
                if self.device.type != "cpu" and len(flying) < _IN_FLIGHT and todo:
                    continue
            if flying:
                batch, copy = flying.popleft()
                try:
                    arrays = copy.arrays()
                    if not all(np.isfinite(array).all() for array in arrays):
                        raise FloatingPointError("its embedding is not finite")
                except Exception as error:
                    self._give_back(batch, error, todo, failed)
                else:
                    keep(batch, arrays)
        return failed

    def _give_back(
        self, batch: list[int], error: Exception, todo: list[list[int]], failed: dict[int, str]
    ) -> None:
        """Put the halves of a batch that failed before what is to do."""
        if lasting(error):
            raise error
        release(error, self.device)
        if len(batch) == 1:
            failed[batch[0]] = why_failed(error)
            return
        middle = len(batch) // 2
        todo += [batch[middle:], batch[:middle]]

    def _embed_long(self, text: str, index: int, wanted: Wanted, found: Embedded) -> None:
        """Embed a sequence in windows; what is in memory at once does not grow with it."""
        pools = {layer: Pool(wanted.pooling or "mean", self.width) for layer in wanted.layers}
        kept: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in wanted.layers}
        for rows in self._averaged(text, wanted.layers):
            for layer, part in zip(wanted.layers, rows, strict=True):
                if wanted.pooling is not None:
                    pools[layer].add(part)
                if wanted.per_base:
                    kept[layer].append(part)
        for layer in wanted.layers:
            if wanted.pooling is not None:
                found.pooled[layer][index] = pools[layer].result()
            if wanted.per_base:
                found.per_base[layer][index] = np.concatenate(kept[layer])

    def _averaged(self, text: str, layers: tuple[int, ...]) -> Iterator[list[NDArray[np.float32]]]:
        """Yield the base embeddings of a long sequence, stretch by stretch, each layer's."""
        width = self.config.max_sequence_length
        starts = window_starts(len(text), width)
        size = max(self.token_budget // width, 1)
        sums = [np.zeros((0, self.width), np.float32) for _ in layers]
        counts, base = np.zeros(0, np.float32), 0  # of positions from `base` on
        for first in range(0, len(starts), size):
            chunk = starts[first : first + size]
            end = chunk[-1] + width
            grown = end - base - len(counts)
            counts = np.concatenate([counts, np.zeros(grown, np.float32)])
            sums = [np.concatenate([s, np.zeros((grown, self.width), np.float32)]) for s in sums]
            for start in chunk:
                counts[start - base : start - base + width] += 1
            self._add_windows(text, chunk, base, sums, layers)
            # No later window reaches before the start of the next one.
            final = starts[first + size] if first + size < len(starts) else len(text)
            cut = final - base
            yield [s[:cut] / counts[:cut, None] for s in sums]
            sums, counts, base = [s[cut:] for s in sums], counts[cut:], final

    def _add_windows(
        self,
        text: str,
        starts: list[int],
        base: int,
        sums: list[NDArray[np.float32]],
        layers: tuple[int, ...],
    ) -> None:
        width = self.config.max_sequence_length

        def make(batch: list[int]) -> list[Tensor]:
            return self.hidden([text[starts[k] : starts[k] + width] for k in batch], layers)[0]

        def keep(batch: list[int], made: list[NDArray[np.float32]]) -> None:
            for total, rows in zip(sums, made, strict=True):
                for k, part in zip(batch, np.split(rows, len(batch)), strict=True):
                    total[starts[k] - base : starts[k] - base + width] += part

        failed = self.in_batches([list(range(len(starts)))], make, keep)
        for k, reason in failed.items():
            raise RiborayError(f"its window from {starts[k] + 1} on: {reason}")

    def hidden(self, texts: Sequence[str], layers: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
        """Embed texts that fit the model, as one batch, on the device.

        Returns
        -------
        states : list of Tensor, shape=(T, H), dtype=float32
            Of each layer, bases of all texts in a row, special tokens stripped.
        offsets : Tensor, shape=(n + 1,), dtype=int64
            Where texts begin in them; on the CPU.
        """
        config = self.config
        ids, edges = encode_packed(
            texts, config.tokens, add_bos=config.add_bos, add_eos=config.add_eos
        )
        states = self.states(torch.from_numpy(ids), torch.from_numpy(edges), layers)
        extra = int(config.add_bos) + int(config.add_eos)
        if extra:
            inner = np.ones(len(ids), np.bool_)
            inner[edges[:-1]] &= not config.add_bos
            inner[edges[1:] - 1] &= not config.add_eos
            where = torch.from_numpy(np.flatnonzero(inner)).to(self.device)
            states = [state[where] for state in states]
            edges = edges - np.arange(len(edges)) * extra
        return states, torch.from_numpy(edges)

    def states(self, ids: Tensor, edges: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Pass packed tokens through the encoder; see `RnaBertModel.packed`."""
        encoder = self.model.model
        low = self.precision != "float32"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=low),
        ):
            moved = ids.to(self.device, non_blocking=True)
            if layers == (self._last,):
                return [encoder.packed(moved, edges).float()]
            every: list[Any] = encoder.packed_hidden_states(moved, edges)
            return [every[layer].float() for layer in layers]
