"""Models called as MultiMolecule's are: padded token ids in, named tensors out, with a loss.

Shapes below: B sequences, L tokens, N nucleotides of the longest sequence, H hidden size, V tokens
of the vocabulary, C outputs of a prediction head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from riboray.api.outputs import Output
from riboray.errors import ConfigError
from riboray.model.checkpoint import load_checkpoint, save_checkpoint
from riboray.model.config import Level, Problem, RnaBertConfig
from riboray.model.heads import RnaBertForPreTraining
from riboray.model.prediction import (
    HEAD_NAMES,
    MISSING,
    HeadConfig,
    RnaBertForPrediction,
    prediction_loss,
    with_head,
)

__all__ = [
    "RnaBertForContactPrediction",
    "RnaBertForMaskedLM",
    "RnaBertForSequencePrediction",
    "RnaBertForTokenPrediction",
    "RnaBertModel",
]

M = TypeVar("M", bound="_Model")


class _Model(nn.Module):
    """What all have in common.

    Parameters
    ----------
    rna : RnaBertForPreTraining
        The model itself, which all of riboray works with.
    """

    def __init__(self, rna: RnaBertForPreTraining) -> None:
        super().__init__()
        self.rna = rna

    @classmethod
    def from_pretrained(cls: type[M], checkpoint: str | Path) -> M:
        """Load a checkpoint, named as for `riboray.load`; in evaluation mode.

        Raises
        ------
        CheckpointError
            If it cannot be read.
        """
        return cls(load_checkpoint(checkpoint).model).eval()

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write a checkpoint that riboray and MultiMolecule open; see `save_checkpoint`."""
        return save_checkpoint(self.rna, directory)

    @property
    def config(self) -> RnaBertConfig:
        """Sizes and conventions."""
        return self.rna.config

    def _lengths(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Count each row's tokens.

        Raises
        ------
        ValueError
            If something stands before or within a row's tokens that is not to be attended to.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.tokens.pad_id
        lengths = attention_mask.sum(1)
        inside = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
        if not torch.equal(attention_mask.bool(), inside):
            raise ValueError("padding must stand on the right, and the mask may hide nothing else")
        return lengths


class RnaBertModel(_Model):
    """RNABERT without a head."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
    ) -> Output:
        """Embed.

        Parameters
        ----------
        input_ids : Tensor, shape=(B, L), dtype=integer
            From the tokenizer.
        attention_mask : Tensor, shape=(B, L), optional
            1 for tokens, 0 for padding on the right.
        output_hidden_states : bool
            Whether every layer's output is wanted.

        Returns
        -------
        Output
            ``last_hidden_state``, shape (B, L, H); ``pooler_output``, shape (B, H), None without a
            pooler; ``hidden_states``, from what goes into the first layer on, if asked for. What
            stands at padding has no meaning.
        """
        lengths = self._lengths(input_ids, attention_mask)
        encoder = self.rna.model
        states = None
        if output_hidden_states:
            states = tuple(encoder.hidden_states(input_ids, lengths))
        hidden = encoder(input_ids, lengths) if states is None else states[-1]
        pooled = None if encoder.pooler is None else encoder.pooler(hidden)
        return Output(last_hidden_state=hidden, pooler_output=pooled, hidden_states=states)


class RnaBertForMaskedLM(_Model):
    """RNABERT with the head that recovers hidden nucleotides."""

    def __init__(self, rna: RnaBertForPreTraining) -> None:
        if rna.lm_head is None:
            raise ConfigError("the model has no language-model head")
        super().__init__(rna)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Output:
        """Say what the model expects at every place.

        Parameters
        ----------
        input_ids, attention_mask
            As for `RnaBertModel`.
        labels : Tensor, shape=(B, L), dtype=integer, optional
            Token ids to recover, -100 where none is asked for.

        Returns
        -------
        Output
            ``loss``, None without labels, and ``logits``, shape (B, L, V).
        """
        assert self.rna.lm_head is not None
        hidden = self.rna(input_ids, self._lengths(input_ids, attention_mask))
        logits = self.rna.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=MISSING
            )
        return Output(loss=loss, logits=logits)


P = TypeVar("P", bound="_PredictionModel")


class _PredictionModel(_Model):
    """RNABERT with a prediction head."""

    LEVEL: ClassVar[Level]
    rna: RnaBertForPrediction

    def __init__(self, rna: RnaBertForPreTraining) -> None:
        if not isinstance(rna, RnaBertForPrediction) or rna.head_config.level != self.LEVEL:
            raise ConfigError(f"the model has no {HEAD_NAMES[self.LEVEL]}")
        super().__init__(rna)

    @classmethod
    def from_pretrained(
        cls: type[P],
        checkpoint: str | Path,
        *,
        num_labels: int | None = None,
        problem_type: Problem | None = None,
        labels: tuple[str, ...] | None = None,
        **options: Any,
    ) -> P:
        """Load a checkpoint; one without such a head gets a new one, with random weights.

        Parameters
        ----------
        checkpoint : str or Path
            Named as for `riboray.load`.
        num_labels : int, optional
            Outputs of a new head; 1 by default.
        problem_type : Problem, optional
            By default ``binary`` with one output, else ``multiclass``.
        labels : tuple of str, optional
            Their names.
        **options
            Further ones of `HeadConfig`: ``pooling``, ``transform``, ``dropout``.

        Raises
        ------
        ConfigError
            If the checkpoint has another head, or this head and options disagree.
        """
        loaded = load_checkpoint(checkpoint).model
        if isinstance(loaded, RnaBertForPrediction):
            asked = {"outputs": num_labels, "problem": problem_type, "labels": labels, **options}
            for name, value in asked.items():
                if value is not None and getattr(loaded.head_config, name, None) != value:
                    raise ConfigError(f"the checkpoint's head is {loaded.head_config}")
            return cls(loaded).eval()
        head = _new_head(cls.LEVEL, num_labels, problem_type, labels, options)
        return cls(with_head(loaded, head)).eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Output:
        """Predict.

        Parameters
        ----------
        input_ids, attention_mask
            As for `RnaBertModel`.
        labels : Tensor, optional
            Of sequences, shape (B,) or (B, C); nucleotides, (B, N) or (B, N, C); pairs, (B, N, N)
            or (B, N, N, C). What is not known: NaN, or, but in a regression, -100. What stands at
            padding does not count.

        Returns
        -------
        Output
            ``loss``, None without labels, and ``logits``, of shape (B, C), (B, N, C) or
            (B, N, N, C), 0 at padding; special tokens are no nucleotides.

        Raises
        ------
        ValueError
            If labels and logits have different shapes.
        """
        lengths = self._lengths(input_ids, attention_mask)
        if bool((lengths <= self.config.add_bos + self.config.add_eos).any()):
            raise ValueError("a sequence has no nucleotide")
        inside = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
        edges = functional.pad(lengths.cumsum(0), (1, 0)).cpu()
        found = self.rna.logits(input_ids[inside], edges)
        loss = None
        if labels is not None:
            wanted = self._labels(found, labels)
            flat = torch.cat(
                [part.flatten(0, -2) if part.dim() > 1 else part[None] for part in found]
            )
            loss = prediction_loss(flat, wanted, self.rna.head_config.problem)
        return Output(loss=loss, logits=_stacked(found))

    def _labels(self, found: list[Tensor], labels: Tensor) -> Tensor:
        """Return labels in the order of all logits in a row, padding left out."""
        places = 0 if self.LEVEL == "sequence" else 1 if self.LEVEL == "nucleotide" else 2
        if labels.dim() == places and len(found) == 1:
            labels = labels[None]  # of one sequence alone
        cut = []
        widest = max((part.shape[0] for part in found), default=0) if places else 0
        if any(size != widest for size in labels.shape[1 : 1 + places]):
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} for {widest} nucleotides: special tokens "
                "have none"
            )
        for part, given in zip(found, labels, strict=True):
            inner = given[tuple(slice(size) for size in part.shape[:-1])]
            sizes = part.shape[:-1]
            if inner.shape[:places] != sizes or inner.shape[places:] not in ((), part.shape[-1:]):
                raise ValueError(f"labels of shape {tuple(given.shape)} for {tuple(part.shape)}")
            cut.append(inner.reshape(-1, *inner.shape[places:]))
        return torch.cat(cut)


class RnaBertForSequencePrediction(_PredictionModel):
    """RNABERT that predicts something of whole sequences."""

    LEVEL = "sequence"


class RnaBertForTokenPrediction(_PredictionModel):
    """RNABERT that predicts something of every nucleotide."""

    LEVEL = "nucleotide"


class RnaBertForContactPrediction(_PredictionModel):
    """RNABERT that predicts something of every pair of nucleotides."""

    LEVEL = "contact"


def _new_head(
    level: Level,
    count: int | None,
    problem: Problem | None,
    labels: tuple[str, ...] | None,
    options: dict[str, Any],
) -> HeadConfig:
    """Fill in what was not said of a head.

    Raises
    ------
    ConfigError
        If what was said does not fit together.
    """
    outputs = count or (1 if labels is None else len(labels))
    problem = problem or ("binary" if outputs == 1 else "multiclass")
    if labels is None:
        labels = tuple(f"LABEL_{k}" for k in range(2 if problem == "binary" else outputs))
    head = HeadConfig(level=level, problem=problem, labels=tuple(labels), **options)
    if count is not None and head.outputs != count:
        raise ConfigError(f"num_labels={count}, but {problem} of {labels} has {head.outputs}")
    return head


def _stacked(parts: list[Tensor]) -> Tensor:
    """Pad predictions with 0 to the largest, and stack them."""
    sizes = [max(part.shape[d] for part in parts) for d in range(parts[0].dim())]
    padded = []
    for part in parts:
        pads = [size - own for size, own in zip(sizes, part.shape, strict=True)]
        padded.append(functional.pad(part, [n for pad in reversed(pads) for n in (0, pad)]))
    return torch.stack(padded)
