"""RNABERT's encoder in plain PyTorch.

Module and parameter names are MultiMolecule's, so a state dict needs no translation.
Shapes below: B sequences, L tokens, H hidden size, A attention heads, D head size.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from riboray.model.config import RnaBertConfig

__all__ = ["RnaBertEmbeddings", "RnaBertEncoder", "RnaBertLayer", "RnaBertModel", "RnaBertPooler"]


class RnaBertEmbeddings(nn.Module):
    """Sum of word, position and token-type embeddings, normalised."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            len(config.tokens), config.hidden_size, padding_idx=config.tokens.pad_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed token ids, shape (B, L), to shape (B, L, H)."""
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        embedded = (
            self.word_embeddings(input_ids) + positions + self.token_type_embeddings.weight[0]
        )
        normalised: Tensor = self.layer_norm(embedded)
        return normalised


@cache
def _head_multiple(device: str) -> int:
    """Return what the width of an attention head should be a multiple of."""
    if device != "cpu":
        return 8
    return 1 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4


class RnaBertSelfAttention(nn.Module):
    """Multi-head self-attention through PyTorch's fused kernel.

    A head of RNABERT is 10 wide, which most vector units dislike: query, key and value are padded
    with zeros to a multiple of what the device wants. The scale stays 1/sqrt(10), and zeros add
    nothing to a dot product, so the result is the same up to rounding. With AVX2 a forward pass
    takes two thirds of the time; with AVX-512, which masks its tails, padding does not pay.
    """

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.head_size
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def _fused_projection(self, padded: int) -> tuple[Tensor, Tensor]:
        """Weight (3·A·padded, H) and bias of query, key and value in one product."""
        parts = (self.query, self.key, self.value)
        heads, size, extra = self.num_heads, self.head_size, padded - self.head_size
        weight = torch.stack([p.weight.view(heads, size, -1) for p in parts])
        bias = torch.stack([p.bias.view(heads, size) for p in parts])
        weight = functional.pad(weight, (0, 0, 0, extra))
        return weight.flatten(0, 2), functional.pad(bias, (0, extra)).flatten()

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Attend; shapes (B, L, H) and (B, 1, 1, L) or None to (B, L, H)."""
        batch, length, _ = hidden.shape
        multiple = _head_multiple(hidden.device.type)
        padded = -(-self.head_size // multiple) * multiple
        weight, bias = self._fused_projection(padded)
        projected = functional.linear(hidden, weight, bias)
        query, key, value = projected.view(batch, length, 3, self.num_heads, padded).permute(
            2, 0, 3, 1, 4
        )
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.head_size**-0.5
        )
        return context[..., : self.head_size].transpose(1, 2).flatten(2)


class _AddAndNorm(nn.Module):
    """Dense layer, residual connection, LayerNorm (post-norm)."""

    def __init__(self, in_features: int, config: RnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        normalised: Tensor = self.layer_norm(self.dense(hidden) + residual)
        return normalised


class RnaBertAttention(nn.Module):
    """Self-attention and its output layer."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.self = RnaBertSelfAttention(config)
        self.output = _AddAndNorm(config.hidden_size, config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and add; shape (B, L, H) to the same."""
        added: Tensor = self.output(self.self(hidden, mask), hidden)
        return added


class RnaBertIntermediate(nn.Module):
    """First half of the feed-forward layer: dense and exact (erf) GELU."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Widen; shape (B, L, H) to (B, L, intermediate)."""
        return functional.gelu(self.dense(hidden))


class RnaBertLayer(nn.Module):
    """One transformer layer."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.attention = RnaBertAttention(config)
        self.intermediate = RnaBertIntermediate(config)
        self.output = _AddAndNorm(config.intermediate_size, config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Transform; shape (B, L, H) to the same."""
        attended = self.attention(hidden, mask)
        transformed: Tensor = self.output(self.intermediate(attended), attended)
        return transformed


class RnaBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(RnaBertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return the input and every layer's output, each of shape (B, L, H)."""
        states = [hidden]
        for layer in self.layer:
            states.append(layer(states[-1], mask))
        return states


class RnaBertPooler(nn.Module):
    """Dense and tanh on the first token."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool; shape (B, L, H) to (B, H)."""
        return torch.tanh(self.dense(hidden[:, 0]))


class RnaBertModel(nn.Module):
    """Embeddings, encoder and, if the checkpoint has one, pooler.

    Parameters
    ----------
    config : RnaBertConfig
        Sizes and conventions. With ``padding="original"`` each call pads to
        ``max_position_embeddings`` and lets tokens attend to the padding.
    """

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = RnaBertEmbeddings(config)
        self.encoder = RnaBertEncoder(config)
        self.pooler = RnaBertPooler(config) if "pooler" in config.heads else None

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the base embeddings, the last layer's output.

        Parameters
        ----------
        input_ids : Tensor, shape=(B, L), dtype=integer
            Token ids, padded on the right.
        lengths : Tensor, shape=(B,), dtype=integer, optional
            Tokens per row; all ``L`` if not given.

        Returns
        -------
        Tensor, shape=(B, L, H)
            What stands beyond a row's length has no meaning.

        Raises
        ------
        ValueError
            If ``L`` exceeds ``max_position_embeddings``. Checked here, on the CPU: an index
            out of range inside a GPU kernel would poison the device for every later call.
        """
        return self.hidden_states(input_ids, lengths)[-1]

    def hidden_states(self, input_ids: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Return the embedding layer's and every layer's output; see `forward`."""
        width, limit = input_ids.shape[1], self.config.max_position_embeddings
        if width > limit:
            raise ValueError(f"{width} tokens exceed max_position_embeddings={limit}")
        ids = input_ids.int()
        mask = None
        if self.config.padding == "original":
            if lengths is not None:
                beyond = torch.arange(width, device=ids.device) >= lengths[:, None]
                ids = ids.masked_fill(beyond, self.config.tokens.pad_id)
            ids = functional.pad(ids, (0, limit - width), value=self.config.tokens.pad_id)
        elif lengths is not None and bool((lengths < width).any()):
            mask = (torch.arange(width, device=ids.device) < lengths[:, None])[:, None, None, :]
        states = self.encoder(self.embeddings(ids), mask)
        return [state[:, :width] for state in states]
