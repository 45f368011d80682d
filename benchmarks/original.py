"""What the original RNABERT computes, and how it goes about it, as a yardstick.

Written from the paper and the architecture, not from its code: every sequence padded to 440 and
attended to, separate query, key and value products, explicit softmax, language-model head over all
positions, one pair of an alignment batch at a time with margin matrices passed as Python lists.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["OriginalEncoder", "per_pair_sal_step"]


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(120, 120) for _ in range(4))
        self.wide, self.narrow = nn.Linear(120, 40), nn.Linear(40, 120)
        self.norm_attention, self.norm_output = (nn.LayerNorm(120, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, length, 12, 10).permute(0, 2, 1, 3)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(10)
        mixed = (torch.softmax(scores, -1) @ value).permute(0, 2, 1, 3).reshape(batch, length, 120)
        x = self.norm_attention(self.out(mixed) + x)
        wide = self.wide(x)
        wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
        normalised: Tensor = self.norm_output(self.narrow(wide) + x)
        return normalised


class OriginalEncoder(nn.Module):
    """RNABERT with a language-model head, the plain way. Input must be padded to 440."""

    def __init__(self, tokens: int = 28) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, 120)
        self.positions = nn.Embedding(440, 120)
        self.types = nn.Embedding(2, 120)
        self.norm = nn.LayerNorm(120, eps=1e-12)
        self.layers = nn.ModuleList(_Layer() for _ in range(6))
        self.transform, self.norm_head = nn.Linear(120, 120), nn.LayerNorm(120, eps=1e-12)
        self.decoder = nn.Linear(120, tokens)

    def forward(self, ids: Tensor) -> Tensor:
        """Return base embeddings, shape (B, 440) to (B, 440, 120)."""
        x = self.words(ids) + self.positions.weight + self.types(torch.zeros_like(ids))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Return language-model logits at every position, padding too."""
        scores: Tensor = self.decoder(self.norm_head(self.transform(hidden)))
        return scores


@njit(cache=True)
def align_three_tables(match, false, missed, n, m):
    """One pair, full tables in float64, as a compiled extension would do it."""
    h = np.full((n + 1, m + 1), -1e4)
    x, y = h.copy(), h.copy()
    h[0, 0] = 0
    for j in range(1, m + 1):
        h[0, j] = -(1 + 0.1 * j)
    for i in range(1, n + 1):
        h[i, 0] = -(1 + 0.1 * i)
        for j in range(1, m + 1):
            k = (i - 1) * m + j - 1
            x[i, j] = max(h[i - 1, j] - 1, x[i - 1, j]) - 0.1 + missed[k]
            y[i, j] = max(h[i, j - 1] - 1, y[i, j - 1]) - 0.1 + missed[k]
            h[i, j] = max(h[i - 1, j - 1] + match[k] + false[k], x[i, j], y[i, j])
    partners = np.full(n, -1)
    i, j = n, m
    while i > 0 and j > 0:
        if h[i, j] == x[i, j]:
            i -= 1
        elif h[i, j] == y[i, j]:
            j -= 1
        else:
            partners[i - 1] = j - 1
            i, j = i - 1, j - 1
    return partners


def per_pair_sal_step(
    hidden_a: list[Tensor], hidden_b: list[Tensor], references: list[np.ndarray]
) -> Tensor:
    """Compute the structural-alignment loss of a batch, pair by pair, through Python lists."""
    total = torch.zeros(())
    for a, b, reference in zip(hidden_a, hidden_b, references, strict=True):
        n, m = len(a), len(b)
        similarity = functional.cosine_similarity(a[:, None], b[None], dim=-1)
        wanted = torch.zeros(n, m)
        for i, j in enumerate(reference):
            if j >= 0:
                wanted[i, j] = 1
        lists = [similarity.flatten().tolist(), (0.1 * (1 - wanted)).flatten().tolist()]
        lists.append((0.05 * wanted).flatten().tolist())
        best = align_three_tables(*(np.array(values) for values in lists), n, m)
        found = torch.zeros(n, m)
        for i, j in enumerate(best):
            if j >= 0:
                found[i, j] = 1
        margin = (0.1 * found * (1 - wanted)).sum() + (0.05 * wanted * (1 - found)).sum()
        total = total + (similarity * found).sum() - (similarity * wanted).sum() + margin
    return total / len(references)
