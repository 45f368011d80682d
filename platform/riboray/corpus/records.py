"""What a record of a corpus is, which records are refused, and the Arrow schemas."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from riboray.alphabet import IUPAC_NUCLEOTIDES

__all__ = [
    "MEMBER_SCHEMA",
    "PAIR_SCHEMA",
    "REJECT_SCHEMA",
    "SEQUENCE_SCHEMA",
    "Reject",
    "hash64",
    "why_rejected",
]

SCHEMA_METADATA = {b"riboray.schema_version": b"1"}

SEQUENCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("taxid", pa.int32()),
        pa.field("rna_type", pa.dictionary(pa.int32(), pa.string())),
        pa.field("family", pa.string()),
        pa.field("description", pa.string()),
        pa.field("sha256_64", pa.uint64(), nullable=False),
    ],
    metadata=SCHEMA_METADATA,
)
"""One RNA a row; ``sha256_64`` is the first eight bytes of the sequence's sha256."""

PAIR_SCHEMA = pa.schema(
    [
        pa.field("family", pa.string(), nullable=False),
        pa.field("id_a", pa.string(), nullable=False),
        pa.field("id_b", pa.string(), nullable=False),
        pa.field("aligned_a", pa.string(), nullable=False),
        pa.field("aligned_b", pa.string(), nullable=False),
        pa.field("length_a", pa.int32(), nullable=False),
        pa.field("length_b", pa.int32(), nullable=False),
        pa.field("identity", pa.float32(), nullable=False),
    ],
    metadata=SCHEMA_METADATA,
)
"""One reference alignment a row, as two gapped strings without columns that are all gaps;
``identity`` is identical columns over columns without a gap."""

MEMBER_SCHEMA = pa.schema(
    [
        pa.field("family", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("sha256_64", pa.uint64(), nullable=False),
    ],
    metadata=SCHEMA_METADATA,
)
"""One sequence of a family a row, whether a pair of it was drawn or not: what must be kept out of
training when the family is held out."""

REJECT_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("record", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ],
    metadata=SCHEMA_METADATA,
)
"""One record that is not in the corpus a row; ``outcome`` is ``rejected`` or ``duplicate``."""

_NUCLEOTIDE_BYTES = "".join(IUPAC_NUCLEOTIDES).encode()


@dataclass(frozen=True)
class Reject:
    """An input record that is not in the corpus, and why."""

    file: str
    record: int
    id: str
    outcome: str
    reason: str


def hash64(text: str) -> int:
    """Return the first eight bytes of the sha256 of ``text``, big-endian."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def why_rejected(
    sequence: str, min_length: int, max_length: int, *, ambiguity: bool = True
) -> str | None:
    """Say why a sequence cannot be used, or None if it can.

    Parameters
    ----------
    sequence : str
        Normalised (upper case, U for T).
    min_length, max_length : int
        Bounds, in nucleotides, ends included.
    ambiguity : bool
        Whether IUPAC ambiguity codes are allowed.

    Returns
    -------
    str or None
        A reason that names the first offending character, or the length.
    """
    if not sequence:
        return "empty sequence"
    strange = (
        sequence.encode().translate(None, _NUCLEOTIDE_BYTES) if sequence.isascii() else b"\xff"
    )
    if strange:
        position = next(i for i, c in enumerate(sequence) if c not in IUPAC_NUCLEOTIDES)
        return f"character {sequence[position]!r} at position {position + 1} is no nucleotide"
    if len(sequence) < min_length:
        return f"{len(sequence)} nt, shorter than {min_length}"
    if len(sequence) > max_length:
        return f"{len(sequence)} nt, longer than {max_length}"
    if not ambiguity and (code := next((c for c in sequence if c not in "ACGU"), None)):
        return f"ambiguity code {code!r} at position {sequence.index(code) + 1}"
    if not any(nucleotide in sequence for nucleotide in "ACGU"):
        return "nothing but ambiguity codes"
    return None
