"""Decoder and free pixels in one: the decoder in the dark, the pixels in the light, and more than either between."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.dataset import Ptychogram
from recon.decoders.companion import Companion
from recon.decoders.misfit import Misfit
from recon.decoders.mixture import Mixture
from recon.decoders.scatter import Scatter
from recon.estimator import LatentEstimator
from recon.foreign import COARSE, OWN_POWER, OWN_STRENGTHS, STRENGTHS, Foreign
from recon.hybrid import HYBRID, Expectation, reconstruct_hybrid
from recon.illumination import Illumination, illuminated
from recon.latent import LatentSettings
from recon.metrics import psnr_db
from recon.objects import resize_matrix
from recon.operator import Drawing
from recon.pixels import Anchor
from recon.posterior import Posterior
from recon.reconstruct import Reconstruction, coarse_light, reconstruct_pixels
from tests.recon import latentscene as bench
from tests.recon.test_estimator import Stand
from tests.recon.test_foreign import TRUE


def mask() -> torch.Tensor:
    """(s, s) a bar with hard edges, which no drawn bar has."""
    return (bench.bar(TRUE)[0] > 0.5).float()


def grown(image: torch.Tensor, size: int) -> np.ndarray:
    resize = resize_matrix(size, bench.PIXEL, bench.FIELD, len(image)).numpy()
    return resize @ np.asarray(image) @ resize.T


def looked_at(photons: float) -> tuple[Illumination, Ptychogram, Posterior, Reconstruction]:
    """Light, frames, posterior and hybrid image of a hard-edged bar."""
    source = bench.light(photons)
    data = bench.measured(mask(), source, 1)
    images = bench.bar(torch.randn(50, 5, generator=torch.Generator().manual_seed(3)))
    noise = 0.04 * torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    companion = Companion(
        "bars", Mixture.normal(5), Stand(), Misfit.measured(images + noise, images), Scatter.even(), {}
    )
    settings = LatentSettings(starts=6, proposals=128, chains=32, decisions=1)
    estimator = LatentEstimator.build(bench.package(), companion, source, bench.FIELD, settings=settings, bank=128)
    posterior = estimator.estimate(data)
    return source, data, posterior, reconstruct_hybrid(data, source, posterior, bench.FIELD)


@pytest.fixture(scope="module")
def seen():
    """By photons: PSNR over the lit pixels of the latent, hybrid and conventional image of a hard-edged bar."""
    torch.set_num_threads(1)
    found = {}
    for photons in (40.0, 3000.0, 1e6):
        source, data, posterior, both = looked_at(photons)
        # The conventional method is far behind in the dark, and slow.
        free = None if photons < 100 else reconstruct_pixels(data, source)
        size = len(both.object)
        lit = illuminated(source.probe, source.positions_m / bench.PIXEL, size)
        truth = grown(mask(), size)
        objects = [grown(posterior.mean, size), both.object.real, *([] if free is None else [free.object.real])]
        scores = [psnr_db(obj, truth, lit) for obj in objects]
        found[photons] = (posterior, both, scores)
    return found


def test_in_the_dark_it_is_the_decoder(seen):
    posterior, both, (latent, hybrid) = seen[40.0]
    assert hybrid == pytest.approx(latent, abs=0.2)
    assert both.residual == posterior.foreign.residual < 5
    np.testing.assert_array_equal(both.image, posterior.mean)


def test_in_the_light_it_is_no_worse_than_free_pixels_and_far_better_than_the_decoder(seen):
    _, both, (latent, hybrid, free) = seen[1e6]
    assert hybrid > free - 0.5
    assert hybrid > latent + 6
    assert both.residual > 20


def test_between_it_is_better_than_both(seen):
    _, both, (latent, hybrid, free) = seen[3000.0]
    assert hybrid > max(latent, free) + 0.5
    assert both.converged
    assert both.object.real.min() >= 0
    assert both.object.real.max() <= 1
    assert both.settings.loss == "exact"


def test_what_is_predicted_is_the_objects_light(seen):
    _, both, _ = seen[1e6]
    data = bench.measured(mask(), bench.light(1e6), 1)
    assert both.expected.shape == data.frames.shape
    assert both.expected.sum() == pytest.approx(data.frames.sum(), rel=0.03)


def test_the_power_of_the_residual_is_what_the_evidence_says():
    own, theirs = len(OWN_STRENGTHS), len(STRENGTHS)
    sure = Foreign(0.0, 1.0, (0.0,) * own, tuple(900.0 if s == 3.0 else 0.0 for s in STRENGTHS))
    assert sure.residual == pytest.approx(OWN_POWER + COARSE * 3.0)
    # Nothing seen: the class's own and foreign fields count alike, each by the mean of its logarithms.
    blind = Foreign(0.0, 1.0, (0.0,) * own, (0.0,) * theirs)
    logs = [
        np.mean([math.log(OWN_POWER * s) for s in OWN_STRENGTHS]),
        np.mean([math.log(OWN_POWER + COARSE * s) for s in STRENGTHS]),
    ]
    assert blind.residual == pytest.approx(math.exp(sum(logs) / 2))


def test_an_anchors_slope_is_that_of_its_value():
    generator = torch.Generator().manual_seed(5)
    x, centre, way = torch.rand(3, 1, 6, 6, generator=generator, dtype=torch.float64)
    anchor = Anchor(centre[None], torch.rand(6, 6, generator=generator, dtype=torch.float64))
    x, way, step = x[None], way[None], 1e-4
    slope = (anchor.value(x + step * way) - anchor.value(x - step * way)) / (2 * step)
    assert slope == pytest.approx(float((anchor.slope(x) * way).sum()), rel=1e-6)


def test_an_expectation_is_the_same_on_coarse_and_fine_pixels():
    source = bench.light(1e4)
    data = bench.measured(mask(), source, 1)
    coarse = coarse_light(data, source, "cpu")
    assert coarse.binning == 2
    fine = coarse_light(data.crop((150, 150)), source, "cpu")
    assert fine.binning == 1
    variance = np.random.default_rng(0).uniform(0.01, 0.1, (bench.SIDE, bench.SIDE)).astype(np.float32)
    expected = Expectation(bench.bar(TRUE)[0].numpy(), variance, variance, Drawing(bench.SIDE, bench.FIELD))
    anchors = [expected.anchor(light, bench.PIXEL) for light in (fine, coarse)]
    # Fine pixels M//2 and M//2 + 1 make up the coarse one M//2.
    centre = anchors[0].centre[0]
    first = (fine.size // 2) % 2
    pairs = centre[first : first + 2 * (fine.size // 2 - 1), first : first + 2 * (fine.size // 2 - 1)]
    means = pairs.reshape(len(pairs) // 2, 2, len(pairs) // 2, 2).mean((1, 3))
    middle, other = len(means) // 2, coarse.size // 2
    half = 20
    here = means[middle - half : middle + half, middle - half : middle + half]
    shift = (fine.size // 2 - first) // 2 - middle
    there = anchors[1].centre[0][
        other - half - shift : other + half - shift, other - half - shift : other + half - shift
    ]
    torch.testing.assert_close(here, there, atol=0.02, rtol=0)
    # A block's precision is that of its four pixels together.
    total = float(anchors[0].precision.double().mean()) * 4
    assert float(anchors[1].precision.double().mean()) == pytest.approx(total, rel=0.1)


def test_grain_is_added_square_by_square_and_nothing_outside():
    image, flat = bench.bar(TRUE)[0].numpy(), np.full((bench.SIDE, bench.SIDE), 0.05, np.float32)
    plain = Expectation(image, flat, flat, Drawing(bench.SIDE, bench.FIELD))
    grain = np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    side = bench.FIELD / bench.SIDE
    # Three points a pixel of the decoder, and two pixels beyond each edge.
    axis = (np.arange(3 * (bench.SIDE + 4)) + 0.5) * side / 3 - bench.FIELD / 2 - 2 * side
    added = replace(plain, grain=grain).centre(axis) - plain.centre(axis)
    expected = np.pad(np.kron(grain, np.ones((3, 3), np.float32)), 6)
    np.testing.assert_allclose(added, expected, atol=1e-6)


@pytest.mark.parametrize("settings", [replace(HYBRID, kappa=None), replace(HYBRID, positivity=False)])
def test_settings_that_a_decoder_contradicts_are_refused(seen, settings):
    data, source = bench.measured(mask(), bench.light(40.0), 1), bench.light(40.0)
    with pytest.raises(ValueError, match="kappa and positivity"):
        reconstruct_hybrid(data, source, seen[40.0][0], bench.FIELD, settings)
