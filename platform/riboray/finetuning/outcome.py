"""Measurements and predictions of a trained model, made as `riboray predict` makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.errors import RiborayError
from riboray.finetuning.datasets import Dataset
from riboray.finetuning.metrics import Evidence, compute_metrics
from riboray.finetuning.structures import (
    THRESHOLDS,
    FoldedRna,
    best_threshold,
    fold_rna,
    structure_metrics,
)
from riboray.finetuning.targets import contact_rows
from riboray.model.prediction import PLACES, HeadConfig, RnaBertForPrediction
from riboray.predicting.predictor import Predictor, applying, likeliest

__all__ = ["Outcome", "choose_threshold", "measure_model"]

#: Numbers that are predicted at a time.
_AT_ONCE = 1 << 24

#: Records that the threshold of structures is chosen by, at most.
_MOST_FOLDED = 200

Rows = NDArray[np.int64]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What came of a model.

    Attributes
    ----------
    metrics : dict of str to float
        See `compute_metrics`; of structures, the means of `FoldedRna` besides, as
        ``structure_f1`` and so on.
    predictions : Table
        One row a record: its place among the data, what it is and what is predicted.
    confusion : list of list of int, optional
        Of classes: how many of each, a row, were taken for each.
    """

    metrics: dict[str, float]
    predictions: pa.Table
    confusion: list[list[int]] | None = None


def _predicted(predictor: Predictor, data: Dataset, rows: Rows) -> Iterator[tuple[int, Values]]:
    """Yield records and what is predicted of them."""
    places = PLACES[predictor.head.level]
    chunk: list[int] = []
    size = 0
    for row in [*rows.tolist(), None]:
        if row is None or size > _AT_ONCE:
            found = predictor.predict([data.sequences[k] for k in chunk])
            for reason in found.failed.values():
                raise RiborayError(f"a record could not be predicted: {reason}")
            yield from zip(chunk, found.rows, strict=True)
            chunk, size = [], 0
        if row is not None:
            chunk.append(row)
            size += max(len(data.sequences[row]) ** places, 1) * predictor.head.outputs


def choose_threshold(
    model: RnaBertForPrediction, data: Dataset, rows: Rows
) -> RnaBertForPrediction:
    """Have a model of base pairs know from which probability on they make the best structures.

    Parameters
    ----------
    model : RnaBertForPrediction
        Any model; only one of structures is changed.
    data : Dataset
        Records.
    rows : ndarray, dtype=int64
        Those to choose by; none of what is tested on.
    """
    if not (data.task.structures and data.task.level == "contact" and len(rows)):
        return model
    folded: dict[float, list[FoldedRna]] = {threshold: [] for threshold in THRESHOLDS}
    for row, chances in _predicted(Predictor(model), data, rows[:_MOST_FOLDED]):
        for threshold, found in folded.items():
            reference = data.targets[row]
            found.append(fold_rna(chances[..., 0], data.sequences[row], reference, threshold))
    model.head_config = replace(model.head_config, threshold=best_threshold(folded))
    return model


@dataclass
class _Columns:
    """Columns of predictions."""

    row: list[int] = field(default_factory=list)
    label: list[Any] = field(default_factory=list)
    prediction: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


def measure_model(model: RnaBertForPrediction, data: Dataset, rows: Rows) -> Outcome:
    """Predict records by the way that users take, and measure.

    Parameters
    ----------
    model : RnaBertForPrediction
        In evaluation mode; on the CPU.
    data : Dataset
        Records.
    rows : ndarray, dtype=int64
        Those to measure on.
    """
    head = model.head_config
    evidence, columns, folded = Evidence(), _Columns(), list[FoldedRna]()
    for row, values in _predicted(Predictor(model), data, rows):
        target, sequence = data.targets[row], data.sequences[row]
        columns.row.append(row)
        if head.level == "contact":
            _add_pairs(evidence, head, values, target)
            if data.task.structures:
                folded.append(fold_rna(values[..., 0], sequence, target, head.threshold))
            continue
        width = () if head.problem == "multiclass" else (head.outputs,)
        evidence.add_values(values.reshape(-1, head.outputs), target.reshape(-1, *width))
        columns.label.append(_named(target, head))
        columns.prediction.append(_called(values, head))
        columns.values.append(values.ravel())
    metrics = compute_metrics(evidence, head) | structure_metrics(folded)
    return Outcome(metrics, _table(columns, folded, head), _confusion(evidence, head))


def _add_pairs(evidence: Evidence, head: HeadConfig, values: Values, target: Any) -> None:
    length = len(values)
    if length < 2:
        return
    predicted, marks = values[np.triu_indices(length, 1)], contact_rows(target, length)
    if head.problem == "binary":
        evidence.add_pairs(predicted.ravel(), marks.ravel(), length)
    else:
        evidence.add_some(predicted, marks)


def _named(target: NDArray[Any], head: HeadConfig) -> Any:
    """Return a label as a person reads it: names of a sequence, numbers of nucleotides."""
    if head.level == "nucleotide" or head.problem == "regression":
        return target.astype(np.float32).ravel().tolist()
    if head.problem == "multilabel":
        return [head.labels[k] for k in np.flatnonzero(target == 1)]
    value = target.reshape(-1)[0]
    return None if np.isnan(value) or value < 0 else head.labels[int(value)]


def _called(values: Values, head: HeadConfig) -> Any:
    """Return what is predicted in the form of a label."""
    if head.problem == "regression":
        return values.ravel().tolist()
    if head.problem == "multilabel":
        if head.level == "sequence":
            return applying(values, head)
        return (values >= 0.5).astype(np.float32).ravel().tolist()
    found = likeliest(values, head)
    return head.labels[int(found)] if head.level == "sequence" else found.astype(float).tolist()


def _table(columns: _Columns, folded: Sequence[FoldedRna], head: HeadConfig) -> pa.Table:
    table: dict[str, Any] = {"row": pa.array(columns.row, pa.int64())}
    if head.level == "contact":
        if folded:
            table["structure"] = pa.array([rna.structure for rna in folded], pa.string())
            for name in ("f1", "sensitivity", "ppv"):
                table[name] = pa.array([getattr(rna, name) for rna in folded], pa.float32())
        return pa.table(table)
    kind = _label_type(head)  # said, as a fold may have none of what another has
    table["label"] = pa.array(columns.label, kind)
    table["prediction"] = pa.array(columns.prediction, kind)
    table["values"] = pa.array(columns.values, pa.list_(pa.float32()))
    return pa.table(table)


def _label_type(head: HeadConfig) -> pa.DataType:
    if head.level == "nucleotide" or head.problem == "regression":
        return pa.list_(pa.float32())
    return pa.list_(pa.string()) if head.problem == "multilabel" else pa.string()


def _confusion(evidence: Evidence, head: HeadConfig) -> list[list[int]] | None:
    if head.problem not in ("binary", "multiclass") or not evidence.predictions:
        return None
    values = np.concatenate(evidence.predictions)
    real = np.concatenate(evidence.targets).reshape(len(values), -1)[:, 0]
    known = ~np.isnan(real) & (real >= 0)
    count = len(head.labels)
    found = np.zeros((count, count), np.int64)
    np.add.at(found, (real[known].astype(int), likeliest(values, head)[known]), 1)
    table: list[list[int]] = found.tolist()
    return table
