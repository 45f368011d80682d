"""The encoder against an independent float64 reference, and what must never matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from riboray.alphabet import encode
from riboray.errors import ConfigError, VocabularyError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, RnaBertModel
from tests.conftest import random_sequences
from tests.model import reference

#: float32 through six post-norm layers: activations are of order 1 and rounding of order 1e-6.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    """Full-size RNABERT with weights ten times as large as at the start, so that attention is
    far from uniform and errors cannot hide."""
    torch.manual_seed(7)
    model = RnaBertForPreTraining(RnaBertConfig(initializer_range=0.2)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def embed(model, sequences, **options):
    ids, lengths = encode(sequences, model.config.tokens)
    with torch.inference_mode():
        hidden = model(torch.from_numpy(ids), torch.from_numpy(lengths), **options).numpy()
    return [row[:size] for row, size in zip(hidden, lengths, strict=True)]


def test_481080_parameters():
    assert sum(p.numel() for p in RnaBertModel(RnaBertConfig()).parameters()) == 481_080


def test_published_vocabulary_has_fewer():
    config = RnaBertConfig(vocabulary="original", tie_word_embeddings=False)
    model = RnaBertForPreTraining(config)
    sequence_relationship = 2 * 120 + 2  # in the published file, never used
    total = sum(p.numel() for p in model.parameters()) + sequence_relationship
    assert total == 509_896


def test_equals_the_float64_reference(model, rng):
    weights = reference.as_float64(model)
    for sequence in random_sequences(rng, 3, 5, 120):
        ids, _ = encode([sequence])
        wanted = reference.encode(ids[0], weights, 6, 12)
        found = embed(model, [sequence])[0]
        assert np.abs(found - wanted).max() <= TOLERANCE
        logits = model.lm_head(torch.from_numpy(found)).detach().numpy()
        assert np.abs(logits - reference.language_model(wanted, weights)).max() <= 1e-4


def test_original_padding_equals_the_reference_padded_to_440(rng):
    torch.manual_seed(8)
    config = RnaBertConfig(vocabulary="original", padding="original", initializer_range=0.1)
    model = RnaBertForPreTraining(config).eval()
    sequences = random_sequences(rng, 2, 20, 60)
    weights = reference.as_float64(model)
    for sequence, found in zip(sequences, embed(model, sequences), strict=True):
        ids, _ = encode([sequence], config.tokens, pad_to=440)
        wanted = reference.encode(ids[0], weights, 6, 12)[: len(sequence)]
        assert np.abs(found - wanted).max() <= TOLERANCE


@pytest.mark.parametrize("padding", ["masked", "original"])
def test_single_equals_batched_equals_reordered(model, rng, padding):
    if padding == "original":
        torch.manual_seed(9)
        config = RnaBertConfig(padding="original", initializer_range=0.1)
        model = RnaBertForPreTraining(config).eval()
    sequences = random_sequences(rng, 9, 1, 150)
    alone = [embed(model, [s])[0] for s in sequences]
    together = embed(model, sequences)
    order = rng.permutation(len(sequences))
    shuffled = embed(model, [sequences[i] for i in order])
    for k, where in enumerate(np.argsort(order)):
        assert alone[k].shape == (len(sequences[k]), 120)
        assert np.abs(alone[k] - together[k]).max() <= TOLERANCE
        assert np.abs(alone[k] - shuffled[where]).max() <= TOLERANCE


def test_what_lies_in_the_padding_does_not_matter(model):
    ids, lengths = encode(["ACGUACG", "ACG"])
    dirty = ids.copy()
    dirty[1, 3:] = 9
    clean, other = (
        model(torch.from_numpy(x), torch.from_numpy(lengths)).detach()[1, :3] for x in (ids, dirty)
    )
    assert torch.allclose(clean, other, atol=1e-6)


def test_original_padding_does_depend_on_padding():
    torch.manual_seed(9)
    masked = RnaBertForPreTraining(RnaBertConfig(initializer_range=0.1)).eval()
    padded = RnaBertForPreTraining(RnaBertConfig(initializer_range=0.1, padding="original")).eval()
    padded.load_state_dict(masked.state_dict())
    assert np.abs(embed(masked, ["ACGU"])[0] - embed(padded, ["ACGU"])[0]).max() > 1e-2


def test_dna_and_lower_case_embed_identically(model):
    assert (embed(model, ["ACGUU"])[0] == embed(model, ["acgtt"])[0]).all()


def test_too_long_is_refused_before_any_device_sees_it(model):
    ids, lengths = encode(["A" * 441])
    with pytest.raises(ValueError, match="441 tokens exceed max_position_embeddings=440"):
        model(torch.from_numpy(ids), torch.from_numpy(lengths))


def test_gradients_reach_every_encoder_weight():
    model = RnaBertForPreTraining(RnaBertConfig(heads=("lm",)))
    ids, lengths = encode(["ACGUACGU", "ACG"])
    hidden = model(torch.from_numpy(ids), torch.from_numpy(lengths))
    model.lm_head(hidden).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_padded_heads_change_nothing(monkeypatch, multiple):
    """Zero-padded heads against the same attention computed with plain heads of 10."""
    monkeypatch.setattr("riboray.model.self_attention._head_multiple", lambda _: multiple)
    torch.manual_seed(3)
    config = RnaBertConfig(num_hidden_layers=1, initializer_range=0.2)
    attention = RnaBertModel(config).encoder.layer[0].attention.self.double()
    hidden = torch.randn(2, 7, 120, dtype=torch.float64)
    found = attention(hidden, None)
    heads = [
        p(hidden).view(2, 7, 12, 10).transpose(1, 2)
        for p in (attention.query, attention.key, attention.value)
    ]
    weights = torch.softmax(heads[0] @ heads[1].transpose(2, 3) / 10**0.5, dim=-1)
    wanted = (weights @ heads[2]).transpose(1, 2).flatten(2)
    assert torch.allclose(found, wanted, atol=1e-12)
    gradients = [
        torch.autograd.grad(out.square().sum(), attention.parameters(), retain_graph=True)
        for out in (found, wanted)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 121}, "not a multiple"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"heads": ("lm", "other")}, "unknown heads"),
        ({"vocabulary": "other"}, "unknown vocabulary"),
    ],
)
def test_impossible_shapes(options, message):
    with pytest.raises((ConfigError, VocabularyError), match=message):
        RnaBertConfig(**options)
