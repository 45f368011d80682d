"""Options of the verb `cluster`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from riboray.alignment.columns import SCALE, GapPenalties, Mode, check_mode, whole_penalties
from riboray.alignment.similarity import FAMILY_GAPS
from riboray.corpus.config import DuplicateIds, OnInvalid
from riboray.errors import ConfigError
from riboray.rayenv import check_memory_per_worker

__all__ = ["ClusterConfig", "Method", "Quality", "Weight"]

Method = Literal["leiden", "components", "greedy", "spectral"]
Quality = Literal["cpm", "modularity"]
Weight = Literal["calibrated", "z_score", "normalised_score", "score", "identity"]

#: What Leiden asks of a cluster unless told otherwise.
_RESOLUTION: dict[Quality, float] = {"cpm": 0.1, "modularity": 1.0}

#: Options that do not change the result; inputs and weights are told by their content.
_WITHOUT_EFFECT = (
    *("input", "output", "hits", "checkpoint"),
    *("num_workers", "memory_per_worker", "ray_address", "dry_run"),
)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Find families: ``riboray cluster RNAS.fa --checkpoint MODEL --output CLUSTERS``.

    Sequences are aligned with each other (all pairs, or of many those that a prefilter chooses);
    significant pairs are the edges of a graph; the graph is cut into clusters. Every sequence is in
    exactly one of them. The same command goes on where it stopped.
    """

    POSITIONAL: ClassVar[str] = "input"

    input: list[str] = field(default_factory=list)
    """FASTA files, plain or gzip, or one directory that `riboray embed` made; may be given first,
    without the flag."""
    checkpoint: str | None = None
    """Model whose base embeddings are aligned: one that comes with riboray, by its name; a
    directory that riboray or MultiMolecule wrote; the published .pth; or an id of the
    Hugging Face Hub. By default, of embeddings
    the model that made them, from where it was then; of sequences, rnabert."""
    hits: str | None = None
    """Pairs compared before: a directory that `riboray align --all-pairs` or `riboray search` made
    of these sequences, or a TSV file with columns query, target, evalue, score. By default the
    sequences are compared now."""
    output: str = "clusters"
    """Directory to make; the same command goes on in it where it stopped."""

    method: Method = "leiden"
    """How the graph is cut. ``leiden``: communities more closely linked inside than --resolution
    asks. ``components``: whatever is linked. ``greedy``: the sequence with most neighbours takes
    them, and so on (set cover, as MMseqs2 does). ``spectral``: --clusters of them, from all pairs
    of at most 5,000 sequences, whatever the thresholds."""
    quality: Quality = "cpm"
    """What Leiden maximises. ``cpm`` (constant Potts model) finds clusters of any size among any
    number; ``modularity`` merges small ones where there are many."""
    resolution: float | None = None
    """Leiden: higher gives more and smaller clusters. Of ``cpm``, the share of a cluster's pairs
    that must be linked, by edges of average weight: 0.1 by default. Of ``modularity``: 1.0."""
    clusters: int | None = None
    """Spectral: number of clusters."""

    max_evalue: float | None = 0.001
    """Link pairs of at most this E-value only: unrelated sequences expected to align as well with
    one sequence. Results of `align --all-pairs`, whose E-values are about all pairs, are
    converted."""
    min_normalised_score: float | None = None
    """Link pairs of at least this score per nucleotide of the shorter sequence only."""
    neighbors: int | None = None
    """Keep each sequence's so many heaviest edges only; by default all."""
    mutual: bool = False
    """Keep an edge only if it is among the --neighbors of both sequences, not of either."""
    weight: Weight = "normalised_score"
    """What an edge weighs: ``normalised_score`` (score per nucleotide of the shorter),
    ``calibrated`` (standard deviations above chance over the square root of the shorter length),
    ``z_score``, ``score``, or ``identity`` (of aligned pairs)."""

    exhaustive: int = 10_000
    """All pairs of up to so many sequences are aligned; of more, those that --prefilter chooses."""
    prefilter: Literal["both", "embedding", "kmer"] = "kmer"
    """How candidates are chosen among many sequences: most k-mers shared, first anywhere, then on
    nearly one diagonal; nearest pooled embeddings; or both, which finds a little more and compares
    twice as many pairs."""
    kmer: int = 7
    """Length of the k-mers that are shared anywhere. Longer ones are faster."""
    candidates: int = 100
    """Sequences that each prefilter hands on per sequence."""
    per_base: bool = True
    """Keep base embeddings on disk while many sequences are compared, 0.24 kB a nucleotide; else
    sequences are embedded a second time."""
    mode: Mode = "global"
    """Alignment: ``global``, ``semiglobal`` or ``local``; see `riboray align`."""
    centred: bool = True
    """Compare base embeddings without the mean of their sequence: what all bases of a sequence
    share hides whether two are of one family."""
    gaps: GapPenalties = field(default_factory=lambda: FAMILY_GAPS)
    """Affine gap penalties of the comparison, on the scale of cosines. (--alignments of families
    are made with uncentred embeddings and RNABERT's penalties, 1.0 and 0.1, which align better.)"""
    dimensions: int | None = 32
    """Compare projections of base embeddings to so many dimensions, if the model has more: more
    than twice as fast, with the same clusters (docs/results.md). null: as they are."""
    arithmetic: Literal["float32", "int16"] = "float32"
    """How all pairs are scored. int16 is faster; scores are off by at most length / 120."""

    alignments: bool = False
    """Write an aligned FASTA for every cluster of two or more: members aligned to their
    representative."""
    figure: bool = True
    """Draw clusters.png: a map of the largest clusters, and a histogram of sizes."""
    duplicate_ids: DuplicateIds = "error"
    """What to do with a second record of one id: stop, append .2, .3, … to it, or leave it out."""
    on_invalid: OnInvalid = "error"
    """What to do with a record that is no RNA: stop, or leave it out and list it in
    rejects.parquet."""
    num_workers: int | None = None
    """Processes that align and embed, one CPU each; all CPUs by default."""
    memory_per_worker: float | None = None
    """GiB that each process reserves of its machine; nothing by default. Say it where machines have
    less memory than their CPUs' processes take: Ray then puts fewer there, or adds machines."""
    ray_address: str | None = None
    """Ray cluster to use; by default the one of the job, else a Ray of its own on this machine."""
    seed: int = 0
    """Seed of whatever is drawn by chance."""
    dry_run: bool = False
    """Read the input, say how many pairs would be compared and how long that takes, and stop."""

    def __post_init__(self) -> None:
        check_memory_per_worker(self.memory_per_worker)
        if not self.input:
            raise ConfigError("nothing to cluster: give FASTA files or a directory of embeddings")
        for name, least in (
            ("num_workers", 1), ("neighbors", 1), ("candidates", 1), ("exhaustive", 0),
            ("clusters", 1), ("dimensions", 1), ("kmer", 2),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        for name in ("max_evalue", "resolution"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be positive, not {value}")
        if self.kmer > 12:
            raise ConfigError(f"kmer must be at most 12, not {self.kmer}")
        check_mode(self.mode)
        if self.arithmetic == "int16":
            whole_penalties(self.gaps, SCALE)
            if self.weight == "identity":
                raise ConfigError("weight identity needs alignments: use arithmetic float32")
        self._check_method()

    def _check_method(self) -> None:
        """Refuse options that would be ignored, and graphs in which everything is linked."""
        if self.method == "spectral" and self.clusters is None:
            raise ConfigError("method spectral needs --clusters: how many to find")
        if self.method != "spectral" and self.clusters is not None:
            raise ConfigError(f"--clusters is for --method spectral; {self.method} finds how many")
        if self.method != "leiden" and self.resolution is not None:
            raise ConfigError(f"--resolution is for --method leiden, not {self.method}")
        if self.mutual and self.neighbors is None:
            raise ConfigError("--mutual needs --neighbors")
        if (self.max_evalue, self.min_normalised_score, self.neighbors) == (None, None, None):
            raise ConfigError(
                "everything would be linked with everything: give --max-evalue, "
                "--min-normalised-score or --neighbors"
            )

    @property
    def resolved_resolution(self) -> float:
        """The resolution, or the quality's usual one."""
        return _RESOLUTION[self.quality] if self.resolution is None else self.resolution

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the options that decide the result."""
        return {k: v for k, v in asdict(self).items() if k not in _WITHOUT_EFFECT}
