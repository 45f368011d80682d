"""The files that a run of ingesting leaves, as tasks to carry out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riboray.corpus.account import Origins, write_duplicates, write_left_out
from riboray.corpus.config import IngestConfig
from riboray.corpus.partitions import partition_path
from riboray.corpus.parts import Plan, Report
from riboray.corpus.seeds import write_seed_tables
from riboray.corpus.shards import Shard, plan_shards, row_group_size

__all__ = ["Results", "Task"]

Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the steps before have found.

    Attributes
    ----------
    reports, notes : list of dict
        Of parts and of partitions, in order.
    turns : list of int
        The round in which each partition was made last.
    names : list of Path
        Files of those buckets of ids that rename anything.
    banned : list
        Rows of `naming` that another record's id bans.
    has_seeds : bool
        Whether there are alignments.
    """

    config: IngestConfig
    plan: Plan
    output: Path
    reports: list[Report]
    origins: Origins
    notes: list[dict[str, Any]]
    turns: list[int]
    names: list[Path]
    banned: list[list[Any]]
    has_seeds: bool

    def _paths(self, kind: str) -> list[Path]:
        return [partition_path(self.plan, kind, k, turn) for k, turn in enumerate(self.turns)]

    def shards(self) -> list[Shard]:
        """Return the shards of sequences, training first."""
        kept, shards = tuple(self._paths("kept")), []
        for bucket, (split, stem) in enumerate(
            (("training", "sequences"), ("validation", "validation_sequences"))
        ):
            counts = [note[split] for note in self.notes]
            # Rows are numbered through both buckets of a partition.
            offsets = [note["training"] * bucket for note in self.notes]
            group = row_group_size(sum(counts))
            for number, slices in enumerate(plan_shards(counts, self.config.rows_per_shard)):
                shard = Shard(
                    path=self.output / f"{stem}-{number:05d}.parquet",
                    slices=tuple((p, first, last, offsets[p]) for p, first, last in slices),
                    bucket=bucket,
                    kept=kept,
                    names=tuple(self.names),
                    sort=self.config.sort,
                    group=group,
                )
                shards.append(shard)
        return shards

    def tables(self) -> list[Task]:
        """Return what writes everything but the shards of sequences."""
        plan, output = self.plan, self.output
        left = [plan.path("left", n["source"], n["part"]) for n in self.reports if n["data"]]
        located = [*left, *self._paths("out")]
        names = ("seeds-left.arrow", "seeds-settled.arrow") if self.has_seeds else ()
        more = [path for name in names if (path := plan.work / name).is_file()]
        rejects = output / "rejects.parquet"
        tasks: list[Task] = [
            (write_left_out, (rejects, more, located, self.banned, self.origins)),
            (write_duplicates, (output, plan, self.turns, self.names, self.origins)),
        ]
        if self.config.on_long != "reject":
            long = output / "long.parquet"
            tasks.append((write_left_out, (long, [], left, [], self.origins)))
        if self.has_seeds:
            size = self.config.rows_per_shard
            tasks.append((write_seed_tables, (output, plan.work, size)))
        return tasks
