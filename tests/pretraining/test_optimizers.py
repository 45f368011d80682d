"""Muon against its definition, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from riboray.model import RnaBertForPreTraining
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.optimizers import Muon, make_optimizers, orthogonalise
from tests.conftest import tiny_config


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_singular_values_come_near_1_and_vectors_stay(seed, low, wide):
    rng = np.random.default_rng(seed)
    low, wide = sorted((low, wide))
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (low, wide))
    values = rng.uniform(0.05, 1, low) * 10 ** rng.uniform(-3, 3)
    matrix = left @ np.diag(values) @ right[:low]
    ours = orthogonalise(torch.tensor(matrix)[None])[0].numpy()
    inner = left.T @ ours @ right[:low].T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-6, "the same directions"
    # The iteration's fixed range; values below a twentieth of the norm take longer to rise.
    assert (np.diag(inner) > 0.5).all()
    assert (np.diag(inner) < 1.3).all()


def test_nothing_stays_nothing():
    assert not orthogonalise(torch.zeros(2, 3, 4)).any()


def plain_muon(start, gradients, rate, momentum, decay):
    """One matrix, by the text: average, look ahead, orthogonalise by SVD-free iteration, step."""
    matrix, average = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        average = momentum * average + (1 - momentum) * gradient
        ahead = momentum * average + (1 - momentum) * gradient
        x = ahead / ahead.norm()
        flip = x.shape[0] > x.shape[1]
        x = x.T if flip else x
        for _ in range(5):
            s = x @ x.T
            x = 3.4445 * x - 4.7750 * s @ x + 2.0315 * s @ s @ x
        x = x.T if flip else x
        matrix = matrix * (1 - rate * decay) - rate * 0.2 * max(start.shape) ** 0.5 * x
    return matrix


def test_steps_are_those_of_each_matrix_alone():
    torch.manual_seed(1)
    shapes = [(5, 5), (5, 9), (9, 5), (5, 5)]
    starts = [torch.randn(s, dtype=torch.float64) for s in shapes]
    gradients = [[torch.randn_like(s) for _ in range(4)] for s in starts]
    parameters = [nn.Parameter(s.clone()) for s in starts]
    idle = nn.Parameter(torch.ones(5, 5, dtype=torch.float64))
    muon = Muon([*parameters, idle], lr=0.03, momentum=0.9, weight_decay=0.1)
    for turn in range(4):
        for parameter, mine in zip(parameters, gradients, strict=True):
            parameter.grad = mine[turn].clone()
        muon.step()
    for parameter, start, mine in zip(parameters, starts, gradients, strict=True):
        wanted = plain_muon(start, mine, 0.03, 0.9, 0.1)
        # Norms have 1e-7 added to them, against division by zero.
        torch.testing.assert_close(parameter.data, wanted, rtol=0, atol=1e-7)
    assert (idle == 1).all(), "what has no gradient is left alone"


def test_a_step_is_as_large_as_adamws():
    torch.manual_seed(2)
    matrix = nn.Parameter(torch.zeros(40, 120))
    muon = Muon([matrix], lr=1.0)
    matrix.grad = torch.randn(40, 120)
    muon.step()
    assert float(matrix.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def test_state_goes_on_where_it_was():
    def trained(turns, again):
        torch.manual_seed(3)
        matrix = nn.Parameter(torch.randn(4, 6))
        muon = Muon([{"params": [matrix], "lr_scale": 4.0}], lr=0.1)
        for turn in range(turns):
            if turn == again:
                state = muon.state_dict()
                muon = Muon([{"params": [matrix], "lr_scale": 4.0}], lr=0.1)
                muon.load_state_dict(state)
            matrix.grad = torch.randn(4, 6)
            muon.step()
        return matrix.detach()

    assert torch.equal(trained(5, again=3), trained(5, again=None))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer(name):
    model = RnaBertForPreTraining(tiny_config())
    config = PretrainConfig(optimizer=name, weight_decay=0.3, muon_scale=5.0)
    optimizers = make_optimizers(model, config)
    assert len(optimizers) == 1 + (name == "muon")
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    given_ = [id(p) for group in groups for p in group["params"]]
    assert sorted(given_) == sorted(id(p) for p in model.parameters())
    for group in groups:
        vectors = {p.ndim <= 1 for p in group["params"]}
        assert vectors == {group["weight_decay"] == 0}, "weight decay on matrices only"
    if name == "muon":
        of_layers = [p for n, p in model.named_parameters() if ".encoder." in n and p.ndim == 2]
        assert {id(p) for p in groups[-1]["params"]} == {id(p) for p in of_layers}
        assert groups[-1]["lr_scale"] == 5.0
