"""Configuration of pre-training: one dataclass, from which flags, YAML and help are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from riboray.alignment import GapPenalties, Margins
from riboray.errors import ConfigError
from riboray.manifest import fingerprint
from riboray.model.config import RnaBertConfig
from riboray.pretraining.masking import MaskingRule

__all__ = ["PretrainConfig"]

#: Options that may differ when a run is resumed: where and how fast it computes, what is shown, and
#: when it ends. (The limits also set the learning-rate schedule: wider limits stretch it.) Inputs
#: are told by the content of the corpus, not by their paths.
_RESUMABLE = (
    "corpus",
    "alignments",
    "run_name",
    "storage",
    "num_workers",
    "cpus_per_worker",
    "device",
    "ray_address",
    "max_failures",
    "max_steps",
    "max_epochs",
    "max_minutes",
    "evaluations",
    "checkpoint_minutes",
    "keep_checkpoints",
)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-train RNABERT with masked language modelling and structural alignment learning.

    Without any option, the bundled sample of nine RNA families trains for about two minutes.
    """

    corpus: list[str] = field(default_factory=list)
    """FASTA (plain or gzip) or Parquet files, or one corpus directory made by `riboray ingest`."""
    alignments: list[str] = field(default_factory=list)
    """Stockholm files (plain or gzip), such as Rfam.seed.gz. Without --corpus their sequences are
    the corpus too."""
    max_length: int = 440
    """Longest sequence kept, in nucleotides; longer ones are rejected and counted."""
    pairs_per_family: int = 200
    """Sequence pairs drawn from each family's seed alignment, at most."""

    run_name: str | None = None
    """Name of the run directory. The name of an unfinished run resumes it; by default a new name
    is made from the time."""
    storage: str = "runs"
    """Where run directories lie. On a cluster: a path that every node sees."""

    max_steps: int | None = None
    """Stop after this many optimiser steps."""
    max_epochs: float | None = None
    """Stop after this many passes over the sequences (10 if no other limit is given)."""
    max_minutes: float | None = None
    """Stop after this many minutes of training, resumed time included."""

    mlm_weight: float = 1.0
    """Weight of the masked-language-modelling loss (mean over targets, nats)."""
    sal_weight: float = 0.05
    """Weight of the structural-alignment loss (mean over pairs)."""
    sal_start: float = 0.0
    """Progress, from 0 to 1, at which structural alignment learning joins in."""
    masking: MaskingRule = field(default_factory=MaskingRule)
    """Which nucleotides are hidden."""
    gaps: GapPenalties = field(default_factory=GapPenalties)
    """Gap penalties of the alignment."""
    margins: Margins = field(default_factory=Margins)
    """Margins of structural alignment learning."""

    tokens_per_batch: int = 1024
    """Tokens of a masked batch, padding included, at most."""
    pair_tokens_per_batch: int = 1024
    """Tokens of a batch of pairs, both sequences and padding included, at most."""
    batches_per_step: int | None = None
    """Batches of each kind in a global step (default: the number of workers at the start). It,
    not the number of workers, decides what a step computes."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.1
    """Share of the run over which the learning rate rises from 0; it then falls to 0 as a
    cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, on matrices only."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass: bf16 on a GPU, fp32 on a CPU (bf16 is slower there)."""
    seed: int = 0
    """Seed of weights, masks, pairs and order."""
    model: RnaBertConfig = field(default_factory=RnaBertConfig)
    """The model's shape and conventions."""

    validation_share: float = 0.02
    """Share of sequences, chosen by their hash, kept out of training to measure masked
    language modelling."""
    validation_families: list[str] = field(default_factory=list)
    """Families kept out of training to measure structural alignment, by accession or name.
    Default: a share of them, chosen by hash."""
    validation_family_share: float = 0.05
    """Share of families kept out if none is named."""
    validation_sequences: int = 512
    """Validation sequences measured, at most."""
    validation_pairs: int = 400
    """Validation pairs measured, at most."""
    evaluations: int = 8
    """Measurements in the course of the run, beside those before and after."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints; every measurement makes one too."""
    keep_checkpoints: int = 2
    """Checkpoints kept for resuming, the newest."""

    num_workers: int = 2
    """Training workers."""
    cpus_per_worker: int = 1
    """CPUs of a worker; on a laptop, more workers are faster than more threads."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where workers train: on GPUs if the cluster has one for each."""
    ray_address: str | None = None
    """Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own on this machine)."""
    max_failures: int = 3
    """Worker failures after which the run gives up; before, it goes on from the last
    checkpoint."""

    def __post_init__(self) -> None:
        positive = (
            "pairs_per_family",
            "learning_rate",
            "max_grad_norm",
            "validation_sequences",
            "validation_pairs",
            "num_workers",
            "cpus_per_worker",
            "keep_checkpoints",
            "checkpoint_minutes",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("max_steps", "max_epochs", "max_minutes", "batches_per_step"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, not {value}")
        not_negative = ("mlm_weight", "sal_weight", "weight_decay", "evaluations", "max_failures")
        for name in (*not_negative, "seed"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("sal_start", "warmup", "validation_share", "validation_family_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        self._check_lengths()

    def _check_lengths(self) -> None:
        limit = self.model.max_sequence_length
        if not 0 < self.max_length <= limit:
            raise ConfigError(f"max_length must lie between 1 and {limit}, not {self.max_length}")
        for name, sequences in (("tokens_per_batch", 1), ("pair_tokens_per_batch", 2)):
            least = sequences * self.model.max_position_embeddings
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name}={getattr(self, name)} cannot hold the longest input; "
                    f"it must be at least {least}"
                )
        if self.mlm_weight == self.sal_weight == 0:
            raise ConfigError("mlm_weight and sal_weight are both 0: nothing to learn")
        if "lm" not in self.model.heads:
            raise ConfigError("pre-training needs the lm head: add it to model.heads")
        if self.run_name is not None and (
            not self.run_name or self.run_name.startswith(".") or "/" in self.run_name
        ):
            raise ConfigError(f"run_name {self.run_name!r} cannot name a directory")

    def fingerprint(self) -> str:
        """Hash all that decides what the run computes; a resumed run must have the same."""
        values: dict[str, Any] = asdict(self)
        return fingerprint({k: v for k, v in values.items() if k not in _RESUMABLE})
