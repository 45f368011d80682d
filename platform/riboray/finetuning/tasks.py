"""What labels are about: which level and problem, and the names of what is predicted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from riboray.errors import ConfigError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.records import Labelled
from riboray.finetuning.values import class_name, is_missing, number_of
from riboray.model.config import Level, Problem
from riboray.model.prediction import PLACES, HeadConfig

__all__ = ["Task", "class_names", "find_task", "is_structure"]

#: Records that are looked at to tell what the labels of all are.
_LOOKED_AT = 500

#: Share of labels that are no numbers among those that are, at most.
_MOST_STRANGE = 0.05

#: Different whole numbers that are still taken for classes.
_MOST_CLASSES = 20

#: Symbols of dot-bracket and WUSS structures; letters are pseudoknots.
_STRUCTURE = re.compile(r"[.()\[\]{}<>\-_,:~A-Za-z]*")
_BRACKET, _LETTER = re.compile(r"[()\[\]{}<>]"), re.compile(r"[A-Za-z]")

#: Names of the classes that a structure tells.
_OF_STRUCTURES: dict[Level, tuple[str, str]] = {
    "nucleotide": ("unpaired", "paired"),
    "contact": ("no pair", "pair"),
}


@dataclass(frozen=True)
class Task:
    """What is predicted.

    Attributes
    ----------
    level, problem : str
        As in `HeadConfig`.
    labels : tuple of str
        Names, as in `HeadConfig`.
    structures : bool
        Whether labels are secondary structures.
    """

    level: Level
    problem: Problem
    labels: tuple[str, ...]
    structures: bool = False

    def describe(self) -> str:
        """Say it in words."""
        of = {"sequence": "sequences", "nucleotide": "nucleotides", "contact": "pairs"}[self.level]
        names = ", ".join(self.labels[:8]) + (", …" if len(self.labels) > 8 else "")
        return f"{self.problem} of {of}: {names}"


def is_structure(label: Any, length: int) -> bool:
    """Tell whether a label is a secondary structure of so many nucleotides.

    In dot-bracket or WUSS notation; letters alone are none. Whether brackets match does not matter.
    """
    if not isinstance(label, str) or len(label) != length or not _STRUCTURE.fullmatch(label):
        return False
    return bool(_BRACKET.search(label)) or not _LETTER.search(label)


def find_task(records: Sequence[Labelled], config: FinetuneConfig, head: HeadConfig | None) -> Task:
    """Find out what labels are about.

    Parameters
    ----------
    records : sequence of Labelled
        Those to train on, with labels.
    config : FinetuneConfig
        What was said of level, problem and classes.
    head : HeadConfig, optional
        Of the model, if it has one that is kept.

    Raises
    ------
    InputError
        If labels differ in kind, are all of one class, or do not fit the head; the message names a
        record.
    ConfigError
        If what was said does not fit together.
    """
    first = list(islice(records, _LOOKED_AT))
    structures = 2 * sum(is_structure(r.label, len(r.sequence)) for r in first) > len(first)
    level = config.level or _level(first, structures)
    if structures and head is not None and config.level is None and head.level == "nucleotide":
        level = head.level
    structures = structures or (level == "contact" and isinstance(first[0].label, str))
    if structures and level == "sequence":
        raise first[0].place.refuse("its label is a structure, not one of a whole sequence")
    if structures:
        task = Task(level, "binary", _OF_STRUCTURES[level], structures=True)
    else:
        items = _sampled(records, level)
        same = head is not None and head.level == level
        problem = config.problem or (head.problem if head and same else _problem(items))
        task = Task(level, problem, _names(records, level, problem, config))
    if config.problem not in (None, task.problem):
        raise ConfigError(f"structures are a binary problem, not {config.problem}")
    return task if head is None else _fit(task, head, records[0], config)


def _level(records: Sequence[Labelled], structures: bool) -> Level:
    """Tell the level by the labels' shape."""
    if structures:
        return "contact"

    def of(record: Labelled) -> Level:
        label, length = record.label, len(record.sequence)
        if isinstance(label, list) and len(label) == length:
            return (
                "contact"
                if isinstance(label[0], list) and len(label[0]) == length
                else ("nucleotide")
            )
        if isinstance(label, list) and label and isinstance(label[0], list):
            return "nucleotide"  # of the wrong length, which is told later
        if isinstance(label, str) and len(label) == length and number_of(label) is None:
            return "nucleotide"
        return "sequence"

    levels = [of(record) for record in records]
    # A name, or a list of a few numbers, may by chance be as long as a sequence.
    known: tuple[Level, ...] = ("sequence", "nucleotide", "contact")
    return max(known, key=lambda level: levels.count(level))


def _items(label: Any, level: Level) -> Iterator[Any]:
    """Yield the single labels that a record has."""
    if isinstance(label, str) and level != "sequence":
        yield from label
    elif isinstance(label, list):
        for item in label:
            yield from _items(item, "sequence")
    else:
        yield label


def _sampled(records: Sequence[Labelled], level: Level) -> list[Any]:
    """Return single labels of all records, those that say something; the first of each many."""
    found = []
    for record in records:
        few = islice(_items(record.label, level), 2000)
        found += [item for item in few if not is_missing(item)]
    if not found:
        raise records[0].place.refuse("no record to train on has a label")
    several = any(_outputs(record.label, level) > 1 for record in records[:_LOOKED_AT])
    several |= level == "sequence" and any(isinstance(r.label, list) for r in records[:_LOOKED_AT])
    return [found] if several else found


def _problem(items: list[Any]) -> Problem:
    """Tell the problem by single labels; a list of lists means several of each sequence."""
    several = isinstance(items[0], list)
    values = items[0] if several else items
    numbers = [number_of(value) for value in values]
    strange = sum(number is None for number in numbers)
    # Where nearly all are numbers, what is none is a mistake, which is told with its record.
    if strange > len(values) * _MOST_STRANGE:
        kinds = len(set(map(str, values)))
        return "multilabel" if several else "binary" if kinds <= 2 else "multiclass"
    distinct = {number for number in numbers if number is not None}
    if distinct <= {0.0, 1.0}:
        return "multilabel" if several else "binary"
    whole = all(number.is_integer() and number >= 0 for number in distinct)
    written = all("." not in str(value) for value in values if isinstance(value, str))
    integers = written and not any(isinstance(value, float) for value in values)
    if whole and integers and not several and len(distinct) <= _MOST_CLASSES:
        return "multiclass"
    return "regression"


def _names(
    records: Sequence[Labelled], level: Level, problem: Problem, config: FinetuneConfig
) -> tuple[str, ...]:
    """Name what is predicted."""
    columns = config.columns.label
    if problem == "regression" or (problem == "multilabel" and _are_marks(records)):
        count = max((_outputs(record.label, level) for record in records[:_LOOKED_AT]), default=1)
        names = config.classes or (columns if len(columns) == count else [])
        return tuple(names or (["value"] if count == 1 else [f"value {k}" for k in range(count)]))
    if config.classes:
        return tuple(config.classes)
    return tuple(_sorted({name for r in records for name in class_names(r.label, level, problem)}))


def class_names(label: Any, level: Level, problem: Problem) -> Iterable[str]:
    """Return the names of the classes that a label says."""
    if problem == "multilabel" and isinstance(label, str) and level == "sequence":
        return [name.strip() for name in label.split(";") if name.strip()]
    return (class_name(item) for item in _items(label, level) if not is_missing(item))


def _are_marks(records: Sequence[Labelled]) -> bool:
    """Tell whether several labels are told by 0 and 1, one for each, and not by names."""
    lists = [r.label for r in records[:_LOOKED_AT] if isinstance(r.label, list)]
    items = [x for label in lists[:20] for x in _items(label, "sequence") if not is_missing(x)]
    return bool(items) and all(number_of(x) is not None for x in items)


def _outputs(label: Any, level: Level) -> int:
    """Count the numbers of each sequence, nucleotide or pair."""
    for _ in range(PLACES[level]):
        label = label[0] if isinstance(label, list) and label else label
    return len(label) if isinstance(label, list) else 1


def _sorted(names: set[str]) -> list[str]:
    if all(number_of(name) is not None for name in names):
        return sorted(names, key=float)
    return sorted(names)


def _fit(task: Task, head: HeadConfig, record: Labelled, config: FinetuneConfig) -> Task:
    """Take the classes of the head that is kept."""
    unknown = [name for name in task.labels if name not in head.labels]
    count = task.problem in ("regression",) and len(task.labels) == len(head.labels)
    same = (task.level, task.problem) == (head.level, head.problem)
    if not same or (unknown and not count):
        has = Task(head.level, head.problem, head.labels)
        raise record.place.refuse(
            f"its label is for {task.describe()}; the head of {config.checkpoint} is for "
            f"{has.describe()}. Say --new-head to begin with a new one"
        )
    return Task(task.level, task.problem, head.labels, task.structures)
