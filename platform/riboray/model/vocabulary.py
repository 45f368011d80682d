"""Giving a model another vocabulary, so that a program that knows only that one can open it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from riboray.alphabet import IUPAC_NUCLEOTIDES, Vocabulary
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["convert_vocabulary"]


def convert_vocabulary(model: RnaBertForPreTraining, target: Vocabulary) -> RnaBertForPreTraining:
    """Return the same model with another vocabulary.

    Tokens both have keep their embedding. An ambiguity code that is new gets the mean of the
    nucleotides it stands for, every other new token zeros; the language-model head never
    predicts a new token (bias -1e4).
    """
    source = model.config.tokens
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def rows(old: Tensor, missing: Callable[[str], Tensor]) -> Tensor:
        return torch.stack(
            [missing(t) if (i := source.id_of(t)) is None else old[i] for t in target.tokens]
        )

    words = state["model.embeddings.word_embeddings.weight"]

    def mean_of(token: str) -> Tensor:
        stands_for = [source.id_of(n) for n in IUPAC_NUCLEOTIDES.get(token, "")]
        return words[stands_for].mean(0) if stands_for else torch.zeros_like(words[0])

    state["model.embeddings.word_embeddings.weight"] = rows(words, mean_of)
    if model.lm_head is not None:
        decoder = state["lm_head.decoder.weight"]
        tied = model.config.tie_word_embeddings
        absent = mean_of if tied else lambda _: torch.zeros_like(decoder[0])
        state["lm_head.decoder.weight"] = rows(decoder, absent)
        state["lm_head.decoder.bias"] = rows(
            state["lm_head.decoder.bias"], lambda _: torch.tensor(-1e4)
        )
    converted = RnaBertForPreTraining(replace(model.config, vocabulary=target.name))
    converted.load_state_dict(state)
    return converted.train(model.training)
