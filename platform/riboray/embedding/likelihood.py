"""How likely a model finds sequences: pseudo-log-likelihoods.

Each base is hidden in turn and the model asked for it (Salazar et al. 2020,
doi:10.18653/v1/2020.acl-main.240): exact, with one pass a base, or with every seventh base hidden
at a time, which is about the 15 % that training hides and takes seven passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.alphabet import encode_packed
from riboray.batching import plan_batches, window_starts
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError

__all__ = ["STRIDE", "Likelihoods", "log_likelihoods"]

#: With ``fast``, every so manieth base is hidden at a time: 1/7 is near the 15 % of training.
STRIDE = 7

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
class _Copy:
    """One pass over one window, with some of its bases hidden."""

    sequence: int
    start: int
    length: int
    hidden: slice


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
    for chunk in _chunks(_copies(embedder, sequences, exact)):
        _score(embedder, tokens, chunk, found)
    return found


def _copies(embedder: Embedder, sequences: Sequence[str], exact: bool) -> Iterator[_Copy]:
    width = embedder.config.max_sequence_length
    for index, text in enumerate(sequences):
        for start in window_starts(len(text), width):
            length = min(len(text) - start, width)
            step = length if exact else min(STRIDE, length)
            for first in range(step):
                yield _Copy(index, start, length, slice(first, length, step))


def _chunks(copies: Iterator[_Copy]) -> Iterator[list[_Copy]]:
    chunk: list[_Copy] = []
    for copy in copies:
        chunk.append(copy)
        if len(chunk) == _COPIES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _covers(length: int, width: int) -> NDArray[np.float64]:
    """Return how many windows each base of a sequence is in."""
    covers = np.zeros(length)
    for start in window_starts(length, width):
        covers[start : start + width] += 1
    return covers


def _score(
    embedder: Embedder, tokens: list[NDArray[np.uint8]], copies: list[_Copy], found: Likelihoods
) -> None:
    config = embedder.config
    plain = config.tokens.nucleotide_ids
    bos = np.array([config.tokens.id_of("<cls>")] * config.add_bos, np.uint8)
    eos = np.array([config.tokens.id_of("<eos>")] * config.add_eos, np.uint8)
    head, last = embedder.model.lm_head, config.num_hidden_layers
    weights: dict[int, NDArray[np.float64]] = {}

    def make(batch: list[int]) -> list[Tensor]:
        rows, places, answers, base = [], [], [], 0
        for copy in (copies[k] for k in batch):
            ids = tokens[copy.sequence][copy.start : copy.start + copy.length].copy()
            hidden = np.arange(copy.length)[copy.hidden]
            answers.append(ids[hidden])
            ids[hidden] = config.tokens.mask_id
            places.append(base + len(bos) + hidden)
            rows.append(np.concatenate([bos, ids, eos]))
            base += len(rows[-1])
        edges = torch.from_numpy(np.cumsum([0, *map(len, rows)]))
        (state,) = embedder.states(torch.from_numpy(np.concatenate(rows)), edges, (last,))
        at = torch.from_numpy(np.concatenate(places)).to(embedder.device)
        right = torch.from_numpy(np.concatenate(answers).astype(np.int64)).to(embedder.device)
        with torch.inference_mode():
            assert head is not None
            logits = head(state[at]).float()
            return [logits.log_softmax(-1).gather(1, right[:, None])[:, 0]]

    def keep(batch: list[int], made: list[NDArray[np.float32]]) -> None:
        position = 0
        for copy in (copies[k] for k in batch):
            places = np.arange(copy.start, copy.start + copy.length)[copy.hidden]
            ids = tokens[copy.sequence]
            if copy.sequence not in weights:
                covers = _covers(len(ids), config.max_sequence_length)
                weights[copy.sequence] = np.isin(ids, plain) / covers
            here = made[0][position : position + len(places)].astype(np.float64)
            found.sums[copy.sequence] += float(here @ weights[copy.sequence][places])
            position += len(places)

    sizes = np.array([copy.length for copy in copies]) + len(bos) + len(eos)
    batches = [b.tolist() for b in plan_batches(sizes, embedder.token_budget)]
    for k, reason in embedder.in_batches(batches, make, keep).items():
        found.failed[copies[k].sequence] = reason
