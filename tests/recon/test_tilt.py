"""The beam's tilt from the empty beam."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.dataset import DatasetError
from recon.illumination import Illumination, remove_ramp
from recon.propagators import NearField
from recon.tilt import EmptyBeam, beam_tilt_rad, tilted
from tests.recon import latentscene as bench

SIDE = len(bench.light(1e5).probe)
AXIS = np.arange(SIDE) - SIDE // 2


def ramp(y: float, x: float) -> np.ndarray:
    """(K, K) of so many rad a pixel."""
    return np.exp(1j * (y * AXIS[:, None] + x * AXIS[None, :])).astype(np.complex64)


def beam(photons: float, noise: float = 0.3) -> EmptyBeam:
    """What the camera sees of the tests' own light, the sample away."""
    source = bench.light(photons)
    optics = NearField.build(source.geometry, SIDE, padded=True, dtype=torch.complex128)
    wave = torch.from_numpy(source.probe)[None].to(torch.complex128) * math.sqrt(bench.SECONDS)
    nowhere = torch.zeros(1, 2, dtype=torch.float64)
    wide = optics.forward(wave, nowhere, torch.tensor(0.0, dtype=torch.float64))[0][0].abs().square().float()
    generator = torch.Generator().manual_seed(4)
    readings = torch.poisson(wide, generator=generator) + noise * torch.randn(wide.shape, generator=generator)
    return EmptyBeam(readings.numpy(), bench.SECONDS, np.ones(wide.shape, bool))


def explained(light: Illumination, seen: EmptyBeam) -> Illumination:
    """The light, turned so that the empty beam is what it is."""
    return tilted(light, beam_tilt_rad(light, seen))


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.012, -0.03), (-0.1, 0.05)])
def test_what_was_taken_for_the_objects_is_given_back(tilt):
    true = bench.light(1e6)
    found = explained(replace(true, probe=true.probe * ramp(*tilt)), beam(1e6))
    weight = np.abs(true.probe) ** 2
    apart = np.angle(found.probe * true.probe.conj())
    left = [float((weight * apart * axis).sum() / (weight * axis**2).sum()) for axis in (AXIS[:, None], AXIS[None, :])]
    assert np.abs(left).max() < 3e-4, "a thousandth of a radian over the beam"
    np.testing.assert_allclose(np.abs(found.probe), np.abs(true.probe), rtol=1e-5, atol=1e-6)


def test_it_undoes_the_gauge_of_a_calibration():
    true = bench.light(1e6)
    size = 2 * SIDE
    m = np.arange(size) - size // 2
    obj = np.exp(1j * (0.04 * m[:, None] - 0.02 * m[None, :]))
    _, probe = remove_ramp(obj, true.probe, np.ones((size, size)))
    found = explained(replace(true, probe=probe.astype(np.complex64)), beam(1e6))
    overlap = np.abs((found.probe.conj() * true.probe).sum()) / (np.abs(true.probe) ** 2).sum()
    assert overlap == pytest.approx(1, abs=1e-4)
    assert np.abs((probe.conj() * true.probe).sum()) / (np.abs(true.probe) ** 2).sum() < 0.98


def test_bad_pixels_do_not_count():
    seen = beam(1e6)
    wrong, mask = seen.electrons.copy(), seen.mask.copy()
    wrong[90:100, 60:70], mask[90:100, 60:70] = 1e4, False
    true = bench.light(1e6)
    found = explained(replace(true, probe=true.probe * ramp(0.02, 0.02)), replace(seen, electrons=wrong, mask=mask))
    overlap = np.abs((found.probe.conj() * true.probe).sum()) / (np.abs(true.probe) ** 2).sum()
    assert overlap == pytest.approx(1, abs=1e-4)


def test_without_an_empty_beam_it_says_what_to_do():
    data = bench.measured(bench.bar(torch.zeros(1, 5))[0], bench.light(1e3), 0)
    with pytest.raises(DatasetError, match=r"has no empty beam.*empty_frames of at least 1"):
        EmptyBeam.of(data)
    seen = beam(1e4)
    small = replace(seen, electrons=seen.electrons[:8, :8], mask=seen.mask[:8, :8])
    with pytest.raises(DatasetError, match="the probe takes"):
        beam_tilt_rad(bench.light(1e4), small)
