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
from tests.decoders.toys import toy_pairs


@pytest.fixture(scope="module")
def direct(toy) -> DirectDrawer:
    return DirectDrawer.of(toy)


def test_nothing_that_the_decoder_draws_is_nearer(toy, direct):
    images = torch.from_numpy(discs(3, TINY.image_size, 9))
    zeta = whitened_latents(toy, images)
    found = nearest(direct, images, zeta)
    start = (direct.images(zeta) - images).square().mean((1, 2))
    missed = (found - images).square().mean((1, 2))
    assert (missed <= start).all()
    for image, latents, ours in zip(images, zeta, missed, strict=True):

        def left(at: np.ndarray, image: torch.Tensor = image) -> np.ndarray:
            drawn = direct.images(torch.from_numpy(at.astype(np.float32))[None])[0]
            return (drawn - image).flatten().double().numpy()

        reference = least_squares(left, latents.double().numpy(), diff_step=1e-3)
        assert float(ours) <= 2 * reference.cost / image.numel() * 1.02


def test_an_image_of_its_own_is_not_missed(toy, direct):
    zeta = torch.randn(4, direct.size, generator=torch.Generator().manual_seed(3))
    images = direct.images(zeta)
    found = nearest(direct, images, zeta + 0.1)
    assert float((found - images).square().mean()) < 1e-3 * float((direct.images(zeta + 0.1) - images).square().mean())


def test_the_misfit_is_the_scale_of_the_scatter(toy, direct):
    images = torch.from_numpy(discs(40, TINY.image_size, 9))
    drawn = direct.images(whitened_latents(toy, images))
    scatter = measured_scatter(direct, Misfit.measured(images, drawn), images)
    assert len(scatter.drawn) == len(scatter.nearest) == 40
    # Where the misfit was measured on the same images, it is their mean but for what its table leaves out.
    assert float(scatter.drawn.mean()) == pytest.approx(1, abs=0.15)
    assert (scatter.nearest <= scatter.drawn * (1 + 1e-4)).all()
    doubled = measured_scatter(direct, Misfit(2 * Misfit.measured(images, drawn).variance), images)
    assert torch.allclose(2 * doubled.drawn, scatter.drawn)


def test_some_of_many_images_are_enough(toy, direct):
    images = torch.from_numpy(discs(8, TINY.image_size, 9)).repeat(SCATTER_IMAGES // 8 + 1, 1, 1)
    told = []
    scatter = measured_scatter(direct, Misfit.even(0.01), images, lambda *step: told.append(step))
    assert SCATTER_IMAGES // 2 < len(scatter.drawn) <= SCATTER_IMAGES
    assert told[-1] == (len(scatter.drawn), len(scatter.drawn))


def test_of_amplitude_and_phase_the_amplitude_counts(tmp_path):
    package = toy_pairs(tmp_path / "pairs.safetensors")
    direct = DirectDrawer.of(package)
    zeta = torch.randn(2, direct.size, generator=torch.Generator().manual_seed(4))
    pairs = direct.images(zeta).clone()
    pairs[:, 0] = (pairs[:, 0] + 0.1).clamp(0, 1)
    latents = whitened_latents(package, pairs)
    found = nearest(direct, pairs, latents)

    def apart(drawn: torch.Tensor) -> torch.Tensor:
        amplitude = (drawn - pairs)[:, 0]
        phase = (drawn - pairs)[:, 1] * package.phase_rad * pairs[:, 0]
        return (amplitude.square() + phase.square()).sum((1, 2))

    assert (apart(found) <= apart(direct.images(latents))).all()
    scatter = Scatter.measured(direct, Misfit.even(0.01), pairs, latents)
    expected = (found - pairs)[:, 0].square().mean((1, 2)) / 0.01
    assert torch.allclose(scatter.nearest, expected, rtol=1e-4)
