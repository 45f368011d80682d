"""Configuration of pre-training: one dataclass, from which flags, YAML and help are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from riboray.alignment import GapPenalties, Margins
from riboray.errors import ConfigError
from riboray.model.config import RnaBertConfig
from riboray.pretraining.curriculum import OBJECTIVES, Phase
from riboray.pretraining.masking import MaskingRule
from riboray.pretraining.options import RunOptions

__all__ = ["METRICS", "PretrainConfig"]

#: Further options that may differ when a run is resumed. (The limits also set the learning-rate
#: schedule: wider limits stretch it.) Inputs and the checkpoint to start from are told by their
#: content, not by their paths.
_RESUMABLE = (
    *("corpus", "alignments", "compile", "evaluations"),
    *("max_steps", "max_epochs", "max_minutes", "patience", "final"),
)

#: Measurements by which checkpoints are compared, and whether more is better.
METRICS = {
    "mlm_loss": False,
    "mlm_accuracy": True,
    "sal_loss": False,
    "sal_f1": True,
    "ss_loss": False,
    "ss_accuracy": True,
    "sfp_loss": False,
    "sfp_accuracy": True,
}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunOptions):
    """Pre-train RNABERT with masked language modelling and structural alignment learning.

    Without any option, the bundled sample of nine RNA families trains for about two minutes.
    """

    RESUMABLE: ClassVar[tuple[str, ...]] = _RESUMABLE
    LIMITS: ClassVar[tuple[str, ...]] = (
        *("max_steps", "max_epochs", "max_minutes", "patience", "final"),
    )

    corpus: list[str] = field(default_factory=list)
    """FASTA (plain or gzip) or Parquet files, or one corpus directory made by `riboray ingest`."""
    alignments: list[str] = field(default_factory=list)
    """Stockholm files (plain or gzip), such as Rfam.seed.gz. Without --corpus their sequences are
    the corpus too."""
    max_length: int = 440
    """Longest sequence kept, in nucleotides; longer ones are rejected and counted."""
    pairs_per_family: int = 200
    """Sequence pairs drawn from each family's seed alignment, at most."""

    max_steps: int | None = None
    """Stop after this many optimiser steps."""
    max_epochs: float | None = None
    """Stop after this many passes over the sequences (10 if nothing else ends the run)."""
    max_minutes: float | None = None
    """Stop after this many minutes of training, resumed time included."""

    curriculum: list[Phase] = field(default_factory=lambda: [Phase()])
    """Phases of the training, in order; each has `objectives`, and how long it lasts as `steps`,
    `epochs` or `share` of the run (the last one may go without), and a `learning_rate` if it has
    its own."""
    mlm_weight: float = 1.0
    """Weight of the masked-language-modelling loss (mean over targets, nats)."""
    sal_weight: float = 0.05
    """Weight of the structural-alignment loss (mean over pairs)."""
    sal_temperature: float = 0.0
    """0: the published loss, against the best other alignment. Above 0, in match scores, such as
    0.2: against all alignments at once, each by how nearly it is the best."""
    ss_weight: float = 1.0
    """Weight of the structure-class loss (mean over nucleotides of known class, nats), in phases
    that have it."""
    sfp_weight: float = 1.0
    """Weight of the family contrast (mean over sequences, nats), in phases that have it."""
    sfp_temperature: float = 0.07
    """Temperature of the family contrast: cosines of pooled embeddings are divided by it."""
    masking: MaskingRule = field(default_factory=MaskingRule)
    """Which nucleotides are hidden."""
    mask_pairs: bool = False
    """Hide nucleotides in structural alignment learning too."""
    crop_pairs: float = 0.0
    """Share of pairs of which one sequence, by chance, is cut to half of its length or more."""
    pair_jitter: float = 8.0
    """Nucleotides of noise in the lengths by which pairs are sorted into batches. From the longest
    sequence on, lengths are mixed: more padding, and a family contrast against all lengths."""
    family_temperature: float = 1.0
    """A family with n pairs is seen in proportion to n to the power 1/temperature: with 1 every
    pair as often, with inf every family."""
    identity_power: float = 0.0
    """Within a family, a pair is seen in proportion to (1 - identity) to this power: above 0,
    unlike sequences more often."""
    focus_families: list[str] = field(default_factory=list)
    """Families seen more often than others, by accession or name; one named twice, twice as often
    as the others named."""
    focus_share: float = 0.5
    """Share of the alignments that is theirs, if there are any."""
    group_size: int = 0
    """Learn alignments from groups of so many members of a family, such as 8, each aligned with
    each; they are drawn from its alignment as the run goes. 0: from the corpus's pairs."""
    resample: float = 1.0
    """Members of groups are varied: up to this share of their columns, another for each, is drawn
    anew from the family's profile, base pairs together. 0: members as they are."""
    sal_length_power: float = 0.0
    """The loss of a pair counts (100 nucleotides / its length) to this power: with 1, a nucleotide
    of long sequences counts as much as one of short ones."""
    gaps: GapPenalties = field(default_factory=GapPenalties)
    """Gap penalties of the alignment."""
    margins: Margins = field(default_factory=Margins)
    """Margins of structural alignment learning."""

    tokens_per_batch: int = 1024
    """Tokens of a masked batch, padding included, at most."""
    pair_tokens_per_batch: int = 1024
    """Tokens of a batch of pairs, both sequences and padding included, at most."""
    batches_per_step: int | None = None
    """Batches of each kind in a global step (default: the largest number of workers). It, not the
    number of workers, decides what a step computes: workers with several batches accumulate
    their gradients."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What moves the matrices of the encoder's layers: AdamW as all else, or Muon, which needs
    fewer steps."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_scale: float = 4.0
    """Learning rate of Muon, in multiples of AdamW's."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up: fall to 0 as a cosine, or stay."""
    warmup: float = 0.1
    """Share of the run over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Weight decay, on matrices only."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, such as 0.999; the average is
    measured and is the model that is saved. 0: none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass: bfloat16 on a GPU, float32 on a CPU, where bfloat16 is
    slower."""
    compile: bool = False
    """Compile the encoder with torch.compile: a minute at the start, for GPUs."""
    position_init: Literal["normal", "sinusoidal"] = "normal"
    """What position embeddings are before training: random as the original's, or waves, by which
    attention finds neighbours sooner. They are learnt in either case."""
    seed: int = 0
    """Seed of weights, masks, pairs and order."""
    model: RnaBertConfig = field(default_factory=RnaBertConfig)
    """The model's shape and conventions."""
    init: str | None = None
    """Checkpoint whose weights the run starts from, of the same shape: the name of a model that
    comes with riboray, or a path; it is copied into the run directory. Default: random weights."""

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
    best_metric: Literal[
        "auto",
        "mlm_loss",
        "mlm_accuracy",
        "sal_loss",
        "sal_f1",
        "ss_loss",
        "ss_accuracy",
        "sfp_loss",
        "sfp_accuracy",
    ] = "auto"
    """Measurement by which checkpoints are compared. auto: sal_f1 in phases with alignments, else
    mlm_loss, else ss_loss, else sfp_loss."""
    patience: int = 0
    """End a phase after this many measurements in a row without a new best. 0: never."""
    final: Literal["last", "best"] = "last"
    """Which model the finished run hands over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive(
            *("pairs_per_family", "learning_rate", "muon_scale", "max_grad_norm"),
            *("validation_sequences", "validation_pairs", "family_temperature", "sfp_temperature"),
            *("max_steps", "max_epochs", "max_minutes", "batches_per_step"),
        )
        self.check_not_negative(
            *("mlm_weight", "sal_weight", "ss_weight", "sfp_weight", "sal_length_power"),
            *("weight_decay", "identity_power", "pair_jitter", "sal_temperature"),
            *("evaluations", "patience", "seed"),
        )
        self.check_shares("warmup", "validation_share", "validation_family_share", "ema_decay")
        for name in ("crop_pairs", "focus_share", "resample"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        self._check_groups()
        self._check_curriculum()
        self._check_lengths()

    def _check_groups(self) -> None:
        if self.group_size < 0 or self.group_size == 1:
            raise ConfigError(f"group_size must be 0 or at least 2, not {self.group_size}")
        taken = [
            n for n in ("crop_pairs", "identity_power") if self.group_size and getattr(self, n)
        ]
        if taken:
            raise ConfigError(f"{taken[0]} is for the corpus's pairs: leave it out with group_size")
        least = self.group_size * self.model.max_position_embeddings
        if self.pair_tokens_per_batch < least:
            raise ConfigError(
                f"pair_tokens_per_batch={self.pair_tokens_per_batch} cannot hold a group of "
                f"{self.group_size} of the longest input; it must be at least {least}"
            )

    def _check_curriculum(self) -> None:
        if not self.curriculum:
            raise ConfigError("curriculum has no phase")
        for number, phase in enumerate(self.curriculum, start=1):
            if phase.bound is None and number < len(self.curriculum):
                raise ConfigError(f"phase {number} of the curriculum has no end")
            weights = {name: getattr(self, f"{name}_weight") for name in phase.names}
            if not any(weights.values()):
                raise ConfigError(
                    f"phase {number}: {' and '.join(weights)} weigh 0: nothing to learn"
                )
        shares = sum(phase.share or 0 for phase in self.curriculum)
        if shares > 1 + 1e-9:
            raise ConfigError(f"the shares of the curriculum's phases add up to {shares:g}")
        for head, objective in (("lm", "mlm"), ("ss", "ss")):
            if objective in self.objectives and head not in self.model.heads:
                raise ConfigError(f"{objective} needs the {head} head: add it to model.heads")
        if self.best_metric not in ("auto", *METRICS):
            raise ConfigError(
                f"best_metric must be auto or one of {', '.join(METRICS)}, not {self.best_metric!r}"
            )

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives of all phases, in the order of `curriculum.OBJECTIVES`."""
        wanted = {name for phase in self.curriculum for name in phase.names}
        weighed = {name for name in wanted if getattr(self, f"{name}_weight") > 0}
        return tuple(name for name in OBJECTIVES if name in weighed)

    def learnt_in(self, phase: Phase) -> tuple[str, ...]:
        """Return the objectives of a phase that weigh something."""
        return tuple(name for name in phase.names if name in self.objectives)

    @property
    def has_end(self) -> bool:
        """Whether the curriculum ends by itself, without a limit of the run."""
        bounds = [phase.bound for phase in self.curriculum]
        return all(bound is not None and bound[0] != "share" for bound in bounds)

    def metric_of(self, phase: Phase) -> str:
        """Return the measurement by which checkpoints of a phase are compared."""
        if self.best_metric != "auto":
            return self.best_metric
        learnt = self.learnt_in(phase)
        for metric in ("sal_f1", "mlm_loss", "ss_loss", "sfp_loss"):
            if metric.split("_")[0] in learnt:
                return metric
        raise AssertionError(phase)

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

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the options that decide what the run computes."""
        # Which checkpoint it starts from, the run directory knows by its hash.
        return super().fingerprint_values() | {"init": self.init is not None}
