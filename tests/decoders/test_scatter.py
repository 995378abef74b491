"""How unevenly a decoder misses images: an independent search finds none nearer, and what it draws is not missed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from recon.decoders.companion import SCATTER_IMAGES, measured_scatter, whitened_latents
from recon.decoders.direct import DirectDrawer
from recon.decoders.misfit import Misfit
from recon.decoders.scatter import Scatter, nearest
from tests.decoders.shapes import TINY, discs
from tests.recon.latentscene import bar, package
from tests.recon.test_complexlatent import PAIRS

BARS = DirectDrawer.of(package())


def _latents(count: int) -> torch.Tensor:
    return torch.randn(count, BARS.size, generator=torch.Generator().manual_seed(3))


def test_nothing_that_the_decoder_draws_is_nearer():
    zeta = 0.7 * _latents(3)
    images = (bar(zeta) + 0.1 * torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(4))).clamp(0, 1)
    start = zeta + 0.3
    missed = (nearest(BARS, images, start) - images).square().mean((1, 2))
    assert (missed < 0.8 * (BARS.images(start) - images).square().mean((1, 2))).all()
    for image, latents, ours in zip(images, start, missed, strict=True):

        def left(at: np.ndarray, image: torch.Tensor = image) -> np.ndarray:
            return (bar(torch.from_numpy(at)[None])[0] - image).flatten().numpy()

        reference = least_squares(left, latents.double().numpy())
        assert float(ours) == pytest.approx(2 * reference.cost / image.numel(), rel=1e-3)


def test_an_image_of_its_own_is_not_missed():
    zeta = _latents(4)
    images, start = BARS.images(zeta), zeta + 0.1
    missed = (nearest(BARS, images, start) - images).square().mean()
    assert float(missed) < 1e-6 * float((BARS.images(start) - images).square().mean())


def test_of_amplitude_and_phase_both_are_sought_and_the_amplitude_counts():
    zeta = _latents(2)
    pairs = PAIRS.images(zeta).clone()
    pairs[:, 0] = 0.8 * pairs[:, 0] + 0.1
    start = zeta + 0.2
    found = nearest(PAIRS, pairs, start)

    def apart(drawn: torch.Tensor) -> torch.Tensor:
        amplitude = (drawn - pairs)[:, 0]
        phase = (drawn - pairs)[:, 1] * PAIRS.package.phase_rad * pairs[:, 0]
        return (amplitude.square() + phase.square()).sum((1, 2))

    # Nearer than the latents that the images were made from, and than any a step away.
    assert (apart(found) < apart(PAIRS.images(zeta))).all()
    for axis in torch.eye(PAIRS.size):
        for step in (-0.3, 0.3):
            assert (apart(found) < apart(nearest(PAIRS, pairs, start + step * axis)) * 1.001).all()
    scatter = Scatter.measured(PAIRS, Misfit.even(0.01), pairs, start)
    expected = (found - pairs)[:, 0].square().mean((1, 2)) / 0.01
    assert torch.allclose(scatter.nearest, expected, rtol=1e-4)
    assert torch.allclose(scatter.drawn, (PAIRS.images(start) - pairs)[:, 0].square().mean((1, 2)) / 0.01, rtol=1e-4)


def test_the_misfit_is_the_scale_of_the_scatter(toy):
    direct = DirectDrawer.of(toy)
    images = torch.from_numpy(discs(40, TINY.image_size, 9))
    misfit = Misfit.measured(images, direct.images(whitened_latents(toy, images)))
    scatter = measured_scatter(direct, misfit, images)
    assert len(scatter.drawn) == len(scatter.nearest) == 40
    # Where the misfit was measured on the same images, it is their mean but for what its table leaves out.
    assert float(scatter.drawn.mean()) == pytest.approx(1, abs=0.15)
    assert (scatter.nearest <= scatter.drawn * (1 + 1e-4)).all()
    doubled = measured_scatter(direct, Misfit(2 * misfit.variance), images)
    assert torch.allclose(2 * doubled.drawn, scatter.drawn)


def test_some_of_many_images_are_enough(toy):
    images = torch.from_numpy(discs(8, TINY.image_size, 9)).repeat(SCATTER_IMAGES // 8 + 1, 1, 1)
    told: list[tuple[int, int]] = []
    scatter = measured_scatter(
        DirectDrawer.of(toy), Misfit.even(0.01), images, lambda done, total: told.append((done, total))
    )
    assert SCATTER_IMAGES // 2 < len(scatter.drawn) <= SCATTER_IMAGES
    assert told[-1] == (len(scatter.drawn), len(scatter.drawn))
