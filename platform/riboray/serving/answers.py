"""Parts of answers, made of what was computed."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.serving.errors import ServiceError
from riboray.serving.inputs import Checked, Entry
from riboray.serving.schemas import (
    AlignItem,
    EmbedItem,
    EmbedRequest,
    ErrorBody,
    Named,
    Text,
    Usage,
)
from riboray.serving.work import Aligned

__all__ = [
    "aligned_item",
    "as_base64",
    "embed_item",
    "error_body",
    "name_of",
    "named_texts",
    "usage_of",
]


def error_body(error: ServiceError) -> ErrorBody:
    """Say what is wrong as an answer says it."""
    kind = "server_error" if error.code.status >= 500 else "invalid_request_error"
    return ErrorBody(
        code=error.code,
        message=error.message,
        type=kind,
        index=error.index,
        position=error.position,
    )


def named_texts(texts: Iterable[Text]) -> list[tuple[str | None, str]]:
    """Return name, if there is one, and text of each sequence of a request."""
    return [(t.id, t.sequence) if isinstance(t, Named) else (None, t) for t in texts]


def name_of(text: Text) -> str | None:
    """Return the name of a sequence, cut short if it is too long to be one."""
    return text.id[:1000] if isinstance(text, Named) and text.id else None


def embed_item(
    request: EmbedRequest, index: int, entry: Entry | ServiceError, found: Any
) -> EmbedItem:
    """Say what became of one sequence that was to be embedded: an array, or an error."""
    name = name_of(request.sequences[index])
    if isinstance(found, ServiceError) or not isinstance(entry, Entry):
        return EmbedItem(index=index, id=name, error=error_body(found))
    shown = as_base64(found) if request.encoding == "base64" else found.tolist()
    return EmbedItem(index=index, id=name, length=len(entry.sequence), embedding=shown)


def usage_of(checked: Checked) -> Usage:
    """Count what was computed."""
    sizes = [len(entry.sequence) for entry in checked if isinstance(entry, Entry)]
    return Usage(sequences=len(sizes), nucleotides=sum(sizes))


def as_base64(rows: NDArray[np.float32]) -> str:
    """Write numbers as OpenAI does: little-endian float32, row by row, in base64."""
    return base64.b64encode(np.ascontiguousarray(rows, dtype="<f4").tobytes()).decode("ascii")


def aligned_item(index: int, entry: Entry, found: Aligned) -> AlignItem:
    """Say how a target is aligned."""
    figures = found.figures
    scores = [None if np.isnan(s) else round(float(s), 6) for s in found.view.similarity]
    return AlignItem(
        index=index,
        id=entry.id,
        score=found.score,
        cigar=found.cigar,
        query_aligned=found.view.rows[0],
        target_aligned=found.view.rows[1],
        column_scores=scores,
        identities=figures["identities"],
        aligned_length=figures["aligned_length"],
        query_start=figures["query_start"],
        query_end=figures["query_end"],
        target_start=figures["target_start"],
        target_end=figures["target_end"],
        similarity=None if found.similarity is None else found.similarity.tolist(),
    )
