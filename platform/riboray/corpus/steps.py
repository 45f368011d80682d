"""One run of ingesting, step by step; see `ingestion`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from riboray.corpus.account import (
    Origins,
    check_counts,
    commonest_reason,
    counts_of,
    details_of,
)
from riboray.corpus.buckets import read_note, write_note
from riboray.corpus.config import IngestConfig
from riboray.corpus.exclusion import check_exclusions
from riboray.corpus.fasta import PART_BYTES, stream_parts
from riboray.corpus.files import opened_raw
from riboray.corpus.foreign import list_groups
from riboray.corpus.ingestion import GZIP_FACTOR, Inputs, Runner
from riboray.corpus.mapping import join_bucket, make_mapping_part, stream_lines
from riboray.corpus.naming import IdBucket, make_names
from riboray.corpus.partitions import Partition, make_partition, partition_path
from riboray.corpus.parts import (
    DATA,
    EXCLUDE,
    Plan,
    Report,
    Source,
    make_group,
    make_stream,
    make_text_part,
    parts_of,
)
from riboray.corpus.results import Results, Task
from riboray.corpus.screening import Rules
from riboray.corpus.seeds import SeedTask, make_seeds, settle_seeds
from riboray.corpus.shards import write_shard
from riboray.errors import CorpusError
from riboray.manifest import FileEntry

__all__ = ["Run"]

#: Text of a partition, of a bucket of the id mapping, and partitions of a bucket of ids.
_PARTITION_BYTES = 64 << 20
_PARTITIONS_PER_ID_BUCKET = 8
_MOST_BUCKETS = 1024

#: Share of the work done after parts, after partitions, and after shards.
_AFTER_PARTS, _AFTER_PARTITIONS = 0.6, 0.8


class Run:
    """The steps of one run.

    Parameters
    ----------
    config, inputs : IngestConfig, Inputs
        What is asked for, and the files found.
    output, work : Path
        Where the corpus, and what it is made from, lie.
    runner : Runner
        Where the work is done.
    report, progress : callable
        As those of `ingestion.ingest`.

    Attributes
    ----------
    counts : dict
        Records by outcome, once `make` has returned.
    details : dict
        Reasons, inputs and what else a reader of the corpus may want to know.
    """

    def __init__(
        self,
        config: IngestConfig,
        inputs: Inputs,
        output: Path,
        work: Path,
        runner: Runner,
        report: Callable[[str], None],
        progress: Callable[[float, str], None],
    ) -> None:
        self.config, self.inputs, self.output, self.work = config, inputs, output, work
        self.runner, self.report, self.progress = runner, report, progress
        self.counts: dict[str, int] = {}
        self.details: dict[str, Any] = {}
        self._ends: list[tuple[Path, list[int]]] = []
        self._start = time.monotonic()
        self.rules = Rules.of(config, inputs.excluded_families)
        partitions = _buckets(inputs.text_bytes)
        self.plan = Plan(
            work=work,
            rules=self.rules,
            partitions=partitions,
            mapping_buckets=_buckets(self._mapping_bytes) if config.id_mapping else 0,
            columns=config.columns,
            part_bytes=PART_BYTES,
        )
        # The alignments' sequences come first: a record that is also a member is the member.
        first = len(config.alignments)
        self.sources = [
            Source(first + k, file, role)
            for k, (file, role) in enumerate(
                [(file, EXCLUDE) for file in inputs.exclude]
                + [(file, DATA) for file in inputs.corpus]
            )
        ]

    @cached_property
    def _mapping_bytes(self) -> int:
        assert self.config.id_mapping is not None
        with opened_raw(self.config.id_mapping, CorpusError, "tab-separated") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
            return handle.seek(0, 2) * (2 * GZIP_FACTOR if packed else 1)

    def make(self) -> list[FileEntry]:
        """Make the corpus; return its files.

        Raises
        ------
        RiborayError
            If an input cannot be used, or nothing usable is in it.
        """
        seeds = self._seeds()
        reports = self._parts()
        found, missing = check_exclusions(self.sources, self.inputs, seeds, reports, self.report)
        self.details |= {"excluded": found, "excluded_families_not_found": missing}
        if seeds is not None:
            reports = [*seeds["reports"], *reports]
        origins = Origins.of(
            [*self.config.alignments, *(s.file.path for s in self.sources)], reports
        )
        joins = self._joins(reports)
        notes, names, banned = self._partitions(reports, joins, origins)
        if seeds is not None:
            excluded = sorted({value for note in notes for value in note["excluded_members"]})
            task = SeedTask.of(self.config, self.plan)
            (seeds,) = self.runner.map(settle_seeds, [(task, seeds, excluded)])
        self._account(seeds, reports, notes, banned)
        return self._write(seeds, reports, origins, notes, names, banned)

    # Alignments and parts.

    def _seeds(self) -> dict[str, Any] | None:
        if not self.config.alignments:
            return None
        for path in self.config.alignments:
            self.report(f"reading {path}")
        (note,) = self.runner.map(make_seeds, [(SeedTask.of(self.config, self.plan),)])
        for warning in note["warnings"]:
            self.report(f"warning: {warning}")
        # Families that the lists call by their names are known by their accessions from here on.
        families = tuple(sorted({*self.rules.excluded_families, *note["excluded"]}))
        self.rules = replace(self.rules, excluded_families=families)
        self.plan = replace(self.plan, rules=self.rules)
        found: dict[str, Any] = note
        return found

    def _parts(self) -> list[Report]:
        for source in self.sources:
            self.report(f"reading {source.file.path}")
        done: list[Report] = []
        expected = max(self.inputs.text_bytes / self.plan.part_bytes, 1)
        for result in self.runner.map(_call, self._part_tasks()):
            done += result if isinstance(result, list) else [result]
            share = min(len(done) / expected, 1.0) * _AFTER_PARTS
            self.progress(share, self._figures(done))
        # Only now: a part that was handed out is not yet a part that was made.
        for path, parts in self._ends:
            write_note(path, {"parts": parts})
        done.sort(key=lambda note: (note["source"], note["part"]))
        return done

    def _figures(self, reports: list[Report]) -> str:
        read = sum(note["read"] for note in reports if note["data"])
        pace = read / max(time.monotonic() - self._start, 1e-9)
        return f"{read:,} records  {pace:,.0f}/s"

    def _part_tasks(self) -> Iterator[Task]:
        packed = [s for s in self.sources if s.file.kind == "fasta.gz"]
        for source in self.sources:
            if source.file.kind == "fasta":
                for part in parts_of(self.plan, source):
                    yield make_text_part, (self.plan, source, part)
            elif source.file.kind == "parquet":
                first = 0
                for group in list_groups(
                    source.file.location, self.config.columns, self.plan.part_bytes
                ):
                    yield make_group, (self.plan, source, group.index, first, group.parts)
                    first += group.parts
            elif len(packed) > self.runner.workers > 1:
                yield make_stream, (self.plan, source)
            else:
                yield from self._streamed(source)

    def _streamed(self, source: Source) -> Iterator[Task]:
        """Decompress a file here and hand its parts out: one file keeps several processes busy."""
        end = self.work / f"end-{source.index:06d}.arrow"
        if (note := read_note(end)) is not None:
            for part in note["parts"]:
                yield make_text_part, (self.plan, source, part, b"")
            return
        parts, records = [], 0
        for part, text in stream_parts(source.file.location, self.plan.part_bytes):
            known = read_note(self.plan.path("part", source.index, part)) is not None
            yield make_text_part, (self.plan, source, part, b"" if known else text, records)
            records += text.count(b"\n>") + text.startswith(b">")
            parts.append(part)
        self._ends.append((end, parts))

    # The id mapping.

    def _joins(self, reports: list[Report]) -> list[Path] | None:
        path, buckets = self.config.id_mapping, self.plan.mapping_buckets
        if path is None:
            return None
        self.report(f"reading {path}")
        parts = list(self.runner.map(make_mapping_part, self._mapping_tasks(path)))
        self.details["id_mapping_rows"] = sum(note["rows"] for note in parts)
        mapping = [self.work / f"mapping-{k:07d}.arrow" for k in range(len(parts))]
        keys = [
            self.plan.path("keys", note["source"], note["part"]) for note in reports if note["data"]
        ]
        targets = [self.work / f"join-{bucket:04d}.arrow" for bucket in range(buckets)]
        tasks = [
            (bucket, mapping, keys, self.rules, target, self.plan.partitions)
            for bucket, target in enumerate(targets)
        ]
        for _ in self.runner.map(join_bucket, tasks):
            pass
        return targets

    def _mapping_tasks(self, path: str) -> Iterator[tuple[Any, ...]]:
        for part, line, text in stream_lines(path, self.plan.part_bytes):
            yield self.work, path, part, line, self.plan.mapping_buckets, text

    # Partitions and names.

    def _partitions(
        self, reports: list[Report], joins: list[Path] | None, origins: Origins
    ) -> tuple[list[dict[str, Any]], list[Path], list[list[Any]]]:
        """Filter, deduplicate, and make ids unique.

        With ``duplicate_ids="reject"`` a record can lose its place to an earlier one of its id;
        then the next record with its sequence takes it, and may lose it again. So it goes round,
        until nothing is rejected any more; what comes out is what going through the input record
        by record would give.
        """
        plan, count = self.plan, self.plan.partitions
        parts = [plan.path("part", note["source"], note["part"]) for note in reports]
        share = self.config.validation_share if self.config.split_by == "sequence" else 0.0
        id_buckets = -(-count // _PARTITIONS_PER_ID_BUCKET)
        latest = [0] * count
        notes: list[dict[str, Any]] = [{}] * count
        banned: list[list[Any]] = []
        todo, turn = list(range(count)), 0
        while True:
            places: dict[int, list[int]] = {number: [] for number in todo}
            for row in banned:
                if row[3] in places:
                    places[row[3]].append(row[0])
            tasks = [
                Partition(
                    plan=plan,
                    number=number,
                    parts=parts,
                    joins=joins,
                    id_buckets=id_buckets,
                    validation_share=share,
                    banned=tuple(places[number]),
                    round=turn,
                )
                for number in todo
            ]
            for k, note in enumerate(self.runner.map(make_partition, [(task,) for task in tasks])):
                notes[note["partition"]], latest[note["partition"]] = note, turn
                span = _AFTER_PARTITIONS - _AFTER_PARTS
                self.progress(_AFTER_PARTS + span * (k + 1) / len(tasks), self._figures(reports))
            names = self._names(latest, id_buckets, turn)
            self._refuse_clash(names, origins)
            new = [row for note in names for row in note["banned"]]
            if not new:
                break
            banned += new
            todo, turn = sorted({row[3] for row in new}), turn + 1
        self._latest = latest
        files = [self._names_path(n["bucket"], turn) for n in names if n["renamed"]]
        return notes, sorted(files), sorted(banned)

    def _names_path(self, bucket: int, turn: int) -> Path:
        return self.work / f"names-{bucket:04d}-{turn}.arrow"

    def _names(self, latest: list[int], id_buckets: int, turn: int) -> list[dict[str, Any]]:
        def paths(kind: str) -> list[Path]:
            return [partition_path(self.plan, kind, k, turn) for k, turn in enumerate(latest)]

        tasks = [
            IdBucket(
                plan=self.plan,
                number=bucket,
                ids=paths("ids"),
                kept=paths("kept"),
                policy=self.config.duplicate_ids,
                target=self._names_path(bucket, turn),
            )
            for bucket in range(id_buckets)
        ]
        return list(self.runner.map(make_names, [(task,) for task in tasks]))

    def _refuse_clash(self, names: list[dict[str, Any]], origins: Origins) -> None:
        clashes = sorted(note["clash"] for note in names if note["clash"])
        if clashes:
            place, record, name = clashes[0][:3]
            file, number = origins.find(place, record)
            raise CorpusError(file, f"id {name!r} occurs twice", number)

    # What users see.

    def _account(
        self,
        seeds: dict[str, Any] | None,
        reports: list[Report],
        notes: list[dict[str, Any]],
        banned: list[list[Any]],
    ) -> None:
        counts = counts_of(reports, notes, banned)
        if seeds is not None:
            counts.update(seeds["counts"])
        check_counts(counts)
        read = counts["sequences_read"]
        if not counts["sequences_kept"]:
            out = [partition_path(self.plan, "out", k, turn) for k, turn in enumerate(self._latest)]
            why = commonest_reason(self.plan, reports, out)
            raise CorpusError(self.config.sources(), f"no usable sequence among {read}{why}")
        if seeds is not None and not counts["families_kept"]:
            source = ", ".join(self.config.alignments)
            reason = f"no family with two usable sequences among {counts['families_read']}"
            raise CorpusError(source, reason + seeds["commonest"])
        self.counts = dict(sorted(counts.items()))
        self.details |= details_of(self.config, self.sources, seeds, reports, notes, banned)

    def _write(
        self,
        seeds: dict[str, Any] | None,
        reports: list[Report],
        origins: Origins,
        notes: list[dict[str, Any]],
        names: list[Path],
        banned: list[list[Any]],
    ) -> list[FileEntry]:
        results = Results(
            config=self.config,
            plan=self.plan,
            output=self.output,
            reports=reports,
            origins=origins,
            notes=notes,
            turns=self._latest,
            names=names,
            banned=banned,
            has_seeds=seeds is not None,
        )
        files: list[FileEntry] = []
        shards = results.shards()
        for k, entry in enumerate(self.runner.map(write_shard, [(shard,) for shard in shards])):
            files.append(entry)
            share = _AFTER_PARTITIONS + (1 - _AFTER_PARTITIONS) * (k + 1) / len(shards)
            self.progress(min(share, 0.99), f"{k + 1} of {len(shards)} shards")
        for entry in self.runner.map(_call, results.tables()):
            files += entry if isinstance(entry, list) else [entry]
        self.progress(1.0, self._figures(reports))
        return files


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _buckets(text_bytes: int) -> int:
    return min(max(-(-text_bytes // _PARTITION_BYTES), 1), _MOST_BUCKETS)
