"""Prediction heads: what they compute, what padding and missing labels do, files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from riboray.alphabet import encode_packed
from riboray.errors import CheckpointError, ConfigError
from riboray.model import RnaBertConfig, load_checkpoint, save_checkpoint
from riboray.model.prediction import HeadConfig, RnaBertForPrediction, prediction_loss

SMALL = RnaBertConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2
)
SEQUENCES = ["GGUCUCUCUGGUUAGACC", "UAGCUU", "A", "ACGUACGUACGUACGUACGUACGUA"]
THREE = ("a", "b", "c")
HEADS = [
    HeadConfig(level="sequence", problem="multiclass", labels=THREE),
    HeadConfig(level="sequence", problem="regression", labels=("x", "y"), pooling="mean"),
    HeadConfig(level="sequence", problem="multilabel", labels=THREE, transform="nonlinear"),
    HeadConfig(level="nucleotide", problem="binary", labels=("no", "yes")),
    HeadConfig(level="nucleotide", problem="multiclass", labels=THREE, transform="linear"),
    HeadConfig(level="contact", problem="binary", labels=("no", "yes")),
    HeadConfig(level="contact", problem="regression", labels=("d", "e"), transform="nonlinear"),
]
NAMES = [f"{h.level}-{h.problem}" for h in HEADS]


def made(head, **changes):
    torch.manual_seed(5)
    model = RnaBertForPrediction(replace(SMALL, **changes), head).eval()
    torch.nn.init.normal_(model.head.decoder.bias)
    return model


def tokens(model, sequences):
    config = model.config
    ids, edges = encode_packed(sequences, add_bos=config.add_bos, add_eos=config.add_eos)
    return torch.from_numpy(ids), torch.from_numpy(edges)


def by_hand(model, sequence):
    """One sequence alone, as written down in MultiMolecule's heads, pair by pair."""
    config, head = model.config, model.head_config
    ids, _ = tokens(model, [sequence])
    states = model.model(ids[None])[0]
    bases = states[int(config.add_bos) : len(states) - int(config.add_eos)]
    if head.level == "sequence":
        pooled = bases.mean(0) if head.pooling == "mean" else model.model.pooler(states[None])[0]
        return model.head(pooled)
    if head.level == "nucleotide":
        return model.head(bases)
    hidden = model.head.transform(bases)
    rows = [[model.head.decoder(a * b) for b in hidden] for a in hidden]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("specials", [False, True])
@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_each_sequence_alone_and_in_company(head, specials):
    model = made(head, add_bos=specials, add_eos=specials)
    with torch.inference_mode():
        found = model.logits(*tokens(model, SEQUENCES))
        for sequence, logits in zip(SEQUENCES, found, strict=True):
            wanted = by_hand(model, sequence)
            assert logits.shape == wanted.shape
            # Sums of 24 products of numbers around 1, in other orders.
            assert torch.allclose(logits, wanted, atol=1e-5)
            assert logits.shape[-1] == head.outputs


def test_contacts_are_symmetric_to_the_last_bit():
    model = made(HEADS[5])
    with torch.inference_mode():
        (logits,) = model.logits(*tokens(model, [SEQUENCES[3]]))
    assert torch.equal(logits, logits.transpose(0, 1))


@pytest.mark.parametrize("padding", ["masked", "original"])
def test_gradients_reach_encoder_and_head(padding):
    model = made(HEADS[4], padding=padding, max_position_embeddings=40).train()
    logits = torch.cat(model.logits(*tokens(model, SEQUENCES)))
    labels = torch.arange(len(logits)) % 3
    prediction_loss(logits, labels, "multiclass").backward()
    for name, parameter in model.named_parameters():
        if "token_type" not in name and "position" not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_dropout_in_training_only():
    model = made(replace(HEADS[3], dropout=0.5))
    given = tokens(model, SEQUENCES)
    with torch.inference_mode():
        assert all(map(torch.equal, model.logits(*given), model.logits(*given)))
        model.train()
        assert not all(map(torch.equal, model.logits(*given), model.logits(*given)))


numbers = st.floats(-5, 5, width=32)


@given(st.lists(st.tuples(numbers, numbers, numbers, st.integers(-1, 2)), min_size=1, max_size=8))
def test_classes_that_are_not_known_do_not_count(rows):
    logits = torch.tensor([row[:3] for row in rows])
    labels = torch.tensor([row[3] for row in rows])
    known = labels >= 0
    weights = torch.tensor([0.5, 1.0, 4.0])
    for given_weights in (None, weights):
        found = prediction_loss(logits, labels, "multiclass", given_weights)
        if not known.any():
            assert found == 0
            continue
        wanted = functional.cross_entropy(logits[known], labels[known], weight=given_weights)
        assert found == pytest.approx(float(wanted), abs=1e-5)


@given(st.lists(st.tuples(numbers, numbers, st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_numbers_that_are_not_known_do_not_count(rows):
    logits = torch.tensor([row[:1] for row in rows])
    values = torch.tensor([row[1] for row in rows])
    known = torch.tensor([row[2] for row in rows])
    yes = torch.tensor([float(row[3]) for row in rows])
    cases = (
        ("regression", values, functional.mse_loss),
        ("binary", yes, functional.binary_cross_entropy_with_logits),
        ("multilabel", yes, functional.binary_cross_entropy_with_logits),
    )
    for problem, labels, reference in cases:
        masked = torch.where(known, labels, torch.nan)
        found = prediction_loss(logits, masked, problem)
        wanted = reference(logits[known, 0], labels[known]) if known.any() else 0.0
        assert float(found) == pytest.approx(float(wanted), rel=1e-5, abs=1e-6)


def test_numbers_that_mean_not_known():
    """-100 does, in any type, but for what is measured."""
    logits = torch.zeros(2, 1)
    for problem in ("binary", "multilabel"):
        for kind in (torch.float32, torch.int64):
            found = prediction_loss(logits, torch.tensor([[1], [-100]], dtype=kind), problem)
            assert found.item() == pytest.approx(0.6931, abs=1e-4)
    for kind in (torch.float32, torch.int64):
        labels = torch.tensor([[-30], [2]], dtype=kind)
        assert prediction_loss(logits, labels, "regression").item() == (900 + 4) / 2


def test_nothing_known_has_a_gradient_of_zero():
    for problem, labels in (
        ("multiclass", torch.tensor([-1, -100])),
        ("regression", torch.full((2, 3), torch.nan)),
        ("multilabel", torch.full((2, 3), torch.nan)),
    ):
        logits = torch.randn(2, 3, requires_grad=True)
        prediction_loss(logits, labels, problem).backward()
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_files(tmp_path, head):
    model = made(head)
    save_checkpoint(model, tmp_path / "m")
    loaded = load_checkpoint(tmp_path / "m")
    assert loaded.format == "riboray"
    back = loaded.model
    assert isinstance(back, RnaBertForPrediction)
    assert back.head_config == head
    assert back.config == model.config
    with torch.inference_mode():
        given = tokens(model, SEQUENCES)
        for a, b in zip(model.logits(*given), back.logits(*given), strict=True):
            assert torch.equal(a, b)


def test_a_file_with_two_heads_is_refused(tmp_path):
    import safetensors.torch

    save_checkpoint(made(HEADS[0]), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    state = safetensors.torch.load_file(file)
    state["token_head.decoder.weight"] = state["sequence_head.decoder.weight"].clone()
    safetensors.torch.save_file(state, file)
    with pytest.raises(CheckpointError, match="more than one prediction head"):
        load_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "protein"}, "level must be one of"),
        ({"problem": "clustering"}, "problem must be one of"),
        ({"labels": ("a",)}, "1 labels"),
        ({"problem": "binary"}, "3 labels"),
        ({"labels": ("a", "b", "a")}, "named twice"),
        ({"dropout": 1.0}, "dropout must lie"),
        ({"pooling": "max"}, "pooling must be one of"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(HEADS[0], **changes)


def test_long_rnas_are_predicted_from_averages_over_windows():
    """What fits the model is predicted as ever."""
    model = made(HEADS[4])
    with torch.inference_mode():
        ids, edges = tokens(model, SEQUENCES)
        states = model.model.packed(ids, edges)
        bases = list(torch.split(states, np.diff(edges.numpy()).tolist()))
        for a, b in zip(model.of_bases(bases), model.logits(ids, edges), strict=True):
            assert torch.equal(a, b)
    assert model.of_bases([]) == []
