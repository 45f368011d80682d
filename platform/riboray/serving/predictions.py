"""What is asked of prediction models and what they answer."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from riboray.model.prediction import HeadConfig
from riboray.predicting.folding import dot_bracket
from riboray.predicting.predictor import applying, likeliest, likely_pairs
from riboray.serving.inputs import Entry
from riboray.serving.schemas import ErrorBody, StrictRequest, Text, Usage
from riboray.serving.work import Prediction

__all__ = [
    "Pair",
    "PredictItem",
    "PredictRequest",
    "PredictResponse",
    "numbers_of",
    "predicted_item",
    "threshold_of",
]


class PredictRequest(StrictRequest):
    """Sequences to predict something of."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sequences": ["GGGAAAACCC"]}]},
    )
    sequences: list[Text] = Field(min_length=1, description="One or many sequences.")
    threshold: Annotated[float, Field(ge=0, le=1, strict=False)] | None = Field(
        default=None,
        description="Of contacts: the least probability of a pair that is told; by default the "
        "model's own.",
    )
    canonical: bool = Field(
        default=True, description="Of contacts: only AU, CG and GU pair in the structure."
    )
    matrix: bool = Field(default=False, description="Of contacts: the numbers of all pairs, too.")


class Pair(BaseModel):
    """Two nucleotides that may pair."""

    i: int = Field(description="From 0 on.")
    j: int = Field(description="Above i.")
    probability: float


class PredictItem(BaseModel):
    """What is predicted of a sequence, or what is wrong with it."""

    index: int
    id: str | None = None
    values: SkipValidation[list[float] | list[list[float]] | list[list[list[float]]] | None] = (
        Field(
            default=None,
            description="Probabilities, or what a regression predicts, in the order of `outputs`: "
            "of the sequence, of each nucleotide, or, if asked for, of each pair.",
        )
    )
    label: str | None = Field(default=None, description="Of the sequence: the likeliest class.")
    labels: list[str] | None = Field(
        default=None, description="The likeliest class of each nucleotide; all that apply."
    )
    pairs: SkipValidation[list[Pair] | None] = Field(
        default=None, description="Likely pairs, by their first."
    )
    structure: str | None = Field(
        default=None,
        description="Dot-bracket: without crossing pairs, the most probability above threshold.",
    )
    error: ErrorBody | None = None


class PredictResponse(BaseModel):
    """Predictions, in the order of the request."""

    task: str
    model: str
    level: str
    problem: str
    outputs: list[str] = Field(description="What the values are, in their order.")
    results: list[PredictItem]
    usage: Usage


def threshold_of(head: HeadConfig, request: PredictRequest) -> float:
    """Return the probability from which on a pair is told."""
    return head.threshold if request.threshold is None else request.threshold


def numbers_of(head: HeadConfig, request: PredictRequest, found: list[Any]) -> int:
    """Count the numbers that an answer would have, before it is made."""
    count = 0
    for prediction in found:
        if not isinstance(prediction, Prediction):
            continue
        if head.level != "contact" or request.matrix:
            count += prediction.rows.size
        if head.level == "contact" and head.problem == "binary":
            likely = prediction.rows >= threshold_of(head, request)
            count += 3 * int(np.count_nonzero(likely)) // 2
    return count


def predicted_item(
    head: HeadConfig, request: PredictRequest, index: int, entry: Entry, found: Prediction
) -> PredictItem:
    """Show what was predicted of a sequence."""
    told: dict[str, Any] = {}
    if head.level != "contact" or request.matrix:
        told["values"] = found.rows.tolist()
    if head.level == "contact" and head.problem == "binary":
        likely = likely_pairs(found.rows[..., 0], threshold_of(head, request))
        told["pairs"] = [Pair.model_construct(**pair) for pair in likely]
    if found.partner is not None:
        told["structure"] = dot_bracket(found.partner)
    if head.level == "sequence":
        told |= _of_sequence(head, found.rows)
    elif head.level == "nucleotide" and head.problem in ("binary", "multiclass"):
        told["labels"] = [head.labels[k] for k in likeliest(found.rows, head).tolist()]
    return PredictItem(index=index, id=entry.id, **told)


def _of_sequence(head: HeadConfig, row: NDArray[np.float32]) -> dict[str, Any]:
    if head.problem == "multilabel":
        return {"labels": applying(row, head)}
    if head.problem == "regression":
        return {}
    return {"label": head.labels[int(likeliest(row, head))]}
