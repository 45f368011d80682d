from __future__ import annotations

import numpy as np
import pytest

from riboray.alignment.prefilter import Whitening, build_index, nearest
from riboray.errors import CorpusError


def test_whitening_makes_all_directions_count_the_same(rng):
    pooled = rng.normal(size=(500, 6)) * [100, 10, 1, 1, 0.5, 0] + 7
    whitening = Whitening.fit(pooled)
    assert whitening.basis.shape == (6, 5), "a direction without spread is left out"
    plain = (pooled - whitening.centre) @ whitening.basis
    np.testing.assert_allclose(np.cov(plain.T), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(whitening.apply(pooled), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_whitening_of_hardly_anything(count):
    whitening = Whitening.fit(np.ones((count, 3)))
    assert np.isfinite(whitening.apply(np.ones((2, 3)))).all()


def test_index_finds_true_neighbours_and_is_the_same_twice(rng, tmp_path):
    vectors = rng.normal(size=(3000, 20)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for name in ("a", "b"):
        build_index(vectors, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    rows, similarity = nearest(tmp_path / "a", vectors[:50], 30)
    assert (rows[:, 0] == np.arange(50)).all()
    assert similarity[:, 0] == pytest.approx(1.0, abs=2e-3)
    exact = np.argsort(-(vectors[:50] @ vectors.T), axis=1)[:, :30]
    common = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]
    assert np.mean(common) / 30 > 0.9
    assert nearest(tmp_path / "a", vectors[:1], 9999)[0].shape == (1, 3000)


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="index cannot be read"):
        nearest(tmp_path / "x", np.ones((1, 3), np.float32), 1)
