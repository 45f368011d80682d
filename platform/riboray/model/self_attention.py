"""Self-attention of RNABERT's layers; shapes as in `riboray.model.encoder`."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from riboray.model.attention import Offsets, packed_attention
from riboray.model.config import RnaBertConfig

__all__ = ["RnaBertSelfAttention", "Within"]

#: What tokens may attend to: a mask over padding, shape (B, 1, 1, L); everything in their row; or,
#: in a packed batch, the sequence that they belong to.
Within = Tensor | Offsets | None


@cache
def _head_multiple(device: str) -> int:
    """Return what the width of an attention head should be a multiple of."""
    if device != "cpu":
        return 8
    return 1 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4


class RnaBertSelfAttention(nn.Module):
    """Multi-head self-attention: through PyTorch's fused kernel, or packed through our own.

    A head of RNABERT is 10 wide, which most vector units dislike: for PyTorch's kernel, query, key
    and value are padded with zeros to a multiple of what the device wants. The scale stays
    1/sqrt(10), and zeros add nothing to a dot product, so the result is the same up to rounding.
    With AVX2 a forward pass takes two thirds of the time; with AVX-512, which masks its tails,
    padding does not pay.
    """

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.head_size
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    @property
    def _parts(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value

    def _is_plain(self) -> bool:
        """Tell whether weights tell all: not where an adapter or a hook adds to a layer."""
        return all(
            type(part) is nn.Linear and not part._forward_hooks and not part._forward_pre_hooks
            for part in self._parts
        )

    def _fused_projection(self, padded: int) -> tuple[Tensor, Tensor]:
        """Weight (3·A·padded, H) and bias of query, key and value in one product."""
        parts = self._parts
        heads, size, extra = self.num_heads, self.head_size, padded - self.head_size
        weight = torch.stack([p.weight.view(heads, size, -1) for p in parts])
        bias = torch.stack([p.bias.view(heads, size) for p in parts])
        weight = functional.pad(weight, (0, 0, 0, extra))
        return weight.flatten(0, 2), functional.pad(bias, (0, extra)).flatten()

    def _packed(self, hidden: Tensor, offsets: Offsets) -> Tensor:
        """Attend within packed sequences; shape (T, H) to the same."""
        if self._is_plain():
            weight = torch.cat([part.weight for part in self._parts])
            bias = torch.cat([part.bias for part in self._parts])
            projected = torch.addmm(bias[:, None], weight, hidden.t())
        else:
            projected = torch.cat([part(hidden) for part in self._parts], 1).t().contiguous()
        context: Tensor = packed_attention(projected, offsets, self.num_heads)
        return context.t()

    def forward(self, hidden: Tensor, within: Within) -> Tensor:
        """Attend; shape (B, L, H) or, packed, (T, H) to the same."""
        if isinstance(within, np.ndarray):
            return self._packed(hidden, within)
        batch, length, _ = hidden.shape
        if not self._is_plain():
            query, key, value = (
                part(hidden).view(batch, length, self.num_heads, -1).transpose(1, 2)
                for part in self._parts
            )
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=within)
            return context.transpose(1, 2).flatten(2)
        multiple = _head_multiple(hidden.device.type)
        padded = -(-self.head_size // multiple) * multiple
        weight, bias = self._fused_projection(padded)
        projected = functional.linear(hidden, weight, bias)
        query, key, value = projected.view(batch, length, 3, self.num_heads, padded).permute(
            2, 0, 3, 1, 4
        )
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=within, scale=self.head_size**-0.5
        )
        return context[..., : self.head_size].transpose(1, 2).flatten(2)
