"""Ranks, interpolation and draws of a toy decoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.decoders.latentspace import effective_rank, knee, latent_space
from recon.decoders.package import DecoderError
from recon.decoders.training import psnr_per_image
from tests.decoders.shapes import discs

SIDE = 16


def test_ranks_count_what_exceeds_a_share_of_the_first():
    values = np.array([8.0, 4.0, 1.0, 0.01, 0.009])
    assert [effective_rank(values, t) for t in (0.9, 0.2, 0.1, 1e-3, 1e-4)] == [1, 2, 3, 5, 5]
    assert knee(values) == 3
    assert knee(np.array([2.0])) == 1


def test_a_latent_space_is_looked_at_with_unseen_images(toy):
    images, ends = discs(60, SIDE, 8), discs(2, SIDE, 9)
    space = latent_space(toy, None, images, ends, steps=5, samples=4)
    seen = torch.from_numpy(images)
    latents = toy.encode(seen)
    expected = np.linalg.eigvalsh(np.cov(latents.double().numpy().T))[::-1]
    np.testing.assert_allclose(space.variances, expected, rtol=1e-4, atol=1e-9)
    assert space.psnr_db == pytest.approx(float(psnr_per_image(toy.decode(latents), seen).mean()), abs=1e-4)
    first, last = toy.decode(toy.encode(torch.from_numpy(ends))).numpy()
    np.testing.assert_allclose(space.interpolation[[0, -1]], [first, last], atol=1e-5)
    assert space.interpolation.shape == (5, SIDE, SIDE)
    assert space.gaussian.shape == (4, SIDE, SIDE)
    assert len(space.mixture) == 0
    again = latent_space(toy, None, images, ends, steps=5, samples=4)
    assert np.array_equal(again.gaussian, space.gaussian)


def test_too_few_images_and_no_encoder_are_refused(toy):
    with pytest.raises(ValueError, match="1 validation images are too few"):
        latent_space(toy, None, discs(1, SIDE, 1), discs(2, SIDE, 2))
    with pytest.raises(DecoderError, match="holds no encoder"):
        latent_space(replace(toy, encoder=None), None, discs(5, SIDE, 1), discs(2, SIDE, 2))
