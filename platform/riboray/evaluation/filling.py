"""Hidden nucleotides: what a model says of each, and what simpler models say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from riboray.alphabet import encode_packed
from riboray.batching import plan_batches
from riboray.corpus.records import hash64
from riboray.embedding.embedder import Embedder
from riboray.embedding.likelihood import hidden_logits, planned_together
from riboray.errors import ConfigError

__all__ = ["GROUPS", "Filled", "composition", "fill", "neighbours"]

#: Bases of a sequence are divided among so many passes; each is hidden in one: 1/7 is near the 15 %
#: that training hides.
GROUPS = 7
#: Bases on either side that the model of neighbours looks at.
_REACH = 2

Codes = NDArray[np.int8]
"""0 to 3 for A, C, G, U, -1 for any other letter."""


@dataclass(frozen=True)
class Filled:
    """Probabilities of the four nucleotides at every position of some sequences, end to end.

    Attributes
    ----------
    probabilities : ndarray, shape=(bases, 4), dtype=float32
        Of A, C, G and U at each position when it is hidden. Rows of ambiguity codes are zero.
    truth : ndarray, shape=(bases,), dtype=int8
        Which it is: 0 to 3, or -1 for an ambiguity code, which nobody is asked for.
    """

    probabilities: NDArray[np.float32]
    truth: Codes

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Which positions count."""
        return self.truth >= 0

    def correct(self) -> NDArray[np.bool_]:
        """Whether the likeliest nucleotide is the right one, at each position that counts."""
        found: NDArray[np.bool_] = (
            self.probabilities[self.asked].argmax(axis=1) == self.truth[self.asked]
        )
        return found

    def surprise(self) -> NDArray[np.float64]:
        """Minus the natural logarithm of the right one's probability, where it counts."""
        rows = self.probabilities[self.asked].astype(np.float64)
        right = rows[np.arange(len(rows)), self.truth[self.asked]]
        return -np.log(np.maximum(right, 1e-30))


def codes_of(text: str) -> Codes:
    """Return 0 to 3 for A, C, G, U and -1 for any other letter."""
    table = np.full(256, -1, np.int8)
    table[np.frombuffer(b"ACGU", np.uint8)] = np.arange(4)
    return table[np.frombuffer(text.encode(), np.uint8)]


def _groups(text: str) -> NDArray[np.int64]:
    """Divide positions by chance, evenly, the same for the same sequence on any machine."""
    generator = np.random.default_rng(hash64(text))
    groups: NDArray[np.int64] = generator.permutation(np.arange(len(text)) % GROUPS)
    return groups


@dataclass(frozen=True)
class _Copy:
    """A stretch of a sequence, which bases of it to hide, and where it begins in the whole."""

    tokens: NDArray[np.uint8]
    hidden: NDArray[np.int64]
    offset: int


def fill(embedder: Embedder, sequences: Sequence[str]) -> Filled:
    """Hide every nucleotide once, a seventh of a sequence at a time, and ask the model for it.

    Parameters
    ----------
    embedder : Embedder
        The model; it needs a language-model head.
    sequences : sequence of str
        Upper case, U for T. Those longer than the model's width are cut into stretches.

    Returns
    -------
    Filled
        Probabilities among A, C, G and U only: what the model gives to other tokens is shared out.

    Raises
    ------
    ConfigError
        If the model has no language-model head.
    """
    config = embedder.config
    if embedder.model.lm_head is None:
        raise ConfigError("the model has no language-model head: it cannot fill in nucleotides")
    truth = np.concatenate([codes_of(text) for text in sequences])
    found = np.zeros((len(truth), 4), np.float32)
    letters = torch.tensor([config.tokens.id_of(base) for base in "ACGU"])
    for copies in planned_together(_copies(embedder, sequences)):
        sizes = np.array([len(c.tokens) for c in copies]) + config.add_bos + config.add_eos
        for chosen in plan_batches(sizes, embedder.token_budget):
            batch = [copies[k] for k in chosen]
            logits = hidden_logits(embedder, [c.tokens for c in batch], [c.hidden for c in batch])
            made = logits[:, letters.to(logits.device)].softmax(-1).cpu().numpy()
            found[np.concatenate([c.offset + c.hidden for c in batch])] = made
    found[truth < 0] = 0
    return Filled(found, truth)


def _copies(embedder: Embedder, sequences: Sequence[str]) -> Iterator[_Copy]:
    width, tokens = embedder.config.max_sequence_length, embedder.config.tokens
    offset = 0
    for text in sequences:
        ids, _ = encode_packed([text], tokens)
        groups, plain = _groups(text), codes_of(text) >= 0
        for start in range(0, len(text), width):
            part = slice(start, start + width)
            for group in range(GROUPS):
                hidden = np.flatnonzero((groups[part] == group) & plain[part])
                if len(hidden):
                    yield _Copy(ids[part], hidden, offset + start)
        offset += len(text)


def composition(sequences: Sequence[str]) -> Filled:
    """Say the composition of all sequences at every position: what any model must beat."""
    truth = np.concatenate([codes_of(text) for text in sequences])
    counts = np.bincount(truth[truth >= 0], minlength=4)
    shares = (counts / max(counts.sum(), 1)).astype(np.float32)
    return Filled(np.where((truth >= 0)[:, None], shares, np.float32(0)), truth)


def neighbours(sequences: Sequence[str]) -> Filled:
    """Say how often each nucleotide stands between the same two on the left and two on the right.

    Counts are of these very sequences without the one that is asked about, plus one of each, so
    that nothing is looked up that is not known elsewhere.
    """
    codes = [codes_of(text) for text in sequences]
    truth = np.concatenate(codes)
    contexts = np.concatenate([_contexts(one) for one in codes])
    owner = np.repeat(np.arange(len(codes)), list(map(len, codes)))
    asked = truth >= 0
    size = 5 ** (2 * _REACH)
    cell = contexts.astype(np.int64) * 4 + np.maximum(truth, 0)
    total = np.bincount(cell[asked], minlength=size * 4).reshape(size, 4)
    # What a sequence itself added to the contexts that it holds.
    own = owner * size + contexts
    keys, place = np.unique(own[asked], return_inverse=True)
    mine = np.zeros((len(keys), 4), np.int64)
    np.add.at(mine, (place, truth[asked]), 1)
    counts = total[contexts[asked]] - mine[place] + 1
    found = np.zeros((len(truth), 4), np.float32)
    found[asked] = counts / counts.sum(axis=1, keepdims=True)
    return Filled(found, truth)


def _contexts(codes: Codes) -> NDArray[np.int64]:
    """Return a number for what surrounds each base; ends and other letters are a fifth base."""
    padded = np.full(len(codes) + 2 * _REACH, 4, np.int64)
    padded[_REACH : _REACH + len(codes)] = np.where(codes < 0, 4, codes)
    found = np.zeros(len(codes), np.int64)
    for shift in (*range(_REACH), *range(_REACH + 1, 2 * _REACH + 1)):
        found = found * 5 + padded[shift : shift + len(codes)]
    return found
