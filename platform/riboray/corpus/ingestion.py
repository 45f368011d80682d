"""From FASTA and Stockholm files to a corpus directory: validated, deduplicated, sharded Parquet.

Every input record ends up in the corpus or in ``rejects.parquet``; the counts are checked before
anything is committed, and the directory appears whole or not at all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from riboray.alphabet import normalise
from riboray.corpus.fasta import read_fasta
from riboray.corpus.records import (
    MEMBER_SCHEMA,
    PAIR_SCHEMA,
    REJECT_SCHEMA,
    SEQUENCE_SCHEMA,
    Reject,
    hash64,
    why_rejected,
)
from riboray.corpus.stockholm import FamilyAlignment, read_stockholm
from riboray.errors import ConfigError, CorpusError, OutputError
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_directory,
    fingerprint,
    read_manifest,
    sha256_file,
    write_manifest,
)

__all__ = ["CORPUS_KIND", "IngestConfig", "ingest"]

CORPUS_KIND = "corpus"
GAPS = str.maketrans("", "", "-.~_")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn FASTA and Stockholm files into a corpus that pre-training reads."""

    corpus: list[str] = field(default_factory=list)
    """FASTA files, plain or gzip: sequences for masked language modelling. Without any, the
    sequences of the alignments are used."""
    alignments: list[str] = field(default_factory=list)
    """Stockholm files, plain or gzip, such as Rfam.seed.gz: families for structural alignment
    learning."""
    output: str = "corpus"
    """Directory to make. If it holds a corpus of the same configuration, it is kept as it is."""
    min_length: int = 10
    """Shortest sequence kept, in nucleotides."""
    max_length: int = 440
    """Longest sequence kept, in nucleotides; RNABERT has 440 positions."""
    duplicate_ids: Literal["suffix", "reject", "error"] = "suffix"
    """What to do when two different sequences share an id: append .2, .3, … to the later ones,
    reject them, or stop."""
    ambiguity: Literal["keep", "reject"] = "keep"
    """What to do with sequences that hold IUPAC ambiguity codes. RNABERT's original vocabulary has
    no tokens for them."""
    pairs_per_family: int = 200
    """Sequence pairs drawn per family at most; a family has fewer if it has few members."""
    rows_per_shard: int = 25000
    """Rows of a Parquet shard."""
    seed: int = 0
    """Seed of the pairs drawn."""

    def __post_init__(self) -> None:
        if not self.corpus and not self.alignments:
            raise ConfigError("nothing to ingest: give --corpus, --alignments or both")
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"min_length={self.min_length} and max_length={self.max_length} leave no sequence"
            )
        for name in ("pairs_per_family", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

    def fingerprint(self) -> str:
        """Hash the options and the contents of the input files; the output's name is left out."""
        values: dict[str, Any] = asdict(self)
        values.pop("output")
        for name in ("corpus", "alignments"):
            values[name] = [
                sha256_file(Path(path)) if Path(path).is_file() else path for path in values[name]
            ]
        return fingerprint(values)


class _Corpus:
    """What has been read so far: kept sequences, families, rejects and counts."""

    def __init__(self, config: IngestConfig) -> None:
        self.config = config
        self.sequences: list[dict[str, Any]] = []
        self.pairs: list[dict[str, Any]] = []
        self.members: list[dict[str, Any]] = []
        self.accessions: set[str] = set()
        self.rejects: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self._id_of_sequence: dict[str, str] = {}
        self._uses_of_id: Counter[str] = Counter()

    def reject(self, kind: str, outcome: str, where: tuple[str, int, str], reason: str) -> None:
        self.counts[f"{kind}_{'duplicates' if outcome == 'duplicate' else 'rejected'}"] += 1
        self.rejects.append(Reject(*where, outcome, reason))

    def why_rejected(self, sequence: str) -> str | None:
        """Apply the configuration's rules."""
        config = self.config
        keep = config.ambiguity == "keep"
        return why_rejected(sequence, config.min_length, config.max_length, ambiguity=keep)

    def add_sequence(
        self, where: tuple[str, int, str], sequence: str, description: str, family: str | None
    ) -> None:
        """Keep, deduplicate or reject one sequence."""
        self.counts["sequences_read"] += 1
        sequence_id = where[2]
        reason = self.why_rejected(sequence)
        if not sequence_id:
            reason = "record without an id"
        if reason is not None:
            self.reject("sequences", "rejected", where, reason)
            return
        first = self._id_of_sequence.get(sequence)
        if first is not None:
            self.reject("sequences", "duplicate", where, f"same sequence as {first}")
            return
        self._uses_of_id[sequence_id] += 1
        uses = self._uses_of_id[sequence_id]
        if uses > 1:
            if self.config.duplicate_ids == "error":
                raise CorpusError(where[0], f"id {sequence_id!r} occurs twice", where[1])
            if self.config.duplicate_ids == "reject":
                self.reject("sequences", "rejected", where, "id of another sequence")
                return
            sequence_id = self._free_id(sequence_id, uses)
        self._id_of_sequence[sequence] = sequence_id
        self.counts["sequences_kept"] += 1
        self.sequences.append(
            {
                "id": sequence_id,
                "sequence": sequence,
                "length": len(sequence),
                "taxid": None,
                "rna_type": None,
                "family": family,
                "description": description or None,
                "sha256_64": hash64(sequence),
            }
        )

    def _free_id(self, sequence_id: str, number: int) -> str:
        while (candidate := f"{sequence_id}.{number}") in self._uses_of_id:
            number += 1
        self._uses_of_id[candidate] += 1
        return candidate

    def add_family(self, file: str, family: FamilyAlignment, into_corpus: bool) -> None:
        """Draw the pairs of one seed alignment."""
        self.counts["families_read"] += 1
        if family.accession in self.accessions:
            where = (file, family.number, family.accession)
            self.reject("families", "rejected", where, "a family of this accession stands above")
            return
        self.accessions.add(family.accession)
        usable: list[tuple[str, str]] = []
        seen: set[str] = set()
        for number, (sequence_id, row) in enumerate(
            zip(family.ids, family.rows, strict=True), start=1
        ):
            where = (file, family.number, f"{family.accession}/{sequence_id}")
            sequence = normalise(row.translate(GAPS))
            if into_corpus:
                self.add_sequence(where, sequence, family.name, family.accession)
            self.counts["rows_read"] += 1
            reason = self.why_rejected(sequence)
            if reason is not None:
                self.reject("rows", "rejected", where, f"row {number}: {reason}")
            elif sequence in seen:
                self.reject("rows", "duplicate", where, f"row {number}: sequence stands above")
            else:
                seen.add(sequence)
                self.members.append(
                    {
                        "family": family.accession,
                        "name": family.name,
                        "id": sequence_id,
                        "sha256_64": hash64(sequence),
                    }
                )
                usable.append((sequence_id, normalise(row)))
                self.counts["rows_kept"] += 1
        if len(usable) < 2:
            reason = f"{len(usable)} usable sequence{'s'[: len(usable) != 1]}; a pair needs two"
            self.reject("families", "rejected", (file, family.number, family.accession), reason)
            return
        self.counts["families_kept"] += 1
        self.pairs.extend(_draw_pairs(family.accession, usable, self.config))


def _draw_pairs(
    family: str, members: Sequence[tuple[str, str]], config: IngestConfig
) -> Iterator[dict[str, Any]]:
    """Draw pairs without replacement, the same for the same seed and family."""
    count = len(members)
    total = count * (count - 1) // 2
    if total <= config.pairs_per_family:
        chosen = list(itertools.combinations(range(count), 2))
    else:
        generator = np.random.default_rng([config.seed, hash64(family)])
        numbers = generator.choice(total, size=config.pairs_per_family, replace=False)
        chosen = [_pair_of(int(number), count) for number in np.sort(numbers)]
    for i, j in chosen:
        yield _pair_row(family, members[i], members[j])


def _pair_of(number: int, count: int) -> tuple[int, int]:
    """Return the ``number``-th of all pairs i < j of ``count`` members, in lexicographic order."""
    i = 0
    while number >= count - 1 - i:
        number -= count - 1 - i
        i += 1
    return i, i + 1 + number


def _pair_row(family: str, first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
    row_a = np.frombuffer(first[1].encode(), dtype=np.uint8)
    row_b = np.frombuffer(second[1].encode(), dtype=np.uint8)
    gaps = np.frombuffer(b"-.~_", dtype=np.uint8)
    symbol_a, symbol_b = ~np.isin(row_a, gaps), ~np.isin(row_b, gaps)
    both, either = symbol_a & symbol_b, symbol_a | symbol_b
    dash = np.uint8(ord("-"))
    return {
        "family": family,
        "id_a": first[0],
        "id_b": second[0],
        "aligned_a": np.where(symbol_a, row_a, dash)[either].tobytes().decode(),
        "aligned_b": np.where(symbol_b, row_b, dash)[either].tobytes().decode(),
        "length_a": int(symbol_a.sum()),
        "length_b": int(symbol_b.sum()),
        "identity": float((row_a == row_b)[both].mean()) if both.any() else 0.0,
    }


def ingest(config: IngestConfig, *, report: Callable[[str], None] = lambda _: None) -> Manifest:
    """Make a corpus directory, or recognise the one that is there.

    Parameters
    ----------
    config : IngestConfig
        Inputs, output and rules.
    report : callable
        Receives a line of progress now and then.

    Returns
    -------
    Manifest
        Of the corpus; ``counts`` accounts for every record.

    Raises
    ------
    InputError
        If an input is unusable as a whole, or nothing usable is in it.
    OutputError
        If the output directory holds something else.

    Notes
    -----
    Rows are ordered by the sha256 of their sequence: shards are random samples of the input, and
    the same whatever the order of the input's records.
    """
    output = Path(config.output)
    mark = config.fingerprint()
    existing = read_manifest(output, CORPUS_KIND) if output.is_dir() else None
    if existing is not None:
        if existing.fingerprint != mark:
            raise OutputError(output, "holds a corpus of other inputs or options")
        report(f"corpus {output} is complete already")
        return existing
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(output, "exists already; choose another directory or remove it")
    corpus = _Corpus(config)
    for path in config.corpus:
        report(f"reading {path}")
        for record in read_fasta(path):
            where = (path, record.number, record.id)
            corpus.add_sequence(where, normalise(record.sequence), record.description, None)
    for path in config.alignments:
        report(f"reading {path}")
        for family in read_stockholm(path):
            corpus.add_family(path, family, into_corpus=not config.corpus)
    _check_usable(corpus)
    with atomic_directory(output) as temporary:
        files = _write(corpus, temporary)
        manifest = Manifest(
            kind=CORPUS_KIND,
            fingerprint=mark,
            files=tuple(sorted(files, key=lambda entry: entry.name)),
            counts=dict(sorted(corpus.counts.items())),
            details={"config": asdict(config)},
        )
        write_manifest(temporary, manifest)
    return manifest


def _check_usable(corpus: _Corpus) -> None:
    counts, config = corpus.counts, corpus.config
    for kind in ("sequences", "families", "rows"):
        outcomes = sum(counts[f"{kind}_{o}"] for o in ("kept", "duplicates", "rejected"))
        assert counts[f"{kind}_read"] == outcomes, f"{kind} do not add up: {counts}"
    reasons = Counter(r.reason for r in corpus.rejects if r.outcome == "rejected")
    why = f"; most common reason: {reasons.most_common(1)[0][0]}" if reasons else ""
    if not counts["sequences_kept"]:
        source = ", ".join(config.corpus or config.alignments)
        raise CorpusError(source, f"no usable sequence among {counts['sequences_read']}{why}")
    if config.alignments and not counts["families_kept"]:
        read = counts["families_read"]
        raise CorpusError(
            ", ".join(config.alignments),
            f"no family with two usable sequences among {read}{why}",
        )


def _write(corpus: _Corpus, directory: Path) -> list[FileEntry]:
    corpus.sequences.sort(key=lambda row: (row["sha256_64"], row["id"]))
    corpus.pairs.sort(key=lambda p: hash64("\t".join((p["family"], p["id_a"], p["id_b"]))))
    rejects = [asdict(reject) for reject in corpus.rejects]
    size = corpus.config.rows_per_shard
    return [
        *_write_shards(directory, "sequences", corpus.sequences, SEQUENCE_SCHEMA, size),
        *_write_shards(directory, "pairs", corpus.pairs, PAIR_SCHEMA, size),
        *_write_shards(directory, "members", corpus.members, MEMBER_SCHEMA, size),
        _write_table(directory / "rejects.parquet", rejects, REJECT_SCHEMA, 50_000),
    ]


def _write_shards(
    directory: Path, name: str, rows: list[dict[str, Any]], schema: pa.Schema, size: int
) -> Iterable[FileEntry]:
    """Write rows as shards of equal size, give or take one row."""
    if not rows:
        return
    shards = -(-len(rows) // size)
    # A row group is the unit that a reader takes and shuffles within. Sixteen or more of them
    # let even a small corpus be read by several workers.
    group = min(max(len(rows) // 16, 1), 4096)
    for number in range(shards):
        part = rows[len(rows) * number // shards : len(rows) * (number + 1) // shards]
        yield _write_table(directory / f"{name}-{number:05d}.parquet", part, schema, group)


def _write_table(
    path: Path, rows: list[dict[str, Any]], schema: pa.Schema, group: int
) -> FileEntry:
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", row_group_size=group)
    return FileEntry.of(path, table.num_rows)
