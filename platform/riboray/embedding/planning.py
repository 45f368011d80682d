"""What is to be embedded, known before anything is: records, nucleotides, names.

The input is read once to be checked and counted, which takes a thousandth of the time of embedding
it: mistakes show before hours are spent, and sizes and times can be told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riboray.batching import count_windows
from riboray.corpus.config import ColumnNames, DuplicateIds
from riboray.corpus.ingestion import Runner
from riboray.corpus.screening import Rules
from riboray.corpus.strings import Strings, hash_rows
from riboray.embedding.reading import ANNOTATIONS, Left, Source, admit, read_parts, wanted_units
from riboray.errors import ConfigError, FastaError
from riboray.manifest import write_json

__all__ = ["Part", "Plan", "PlanRules", "make_plan", "scan_unit"]


@dataclass(frozen=True)
class PlanRules:
    """What decides which records are embedded.

    Attributes
    ----------
    rules : Rules
        Which sequences.
    columns : ColumnNames
        Columns of Parquet files.
    width : int
        Nucleotides that the model embeds at once.
    truncate : bool
        Whether what is beyond is cut off.
    duplicate_ids, on_invalid : str
        As those of `EmbedConfig`.
    """

    rules: Rules
    columns: ColumnNames
    width: int
    truncate: bool = False
    duplicate_ids: DuplicateIds = "error"
    on_invalid: str = "error"


@dataclass(frozen=True)
class Part:
    """A part of the input that becomes one file.

    Attributes
    ----------
    number : int
        In the order of the input.
    source, part : int
        Where it comes from.
    before : int
        Records of its file before it.
    read, rows : int
        Records in it, and those of them that can be embedded.
    nucleotides, windows, longest : int
        Of these.
    renamed : tuple of (int, str or None)
        Rows that get another id, or are left out as second record of one.
    """

    number: int
    source: int
    part: int
    before: int
    read: int
    rows: int
    nucleotides: int
    windows: int
    longest: int
    renamed: tuple[tuple[int, str | None], ...] = ()


@dataclass
class Plan:
    """All parts, in order.

    Attributes
    ----------
    parts : list of Part
        Those with records, also if none of them can be embedded.
    annotations : list of str
        Columns that the input has besides ids and sequences.
    """

    parts: list[Part]
    annotations: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum one of the parts' numbers."""
        return sum(getattr(part, name) for part in self.parts)

    def write(self, path: Path) -> None:
        """Keep the plan for a run that goes on."""
        write_json(
            path, {"parts": [asdict(p) for p in self.parts], "annotations": self.annotations}
        )

    @classmethod
    def read(cls, path: Path) -> Plan | None:
        """Return a plan that was kept, or None."""
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text("utf-8"))
            parts = [
                Part(**{**p, "renamed": tuple((row, name) for row, name in p["renamed"])})
                for p in values["parts"]
            ]
            return cls(parts, values["annotations"])
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class _Scan:
    """What was found in one part."""

    source: int
    part: int
    read: int
    rows: int
    nucleotides: int
    windows: int
    longest: int
    wrong: Left | None
    annotated: tuple[str, ...]
    hashes: NDArray[np.uint64]


def scan_unit(source: Source, unit: tuple[int, ...], given: PlanRules) -> list[_Scan]:
    """Read parts and count; called by any process, in any order."""
    scans = []
    for part, block in read_parts(source, unit, given.columns):
        found = admit(block, given.rules)
        lengths = found.block.sequences.lengths
        if given.truncate:
            lengths = np.minimum(lengths, given.width)
        known = (
            (found.block.taxids >= 0).any(),
            *(
                column.null_count < len(found)
                for column in (found.block.rna_types, found.block.families)
            ),
        )
        ids = found.block.ids
        scans.append(
            _Scan(
                source=source.index,
                part=part,
                read=len(block),
                rows=len(found),
                nucleotides=int(lengths.sum()),
                windows=int(count_windows(lengths, given.width).sum()),
                longest=int(lengths.max(initial=0)),
                wrong=next((left for left in found.left if not left.asked), None),
                annotated=tuple(n for n, has in zip(ANNOTATIONS, known, strict=True) if has),
                hashes=hash_rows(ids.data, ids.offsets),
            )
        )
    return scans


def make_plan(
    sources: Sequence[Source],
    given: PlanRules,
    runner: Runner,
    progress: Callable[[int], None] = lambda records: None,
) -> Plan:
    """Read all of the input and plan its parts.

    Parameters
    ----------
    sources : sequence of Source
        The files.
    given : PlanRules
        What is embedded.
    runner : Runner
        Where they are read.
    progress : callable
        Receives the records read so far, now and then.

    Raises
    ------
    InputError
        If a file cannot be read, or a record is refused; it names file and record.
    ConfigError
        If nothing is left to embed.
    """
    calls = [(source, unit, given) for source in sources for unit in source.units()]
    scans: list[_Scan] = []
    for found in runner.map(scan_unit, calls):
        scans += found
        progress(sum(scan.read for scan in found))
    scans.sort(key=lambda scan: (scan.source, scan.part))
    parts, before = [], {source.index: 0 for source in sources}
    for number, scan in enumerate(scans):
        wrong, start = scan.wrong, before[scan.source]
        if wrong is not None and given.on_invalid == "error":
            raise FastaError(sources[scan.source].file.path, wrong.reason, start + wrong.record)
        numbers = (scan.read, scan.rows, scan.nucleotides, scan.windows, scan.longest)
        parts.append(Part(number, scan.source, scan.part, start, *numbers))
        before[scan.source] += scan.read
    if not sum(part.rows for part in parts):
        where = ", ".join(source.file.path for source in sources)
        raise ConfigError(f"no sequence to work on: {where}")
    renamed = _settle_names(sources, given, parts, [scan.hashes for scan in scans])
    for number, names in renamed.items():
        parts[number] = Part(**{**asdict(parts[number]), "renamed": tuple(sorted(names.items()))})
    annotated = {name for scan in scans for name in scan.annotated}
    return Plan(parts, [name for name in ANNOTATIONS if name in annotated])


def _settle_names(
    sources: Sequence[Source],
    given: PlanRules,
    parts: list[Part],
    hashes: list[NDArray[np.uint64]],
) -> dict[int, dict[int, str | None]]:
    """Find ids that occur twice; return new ids (or None: leave out) by part and row."""
    every = np.concatenate(hashes)
    starts = np.cumsum([0, *map(len, hashes)])
    order = np.argsort(every, kind="stable")
    ranked = every[order]
    same = ranked[1:] == ranked[:-1]
    twice = np.zeros(len(every), np.bool_)
    twice[:-1] |= same
    twice[1:] |= same
    suspects = np.sort(order[twice])  # alike by hash; whether they are is seen in the files
    if not len(suspects):
        return {}
    del every, order
    owner = np.searchsorted(starts, suspects, side="right") - 1
    rows = {k: (suspects[owner == k] - starts[k]) for k in np.unique(owner).tolist()}
    seen: set[str] = set()
    used: dict[str, int] = {}
    changes: dict[int, dict[int, str | None]] = {}
    for number, row, record, name in _names_of(sources, given, parts, rows):
        if name not in seen:
            seen.add(name)
            continue
        part = parts[number]
        if given.duplicate_ids == "error":
            reason = f"another record is called {name!r} too"
            raise FastaError(sources[part.source].file.path, reason, part.before + record)
        changes.setdefault(number, {})[row] = (
            None if given.duplicate_ids == "reject" else _free_name(name, used, seen, ranked)
        )
    return changes


def _names_of(
    sources: Sequence[Source],
    given: PlanRules,
    parts: list[Part],
    rows: dict[int, NDArray[np.int64]],
) -> Iterator[tuple[int, int, int, str]]:
    """Yield part, row, record and id of some rows, in the order of the input."""
    place = {(parts[k].source, parts[k].part): k for k in rows}
    for source, unit, inside in wanted_units(sources, place):
        for part, block in read_parts(source, unit, given.columns, inside):
            number = place[source.index, part]
            found = admit(block, given.rules).block
            for row in rows[number].tolist():
                yield number, row, int(found.records[row]), found.ids.text(row)


def _free_name(name: str, used: dict[str, int], seen: set[str], ranked: NDArray[np.uint64]) -> str:
    """Return the first of name.2, name.3, … that no record has."""
    number = used.get(name, 1)
    while True:
        number += 1
        candidate = f"{name}.{number}"
        text = Strings.of([candidate])
        (value,) = hash_rows(text.data, text.offsets)
        place = int(np.searchsorted(ranked, value))
        taken = place < len(ranked) and ranked[place] == value
        if candidate not in seen and not taken:
            used[name] = number
            seen.add(candidate)
            return candidate
