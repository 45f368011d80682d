"""Labels as arrays, one a record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.corpus.structure import base_pairs
from riboray.errors import CorpusError
from riboray.finetuning.records import Labelled
from riboray.finetuning.tasks import Task, class_names
from riboray.finetuning.values import class_name, is_missing, number_of
from riboray.model.prediction import MISSING

__all__ = ["UnknownClass", "contact_rows", "encode_label", "pair_marks"]

Target = NDArray[Any]


class UnknownClass(CorpusError):
    """A label of a class that is not among those known."""


def encode_label(record: Labelled, task: Task) -> Target:
    """Turn a record's label into numbers.

    Returns
    -------
    ndarray
        Of a sequence, shape () for ``multiclass``, else (C,); of nucleotides, (n,) or (n, C); of
        pairs, (n, n) or (n, n, C); or, of a structure's pairs, (pairs, 2), dtype int32, the first
        nucleotide of each below the second. Classes are int64, with `MISSING` for what is not
        known; all else float32, with NaN.

    Raises
    ------
    CorpusError
        If it does not fit the sequence or the task; the message names file and record.
    UnknownClass
        If it is of a class that the task has not.
    """
    if task.structures:
        return _of_structure(record, task)
    if task.level == "sequence":
        return _of_one(record.label, record, task)
    label, length = record.label, len(record.sequence)
    if not isinstance(label, str | list):
        raise record.place.refuse(f"its label {label!r} is not one for each nucleotide")
    if len(label) != length:
        raise record.place.refuse(f"a label of {len(label)} items for {length} nucleotides")
    if task.level == "nucleotide":
        return _stack([_of_one(item, record, task) for item in label], task)
    if not all(isinstance(row, list) and len(row) == length for row in label):
        raise record.place.refuse(f"its label is no matrix of {length} by {length}")
    rows = [_stack([_of_one(item, record, task) for item in row], task) for row in label]
    matrix = np.stack(rows)
    if not np.array_equal(matrix, matrix.swapaxes(0, 1), equal_nan=matrix.dtype != np.int64):
        raise record.place.refuse("its matrix of pairs is not symmetric")
    return matrix


def _stack(parts: list[Target], task: Task) -> Target:
    dtype = np.int64 if task.problem == "multiclass" else np.float32
    return np.array(parts, dtype)


def _of_structure(record: Labelled, task: Task) -> Target:
    """Read a structure: its pairs, or which nucleotides have one."""
    label, length = record.label, len(record.sequence)
    if not isinstance(label, str):
        raise record.place.refuse("its label is no structure, as others' are")
    if len(label) != length:
        raise record.place.refuse(f"a structure of {len(label)} symbols for {length} nucleotides")
    try:
        partner = base_pairs(label)
    except ValueError as error:
        raise record.place.refuse(f"its structure cannot be read: {error}") from error
    if task.level == "nucleotide":
        return (partner >= 0).astype(np.float32)[:, None]
    first = np.flatnonzero(partner > np.arange(length))
    return np.stack([first, partner[first]], axis=1).astype(np.int32)


def _of_one(item: Any, record: Labelled, task: Task) -> Target:
    """Encode what is said of one sequence, nucleotide or pair."""
    if task.problem == "regression":
        return _numbers(item, record, task)
    if task.problem == "multilabel":
        return _marks(item, record, task)
    if is_missing(item):
        wide = task.problem == "binary"
        return np.full(1, np.nan, np.float32) if wide else np.array(MISSING, np.int64)
    if isinstance(item, list):
        raise record.place.refuse(f"its label {_short(item)} is not one class")
    number = _class_number(class_name(item), record, task)
    if task.problem == "binary":
        return np.array([number], np.float32)
    return np.array(number, np.int64)


def _numbers(item: Any, record: Labelled, task: Task) -> Target:
    values = item if isinstance(item, list) else [item]
    if len(values) != len(task.labels):
        raise record.place.refuse(f"{len(values)} numbers, where others have {len(task.labels)}")
    found = np.empty(len(values), np.float32)
    for place, value in enumerate(values):
        number = np.nan if is_missing(value) else number_of(value)
        if number is None:
            raise record.place.refuse(f"its label {_short(value)} is no number")
        if np.isinf(number) or abs(number) > np.finfo(np.float32).max:
            raise record.place.refuse(f"its label {_short(value)} is not a finite number")
        found[place] = number
    return found


def _marks(item: Any, record: Labelled, task: Task) -> Target:
    """Encode several labels: named, or 0 and 1 for each."""
    if is_missing(item):
        return np.full(len(task.labels), np.nan, np.float32)
    if isinstance(item, list) and all(is_missing(x) or number_of(x) is not None for x in item):
        if len(item) != len(task.labels):
            raise record.place.refuse(f"{len(item)} marks for {len(task.labels)} labels")
        found = _numbers(item, record, task)
        if not np.isin(found[~np.isnan(found)], (0, 1)).all():
            raise record.place.refuse("marks of labels must be 0 or 1")
        return found
    found = np.zeros(len(task.labels), np.float32)
    for name in class_names(item, "sequence", "multilabel"):
        found[_class_number(name, record, task)] = 1
    return found


def _class_number(name: str, record: Labelled, task: Task) -> int:
    if name not in task.labels:
        known = ", ".join(map(repr, task.labels[:8])) + (", …" if len(task.labels) > 8 else "")
        place = record.place
        raise UnknownClass(place.path, f"class {name!r} is none of {known}", place.number)
    return task.labels.index(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def contact_rows(target: Target, length: int) -> Target:
    """Return the labels of all pairs i < j in a row, by i and then j.

    Parameters
    ----------
    target : ndarray
        As `encode_label` makes it of pairs.
    length : int
        Nucleotides, n.

    Returns
    -------
    ndarray, shape=(n (n - 1) / 2,) or (n (n - 1) / 2, C)
    """
    if target.dtype == np.int32:
        return pair_marks(target, length)[:, None].astype(np.float32)
    rows: Target = target[np.triu_indices(length, 1)]
    return rows


def pair_marks(pairs: NDArray[np.int32], length: int) -> NDArray[np.bool_]:
    """Mark pairs, shape (p, 2), among all with i < j; shape (n (n - 1) / 2,)."""
    marks = np.zeros(length * (length - 1) // 2, np.bool_)
    first, second = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
    marks[first * (2 * length - first - 1) // 2 + second - first - 1] = True
    return marks
