"""Parts of answers, made of what was computed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.alignment.candidates import stored_texts
from riboray.alignment.index import SearchIndex
from riboray.alphabet import Vocabulary
from riboray.serving.errors import ServiceError
from riboray.serving.inputs import Checked, Entry
from riboray.serving.predictions import PredictItem
from riboray.serving.schemas import (
    AlignItem,
    EmbedItem,
    EmbedRequest,
    ErrorBody,
    FillItem,
    HiddenNucleotide,
    MapItem,
    Named,
    SearchHit,
    SearchItem,
    Text,
    TokenizeItem,
    Usage,
)
from riboray.serving.work import Aligned

__all__ = [
    "aligned_item",
    "as_base64",
    "embedded_item",
    "error_body",
    "filled_item",
    "found_item",
    "item_of",
    "items_of",
    "name_of",
    "named_texts",
    "usage_of",
    "with_targets",
]

Rows = NDArray[np.float32]

Item = TypeVar(
    "Item", AlignItem, EmbedItem, FillItem, MapItem, PredictItem, SearchItem, TokenizeItem
)


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


def item_of(
    kind: type[Item],
    index: int,
    text: Text,
    entry: Entry | ServiceError,
    found: Any,
    make: Callable[[int, Entry, Any], Item],
) -> Item:
    """Say what became of one sequence of a request: what was found, or what is wrong with it.

    Parameters
    ----------
    kind : type
        Of the item: it has an index, a name and an error.
    index : int
        Which sequence.
    text : Text
        As it was given.
    entry : Entry or ServiceError
        As it was checked.
    found : object or ServiceError
        As it was computed.
    make : callable
        Makes the item of index, entry and what was found.
    """
    wrong = found if isinstance(found, ServiceError) else entry
    if isinstance(wrong, ServiceError):
        return kind(index=index, id=name_of(text), error=error_body(wrong))
    return make(index, wrong, found)


def items_of(
    kind: type[Item],
    texts: Sequence[Text],
    checked: Checked,
    found: Sequence[Any],
    make: Callable[[int, Entry, Any], Item],
) -> list[Item]:
    """Say what became of every sequence of a request; see `item_of`."""
    rows = enumerate(zip(texts, checked, found, strict=True))
    return [item_of(kind, index, *row, make) for index, row in rows]


def embedded_item(request: EmbedRequest, index: int, entry: Entry, found: Rows) -> EmbedItem:
    """Show the embedding of a sequence or of its bases."""
    shown = as_base64(found) if request.encoding == "base64" else found.tolist()
    return EmbedItem(index=index, id=entry.id, length=len(entry.sequence), embedding=shown)


def filled_item(tokens: Vocabulary, top_k: int, index: int, entry: Entry, found: Rows) -> FillItem:
    """Show what the model expects at hidden places, from probabilities of shape (k, tokens)."""
    names, text, hidden = tokens.tokens, list(entry.sequence), []
    letters = [k for k, name in enumerate(names) if name in "ACGU"]
    for place, row in zip(entry.hidden, found, strict=True):
        order = np.argsort(-row, kind="stable")[:top_k]
        told = {names[k]: float(row[k]) for k in order.tolist()}
        hidden.append(HiddenNucleotide(position=place, probabilities=told))
        text[place] = names[letters[int(row[letters].argmax())]]
    return FillItem(index=index, id=entry.id, filled="".join(text), hidden=hidden)


def found_item(index: int, entry: Entry, hits: pa.Table) -> SearchItem:
    """Show what was found in a database, a table of `SearchIndex.search`."""
    rows = hits.select(list(SearchHit.model_fields.keys() & set(hits.column_names))).to_pylist()
    return SearchItem(index=index, id=entry.id, hits=[SearchHit(**row) for row in rows])


def with_targets(index: SearchIndex, hits: Any) -> Any:
    """Add the targets' sequences to a table of `SearchIndex.search`; leave errors alone."""
    if isinstance(hits, ServiceError):
        return hits
    rows = hits["row"].to_numpy()
    order = np.argsort(rows)
    texts = stored_texts(index.database, rows[order])
    sequences = [""] * len(rows)
    for place, k in enumerate(order.tolist()):
        sequences[k] = texts.text(place)
    return hits.append_column("sequence", pa.array(sequences, pa.string()))


def usage_of(checked: Checked) -> Usage:
    """Count what was computed."""
    sizes = [len(entry.sequence) for entry in checked if isinstance(entry, Entry)]
    return Usage(sequences=len(sizes), nucleotides=sum(sizes))


def as_base64(rows: Rows) -> str:
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
