"""The losses against dense and slow versions.

Tolerances: in float64 the only difference from dense autograd is the order of sums (1e-12). In
float32 a cosine of H terms is off by about 1e-7, and the loss of a pair sums up to 2 · 440 of them:
1e-5. A float32 gradient is a few terms of at most 2 / |z| each: 1e-6, or 1e-5 of a large one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from riboray.alignment import GapPenalties, Margins, align_batch, gap_costs
from riboray.model import RnaBertConfig, RnaBertForPreTraining
from riboray.pretraining.cosines import gathered_scores, violated_scores
from riboray.pretraining.losses import (
    base_similarity,
    find_violations,
    match_scores,
    mlm_loss,
    sal_loss,
)
from riboray.pretraining.masking import IGNORE
from tests.alignment.test_interleaved import random_reference


def dense_loss(a, b, lengths_a, lengths_b, reference, gaps=None, margins=None):
    """The loss from the whole similarity matrix, differentiated densely by autograd.

    It shares the aligner and the scores it aligns by with what is tested, and nothing else.
    """
    gaps, margins = gaps or GapPenalties(), margins or Margins()
    similarity = base_similarity(a, b)
    scores = match_scores(a, b).numpy()
    best = align_batch(
        scores, lengths_a, lengths_b, gaps, reference=reference, margins=margins
    ).partners
    wrong, missed = ((p >= 0) & (best != reference) for p in (best, reference))
    constant = gap_costs(reference, lengths_a, lengths_b, gaps)
    constant -= gap_costs(best, lengths_a, lengths_b, gaps)
    constant += margins.false * wrong.sum(1) + margins.missed * missed.sum(1)

    def matrix(partners, chosen):
        weights = torch.zeros_like(similarity)
        for pair, i in zip(*np.nonzero(chosen), strict=True):
            weights[pair, i, partners[pair, i]] = 1
        return weights

    difference = (similarity * (matrix(best, wrong) - matrix(reference, missed))).sum((1, 2))
    return (difference + torch.tensor(constant, dtype=a.dtype)).clamp(min=0)


def random_embeddings(seed, dtype, count=5, longest=40, width=24, related=True):
    """Base embeddings of pairs that share a stretch, and a reference that knows most of it."""
    rng = np.random.default_rng(seed)
    lengths_a, lengths_b = (rng.integers(1, longest + 1, count) for _ in range(2))
    a, b = (rng.normal(size=(count, sizes.max(), width)) for sizes in (lengths_a, lengths_b))
    shared = min(lengths_a.min(), lengths_b.min()) if related else 0
    b[:, :shared] += 0.8 * a[:, :shared]
    reference = random_reference(rng, lengths_a, lengths_b, a.shape[1])
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (a, b)]
    return (*tensors, lengths_a, lengths_b, reference)


def gradients(loss, a, b, weights):
    a.grad = b.grad = None
    (loss * weights).sum().backward()
    return a.grad, b.grad


def assert_same_learning(case, gaps, margins, atol):
    a, b, *rest = case
    weights = torch.linspace(0.5, 2, len(a), dtype=a.dtype)
    wanted = dense_loss(a, b, *rest, gaps, margins)
    wanted_gradients = gradients(wanted, a, b, weights)
    found = sal_loss(a, b, *rest, gaps, margins)
    found_gradients = gradients(found, a, b, weights)
    assert found.dtype == a.dtype
    torch.testing.assert_close(found, wanted, rtol=0, atol=10 * atol)
    for one, other in zip(found_gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=10 * atol, atol=atol)


RULES = st.sampled_from(
    [(None, None), (GapPenalties(0.5, 0.2), Margins(0.3, 0.2)), (None, Margins(0, 0))]
)


@given(st.integers(0, 2**32 - 1), RULES, st.booleans())
@settings(deadline=None, max_examples=40)
def test_gradient_is_that_of_dense_autograd(seed, rules, related):
    # Offsets are float32: that, not the sums, bounds the loss in float64.
    case = random_embeddings(seed, torch.float64, related=related)
    assert_same_learning(case, *rules, atol=1e-6)
    a, b, *rest = case
    found = gradients(sal_loss(a, b, *rest, *rules), a, b, 1)
    wanted = gradients(dense_loss(a, b, *rest, *rules), a, b, 1)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32 - 1), RULES)
@settings(deadline=None, max_examples=30)
def test_gradient_in_float32(seed, rules):
    case = random_embeddings(seed, torch.float32, width=120)
    assert_same_learning(case, *rules, atol=1e-6)


def test_gradient_of_full_length_pairs():
    assert_same_learning(
        random_embeddings(3, torch.float32, count=3, longest=440, width=120), None, None, atol=1e-6
    )


def test_gradient_against_finite_differences():
    a, b, *rest = random_embeddings(1, torch.float64, count=2, longest=7, width=8)
    assert torch.autograd.gradcheck(lambda x, y: sal_loss(x, y, *rest), (a, b), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("size", [0, 1e-14])
def test_rows_of_hardly_any_norm_are_as_in_dense_autograd(size):
    a, b, *rest = random_embeddings(4, torch.float64, count=2, longest=9)
    with torch.no_grad():
        a[:, ::2] *= size
        b[:, 1::2] *= size
    found = gradients(sal_loss(a, b, *rest), a, b, 1)
    wanted = gradients(dense_loss(a, b, *rest), a, b, 1)
    for one, other in zip(found, wanted, strict=True):
        assert one.abs().max() > 1e10
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", ["slices of a batch", "H first", "every other base", "expanded"])
def test_embeddings_are_read_where_they_lie(layout):
    a, b, lengths_a, lengths_b, reference = random_embeddings(5, torch.float32, longest=20)
    wanted = gradients(sal_loss(a, b, lengths_a, lengths_b, reference), a, b, 1)
    n, width_a, _ = a.shape
    width_b = b.shape[1]

    if layout == "slices of a batch":  # as a trainer makes them, without <cls>
        pad = 3 + max(width_a, width_b)
        both = torch.cat(
            [functional.pad(x, (0, 0, 2, pad - 2 - x.shape[1]), value=9.0) for x in (a, b)]
        )
        views = both[:n, 2 : 2 + width_a], both[n:, 2 : 2 + width_b]
    elif layout == "H first":
        views = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (a, b)]
    elif layout == "every other base":
        views = [x.repeat_interleave(2, 1)[:, ::2] for x in (a, b)]
    else:
        views = [x[:1].expand_as(x) for x in (a, b)]
        a2, b2 = (x.detach()[:1].repeat(n, 1, 1).requires_grad_() for x in (a, b))
        wanted = gradients(sal_loss(a2, b2, lengths_a, lengths_b, reference), a2, b2, 1)
        wanted = [torch.cat([g.sum(0, keepdim=True), 0 * g[1:]]) for g in wanted]
    found = gradients(sal_loss(*views, lengths_a, lengths_b, reference), a, b, 1)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=20)
def test_gathering_rows_as_a_gpu_does_gives_the_same(seed, dtype):
    a, b, *rest = random_embeddings(seed, dtype)
    violations = find_violations(match_scores(a, b).numpy(), *rest)
    weights = torch.linspace(-1, 2, len(a), dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    scores = violated_scores(a, b, violations)
    gathered = gathered_scores(a, b, violations)
    torch.testing.assert_close(scores, gathered, rtol=0, atol=10 * tolerance)
    pairs = zip(gradients(scores, a, b, weights), gradients(gathered, a, b, weights), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_float32_inside_under_autocast():
    a, b, *rest = random_embeddings(6, torch.float32)
    wanted = sal_loss(a, b, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert match_scores(a, b).dtype == torch.float32
        torch.testing.assert_close(sal_loss(a, b, *rest), wanted, rtol=0, atol=0)
    low = [x.detach().bfloat16().requires_grad_() for x in (a, b)]
    wide = [x.detach().float().requires_grad_() for x in low]
    loss, wanted = sal_loss(*low, *rest), sal_loss(*wide, *rest)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=0, atol=0)
    for one, other in zip(gradients(loss, *low, 1), gradients(wanted, *wide, 1), strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other.bfloat16())


def test_measuring_without_gradient():
    a, b, *rest = random_embeddings(7, torch.float32)
    wanted = sal_loss(a, b, *rest).detach()
    with torch.inference_mode():
        inside = sal_loss(a * 1, b * 1, *rest)
    torch.testing.assert_close(inside, wanted)
    assert not match_scores(a, b).requires_grad


def test_match_scores_are_the_cosines(rng):
    a, b = rng.normal(size=(1, 3, 5)), rng.normal(size=(1, 4, 5))
    wanted = [[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in b[0]] for x in a[0]]
    for similarity in (base_similarity, match_scores):
        found = similarity(torch.tensor(a), torch.tensor(b))[0].numpy()
        assert found == pytest.approx(np.array(wanted), abs=1e-6)


def test_pairs_without_violation_have_no_loss_and_no_gradient():
    """0 exactly, and the gradient too: among other pairs, and where there are none."""
    same = torch.eye(30, 32)[None].repeat(2, 1, 1).requires_grad_()
    other = torch.eye(30, 32)[None].repeat(2, 1, 1)
    other[1] = other[1].flip(0)
    other.requires_grad_()
    reference = np.tile(np.arange(30), (2, 1))
    loss = sal_loss(same, other, [30, 30], [30, 30], reference)
    assert loss[0] == 0
    assert loss[1] > 1
    own, _ = gradients(loss, same, other, 1)
    assert (own[0] == 0).all()
    assert (own[1] != 0).any()
    alone = sal_loss(same[:1], other[:1], [30], [30], reference[:1])
    own, _ = gradients(alone, same, other, 1)
    assert alone.item() == 0
    assert (own == 0).all()


def test_learning_lowers_the_loss_to_zero():
    """Gradient descent on free embeddings makes any reference win by its margin."""
    torch.manual_seed(0)
    a = torch.randn(1, 12, 8, requires_grad=True)
    b = torch.randn(1, 14, 8, requires_grad=True)
    reference = np.array([[0, 1, 2, -1, 3, 4, 5, 8, 9, 10, 12, 13]])
    optimizer = torch.optim.Adam([a, b], lr=0.05)
    for _ in range(400):
        loss = sal_loss(a, b, [12], [14], reference).sum()
        if loss.item() == 0:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == 0
    best = align_batch(match_scores(a, b).numpy(), [12], [14]).partners
    assert best.tolist() == reference.tolist()


def test_a_batch_of_no_pairs():
    none = torch.empty(0, 5, 8, requires_grad=True)
    empty = np.empty(0, np.int32)
    loss = sal_loss(none, none, empty, empty, np.empty((0, 5), np.int32))
    assert loss.shape == (0,)
    loss.sum().backward()
    assert none.grad.shape == none.shape


@pytest.mark.parametrize(("objective", "targets"), [("lm", (6, 9, 7)), ("ss", (0, 7, 3))])
def test_token_loss_against_plain_cross_entropy(tiny_model, objective, targets):
    """One loss for nucleotides and for structure classes; class 0 is a target like any other."""
    torch.manual_seed(2)
    head = getattr(RnaBertForPreTraining(tiny_model), f"{objective}_head")
    hidden = torch.randn(2, 5, 24)
    labels = torch.full((2, 5), IGNORE, dtype=torch.uint8)
    labels[0, 1], labels[1, 4], labels[1, 0] = targets
    found = mlm_loss(hidden, labels, head)
    total, correct = 0.0, 0
    for i, j in ((0, 1), (1, 0), (1, 4)):
        logits = head(hidden[i, j]).detach().double().numpy()
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
