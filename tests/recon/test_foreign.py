"""Evidence for something that the decoder cannot draw."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recon.bins import Bins
from recon.events import Watch
from recon.foreign import GRAIN, HIGHEST, STRENGTHS, Foreign, _field, foreign_evidence
from recon.latent import Bank, LatentSettings, search
from recon.noise import MixedGaussian
from recon.observation import Observation
from tests.recon import latentscene as bench

TRUE = torch.tensor([[0.6, -0.8, 0.3, 0.2, -0.3]])
MISFIT = torch.full((bench.SIDE, bench.SIDE), 0.004)


def _patch() -> Tensor:
    """A bar with a second blob beside it."""
    axis = torch.linspace(-1, 1, bench.SIDE)
    blob = torch.exp(-((axis[:, None] - 0.55) ** 2 + (axis[None, :] + 0.55) ** 2) / 0.04)
    return (bench.bar(TRUE)[0] + 0.9 * blob).clamp_max(1)


def _observed(image: Tensor, photons: float, seed: int) -> Observation:
    source = bench.light(photons)
    data = bench.measured(image, source, seed)
    camera = bench.operator(source)
    light = bench.light_map(camera)
    if photons > 5000:
        return Bins.build(data, camera, light, MixedGaussian())
    return Watch.build(camera, light, torch.from_numpy(data.dark_variance), torch.from_numpy(data.mask)).count(data)


def _evidence(image: Tensor, photons: float, seed: int = 1) -> Foreign:
    observation, scene = _observed(image, photons, seed), bench.scene(5)
    modes = search(observation, scene, Bank.draw(scene, 100), LatentSettings(starts=4))
    lit, jacobian = scene.drawn(modes.theta[:1])
    _, _, precision = scene.prior_terms(modes.theta[:1])
    return foreign_evidence(observation, lit[0], jacobian[0], precision[0], MISFIT)


@pytest.mark.parametrize("photons", [1000, 3000, 20000])
def test_an_object_of_the_class_is_not_foreign(photons: float) -> None:
    found = _evidence(bench.bar(TRUE)[0], photons)
    assert found.log_odds < 1


def test_a_patch_that_the_decoder_cannot_draw_is_foreign() -> None:
    found = _evidence(_patch(), 20000)
    assert found.log_odds > 100
    assert found.strength >= 3


def test_another_object_of_the_class_is_not_foreign() -> None:
    # The latents take up what they can explain.
    assert _evidence(bench.bar(-TRUE)[0], 20000).log_odds < 1


def test_without_light_nothing_is_known() -> None:
    observation = _observed(torch.zeros(bench.SIDE, bench.SIDE), 100, 3)
    scene = bench.scene(5)
    black = 1e-3 * bench.bar(torch.zeros(1, 5))
    _, jacobian = scene.drawn(torch.zeros(1, 5))
    found = foreign_evidence(observation, black[0], 1e-3 * jacobian[0], torch.eye(5), MISFIT)
    assert abs(found.log_odds) < 3


def test_the_strength_is_among_those_compared() -> None:
    assert _evidence(_patch(), 3000).strength in STRENGTHS


def test_grain_such_as_the_decoder_misses_of_its_own_class_is_not_foreign() -> None:
    """White noise along the bar's edges, with the misfit's strength there: the same energy as a strong smooth field."""
    generator = torch.Generator().manual_seed(11)
    drawn = bench.bar(TRUE)[0]
    grain = 2.5 * MISFIT.sqrt() * 4 * drawn * (1 - drawn) * torch.randn(drawn.shape, generator=generator)
    grainy = _evidence((drawn + grain).clamp(0, 1), 20000)
    smooth = functional.avg_pool2d(grain[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
    smooth *= grain.norm() / smooth.norm()
    assert grainy.log_odds < 4
    assert _evidence((drawn + smooth).clamp(0, 1), 20000).log_odds > grainy.log_odds + 4


def test_the_smooth_field_has_unit_variance_and_its_correlation() -> None:
    basis, power = _field(32, torch.device("cpu"))
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    covariance = (basis * power) @ basis.T
    # But for the tenth that lies beyond the highest order.
    assert float(covariance.diagonal().mean()) == pytest.approx(0.9, abs=0.02)
    middle = covariance[32 * 16 + 16].view(32, 32)
    lag = float(middle[16, 18] / middle[16, 16])
    assert lag == pytest.approx(math.exp(-((2 / GRAIN) ** 2) / 2), abs=0.1)
    assert basis.shape[1] > math.pi / 4 * HIGHEST**2
