"""Columns of the files that are made of sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray import __version__

__all__ = [
    "SCHEMA_VERSION",
    "SEQUENCE_FIELDS",
    "WINDOW_FIELDS",
    "annotation_fields",
    "column_name",
    "embedding_schema",
    "part_schema",
    "ragged",
    "schema_of",
]


#: Of files of embeddings.
SCHEMA_VERSION = 2


def column_name(kind: str, layer: int, layers: Sequence[int]) -> str:
    """Return what the column of a layer is called: it is numbered if there are several."""
    return kind if len(layers) == 1 else f"{kind}_layer_{layer}"


SEQUENCE_FIELDS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("sequence", pa.string(), nullable=False),
    pa.field("length", pa.int32(), nullable=False),
)
WINDOW_FIELDS = (
    pa.field("windows", pa.int32(), nullable=False),
    pa.field("truncated", pa.bool_(), nullable=False),
)


def embedding_schema(
    width: int,
    dtype: str,
    metadata: dict[str, str],
    *,
    layers: Sequence[int] = (0,),
    per_base: str | None = None,
    likelihood: bool = False,
    annotations: Sequence[str] = (),
) -> pa.Schema:
    """Return the schema of an embedding file.

    Parameters
    ----------
    width : int
        Size of an embedding.
    dtype : str
        ``float32`` or ``float16``, of the pooled embeddings.
    metadata : dict of str
        Model, pooling and so on, stored as ``riboray.KEY``.
    layers : sequence of int
        Layers that are there.
    per_base : str, optional
        Type of the base embeddings; without it there are none.
    likelihood : bool
        Whether there are columns of pseudo-log-likelihoods and pseudo-perplexities.
    annotations : sequence of str
        Columns carried along from the input: ``taxid``, ``rna_type``, ``family``.
    """
    types = {"float16": pa.float16(), "float32": pa.float32()}
    pooled = pa.list_(types[dtype], width)
    fields = list(SEQUENCE_FIELDS)
    for layer in layers:
        fields.append(pa.field(column_name("embedding", layer, layers), pooled, nullable=False))
    fields += WINDOW_FIELDS
    if likelihood:
        fields.append(pa.field("log_likelihood", pa.float32(), nullable=False))
        fields.append(pa.field("pseudo_perplexity", pa.float32(), nullable=False))
    fields += annotation_fields(annotations)
    if per_base is not None:
        bases = pa.list_(pa.list_(types[per_base], width))
        for layer in layers:
            fields.append(pa.field(column_name("per_base", layer, layers), bases, nullable=False))
    return schema_of(fields, {**metadata, "schema_version": str(SCHEMA_VERSION)})


def annotation_fields(annotations: Sequence[str]) -> list[pa.Field]:
    """Return the fields of columns that are carried along from the input."""
    return [pa.field(name, pa.int32() if name == "taxid" else pa.string()) for name in annotations]


def schema_of(fields: Sequence[pa.Field], metadata: dict[str, str]) -> pa.Schema:
    """Return a schema whose metadata is stored as ``riboray.KEY``."""
    text = {**metadata, "riboray_version": __version__}
    return pa.schema(fields, {f"riboray.{k}".encode(): v.encode() for k, v in text.items()})


def part_schema(
    fields: Sequence[pa.Field], annotations: Sequence[str], metadata: dict[str, str]
) -> pa.Schema:
    """Return the schema of what is made of sequences, beside what is told of each in any case."""
    given = [*SEQUENCE_FIELDS, *fields, *WINDOW_FIELDS, *annotation_fields(annotations)]
    return schema_of(given, {"schema_version": "1", **metadata})


def ragged(
    rows: Sequence[NDArray[np.floating]], width: int, kind: str, *, missing: bool = False
) -> pa.Array:
    """Return numbers of shape (k, width) each, whatever k, as a list of lists.

    ``kind`` is the type to store; with ``missing``, NaN is none.
    """
    flat = (
        np.concatenate([row.astype(kind) for row in rows]) if rows else np.empty((0, width), kind)
    )
    inner = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), from_pandas=missing), width)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)
