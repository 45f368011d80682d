"""Waves of the position."""

from __future__ import annotations

import pytest
import torch

from riboray.model.positions import sinusoids


def test_size_and_order():
    waves = sinusoids(440, 120, 0.02)
    assert waves.shape == (440, 120)
    assert waves.dtype == torch.float32
    assert float(waves.square().mean().sqrt()) == pytest.approx(0.02, rel=0.02)
    assert len({tuple(row.tolist()) for row in waves}) == 440, "no position like another"


def test_one_matrix_shifts_every_position():
    """What makes neighbours easy to find: least squares over some positions holds for all."""
    waves = sinusoids(440, 120, 1.0).double()
    for shift in (1, 7):
        here, there = waves[:-shift], waves[shift:]
        matrix = torch.linalg.lstsq(here[::2], there[::2], driver="gelsd").solution
        assert float((here[1::2] @ matrix - there[1::2]).abs().max()) < 1e-3


def test_products_fall_with_distance():
    waves = sinusoids(440, 120, 1.0)
    products = waves @ waves.T
    assert (products.argmax(1) == torch.arange(440)).all()
    assert (products[200, 201:210] > products[200, 230]).all()


@pytest.mark.parametrize("width", [1, 2, 3, 24])
def test_any_width(width):
    waves = sinusoids(50, width, 0.1)
    assert waves.shape == (50, width)
    assert bool(torch.isfinite(waves).all())
