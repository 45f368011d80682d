"""Options of the verb `embed`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from riboray.corpus.sequences import DuplicateIds, OnInvalid
from riboray.errors import ConfigError
from riboray.manifest import fingerprint, sha256_file

__all__ = ["EmbedConfig"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embed RNAs and write Arrow files: ``riboray embed RNAS.fa --output EMBEDDINGS``."""

    POSITIONAL: ClassVar[str] = "input"

    input: list[str] = field(default_factory=list)
    """FASTA files, plain or gzip; may be given first, without the flag."""
    checkpoint: str = ""
    """Model: a directory that riboray or MultiMolecule wrote, or the published .pth."""
    output: str = "embeddings"
    """Directory to make; the same command goes on in it where it stopped."""
    pooling: Literal["mean", "max", "first"] = "mean"
    """How the base embeddings of a sequence become one: their mean, their largest value in each
    dimension, or that of the first base."""
    per_base: bool = False
    """Keep the embedding of every base too, in float16; `riboray search` is faster with it."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the pooled embeddings."""
    rows_per_shard: int = 5000
    """Sequences of one Arrow file."""
    duplicate_ids: DuplicateIds = "error"
    """What to do with a second record of one id: stop, append .2, .3, … to it, or leave it out."""
    on_invalid: OnInvalid = "error"
    """What to do with a record that is no RNA: stop, or leave it out and list it in
    rejects.parquet."""
    num_workers: int | None = None
    """Processes that embed, one CPU each; all CPUs by default."""
    ray_address: str | None = None
    """Ray cluster to use; by default the one of the job, else a Ray of its own on this machine."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to embed: give FASTA files")
        if not self.checkpoint:
            raise ConfigError("--checkpoint is required: a model that `riboray pretrain` made")
        if self.rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard must be at least 1, not {self.rows_per_shard}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigError(f"num_workers must be at least 1, not {self.num_workers}")

    def identity(self, weights: str) -> str:
        """Hash what decides the result: options, contents of the inputs, weights."""
        values: dict[str, Any] = asdict(self)
        for name in ("output", "num_workers", "ray_address", "checkpoint"):
            values.pop(name)
        values["input"] = [sha256_file(Path(path)) for path in self.input]
        return fingerprint({**values, "weights": weights})
