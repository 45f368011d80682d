from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.batching import plan_batches

LENGTHS = st.lists(st.integers(1, 440), min_size=0, max_size=200)


@given(LENGTHS, st.integers(1, 5000), st.booleans())
def test_every_item_once_and_no_batch_over_budget(lengths, budget, shuffled):
    lengths = np.array(lengths, dtype=np.int32)
    generator = np.random.default_rng(0) if shuffled else None
    batches = plan_batches(lengths, budget, jitter=8, generator=generator)
    placed = np.concatenate(batches) if batches else np.empty(0, dtype=int)
    assert sorted(placed.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= budget


@given(LENGTHS, st.integers(440, 5000), st.integers(0, 3))
def test_batches_cost_the_same_as_nearly_as_whole_items_can(lengths, budget, seed):
    """Half an item more or less; less still only where the token budget is used up, or at the end.

    The items of a batch are sorted by length up to the jitter, so the dearest of all is a bound.
    """
    lengths = np.array(lengths, dtype=np.int32)
    costs = lengths * (1 + lengths / 280)
    batches = plan_batches(
        lengths,
        budget,
        costs=costs,
        cost_budget=budget,
        jitter=8,
        generator=np.random.default_rng(seed),
    )
    placed = np.concatenate(batches) if batches else np.empty(0, dtype=int)
    assert sorted(placed.tolist()) == list(range(len(lengths)))
    item = costs.max(initial=0.0)
    light = 0
    for batch in batches:
        widest, total = lengths[batch].max(), costs[batch].sum()
        assert len(batch) == 1 or widest * len(batch) <= budget
        assert len(batch) == 1 or total <= budget + item / 2
        # The next item may be longer by the jitter, and widen the whole batch.
        filled = (widest + 8) * (len(batch) + 1) > budget
        light += total < budget - item / 2 and not filled
    assert light <= 1, "only what is left at the end"


def test_longest_first_without_a_generator():
    batches = plan_batches(np.array([3, 9, 5, 7]), 10)
    assert [b.tolist() for b in batches] == [[1], [3], [2, 0]]


def test_padding_stays_rare():
    rng = np.random.default_rng(1)
    lengths = rng.integers(30, 440, size=5000)
    batches = plan_batches(lengths, 4096, jitter=8, generator=rng)
    padded = sum(lengths[b].max() * len(b) for b in batches)
    assert lengths.sum() / padded > 0.97


def test_jitter_changes_the_company_from_seed_to_seed():
    lengths = np.full(100, 50)
    first, second = (
        plan_batches(lengths, 500, jitter=8, generator=np.random.default_rng(s)) for s in (0, 1)
    )
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}


def test_bad_budget():
    with pytest.raises(ValueError, match="token_budget"):
        plan_batches(np.array([1]), 0)
