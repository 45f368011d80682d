"""Nucleotides to token ids and back, for the two vocabularies RNABERT checkpoints come with.

Case does not matter and T is U, everywhere: ``ACGT`` and ``acgu`` get the same tokens.
A checkpoint carries its vocabulary; the two are never mixed silently.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from riboray.errors import InvalidSequenceError, VocabularyError

__all__ = [
    "IUPAC_NUCLEOTIDES",
    "MASK",
    "MULTIMOLECULE",
    "ORIGINAL",
    "VOCABULARIES",
    "Vocabulary",
    "decode",
    "encode",
    "encode_packed",
    "get_vocabulary",
    "hidden_places",
    "normalise",
]

#: IUPAC ambiguity codes and the nucleotides each stands for (NC-IUB 1984; X is a synonym of N).
IUPAC_NUCLEOTIDES: dict[str, str] = {
    "A": "A",
    "C": "C",
    "G": "G",
    "U": "U",
    "N": "ACGU",
    "R": "AG",
    "Y": "CU",
    "S": "CG",
    "W": "AU",
    "K": "GU",
    "M": "AC",
    "B": "CGU",
    "D": "AGU",
    "H": "ACU",
    "V": "ACG",
    "X": "ACGU",
}

#: How a hidden nucleotide is written.
MASK = "<mask>"

_INVALID = 0xFF


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a checkpoint, in the order of their ids.

    Attributes
    ----------
    name : str
        ``multimolecule`` or ``original``.
    tokens : tuple of str
        Token texts; a token's index is its id.
    """

    name: str
    tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def id_of(self, token: str) -> int | None:
        """Return the id of ``token``, or None if the vocabulary lacks it."""
        return self.tokens.index(token) if token in self.tokens else None

    @cached_property
    def pad_id(self) -> int:
        """Id of ``<pad>``; 0 in both vocabularies."""
        return self.tokens.index("<pad>")

    @cached_property
    def mask_id(self) -> int:
        """Id of ``<mask>``."""
        return self.tokens.index("<mask>")

    @cached_property
    def nucleotide_ids(self) -> NDArray[np.uint8]:
        """Ids of A, C, G and U, in that order; shape (4,)."""
        return np.array([self.tokens.index(n) for n in "ACGU"], dtype=np.uint8)

    @cached_property
    def table(self) -> bytes:
        """Byte-to-id table of 256 entries for `bytes.translate`; 255 marks a refused byte."""
        table = bytearray([_INVALID] * 256)
        for nucleotide in IUPAC_NUCLEOTIDES:
            token_id = self.id_of(nucleotide)
            if token_id is not None:
                table[ord(nucleotide)] = table[ord(nucleotide.lower())] = token_id
        table[ord("T")] = table[ord("t")] = table[ord("U")]
        return bytes(table)


ORIGINAL = Vocabulary("original", ("<pad>", "<mask>", "A", "U", "G", "C"))
"""The published weights' six tokens (mana438/RNABERT)."""

MULTIMOLECULE = Vocabulary(
    "multimolecule",
    ("<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>", *"ACGUNRYSWKMBDHVIX|.*-?"),
)
"""MultiMolecule's 28 tokens, in its order."""

VOCABULARIES = {v.name: v for v in (MULTIMOLECULE, ORIGINAL)}


def get_vocabulary(name: str) -> Vocabulary:
    """Return the vocabulary called ``name``.

    Raises
    ------
    VocabularyError
        If there is none.
    """
    if name not in VOCABULARIES:
        raise VocabularyError(name, f"unknown vocabulary; known are {', '.join(VOCABULARIES)}")
    return VOCABULARIES[name]


def hidden_places(text: str) -> tuple[str, tuple[int, ...]]:
    """Read a sequence some of whose nucleotides are hidden, written as `MASK`.

    Returns
    -------
    sequence : str
        With an ``A`` at hidden places: any nucleotide does, since the model sees its mask there,
        and not all vocabularies have an ``N``.
    hidden : tuple of int
        Their positions, from 0 on.
    """
    parts = text.split(MASK)
    ends = itertools.accumulate(map(len, parts[:-1]))
    return "A".join(parts), tuple(end + k for k, end in enumerate(ends))


def normalise(sequence: str) -> str:
    """Upper-case a sequence and write U for T."""
    return sequence.upper().replace("T", "U")


def _refuse(sequences: Sequence[str], vocabulary: Vocabulary) -> InvalidSequenceError:
    """Find the first character that has no token; the slow path of `encode`."""
    table = vocabulary.table
    for index, sequence in enumerate(sequences):
        for position, character in enumerate(sequence):
            if ord(character) > 127 or table[ord(character)] == _INVALID:
                return InvalidSequenceError(index, position, character, vocabulary.name)
    raise AssertionError("no invalid character found")


def encode(
    sequences: Sequence[str],
    vocabulary: Vocabulary = MULTIMOLECULE,
    *,
    add_bos: bool = False,
    add_eos: bool = False,
    pad_to: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Turn sequences into one padded array of token ids.

    Parameters
    ----------
    sequences : sequence of str
        RNA or DNA, any case, IUPAC ambiguity codes allowed where the vocabulary has them.
    vocabulary : Vocabulary
        The checkpoint's vocabulary.
    add_bos, add_eos : bool
        Put ``<cls>`` before and ``<eos>`` after every sequence (MultiMolecule's default use;
        the original adds neither).
    pad_to : int, optional
        Width of the array; the longest sequence's length if not given.

    Returns
    -------
    ids : ndarray, shape=(n, width), dtype=uint8
        Token ids, padded on the right with ``<pad>``.
    lengths : ndarray, shape=(n,), dtype=int32
        Tokens per row, ``<cls>`` and ``<eos>`` included.

    Raises
    ------
    InvalidSequenceError
        At the first character without a token, naming sequence and position.
    ValueError
        If ``pad_to`` is shorter than the longest sequence, or ``<cls>``/``<eos>`` is asked of a
        vocabulary without it.
    """
    flat = _translate(sequences, vocabulary)
    bos = _special(vocabulary, "<cls>") if add_bos else b""
    eos = _special(vocabulary, "<eos>") if add_eos else b""
    extra = len(bos) + len(eos)
    sizes = [len(s) for s in sequences]
    width = (max(sizes, default=0) + extra) if pad_to is None else pad_to
    if sizes and width < max(sizes) + extra:
        raise ValueError(f"pad_to={pad_to} is shorter than the longest sequence ({max(sizes)})")
    pad, rows, start = bytes([vocabulary.pad_id]), [], 0
    for size in sizes:
        row = flat[start : start + size]
        rows.append((bos + row + eos if extra else row).ljust(width, pad))
        start += size
    ids = np.frombuffer(bytearray(b"".join(rows)), dtype=np.uint8).reshape(len(sizes), width)
    return ids, np.asarray(sizes, dtype=np.int32) + np.int32(extra)


def encode_packed(
    sequences: Sequence[str],
    vocabulary: Vocabulary = MULTIMOLECULE,
    *,
    add_bos: bool = False,
    add_eos: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Turn sequences into token ids that stand in a row, without padding.

    Parameters
    ----------
    sequences, vocabulary, add_bos, add_eos
        As those of `encode`.

    Returns
    -------
    ids : ndarray, shape=(T,), dtype=uint8
        Token ids of all sequences.
    offsets : ndarray, shape=(n + 1,), dtype=int64
        Where sequences begin, and where the last one ends, T.

    Raises
    ------
    InvalidSequenceError, ValueError
        As `encode`.
    """
    flat = _translate(sequences, vocabulary)
    sizes = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    edges = np.concatenate([[0], np.cumsum(sizes)])
    if add_bos or add_eos:
        bos = _special(vocabulary, "<cls>") if add_bos else b""
        eos = _special(vocabulary, "<eos>") if add_eos else b""
        rows = (flat[edges[k] : edges[k + 1]] for k in range(len(sizes)))
        flat = b"".join(bos + row + eos for row in rows)
        edges += np.arange(len(edges)) * (len(bos) + len(eos))
    return np.frombuffer(bytearray(flat), dtype=np.uint8), edges


def _translate(sequences: Sequence[str], vocabulary: Vocabulary) -> bytes:
    """Turn all sequences into one string of token ids."""
    try:
        flat = "".join(sequences).encode("ascii").translate(vocabulary.table)
    except UnicodeEncodeError:
        raise _refuse(sequences, vocabulary) from None
    if flat.find(_INVALID) >= 0:
        raise _refuse(sequences, vocabulary)
    return flat


def _special(vocabulary: Vocabulary, token: str) -> bytes:
    token_id = vocabulary.id_of(token)
    if token_id is None:
        raise ValueError(f"the {vocabulary.name!r} vocabulary has no {token}")
    return bytes([token_id])


def decode(
    ids: NDArray[np.integer], lengths: NDArray[np.integer], vocabulary: Vocabulary = MULTIMOLECULE
) -> list[str]:
    """Turn rows of token ids back into text; the inverse of `encode` up to case and T.

    Parameters
    ----------
    ids : ndarray, shape=(n, width), dtype=integer
        Token ids.
    lengths : ndarray, shape=(n,), dtype=integer
        Tokens to read per row.
    vocabulary : Vocabulary
        The vocabulary of ``ids``.

    Returns
    -------
    list of str
        One string a row; tokens such as ``<mask>`` appear by name, ``<pad>`` within
        ``lengths`` too.
    """
    tokens = np.array(vocabulary.tokens, dtype=object)
    return ["".join(tokens[row[:size]]) for row, size in zip(ids, lengths, strict=True)]
