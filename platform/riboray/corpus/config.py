"""Configuration of ingesting: one dataclass, from which flags, YAML and help are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from riboray.corpus.files import opened
from riboray.errors import ConfigError, InputError
from riboray.rayenv import check_memory_per_worker

__all__ = ["ColumnNames", "DuplicateIds", "IngestConfig", "OnInvalid", "read_families"]

#: What to do with a second record of one id, and with a record that is no RNA.
DuplicateIds = Literal["error", "suffix", "reject"]
OnInvalid = Literal["error", "reject"]

#: Options that need no value.
_MAY_BE_NONE = ("id_mapping", "num_workers", "memory_per_worker", "ray_address")
#: Options that do not change what is made.
_WITHOUT_EFFECT = ("output", "num_workers", "memory_per_worker", "ray_address", "dry_run")


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Names of the columns of foreign Parquet files.

    By default the usual names are tried, riboray's own and MultiMolecule's (urs, sequence, type,
    description) among them.
    """

    id: str | None = None
    """Column with the ids."""
    sequence: str | None = None
    """Column with the sequences."""
    description: str | None = None
    """Column with descriptions."""
    taxid: str | None = None
    """Column with NCBI taxonomy ids."""
    rna_type: str | None = None
    """Column with RNA types."""
    family: str | None = None
    """Column with families."""


def read_families(paths: Sequence[str]) -> tuple[str, ...]:
    """Read lists of families, one accession or name a line; ``#`` begins a comment.

    Returns
    -------
    tuple of str
        All of them, sorted.

    Raises
    ------
    InputError
        If a list cannot be read, or names nothing.
    """
    names: set[str] = set()
    for path in paths:
        with opened(path, InputError, "text", lambda: None) as handle:
            raw = handle.read()
        try:
            lines = raw.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(path, "text is not UTF-8") from error
        found = {line.split("#")[0].strip() for line in lines} - {""}
        if not found:
            raise InputError(path, "names no family")
        names |= found
    return tuple(sorted(names))


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn FASTA, Parquet and Stockholm files into a corpus that pre-training reads.

    Every record is in the corpus, in duplicates.parquet or, with its reason, in rejects.parquet.
    The same input gives the same bytes, whatever the number of workers; a run that was killed goes
    on with the same command.
    """

    POSITIONAL: ClassVar[str] = "corpus"

    corpus: list[str] = field(default_factory=list)
    """Sequences: FASTA files (plain or gzip), Parquet files, folders, patterns such as
    'dir/*.fa.gz' and URLs (s3://, gs://, https://). Without any, the sequences of the alignments
    are used."""
    alignments: list[str] = field(default_factory=list)
    """Stockholm files, plain or gzip, such as Rfam.seed.gz: families for structural alignment
    learning."""
    output: str = "corpus"
    """Directory to make. If it holds a corpus of the same inputs and options, it is kept as it is;
    on a cluster: a path that every node sees."""
    columns: ColumnNames = field(default_factory=ColumnNames)
    """Columns of Parquet files."""

    id_mapping: str | None = None
    """RNAcentral's id_mapping.tsv.gz: gives taxids and RNA types to records with RNAcentral ids,
    and lets them be filtered."""
    taxid: list[int] = field(default_factory=list)
    """Keep sequences of these NCBI taxonomy ids only, for example 9606. Needs ids such as
    URS…_9606, a Parquet column, or --id-mapping."""
    rna_type: list[str] = field(default_factory=list)
    """Keep sequences of these RNA types only, for example tRNA."""
    database: list[str] = field(default_factory=list)
    """Keep sequences of these databases only, as --id-mapping names them."""
    min_length: int = 10
    """Shortest sequence kept, in nucleotides."""
    max_length: int = 440
    """Longest sequence kept, in nucleotides; RNABERT has 440 positions."""
    on_long: Literal["reject", "window", "truncate"] = "reject"
    """What to do with longer ones: reject them, cut them into windows of max_length that overlap by
    half, or keep their beginning. long.parquet lists those that were cut."""
    ambiguity: Literal["keep", "reject"] = "keep"
    """What to do with sequences that hold IUPAC ambiguity codes. RNABERT's original vocabulary has
    no tokens for them."""
    max_ambiguity: float = 1.0
    """Largest share of ambiguity codes in a sequence that is kept."""
    duplicate_ids: DuplicateIds = "suffix"
    """What to do when different sequences share an id: append .2, .3, … to the later ones, reject
    them, or stop."""

    exclude: list[str] = field(default_factory=list)
    """Files (as for --corpus) with sequences that must not be in the corpus, such as a test set.
    Exact matches are left out."""
    exclude_families: list[str] = field(default_factory=list)
    """Text files with families that must not be in the corpus, one accession or name a line. Their
    alignments, their members and sequences identical to a member are left out."""
    validation_share: float = 0.0
    """Share set apart for validation, in files of their own. 0: pre-training sets some apart
    itself."""
    split_by: Literal["sequence", "family"] = "sequence"
    """What is set apart: sequences, by their hash, or families of the alignments, with every
    sequence identical to a member."""
    validation_families: list[str] = field(default_factory=list)
    """Families to set apart with --split-by family, by accession or name, instead of a share chosen
    by hash."""

    pairs_per_family: int = 200
    """Sequence pairs drawn per family at most; a family has fewer if it has few members."""
    pair_min_identity: float = 0.0
    """Least sequence identity of a pair: identical columns over columns without a gap."""
    pair_max_identity: float = 1.0
    """Largest identity of a pair. Many pairs of seed alignments are nearly identical and teach
    nothing: 0.95 leaves those out."""
    rows_per_shard: int = 50000
    """Rows of a Parquet shard, at most; all shards are equal but for one row."""
    sort: Literal["hash", "length"] = "hash"
    """Order of the rows in a shard. Shards are random samples of the corpus either way."""
    seed: int = 0
    """Seed of the pairs drawn and of the families set apart."""
    dry_run: bool = False
    """Find the inputs, say what they are and how much room the work needs, and stop."""

    num_workers: int | None = None
    """Processes to use (default: one for every CPU; none for small inputs)."""
    memory_per_worker: float | None = None
    """GiB that each process reserves of its machine; nothing by default. Say it where machines have
    less memory than their CPUs' processes take: Ray then puts fewer there, or adds machines."""
    ray_address: str | None = None
    """Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own on this machine)."""

    def __post_init__(self) -> None:
        check_memory_per_worker(self.memory_per_worker)
        for name, value in vars(self).items():
            if value is None and name not in _MAY_BE_NONE:
                raise ConfigError(f"{name} must not be empty; leave it out")
            if isinstance(value, list) and "" in value:
                raise ConfigError(f"{name} holds an empty value")
        if not self.corpus and not self.alignments:
            raise ConfigError("nothing to ingest: give --corpus, --alignments or both")
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"min_length={self.min_length} and max_length={self.max_length} leave no sequence"
            )
        for name in ("pairs_per_family", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigError(f"num_workers must be at least 1, not {self.num_workers}")
        if not 0 <= self.max_ambiguity <= 1:
            raise ConfigError(f"max_ambiguity must be in [0, 1], not {self.max_ambiguity}")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(f"validation_share must be in [0, 1), not {self.validation_share}")
        if not 0 <= self.pair_min_identity <= self.pair_max_identity <= 1:
            span = f"{self.pair_min_identity:g} to {self.pair_max_identity:g}"
            raise ConfigError(f"pair identities from {span} leave no pair")
        if any(not 0 <= taxid < 1 << 31 for taxid in self.taxid):
            raise ConfigError("a taxid is a positive number below 2,147,483,648")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, not {self.seed}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.database and self.id_mapping is None:
            raise ConfigError("--database needs --id-mapping: nothing else names databases")
        if (self.taxid or self.rna_type or self.id_mapping) and not self.corpus:
            raise ConfigError("taxids, RNA types and --id-mapping are about --corpus: give it")
        by_family = self.split_by == "family"
        if by_family and not self.alignments:
            raise ConfigError("--split-by family needs --alignments")
        if by_family and not self.validation_share and not self.validation_families:
            raise ConfigError("--split-by family needs --validation-share or --validation-families")
        if self.validation_families and not by_family:
            raise ConfigError("--validation-families needs --split-by family")

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the options that decide what is made; inputs are told by their content."""
        return {k: v for k, v in asdict(self).items() if k not in _WITHOUT_EFFECT}

    def families_to_exclude(self) -> tuple[str, ...]:
        """Read the lists of families to exclude; see `read_families`."""
        return read_families(self.exclude_families)

    def sources(self) -> str:
        """Name the inputs of sequences, for messages."""
        return ", ".join(self.corpus or self.alignments)
