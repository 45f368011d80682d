"""How likely a model finds sequences: pseudo-log-likelihoods.

Each base is hidden in turn and the model asked for it (Salazar et al. 2020,
doi:10.18653/v1/2020.acl-main.240): exact, with one pass a base, or with every seventh base hidden
at a time, which is about the 15 % that training hides and takes seven passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.alphabet import encode_packed
from riboray.batching import plan_batches, window_starts
from riboray.embedding.config import STRIDE
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError

__all__ = [
    "STRIDE",
    "Likelihoods",
    "MaskedCopy",
    "copied_logits",
    "covers",
    "hidden_logits",
    "log_likelihoods",
    "masked_copies",
    "over_copies",
    "planned_together",
]

T = TypeVar("T")

#: Passes over a sequence planned at a time: what is in memory at once.
_COPIES = 4096


@dataclass
class Likelihoods:
    """Pseudo-log-likelihoods of some sequences.

    Attributes
    ----------
    sums : ndarray, shape=(n,), dtype=float64
        Natural logarithms of the probabilities, summed over the bases asked for. A base in several
        windows counts with their average.
    bases : ndarray, shape=(n,), dtype=int64
        Bases asked for: all but ambiguity codes.
    failed : dict of int to str
        Sequences for which it could not be done, and why.
    """

    sums: NDArray[np.float64]
    bases: NDArray[np.int64]
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def perplexities(self) -> NDArray[np.float64]:
        """Exp of minus the mean; not a number for a sequence without a base to ask for."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found: NDArray[np.float64] = np.exp(-self.sums / self.bases)
        return found


@dataclass(frozen=True)
class MaskedCopy:
    """One pass over one window of a sequence, with some of its bases hidden.

    Attributes
    ----------
    sequence : int
        Which sequence.
    start, length : int
        The window.
    hidden : slice or ndarray
        Positions in the window.
    """

    sequence: int
    start: int
    length: int
    hidden: slice | NDArray[np.integer]

    @property
    def places(self) -> NDArray[np.int64]:
        """Hidden positions in the sequence."""
        places: NDArray[np.int64] = np.arange(self.start, self.start + self.length)[self.hidden]
        return places


def log_likelihoods(
    embedder: Embedder, sequences: Sequence[str], *, exact: bool = False
) -> Likelihoods:
    """Compute pseudo-log-likelihoods.

    Parameters
    ----------
    embedder : Embedder
        The model; it needs a language-model head.
    sequences : sequence of str
        RNA or DNA of at least one nucleotide, any length.
    exact : bool
        Hide one base at a time instead of every seventh.

    Raises
    ------
    ConfigError
        If the model has no language-model head.
    """
    if embedder.model.lm_head is None:
        raise ConfigError("the model has no language-model head: it has no likelihoods")
    count = len(sequences)
    found = Likelihoods(np.zeros(count), np.zeros(count, np.int64))
    tokens = [encode_packed([text], embedder.config.tokens)[0] for text in sequences]
    plain = embedder.config.tokens.nucleotide_ids
    for index, ids in enumerate(tokens):
        found.bases[index] = np.isin(ids, plain).sum()
    for chunk in planned_together(masked_copies(embedder, sequences, exact)):
        _score(embedder, tokens, chunk, found)
    return found


def masked_copies(
    embedder: Embedder, sequences: Sequence[str], exact: bool
) -> Iterator[MaskedCopy]:
    """Yield passes that hide every base of every sequence once in every window that it is in."""
    width = embedder.config.max_sequence_length
    for index, text in enumerate(sequences):
        for start in window_starts(len(text), width):
            length = min(len(text) - start, width)
            step = length if exact else min(STRIDE, length)
            for first in range(step):
                yield MaskedCopy(index, start, length, slice(first, length, step))


def planned_together(copies: Iterator[T]) -> Iterator[list[T]]:
    """Yield passes some at a time: what is planned, and in memory, at once."""
    while chunk := list(islice(copies, _COPIES)):
        yield chunk


def hidden_logits(
    embedder: Embedder,
    rows: Sequence[NDArray[np.uint8]],
    hidden: Sequence[NDArray[np.integer]],
) -> Tensor:
    """Hide some bases of each sequence and ask the language-model head for them.

    Parameters
    ----------
    embedder : Embedder
        The model; it needs a language-model head.
    rows : sequence of ndarray, shape=(length,), dtype=uint8
        Tokens, without special ones.
    hidden : sequence of ndarray, dtype=integer
        Positions to hide, of each.

    Returns
    -------
    Tensor, shape=(hidden positions, tokens), dtype=float32
        On the model's device, in the order given.
    """
    config, head = embedder.config, embedder.model.lm_head
    bos = np.array([config.tokens.id_of("<cls>")] * config.add_bos, np.uint8)
    eos = np.array([config.tokens.id_of("<eos>")] * config.add_eos, np.uint8)
    masked, places, base = [], [], len(bos)
    for ids, at in zip(rows, hidden, strict=True):
        copy = ids.copy()
        copy[at] = config.tokens.mask_id
        masked.append(np.concatenate([bos, copy, eos]))
        places.append(base + at)
        base += len(masked[-1])
    edges = torch.from_numpy(np.cumsum([0, *map(len, masked)]))
    last = (config.num_hidden_layers,)
    (state,) = embedder.states(torch.from_numpy(np.concatenate(masked)), edges, last)
    chosen = torch.from_numpy(np.concatenate(places)).to(embedder.device)
    with torch.inference_mode():
        assert head is not None
        logits: Tensor = head(state[chosen]).float()
        return logits


def covers(length: int, width: int) -> NDArray[np.float64]:
    """Return how many windows each base of a sequence is in."""
    covers = np.zeros(length)
    for start in window_starts(length, width):
        covers[start : start + width] += 1
    return covers


def _score(
    embedder: Embedder,
    tokens: list[NDArray[np.uint8]],
    copies: list[MaskedCopy],
    found: Likelihoods,
) -> None:
    config = embedder.config
    plain = config.tokens.nucleotide_ids
    weights: dict[int, NDArray[np.float64]] = {}

    def make(batch: list[int]) -> list[Tensor]:
        chosen = [copies[k] for k in batch]
        answers = np.concatenate([tokens[copy.sequence][copy.places] for copy in chosen])
        right = torch.from_numpy(answers.astype(np.int64)).to(embedder.device)
        logits = copied_logits(embedder, tokens, chosen)
        return [logits.log_softmax(-1).gather(1, right[:, None])[:, 0]]

    def keep(batch: list[int], made: list[NDArray[np.float32]]) -> None:
        position = 0
        for copy in (copies[k] for k in batch):
            places = copy.places
            ids = tokens[copy.sequence]
            if copy.sequence not in weights:
                share = covers(len(ids), config.max_sequence_length)
                weights[copy.sequence] = np.isin(ids, plain) / share
            here = made[0][position : position + len(places)].astype(np.float64)
            found.sums[copy.sequence] += float(here @ weights[copy.sequence][places])
            position += len(places)

    found.failed |= over_copies(embedder, copies, make, keep)


def copied_logits(
    embedder: Embedder, tokens: Sequence[NDArray[np.uint8]], copies: Sequence[MaskedCopy]
) -> Tensor:
    """Ask for the hidden bases of some passes; see `hidden_logits`."""
    rows = [tokens[c.sequence][c.start : c.start + c.length] for c in copies]
    hidden = [np.arange(copy.length)[copy.hidden] for copy in copies]
    return hidden_logits(embedder, rows, hidden)


def over_copies(
    embedder: Embedder,
    copies: Sequence[MaskedCopy],
    make: Callable[[list[int]], list[Tensor]],
    keep: Callable[[list[int], list[NDArray[np.float32]]], None],
) -> dict[int, str]:
    """Do something with passes in batches; see `Embedder.in_batches`.

    Returns
    -------
    dict of int to str
        Sequences of which a pass failed, and why.
    """
    extra = int(embedder.config.add_bos) + int(embedder.config.add_eos)
    sizes = np.array([copy.length for copy in copies], np.int64) + extra
    batches = [b.tolist() for b in plan_batches(sizes, embedder.token_budget)]
    failed = embedder.in_batches(batches, make, keep)
    return {copies[k].sequence: reason for k, reason in failed.items()}
