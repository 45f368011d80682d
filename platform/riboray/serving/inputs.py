"""The sequences of a request: what bodies hold, checked before anything is computed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from riboray.alphabet import MASK, Vocabulary, encode, hidden_places, normalise
from riboray.corpus.fasta import parse_fasta
from riboray.errors import ConfigError, FastaError, InvalidSequenceError
from riboray.serving.errors import ErrorCode, ServiceError

__all__ = [
    "Entry",
    "Limits",
    "check_entries",
    "check_masked",
    "check_numbers",
    "read_fasta_body",
    "too_many",
]

_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a request may ask for."""

    body_bytes: int = 16 << 20
    """Bytes of a body."""
    sequences: int = 10_000
    """Sequences of a request."""
    length: int = 20_000
    """Nucleotides of a sequence."""
    nucleotides: int = 2_000_000
    """Nucleotides of a request."""
    id_characters: int = 1_000
    """Characters of a sequence's name."""
    numbers: int = 5_000_000
    """Numbers of an answer: of embeddings, probabilities, columns of alignments."""
    cells: int = 25_000_000
    """Pairs of bases of two sequences to align."""
    similarities: int = 250_000
    """Pairs of bases whose match scores are answered."""
    search_cells: int = 1_000_000_000
    """Pairs of bases that a search for one sequence may compare."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Entry:
    """A sequence that can be computed with.

    Attributes
    ----------
    sequence : str
        Upper case, U for T, without blanks.
    id : str or None
        Its name, if it was given one.
    hidden : tuple of int
        Positions that are to be filled in; some nucleotide stands there.
    """

    sequence: str
    id: str | None = None
    hidden: tuple[int, ...] = ()


Checked = list[Entry | ServiceError]


def check_entries(
    given: Iterable[tuple[str | None, str]], vocabulary: Vocabulary, limits: Limits
) -> Checked:
    """Check the sequences of a request.

    Parameters
    ----------
    given : iterable of (str or None, str)
        Name, if there is one, and text of each sequence.
    vocabulary : Vocabulary
        The model's.
    limits : Limits
        What is allowed.

    Returns
    -------
    list of Entry or ServiceError
        One for each: what is wrong with a sequence does not keep the others from being computed.

    Raises
    ------
    ServiceError
        ``TOO_LARGE`` if they are too many, or too long together; ``MALFORMED`` if there is none.
    """
    checked: Checked = []
    total = 0
    for index, (name, text) in enumerate(given):
        if index >= limits.sequences:
            raise too_many(limits)
        found = _check(index, name, text, vocabulary, limits)
        total += len(found.sequence) if isinstance(found, Entry) else 0
        if total > limits.nucleotides:
            raise ServiceError(
                ErrorCode.TOO_LARGE,
                f"more than {limits.nucleotides:,} nucleotides: send several requests",
                index=index,
            )
        checked.append(found)
    if not checked:
        raise ServiceError(ErrorCode.MALFORMED, "the request holds no sequence")
    return checked


def _check(
    index: int, name: str | None, text: str, vocabulary: Vocabulary, limits: Limits
) -> Entry | ServiceError:
    if name is not None and len(name) > limits.id_characters:
        reason = f"its name has more than {limits.id_characters:,} characters"
        return ServiceError(ErrorCode.TOO_LARGE, reason, index=index)
    # Upper case can be longer than lower case (ß): where letters are none of a nucleotide's.
    sequence = _BLANKS.sub("", text)
    sequence = normalise(sequence) if sequence.isascii() else sequence
    if not sequence:
        return ServiceError(ErrorCode.INVALID_SEQUENCE, "it is empty", index=index)
    if len(sequence) > limits.length:
        reason = f"{len(sequence):,} nucleotides are more than the {limits.length:,} allowed"
        return ServiceError(ErrorCode.TOO_LARGE, reason, index=index)
    try:
        encode([sequence], vocabulary)
    except InvalidSequenceError as error:
        where = f"{error.character!r} at position {error.position + 1} is no nucleotide"
        return ServiceError(ErrorCode.INVALID_SEQUENCE, where, index=index, position=error.position)
    return Entry(sequence, name)


def check_masked(
    given: Iterable[tuple[str | None, str]], vocabulary: Vocabulary, limits: Limits, longest: int
) -> Checked:
    """Check sequences some of whose nucleotides are hidden.

    Parameters
    ----------
    given, vocabulary, limits
        As for `check_entries`; hidden nucleotides are written as `MASK`.
    longest : int
        Nucleotides that the model takes at once.

    Returns
    -------
    list of Entry or ServiceError
        As from `check_entries`. A sequence must hide something and fit the model.
    """
    texts, places = [], []
    for name, text in itertools.islice(given, limits.sequences + 1):
        cleaned = _BLANKS.sub("", text)
        if cleaned.count(MASK) > limits.length:  # too long, whatever else it holds
            cleaned = "A" * (limits.length + 1)
        sequence, hidden = hidden_places(cleaned)
        texts.append((name, sequence))
        places.append(hidden)
    checked = check_entries(texts, vocabulary, limits)
    for index, (found, hidden) in enumerate(zip(checked, places, strict=True)):
        if isinstance(found, ServiceError):
            continue
        if len(found.sequence) > longest:
            reason = f"{len(found.sequence):,} nucleotides are more than the model's {longest:,}"
            checked[index] = ServiceError(ErrorCode.TOO_LARGE, reason, index=index)
        elif not hidden:
            reason = f"nothing in it is hidden: write {MASK} for a nucleotide"
            checked[index] = ServiceError(ErrorCode.INVALID_SEQUENCE, reason, index=index)
        else:
            checked[index] = Entry(found.sequence, found.id, hidden)
    return checked


def too_many(limits: Limits) -> ServiceError:
    """Say that a request has more sequences than it may."""
    return ServiceError(
        ErrorCode.TOO_LARGE, f"more than {limits.sequences:,} sequences: send several requests"
    )


def check_numbers(count: int, limits: Limits) -> None:
    """Refuse what would be answered by too many numbers.

    Raises
    ------
    ServiceError
        ``TOO_LARGE``.
    """
    if count > limits.numbers:
        raise ServiceError(
            ErrorCode.TOO_LARGE,
            f"the answer would have {count:,} numbers, more than the {limits.numbers:,} allowed: "
            "send several requests",
        )


def read_fasta_body(body: bytes) -> Sequence[tuple[str | None, str]]:
    """Read the sequences of a FASTA body.

    Returns
    -------
    sequence of (str or None, str)
        Name and text of each; no name where a header is empty.

    Raises
    ------
    ServiceError
        ``MALFORMED`` if it is no FASTA.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b">"):
        raise ServiceError(ErrorCode.MALFORMED, "the body is no FASTA: it does not begin with >")
    try:
        block = parse_fasta("the body", text)
    except FastaError as error:
        raise ServiceError(ErrorCode.MALFORMED, str(error)) from error
    found: list[tuple[str | None, str]] = []
    for row in range(len(block)):
        try:
            name, sequence = (c.item(row).decode("utf-8") for c in (block.ids, block.sequences))
        except UnicodeDecodeError as error:
            reason = f"record {row + 1} is not UTF-8"
            raise ServiceError(ErrorCode.MALFORMED, reason) from error
        found.append((name or None, sequence))
    return found
