"""How often a pair is seen: families by temperature, pairs by identity."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.sampling import family_shares, pair_sampling
from riboray.pretraining.streams import read_visit


def table_of(counts, rng):
    names = [name for name, count in counts.items() for _ in range(count)]
    return pa.table({"family": names, "identity": rng.uniform(0.2, 1.0, len(names))})


def plain(table, temperature, power):
    """Expected copies of every row, as the documentation says it, one row at a time."""
    rows = table.to_pylist()
    sizes = Counter(row["family"] for row in rows)
    shares = {name: size ** (1 / temperature) for name, size in sizes.items()}
    weights = [max(1 - row["identity"], 0.01) ** power for row in rows]
    of_family = Counter()
    for row, weight in zip(rows, weights, strict=True):
        of_family[row["family"]] += weight
    return [
        len(rows) * shares[row["family"]] / sum(shares.values()) * weight / of_family[row["family"]]
        for row, weight in zip(rows, weights, strict=True)
    ]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    temperature=st.sampled_from([1.0, 2.0, 5.0, math.inf]),
    power=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_expected_copies_are_those_of_the_formula(sizes, temperature, power, seed):
    rng = np.random.default_rng(seed)
    table = table_of({f"f{i}": size for i, size in enumerate(sizes)}, rng)
    sampling = pair_sampling(table["family"], table["identity"].to_numpy(), temperature, power)
    if temperature == 1 and power == 0:
        assert sampling is None
        return
    expected = np.array(plain(table, temperature, power))
    assert expected.sum() == pytest.approx(table.num_rows)
    drawn = np.bincount(sampling.draw(table, rng), minlength=table.num_rows)
    # Copies are the expectation rounded up or down.
    assert (drawn >= np.floor(expected - 1e-9)).all()
    assert (drawn <= np.ceil(expected + 1e-9)).all()


def test_the_mean_over_many_draws_is_the_expectation(rng):
    table = table_of({"large": 90, "small": 10}, rng)
    sampling = pair_sampling(table["family"], table["identity"].to_numpy(), math.inf, 1.0)
    total = np.zeros(100)
    for _ in range(2000):
        total += np.bincount(sampling.draw(table, rng), minlength=100)
    # Binomial noise of 2,000 draws: three standard deviations are 0.034.
    assert np.abs(total / 2000 - plain(table, math.inf, 1.0)).max() < 0.05
    assert total[:90].sum() == pytest.approx(total[90:].sum(), rel=0.02), "both families as often"


@pytest.fixture(scope="module")
def corpus(sample_corpus):
    return sample_corpus


def seen(spec, epoch):
    windows = len(spec.windows)
    batches = [
        b for v in range(epoch * windows, (epoch + 1) * windows) for b in read_visit(spec, v)
    ]
    return batches, sum(len(batch.reference) for batch in batches)


def test_a_stream_follows_the_sampling_and_is_reproducible(corpus):
    config = PretrainConfig(validation_families=["RF00003"], family_temperature=math.inf)
    spec = prepare_data(corpus, config, 2).specs["sal"]
    first, count = seen(spec, 0)
    again, _ = seen(spec, 0)
    assert all((a.input_ids == b.input_ids).all() for a, b in zip(first, again, strict=True))
    assert count == pytest.approx(8 * 40, rel=0.1), "an epoch is as many pairs as there are"
    assert (seen(spec, 1)[0][0].input_ids.shape, seen(spec, 1)[1]) != (first[0].input_ids.shape, 0)


def test_held_out_families_are_not_sampled(corpus):
    config = PretrainConfig(validation_families=["RF00003", "RF00005"], identity_power=2.0)
    data = prepare_data(corpus, config, 1)
    sampling = data.specs["sal"].sampling
    assert not {"RF00003", "RF00005"} & sampling.scales.keys()
    assert len(sampling.scales) == 7


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    temperature=st.sampled_from([1.0, 3.0, math.inf]),
    chosen=st.lists(st.integers(0, 7), max_size=9),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_families_in_focus_have_their_share(sizes, temperature, chosen, share):
    names = [f"f{i}" for i in range(len(sizes))]
    table = table_of(dict(zip(names, sizes, strict=True)), np.random.default_rng(0))
    focus = [f"f{i}" for i in chosen]  # some are not there, some are named more than once
    shares = family_shares(table["family"], temperature, focus, share)
    assert sum(shares.values()) == pytest.approx(1)
    there, rest = ({n for n in names if (n in focus) == side} for side in (True, False))
    if not there:
        assert shares == pytest.approx(family_shares(table["family"], temperature))
        return
    named = sum(focus.count(name) for name in there)
    for name in there:
        own = (share if rest else 1.0) * focus.count(name) / named
        assert shares[name] == pytest.approx(own)
    if not rest:
        return
    plain_shares = family_shares(table["family"], temperature)
    total = sum(plain_shares[name] for name in rest)
    for name in rest:
        assert shares[name] == pytest.approx((1 - share) * plain_shares[name] / total)
    sampling = pair_sampling(table["family"], table["identity"].to_numpy(), 1.0, 0.0, focus, share)
    copies = sum(sampling.scales[name] * size for name, size in zip(names, sizes, strict=True))
    assert copies == pytest.approx(sum(sizes))
