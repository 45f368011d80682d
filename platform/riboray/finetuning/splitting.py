"""Which records are trained on, validated on and tested on; folds of a cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.errors import ConfigError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.records import Labelled
from riboray.finetuning.similarity import cluster_sequences, read_clusters

__all__ = ["PARTS", "Fold", "find_groups", "make_folds"]

PARTS = ("train", "validation", "test")

#: What people call the parts.
_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

#: Groups up to which classes are spread evenly, which takes a step for each.
_MOST_STRATIFIED = 20_000

#: Parts that records are cut into to take a share of them.
_PARTS = 20

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows of one training, and what is measured.

    Attributes
    ----------
    name : str
        ``all``, or what is tested on in turn.
    train, validation, test : ndarray, dtype=int64
        Rows of the records.
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows


def find_groups(records: Sequence[Labelled], config: FinetuneConfig) -> list[str]:
    """Name what each record belongs to: what must not be on both sides of a split.

    Raises
    ------
    InputError
        If a record has no family, or is in no cluster; the message names it.
    """
    if config.split == "family":
        return [_told(r, r.group, "family (--columns.group)") for r in records]
    if config.clusters_from is not None:
        table = read_clusters(config.clusters_from)
        return [_told(r, table.get(r.id), f"cluster in {config.clusters_from}") for r in records]
    if config.split == "cluster":
        numbers = cluster_sequences([r.sequence for r in records], config.identity)
        return [str(number) for number in numbers.tolist()]
    if config.split == "column":
        return [_told(r, r.part, "part (--columns.part)") for r in records]
    return [r.sequence for r in records]


def _told(record: Labelled, value: str | None, what: str) -> str:
    if value is None:
        raise record.place.refuse(f"has no {what}")
    return value


def make_folds(
    records: Sequence[Labelled],
    groups: list[str],
    classes: list[int] | None,
    config: FinetuneConfig,
) -> list[Fold]:
    """Split records.

    Parameters
    ----------
    records : sequence of Labelled
        All of them.
    groups : list of str
        From `find_groups`.
    classes : list of int, optional
        Class of each, to have them in all parts alike where groups let it.
    config : FinetuneConfig
        How.

    Returns
    -------
    list of Fold
        One, or of a cross-validation each.

    Raises
    ------
    ConfigError
        If a part would be empty.
    """
    kinds = _Kinds(groups, classes, config.seed)
    every = np.arange(len(records))
    if config.leave_one_out or (config.cross_validates and config.split == "column"):
        named = np.array(groups, dtype=object)
        names = sorted(set(groups))
        if len(names) < 2:
            raise ConfigError(f"all records are of one group, {names[0]!r}: nothing to leave out")
        if config.folds and len(names) != config.folds:
            raise ConfigError(f"--folds {config.folds}, but the column has {len(names)} values")
        tested = [(name, np.flatnonzero(named == name)) for name in names]
    elif config.folds:
        parts = kinds.cut(every, config.folds)
        tested = [(f"fold {k}", part) for k, part in enumerate(parts, start=1)]
    else:
        return [_one(records, kinds, config)]
    return [
        _checked(Fold(name, *kinds.without(np.setdiff1d(every, rows), config), rows), config)
        for name, rows in tested
    ]


def _one(records: Sequence[Labelled], kinds: _Kinds, config: FinetuneConfig) -> Fold:
    """Make the only split there is."""
    told = [r.part for r in records]
    if config.split == "column":
        parts = [_part_of(r) for r in records]
    elif config.validation or config.test:
        parts = [part or "train" for part in told]
    else:
        parts = ["train"] * len(records)
    rows = {part: np.flatnonzero([p == part for p in parts]) for part in PARTS}
    given = {part for part in PARTS[1:] if len(rows[part])}
    train, test, validation = rows["train"], rows["test"], rows["validation"]
    if config.split != "column":
        if "test" not in given and not config.test and config.test_share:
            test, train = kinds.take(train, config.test_share)
        if "validation" not in given and not config.validation and config.validation_share:
            share = config.validation_share * len(rows["train"]) / max(len(train), 1)
            validation, train = kinds.take(train, share)
    return _checked(Fold("all", train, validation, test), config)


def _part_of(record: Labelled) -> str:
    told = (record.part or "").lower()
    if told not in _NAMES:
        reason = f"its part is {record.part!r}: neither train, validation nor test"
        raise record.place.refuse(f"{reason}; with --leave-one-out each value is a fold")
    return _NAMES[told]


def _checked(fold: Fold, config: FinetuneConfig) -> Fold:
    if not len(fold.train):
        raise ConfigError(f"{fold.name}: no record to train on")
    asked = {"validation": config.validation_share, "test": config.test_share}
    for part in ("validation", "test"):
        if not len(getattr(fold, part)) and asked[part] and config.split != "column":
            raise ConfigError(
                f"{fold.name}: no record for {part}: there are too few groups; "
                f"--{part}-share 0 does without"
            )
    return fold


class _Kinds:
    """Groups and classes of records, by which they are split."""

    def __init__(self, groups: list[str], classes: list[int] | None, seed: int) -> None:
        numbers: dict[str, int] = {}
        self.groups = np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int64)
        self.classes = None if classes is None else np.array(classes)
        self.seed = seed

    def cut(self, rows: Rows, count: int) -> list[Rows]:
        """Cut rows into parts of about the same size; what belongs together stays together."""
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        groups = self.groups[rows]
        there = len(np.unique(groups))
        if there < count:
            raise ConfigError(f"{there} groups of records cannot make {count} parts")
        options: dict[str, Any] = {"n_splits": count, "shuffle": True, "random_state": self.seed}
        classes = None if self.classes is None else self.classes[rows]
        if classes is not None and there <= _MOST_STRATIFIED and self._enough(classes, count):
            splits = StratifiedGroupKFold(**options).split(rows, classes, groups)
        else:
            splits = GroupKFold(**options).split(rows, groups=groups)
        with warnings.catch_warnings():
            # Of classes with fewer records than parts, there is none in some.
            warnings.simplefilter("ignore", UserWarning)
            return [rows[np.sort(part)] for _, part in splits]

    @staticmethod
    def _enough(classes: NDArray[np.int64], count: int) -> bool:
        """Tell whether some class is large enough for the library to spread it."""
        return bool(np.bincount(classes).max() >= count)

    def take(self, rows: Rows, share: float) -> tuple[Rows, Rows]:
        """Take about a share of rows; return it and the others."""
        there = len(np.unique(self.groups[rows]))
        if there < 2:
            raise ConfigError(
                f"{len(rows):,} records of one group cannot be split further: give "
                "--validation-share 0 or --test-share 0, or other groups (--split)"
            )
        parts = self.cut(rows, min(_PARTS, there))
        # Groups may be large: as many parts, in their order, as come nearest to what was asked for.
        sizes = np.cumsum([len(part) for part in parts])[:-1]
        count = int(np.abs(sizes - share * len(rows)).argmin()) + 1
        if count == 1:  # one part: the one of the nearest size
            one = min(parts, key=lambda part: abs(len(part) - share * len(rows)))
            return one, np.setdiff1d(rows, one)
        chosen = np.sort(np.concatenate(parts[:count]))
        return chosen, np.setdiff1d(rows, chosen)

    def without(self, rows: Rows, config: FinetuneConfig) -> tuple[Rows, Rows]:
        """Split what is not tested on; return what to train on and what to validate on."""
        if not config.validation_share:
            return rows, np.empty(0, np.int64)
        validation, train = self.take(rows, config.validation_share)
        return train, validation
