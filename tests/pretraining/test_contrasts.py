"""The family contrast against double loops in numpy.

Tolerance: in float64 only the order of sums differs, and an exponential of at most 1/temperature
= 100 is off by a hundred roundings: 1e-10.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import aligned_columns
from riboray.alphabet import decode
from riboray.corpus.records import hash64
from riboray.errors import ConfigError
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.contrasts import contrast_loss, pooled_means
from riboray.pretraining.curriculum import Phase
from riboray.pretraining.data import prepare_data
from riboray.pretraining.pairs import AlignedPair, crop
from riboray.pretraining.streams import iterate_stream, pair_batch, read_visit
from riboray.pretraining.targets import Counts, count_anchors, count_targets
from riboray.pretraining.trainer import Trainer
from tests.pretraining.test_loop import CPU, make, train, weights


@pytest.fixture(scope="module")
def corpus(sample_corpus):
    return sample_corpus


def learning(objectives="sfp", **options):
    """Return a configuration whose batches hold several families."""
    many = {"pair_tokens_per_batch": 4096, "pair_jitter": 1000.0}
    return make(**{"curriculum": [Phase(objectives=objectives)], **many, **options})


def looped(pooled, families, temperature):
    """The sum of the losses, the anchors that are right, and the anchors, written out."""
    unit = [row / np.linalg.norm(row) for row in pooled]
    total, correct, anchors = 0.0, 0, 0
    for i, anchor in enumerate(unit):
        scores = [float(anchor @ other) / temperature for other in unit]
        relatives = [j for j in range(len(unit)) if j != i and families[j] == families[i]]
        strangers = [j for j in range(len(unit)) if families[j] != families[i]]
        if not relatives or not strangers:
            continue
        against = sum(math.exp(scores[j]) for j in strangers)
        losses = [
            -math.log(math.exp(scores[j]) / (math.exp(scores[j]) + against)) for j in relatives
        ]
        nearest = max((j for j in range(len(unit)) if j != i), key=lambda j: scores[j])
        total += sum(losses) / len(losses)
        correct += families[nearest] == families[i]
        anchors += 1
    return total, correct, anchors


@settings(deadline=None, max_examples=60)
@given(
    families=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    temperature=st.sampled_from([0.01, 0.07, 0.5, 2.0]),
    seed=st.integers(0, 1000),
)
def test_the_contrast_is_that_of_double_loops(families, temperature, seed):
    pooled = np.random.default_rng(seed).normal(size=(len(families), 5))
    rows = torch.tensor(pooled, requires_grad=True)
    found = contrast_loss(rows, np.array(families), temperature)
    total, correct, anchors = looped(pooled, families, temperature)
    assert found.anchors == anchors
    assert found.correct == correct
    assert found.total.item() == pytest.approx(total, rel=1e-10, abs=1e-10)
    found.total.backward()
    assert torch.isfinite(rows.grad).all()


def test_its_gradient_is_right():
    pooled = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    families = np.array([0, 1, 0, 1, 2, 0, 3])
    assert torch.autograd.gradcheck(lambda x: contrast_loss(x, families, 0.3).total, pooled)


@pytest.mark.parametrize("families", [[0, 0, 0, 0], [0, 0], [0, 1, 2], [0]])
def test_without_a_relative_or_a_stranger_there_is_nothing_to_learn(families):
    pooled = torch.randn(len(families), 4, requires_grad=True)
    found = contrast_loss(pooled, np.array(families), 0.07)
    assert (found.total.item(), found.correct.item(), found.anchors) == (0, 0, 0)
    found.total.backward()
    assert (pooled.grad == 0).all()


def test_it_does_not_depend_on_order_or_on_the_length_of_embeddings():
    rng = np.random.default_rng(0)
    pooled, families = torch.randn(9, 6, dtype=torch.float64), rng.integers(0, 3, 9)
    order = rng.permutation(9)
    one = contrast_loss(pooled, families, 0.1)
    scaled = pooled[order] * torch.linspace(0.1, 9, 9, dtype=torch.float64)[:, None]
    other = contrast_loss(scaled, families[order], 0.1)
    assert one.total.item() == pytest.approx(other.total.item(), rel=1e-10)
    assert one.correct == other.correct


def test_padding_is_not_pooled():
    hidden = torch.randn(3, 5, 4)
    hidden[1, 2:] = 1e6
    found = pooled_means(hidden, np.array([5, 2, 1]))
    wanted = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0), hidden[2, 0]])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("families", "count"), [([1, 1, 1], 0), ([5], 0), ([1, 2], 4)])
def test_anchors_are_counted_before_anything_is_computed(families, count):
    found = contrast_loss(torch.randn(2 * len(families), 3), np.tile(families, 2), 0.1)
    assert count_anchors(np.tile(families, 2)) == found.anchors == count


def test_batches_know_the_families_of_their_pairs(corpus):
    spec = prepare_data(corpus, make(family_temperature=5.0), 1).specs["sal"]
    table = ds.dataset(sorted(corpus.glob("pairs-*.parquet"))).to_table().to_pylist()
    family = {(r["aligned_a"].replace("-", ""), r["aligned_b"].replace("-", "")): r for r in table}
    for batch in read_visit(spec, 0):
        sequences = decode(batch.input_ids, batch.lengths)
        pairs = zip(sequences[: len(sequences) // 2], sequences[len(sequences) // 2 :], strict=True)
        assert batch.families.tolist() == [hash64(family[pair]["family"]) for pair in pairs]


def batches_of(corpus, config, streams):
    specs = prepare_data(corpus, config, streams).specs
    return [next(iterate_stream(specs["sal"], k))[1] for k in range(streams)]


def test_a_step_is_the_mean_over_the_anchors_of_all_its_batches(corpus):
    config = learning("sal+sfp", sfp_weight=0.3)
    pairs = batches_of(corpus, config, 3)
    alone = pair_batch([AlignedPair("ACGUACGU", "ACG-ACGU", "F")], config.model)
    pairs.append(alone)
    trainer, other = Trainer(config, CPU), Trainer(config, CPU)
    metrics = trainer.step([], pairs, learning_rate=0.0)
    counts = count_targets([], pairs, [], config.objectives)
    mixed = [b for b in pairs if len(set(b.families.tolist())) > 1]
    assert 0 < counts.sfp == 2 * sum(len(b.reference) for b in mixed)
    assert counts.sal == sum(len(b.reference) for b in pairs)
    assert metrics.pairs == counts.sal
    total = torch.zeros(())
    contrast = 0.0
    for batch in pairs:
        pending = other.launch(batch)
        loss = contrast_loss(pending.pooled(), np.tile(batch.families, 2), config.sfp_temperature)
        total = total + other.finish(pending).sum() * (config.sal_weight / counts.sal)
        total = total + loss.total * (0.3 / counts.sfp)
        contrast += loss.total.item() / counts.sfp
    total.backward()
    wanted = [p.grad for p in other.parameters]
    norm = math.sqrt(sum(float(g.square().sum()) for g in wanted if g is not None))
    assert metrics.sfp_loss == pytest.approx(contrast, rel=1e-5)
    assert metrics.gradient_norm == pytest.approx(norm, rel=1e-4)
    for parameter, gradient in zip(trainer.parameters, wanted, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            assert torch.allclose(parameter.grad, gradient * min(1.0, 1 / norm), atol=1e-6)


def test_a_worker_without_anchors_still_has_gradients(corpus):
    """So that it takes the step that others' gradients make."""
    config = learning("sfp")
    trainer = Trainer(config, CPU)
    alone = pair_batch([AlignedPair("ACGUACGU", "ACG-ACGU", "F")], config.model)
    trainer.step([], [alone], learning_rate=1e-3, counts=Counts(0, 0, 0, 8))
    gradient = trainer.model.model.embeddings.word_embeddings.weight.grad
    assert gradient is not None
    assert (gradient == 0).all()


def test_alone_it_aligns_nothing_and_teaches_to_tell_families_apart(corpus, monkeypatch):
    monkeypatch.setattr(Trainer, "align_aside", None)  # measuring aligns; steps would fail
    config = learning("sfp", max_steps=150, learning_rate=3e-3, validation_pairs=60)
    _, session, last = train(corpus, config)
    before = next(r for r in session.records if r["kind"] == "validation")
    training = [r for r in session.records if r["kind"] == "train"]
    assert "sal_loss" not in training[-1]
    assert training[-1]["objectives"] == "sfp"
    assert training[-1]["pairs_per_s"] > 0
    assert last["sfp_loss"] < before["sfp_loss"] - 0.1
    assert last["sfp_accuracy"] >= before["sfp_accuracy"]


def test_a_run_without_it_says_nothing_of_it(corpus):
    _, session, _ = train(corpus, make(max_steps=4))
    assert not any(name.startswith("sfp") for record in session.records for name in record)


def test_phases_with_and_without_it_follow_each_other(corpus):
    phases = [
        Phase(objectives="mlm", steps=2),
        Phase(objectives="sal+sfp", steps=2),
        Phase(objectives="mlm+sfp", steps=2),
        Phase(objectives="sal", steps=2),
    ]
    options = {"max_steps": None, "record_seconds": 0, "ema_decay": 0.9}
    _, session, last = train(corpus, learning(curriculum=phases, **options))
    records = [r for r in session.records if r["kind"] == "train"]
    learnt = [tuple(n for n in ("mlm", "sal", "sfp") if f"{n}_loss" in r) for r in records]
    assert learnt[::2] == learnt[1::2] == [("mlm",), ("sal", "sfp"), ("mlm", "sfp"), ("sal",)]
    assert [r["objectives"] for r in records[::2]] == ["mlm", "sal+sfp", "mlm+sfp", "sal"]
    assert last["finished"]
    assert 0 <= last["sfp_accuracy"] <= 1


def test_a_run_that_stopped_goes_on_bit_for_bit(corpus, tmp_path):
    config = learning("mlm+sal+sfp", max_steps=6, crop_pairs=0.5, ema_decay=0.9)
    through, session, _ = train(corpus, config, CheckpointStore(tmp_path / "a", 9))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "step-000000003").rename(tmp_path / "b" / "step-000000003")
    resumed, again, _ = train(corpus, config, CheckpointStore(tmp_path / "b"))
    for name, tensor in weights(through).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    ends = [{**s.records[-1], "elapsed_s": 0} for s in (session, again)]
    assert ends[0] == ends[1]
    assert "sfp_loss" in ends[0]


def test_other_objectives_compute_the_same_beside_it(corpus):
    """With weight next to nothing the weights go the same way; the batches are the same."""
    options = {"sfp_weight": 1e-12, "max_steps": 4, "record_seconds": 0}
    plain, session, _ = train(corpus, learning("mlm+sal", **options))
    beside, other, _ = train(corpus, learning("mlm+sal+sfp", **options))
    crc = [
        [r["batches_crc32"] for r in s.records if r["kind"] == "train"] for s in (session, other)
    ]
    assert crc[0] == crc[1]
    for name, tensor in weights(plain).items():
        assert torch.allclose(tensor, weights(beside)[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sfp_temperature": 0.0}, "sfp_temperature must be positive"),
        ({"sfp_weight": -1.0}, "sfp_weight must not be negative"),
        ({"curriculum": [Phase(objectives="sfp")], "sfp_weight": 0.0}, "sfp weigh 0"),
        ({"crop_pairs": 1.5}, r"crop_pairs must be in \[0, 1\]"),
        ({"pair_jitter": -1.0}, "pair_jitter must not be negative"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_it_chooses_the_measure_of_the_best():
    config = learning("sfp")
    assert config.metric_of(config.curriculum[0]) == "sfp_loss"
    assert (
        replace(config, best_metric="sfp_accuracy").metric_of(config.curriculum[0])
        == "sfp_accuracy"
    )


PAIR = AlignedPair("AC-GUUG-CAU", "-CAGU-GGCA-", "F")


@pytest.mark.parametrize("seed", range(30))
def test_a_fragment_is_a_stretch_of_one_sequence_aligned_as_before(seed):
    whole = aligned_columns(PAIR.a, PAIR.b)
    cropped = crop(PAIR, np.random.default_rng(seed))
    part = aligned_columns(cropped.a, cropped.b)
    assert part.sequence_a in whole.sequence_a
    assert part.sequence_b in whole.sequence_b
    kept = [len(part.sequence_a) / 9, len(part.sequence_b) / 8]
    assert max(kept) == 1
    assert min(kept) >= 0.44
    assert cropped.length == max(len(part.sequence_a), len(part.sequence_b))
    assert not any(pair == ("-", "-") for pair in zip(cropped.a, cropped.b, strict=True))
    starts = whole.sequence_a.index(part.sequence_a), whole.sequence_b.index(part.sequence_b)
    for i, partner in enumerate(part.partners):
        before = whole.partners[i + starts[0]]
        if partner >= 0:
            assert partner + starts[1] == before


def test_fragments_and_mixed_lengths_are_what_is_asked_for(corpus):
    def read(**options):
        spec = prepare_data(corpus, make(**options), 1).specs["sal"]
        return [b for visit in range(4) for b in read_visit(spec, visit)]

    def padding(batches):
        return 1 - sum(b.lengths.sum() for b in batches) / sum(b.input_ids.size for b in batches)

    plain, cropped, mixed = read(), read(crop_pairs=1.0), read(pair_jitter=1000.0)
    assert padding(mixed) > padding(plain) + 0.03
    count = sum(len(b.families) for b in plain)
    assert count == sum(len(b.families) for b in cropped) == sum(len(b.families) for b in mixed)
    total = [sum(int(b.lengths.sum()) for b in batches) for batches in (plain, mixed, cropped)]
    assert total[0] == total[1]
    assert total[2] / total[0] == pytest.approx(0.875, abs=0.02)
