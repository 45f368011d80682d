"""RNABERT with a head that predicts: of whole sequences, of nucleotides, of pairs of them.

Heads, their names and their losses are MultiMolecule's (``RnaBertForSequencePrediction``,
``RnaBertForTokenPrediction``, ``RnaBertForContactPrediction``), so that checkpoints go both ways.
Shapes below: T nucleotides of all sequences in a row, H hidden size, C outputs of the head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from riboray.errors import ConfigError
from riboray.model.config import Level, Problem, RnaBertConfig
from riboray.model.heads import RnaBertForPreTraining, Transform

__all__ = [
    "HEAD_NAMES",
    "MISSING",
    "PLACES",
    "HeadConfig",
    "RnaBertForPrediction",
    "TaskHead",
    "loss_terms",
    "prediction_loss",
    "with_head",
]


#: Name of each level's head in a model, and in a checkpoint.
HEAD_NAMES: dict[Level, str] = {
    "sequence": "sequence_head",
    "nucleotide": "token_head",
    "contact": "contact_head",
}

#: Nucleotides that a prediction of each level is about; a whole sequence counts as none.
PLACES: dict[Level, int] = {"sequence": 0, "nucleotide": 1, "contact": 2}

#: What stands for a class that is not known.
MISSING = -100


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What a head predicts and how."""

    level: Level
    """Of what: ``sequence``, ``nucleotide``, or ``contact``, a pair of nucleotides."""
    problem: Problem
    """``regression``; ``binary``, one output; ``multiclass``, one of several classes;
    ``multilabel``, any of several."""
    labels: tuple[str, ...]
    """Names: of what is measured, of the two classes (no and yes), or of all classes."""
    pooling: Literal["pooler", "mean"] = "pooler"
    """What a sequence's prediction is made from: the pooled first token, as in MultiMolecule, or
    the mean of its base embeddings, which MultiMolecule cannot do."""
    transform: Literal["identity", "linear", "nonlinear"] = "identity"
    """What comes before the last layer: nothing; or a dense layer and LayerNorm, without or with
    GELU."""
    dropout: float = 0.0
    """Share of what goes into the head that is left out in training."""
    threshold: float = 0.5
    """Of pairs: the probability from which on they belong in a structure."""

    def __post_init__(self) -> None:
        allowed = {
            "level": get_args(Level),
            "problem": get_args(Problem),
            "pooling": ("pooler", "mean"),
            "transform": ("identity", "linear", "nonlinear"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {values}, not {getattr(self, name)!r}")
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        least = {"binary": 2, "multiclass": 2}.get(self.problem, 1)
        if len(self.labels) < least or (self.problem == "binary" and len(self.labels) > 2):
            raise ConfigError(f"{self.problem}: {len(self.labels)} labels, {self.labels}")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels are named twice: {self.labels}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), not {self.dropout}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must lie in [0, 1], not {self.threshold}")

    @property
    def outputs(self) -> int:
        """Numbers that are predicted of each sequence, nucleotide or pair."""
        return 1 if self.problem == "binary" else len(self.labels)

    @property
    def uses_pooler(self) -> bool:
        """Whether the encoder's pooler takes part."""
        return self.level == "sequence" and self.pooling == "pooler"


class TaskHead(nn.Module):
    """Dropout, transform and a linear layer."""

    def __init__(self, config: RnaBertConfig, head: HeadConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(head.dropout)
        self.transform = (
            nn.Identity()
            if head.transform == "identity"
            else Transform(config, gelu=head.transform == "nonlinear")
        )
        self.decoder = nn.Linear(config.hidden_size, head.outputs)

    def forward(self, embedded: Tensor) -> Tensor:
        """Return logits; shape (..., H) to (..., C)."""
        logits: Tensor = self.decoder(self.transform(self.dropout(embedded)))
        return logits

    def contacts(self, bases: Tensor) -> Tensor:
        """Return logits of all pairs of a sequence's bases; shape (n, H) to (n, n, C), symmetric.

        The linear layer is applied to the product, number by number, of both bases' embeddings.
        """
        hidden = self.transform(self.dropout(bases))
        products = (hidden * self.decoder.weight[:, None, :]) @ hidden.t()
        products = (products + products.transpose(1, 2)) / 2  # exactly: rounding is not symmetric
        logits: Tensor = products.permute(1, 2, 0) + self.decoder.bias
        return logits


class RnaBertForPrediction(RnaBertForPreTraining):
    """Encoder and one prediction head.

    Parameters
    ----------
    config : RnaBertConfig
        Of the encoder; heads of pre-training are left out.
    head : HeadConfig
        What is predicted.

    Notes
    -----
    As a `RnaBertForPreTraining`, it embeds and aligns like any other model.
    """

    def __init__(self, config: RnaBertConfig, head: HeadConfig) -> None:
        super().__init__(replace(config, heads=("pooler",) if head.uses_pooler else ()))
        self.head_config = head
        task = TaskHead(config, head)
        task.apply(self._initialise)
        self.add_module(HEAD_NAMES[head.level], task)

    @property
    def head(self) -> TaskHead:
        """The head, whatever its name."""
        found = getattr(self, HEAD_NAMES[self.head_config.level])
        assert isinstance(found, TaskHead)
        return found

    def logits(self, ids: Tensor, edges: Tensor) -> list[Tensor]:
        """Predict.

        Parameters
        ----------
        ids : Tensor, shape=(T',), dtype=integer
            Tokens of all sequences in a row, special ones included.
        edges : Tensor, shape=(n + 1,), dtype=integer
            Where sequences begin in them, and where the last one ends; on the CPU.

        Returns
        -------
        list of Tensor
            Of each sequence: shape (C,), (length, C) or (length, length, C), by the level.
        """
        return self.of_features(self.features(ids, edges))

    def features(self, ids: Tensor, edges: Tensor) -> list[Tensor]:
        """Return what the head reads of each sequence; see `logits`.

        Returns
        -------
        list of Tensor
            Shape (H,) for predictions of sequences, else (length, H).
        """
        states = self.model.packed(ids, edges)
        if self.head_config.uses_pooler:
            assert self.model.pooler is not None
            tokens = states[edges[:-1].to(states.device)]
            return list(self.model.pooler(tokens[:, None]))
        first, last = int(self.config.add_bos), int(self.config.add_eos)
        bounds = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        return self.features_of_bases([states[start + first : end - last] for start, end in bounds])

    def features_of_bases(self, bases: list[Tensor]) -> list[Tensor]:
        """Return what the head reads, from base embeddings, shape (length, H) each.

        For RNAs longer than the model, whose embeddings are averages over windows. A pooler takes
        the first base for the first token.
        """
        if self.head_config.level != "sequence" or not bases:
            return bases
        if self.head_config.uses_pooler:
            assert self.model.pooler is not None
            return list(self.model.pooler(torch.stack([rows[:1] for rows in bases])))
        return [rows.mean(0) for rows in bases]

    def of_bases(self, bases: list[Tensor]) -> list[Tensor]:
        """Predict from base embeddings; see `logits` and `features_of_bases`."""
        return self.of_features(self.features_of_bases(bases))

    def of_features(self, features: list[Tensor]) -> list[Tensor]:
        """Predict from what `features` gave; see `logits`."""
        level, head = self.head_config.level, self.head
        if not features:
            return []
        if level == "contact":
            return [head.contacts(rows) for rows in features]
        if level == "nucleotide":
            sizes = [len(rows) for rows in features]
            return list(torch.split(head(torch.cat(features)), sizes))
        return list(head(torch.stack(features)))


def with_head(model: RnaBertForPreTraining, head: HeadConfig) -> RnaBertForPrediction:
    """Return a model with the encoder of another and a new prediction head.

    The weights are copied, those of a head of the same shape, too; a pooler that the other lacks is
    new.
    """
    made = RnaBertForPrediction(model.config, head)
    wanted = made.state_dict()
    state = {
        key: value
        for key, value in model.state_dict().items()
        if key in wanted and wanted[key].shape == value.shape
    }
    made.load_state_dict({**wanted, **state})
    return made


def loss_terms(
    logits: Tensor, labels: Tensor, problem: Problem, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what `prediction_loss` is the quotient of; shape () both.

    Returns
    -------
    total : Tensor
        Sum of the losses of known labels.
    weight : Tensor
        How much these count together: their number or, with class weights in ``multiclass``, the
        sum of those.
    """
    if problem == "multiclass":
        known = labels >= 0
        total = functional.cross_entropy(
            logits.float(),
            torch.where(known, labels, MISSING).long(),
            weight=class_weights,
            ignore_index=MISSING,
            reduction="sum",
        )
        if class_weights is None:
            return total, known.sum().to(total.dtype)
        return total, (class_weights[labels.clamp(min=0).long()] * known).sum()
    wanted = labels.float().reshape(logits.shape)
    known = ~torch.isnan(wanted)
    if problem != "regression":
        known &= wanted != MISSING
    wanted = torch.where(known, wanted, 0.0)
    if problem == "regression":
        each = functional.mse_loss(logits.float(), wanted, reduction="none")
    else:
        each = functional.binary_cross_entropy_with_logits(
            logits.float(), wanted, pos_weight=class_weights, reduction="none"
        )
    return torch.where(known, each, 0.0).sum(), known.sum().to(each.dtype)


def prediction_loss(
    logits: Tensor, labels: Tensor, problem: Problem, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean loss over the labels that are known.

    Parameters
    ----------
    logits : Tensor, shape=(N, C)
        Outputs of the head.
    labels : Tensor
        Classes, shape (N,), dtype integer, where `MISSING` or anything below 0 is not known, for
        ``multiclass``; else numbers, shape (N, C) or, with one output, (N,). NaN is not known, nor,
        but in ``regression``, is `MISSING`.
    problem : Problem
        Mean squared error, binary cross-entropy of each output, or cross-entropy.
    class_weights : Tensor, shape=(C,), optional
        How much a label of each class counts (``multiclass``); how much a positive one does in each
        output (``binary``, ``multilabel``).

    Returns
    -------
    Tensor, shape=()
        0, with a gradient of 0, if no label is known.
    """
    total, weight = loss_terms(logits, labels, problem, class_weights)
    return total / torch.where(weight > 0, weight, 1.0)
