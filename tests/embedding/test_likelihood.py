"""Pseudo-log-likelihoods against the definition, one masked base at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from riboray.alphabet import MULTIMOLECULE, encode
from riboray.batching import window_starts
from riboray.embedding.embedder import Embedder
from riboray.embedding.likelihood import STRIDE, log_likelihoods
from riboray.errors import ConfigError
from riboray.model import RnaBertForPreTraining
from tests.conftest import random_sequences, tiny_config


def make_model(**options):
    torch.manual_seed(0)
    config = tiny_config(
        max_position_embeddings=30,
        **options,
    )
    return RnaBertForPreTraining(config).eval()


def reference(model, text, hide_together):
    """Mean over windows of each base's log-probability, hidden with those of its group."""
    config = model.config
    first = int(config.add_bos)
    total, count = np.zeros(len(text)), np.zeros(len(text))
    for start in window_starts(len(text), config.max_sequence_length):
        window = text[start : start + config.max_sequence_length]
        ids, _ = encode([window], config.tokens, add_bos=config.add_bos, add_eos=config.add_eos)
        for group in range(hide_together(len(window))):
            hidden = list(range(group, len(window), hide_together(len(window))))
            masked = ids.copy()
            masked[0, [first + k for k in hidden]] = config.tokens.mask_id
            with torch.inference_mode():
                logits = model.lm_head(model(torch.from_numpy(masked)))[0].log_softmax(-1)
            for k in hidden:
                total[start + k] += float(logits[first + k, ids[0, first + k]])
                count[start + k] += 1
    plain = [letter in "ACGU" for letter in text]
    return float((total / count)[plain].sum()), sum(plain)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("specials", [False, True])
def test_the_sum_is_that_of_the_definition(rng, exact, specials):
    model = make_model(add_bos=specials, add_eos=specials)
    texts = [*random_sequences(rng, 6, 1, 28), "ACGNNACGU", "A", *random_sequences(rng, 1, 75, 75)]
    found = log_likelihoods(Embedder(model, token_budget=200), texts, exact=exact)
    assert not found.failed
    for k, text in enumerate(texts):
        expected, bases = reference(model, text, lambda n: n if exact else min(STRIDE, n))
        assert found.bases[k] == bases
        assert found.sums[k] == pytest.approx(expected, abs=1e-4)
        assert found.perplexities[k] == pytest.approx(np.exp(-expected / bases), rel=1e-4)


def test_an_untrained_model_is_as_perplexed_as_its_vocabulary_is_large():
    model = make_model()
    with torch.no_grad():
        model.lm_head.decoder.weight.zero_()
    found = log_likelihoods(Embedder(model), ["ACGUACGU"], exact=True)
    assert found.perplexities[0] == pytest.approx(len(MULTIMOLECULE), rel=1e-5)


def test_a_model_without_head_has_none():
    with pytest.raises(ConfigError, match="no language-model head"):
        log_likelihoods(Embedder(make_model(heads=("ss",))), ["ACGU"])
