"""Embeddings as an Arrow stream: what tables of `riboray embed` look like, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from riboray.serving.errors import ServiceError
from riboray.serving.inputs import Checked, Entry

__all__ = ["ARROW_TYPE", "arrow_stream"]

ARROW_TYPE = "application/vnd.apache.arrow.stream"
"""Media type of an Arrow IPC stream, as registered."""


def arrow_stream(
    ids: Sequence[str | None], checked: Checked, found: Sequence[Any], width: int, per_base: bool
) -> bytes:
    """Write embeddings as an Arrow IPC stream.

    Parameters
    ----------
    ids : sequence of str or None
        Names of the sequences.
    checked : list of Entry or ServiceError
        The sequences.
    found : sequence
        An array of shape (width,), or (length, width) per base, or a `ServiceError`, for each.
    width : int
        Numbers of an embedding.
    per_base : bool
        Whether there is one for every base.

    Returns
    -------
    bytes
        Columns ``index``, ``id``, ``length``, ``embedding`` (fixed-size lists of float32; lists of
        those per base), ``error`` and ``message``; embedding or error is null.
    """
    good = np.array([not isinstance(result, ServiceError) for result in found], dtype=np.bool_)
    sizes = [
        len(e.sequence) if isinstance(e, Entry) and ok else 0
        for e, ok in zip(checked, good, strict=True)
    ]
    rows = [result for result, ok in zip(found, good, strict=True) if ok]
    flat = np.concatenate([np.ravel(row) for row in rows]) if rows else np.empty(0, np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width)
    if per_base:
        offsets = pa.array(np.cumsum([0, *sizes]), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, vectors)
        embedding = lists.take(
            pa.array([k if ok else None for k, ok in enumerate(good)], pa.int64())
        )
    else:
        places = np.cumsum(good) - 1
        taken = [int(place) if ok else None for place, ok in zip(places, good, strict=True)]
        embedding = vectors.take(pa.array(taken, pa.int64()))
    errors = [result if isinstance(result, ServiceError) else None for result in found]
    table = pa.table(
        {
            "index": pa.array(range(len(found)), pa.int32()),
            "id": pa.array(list(ids), pa.string()),
            "length": pa.array(
                [n if ok else None for n, ok in zip(sizes, good, strict=True)], pa.int32()
            ),
            "embedding": embedding,
            "error": pa.array([e and str(e.code) for e in errors], pa.string()),
            "message": pa.array([e and e.message for e in errors], pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
