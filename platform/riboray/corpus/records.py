"""What a record of a corpus is, which records are refused, and the Arrow schemas."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.alphabet import IUPAC_NUCLEOTIDES
from riboray.errors import CorpusError
from riboray.manifest import check_schema

__all__ = [
    "CATEGORIES",
    "DUPLICATE_SCHEMA",
    "MEMBER_SCHEMA",
    "PAIR_SCHEMA",
    "REJECT_SCHEMA",
    "SCHEMA_VERSION",
    "SEQUENCE_SCHEMA",
    "Category",
    "Reject",
    "hash64",
    "is_validation",
    "shard_metadata",
    "why_rejected",
]

SCHEMA_VERSION = 1
SCHEMA_METADATA = {b"riboray.schema_version": str(SCHEMA_VERSION).encode()}

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
        pa.field("sequence", pa.string()),
        pa.field("dot_bracket", pa.string()),
        pa.field("ss_classes", pa.string()),
        pa.field("aligned", pa.string()),
    ],
    metadata=SCHEMA_METADATA,
)
"""One sequence of a family a row, whether a pair of it was drawn or not: what must be kept out of
training when the family is held out, and what the structure head learns from. ``dot_bracket`` and
``ss_classes`` (one digit a nucleotide, see `structure`) come from the alignment's SS_cons; they are
null without one. ``aligned`` is the row of the alignment, gaps as dashes: the rows of a family have
the same columns, and any of them can be aligned with any other."""

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
"""One record that is not in the corpus a row. ``outcome`` is ``rejected`` (it cannot be used),
``filtered`` (the options leave it out) or, for rows of seed alignments, ``duplicate``. Over-long
records that were ``windowed`` or ``truncated`` are listed in the same form."""

DUPLICATE_SCHEMA = pa.schema(
    [
        pa.field("sha256_64", pa.uint64(), nullable=False),
        pa.field("kept_id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("record", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("taxid", pa.int32()),
    ],
    metadata=SCHEMA_METADATA,
)
"""One record a row whose sequence is in the corpus under another id, ``kept_id``: of records with
one sequence, the first in the order of the input is kept."""


class Category(NamedTuple):
    """A kind of reason for which a record is left out."""

    outcome: str
    label: str


CATEGORIES: dict[int, Category] = {
    1: Category("rejected", "no id"),
    2: Category("rejected", "header is not UTF-8"),
    3: Category("rejected", "empty sequence"),
    4: Category("rejected", "character that is no nucleotide"),
    5: Category("filtered", "shorter than min_length"),
    6: Category("rejected", "longer than max_length"),
    7: Category("rejected", "ambiguity code"),
    8: Category("rejected", "nothing but ambiguity codes"),
    9: Category("filtered", "too many ambiguity codes"),
    10: Category("filtered", "family excluded"),
    11: Category("filtered", "taxid"),
    12: Category("filtered", "RNA type"),
    13: Category("filtered", "database"),
    14: Category("filtered", "not in the id mapping"),
    15: Category("filtered", "sequence excluded"),
    16: Category("rejected", "id of another sequence"),
    17: Category("filtered", "member of an excluded family"),
}
"""Why a record is left out, by code. ``rejected`` records cannot be used; ``filtered`` ones are
left out because the options say so."""


_NUCLEOTIDE_BYTES = "".join(IUPAC_NUCLEOTIDES).encode()


@dataclass(frozen=True)
class Reject:
    """An input record that is not in the corpus, and why."""

    file: str
    record: int
    id: str
    outcome: str
    reason: str


def shard_metadata(path: Path) -> pq.FileMetaData:
    """Read a shard's metadata.

    Raises
    ------
    CorpusError
        If it is no Parquet file, or of a newer schema.
    """
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(path, f"no readable Parquet file ({error})") from error
    check_schema(path, metadata.metadata, SCHEMA_VERSION)
    return metadata


def hash64(text: str) -> int:
    """Return the first eight bytes of the sha256 of ``text``, big-endian."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def is_validation(hashes: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Tell which sequences are kept for validation, from their hash alone."""
    return (hashes % np.uint64(1_000_000)) < np.uint64(round(share * 1_000_000))


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
