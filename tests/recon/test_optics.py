"""The propagator against closed forms, its own symmetries, and a second implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from recon.optics import Propagator, band_limit, critical_distance, longitudinal_wavenumber
from simulators import optics as independent
from simulators.objects import Sample, draw_digit

WAVELENGTH = 561e-9
# The paper's scene (1024 px of 3.45 um at 65 mm, pinhole 500 um) at half its width and a quarter of its distance: every
# Fresnel number width^2/(wavelength distance) is the same.
FRAME, PIXEL, DISTANCE = 512, 3.45e-6, 65e-3 / 4


def random_field(shape, seed, inside=None):
    rng = np.random.default_rng(seed)
    field = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    if inside is not None:
        field = np.fft.ifft2(np.fft.fft2(field) * inside)
    return torch.from_numpy(field.astype(np.complex64))


def test_the_band_limit_is_equation_13():
    window, distance = 3.5328e-3, 65e-3
    assert band_limit(window, WAVELENGTH, distance) == pytest.approx(
        1 / (WAVELENGTH * np.sqrt((2 * distance / window) ** 2 + 1)), rel=1e-12
    )
    assert band_limit(window, WAVELENGTH, distance) == pytest.approx(48.4e3, rel=2e-3)


def test_the_transfer_function_is_zero_beyond_the_band_limit_of_each_axis_and_a_pure_phase_inside():
    shape = (96, 160)
    propagator = Propagator.build(shape, PIXEL, WAVELENGTH, 20e-3)
    size = propagator.transfer.abs().numpy()
    v, u = (np.fft.fftfreq(n, PIXEL) for n in shape)
    inside = (np.abs(v) <= band_limit(96 * PIXEL, WAVELENGTH, 20e-3))[:, None] & (
        np.abs(u) <= band_limit(160 * PIXEL, WAVELENGTH, 20e-3)
    )[None]
    assert 0.01 < inside.mean() < 0.9
    np.testing.assert_allclose(size, inside, atol=1e-6)
    assert Propagator.build(shape, PIXEL, WAVELENGTH, 20e-3, limited=False).transfer.abs().min() > 0.999


def test_the_critical_distance_is_where_the_band_limit_reaches_nyquist():
    distance = critical_distance(1024, PIXEL, WAVELENGTH)
    assert distance == pytest.approx(21.7e-3, rel=2e-3)
    # Paraxial: half the sampling theorem's frequency is at stake, to the square of the angle.
    assert band_limit(1024 * PIXEL, WAVELENGTH, distance) == pytest.approx(1 / (2 * PIXEL), rel=0.01)


def test_the_wave_number_keeps_its_digits_without_the_carrier():
    kappa, v, u = longitudinal_wavenumber((8, 8), 1e-3, WAVELENGTH)
    # At such low frequencies the paraxial -pi lambda f^2 is exact to 1e-12, while a plain difference of two roots of
    # 1.8e6 has only eight digits left.
    expected = -np.pi * WAVELENGTH * (v[:, None] ** 2 + u[None, :] ** 2)
    np.testing.assert_allclose(kappa, expected, rtol=1e-6)
    fine, v, u = longitudinal_wavenumber((64, 64), 0.5e-6, WAVELENGTH)
    exact = 2 * np.pi * (np.sqrt(1 / WAVELENGTH**2 - v[:, None] ** 2 - u[None, :] ** 2) - 1 / WAVELENGTH)
    np.testing.assert_allclose(fine[1:], exact[1:], rtol=1e-9)


def test_energy_inside_the_band_is_conserved_and_outside_it_removed():
    propagator = Propagator.build((128, 96), PIXEL, WAVELENGTH, 15e-3)
    inside = propagator.transfer.abs().numpy() > 0.5
    kept = random_field((128, 96), 1, inside)
    lost = random_field((128, 96), 2, ~inside)
    assert float(propagator(kept).abs().square().sum() / kept.abs().square().sum()) == pytest.approx(1, abs=1e-5)
    assert float(propagator(lost).abs().square().sum() / lost.abs().square().sum()) < 1e-9


def test_a_gaussian_beam_spreads_as_its_closed_form_in_amplitude_and_phase():
    n, waist, distance = 256, 60e-6, 30e-3
    axis = (np.arange(n) - n // 2) * 6e-6
    r2 = axis[:, None] ** 2 + axis[None, :] ** 2
    rayleigh = np.pi * waist**2 / WAVELENGTH
    propagator = Propagator.build((n, n), 6e-6, WAVELENGTH, distance)
    field = propagator(torch.from_numpy(np.exp(-r2 / waist**2).astype(np.complex64))).numpy()
    # Paraxial, carrier dropped: exp(-r^2/(w0^2 q))/q with q = 1 + i z/z_R; the next order is (wavelength/waist)^2.
    q = 1 + 1j * distance / rayleigh
    expected = np.exp(-r2 / (waist**2 * q)) / q
    assert distance > 1.4 * rayleigh
    np.testing.assert_allclose(field, expected, atol=3e-4)


def test_the_way_back_undoes_the_way_forth():
    distance = 12e-3
    forth = Propagator.build((96, 96), PIXEL, WAVELENGTH, distance)
    field = random_field((96, 96), 3, forth.transfer.abs().numpy() > 0.5)
    back = forth(forth(field), torch.tensor(-2 * distance))
    assert float((back - field).abs().max() / field.abs().max()) < 1e-4


def test_propagation_is_reciprocal():
    # A source at a seen from b is a source at b seen from a.
    propagator = Propagator.build((64, 64), PIXEL, WAVELENGTH, 5e-3)
    a, b = torch.zeros(2, 64, 64, dtype=torch.complex64)
    a[20, 11], b[37, 50] = 1, 1
    assert complex(propagator(a)[37, 50]) == pytest.approx(complex(propagator(b)[20, 11]), rel=1e-3)
    assert abs(complex(propagator(a)[37, 50])) > 1e-5


def test_an_offset_equals_a_propagator_built_at_that_distance():
    offset = 0.4e-3
    about = Propagator.build((128, 128), PIXEL, WAVELENGTH, 10e-3)
    there = Propagator.build((128, 128), PIXEL, WAVELENGTH, 10e-3 + offset)
    common = (about.transfer.abs() > 0.5) & (there.transfer.abs() > 0.5)
    difference = (about.transfer_at(torch.tensor(offset)) - there.transfer).abs()[common]
    assert float(difference.max()) < 1e-4
    assert about.transfer_at(None) is about.transfer


def test_the_distance_derivative_is_the_finite_difference():
    propagator = Propagator.build((64, 64), PIXEL, WAVELENGTH, 8e-3)
    field = random_field((64, 64), 4)
    pattern = torch.from_numpy(np.random.default_rng(5).uniform(size=(64, 64)).astype(np.float32))

    def value(offset):
        return (propagator(field, offset).abs().square() * pattern).double().sum()

    offset = torch.tensor(1e-4, requires_grad=True)
    (slope,) = torch.autograd.grad(value(offset), offset)
    step = 2e-6
    finite = (float(value(torch.tensor(1e-4 + step))) - float(value(torch.tensor(1e-4 - step)))) / (2 * step)
    assert float(slope) == pytest.approx(finite, rel=1e-2)
    assert abs(finite) > 1


def scenes():
    illumination = independent.Illumination(250e-6, 6e-6, 0.1, 0.06, 0.04)
    size = illumination.window(PIXEL)
    sample = Sample.from_drawing(draw_digit(4, 0), 0.5e-3, 8e-3, pitch_m=PIXEL)
    binary = (np.abs(sample.transmission(PIXEL, (size, size))) > 0.5).astype(float)
    probe = illumination.field(PIXEL, size)
    return {"binary": probe * binary, "smooth": probe * ndimage.gaussian_filter(binary, 3)}


@pytest.mark.parametrize("name", ["binary", "smooth"])
def test_at_the_papers_fresnel_number_it_agrees_with_an_independent_finer_window(name):
    wave = scenes()[name].astype(np.complex64)
    truth = independent.Propagator.build(WAVELENGTH, DISTANCE, (FRAME, FRAME), PIXEL, len(wave), padding=4).intensity(
        wave
    )

    def error(size):
        field = np.zeros((size, size), np.complex64)
        corner = size // 2 - len(wave) // 2
        field[corner : corner + len(wave), corner : corner + len(wave)] = wave
        there = Propagator.build((size, size), PIXEL, WAVELENGTH, DISTANCE)(torch.from_numpy(field)).numpy()
        corner = size // 2 - FRAME // 2
        there = np.abs(there[corner : corner + FRAME, corner : corner + FRAME]) ** 2
        return np.abs(there - truth).sum() / truth.sum()

    unpadded, padded = error(FRAME), error(2 * FRAME)
    assert padded < 0.005
    assert unpadded < 0.03
