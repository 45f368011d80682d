"""Reported pairs as an Arrow table and as 12-column TSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from riboray.alignment.sides import TileHits
from riboray.alignment.statistics import NullModel
from riboray.manifest import atomic_path

__all__ = [
    "HIT_SCHEMA",
    "SCHEMA_VERSION",
    "SCORE_SCHEMA",
    "TSV_COLUMNS",
    "hits_table",
    "tsv_header",
    "write_arrow",
    "write_tsv",
]

SCHEMA_VERSION = 1
_METADATA = {b"riboray.schema_version": str(SCHEMA_VERSION).encode()}

_NAMES = pa.dictionary(pa.int32(), pa.string())

SCORE_SCHEMA = pa.schema(
    [
        pa.field("query", _NAMES, nullable=False),
        pa.field("target", _NAMES, nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("normalised_score", pa.float32(), nullable=False),
        pa.field("z_score", pa.float32()),
        pa.field("evalue", pa.float64()),
    ],
    metadata=_METADATA,
)
"""One pair a row, scores only. ``normalised_score`` is the score over the length of the shorter
sequence: its largest possible value is 1. Without statistics the last two are null."""

HIT_SCHEMA = pa.schema(
    [
        *SCORE_SCHEMA,
        pa.field("identity", pa.float32(), nullable=False),
        pa.field("aligned_length", pa.int32(), nullable=False),
        pa.field("mismatches", pa.int32(), nullable=False),
        pa.field("gap_opens", pa.int32(), nullable=False),
        pa.field("query_start", pa.int32(), nullable=False),
        pa.field("query_end", pa.int32(), nullable=False),
        pa.field("target_start", pa.int32(), nullable=False),
        pa.field("target_end", pa.int32(), nullable=False),
        pa.field("cigar", pa.string(), nullable=False),
    ],
    metadata=_METADATA,
)
"""One aligned pair a row. ``identity`` is identical over all aligned pairs; the other figures are
those of `riboray.alignment.described.Description`."""

TSV_COLUMNS = {
    "query": "query",
    "target": "target",
    "fident": "identity",
    "alnlen": "aligned_length",
    "mismatch": "mismatches",
    "gapopen": "gap_opens",
    "qstart": "query_start",
    "qend": "query_end",
    "tstart": "target_start",
    "tend": "target_end",
    "evalue": "evalue",
    "score": "score",
}
"""Column of the TSV file to column of the table: the order of MMseqs2's and BLAST's tables, with
the alignment's score where they have a bit score."""

_SCORE_COLUMNS = {
    "query": "query",
    "target": "target",
    "evalue": "evalue",
    "score": "score",
}


def hits_table(
    hits: TileHits,
    ids: Sequence[str],
    lengths: np.ndarray[tuple[int], np.dtype[np.int32]],
    null: NullModel | None,
    comparisons: int,
    target_ids: Sequence[str] | None = None,
    target_lengths: np.ndarray[tuple[int], np.dtype[np.int32]] | None = None,
) -> pa.Table:
    """Make a table of reported pairs.

    Parameters
    ----------
    hits : TileHits
        Pairs by index.
    ids, lengths : sequence of str, ndarray
        Names and lengths of all sequences, or of the queries.
    null : NullModel, optional
        Chance scores; without, ``z_score`` and ``evalue`` are null.
    comparisons : int
        Pairs compared in all, for E-values.
    target_ids, target_lengths : optional
        Names and lengths of the targets if they are others.

    Returns
    -------
    pyarrow.Table
        Of `HIT_SCHEMA`, or of `SCORE_SCHEMA` if there are no alignments.
    """
    target_ids = ids if target_ids is None else target_ids
    target_lengths = lengths if target_lengths is None else target_lengths
    of_query, of_target = lengths[hits.query], target_lengths[hits.target]
    z_scores = evalues = None
    if null is not None:
        z_scores = null.z_scores(hits.score, of_query, of_target, hits.affinity)
        evalues = null.evalues(z_scores, comparisons)
    columns: dict[str, object] = {
        "query": _names(hits.query, ids),
        "target": _names(hits.target, target_ids),
        "score": hits.score,
        "normalised_score": hits.score / np.minimum(of_query, of_target),
        "z_score": pa.nulls(len(hits.score)) if z_scores is None else z_scores,
        "evalue": pa.nulls(len(hits.score)) if evalues is None else evalues,
    }
    schema = SCORE_SCHEMA
    if hits.values is not None:
        schema = HIT_SCHEMA
        pairs = hits.values["identities"] + hits.values["mismatches"]
        columns |= {
            "identity": hits.values["identities"] / np.maximum(pairs, 1),
            **hits.values,
            "cigar": hits.cigar,
        }
    arrays = [_cast(columns[name], schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def _cast(values: object, kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array if array.type == kind else array.cast(kind, safe=False)


def _names(index: np.ndarray[tuple[int], np.dtype[np.int64]], ids: Sequence[str]) -> pa.Array:
    """Encode names by dictionary, with those that occur only."""
    used, codes = np.unique(index, return_inverse=True)
    names = pa.array([ids[k] for k in used.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)


def write_arrow(table: pa.Table, path: Path, metadata: dict[str, str]) -> None:
    """Write an Arrow IPC file, whole or not at all, with text for its schema's metadata."""
    extra = {f"riboray.{key}".encode(): value.encode() for key, value in metadata.items()}
    schema = table.schema.with_metadata({**table.schema.metadata, **extra})
    # Dictionaries differ from chunk to chunk; one batch has one.
    whole = table.cast(schema).unify_dictionaries().combine_chunks()
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(whole)


def tsv_header(scores_only: bool) -> str:
    """Return the first line of the TSV file."""
    return "\t".join(_SCORE_COLUMNS if scores_only else TSV_COLUMNS) + "\n"


def write_tsv(table: pa.Table, path: Path) -> None:
    """Write the 12 columns (without alignments: four) as TSV, without a header.

    A name is written as it is: a FASTA id holds no white space, and nothing is quoted.
    """
    chosen = TSV_COLUMNS if "cigar" in table.column_names else _SCORE_COLUMNS
    text = pa.table(
        {
            name: table[source].cast(pa.string())
            if source in ("query", "target")
            else table[source]
            for name, source in chosen.items()
        }
    )
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with atomic_path(path) as temporary, temporary.open("wb") as sink:
        if any(_needs_care(text[name]) for name in ("query", "target")):
            # The same digits as Arrow's writer, without its quotes.
            columns = [column.cast(pa.string()).to_pylist() for column in text.columns]
            for row in zip(*columns, strict=True):
                sink.write(("\t".join(v or "" for v in row) + "\n").encode())
        else:
            pyarrow.csv.write_csv(text, sink, options)


def _needs_care(names: pa.ChunkedArray) -> bool:
    """Whether a name holds what Arrow's writer refuses to write unquoted."""
    unique = pa.compute.unique(names)
    return bool(pa.compute.any(pa.compute.match_substring_regex(unique, '["\\r\\n\\t]')).as_py())
