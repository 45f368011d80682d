from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alphabet import MULTIMOLECULE, ORIGINAL, encode
from riboray.errors import ConfigError
from riboray.pretraining.masking import IGNORE, MaskingRule, mask_batch, sequence_keys
from tests.conftest import random_sequences


@pytest.fixture(scope="module")
def masked():
    rng = np.random.default_rng(3)
    sequences = random_sequences(rng, 3000, 20, 200)
    ids, lengths = encode(sequences)
    keys = sequence_keys([f"s{i}" for i in range(3000)])
    input_ids, labels = mask_batch(ids, keys, 0, 1, MULTIMOLECULE)
    return ids, lengths, input_ids, labels


def test_fifteen_percent_eighty_ten_ten(masked):
    """About 50,000 targets: a share p has a standard error below 0.0022; 0.008 is 3.6 of them."""
    ids, lengths, input_ids, labels = masked
    target = labels != IGNORE
    assert target.sum() / lengths.sum() == pytest.approx(0.15, abs=0.002)
    hidden, seen = ids[target], input_ids[target]
    assert (seen == MULTIMOLECULE.mask_id).mean() == pytest.approx(0.8, abs=0.008)
    changed = (seen != hidden) & (seen != MULTIMOLECULE.mask_id)
    assert changed.mean() == pytest.approx(0.1, abs=0.008)
    assert (seen == hidden).mean() == pytest.approx(0.1, abs=0.008)
    # The replacement is each of the three other nucleotides equally often.
    for nucleotide in MULTIMOLECULE.nucleotide_ids:
        others = seen[changed & (hidden == nucleotide)]
        shares = [(others == n).mean() for n in MULTIMOLECULE.nucleotide_ids if n != nucleotide]
        assert shares == pytest.approx([1 / 3] * 3, abs=0.06)
        assert not (others == nucleotide).any()


def test_labels_are_the_originals_and_nothing_else_changes(masked):
    ids, lengths, input_ids, labels = masked
    target = labels != IGNORE
    assert (labels[target] == ids[target]).all()
    assert (input_ids[~target] == ids[~target]).all()
    padding = np.arange(ids.shape[1]) >= lengths[:, None]
    assert not target[padding].any()


def test_every_position_is_a_target_equally_often(masked):
    _, lengths, _, labels = masked
    long = lengths >= 100
    shares = (labels[long, :100] != IGNORE).mean(axis=0)
    assert shares.std() < 0.012
    assert abs(shares[:10].mean() - shares[-10:].mean()) < 0.01


@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 5))
@settings(max_examples=30)
def test_a_pattern_depends_on_seed_id_and_number_alone(seed, pattern, extra):
    sequences = ["ACGUACGUACGUACGUACGU", "GGGGCCCCAAAAUUUU", "ACGNACGUACG"]
    names = ["x", "y", "z"]

    def mask(chosen, pad):
        ids, lengths = encode([sequences[i] for i in chosen], pad_to=20 + pad)
        keys = sequence_keys([names[i] for i in chosen])
        masked, labels = mask_batch(ids, keys, pattern, seed, MULTIMOLECULE)
        return {
            names[i]: (masked[k, : lengths[k]].tolist(), labels[k, : lengths[k]].tolist())
            for k, i in enumerate(chosen)
        }

    together = mask([0, 1, 2], 0)
    assert mask([2, 0, 1], extra) == together
    for i in range(3):
        assert mask([i], extra)[names[i]] == together[names[i]]


def test_ten_patterns_differ_and_come_back():
    ids, _ = encode(["ACGU" * 30])
    keys = sequence_keys(["a"])
    rule = MaskingRule()
    seen = {
        mask_batch(ids, keys, epoch % rule.patterns, 0, MULTIMOLECULE)[1].tobytes()
        for epoch in range(30)
    }
    assert len(seen) == 10


def test_ids_and_seeds_matter():
    ids, _ = encode(["ACGU" * 30])
    base = mask_batch(ids, sequence_keys(["a"]), 0, 0, MULTIMOLECULE)[1]
    for name, seed in (("b", 0), ("a", 1)):
        assert (mask_batch(ids, sequence_keys([name]), 0, seed, MULTIMOLECULE)[1] != base).any()


def test_only_nucleotides_are_targets():
    ids, _ = encode(["NNNNNNNNNNNNNNNNNNNA"], add_bos=True, add_eos=True)
    for pattern in range(20):
        _, labels = mask_batch(ids, sequence_keys(["a"]), pattern, 0, MULTIMOLECULE)
        assert np.flatnonzero(labels[0] != IGNORE).tolist() == [20]
    ids, _ = encode(["NNNN"])
    assert (mask_batch(ids, sequence_keys(["a"]), 0, 0, MULTIMOLECULE)[1] == IGNORE).all()


def test_the_original_vocabulary():
    ids, _ = encode(["ACGU" * 100], ORIGINAL)
    input_ids, labels = mask_batch(ids, sequence_keys(["a"]), 0, 0, ORIGINAL)
    assert (labels != IGNORE).sum() in (60, 61)
    assert (input_ids == ORIGINAL.mask_id).sum() > 30


def test_other_rules():
    ids, _ = encode(["ACGU" * 100])
    rule = MaskingRule(fraction=1.0, mask_share=1.0, random_share=0.0)
    input_ids, _ = mask_batch(ids, sequence_keys(["a"]), 0, 0, MULTIMOLECULE, rule)
    assert (input_ids == MULTIMOLECULE.mask_id).all()


@pytest.mark.parametrize(
    "options", [{"fraction": 0}, {"mask_share": 0.95}, {"random_share": -0.1}, {"patterns": 0}]
)
def test_impossible_rules(options):
    with pytest.raises(ConfigError):
        MaskingRule(**options)


#: Frozen: a change here changes what every resumed run trains on.
GOLDEN = [5, 14, 16]


def test_golden_pattern():
    ids, _ = encode(["GGUCUCUCUGGUUAGACCAGA"])
    _, labels = mask_batch(ids, sequence_keys(["URS0000000001"]), 0, 0, MULTIMOLECULE)
    assert np.flatnonzero(labels[0] != IGNORE).tolist() == GOLDEN
