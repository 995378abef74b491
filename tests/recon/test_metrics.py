"""Scores: right for a true change, blind to the gauge freedoms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.metrics import (
    dice,
    distance_error_m,
    fit_positions,
    probe_error,
    psnr_db,
    resample,
    stretched_probe,
    success_db,
)
from simulators.optics import Illumination, Propagator

WAVELENGTH, PIXEL, DISTANCE = 561e-9, 10e-6, 20e-3


def probe(**aberrations):
    return Illumination(300e-6, 40e-6, **aberrations).field(PIXEL, 64).astype(np.complex128)


def moved(field, shift, tilt, scalar):
    f = np.fft.fftfreq(len(field))
    axis = np.arange(len(field)) - len(field) // 2
    out = np.fft.ifft2(np.fft.fft2(field) * np.exp(-2j * np.pi * (f[:, None] * shift[0] + f[None, :] * shift[1])))
    return scalar * out * np.exp(2j * np.pi * (tilt[0] * axis[:, None] + tilt[1] * axis[None, :]) / len(field))


def test_psnr_is_equation_3_over_the_mask():
    truth = np.zeros((4, 4))
    estimate = np.full((4, 4), 0.1)
    mask = np.ones((4, 4), bool)
    assert psnr_db(estimate, truth, mask) == pytest.approx(20)
    estimate[0] = 0.9
    mask[0] = False
    assert psnr_db(estimate, truth, mask) == pytest.approx(20)
    # Amplitudes, clipped, never rescaled.
    assert psnr_db(np.exp(1j) * estimate, truth, mask) == pytest.approx(20)
    assert psnr_db(np.full((4, 4), 1.7), np.ones((4, 4)), mask) == pytest.approx(120)
    assert psnr_db(np.full((4, 4), 0.5), np.ones((4, 4)), mask) == pytest.approx(20 * np.log10(2))


def test_dice_counts_the_overlap():
    a, b = np.zeros((2, 4, 4))
    a[0], b[:, 0] = 0.9, 0.8
    mask = np.ones((4, 4), bool)
    assert dice(a, b, mask) == pytest.approx(2 * 1 / 8)
    assert dice(a, a, mask) == 1
    assert dice(a, 0 * a, mask) == 0
    assert dice(0.4 * a, 0 * a, mask) == 1
    mask[0, 0] = False
    assert dice(a, b, mask) == 0
    assert dice(-1j * a, a, mask) == 1


def test_success_lies_midway_in_decibels():
    assert success_db(12, 24) == 18


small = st.floats(-1e-3, 1e-3)


@settings(max_examples=40)
@given(scale=st.floats(0.7, 1.4), dy=small, dx=small, seed=st.integers(0, 99))
def test_shift_and_scale_of_positions_are_recovered_and_leave_no_error(scale, dy, dx, seed):
    truth = np.random.default_rng(seed).normal(size=(12, 2)) * 1e-4
    fit = fit_positions(scale * truth + [dy, dx], truth)
    assert fit.scale == pytest.approx(scale, rel=1e-9)
    assert fit.shift_m == pytest.approx([dy, dx], abs=1e-12)
    assert fit.rms_m < 1e-12


@settings(max_examples=20)
@given(sigma=st.floats(1e-7, 5e-6), seed=st.integers(0, 99))
def test_scatter_of_positions_is_their_rms(sigma, seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(400, 2)) * 1e-4
    fit = fit_positions(1.05 * (truth + sigma * rng.normal(size=truth.shape)), truth)
    assert fit.rms_m == pytest.approx(np.sqrt(2) * sigma, rel=0.15)


def test_rotation_is_an_error_of_positions():
    truth = np.random.default_rng(0).normal(size=(30, 2)) * 1e-4
    turned = truth @ np.array([[np.cos(0.02), -np.sin(0.02)], [np.sin(0.02), np.cos(0.02)]])
    spread = np.sqrt(((truth - truth.mean(0)) ** 2).sum(1).mean())
    assert fit_positions(turned, truth).rms_m == pytest.approx(np.tan(0.02) * spread, rel=1e-3)


def test_positions_that_were_never_visited_do_not_count():
    truth = np.random.default_rng(1).normal(size=(6, 2))
    estimate = 1.1 * truth
    truth[2] = np.nan
    assert fit_positions(estimate, truth).scale == pytest.approx(1.1)
    with pytest.raises(ValueError, match="1 true positions are known, 2 are needed"):
        fit_positions(estimate[:1], truth[:1])


def test_distance_and_scale_together_are_no_error():
    truth, scale = 20e-3, 1.03
    assert distance_error_m(truth * scale, truth, scale) == pytest.approx(0, abs=1e-12)
    assert distance_error_m(truth + 1e-4, truth, 1.0) == pytest.approx(1e-4)
    assert abs(distance_error_m(truth * scale, truth, 1.0)) > 5e-4


@settings(max_examples=10)
@given(
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    tilt=st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    size=st.floats(0.1, 30),
    phase=st.floats(-3, 3),
)
def test_the_probe_error_ignores_shift_ramp_and_scalar(shift, tilt, size, phase):
    truth = probe(defocus_waves=0.1, coma_waves=0.05)
    estimate = moved(truth, shift, tilt, size * np.exp(1j * phase))
    assert probe_error(estimate, truth, PIXEL, WAVELENGTH, DISTANCE) < 0.01


def test_the_probe_error_sees_a_true_change_and_its_size():
    truth = probe(defocus_waves=0.1)
    assert probe_error(probe(defocus_waves=-0.1), truth, PIXEL, WAVELENGTH, DISTANCE) > 0.2
    noise = np.random.default_rng(2).normal(size=(2, 64, 64))
    noise = (noise[0] + 1j * noise[1]) * (np.abs(truth) > 0.01 * np.abs(truth).max())
    noise *= 0.1 * np.linalg.norm(truth) / np.linalg.norm(noise)
    assert probe_error(truth + noise, truth, PIXEL, WAVELENGTH, DISTANCE) == pytest.approx(0.1, rel=0.03)


def test_resampling_keeps_values_and_the_centre():
    fine = Illumination(300e-6, 60e-6, 0.1).field(5e-6, 128)
    coarse = Illumination(300e-6, 60e-6, 0.1).field(10e-6, 64)
    # Unit energies: the amplitude goes with the pitch.
    ours = resample(fine, 5e-6, 64, 10e-6)
    np.testing.assert_allclose(ours * 2, coarse, atol=2e-3 * np.abs(coarse).max())
    assert np.abs(resample(fine, 5e-6, 200, 10e-6)[:20]).max() == 0


def test_a_stretched_probe_at_a_stretched_distance_gives_the_same_frame():
    scale, fine = 1.1, PIXEL / 2
    light = Illumination(300e-6, 40e-6, defocus_waves=0.1, astigmatism_waves=0.06)
    truth = light.field(fine, 128).astype(np.complex128)

    def frame(field, distance_m):
        optics = Propagator.build(WAVELENGTH, distance_m, (96, 96), fine, len(field))
        return optics.intensity(field.astype(np.complex64)).astype(np.float64)

    true = frame(truth, DISTANCE)
    other = frame(stretched_probe(truth, fine, 128, fine, scale, WAVELENGTH, DISTANCE), scale * DISTANCE)
    # The stretched one has its own size, and with it its own energy.
    other *= true.sum() / other.sum()
    plain = frame(truth, scale * DISTANCE)
    assert np.linalg.norm(other - true) < 0.01 * np.linalg.norm(true)
    assert np.linalg.norm(plain - true) > 0.03 * np.linalg.norm(true)
