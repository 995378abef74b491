"""Decoders against each other: the same pixels for all, and the right one first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recon.choosing import Alike, ranked, together
from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.misfit import Misfit
from recon.decoders.mixture import Mixture
from recon.decoders.scatter import Scatter
from recon.estimator import LatentEstimator
from recon.latent import LatentSettings
from recon.observation import LightMap
from recon.scene import Nuisances
from tests.recon import latentscene as bench

SETTINGS = LatentSettings(starts=8, proposals=96, chains=32, decisions=1)
PHOTONS = 1000.0


class Rings(nn.Module):
    """Rings where bars would be: another class."""

    def forward(self, latents: Tensor) -> Tensor:
        axis = (torch.arange(bench.SIDE, dtype=latents.dtype) + 0.5) / bench.SIDE * 2 - 1
        y = axis[None, :, None] - 0.1 * latents[:, 0, None, None]
        x = axis[None, None, :] - 0.1 * latents[:, 1, None, None]
        radius = 0.45 * (0.15 * latents[:, 2, None, None]).exp()
        return torch.sigmoid(2.5 - 60 * ((y**2 + x**2 + 1e-6).sqrt() - radius) ** 2)[:, None]


def _estimator(name: str, decoder: nn.Module, photons: float) -> LatentEstimator:
    package = replace(bench.package(), name=name, decoder=decoder)
    companion = Companion(name, Mixture.normal(5), DirectDrawer.of(package), Misfit.even(2e-3), Scatter.even(), {})
    source = bench.light(photons)
    return LatentEstimator.build(
        package, companion, source, bench.FIELD, nuisances=Nuisances(), settings=SETTINGS, bank=128
    )


@pytest.fixture(scope="module")
def pair() -> list[LatentEstimator]:
    return [_estimator("bars", bench.Bars(), PHOTONS), _estimator("rings", Rings(), PHOTONS)]


@pytest.mark.parametrize("true", ["bars", "rings"])
def test_the_class_of_the_object_comes_first(pair, true):
    estimator = next(e for e in pair if e.package.name == true)
    latents = torch.tensor([[0.4, -0.5, 0.6, 0.2, -0.3]])
    data = bench.measured(estimator.package.decode(latents)[0], bench.light(PHOTONS), 2)
    told: list[tuple[int, str]] = []
    places = ranked(pair, data, lambda done, name: told.append((done, name)))
    assert places[0].name == true
    assert places[0].log_evidence > places[1].log_evidence + 5
    assert sum(place.probability for place in places) == pytest.approx(1)
    assert places[0].probability > 0.99
    assert told == [(1, "bars"), (2, "rings")]
    # The order that they are given in changes nothing.
    again = ranked(pair[::-1], data)
    assert again[0].name == true


def test_all_look_at_the_same_pixels_through_the_same_thresholds(pair):
    data = bench.measured(bench.bar(torch.zeros(1, 5))[0], bench.light(PHOTONS), 3)
    alike = Alike.prepared(pair, data)
    bars, rings = alike.observed(data)
    assert bars.counts == rings.counts
    assert bars.electrons == rings.electrons
    assert torch.equal(bars.missed, rings.missed)
    # Kept for the next frames of the kind, they answer the same.
    assert ranked(pair, data, alike=alike)[0].log_evidence == ranked(pair, data)[0].log_evidence
    alone = [estimator.observe(data) for estimator in pair]
    assert alone[0].counts != alone[1].counts


def test_where_read_noise_half_hides_electrons_all_look_at_the_same_pixels(pair):
    data = bench.measured(bench.bar(torch.zeros(1, 5))[0], bench.light(PHOTONS), 3, read_noise=0.7)
    bars, rings = Alike.prepared(pair, data).observed(data)
    assert bars.counting == rings.counting == "pixels"
    assert bars.counts == rings.counts
    assert torch.equal(bars.tables.cubics, rings.tables.cubics)
    frames = data.frames.copy()
    frames[1, 96, 96] = 30.0
    bright = Alike.prepared(pair, data).observed(replace(data, frames=frames))
    assert [observation.counting for observation in bright] == ["bins", "bins"]


def test_a_wish_to_stop_leaves_what_is_done(pair):
    data = bench.measured(bench.bar(torch.zeros(1, 5))[0], bench.light(PHOTONS), 4)
    [only] = ranked(pair, data, stop=lambda: True)
    assert (only.name, only.probability) == ("bars", 1.0)


def test_light_is_joined_block_by_block():
    wide = LightMap(3, (6, 6), torch.full((1, 4, 4), 2.0))
    narrow = LightMap(3, (9, 9), torch.full((1, 2, 2), 4.0))
    for lights in ([wide, narrow], [narrow, wide]):
        joined = together(lights)
        assert (joined.side, joined.corner) == (3, (6, 6))
        expected = np.full((4, 4), 1.0)
        expected[1:3, 1:3] = 3.0
        assert joined.mean[0].tolist() == expected.tolist()


def test_nothing_and_different_squares_are_refused(pair):
    data = bench.measured(bench.bar(torch.zeros(1, 5))[0], bench.light(PHOTONS), 5)
    with pytest.raises(ValueError, match="no decoder to compare"):
        ranked([], data)
    with pytest.raises(ValueError, match="one square of the object"):
        ranked([pair[0], replace(pair[1], field_m=2 * bench.FIELD)], data)
