"""Embeddings of any length: windows, batches, stored files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riboray.alphabet import encode
from riboray.batching import count_windows, window_starts
from riboray.embedding.embedder import Embedder, Wanted
from riboray.embedding.pooling import pool, pool_packed
from riboray.errors import RiborayError
from riboray.model import RnaBertForPreTraining
from tests.conftest import random_sequences, tiny_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RnaBertForPreTraining(
        tiny_config(
            max_position_embeddings=40,
        )
    ).eval()


def alone(model, text):
    ids, lengths = encode([text], model.config.tokens)
    with torch.inference_mode():
        return model(torch.from_numpy(ids), torch.from_numpy(lengths))[0].numpy()


def test_batched_equals_single_in_any_order(model, rng):
    texts = random_sequences(rng, 30, 1, 40)
    together = Embedder(model, token_budget=200).per_base(texts)
    reordered = Embedder(model).per_base(texts[::-1])[::-1]
    for text, one, other in zip(texts, together, reordered, strict=True):
        assert one.shape == (len(text), 24)
        np.testing.assert_allclose(one, alone(model, text), atol=1e-5)
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("length", [41, 60, 79, 80, 81, 200])
def test_long_sequences_are_averages_of_windows(model, rng, length):
    (text,) = random_sequences(rng, 1, length, length)
    found = Embedder(model).per_base([text])[0]
    total, count = np.zeros((length, 24)), np.zeros(length)
    for start in window_starts(length, 40):
        total[start : start + 40] += alone(model, text[start : start + 40])
        count[start : start + 40] += 1
    np.testing.assert_allclose(found, total / count[:, None], atol=1e-5)


@given(st.lists(st.integers(1, 3000), max_size=20), st.integers(1, 440))
def test_windows_are_counted_as_they_are_cut(lengths, width):
    counted = count_windows(np.array(lengths, np.int64), width)
    assert counted.tolist() == [len(window_starts(length, width)) for length in lengths]


@given(st.integers(1, 5000), st.integers(1, 440))
def test_windows_cover_everything(length, width):
    starts = window_starts(length, width)
    covered = np.zeros(length, int)
    for start in starts:
        assert start >= 0
        assert start + width <= length or start == 0
        covered[start : start + width] += 1
    assert covered.min() >= 1
    assert starts == sorted(set(starts))


def test_specials_are_stripped(rng):
    torch.manual_seed(0)
    model = RnaBertForPreTraining(
        tiny_config(
            num_hidden_layers=1,
            max_position_embeddings=20,
            add_bos=True,
            add_eos=True,
        )
    ).eval()
    for length in (1, 18, 19, 50):
        (text,) = random_sequences(rng, 1, length, length)
        assert Embedder(model).per_base([text])[0].shape == (length, 24)


def test_t_is_u_and_case_does_not_matter(model):
    one, other = Embedder(model).per_base(["ACGUACGU", "acgtACGT"])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_nothing_to_embed(model):
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        Embedder(model).per_base(["ACGU", ""])


def test_pooling():
    rows = np.array([[1.0, 5.0], [3.0, 1.0]], np.float32)
    assert pool(rows, "mean").tolist() == [2.0, 3.0]
    assert pool(rows, "max").tolist() == [3.0, 5.0]
    assert pool(rows, "first").tolist() == [1.0, 5.0]


@pytest.mark.parametrize("how", ["mean", "max", "first"])
def test_pooled_embeddings_are_pools_of_base_embeddings(model, rng, how):
    """Long sequences are pooled as they come, short ones as batches; both as the plain function."""
    texts = [*random_sequences(rng, 40, 1, 40), *random_sequences(rng, 5, 41, 400)]
    embedder = Embedder(model, token_budget=100)
    made = embedder.embed(texts, Wanted((2,), how, per_base=True))
    assert not made.failed
    for k, rows in enumerate(made.per_base[2]):
        np.testing.assert_allclose(made.pooled[2][k], pool(rows, how), atol=1e-5)


def test_pools_of_gpu_tensors_are_the_same(rng):
    """What runs on a GPU goes through another reduction of PyTorch's."""
    sizes = rng.integers(1, 30, 20)
    rows = torch.from_numpy(rng.normal(size=(sizes.sum(), 8)).astype(np.float32))
    offsets = torch.from_numpy(np.cumsum([0, *sizes]))
    for how in ("mean", "max"):
        theirs = torch.segment_reduce(rows, how, lengths=offsets.diff(), axis=0)
        torch.testing.assert_close(pool_packed(rows, offsets, how), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("specials", [False, True])
def test_any_layer(rng, specials):
    torch.manual_seed(1)
    model = RnaBertForPreTraining(
        tiny_config(
            num_hidden_layers=3,
            max_position_embeddings=30,
            add_bos=specials,
            add_eos=specials,
        )
    ).eval()
    texts = random_sequences(rng, 10, 1, 28)
    made = Embedder(model).embed(texts, Wanted((0, 2, 3), "mean", per_base=True))
    first = int(specials)
    for k, text in enumerate(texts):
        ids, lengths = encode([text], model.config.tokens, add_bos=specials, add_eos=specials)
        with torch.inference_mode():
            states = model.model.hidden_states(torch.from_numpy(ids), torch.from_numpy(lengths))
        for layer in (0, 2, 3):
            expected = states[layer][0, first : first + len(text)].numpy()
            np.testing.assert_allclose(made.per_base[layer][k], expected, atol=1e-5)
            np.testing.assert_allclose(made.pooled[layer][k], expected.mean(axis=0), atol=1e-5)


class Scarce:
    """A device whose memory ends at so many tokens, or that dislikes a token."""

    def __init__(self, embedder, most=10**9, poison=None):
        self.sizes, self._most, self._poison = [], most, poison
        self._states = embedder.states
        embedder.states = self

    def __call__(self, ids, edges, layers):
        self.sizes.append(len(ids))
        if len(ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self._poison is not None and (ids == self._poison).any():
            raise ValueError("no such thing\nand more")
        return self._states(ids, edges, layers)


def test_a_batch_that_does_not_fit_is_halved(model, rng):
    texts = [*random_sequences(rng, 60, 5, 40), *random_sequences(rng, 3, 50, 200)]
    wanted = Wanted((2,), "mean", per_base=True)
    expected = Embedder(model).embed(texts, wanted)
    embedder = Embedder(model, token_budget=500)
    device = Scarce(embedder, most=90)
    made = embedder.embed(texts, wanted)
    assert max(device.sizes) > 90
    assert not made.failed
    for k in range(len(texts)):
        np.testing.assert_allclose(made.per_base[2][k], expected.per_base[2][k], atol=1e-5)
    np.testing.assert_allclose(made.pooled[2], expected.pooled[2], atol=1e-5)


def test_what_fails_alone_is_told_and_the_others_go_on(model, rng):
    texts = [t.replace("N", "A") for t in random_sequences(rng, 30, 5, 40)]
    texts[11] = "ACGNACG"
    texts.append("ACGU" * 30 + "N")
    texts.append("GGCC" * 30)
    embedder = Embedder(model, token_budget=300)
    Scarce(embedder, poison=model.config.tokens.id_of("N"))
    made = embedder.embed(texts, Wanted((2,), "mean"))
    assert sorted(made.failed) == [11, 30]
    assert made.failed[11] == "cannot be embedded (ValueError: no such thing)"
    assert "its window from 82 on" in made.failed[30]
    expected = Embedder(model).embed(texts, Wanted((2,), "mean"))
    good = [k for k in range(len(texts)) if k not in made.failed]
    np.testing.assert_allclose(made.pooled[2][good], expected.pooled[2][good], atol=1e-5)
    with pytest.raises(RiborayError, match=r"sequence 11 \(7 nt\)"):
        embedder.per_base(texts)


def test_a_broken_device_is_not_taken_for_a_bad_sequence(model):
    embedder = Embedder(model)

    def broken(ids, edges, layers):
        raise OSError("the disk, say")

    embedder.states = broken
    with pytest.raises(OSError, match="the disk"):
        embedder.embed(["ACGU"], Wanted((2,)))


def test_lower_precision_is_near(model, rng):
    texts = random_sequences(rng, 10, 5, 40)
    exact = Embedder(model).embed(texts, Wanted((2,), "mean"))
    low = Embedder(model, precision="bfloat16").embed(texts, Wanted((2,), "mean"))
    difference = np.abs(exact.pooled[2] - low.pooled[2]).max()
    assert 1e-6 < difference < 0.1, "bfloat16 has 8 bits: about 0.004 a rounding, a dozen of them"


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same(model, rng, monkeypatch):
    """In lower precision, whose batches are padded: what is packed is not compiled."""
    compiling, calls = torch.nn.Module.compile, []

    def eager(module, **options):  # the default backend would compile C++ for a minute
        calls.append(options)
        compiling(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    texts = [*random_sequences(rng, 8, 5, 40), *random_sequences(rng, 1, 90, 90)]
    wanted = Wanted((2,), "mean", per_base=True)
    plain = Embedder(model, precision="bfloat16").embed(texts, wanted)
    compiled = Embedder(model, precision="bfloat16", compile=True).embed(texts, wanted)
    assert calls == [{"dynamic": True}]
    assert not compiled.failed
    np.testing.assert_allclose(compiled.pooled[2], plain.pooled[2], atol=1e-2)


def test_a_very_long_sequence_takes_no_more_memory_than_its_windows(model, rng):
    """400 windows at once would be ten budgets; only a budget's worth is in memory."""
    (text,) = random_sequences(rng, 1, 8000, 8000)
    embedder = Embedder(model, token_budget=400)
    device = Scarce(embedder)
    longest = max(len(rows[0]) for rows in embedder._averaged(text, (2,)))
    assert max(device.sizes) <= 400
    assert longest <= 240, "ten windows, half a window apart"
