"""Options of the verbs `align` and `search`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from riboray import __version__
from riboray.alignment.columns import SCALE, GapPenalties, Mode, check_mode, whole_penalties
from riboray.corpus.config import DuplicateIds, OnInvalid
from riboray.errors import ConfigError
from riboray.manifest import fingerprint, sha256_file
from riboray.model.bundled import DEFAULT_MODEL
from riboray.rayenv import check_memory_per_worker

__all__ = ["AlignConfig", "AlignmentOptions", "SearchConfig"]


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions:
    """What `align` and `search` have in common."""

    checkpoint: str = DEFAULT_MODEL
    """Model whose base embeddings are aligned: one that comes with riboray, by its name; a
    directory that riboray or MultiMolecule wrote; the published .pth; or an id of the
    Hugging Face Hub."""
    mode: Mode = "global"
    """``global``: end to end. ``semiglobal``: at each end, the gap of one sequence is free.
    ``local``: the best stretch of each."""
    gaps: GapPenalties = field(default_factory=GapPenalties)
    """Affine gap penalties, on the scale of cosines."""
    min_score: float | None = None
    """Report pairs of at least this score only."""
    max_evalue: float | None = None
    """Report pairs of at most this E-value only."""
    statistics: bool = True
    """Estimate z-scores and E-values from alignments with shuffled sequences."""
    arithmetic: Literal["float32", "int16"] = "float32"
    """How pairs are scored before filtering. int16 is faster and changes no alignment that is
    reported: pairs that might pass are aligned in float32. Scores without alignments
    (--scores-only) are then off by at most length / 120."""
    centred: bool = False
    """Subtract from every base embedding the mean of its sequence. Scores then tell families apart
    far better with some models (docs/results.md), while alignments hardly change; gaps may cost
    twice as much (--gaps.open 2 --gaps.extend 0.2)."""
    dimensions: int | None = None
    """Project base embeddings to this many dimensions: faster, and scores change; by how much is
    printed."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type in which base embeddings are held in memory; float16 takes half of it and changes a
    cosine by about 1e-4."""
    duplicate_ids: DuplicateIds = "error"
    """What to do with a second record of one id: stop, append .2, .3, … to it, or leave it out."""
    on_invalid: OnInvalid = "error"
    """What to do with a record that is no RNA: stop, or leave it out and list it in
    rejects.parquet."""
    num_workers: int | None = None
    """Processes that align, one CPU each; all CPUs by default."""
    memory_per_worker: float | None = None
    """GiB that each process reserves of its machine; nothing by default. Say it where machines have
    less memory than their CPUs' processes take: Ray then puts fewer there, or adds machines."""
    ray_address: str | None = None
    """Ray cluster to use; by default the one of the job, else a Ray of its own on this machine."""
    dry_run: bool = False
    """Print cells, time and size, and stop."""
    seed: int = 0
    """Seed of shuffles and samples."""

    def __post_init__(self) -> None:
        check_memory_per_worker(self.memory_per_worker)
        check_mode(self.mode)
        if self.arithmetic == "int16":
            whole_penalties(self.gaps, SCALE)
        if self.max_evalue is not None and not self.max_evalue > 0:
            raise ConfigError(f"max_evalue must be positive, not {self.max_evalue}")
        for name in ("num_workers", "dimensions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

    def identity(self, inputs: list[str], checkpoint: str) -> str:
        """Hash what decides the result: options, contents of the inputs, weights."""
        values: dict[str, Any] = asdict(self)
        for name in ("output", "dry_run", "checkpoint"):
            values.pop(name, None)
        for name in ("num_workers", "memory_per_worker", "ray_address"):
            values.pop(name, None)
        for name in ("input", "query", "db"):
            values.pop(name, None)
        values["inputs"] = [sha256_file(Path(path)) for path in inputs]
        return fingerprint({**values, "weights": checkpoint, "version": __version__})


@dataclass(frozen=True, kw_only=True)
class AlignConfig(AlignmentOptions):
    """Align two RNAs (``riboray align A.fa B.fa``), or all pairs of many, by base embeddings."""

    POSITIONAL: ClassVar[str] = "input"

    input: list[str] = field(default_factory=list)
    """FASTA, plain or gzip; may be given first, without the flag. Two records in one file or two:
    their alignment is printed. With --all-pairs any number. A record may carry a dot-bracket
    line."""
    all_pairs: bool = False
    """Align every sequence with every other, each pair once."""
    output: str | None = None
    """All pairs: directory to make, by default ``alignments``; the same command goes on in it where
    it stopped. Two sequences: file to write instead of the terminal."""
    format: Literal["clustal", "fasta", "stockholm", "arrow"] = "clustal"
    """How two sequences' alignment is written."""
    top_k: int | None = None
    """All pairs: report, for each sequence, its so many best partners only."""
    scores_only: bool = False
    """All pairs: no traceback; the report has scores and statistics, without alignments."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to align: give FASTA files")
        self._check_use()
        if self.output in self.input:
            raise ConfigError(f"output {self.output} is an input, which would be overwritten")
        if self.format == "arrow" and not self.all_pairs and self.output is None:
            raise ConfigError("format arrow needs --output: a file to write")
        if self.max_evalue is not None and not self.statistics:
            raise ConfigError("max_evalue needs statistics")
        if self.top_k is not None and (self.top_k < 1 or not self.all_pairs):
            raise ConfigError("top_k must be at least 1 and needs --all-pairs")
        if self.top_k is not None and self.arithmetic == "int16":
            raise ConfigError("top_k compares exact scores: use arithmetic float32")
        super().__post_init__()

    def _check_use(self) -> None:
        """Refuse options that would be ignored."""
        if self.all_pairs:
            if self.format != "clustal":
                raise ConfigError("format is for two sequences; all pairs are a table")
            return
        unused = {
            "min_score": None,
            "max_evalue": None,
            "scores_only": False,
            "arithmetic": "float32",
            "dtype": "float32",
        }
        for name, default in unused.items():
            if getattr(self, name) != default:
                raise ConfigError(f"{name} needs --all-pairs")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(AlignmentOptions):
    """Find relatives of RNAs among many: ``riboray search QUERY.fa --db EMBEDDINGS``."""

    POSITIONAL: ClassVar[str] = "query"

    query: list[str] = field(default_factory=list)
    """FASTA, plain or gzip; may be given first, without the flag."""
    db: str = ""
    """Directory that `riboray embed` made, with base embeddings."""
    checkpoint: str = ""
    """Model whose base embeddings are aligned; by default the one that embedded the database, from
    where it was then."""
    output: str = "hits"
    """Directory to make; the same command goes on in it where it stopped."""
    prefilter: Literal["both", "embedding", "kmer", "none"] = "both"
    """How candidates are chosen before they are aligned: nearest pooled embeddings, most shared
    k-mers, both, or none (every target is aligned)."""
    candidates: int = 500
    """Targets that each prefilter hands on per query."""
    kmer: int = 6
    """Length of the k-mers."""
    max_evalue: float | None = 10.0
    """Report hits of at most this E-value only: unrelated targets expected to score as high in a
    search with one query. Without statistics it does nothing."""
    max_hits: int = 100
    """Hits reported per query at most."""

    def __post_init__(self) -> None:
        if not self.query:
            raise ConfigError("nothing to search for: give FASTA files")
        if not self.db:
            raise ConfigError("--db is required: a directory that `riboray embed` made")
        for name, lowest in (("candidates", 1), ("max_hits", 1), ("kmer", 2)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if self.arithmetic == "int16":
            raise ConfigError("search compares exact scores: use arithmetic float32")
        if self.kmer > 12:
            raise ConfigError(f"kmer must be at most 12, not {self.kmer}")
        super().__post_init__()
