"""Sketches, and the decoder itself in their place: images, Jacobians, training, and what half precision keeps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from recon.decoders.direct import DirectDrawer
from recon.decoders.mixture import Mixture
from recon.decoders.sketch import WARMER, Sketch, SketchSettings, train_sketch

SIDE, SIZE = 8, 3
FAST = SketchSettings(width=32, depth=2, pairs=1500, epochs=8, batch=16)


def _blob(zeta: torch.Tensor) -> torch.Tensor:
    """A smooth toy decoder: a blob whose place and brightness are the latents."""
    axis = torch.linspace(-1, 1, SIDE)
    y, x = axis[:, None], axis[None]
    cy, cx, tone = (zeta[:, k, None, None] for k in range(3))
    return torch.exp(-2 * ((y - 0.3 * cy) ** 2 + (x - 0.3 * cx) ** 2)) * tone.sigmoid()


def _random_sketch(depth: int, dtype: torch.dtype = torch.float64) -> Sketch:
    generator = torch.Generator().manual_seed(depth)
    widths = [SIZE] + [10] * depth + [SIDE * SIDE]
    pairs = list(pairwise(widths))
    weights = tuple(
        torch.randn(after, before, generator=generator, dtype=dtype) / before**0.5 for before, after in pairs
    )
    return Sketch(weights, tuple(torch.randn(after, generator=generator, dtype=dtype) for _, after in pairs), 30.0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_jacobian_is_that_of_the_images(depth):
    sketch = _random_sketch(depth)
    zeta = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images, jacobian = sketch.drawn(zeta)
    assert images.shape == (4, SIDE, SIDE)
    assert torch.allclose(images, sketch.images(zeta))
    step = 1e-5
    for axis in range(SIZE):
        shift = step * torch.eye(SIZE, dtype=torch.float64)[axis]
        slope = (sketch.images(zeta + shift) - sketch.images(zeta - shift)).flatten(1) / (2 * step)
        assert torch.allclose(slope, jacobian[:, :, axis], atol=1e-8)


def test_training_draws_nearer_and_its_fidelity_is_true():
    prior = Mixture.normal(SIZE)
    told = []
    sketch = train_sketch(_blob, prior, FAST, report=lambda *a: told.append(a))
    drawing = [entry for entry in told if math.isnan(entry[2])]
    epochs = [entry for entry in told if not math.isnan(entry[2])]
    assert drawing[-1][:2] == (1500, 1500)
    assert [entry[0] for entry in epochs] == list(range(1, 9))
    assert epochs[-1][2] == sketch.fidelity_db
    assert sketch.fidelity_db > epochs[0][2] + 6
    assert sketch.fidelity_db > 28
    zeta = WARMER * prior.sample(2000, 99)
    error = float((sketch.images(zeta) - _blob(zeta)).square().mean())
    assert -10 * math.log10(error) == pytest.approx(sketch.fidelity_db, abs=2)


def test_a_trained_sketch_survives_half_precision_as_it_is():
    sketch = train_sketch(_blob, Mixture.normal(SIZE), SketchSettings(width=8, pairs=200, epochs=1, batch=50))
    for values in (*sketch.weights, *sketch.biases):
        assert torch.equal(values.half().float(), values)
    again = train_sketch(_blob, Mixture.normal(SIZE), SketchSettings(width=8, pairs=200, epochs=1, batch=50))
    assert all(torch.equal(a, b) for a, b in zip(sketch.weights, again.weights, strict=True))


def test_settings_shape_the_network():
    sketch = train_sketch(_blob, Mixture.normal(SIZE), SketchSettings(width=5, depth=3, pairs=100, epochs=1))
    assert [tuple(w.shape) for w in sketch.weights] == [(5, SIZE), (5, 5), (5, 5), (SIDE * SIDE, 5)]
    assert (sketch.samples, sketch.size) == (SIDE, SIZE)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"pairs": 1}, {"epochs": 0}])
def test_settings_that_train_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 2 pairs"):
        SketchSettings(**wrong)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(64, 3)], "two layers"),
        ([(5, 3), (64, 6)], "do not fit"),
        ([(5, 3), (60, 5)], "squares, not 60"),
        ([(5, 3), (64,)], "two layers"),
    ],
)
def test_layers_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        Sketch(tuple(torch.zeros(s) for s in shapes), tuple(torch.zeros(s[0]) for s in shapes), 30.0)


def test_the_decoder_itself_draws_its_images_and_their_jacobians(toy):
    direct = DirectDrawer.of(toy)
    zeta = Mixture.normal(direct.size).sample(3, 2)
    images, jacobian = direct.drawn(zeta)
    latents = direct.whitening.latents(zeta)
    assert torch.allclose(images, toy.decode(latents))
    assert torch.allclose(direct.images(zeta), images)
    for k in range(3):
        whole = torch.autograd.functional.jacobian(lambda z: direct.images(z[None])[0].flatten(), zeta[k])
        assert torch.allclose(jacobian[k], whole, atol=1e-6)
    assert (direct.samples, direct.fidelity_db) == (16, math.inf)
