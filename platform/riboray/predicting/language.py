"""What a language model expects: at hidden bases, and instead of those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from riboray.alphabet import IUPAC_NUCLEOTIDES, encode_packed
from riboray.batching import window_starts
from riboray.embedding.embedder import Embedder
from riboray.embedding.likelihood import (
    MaskedCopy,
    copied_logits,
    covers,
    masked_copies,
    over_copies,
    planned_together,
)
from riboray.errors import ConfigError

__all__ = ["Expected", "expected_bases", "fill_ambiguous", "substitutions"]


@dataclass
class Expected:
    """Log-probabilities of A, C, G and U at places of sequences.

    Attributes
    ----------
    rows : list of ndarray, shape=(length, 4), dtype=float64
        Natural logarithms, of each sequence; NaN where none was asked for. A base in several
        windows gets the mean of them.
    failed : dict of int to str
        Sequences for which it could not be done, and why.
    """

    rows: list[NDArray[np.float64]]
    failed: dict[int, str] = field(default_factory=dict)


def expected_bases(
    embedder: Embedder, sequences: Sequence[str], copies: Iterable[MaskedCopy]
) -> Expected:
    """Hide bases and ask for them.

    Parameters
    ----------
    embedder : Embedder
        The model; it needs a language-model head.
    sequences : sequence of str
        RNA or DNA of at least one nucleotide, any length.
    copies : iterable of MaskedCopy
        Which bases to hide at a time. A base must be hidden in every window that it is in, or in
        none.

    Raises
    ------
    ConfigError
        If the model has no language-model head.
    """
    if embedder.model.lm_head is None:
        raise ConfigError("the model has no language-model head: it expects no bases")
    tokens = [encode_packed([text], embedder.config.tokens)[0] for text in sequences]
    sums = [np.full((len(ids), 4), np.nan) for ids in tokens]
    found = Expected(sums)
    letters = embedder.config.tokens.nucleotide_ids.astype(np.int64)
    for chunk in planned_together(iter(copies)):
        chosen: list[MaskedCopy] = chunk

        def make(batch: list[int], chosen: list[MaskedCopy] = chosen) -> list[Tensor]:
            logits = copied_logits(embedder, tokens, [chosen[k] for k in batch])
            return [logits[:, letters].log_softmax(-1)]

        def keep(
            batch: list[int],
            made: list[NDArray[np.float32]],
            chosen: list[MaskedCopy] = chosen,
        ) -> None:
            start = 0
            for copy in (chosen[k] for k in batch):
                places = copy.places
                rows = made[0][start : start + len(places)]
                sums[copy.sequence][places] = np.nan_to_num(sums[copy.sequence][places]) + rows
                start += len(places)

        found.failed |= over_copies(embedder, chosen, make, keep)
    width = embedder.config.max_sequence_length
    found.rows = [rows / covers(len(rows), width)[:, None] for rows in sums]
    return found


def substitutions(embedder: Embedder, sequences: Sequence[str]) -> Expected:
    """Score every substitution of a single nucleotide.

    Each base is hidden in turn; a substitution's score is the logarithm of how much likelier than
    the base that is there the model finds the other one (masked marginals, Meier et al. 2021,
    doi:10.1101/2021.07.09.450648).

    Returns
    -------
    Expected
        Rows are log-odds of A, C, G and U, natural logarithms: 0 for the base that is there; NaN
        where an ambiguity code stands.
    """
    found = expected_bases(embedder, sequences, masked_copies(embedder, sequences, True))
    for text, rows in zip(sequences, found.rows, strict=True):
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
        own = np.full(len(text), np.nan)
        for k, letter in enumerate("ACGU"):
            here = codes == ord(letter)
            own[here] = rows[here, k]
        rows -= own[:, None]
    return found


def fill_ambiguous(embedder: Embedder, sequences: Sequence[str]) -> tuple[list[str], Expected]:
    """Say which nucleotides the model expects where ambiguity codes stand.

    All codes of a window are hidden together; of what a code may stand for, the likeliest is
    filled in.

    Returns
    -------
    filled : list of str
        Sequences of A, C, G and U.
    expected : Expected
        Log-probabilities among what each code may stand for; minus infinity for the others, NaN
        where a nucleotide stands.
    """
    places = [
        np.array([k for k, c in enumerate(text) if c not in "ACGU"], np.int64) for text in sequences
    ]
    width = embedder.config.max_sequence_length

    def copies() -> Iterable[MaskedCopy]:
        for number, (text, at) in enumerate(zip(sequences, places, strict=True)):
            for start in window_starts(len(text), width):
                length = min(len(text) - start, width)
                inside = at[(at >= start) & (at < start + length)] - start
                if len(inside):
                    yield MaskedCopy(number, start, length, inside)

    found = expected_bases(embedder, sequences, copies())
    filled = []
    for text, at, rows in zip(sequences, places, found.rows, strict=True):
        letters = list(text)
        for k in at.tolist():
            allowed = np.array([n in IUPAC_NUCLEOTIDES[text[k]] for n in "ACGU"])
            rows[k, ~allowed] = -np.inf
            rows[k] -= np.logaddexp.reduce(rows[k])
            letters[k] = "ACGU"[int(rows[k].argmax())]
        filled.append("".join(letters))
    return filled, found
