"""What became of every record: counts that add up, and the files that say it record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from riboray.corpus.buckets import read_buckets
from riboray.corpus.config import IngestConfig
from riboray.corpus.naming import renamed
from riboray.corpus.partitions import REPEAT_SCHEMA, partition_path
from riboray.corpus.parts import Plan, Report, Source, place_of, split_place
from riboray.corpus.records import CATEGORIES, DUPLICATE_SCHEMA, REJECT_SCHEMA
from riboray.corpus.shards import in_groups, write_tables
from riboray.manifest import FileEntry

__all__ = [
    "OUTCOMES",
    "Origins",
    "check_counts",
    "commonest_reason",
    "counts_of",
    "details_of",
    "reasons_of",
    "write_duplicates",
    "write_left_out",
]

OUTCOMES = ("kept", "duplicates", "rejected", "filtered")
"""What can become of a record; ``read`` is their sum."""

_ROWS = 50_000


@dataclass(frozen=True)
class Origins:
    """Turns places back into files and record numbers.

    Attributes
    ----------
    paths : list of str
        Inputs, by the number of their source.
    parts : ndarray, shape=(parts,), dtype=uint64
        Places of the parts' first rows, ascending.
    source : ndarray, shape=(parts,), dtype=int64
        Source of each part.
    before : ndarray, shape=(parts,), dtype=int64
        Records of the file before each part.
    """

    paths: list[str]
    parts: NDArray[np.uint64]
    source: NDArray[np.int64]
    before: NDArray[np.int64]

    @classmethod
    def of(cls, paths: Sequence[str], reports: Sequence[Report]) -> Origins:
        """Add up the records of parts, which must be in the order of the input."""
        running: Counter[int] = Counter()
        before = []
        for note in reports:
            before.append(running[note["source"]])
            running[note["source"]] += note["records"]
        zero = np.zeros(1, np.int64)
        places = [place_of(note["source"], note["part"], zero)[0] for note in reports]
        return cls(
            list(paths),
            np.array(places, dtype=np.uint64),
            np.array([note["source"] for note in reports], dtype=np.int64),
            np.array(before, dtype=np.int64),
        )

    def locate(
        self, places: NDArray[np.uint64], records: NDArray[np.int64]
    ) -> tuple[pa.Array, NDArray[np.int64]]:
        """Return file and 1-based record number of rows; shape (n,) each."""
        part = np.searchsorted(self.parts, split_place(places))
        files = pa.array(self.paths, pa.string()).take(pa.array(self.source[part]))
        return files, records + self.before[part]

    def find(self, place: int, record: int) -> tuple[str, int]:
        """Return file and record number of one row."""
        files, numbers = self.locate(np.array([place], np.uint64), np.array([record], np.int64))
        return str(files[0]), int(numbers[0])


def counts_of(
    reports: Sequence[Report], notes: Sequence[dict[str, Any]], banned: Sequence[Sequence[Any]]
) -> Counter[str]:
    """Add up what became of sequences, and of the further windows of long ones."""
    counts: Counter[str] = Counter()
    for note in reports:
        if note["data"]:
            counts["sequences_read"] += note["read"]
            counts["windows_read"] += note["windows"]
            for code, number in note["left"].items():
                counts[f"sequences_{CATEGORIES[int(code)].outcome}"] += number
    for note in notes:
        for name, number in note["counts"].items():
            if not name.startswith("code_"):
                counts[name] += number
    for row in banned:
        counts["windows_rejected" if row[5] else "sequences_rejected"] += 1
    for outcome in ("read", *OUTCOMES):
        counts[f"sequences_{outcome}"] += 0
    if not counts["windows_read"]:
        counts = Counter({k: v for k, v in counts.items() if not k.startswith("windows_")})
    return counts


def check_counts(counts: Counter[str]) -> None:
    """Make sure that every record is somewhere; anything else is a fault of ours."""
    for kind in ("sequences", "windows", "families", "rows"):
        outcomes = sum(counts[f"{kind}_{outcome}"] for outcome in OUTCOMES)
        if counts[f"{kind}_read"] != outcomes:
            raise AssertionError(f"{kind} do not add up: {dict(counts)}")


def reasons_of(
    reports: Sequence[Report], notes: Sequence[dict[str, Any]], banned: Sequence[Sequence[Any]]
) -> dict[str, dict[str, int]]:
    """Count records that were left out by outcome and category, the commonest first."""
    codes: Counter[int] = Counter()
    for note in reports:
        if note["data"]:
            codes.update({int(code): number for code, number in note["left"].items()})
    for note in notes:
        for name, number in note["counts"].items():
            if name.startswith("code_"):
                codes[int(name.removeprefix("code_"))] += number
    codes[16] += sum(1 for row in banned if not row[5])
    reasons: dict[str, dict[str, int]] = {"rejected": {}, "filtered": {}}
    for code, number in sorted(codes.items(), key=lambda item: (-item[1], item[0])):
        if number:
            outcome, label = CATEGORIES[code]
            reasons[outcome][label] = number
    return reasons


def details_of(
    config: IngestConfig,
    sources: Sequence[Source],
    seeds: dict[str, Any] | None,
    reports: Sequence[Report],
    notes: Sequence[dict[str, Any]],
    banned: Sequence[Sequence[Any]],
) -> dict[str, Any]:
    """Return what a reader of the corpus may want to know besides its counts."""
    return {
        "reasons": reasons_of(reports, notes, banned),
        "nucleotides": sum(note["nucleotides"] for note in notes),
        "inputs": [
            {"path": s.file.path, "kind": s.file.kind, "bytes": s.file.size} for s in sources
        ],
        "pairs_excluded": seeds["pairs_excluded"] if seeds else 0,
        "split": {
            "by": config.split_by,
            "validation_share": config.validation_share,
            "validation_families": seeds["held_out"] if seeds else [],
            "validation_sequences": sum(note["validation"] for note in notes),
            "pairs_of_held_out_sequences": sum(seeds["pairs_held_out"].values()) if seeds else 0,
        },
    }


def commonest_reason(plan: Plan, reports: Sequence[Report], out: Sequence[Path]) -> str:
    """Say for what reason most records were left out, for the message that none is left."""
    reasons: Counter[str] = Counter()
    paths = [plan.path("left", n["source"], n["part"]) for n in reports if n["data"]]
    for path in [*paths, *out]:
        for batch in read_buckets([path], 0):
            for entry in pc.value_counts(batch["reason"]).to_pylist():
                reasons[entry["values"]] += entry["counts"]
    return f"; most common reason: {reasons.most_common(1)[0][0]}" if reasons else ""


def write_left_out(
    path: Path,
    finished: list[Path],
    located: list[Path],
    banned: list[list[Any]],
    origins: Origins,
) -> FileEntry:
    """Write ``rejects.parquet`` or ``long.parquet``.

    Parameters
    ----------
    path : Path
        The file.
    finished : list of Path
        Files whose rows name file and record already.
    located : list of Path
        Files whose rows have a place.
    banned : list
        Rows of `naming` whose ids another record has.
    origins : Origins
        What places mean.
    """
    altered = pa.array(["windowed", "truncated"])
    about_long = path.name.startswith("long")

    def tables() -> Iterator[pa.Table]:
        for file in finished:
            yield from (pa.Table.from_batches([b]) for b in read_buckets([file], 0))
        for file in located:
            for batch in read_buckets([file], 0):
                wanted = pc.is_in(batch["outcome"], value_set=altered)
                batch = batch.filter(wanted if about_long else pc.invert(wanted))
                files, records = origins.locate(
                    batch["place"].to_numpy(), batch["record"].to_numpy()
                )
                columns = {name: batch[name] for name in ("id", "outcome", "reason")}
                yield pa.table({"file": files, "record": records, **columns}, schema=REJECT_SCHEMA)
        for place, record, name, *_ in banned:
            source, number = origins.find(place, record)
            row = [[source], [number], [name], ["rejected"], ["id of another sequence"]]
            yield pa.table(row, schema=REJECT_SCHEMA)

    return write_tables(path, in_groups(tables(), REJECT_SCHEMA, _ROWS), REJECT_SCHEMA)


def write_duplicates(
    output: Path, plan: Plan, latest: list[int], names: list[Path], origins: Origins
) -> FileEntry:
    """Write ``duplicates.parquet``: all ids of sequences that stand in the corpus once."""

    def tables() -> Iterator[pa.Table]:
        for number, turn in enumerate(latest):
            repeats = read_buckets([partition_path(plan, "repeats", number, turn)], 0)
            if not repeats:
                continue
            table = pa.Table.from_batches(repeats, REPEAT_SCHEMA)
            kept = [
                batch["id"]
                for bucket in (0, 1)
                for batch in read_buckets([partition_path(plan, "kept", number, turn)], bucket)
            ]
            ids = renamed(pa.concat_arrays(kept), 0, number, names)
            files, records = origins.locate(table["place"].to_numpy(), table["record"].to_numpy())
            columns = {name: table[name] for name in ("sha256_64", "id", "taxid")}
            columns |= {"kept_id": ids.take(table["kept"]), "file": files, "record": records}
            yield pa.table(columns, schema=DUPLICATE_SCHEMA)

    path = output / "duplicates.parquet"
    return write_tables(path, in_groups(tables(), DUPLICATE_SCHEMA, _ROWS), DUPLICATE_SCHEMA)
