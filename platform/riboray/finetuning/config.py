"""Options of the verb `finetune`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from riboray.corpus.config import DuplicateIds, OnInvalid
from riboray.errors import ConfigError
from riboray.model.bundled import DEFAULT_MODEL
from riboray.model.config import Level, Problem
from riboray.pretraining.options import RunOptions

__all__ = ["FinetuneConfig", "LabelColumns", "Learner", "SearchSpace", "Split"]

Split = Literal["random", "family", "cluster", "column"]
Learner = Literal["full", "frozen", "lora"]


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """Names of the columns of tables: CSV, TSV, JSON, Parquet.

    Where nothing is said, the usual names are tried.
    """

    id: str | None = None
    """Column with the ids; without one, records are numbered."""
    sequence: str | None = None
    """Column with the sequences."""
    label: list[str] = field(default_factory=list)
    """Column with the labels, or several of them, each an output of its own."""
    group: str | None = None
    """Column with the families, or whatever else must not be on both sides of a split."""
    part: str | None = None
    """Column that says train, validation or test (--split column); with --folds, which fold."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Values to try for options, each with each."""

    learning_rate: list[float] = field(default_factory=list)
    """Learning rates."""
    encoder_scale: list[float] = field(default_factory=list)
    """Learning rates of the encoder, in multiples of the head's."""
    weight_decay: list[float] = field(default_factory=list)
    """Weight decays."""
    dropout: list[float] = field(default_factory=list)
    """Shares of what goes into the head that are left out."""
    batch_size: list[int] = field(default_factory=list)
    """Sequences of a step."""
    lora_rank: list[int] = field(default_factory=list)
    """Ranks of adapters."""
    learn: list[Learner] = field(default_factory=list)
    """What is learnt."""
    transform: list[Literal["identity", "linear", "nonlinear"]] = field(default_factory=list)
    """What comes before a head's last layer."""
    pooling: list[Literal["pooler", "mean"]] = field(default_factory=list)
    """What a sequence's prediction is made from."""

    @property
    def axes(self) -> dict[str, list[Any]]:
        """Return the options that are searched, with their values."""
        return {name: values for name, values in asdict(self).items() if values}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunOptions):
    """Learn to predict from labelled RNAs: ``riboray finetune TRAIN.csv --run-name NAME``.

    What is predicted is inferred from the labels, or said with --level and --problem. The run
    directory holds the model, by which `riboray predict` predicts, what was measured, and where
    every record went. The same command goes on with an unfinished run.
    """

    POSITIONAL: ClassVar[str] = "train"
    RESUMABLE: ClassVar[tuple[str, ...]] = (
        *("train", "validation", "test", "clusters_from", "checkpoint"),
        *("max_epochs", "patience", "trials_at_once"),
    )
    LIMITS: ClassVar[tuple[str, ...]] = ("max_epochs", "patience")

    train: list[str] = field(default_factory=list)
    """Labelled RNAs: CSV, TSV, JSON, JSON lines or Parquet; FASTA whose headers read '>id label',
    or with dot-bracket structures; plain or gzip, files or URLs. May be given first, without the
    flag."""
    validation: list[str] = field(default_factory=list)
    """Files to measure on in the course of the run; by default a share of those to train on."""
    test: list[str] = field(default_factory=list)
    """Files to measure the finished model on; by default a share of those to train on."""
    columns: LabelColumns = field(default_factory=LabelColumns)
    """Columns of tables."""

    level: Level | None = None
    """Of what labels are: of a sequence, of each nucleotide, or of each pair of them (contact).
    Inferred by default; dot-bracket structures are pairs unless this says nucleotide: which ones
    are paired."""
    problem: Problem | None = None
    """What labels are: numbers (regression), one of two (binary) or of several classes
    (multiclass), any of several (multilabel; in tables, separated by ';'). Inferred by default."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, in their order; by default those that occur, sorted. Of binary ones,
    no before yes."""
    on_missing: OnInvalid = "error"
    """What to do with a record without a label (empty, null, NaN): stop, or leave it out and list
    it in rejects.parquet. Of nucleotides and pairs, and where there are several outputs, single
    ones may be missing in any case."""
    on_unknown: OnInvalid = "error"
    """What to do with a record to validate or test on whose class nothing to train on has."""
    on_invalid: OnInvalid = "error"
    """What to do with a record that is no RNA."""
    duplicate_ids: DuplicateIds = "error"
    """What to do with a second record of one id: stop, append .2, .3, … to it, or leave it out."""
    max_length: int = 3000
    """RNAs longer than this are left out and listed. Those longer than the model are learnt in
    windows, as `riboray predict` predicts them; of pairs, memory grows with the square."""

    split: Split = "random"
    """What to keep together: identical sequences (random), families (--columns.group), clusters of
    similar sequences (--identity, or --clusters-from), or nothing: a column says what each record
    is for."""
    validation_share: float = 0.1
    """Share of the records kept out of training to choose the model by; about, as what belongs
    together is."""
    test_share: float = 0.1
    """Share kept for the last measurement."""
    identity: float = 0.8
    """Sequences that are about this similar, or linked by others that are, are one cluster; by the
    9-mers that they share."""
    clusters_from: str | None = None
    """Table of clusters instead: cluster and member in two columns, as `riboray cluster` and
    MMseqs2 write them."""
    folds: int = 0
    """Cross-validate: measure on each of so many parts, trained on the others, at the end train on
    all. 0: no."""
    leave_one_out: bool = False
    """Cross-validate with each group, or value of --columns.part, in turn."""
    refit: bool = True
    """After cross-validation, train on all records, for as long as was best on average."""

    checkpoint: str = DEFAULT_MODEL
    """Model to begin with: one that comes with riboray, by its name; a directory, the published
    .pth, an id of the Hugging Face Hub. One that has a fitting prediction head goes on with it."""
    new_head: bool = False
    """Begin with a new head even if the model has one."""
    learn: Learner = "full"
    """What is learnt beside the head: all weights (full), none (frozen), or low-rank additions to
    the encoder's matrices (lora; pip install 'riboray[lora]')."""
    lora_rank: int = 8
    """Rank of the additions; they count twice their rank over their rank."""
    pooling: Literal["pooler", "mean"] | None = None
    """What a sequence's prediction is made from: the mean of its base embeddings (the default), or
    the pooled first token, as in MultiMolecule, which cannot do the other."""
    transform: Literal["identity", "linear", "nonlinear"] | None = None
    """What comes before the head's last layer: nothing, or a dense layer and LayerNorm, without or
    with GELU. By default nonlinear for pairs, else nothing."""
    dropout: float = 0.1
    """Share of what goes into the head that is left out in training."""
    class_weights: Literal["none", "balanced"] = "none"
    """How much labels count: each the same, or those of rare classes more."""

    max_epochs: float = 20.0
    """Passes over what is trained on, at most."""
    patience: int = 5
    """Stop after this many measurements in a row, one an epoch, without a new best. 0: never."""
    metric: str = "auto"
    """Measurement by which the model is chosen, as the run's records call it. auto: mcc of classes,
    spearman of numbers, auroc of several labels, precision_at_l of base pairs, the share of right
    ones among the likeliest; higher is better, but of loss, mae and rmse."""
    batch_size: int = 32
    """Sequences of a step, over all workers."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW: 0.001 by default; 0.01 where the head alone is learnt."""
    encoder_scale: float = 1.0
    """Learning rate of the encoder, in multiples of that."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up: fall to 0 as a cosine, or stay."""
    warmup: float = 0.1
    """Share of the run over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Weight decay, on matrices only."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    token_budget: int | None = None
    """Tokens that go through the model at once; by default 8,192 on a CPU and 131,072 on a GPU."""
    measured: int = 5000
    """Validation records measured on in the course of the run, at most."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the encoder in training: bfloat16 on a GPU, float32 on a CPU."""
    seed: int = 0
    """Seed of splits, head and order."""

    search: SearchSpace = field(default_factory=SearchSpace)
    """Hyper-parameters to try: the best on validation records is trained with."""
    trials: int | None = None
    """Of all combinations, try so many, drawn by chance; by default all."""
    trials_at_once: int | None = None
    """Trials and folds that run at a time; by default as many as there are CPUs, or GPUs, for."""

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("nothing to learn from: give files with labelled RNAs")
        super().__post_init__()
        self.check_positive(
            *("max_length", "lora_rank", "max_epochs", "batch_size", "learning_rate"),
            *("max_grad_norm", "token_budget", "measured", "trials", "trials_at_once"),
        )
        self.check_not_negative("weight_decay", "patience", "encoder_scale", "seed", "folds")
        if self.seed >= 1 << 32:
            raise ConfigError(f"seed must be below 2**32, not {self.seed}")
        self.check_shares("validation_share", "test_share", "dropout", "warmup")
        if not 0.7 <= self.identity <= 1:
            raise ConfigError(f"identity must be in [0.7, 1], not {self.identity}")
        if self.validation_share + self.test_share > 0.9:
            raise ConfigError("validation_share and test_share leave too little to train on")
        self._check_splits()
        for name, values in self.search.axes.items():
            if len(set(values)) < len(values):
                raise ConfigError(f"search.{name}: a value twice")

    def _check_splits(self) -> None:
        if self.folds == 1:
            raise ConfigError("folds: one part leaves nothing to train on; give 2 or more")
        if self.folds and self.leave_one_out:
            raise ConfigError("--folds and --leave-one-out: one at a time")
        if self.leave_one_out and self.split == "random":
            raise ConfigError("--leave-one-out needs groups: --split family, cluster or column")
        if self.cross_validates and (self.validation or self.test):
            raise ConfigError("cross-validation splits what it is given: leave out the other files")
        if self.clusters_from is not None and self.split != "cluster":
            raise ConfigError("--clusters-from needs --split cluster")
        if self.columns.part is not None and self.split != "column":
            raise ConfigError("--columns.part needs --split column")
        if self.split == "column" and (self.validation or self.test):
            raise ConfigError("--split column: parts of one table; leave out the other files")

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-2 if self.learn == "frozen" else 1e-3

    @property
    def cross_validates(self) -> bool:
        """Whether every record is tested on once."""
        return self.folds > 0 or self.leave_one_out
