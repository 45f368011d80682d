"""The model that is fine-tuned: a head on an encoder, what is learnt of them, and what is kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from riboray.errors import ConfigError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.datasets import Dataset, class_counts
from riboray.model.heads import RnaBertForPreTraining
from riboray.model.prediction import HeadConfig, RnaBertForPrediction, with_head

__all__ = [
    "Scale",
    "TuningModel",
    "check_learners",
    "check_options",
    "class_weights",
    "kept_head",
    "make_head",
]

#: Matrices of an encoder layer that low-rank additions are made to.
_LORA_TARGETS = ("query", "key", "value", "dense")


def check_learners(config: FinetuneConfig) -> None:
    """Find out whether what is asked for can be learnt, before anything starts.

    Raises
    ------
    ConfigError
        If a library is missing.
    """
    if "lora" in (config.learn, *config.search.learn) and find_spec("peft") is None:
        raise ConfigError("--learn lora needs peft: pip install 'riboray[lora]'")


def kept_head(model: RnaBertForPreTraining, config: FinetuneConfig) -> HeadConfig | None:
    """Return the head that a model has and that is gone on with."""
    if isinstance(model, RnaBertForPrediction) and not config.new_head:
        return model.head_config
    return None


def check_options(config: FinetuneConfig, data: Dataset, kept: HeadConfig | None) -> None:
    """Refuse options that would do nothing.

    Raises
    ------
    ConfigError
        Naming the option.
    """
    axes = config.search.axes
    asked = {name for name in ("pooling", "transform") if getattr(config, name) or name in axes}
    if kept is not None and asked:
        name = sorted(asked)[0]
        raise ConfigError(f"{name}: the model's head is gone on with; --new-head makes another")
    if "pooling" in asked and data.task.level != "sequence":
        raise ConfigError(f"pooling: nothing is pooled to predict {data.task.level}s")
    if "lora_rank" in axes and "lora" not in (config.learn, *config.search.learn):
        raise ConfigError("search.lora_rank: say --learn lora")
    if "encoder_scale" in axes and config.learn == "frozen" and "learn" not in axes:
        raise ConfigError("search.encoder_scale: the encoder is frozen")


def make_head(data: Dataset, config: FinetuneConfig, kept: HeadConfig | None) -> HeadConfig:
    """Configure the head: the one that is kept, or a new one for the data's task."""
    if kept is not None:
        return replace(kept, dropout=config.dropout)
    usual = "nonlinear" if data.task.level == "contact" else "identity"
    return HeadConfig(
        level=data.task.level,
        problem=data.task.problem,
        labels=data.task.labels,
        pooling=config.pooling or "mean",
        transform=config.transform or usual,  # type: ignore[arg-type]
        dropout=config.dropout,
    )


@dataclass(frozen=True)
class Scale:
    """Mean and spread of numbers to predict: what is learnt is their distance in spreads.

    Attributes
    ----------
    mean, spread : ndarray, shape=(C,), dtype=float32
        Of the labels trained on; 0 and 1 but in a regression.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def of(cls, targets: Sequence[NDArray[Any]], head: HeadConfig) -> Scale:
        """Measure labels to train on."""
        count = head.outputs
        if head.problem != "regression":
            return cls(np.zeros(count, np.float32), np.ones(count, np.float32))
        values = np.concatenate([target.reshape(-1, count) for target in targets]).astype(
            np.float64
        )
        mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        return cls(mean.astype(np.float32), spread.astype(np.float32))

    def scaled(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return labels as what is learnt."""
        return target if target.dtype.kind == "i" else (target - self.mean) / self.spread

    def plain(self, predicted: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return predictions as what labels are."""
        return predicted * self.spread + self.mean

    @torch.no_grad()
    def fold_into(self, decoder: nn.Linear, *, back: bool = False) -> None:
        """Have a head's last layer predict plain numbers; with ``back``, scaled ones again."""
        mean = torch.from_numpy(self.mean).to(decoder.bias)
        spread = torch.from_numpy(self.spread).to(decoder.bias)
        if back:
            decoder.weight /= spread[:, None]
            decoder.bias.copy_((decoder.bias - mean) / spread)
        else:
            decoder.weight *= spread[:, None]
            decoder.bias.copy_(decoder.bias * spread + mean)


def class_weights(
    targets: Sequence[NDArray[Any]], data: Dataset, config: FinetuneConfig
) -> Tensor | None:
    """Return how much labels count; see `prediction_loss`.

    ``balanced`` has all classes count the same together: each label n / (C times as many as there
    are of its class), and a yes as often as there are no for each yes.
    """
    if config.class_weights == "none" or data.task.problem == "regression":
        return None
    if data.task.structures and data.task.level == "contact":
        raise ConfigError("class_weights: base pairs are rare by nature; leave out --class-weights")
    counts = class_counts(targets, data.task)
    if data.task.problem == "multiclass":
        there = np.maximum(counts, 1)
        return torch.from_numpy((counts.sum() / (len(counts) * there)).astype(np.float32))
    return torch.from_numpy((counts[0] / np.maximum(counts[1], 1)).astype(np.float32))


class TuningModel:
    """A model in training, and what of it is learnt.

    Parameters
    ----------
    start : RnaBertForPreTraining
        Encoder, and head if it is kept; not changed.
    head : HeadConfig
        The head.
    config : FinetuneConfig
        What is learnt.
    scale : Scale
        Of the labels.
    prior : ndarray, shape=(C,), optional
        What a new head's bias begins with.
    keeps_head : bool
        Whether the start's head is gone on with.
    """

    def __init__(
        self,
        start: RnaBertForPreTraining,
        head: HeadConfig,
        config: FinetuneConfig,
        scale: Scale,
        prior: NDArray[np.float32] | None,
        *,
        keeps_head: bool,
    ) -> None:
        self.config, self.scale = config, scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if keeps_head:
                self.model = with_head(start, head)
                scale.fold_into(self.model.head.decoder, back=True)
            else:
                bare = {k: v for k, v in start.state_dict().items() if "_head." not in k}
                self.model = RnaBertForPrediction(start.config, head)
                own = self.model.state_dict()
                self.model.load_state_dict(own | {k: v for k, v in bare.items() if k in own})
                if prior is not None:
                    with torch.no_grad():
                        self.model.head.decoder.bias.copy_(torch.from_numpy(prior))
            if config.learn == "lora":
                _add_adapters(self.model, config.lora_rank)
        self.encoder = [p for n, p in self.model.named_parameters() if _of_encoder(n)]
        if config.learn == "frozen":
            for parameter in self.encoder:
                parameter.requires_grad_(False)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learnt."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def groups(self) -> list[dict[str, Any]]:
        """Return an optimiser's groups: decay on matrices only, the encoder's rate apart."""
        found = []
        ids = {id(p) for p in self.encoder}
        for of_encoder in (False, True):
            for matrices in (False, True):
                chosen = [
                    p
                    for p in self.parameters
                    if (id(p) in ids) == of_encoder and (p.ndim > 1) == matrices
                ]
                if chosen:
                    decay = self.config.weight_decay if matrices else 0.0
                    rate = self.config.encoder_scale if of_encoder else 1.0
                    found.append({"params": chosen, "weight_decay": decay, "lr_scale": rate})
        return found

    def finished(self) -> RnaBertForPrediction:
        """Return a copy as it is to be used: on the CPU, additions added, plain numbers."""
        model = copy.deepcopy(self.model).cpu()
        _merge_adapters(model)
        self.scale.fold_into(model.head.decoder)
        plain = RnaBertForPrediction(model.config, model.head_config)
        plain.load_state_dict(model.state_dict())
        return plain.eval()


def _of_encoder(name: str) -> bool:
    return name.startswith("model.")


def _add_adapters(model: RnaBertForPrediction, rank: int) -> None:
    """Add matrices of low rank to those of the encoder's layers; only they are learnt there.

    LoRA (Hu et al. 2021, arXiv:2106.09685), by the library peft.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [
        f"encoder.{name}"
        for name, module in model.model.encoder.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in _LORA_TARGETS
    ]
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
    inject_adapter_in_model(adapters, model.model)


def _merge_adapters(model: RnaBertForPrediction) -> None:
    """Put plain layers in the place of those with additions, these added."""
    for name, module in list(model.model.named_modules()):
        if hasattr(module, "merge") and hasattr(module, "get_base_layer"):
            module.merge()
            parent = model.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
