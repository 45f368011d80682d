"""k-mers on diagonals, against a plain definition."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from riboray.alignment.diagonals import BAND, diagonal_scores
from riboray.corpus.strings import Strings
from tests.conftest import random_sequences

K = 2


def words(text):
    found = {}
    for place in range(len(text) - K + 1):
        word = text[place : place + K]
        if set(word) <= set("ACGU"):
            found[place] = 4 * "ACGU".index(word[0]) + "ACGU".index(word[1])
    return found


def plain(query, target, weights):
    """Weights by band; the best two bands side by side."""
    places = defaultdict(list)
    for place, word in words(query).items():
        places[word].append(place)
    bands = defaultdict(float)
    for j, word in words(target).items():
        for i in places[word][-16:]:
            bands[(i - j + len(target)) // BAND] += weights[word]
    best = max((total + bands.get(b + 1, 0.0) for b, total in list(bands.items())), default=0.0)
    single = max(bands.values(), default=0.0)
    return max(best, single) / max(len(query) * len(target), 1) ** 0.25


@given(st.integers(0, 10**6))
def test_against_a_plain_definition(seed):
    """Sums of at most a few hundred float32: off by less than a hundred-thousandth."""
    rng = np.random.default_rng(seed)
    texts = [*random_sequences(rng, 8, 1, 60), "A" * 50, "NNNN", "ACGUNACGU"]
    queries, targets = texts[::2], texts
    weights = rng.random(4**K).astype(np.float32)
    chosen = rng.integers(0, len(targets), (len(queries), 5))
    found = diagonal_scores(Strings.of(queries), Strings.of(targets), chosen, weights)
    wanted = [
        [plain(q, targets[t], weights) for t in row] for q, row in zip(queries, chosen, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_order_counts(rng):
    """A sequence with two changes beats one with the same k-mers in another order."""
    (text,) = random_sequences(rng, 1, 100, 100)
    changed = text[:30] + "A" + text[31:60] + "C" + text[61:]
    pieces = [text[k : k + 10] for k in range(0, 100, 10)]
    mixed = "".join(pieces[k] for k in (5, 2, 8, 0, 6, 3, 9, 1, 7, 4))
    chosen = np.array([[0, 1]])
    weights = np.ones(4**5, np.float32)
    scores = diagonal_scores(Strings.of([text]), Strings.of([changed, mixed]), chosen, weights)
    assert scores[0, 0] > 3 * scores[0, 1] > 0
    empty = diagonal_scores(Strings.of([]), Strings.of([]), np.empty((0, 0), np.int64), weights)
    assert empty.shape == (0, 0)
