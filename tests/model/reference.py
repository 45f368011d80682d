"""The original RNABERT's arithmetic in float64 numpy, written from its equations.

BERT (Devlin et al. 2019): learned word, position and token-type embeddings, post-LayerNorm,
multi-head softmax attention scaled by 1/sqrt(head size), exact GELU. Keys are the model's own.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf, softmax


def layer_norm(x, weights, prefix):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    scaled = (x - mean) / np.sqrt(variance + 1e-12)
    return scaled * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]


def dense(x, weights, prefix):
    return x @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]


def attention(x, weights, prefix, heads, visible):
    length, width = x.shape
    size = width // heads
    query, key, value = (
        dense(x, weights, f"{prefix}.self.{name}").reshape(length, heads, size).swapaxes(0, 1)
        for name in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(1, 2) / np.sqrt(size)
    scores[:, :, ~visible] = -np.inf
    mixed = (softmax(scores, axis=-1) @ value).swapaxes(0, 1).reshape(length, width)
    return layer_norm(
        dense(mixed, weights, f"{prefix}.output.dense") + x, weights, f"{prefix}.output.layer_norm"
    )


def encode(ids, weights, layers, heads, visible=None):
    """Hidden states of one sequence, shape (L,) to (L, H); `visible` masks keys."""
    visible = np.ones(len(ids), bool) if visible is None else visible
    embeddings = "model.embeddings"
    x = weights[f"{embeddings}.word_embeddings.weight"][ids]
    x = x + weights[f"{embeddings}.position_embeddings.weight"][: len(ids)]
    x = x + weights[f"{embeddings}.token_type_embeddings.weight"][0]
    x = layer_norm(x, weights, f"{embeddings}.layer_norm")
    for number in range(layers):
        prefix = f"model.encoder.layer.{number}"
        x = attention(x, weights, f"{prefix}.attention", heads, visible)
        wide = dense(x, weights, f"{prefix}.intermediate.dense")
        wide = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
        x = layer_norm(
            dense(wide, weights, f"{prefix}.output.dense") + x,
            weights,
            f"{prefix}.output.layer_norm",
        )
    return x


def language_model(hidden, weights):
    """Logits of the LM head: dense, no activation, LayerNorm, decoder."""
    x = dense(hidden, weights, "lm_head.transform.dense")
    x = layer_norm(x, weights, "lm_head.transform.layer_norm")
    return dense(x, weights, "lm_head.decoder")


def as_float64(model):
    return {k: v.detach().cpu().numpy().astype(np.float64) for k, v in model.state_dict().items()}
