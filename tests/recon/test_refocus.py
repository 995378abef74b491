"""Moving the distance with object and probe following."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.dataset import Geometry, Ptychogram
from recon.fit import Fit, Priors
from recon.illumination import soft_disc
from recon.noise import StabilisedAmplitude
from recon.propagators import NearField
from recon.refocus import Spectrum, refocus
from recon.unknowns import Unknowns

PIXEL, WAVELENGTH, DISTANCE, SIDE = 13.8e-6, 561e-9, 12e-3, 64


def smooth(side: int) -> torch.Tensor:
    """A random real object with grains of a few pixels."""
    generator = torch.Generator().manual_seed(5)
    spectrum = torch.fft.fft2(torch.randn(side, side, generator=generator))
    f = torch.fft.fftfreq(side)
    grains = torch.fft.ifft2(spectrum * torch.exp(-((f[:, None] ** 2 + f[None, :] ** 2) * 150))).real
    return (0.6 + 0.2 * grains / grains.std()).to(torch.complex64)


def fit_at(error_m: float) -> Fit:
    """A fit whose distance is wrong by `error_m`, and whose probe and object are the true ones, refocused to match."""
    generator = torch.Generator().manual_seed(6)
    positions = 20 * torch.rand(16, 2, generator=generator) - 10
    window, size = 48, 96
    truth, probe = smooth(size), torch.from_numpy(soft_disc(window, 30.0))
    geometry = Geometry(WAVELENGTH, DISTANCE, PIXEL, (SIDE, SIDE))
    optics = NearField.build(geometry, window, padded=True)
    unknowns = Unknowns(truth, probe[None], positions, torch.arange(16), torch.ones(16, dtype=torch.bool))
    dark = np.full((SIDE, SIDE), 0.1, np.float32)

    def made(frames: np.ndarray) -> Fit:
        data = Ptychogram(frames, positions.numpy() * PIXEL, np.ones(16), geometry, dark, np.ones_like(dark, bool))
        return Fit(data, unknowns, optics, StabilisedAmplitude(), 1000.0, Priors(0.1), batch=4, seed=0)

    blank = made(np.ones((16, SIDE, SIDE), np.float32))
    expected = blank.model.intensities(unknowns.probe, truth, blank.chosen(torch.arange(16)), unknowns.offset_m)
    fit = made(expected.numpy())
    for field in (unknowns.probe, unknowns.object):
        field.copy_(Spectrum(field, PIXEL, WAVELENGTH).propagated(-error_m))
    unknowns.offset_m.fill_(error_m)
    return fit


def test_fields_propagate_there_and_back():
    field = smooth(60)
    there = Spectrum(field, PIXEL, WAVELENGTH).propagated(1e-3)
    back = Spectrum(there, PIXEL, WAVELENGTH).propagated(-1e-3)
    assert torch.allclose(back, field, atol=1e-5)
    assert not torch.allclose(there, field, atol=0.01)
    modes = Spectrum(torch.stack((field, 2 * field)), PIXEL, WAVELENGTH).propagated(1e-3)
    assert torch.allclose(modes[1], 2 * there, atol=1e-5)


@pytest.mark.parametrize("error_m", [-0.4e-3, 0.4e-3])
def test_a_wrong_distance_is_found_with_probe_and_object(error_m):
    fit = fit_at(error_m)
    moved = refocus(fit, WAVELENGTH)
    assert moved == pytest.approx(-error_m, abs=0.1e-3)
    assert float(fit.unknowns.offset_m) == pytest.approx(error_m + moved, abs=1e-9)
    assert float((fit.unknowns.object - smooth(96)).abs()[24:72, 24:72].max()) < 0.1


def test_a_distance_far_off_comes_nearer_in_bounded_moves():
    fit = fit_at(-3e-3)
    errors = [3e-3]
    for _ in range(3):
        refocus(fit, WAVELENGTH)
        errors.append(abs(float(fit.unknowns.offset_m)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.5e-3
    spacing = 1.5 * PIXEL**2 / WAVELENGTH
    assert max(-np.diff(errors)) <= 2.001 * spacing


def test_the_true_distance_stays():
    fit = fit_at(0.0)
    assert abs(refocus(fit, WAVELENGTH)) < 0.02e-3
