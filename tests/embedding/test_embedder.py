"""Embeddings of any length: windows, batches, stored files."""

from __future__ import annotations

import numpy as np
import pyarrow.dataset
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riboray.alphabet import encode
from riboray.batching import window_starts
from riboray.embedding.embedder import Embedder
from riboray.embedding.store import embedding_schema, pool, write_shard
from riboray.model import RnaBertConfig, RnaBertForPreTraining
from tests.conftest import random_sequences


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RnaBertForPreTraining(
        RnaBertConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=16,
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
        RnaBertConfig(
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=16,
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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_files_are_plain_arrow(model, rng, tmp_path, dtype):
    texts = random_sequences(rng, 600, 1, 90)
    ids = [f"r/{k} ü" for k in range(600)]  # ids are data, whatever they hold
    schema = embedding_schema(24, dtype, True, {"model": "abc"})
    embedder = Embedder(model)
    assert write_shard(tmp_path / "s.arrow", ids, texts, embedder, schema, "mean") == 600
    table = pyarrow.dataset.dataset(tmp_path / "s.arrow", format="ipc").to_table()
    assert table["id"].to_pylist() == ids
    assert table["length"].to_pylist() == [len(t) for t in texts]
    assert table.schema.metadata[b"riboray.model"] == b"abc"
    assert table["windows"].to_pylist() == [embedder.windows(len(t)) for t in texts]
    assert not any(table["truncated"].to_pylist())
    whole = embedder.per_base(texts)
    tolerance = 1e-5 if dtype == "float32" else 5e-3
    np.testing.assert_allclose(
        np.array(table["embedding"].to_pylist(), float),
        [pool(rows, "mean") for rows in whole],
        atol=tolerance,
    )
    bases = table["per_base"].to_pylist()
    for rows, stored in zip(whole[::50], bases[::50], strict=True):
        np.testing.assert_allclose(np.array(stored, float), rows, atol=5e-3)


def test_pooling():
    rows = np.array([[1.0, 5.0], [3.0, 1.0]], np.float32)
    assert pool(rows, "mean").tolist() == [2.0, 3.0]
    assert pool(rows, "max").tolist() == [3.0, 5.0]
    assert pool(rows, "first").tolist() == [1.0, 5.0]
