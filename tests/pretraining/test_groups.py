"""Groups of a family's members: drawn as often as asked, and learnt as their pairs would be."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from riboray.alignment import gapped_strings
from riboray.alphabet import decode
from riboray.corpus.records import hash64
from riboray.errors import ConfigError, CorpusError
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import Phase
from riboray.pretraining.data import prepare_data
from riboray.pretraining.feeds import Feed
from riboray.pretraining.groups import Group, load_profiles
from riboray.pretraining.pairs import AlignedPair
from riboray.pretraining.streams import checksum, group_batch, iterate_stream, pair_batch
from riboray.pretraining.targets import count_targets
from riboray.pretraining.trainer import Trainer
from tests.pretraining.test_streams import FAMILIES
from tests.pretraining.test_streams import corpus as corpus  # the fixture

CPU = torch.device("cpu")


def make(**options):
    options = {"group_size": 4, "pair_tokens_per_batch": 2048, **options}
    return PretrainConfig(validation_families=FAMILIES, seed=3, **options)


def spec_of(corpus, **options):
    return prepare_data(corpus, make(**options), 1).specs["sal"]


def first_batches(spec, count):
    return [batch for _, batch in itertools.islice(iterate_stream(spec, 0), count)]


def as_pairs(batch):
    """Write the same pairs one by one, each with both of its sequences."""
    texts = decode(batch.input_ids, batch.lengths)
    pairs = []
    for (a, b), reference in zip(batch.rows.tolist(), batch.reference, strict=True):
        partners = reference[: len(texts[a])]
        pairs.append(AlignedPair(*gapped_strings(texts[a], texts[b], partners), "F"))
    return pairs


@pytest.mark.parametrize("options", [{}, {"sal_temperature": 0.2}, {"sal_length_power": 1.0}])
def test_a_group_is_learnt_as_its_pairs_are(corpus, options):
    """Loss and gradients are those of the pairs, written out one by one."""
    config = make(curriculum=[Phase(objectives="sal")], **options)
    batches = first_batches(prepare_data(corpus, config, 1).specs["sal"], 2)
    plain = [pair_batch(as_pairs(batch), config.model) for batch in batches]
    assert [len(b.input_ids) for b in plain] == [2 * len(b.reference) for b in batches]
    assert all(len(b.input_ids) < len(p.input_ids) for b, p in zip(batches, plain, strict=True))
    losses, gradients = [], []
    for found in (batches, plain):
        trainer = Trainer(config, CPU)
        losses.append(trainer.step([], found, learning_rate=0.0))
        gradients.append([p.grad for p in trainer.parameters])
    assert losses[0].pairs == losses[1].pairs
    # Sums in another order, in float32.
    assert losses[0].sal_loss == pytest.approx(losses[1].sal_loss, rel=1e-4)
    assert losses[0].gradient_norm == pytest.approx(losses[1].gradient_norm, rel=1e-3)
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_loss_by_length(corpus):
    config = make(curriculum=[Phase(objectives="sal")], sal_length_power=0.5)
    (batch,) = first_batches(prepare_data(corpus, config, 1).specs["sal"], 1)
    trainer = Trainer(config, CPU)
    pending = trainer.launch(batch)
    special = int(config.model.add_bos) + int(config.model.add_eos)
    longest = (batch.lengths - special)[batch.rows].max(1)
    wanted = trainer.finish(pending).double().detach().numpy() * (100 / longest) ** 0.5
    metrics = Trainer(config, CPU).step([], [batch], learning_rate=0.0)
    assert metrics.sal_loss == pytest.approx(wanted.mean(), rel=1e-5)


def test_families_are_told_apart_sequence_by_sequence(corpus):
    """The family contrast sees every sequence of a group once."""
    config = make(curriculum=[Phase(objectives="sal+sfp")], pair_tokens_per_batch=4096)
    batches = first_batches(prepare_data(corpus, config, 1).specs["sal"], 12)
    mixed = next(b for b in batches if len(set(b.families.tolist())) > 1)
    for row, family in enumerate(mixed.sequence_families.tolist()):
        of_pairs = {
            f for f, r in zip(mixed.families.tolist(), mixed.rows.tolist(), strict=True) if row in r
        }
        assert of_pairs == {family}
    counts = count_targets([], [mixed], [], config.objectives)
    assert counts.sfp == len(mixed.input_ids)
    assert counts.sal == len(mixed.reference)
    pending = Trainer(config, CPU).launch(mixed)
    assert pending.pooled().shape == (len(mixed.input_ids), config.model.hidden_size)


def test_shares_of_families(corpus):
    """Families in focus have their share, others theirs by temperature; held-out ones none."""
    options = {"focus_families": ["RF00005"], "focus_share": 0.7, "family_temperature": np.inf}
    spec = spec_of(corpus, **options)
    counts = Counter()
    for batch in first_batches(spec, 300):
        groups = batch.sequence_families[:: spec.groups.size]
        counts.update(groups.tolist())
    total = sum(counts.values())
    assert counts[hash64("RF00005")] / total == pytest.approx(0.7, abs=0.06)
    names = set(pq.read_table(next(corpus.glob("pairs-*.parquet")))["family"].to_pylist())
    assert set(counts) == {hash64(name) for name in names - set(FAMILIES)}
    others = [n / total for name, n in counts.items() if name != hash64("RF00005")]
    assert others == pytest.approx([0.3 / len(others)] * len(others), abs=0.05)


@pytest.mark.parametrize("size", [0, 4])
def test_phases_have_their_own_focus(corpus, size):
    """What comes next is of the phase that is entered, and the cursors go on."""
    names = ("RF00005", "RF00004")
    of_trna, of_u2 = ({"focus_families": [name], "focus_share": 1.0} for name in names)
    curriculum = [Phase(steps=5), Phase(steps=5, **of_trna), Phase(**of_u2)]
    config = make(group_size=size, curriculum=curriculum)
    spec = prepare_data(corpus, config, 1).specs["sal"]
    feed = Feed(spec, Trainer(config, CPU), iterate_stream, None)

    def take():
        (batch,) = feed.peek()
        feed.advance()
        return set(batch.families.tolist())

    assert len(set().union(*(take() for _ in range(20)))) > 3
    cursors = feed.all_cursors(feed_trainer := Trainer(config, CPU))
    feed.enter(0)
    assert feed.all_cursors(feed_trainer) == cursors
    for phase, name in ((1, "RF00005"), (2, "RF00004"), (3, "RF00004")):  # 3: all are over
        feed.enter(phase)
        assert [take() for _ in range(5)] == [{hash64(name)}] * 5
    resumed = Feed(spec, feed_trainer, iterate_stream, cursors, phase=1)
    assert {f for batch in resumed.peek() for f in batch.families.tolist()} == {hash64("RF00005")}
    with pytest.raises(ConfigError, match="focus_share must be in"):
        Phase(focus_share=2.0)


def test_phases_alike_share_what_they_hold(corpus):
    curriculum = [Phase(objectives="mlm", steps=5), Phase()]
    assert spec_of(corpus, curriculum=curriculum).phases == ()


def test_no_sequence_of_a_held_out_family_counts(corpus):
    table = ds.dataset(sorted(corpus.glob("members-*.parquet"))).to_table()
    row = table.slice(0, 1).to_pylist()[0]
    files = tuple(map(str, sorted(corpus.glob("members-*.parquet"))))
    everything = load_profiles(files, (row["family"],), (), 440)[row["family"]]
    without = load_profiles(files, (row["family"],), (row["sha256_64"],), 440)[row["family"]]
    assert len(without.rows) == len(everything.rows) - 1


def test_a_stream_goes_on_from_any_cursor(corpus):
    spec = spec_of(corpus)
    found = list(itertools.islice(iterate_stream(spec, 0), 40))
    assert found[-1][0].visit > found[0][0].visit
    for number in (0, 5, 25):
        again = list(itertools.islice(iterate_stream(spec, 0, found[number][0]), 5))
        wanted = found[number + 1 : number + 6]
        assert [cursor for cursor, _ in again] == [cursor for cursor, _ in wanted]
        assert checksum(b for _, b in again) == checksum(b for _, b in wanted)
        assert all((x.rows == y.rows).all() for (_, x), (_, y) in zip(again, wanted, strict=True))


def test_budgets_and_references(corpus):
    spec = spec_of(corpus, group_size=6, pair_tokens_per_batch=6 * 440)
    for batch in first_batches(spec, 50):
        assert batch.input_ids.size <= 6 * 440
        a, b = batch.lengths[batch.rows].T
        assert batch.rows.max() < len(batch.lengths)
        for size_a, size_b, reference in zip(a, b, batch.reference, strict=True):
            partners = reference[reference >= 0]
            assert (np.diff(partners) > 0).all()
            assert (reference[size_a:] == -1).all()
            assert not len(partners) or partners[-1] < size_b


def test_masked_groups(corpus):
    plain, masked = spec_of(corpus), spec_of(corpus, mask_pairs=True)
    one, other = (first_batches(spec, 3) for spec in (plain, masked))
    for a, b in zip(one, other, strict=True):
        assert a.input_ids.shape == b.input_ids.shape
        assert 0.05 < (a.input_ids != b.input_ids).sum() / a.lengths.sum() < 0.25
        np.testing.assert_array_equal(a.reference, b.reference)


def test_long_members_give_fewer_pairs(corpus):
    spec = spec_of(corpus, group_size=8, pair_tokens_per_batch=4096)
    seen = {}
    for batch in first_batches(spec, 60):
        for family, count in Counter(batch.families.tolist()).items():
            rows = int((batch.sequence_families == family).sum())
            length = batch.lengths[batch.sequence_families == family].max()
            seen.setdefault(count / (rows / 8), []).append(length)
    assert max(seen) == 28
    assert all(np.mean(seen[28]) < np.mean(v) for k, v in seen.items() if k < 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size must be 0 or at least 2"),
        ({"group_size": 8, "pair_tokens_per_batch": 1024}, "cannot hold a group of 8"),
        ({"crop_pairs": 0.5}, "crop_pairs is for the corpus's pairs"),
        ({"identity_power": 1.0}, "identity_power is for the corpus's pairs"),
        ({"resample": 1.5}, r"resample must be in \[0, 1\]"),
        ({"focus_share": -0.1}, r"focus_share must be in \[0, 1\]"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


@pytest.mark.parametrize("family", ["RF99999", FAMILIES[0]])
def test_a_focus_that_is_not_there(corpus, family):
    with pytest.raises(ConfigError, match=f"focus families without a pair to train on: {family}"):
        spec_of(corpus, focus_families=[family])


def test_a_corpus_from_before(corpus, tmp_path):
    for path in corpus.iterdir():
        if path.name.startswith("members"):
            pq.write_table(pq.read_table(path).drop_columns("aligned"), tmp_path / path.name)
        elif path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CorpusError, match="without rows of an alignment; ingest it anew"):
        first_batches(spec_of(tmp_path), 1)


def test_group_batch_by_hand():
    config = make()
    one = Group(
        ["ACGU", "AGU"], np.array([[0, 1]], np.int32), [np.array([0, -1, 1, 2], np.int32)], 7
    )
    two = Group(["GG", "GGG"], np.array([[1, 0]], np.int32), [np.array([0, 1, -1], np.int32)], 9)
    batch = group_batch([one, two], config.model)
    assert batch.rows.tolist() == [[0, 1], [3, 2]]
    assert batch.reference.tolist() == [[0, -1, 1, 2], [0, 1, -1, -1]]
    assert batch.families.tolist() == [7, 9]
    assert batch.sequence_families.tolist() == [7, 7, 9, 9]
