"""Prediction heads, and the model as it is pre-trained: encoder, LM head, SS head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from riboray.model.config import RnaBertConfig
from riboray.model.encoder import RnaBertModel

__all__ = ["PredictionHead", "RnaBertForPreTraining", "Transform"]


class Transform(nn.Module):
    """Dense layer, optional activation, LayerNorm."""

    def __init__(self, config: RnaBertConfig, gelu: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gelu = gelu

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform; shape (..., H) to the same."""
        hidden = self.dense(hidden)
        normalised: Tensor = self.layer_norm(functional.gelu(hidden) if self.gelu else hidden)
        return normalised


class PredictionHead(nn.Module):
    """Classifier of single tokens: nucleotides (LM head) or structure classes (SS head)."""

    def __init__(self, config: RnaBertConfig, num_classes: int) -> None:
        super().__init__()
        self.transform = Transform(config, gelu=config.lm_head_activation == "gelu")
        self.decoder = nn.Linear(config.hidden_size, num_classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits; shape (..., H) to (..., classes)."""
        logits: Tensor = self.decoder(self.transform(hidden))
        return logits


class RnaBertForPreTraining(nn.Module):
    """RNABERT with the heads its config names.

    Parameters
    ----------
    config : RnaBertConfig
        Sizes and conventions.

    Notes
    -----
    Weights start as normal(0, ``initializer_range``), biases as 0, LayerNorms as identity, and
    the embedding of ``<pad>`` as 0, drawn from torch's global generator.
    """

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.config = config
        self.model = RnaBertModel(config)
        self.lm_head = PredictionHead(config, len(config.tokens)) if "lm" in config.heads else None
        self.ss_head = (
            PredictionHead(config, config.ss_vocab_size) if "ss" in config.heads else None
        )
        self.apply(self._initialise)
        if self.lm_head is not None and config.tie_word_embeddings:
            self.lm_head.decoder.weight = self.model.embeddings.word_embeddings.weight

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the base embeddings; see `RnaBertModel.forward`."""
        hidden: Tensor = self.model(input_ids, lengths)
        return hidden
