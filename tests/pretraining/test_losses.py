"""Both losses against slow literal versions, in float64 where gradients are compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, Margins, align_batch
from riboray.model import RnaBertConfig, RnaBertForPreTraining
from riboray.pretraining.losses import base_similarity, mlm_loss, sal_loss
from riboray.pretraining.masking import IGNORE
from tests.alignment import reference as ref


def literal_sal_loss(match, n, m, reference, margins):
    """max over all alignments (score + margin) - score(reference), by enumeration."""
    own = ref.score(match, reference[:n], m)
    return (
        max(
            ref.score(match, p, m) + ref.margin(p, reference[:n], margins.false, margins.missed)
            for p in ref.all_alignments(n, m)
        )
        - own
    )


def random_case(seed, count=3, largest=4):
    rng = np.random.default_rng(seed)
    lengths_a, lengths_b = (rng.integers(1, largest + 1, count) for _ in range(2))
    match = rng.uniform(-1, 1, (count, lengths_a.max(), lengths_b.max()))
    reference = np.full((count, lengths_a.max()), -1, dtype=np.int32)
    for k in range(count):
        candidates = list(ref.all_alignments(lengths_a[k], lengths_b[k]))
        reference[k, : lengths_a[k]] = candidates[rng.integers(len(candidates))]
    return match, lengths_a, lengths_b, reference


@given(st.integers(0, 100_000), st.sampled_from([Margins(), Margins(0.3, 0.2), Margins(0, 0)]))
@settings(deadline=None, max_examples=60)
def test_equals_the_literal_maximum(seed, margins):
    match, lengths_a, lengths_b, reference = random_case(seed)
    losses = sal_loss(torch.tensor(match), lengths_a, lengths_b, reference, margins=margins)
    for k in range(len(match)):
        n, m = int(lengths_a[k]), int(lengths_b[k])
        wanted = literal_sal_loss(match[k], n, m, reference[k], margins)
        # The alignment is found in float32; where two tie within its rounding, the loss of
        # either is the maximum up to that rounding.
        assert float(losses[k]) == pytest.approx(wanted, abs=1e-5)


@given(st.integers(0, 100_000))
@settings(deadline=None, max_examples=40)
def test_never_negative(seed):
    match, lengths_a, lengths_b, reference = random_case(seed, count=6)
    losses = sal_loss(torch.tensor(match, dtype=torch.float32), lengths_a, lengths_b, reference)
    assert (losses >= 0).all()


def test_zero_exactly_when_the_reference_wins_by_its_margin():
    """One base against one base: the only rival of the match is two gaps, worth -2.2."""
    reference = np.array([[0]])
    for cell, wanted in ((-2.0, 0.0), (-2.14, 0.0), (-2.16, 0.01), (-2.3, 0.15)):
        loss = sal_loss(torch.tensor([[[cell]]]), [1], [1], reference)
        assert float(loss) == pytest.approx(wanted, abs=1e-6)
    # The reference leaves both unaligned; aligning them must win by more than 0.1 to cost.
    reference = np.array([[-1]])
    for cell, wanted in ((-2.4, 0.0), (-2.31, 0.0), (-2.2, 0.1), (-2.0, 0.3)):
        loss = sal_loss(torch.tensor([[[cell]]]), [1], [1], reference)
        assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_zero_for_a_perfect_model():
    match = torch.full((1, 30, 30), -1.0)
    match[0].fill_diagonal_(1.0)
    loss = sal_loss(match, [30], [30], np.arange(30)[None])
    assert float(loss) == 0.0


@given(st.integers(0, 100_000))
@settings(deadline=None, max_examples=25)
def test_gradient_against_finite_differences(seed):
    match, lengths_a, lengths_b, reference = random_case(seed)
    similarity = torch.tensor(match, dtype=torch.float64, requires_grad=True)
    sal_loss(similarity, lengths_a, lengths_b, reference).sum().backward()
    step = 1e-4

    def total(values):
        return float(sal_loss(torch.tensor(values), lengths_a, lengths_b, reference).sum())

    for index in np.ndindex(match.shape):
        up, down = match.copy(), match.copy()
        up[index] += step
        down[index] -= step
        numeric = (total(up) - total(down)) / (2 * step)
        analytic = float(similarity.grad[index])
        # At a kink (two alignments tie within a step) the one-sided slopes differ: then the
        # analytic subgradient must lie between them.
        forward = (total(up) - total(match)) / step
        backward = (total(match) - total(down)) / step
        low, high = sorted((forward, backward))
        assert low - 1e-3 <= analytic <= high + 1e-3, (index, analytic, numeric)


def test_gradient_flows_to_the_embeddings(rng):
    a = torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
    reference = np.tile(np.arange(6), (2, 1))
    lengths = (np.array([6, 6]), np.array([7, 7]))

    def loss(x, y):
        return sal_loss(base_similarity(x, y), *lengths, reference).sum()

    assert torch.autograd.gradcheck(loss, (a, b), eps=1e-6, atol=1e-4)


def test_similarity_is_the_cosine(rng):
    a, b = rng.normal(size=(1, 3, 5)), rng.normal(size=(1, 4, 5))
    found = base_similarity(torch.tensor(a), torch.tensor(b))[0].numpy()
    wanted = [[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in b[0]] for x in a[0]]
    assert found == pytest.approx(np.array(wanted))


def test_learning_lowers_the_loss_to_zero():
    """Gradient descent on free embeddings makes any reference win by its margin."""
    torch.manual_seed(0)
    a = torch.randn(1, 12, 8, requires_grad=True)
    b = torch.randn(1, 14, 8, requires_grad=True)
    reference = np.array([[0, 1, 2, -1, 3, 4, 5, 8, 9, 10, 12, 13]])
    optimizer = torch.optim.Adam([a, b], lr=0.05)
    for _ in range(400):
        loss = sal_loss(base_similarity(a, b), [12], [14], reference).sum()
        if loss.item() == 0:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == 0
    best = align_batch(base_similarity(a, b).detach().numpy(), [12], [14]).partners
    assert best.tolist() == reference.tolist()


def test_mlm_loss_against_plain_cross_entropy(tiny_model):
    torch.manual_seed(2)
    model = RnaBertForPreTraining(tiny_model)
    hidden = torch.randn(2, 5, 24)
    labels = torch.full((2, 5), IGNORE, dtype=torch.uint8)
    labels[0, 1], labels[1, 4], labels[1, 0] = 6, 9, 7
    found = mlm_loss(hidden, labels, model.lm_head)
    total, correct = 0.0, 0
    for i, j in ((0, 1), (1, 0), (1, 4)):
        logits = model.lm_head(hidden[i, j]).detach().double().numpy()
        wanted = int(labels[i, j])
        total += np.log(np.exp(logits).sum()) - logits[wanted]
        correct += int(logits.argmax() == wanted)
    assert float(found.total) == pytest.approx(total, rel=1e-5)
    assert (int(found.correct), found.targets) == (correct, 3)


def test_mlm_loss_without_targets(tiny_model):
    model = RnaBertForPreTraining(tiny_model)
    found = mlm_loss(
        torch.randn(1, 3, 24), torch.full((1, 3), IGNORE, dtype=torch.uint8), model.lm_head
    )
    assert (float(found.total), found.targets) == (0.0, 0)


def test_untrained_model_guesses_uniformly():
    torch.manual_seed(0)
    model = RnaBertForPreTraining(RnaBertConfig())
    labels = torch.full((1, 50), 6, dtype=torch.uint8)
    hidden = model(torch.randint(6, 10, (1, 50)))
    assert float(mlm_loss(hidden, labels, model.lm_head).total) / 50 == pytest.approx(
        np.log(28), abs=0.3
    )


def test_gap_penalties_are_used():
    match = torch.full((1, 1, 2), 0.5)
    cheap = sal_loss(match, [1], [2], np.array([[0]]), GapPenalties(0, 0))
    assert float(cheap) == pytest.approx(0.15, abs=1e-6)
