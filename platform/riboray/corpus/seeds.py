"""The step of ingesting that reads seed alignments: families, and their sequences as a part."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from riboray.corpus.buckets import read_buckets, read_note, write_buckets, write_note
from riboray.corpus.config import IngestConfig
from riboray.corpus.families import (
    ORIGIN_SCHEMA,
    Families,
    PairRules,
    choose_held_out,
    draw_pairs,
    row_bytes,
)
from riboray.corpus.files import location
from riboray.corpus.parts import DATA, EXCLUDED_MEMBER, HELD_OUT, MEMBER, Plan, Report, put_block
from riboray.corpus.records import MEMBER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA, hash64
from riboray.corpus.screening import Block
from riboray.corpus.sha256 import sha256_64
from riboray.corpus.shards import cut_evenly, row_group_size, write_table
from riboray.corpus.stockholm import read_stockholm
from riboray.corpus.strings import Strings
from riboray.errors import ConfigError
from riboray.manifest import FileEntry

__all__ = ["SeedTask", "make_seeds", "settle_seeds", "write_seed_tables"]


@dataclass(frozen=True, kw_only=True)
class SeedTask:
    """What to read, and how.

    Attributes
    ----------
    paths, locations : tuple of str
        Stockholm files, as given and for processes in any directory; a file's place among them is
        its source.
    into_corpus : bool
        Whether the sequences are the corpus, or only to compare it with.
    held_out_share, held_out : float, tuple of str
        Families set apart for validation: a share by hash, or those named.
    """

    plan: Plan
    paths: tuple[str, ...]
    locations: tuple[str, ...]
    into_corpus: bool
    per_family: int
    min_identity: float
    max_identity: float
    seed: int
    held_out_share: float = 0.0
    held_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: IngestConfig, plan: Plan) -> SeedTask:
        """Take what is asked for."""
        return cls(
            plan=plan,
            paths=tuple(config.alignments),
            locations=tuple(location(path) for path in config.alignments),
            into_corpus=not config.corpus,
            per_family=config.pairs_per_family,
            min_identity=config.pair_min_identity,
            max_identity=config.pair_max_identity,
            seed=config.seed,
            held_out_share=config.validation_share if config.split_by == "family" else 0.0,
            held_out=tuple(config.validation_families),
        )

    @property
    def pair_rules(self) -> PairRules:
        """Which pairs of a family are drawn."""
        return PairRules(
            per_family=self.per_family,
            min_identity=self.min_identity,
            max_identity=self.max_identity,
            seed=self.seed,
        )


def make_seeds(task: SeedTask) -> dict[str, Any]:
    """Read seed alignments; write pairs, members and sequences to the work directory.

    Raises
    ------
    StockholmError
        If a file is not what it should be.
    ConfigError
        If a family to set apart has no usable pair, or none is left.
    """
    work = task.plan.work
    note_path = work / "seeds.arrow"
    if (done := read_note(note_path)) is not None:
        return done
    families = Families(task.plan.rules, task.pair_rules)
    for path, place in zip(task.paths, task.locations, strict=True):
        for family in read_stockholm(place):
            families.add(path, family)
    held_out = _held_out(task, families)
    members = pa.concat_tables([ORIGIN_SCHEMA.empty_table(), *families.members])
    drawn = pa.concat_tables([PAIR_SCHEMA.empty_table(), *families.pairs])
    pairs, apart, pairs_held_out = _in_order(drawn, members, held_out)
    write_buckets(work / "seeds-pairs.arrow", pairs, apart, 2)
    write_buckets(work / "seeds-members.arrow", members, np.zeros(len(members), np.int64), 1)
    rejects = pa.Table.from_pylist([asdict(reject) for reject in families.rejects], REJECT_SCHEMA)
    write_buckets(work / "seeds-left.arrow", rejects, np.zeros(len(rejects), np.int64), 1)
    reasons = Counter(r.reason for r in families.rejects if r.outcome != "duplicate")
    counts = Counter({f"{k}_{o}": 0 for k in ("families", "rows") for o in ("read", "kept")})
    counts.update(families.counts)
    note: dict[str, Any] = {
        "counts": dict(counts),
        "held_out": held_out,
        "pairs_held_out": pairs_held_out,
        "pairs_excluded": 0,
        "matched": sorted(families.matched),
        "excluded": sorted({row[2] for row in families.sequences if row[6]}),
        "warnings": families.warnings,
        "reports": _write_sequences(task, families, set(held_out)),
        "commonest": f"; most common reason: {reasons.most_common(1)[0][0]}" if reasons else "",
    }
    write_note(note_path, note)
    return note


def _held_out(task: SeedTask, families: Families) -> list[str]:
    usable = families.usable
    if not task.held_out:
        if task.held_out_share and len(usable) == 1:
            raise ConfigError("--split-by family needs two families with usable pairs, not one")
        return choose_held_out(usable, task.held_out_share, task.seed) if usable else []
    names = {name: family for _, _, family, name, _, _, _ in families.sequences}
    chosen = {name: names.get(name, name) for name in task.held_out}
    unknown = sorted(name for name, family in chosen.items() if family not in usable)
    if unknown:
        listed = ", ".join(unknown)
        raise ConfigError(f"validation families without a usable pair in the alignments: {listed}")
    if len(set(chosen.values())) == len(usable):
        raise ConfigError("every family is set apart for validation: none is left to train on")
    return sorted(set(chosen.values()))


def _in_order(
    pairs: pa.Table, members: pa.Table, held_out: list[str]
) -> tuple[pa.Table, NDArray[np.int64], dict[str, int]]:
    """Pairs in the order of their hash (the first are a random sample), and which are set apart.

    Training pairs that hold a sequence of a family set apart are left out: how many of a family.
    """
    keys = zip(*(pairs[name].to_pylist() for name in ("family", "id_a", "id_b")), strict=True)
    hashes = np.array([hash64("\t".join(key)) for key in keys], dtype=np.uint64)
    pairs = pairs.take(pa.array(np.argsort(hashes, kind="stable")))
    names = pa.array(held_out, pa.string())
    apart = pc.is_in(pairs["family"], value_set=names).to_numpy()
    left: dict[str, int] = {}
    if held_out:
        theirs = members.filter(pc.is_in(members["family"], value_set=names))["sha256_64"]
        stays = apart | ~_holds_one_of(pairs, theirs.to_numpy())
        left = dict(Counter(pairs["family"].filter(pa.array(~stays)).to_pylist()))
        pairs, apart = pairs.filter(pa.array(stays)), apart[stays]
    return pairs, apart.astype(np.int64), left


def _holds_one_of(pairs: pa.Table, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which pairs align a sequence with one of the given hashes."""
    found = np.zeros(len(pairs), dtype=np.bool_)
    for side in ("aligned_a", "aligned_b"):
        sequences = Strings.from_arrow(pairs[side]).without(b"-")
        found |= np.isin(sha256_64(sequences), hashes)
    return found


def settle_seeds(task: SeedTask, note: dict[str, Any], excluded: list[int]) -> dict[str, Any]:
    """Take excluded sequences out of pairs and members, too, once it is known which they are.

    Families that lose members draw their pairs again, from the members that stay: of a large
    family most pairs are never drawn, and those left of a first draw would be few.

    Parameters
    ----------
    task : SeedTask
        As that of `make_seeds`.
    note : dict
        What `make_seeds` returned.
    excluded : list of int
        Hashes of members that must not be in the corpus.

    Returns
    -------
    dict
        The note, with counts that are true now.
    """
    work = task.plan.work
    target = work / "seeds-settled.arrow"
    if not excluded:
        return note
    if (done := read_note(target)) is not None:
        return done
    hashes = np.array(excluded, dtype=np.uint64)
    counts = Counter(note["counts"])
    batches = [read_buckets([work / "seeds-pairs.arrow"], bucket) for bucket in (0, 1)]
    before = pa.concat_tables([pa.Table.from_batches(found, PAIR_SCHEMA) for found in batches])
    members = pa.Table.from_batches(read_buckets([work / "seeds-members.arrow"], 0), ORIGIN_SCHEMA)
    out = np.isin(members["sha256_64"].to_numpy(), hashes)
    stay = members.filter(pa.array(~out))
    touched = set(members["family"].filter(pa.array(out)).to_pylist())
    again = pc.is_in(before["family"], value_set=pa.array(sorted(touched), pa.string()))
    untouched = before.filter(pc.invert(again))
    drawn = _drawn_again(task, stay, touched & {*before["family"].to_pylist()})
    pairs, apart, left = _in_order(pa.concat_tables([untouched, *drawn]), stay, note["held_out"])
    left |= {name: n for name, n in note["pairs_held_out"].items() if name not in touched}
    lost = sorted({*before["family"].to_pylist()} - {*pairs["family"].to_pylist()})
    rejects = _rejects_of(members.filter(pa.array(out)), members, lost)
    counts["rows_kept"] -= int(out.sum())
    counts["rows_filtered"] += int(out.sum())
    counts["families_kept"] -= len(lost)
    counts["families_filtered"] += len(lost)
    gone = int(_holds_one_of(before, hashes).sum())
    settled = {**note, "counts": dict(counts), "pairs_excluded": gone, "pairs_held_out": left}
    write_buckets(work / "seeds-pairs-settled.arrow", pairs, apart, 2)
    zero = np.zeros(len(stay), np.int64)
    write_buckets(work / "seeds-members-settled.arrow", stay, zero, 1)
    write_buckets(target, rejects, np.zeros(len(rejects), np.int64), 1, settled)
    return settled


def _drawn_again(task: SeedTask, members: pa.Table, names: set[str]) -> list[pa.Table]:
    """Pairs of the named families, of their given members alone."""
    rows: dict[str, list[tuple[str, str]]] = {}
    columns = (members[column].to_pylist() for column in ("family", "id", "aligned"))
    for family, name, row in zip(*columns, strict=True):
        if family in names:
            rows.setdefault(family, []).append((name, row))
    tables = [PAIR_SCHEMA.empty_table()]
    for family in sorted(rows):
        ids, texts = zip(*rows[family], strict=True)
        if len(ids) > 1:
            stay = np.array([row_bytes(row) for row in texts], dtype=np.uint8)
            tables.append(draw_pairs(family, list(ids), stay, task.pair_rules))
    return tables


def _rejects_of(out: pa.Table, members: pa.Table, lost: list[str]) -> pa.Table:
    """Say of members, and of families without a pair left, that they are filtered."""
    rows = [
        {
            "file": row["file"],
            "record": row["record"],
            "id": f"{row['family']}/{row['id']}",
            "outcome": "filtered",
            "reason": "row of the alignment: same sequence as one excluded",
        }
        for row in out.select(["file", "record", "family", "id"]).to_pylist()
    ]
    origins = members.select(["family", "file", "record"]).to_pylist()
    where = {row["family"]: (row["file"], row["record"]) for row in origins}
    for family in lost:
        file, record = where[family]
        reason = "no pair left without an excluded sequence"
        row = {"file": file, "record": record, "id": family}
        rows.append({**row, "outcome": "filtered", "reason": reason})
    return pa.Table.from_pylist(rows, REJECT_SCHEMA)


def _write_sequences(task: SeedTask, families: Families, held_out: set[str]) -> list[Report]:
    """Hand the rows' sequences to the partitions: as records, as members, or to be left out."""
    reports = []
    excluded = set(task.plan.rules.excluded_families)
    excluded |= {family for _, _, family, _, _, _, out in families.sequences if out}
    for source, path in enumerate(task.paths):
        rows = [row for row in families.sequences if row[0] == path]
        out = [row for row in rows if row[6]]
        if out:
            block = _block(out)
            reports.append(put_block(task.plan, source, 0, block, EXCLUDED_MEMBER, numbered=True))
        rows = rows if task.into_corpus else [row for row in rows if not row[6]]
        base = MEMBER | (DATA if task.into_corpus else 0)
        roles = [base | (HELD_OUT if row[2] in held_out else 0) for row in rows]
        if rows:
            role = np.array(roles, dtype=np.uint8)
            # A family that is excluded by its name is known here by its accession.
            plan = _with_excluded(task.plan, excluded)
            reports.append(put_block(plan, source, 1, _block(rows), role, numbered=True))
    return reports


def _with_excluded(plan: Plan, families: set[str]) -> Plan:
    return replace(plan, rules=replace(plan.rules, excluded_families=tuple(sorted(families))))


def _block(rows: list[tuple[str, int, str, str, str, str, bool]]) -> Block:
    count = len(rows)
    return Block(
        ids=Strings.of(f"{family}/{name}" for _, _, family, _, name, _, _ in rows),
        descriptions=Strings.of(name for _, _, _, name, _, _, _ in rows),
        sequences=Strings.of(text for _, _, _, _, _, text, _ in rows),
        records=np.array([number for _, number, *_ in rows], dtype=np.int64),
        undecodable=np.zeros(count, np.bool_),
        taxids=np.full(count, -1, np.int32),
        rna_types=pa.nulls(count, pa.string()),
        families=pa.array([family for _, _, family, *_ in rows], pa.string()),
    )


def write_seed_tables(output: Path, work: Path, size: int) -> list[FileEntry]:
    """Write the shards of pairs and members."""
    files = []
    settled = "-settled" if (work / "seeds-settled.arrow").is_file() else ""
    tables = [
        ("pairs", PAIR_SCHEMA, f"seeds-pairs{settled}.arrow", 0),
        ("validation_pairs", PAIR_SCHEMA, f"seeds-pairs{settled}.arrow", 1),
        ("members", ORIGIN_SCHEMA, f"seeds-members{settled}.arrow", 0),
    ]
    for stem, schema, name, bucket in tables:
        table = pa.Table.from_batches(read_buckets([work / name], bucket), schema)
        if schema is ORIGIN_SCHEMA:
            table = table.select(MEMBER_SCHEMA.names).cast(MEMBER_SCHEMA)
        group = row_group_size(len(table))
        for number, (first, last) in enumerate(cut_evenly(len(table), size)):
            path = output / f"{stem}-{number:05d}.parquet"
            part = table.slice(first, last - first)
            files.append(write_table(path, part, group))
    return files
