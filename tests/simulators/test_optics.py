"""Propagation against closed forms, a direct computation, and its own symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.objects import Sample, draw_digit
from simulators.optics import Illumination, Propagator, band_limit

WAVELENGTH = 561e-9


def direct_intensity(exit_wave, shape, pixel, distance, oversampling, size, limited=True):
    """The same physics without any of the shortcuts: a square window of `size`, full transforms, double precision."""
    fine = pixel / oversampling
    n = len(exit_wave)
    field = np.zeros((size, size), np.complex128)
    corner = size // 2 - n // 2
    field[corner : corner + n, corner : corner + n] = exit_wave
    f = np.fft.fftfreq(size, fine)
    u, v = np.meshgrid(f, f)
    transfer = np.exp(2j * np.pi * distance * (np.sqrt(1 / WAVELENGTH**2 - u**2 - v**2) - 1 / WAVELENGTH))
    if limited:
        limit = 1 / (WAVELENGTH * np.sqrt((2 * distance / (size * fine)) ** 2 + 1))
        transfer *= (np.abs(u) <= limit) & (np.abs(v) <= limit)
    # Centre of the fine pixels of camera pixel n//2, which are an even number about the axis when oversampled by two.
    transfer *= np.exp(-1j * np.pi * (oversampling - 1) * (u + v) * fine)
    intensity = np.abs(np.fft.ifft2(np.fft.fft2(field) * transfer)) ** 2
    rows, columns = shape
    top, left = (size // 2 - k // 2 * oversampling for k in shape)
    crop = intensity[top : top + rows * oversampling, left : left + columns * oversampling]
    return crop.reshape(rows, oversampling, columns, oversampling).sum(axis=(1, 3))


def exit_wave(pixel, illumination, height):
    size = illumination.window(pixel)
    sample = Sample.from_drawing(draw_digit(4, 0), height, 8e-3, pitch_m=height / 200)
    return illumination.field(pixel, size) * sample.transmission(pixel, (size, size), (0.05 * height, -0.03 * height))


def test_band_limit_is_equation_13_of_matsushima_and_shimobaba():
    assert band_limit(7.0656e-3, WAVELENGTH, 65e-3) == pytest.approx(
        1 / (WAVELENGTH * np.sqrt((2 * 65e-3 / 7.0656e-3) ** 2 + 1)), rel=1e-12
    )
    assert band_limit(7.0656e-3, WAVELENGTH, 65e-3) == pytest.approx(96.7e3, rel=2e-3)


def test_illumination_is_a_soft_disc_of_unit_energy():
    illumination = Illumination(500e-6, 12e-6, 0.1, 0.06, 0.04)
    size = illumination.window(2e-6)
    field = illumination.field(2e-6, size)
    assert np.sum(np.abs(field) ** 2) == pytest.approx(1, abs=1e-5)
    assert field.dtype == np.complex64
    profile = np.abs(field[size // 2])
    profile /= profile[size // 2]
    at = (np.arange(size) - size // 2) * 2e-6
    right = at > 0
    assert np.interp(-0.5, -profile[right], at[right]) == pytest.approx(250e-6, abs=0.5e-6)
    width = np.interp(-0.1, -profile[right], at[right]) - np.interp(-0.9, -profile[right], at[right])
    assert width == pytest.approx(12e-6, rel=0.03)
    assert profile[0] < 1e-5
    assert profile[-1] < 1e-5


def test_aberrations_are_waves_at_the_rim():
    def rim_phase(**waves):
        size = 102
        field = Illumination(500e-6, 10e-6, **waves).field(5e-6, size)
        return np.angle(field[size // 2 + 50, size // 2]), np.angle(field[size // 2, size // 2 + 50])

    assert rim_phase(defocus_waves=0.1) == pytest.approx((0.2 * np.pi, 0.2 * np.pi), abs=1e-4)
    assert rim_phase(astigmatism_waves=0.1) == pytest.approx((0.2 * np.pi, -0.2 * np.pi), abs=1e-4)
    assert rim_phase(coma_waves=0.1) == pytest.approx((0.2 * np.pi, 0.0), abs=1e-4)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_energy_is_conserved(oversampling):
    illumination = Illumination(300e-6, 30e-6, 0.1)
    pixel = 8e-6
    wave = illumination.field(pixel / oversampling, illumination.window(pixel / oversampling))
    propagator = Propagator.build(WAVELENGTH, 10e-3, (128, 128), pixel, len(wave), oversampling)
    assert propagator.intensity(wave).sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_gaussian_beam(oversampling):
    pixel, waist, distance, shape = 8e-6, 60e-6, 30e-3, (96, 128)
    fine = pixel / oversampling
    size = 72 * oversampling
    axis = (np.arange(size) - size // 2) * fine
    wave = np.exp(-(axis[:, None] ** 2 + axis**2) / waist**2)
    wave = (wave / np.sqrt(np.sum(wave**2))).astype(np.complex64)
    found = Propagator.build(WAVELENGTH, distance, shape, pixel, size, oversampling).intensity(wave)

    radius = waist * np.sqrt(1 + (distance * WAVELENGTH / (np.pi * waist**2)) ** 2)
    y, x = ((np.arange(n) - n // 2) * pixel for n in shape)
    expected = 2 / (np.pi * radius**2) * np.exp(-2 * (y[:, None] ** 2 + x**2) / radius**2) * pixel**2
    assert np.abs(found - expected).sum() / expected.sum() < 2e-3
    assert np.unravel_index(found.argmax(), shape) == (48, 64)


def test_talbot_self_image():
    size, pixel = 128, 5e-6
    period = 16 * pixel
    # Exact Talbot length: the first order's phase lags by a whole turn.
    length = 1 / (1 / WAVELENGTH - np.sqrt(1 / WAVELENGTH**2 - 1 / period**2))
    grating = 1 + 0.5 * np.cos(2 * np.pi * (np.arange(size) - size // 2) * pixel / period)
    wave = np.tile(grating, (size, 1)).astype(np.complex64)

    def at(distance):
        return Propagator.build(WAVELENGTH, distance, (size, size), pixel, size, 1, 1).intensity(wave)

    assert at(length) == pytest.approx(np.abs(wave) ** 2, rel=1e-3)
    assert at(length / 2) == pytest.approx(np.abs(np.roll(wave, 8, axis=1)) ** 2, rel=1e-3)
    # Halfway to the half, the modulation is in the phase: only the second harmonic of |1 + i/2 cos|^2 is left.
    assert at(length / 4) == pytest.approx(1 + 0.25 * np.tile((grating - 1) * 2, (size, 1)) ** 2, rel=1e-3)


@pytest.mark.parametrize(("shape", "oversampling"), [((256, 256), 1), ((128, 128), 2), ((200, 256), 1)])
def test_shortcuts_agree_with_a_direct_computation_in_a_window_twice_as_wide(shape, oversampling):
    """A quarter of the paper's bench in every lateral dimension, at the distance with the same N dx^2/(lambda z)."""
    pixel, distance = 3.45e-6 * oversampling, 65.46e-3 / 4
    illumination = Illumination(250e-6, 6e-6, 0.1, 0.06, 0.04)
    wave = exit_wave(pixel / oversampling, illumination, 0.5e-3)
    found = Propagator.build(WAVELENGTH, distance, shape, pixel, len(wave), oversampling).intensity(wave)
    reference = direct_intensity(wave, shape, pixel, distance, oversampling, 1024)
    assert found.dtype == np.float32
    assert np.abs(found - reference).sum() / reference.sum() < 5e-3


def test_pruned_transforms_agree_with_full_ones_to_single_precision():
    shape, pixel, distance = (64, 64), 13.8e-6, 20e-3
    wave = exit_wave(pixel / 2, Illumination(400e-6, 30e-6, 0.1, 0.0, 0.05), 0.5e-3)
    found = Propagator.build(WAVELENGTH, distance, shape, pixel, len(wave), 2, 2).intensity(wave)
    reference = direct_intensity(wave, shape, pixel, distance, 2, 256)
    assert np.abs(found - reference).max() < 1e-5 * reference.max()


@pytest.mark.parametrize("oversampling", [1, 2])
def test_symmetric_illumination_gives_a_symmetric_pattern_about_the_middle_pixel(oversampling):
    illumination = Illumination(500e-6, 30e-6, 0.2)
    pixel = 13.8e-6
    wave = illumination.field(pixel / oversampling, illumination.window(pixel / oversampling))
    pattern = Propagator.build(WAVELENGTH, 20e-3, (128, 128), pixel, len(wave), oversampling).intensity(wave)
    inner = pattern[1:, 1:]  # index 64 is the axis
    for image in (inner[::-1], inner[:, ::-1], inner.T):
        assert np.abs(image - inner).max() < 1e-4 * inner.max()


def test_moving_the_object_is_moving_the_beam_and_the_camera():
    """Beam at r + shift on the object = beam at r on an object drawn shifted by -shift, also for parts of a pixel."""
    pixel, distance, shape = 8e-6, 20e-3, (128, 128)
    illumination = Illumination(300e-6, 24e-6)
    size = illumination.window(pixel)
    probe = illumination.field(pixel, size)
    propagator = Propagator.build(WAVELENGTH, distance, shape, pixel, size)
    sample = Sample.from_drawing(draw_digit(3, 1), 0.5e-3, 8e-3, pitch_m=1e-6)
    shift = (2.7e-6, -3.3e-6)
    moved = propagator.intensity(probe * sample.transmission(pixel, (size, size), shift))

    # The whole experiment shifted the other way: the probe by Fourier shift, then the pattern back.
    v, u = np.meshgrid(np.fft.fftfreq(size, pixel), np.fft.fftfreq(size, pixel), indexing="ij")
    ramp = np.exp(-2j * np.pi * (v * shift[0] + u * shift[1]))
    probe_moved = np.fft.ifft2(np.fft.fft2(probe) * ramp).astype(np.complex64)
    pattern = propagator.intensity(probe_moved * sample.transmission(pixel, (size, size)))
    v, u = np.meshgrid(np.fft.fftfreq(128, pixel), np.fft.fftfreq(128, pixel), indexing="ij")
    back = np.fft.ifft2(np.fft.fft2(pattern) * np.exp(2j * np.pi * (v * shift[0] + u * shift[1]))).real
    # Not exact: the two exit waves sample the binary object's edges at different places.
    assert np.abs(back - moved).sum() / moved.sum() < 0.03
    unmoved = propagator.intensity(probe * sample.transmission(pixel, (size, size)))
    assert np.abs(unmoved - moved).sum() / moved.sum() > 0.06


def test_an_exit_wave_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="padded window has only 64"):
        Propagator.build(WAVELENGTH, 20e-3, (32, 32), 8e-6, 70)
    propagator = Propagator.build(WAVELENGTH, 20e-3, (32, 32), 8e-6, 40)
    with pytest.raises(ValueError, match="expected 40 pixels"):
        propagator.intensity(np.zeros((30, 30), np.complex64))
