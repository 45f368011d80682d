"""Labelled RNAs as what workers train on: sequences, labels as arrays, folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.corpus.records import Reject
from riboray.errors import ConfigError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.records import Labelled, read_records
from riboray.finetuning.splitting import PARTS, Fold, find_groups, make_folds
from riboray.finetuning.targets import UnknownClass, encode_label
from riboray.finetuning.tasks import Task, find_task
from riboray.model.prediction import HeadConfig

__all__ = ["Dataset", "Prepared", "class_counts", "describe_counts", "prepare"]


@dataclass(frozen=True)
class Dataset:
    """Labelled RNAs.

    Attributes
    ----------
    task : Task
        What is predicted.
    sequences : list of str
        Upper case, with U.
    targets : list of ndarray
        Of each, see `encode_label`.
    """

    task: Task
    sequences: list[str]
    targets: list[NDArray[Any]]

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class Prepared:
    """What a run learns from, and how every record is accounted for.

    Attributes
    ----------
    data : Dataset
        All records that are used.
    ids, groups : list of str
        Of each.
    folds : list of Fold
        What is trained on and measured: one, or those of a cross-validation.
    rejects : list of Reject
        Records left out, and why; of a cross-validation, also those left out of single folds.
    read : int
        Records in the files.
    shared : int
        Records to validate or test on whose very sequence is trained on, too, as files or parts
        that were given may have it.
    """

    data: Dataset
    ids: list[str]
    groups: list[str]
    folds: list[Fold]
    rejects: list[Reject]
    read: int
    shared: int

    def table(self) -> pa.Table:
        """Tell what each record is for; one row for each and fold."""
        rows: dict[str, list[Any]] = {"id": [], "group": [], "fold": [], "part": []}
        by_text = self.groups == self.data.sequences
        for fold in self.folds:
            for part in PARTS:
                for row in getattr(fold, part).tolist():
                    rows["id"].append(self.ids[row])
                    rows["group"].append("" if by_text else self.groups[row])
                    rows["fold"].append(fold.name)
                    rows["part"].append(part)
        return pa.table(rows)


def prepare(config: FinetuneConfig, head: HeadConfig | None, *, ambiguity: bool) -> Prepared:
    """Read, encode and split what a run is given.

    Parameters
    ----------
    config : FinetuneConfig
        Files and how to take them.
    head : HeadConfig, optional
        Of the model, if it has one that is kept.
    ambiguity : bool
        Whether its vocabulary has IUPAC ambiguity codes.

    Raises
    ------
    InputError
        If a file, a record or a label cannot be used; the message names file and record.
    ConfigError
        If options do not fit the data.
    """
    read = read_records(config, ambiguity=ambiguity)
    task = find_task(_to_learn_from(read.records, config), config, head)
    rejects = list(read.rejects)
    records, targets = [], []
    for record in read.records:
        try:
            targets.append(encode_label(record, task))
            records.append(record)
        except UnknownClass as error:
            if config.on_unknown == "error" or record.part in (None, "train"):
                raise
            rejects.append(record.reject(error.reason))
    groups = find_groups(records, config)
    if config.split in ("family", "cluster"):
        kept = _apart(records, groups, rejects)
        records, targets = [records[k] for k in kept], [targets[k] for k in kept]
        groups = [groups[k] for k in kept]
    folds = make_folds(records, groups, _classes(targets, task), config)
    folds = [_checked(fold, records, targets, task, config, rejects) for fold in folds]
    data = Dataset(task, [r.sequence for r in records], targets)
    ids, total = [r.id for r in records], len(read.records) + len(read.rejects)
    shared = 0 if config.cross_validates else _shared([r.sequence for r in records], folds[0])
    return Prepared(data, ids, groups, folds, rejects, total, shared)


def _apart(records: list[Labelled], groups: list[str], rejects: list[Reject]) -> list[int]:
    """Leave out of training what belongs to a group that files to validate or test on have."""
    held = {g for r, g in zip(records, groups, strict=True) if r.part in ("validation", "test")}
    kept = []
    for k, (record, group) in enumerate(zip(records, groups, strict=True)):
        if record.part == "train" and group in held:
            rejects.append(record.reject("its family or cluster is validated or tested on"))
        else:
            kept.append(k)
    return kept


def _shared(sequences: list[str], fold: Fold) -> int:
    """Count records to validate or test on whose very sequence is trained on."""
    trained = {sequences[row] for row in fold.train.tolist()}
    held = [*fold.validation.tolist(), *fold.test.tolist()]
    return sum(sequences[row] in trained for row in held)


def _to_learn_from(records: Sequence[Labelled], config: FinetuneConfig) -> list[Labelled]:
    """Return the records that may be trained on, as far as files and columns say."""
    told = config.split == "column" and not config.cross_validates
    if not told and not config.validation and not config.test:
        return list(records)
    found = [r for r in records if (r.part or "train").lower() in ("train", "training")]
    if not found:
        raise records[0].place.refuse("no record is to train on, by its part")
    return found


def _classes(targets: Sequence[NDArray[Any]], task: Task) -> list[int] | None:
    """Return the class of each record, where it has one."""
    if task.level != "sequence" or task.problem not in ("binary", "multiclass"):
        return None
    values = [target.reshape(-1)[0] for target in targets]
    return [0 if np.isnan(value) or value < 0 else int(value) for value in values]


def class_counts(targets: Sequence[NDArray[Any]], task: Task) -> NDArray[np.float64]:
    """Count labels.

    Returns
    -------
    ndarray
        Of ``multiclass``, how many are of each class, shape (C,); of ``binary`` and
        ``multilabel``, how many are no and yes in each output, shape (2, C). Of a structure's
        pairs, all of an RNA's that are not among them are no.
    """
    count = 1 if task.problem == "binary" else len(task.labels)
    if task.problem == "multiclass":
        found = np.zeros(count)
        for target in targets:
            found += np.bincount(target[target >= 0].ravel(), minlength=count)
        return found
    marks = np.zeros((2, count))
    for target in targets:
        flat = target.reshape(-1, count)
        marks[1] += np.nansum(flat, axis=0)
        marks[0] += np.nansum(1 - flat, axis=0)
    return marks


def _checked(
    fold: Fold,
    records: list[Labelled],
    targets: list[NDArray[Any]],
    task: Task,
    config: FinetuneConfig,
    rejects: list[Reject],
) -> Fold:
    """Find out whether a fold's training records tell the classes apart, and know all of them."""
    first = records[int(fold.train[0])]
    if task.problem == "regression":
        known = np.zeros(len(task.labels), np.bool_)
        for row in fold.train.tolist():
            known |= ~np.isnan(targets[row].reshape(-1, len(task.labels))).all(0)
        if not known.all():
            name = task.labels[int(np.argmin(known))]
            raise first.place.refuse(
                f"no record to train on, of which this is the first, has a number for {name!r}"
            )
        return fold
    if task.structures:
        if not any(targets[row].any() for row in fold.train):
            raise first.place.refuse("no record to train on has a base pair")
        return fold
    counts = class_counts([targets[row] for row in fold.train], task)
    some = counts > 0
    there: NDArray[np.bool_] = some if task.problem == "multiclass" else np.all(some, axis=0)
    needed = {"multiclass": 2, "binary": 1, "multilabel": 0}[task.problem]
    if np.count_nonzero(there) < needed:
        named = counts.argmax() if task.problem == "multiclass" else counts[:, 0].argmax()
        raise first.place.refuse(
            f"all {len(fold.train):,} records to train on"
            f"{'' if fold.name == 'all' else f' in {fold.name}'}, of which this is the first, have "
            f"the class {task.labels[int(named)]!r}"
        )
    if task.problem != "multiclass" or there.all():
        return fold
    return _with_known(fold, there, records, targets, task, config, rejects)


def _with_known(
    fold: Fold,
    there: NDArray[np.bool_],
    records: list[Labelled],
    targets: list[NDArray[Any]],
    task: Task,
    config: FinetuneConfig,
    rejects: list[Reject],
) -> Fold:
    """Leave out what is of a class that nothing to train on has, or refuse it."""
    kept: dict[str, Any] = {}
    for part in PARTS[1:]:
        rows = []
        for row in getattr(fold, part).tolist():
            values = targets[row].ravel()
            strange = [k for k in np.unique(values[values >= 0]).tolist() if not there[k]]
            if strange:
                reason = (
                    f"class {task.labels[strange[0]]!r} is for {part}, and no record to train on "
                    "has it"
                )
                if config.on_unknown == "error":
                    raise records[row].place.refuse(f"{reason} (see --on-unknown)")
                where = "" if fold.name == "all" else f"{fold.name}: "
                rejects.append(records[row].reject(where + reason))
            else:
                rows.append(row)
        kept[part] = np.array(rows, np.int64)
    if not len(kept["test"]) and len(fold.test):
        raise ConfigError(f"{fold.name}: every record to test on is of an unknown class")
    return replace(fold, **kept)


def describe_counts(prepared: Prepared) -> dict[str, Any]:
    """Count records by what they are for, and those left out by reason."""
    fold = prepared.folds[0]
    used = {row for f in prepared.folds for part in PARTS for row in getattr(f, part).tolist()}
    counts: dict[str, Any] = {"records": prepared.read, "used": len(used)}
    if len(prepared.folds) == 1:
        counts |= {part: len(getattr(fold, part)) for part in PARTS}
    counts["groups"] = len(set(prepared.groups))
    counts["left_out"] = dict(Counter(reject.reason for reject in prepared.rejects))
    return counts
