"""Aligning on the device: Triton's kernel, run by its interpreter where there is no GPU."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, Margins, align_batch, gap_costs
from riboray.model.config import RnaBertConfig
from riboray.pretraining import device_alignment
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.device_alignment import (
    aligned_loss,
    best_partners,
    can_align,
    gap_costs_of,
)
from riboray.pretraining.groups import Group
from riboray.pretraining.losses import sal_loss
from riboray.pretraining.streams import group_batch
from riboray.pretraining.trainer import Trainer

pytest.importorskip("triton", reason="GPU kernels are tested where Triton is installed")
SMALL = RnaBertConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    """Have kernels interpreted, if there is nothing to compile them for.

    Triton asks when a kernel is defined; nothing else in this process is to be interpreted.
    """
    before = os.environ.get("TRITON_INTERPRET")
    if DEVICE.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    import riboray.pretraining.device_kernels  # noqa: F401

    yield
    if before is None:
        os.environ.pop("TRITON_INTERPRET", None)
    else:
        os.environ["TRITON_INTERPRET"] = before


def random_pairs(rng, count, longest):
    """Lengths, references and base embeddings of some pairs; one has all the width there is."""
    lengths = [rng.integers(1, longest + 1, count).astype(np.int32) for _ in "ab"]
    width_a, width_b = (int(side.max()) for side in lengths)
    reference = np.full((count, width_a), -1, np.int32)
    for row, n, m in zip(reference, *lengths, strict=True):
        size = int(rng.integers(0, min(n, m) + 1))
        row[np.sort(rng.choice(n, size, replace=False))] = np.sort(
            rng.choice(m, size, replace=False)
        )
    hidden = [
        torch.tensor(rng.normal(size=(count, w, 4)), dtype=torch.float32, device=DEVICE)
        for w in (width_a, width_b)
    ]
    return lengths, reference, hidden


def on_device(*arrays):
    return [torch.from_numpy(array).to(DEVICE) for array in arrays]


def score_of(match, partners, lengths, reference, gaps, margins):
    """Score an alignment with margins, cell by cell."""
    total = 0.0
    for i in range(lengths[0]):
        j = partners[i]
        if j >= 0:
            assert j < lengths[1]
            total += match[i, j] + (-margins.missed if reference[i] == j else margins.false)
    sizes = [np.array([size]) for size in lengths]
    return total - float(gap_costs(partners[None], *sizes, gaps)[0])


rules = st.builds(
    lambda o, e, f, m: (GapPenalties(o, e), Margins(f, m)),
    *(st.sampled_from(values) for values in ((0.0, 0.3, 1.0), (0.0, 0.1, 0.4))),
    *(st.sampled_from(values) for values in ((0.0, 0.1, 0.5), (0.0, 0.05))),
)


@given(st.integers(0, 10**6), rules)
@settings(max_examples=40, deadline=None)
def test_alignments_are_as_good_as_the_cpus(seed, rule):
    """Of several best alignments another may be found, but none that is better or worse.

    Both sum float32 numbers, of at most 24 pairs and 48 gaps: each sum is off by less than 1e-5.
    """
    rng = np.random.default_rng(seed)
    lengths, reference, hidden = random_pairs(rng, int(rng.integers(1, 4)), 24)
    match = hidden[0] @ hidden[1].mT / 4
    places = on_device(*lengths, reference)
    found = best_partners(match, *places, *rule).cpu().numpy()
    scores = match.cpu().numpy()
    wanted = align_batch(scores, *lengths, rule[0], reference=reference, margins=rule[1])
    for k in range(len(scores)):
        sizes = lengths[0][k], lengths[1][k]
        assert (found[k, sizes[0] :] == -1).all()
        paired = found[k][found[k] >= 0]
        assert (np.diff(paired) > 0).all()
        own = (sizes, reference[k], *rule)
        best = score_of(scores[k], wanted.partners[k], *own)
        assert score_of(scores[k], found[k], *own) == pytest.approx(best, abs=2e-5)


@given(st.integers(0, 10**6), rules)
@settings(max_examples=25, deadline=None)
def test_loss_and_gradients_are_the_cpus(seed, rule):
    """Random embeddings: no two alignments are equally good. Tolerance: float32 sums of 50."""
    rng = np.random.default_rng(seed)
    lengths, reference, hidden = random_pairs(rng, 3, 20)
    results = []
    for loss, device in ((aligned_loss, DEVICE), (sal_loss, torch.device("cpu"))):
        sides = [side.detach().to(device).requires_grad_() for side in hidden]
        losses = loss(*sides, *lengths, reference, *rule)
        (losses * torch.arange(1.0, 4.0, device=device)).sum().backward()
        results.append([losses.detach().cpu(), *(side.grad.cpu() for side in sides)])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=2e-5)


@given(st.integers(0, 10**6), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_gap_costs_are_those_of_the_other_function(seed, longest):
    rng = np.random.default_rng(seed)
    lengths, reference, _ = random_pairs(rng, 5, longest)
    gaps = GapPenalties(1.3, 0.2)
    found = gap_costs_of(*on_device(reference, *lengths), gaps).cpu().numpy()
    assert found == pytest.approx(gap_costs(reference, *lengths, gaps), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (40, 1), (17, 16), (16, 17), (33, 32)])
def test_lengths_at_the_edges_of_a_block(sizes):
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(1, *sizes)).astype(np.float32)
    lengths = [np.array([size], np.int32) for size in sizes]
    reference = np.full((1, sizes[0]), -1, np.int32)
    rule = GapPenalties(), Margins()
    found = best_partners(*on_device(scores, *lengths, reference), *rule).cpu().numpy()
    best = align_batch(scores, *lengths, rule[0], reference=reference, margins=rule[1])
    assert (found == best.partners).all()


def test_what_lies_beyond_the_lengths_does_not_matter():
    rng = np.random.default_rng(6)
    lengths = [np.array([5, 9], np.int32), np.array([8, 4], np.int32)]
    scores = rng.normal(size=(2, 9, 8)).astype(np.float32)
    reference = np.full((2, 9), -1, np.int32)
    rule = GapPenalties(), Margins()
    found = []
    for filling in (0.0, np.nan, np.inf):
        padded = scores.copy()
        padded[0, 5:], padded[1, :, 4:] = filling, filling
        places = on_device(padded, *lengths, reference)
        found.append(best_partners(*places, *rule).cpu().numpy())
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


def test_a_step_is_the_same_wherever_its_pairs_are_aligned():
    """Weights after three steps; the two ways add the same numbers up in another order."""
    rng = np.random.default_rng(7)
    letters = np.array(list("ACGU"))
    texts = ["".join(rng.choice(letters, size)) for size in (30, 24, 27, 33)]
    group = Group(
        sequences=texts,
        pairs=np.array([[0, 1], [1, 2], [3, 0]], np.int32),
        partners=[np.minimum(np.arange(len(texts[a])), 20) for a in (0, 1, 3)],
        family=1,
    )
    for row in group.partners:
        row[21:] = -1
    config = PretrainConfig(
        corpus=["x"], model=SMALL, sal_length_power=1, num_workers=1, precision="float32"
    )
    results = []
    for itself in (False, True):
        trainer = Trainer(config, DEVICE)
        trainer.aligns_itself = itself
        if itself:
            trainer.launch = None  # what would send match scores to the CPU
        for _ in range(3):
            metrics = trainer.step([], [group_batch([group], SMALL)], learning_rate=1e-3)
        assert metrics.pairs == 3
        results.append((metrics.sal_loss, [p.detach().cpu() for p in trainer.parameters]))
    assert results[0][0] > 0.1
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-4)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_who_can_align():
    assert not can_align(torch.device("cpu"))
    assert can_align(torch.device("cuda")) == torch.cuda.is_available()


def test_a_gpu_that_cannot_compile_says_so(monkeypatch):
    """As where there is no C compiler: CPU threads align, and a warning tells why."""

    def fails(*arguments):
        raise RuntimeError("no C compiler\nmore")

    monkeypatch.setattr(device_alignment, "best_partners", fails)
    monkeypatch.setattr(device_alignment.torch, "ones", lambda *a, **k: np.ones((1, 1)))
    with pytest.warns(UserWarning, match=r"the GPU cannot align, CPU threads do \(no C compiler\)"):
        assert not can_align.__wrapped__(torch.device("cuda"))
