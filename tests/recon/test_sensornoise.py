"""Offset and read noise from pixels without light: right within their errors, whatever photons and outliers do."""

from __future__ import annotations

import numpy as np
import pytest

from recon.dataset import DatasetError
from recon.sensornoise import estimate_noise, glowing_pixels, noisy_pixels, unlit_pixels

SHAPE = (16, 150, 150)
OFFSET = 0.004


def frames(rng, sigma, rate, gain=None):
    """Low-dose frames of unlit pixels with a common offset, electrons."""
    x = rng.poisson(rate, SHAPE) + OFFSET + sigma * rng.normal(size=SHAPE)
    if gain is not None:
        black = rng.uniform(0, 1, SHAPE[1:])
        x = (np.rint(x / gain + black) - black) * gain
    return x.astype(np.float32)


def pulls(sigma, rate, gain, seeds):
    """(S, 2) errors of offset and read noise over their standard errors, from darks whose sigma is 5 % too large."""
    true = np.sqrt(sigma**2 + (0 if gain is None else gain**2 / 12))
    darks = np.full(SHAPE[1:], (1.05 * true) ** 2, np.float32)
    found = []
    for seed in range(seeds):
        said = estimate_noise(
            frames(np.random.default_rng(seed), sigma, rate, gain),
            np.ones(SHAPE[1:], bool),
            darks,
            electrons_per_adu=gain,
        )
        found.append(
            ((said.offset_e - OFFSET) / said.offset_sigma_e, (said.read_noise_e - true) / said.read_noise_sigma_e)
        )
        # Twenty times better than the darks had it.
        assert said.read_noise_e == pytest.approx(true, rel=0.0025)
        assert np.sqrt(said.corrected(darks)).mean() == pytest.approx(true, rel=0.0025)
    return np.array(found)


@pytest.mark.parametrize(
    ("sigma", "rate", "gain"),
    [(0.3, 2e-4, None), (0.3, 0.0, None), (0.3, 2e-3, 0.1), (2.3, 3e-4, None), (2.3, 3e-4, 2.6), (0.4, 5e-4, 1.0)],
)
def test_offset_and_read_noise_lie_within_their_errors(sigma, rate, gain):
    found = pulls(sigma, rate, gain, 8)
    assert np.abs(found).max() < 3.7
    assert (np.sqrt((found**2).mean(0)) < 1.8).all()
    assert (np.sqrt((found**2).mean(0)) > 0.4).all()


def test_photons_stand_apart_at_small_read_noise_and_are_given_back_as_a_rate():
    rng = np.random.default_rng(3)
    variance = np.full(SHAPE[1:], 0.09, np.float32)
    said = estimate_noise(frames(rng, 0.3, 3e-3), np.ones(SHAPE[1:], bool), variance)
    assert abs(said.rate_e - 3e-3) < 4 * said.rate_sigma_e
    assert said.rate_sigma_e < 3e-4
    # A plain mean would have taken them for an offset.
    assert abs(said.offset_e - OFFSET) < 4 * said.offset_sigma_e < 3e-3


def test_what_cannot_be_told_from_an_offset_is_in_its_error():
    rng = np.random.default_rng(4)
    variance = np.full(SHAPE[1:], 2.3**2, np.float32)
    said = estimate_noise(frames(rng, 2.3, 0.0), np.ones(SHAPE[1:], bool), variance, stray_e=0.02)
    plain = 2.3 / np.sqrt(said.readings)
    assert said.offset_sigma_e > 1.5 * plain
    assert said.rate_sigma_e > 0.005
    shared = estimate_noise(frames(rng, 2.3, 0.0), np.ones(SHAPE[1:], bool), variance, darks=16)
    alone = estimate_noise(frames(rng, 2.3, 0.0), np.ones(SHAPE[1:], bool), variance)
    # Sixteen frames minus the mean of sixteen darks have that error in common.
    assert shared.offset_sigma_e == pytest.approx(np.sqrt(2) * alone.offset_sigma_e, rel=0.05)


def test_cosmic_rays_and_clipped_readings_do_not_matter():
    rng = np.random.default_rng(5)
    clean = frames(rng, 0.3, 2e-4)
    hit = rng.random(SHAPE) < 1e-3
    dirty = np.where(hit, clean + rng.exponential(6.0, SHAPE), clean).astype(np.float32)
    variance, unlit = np.full(SHAPE[1:], 0.09, np.float32), np.ones(SHAPE[1:], bool)
    said = estimate_noise(dirty, unlit, variance)
    assert abs(said.offset_e - OFFSET) < 4 * said.offset_sigma_e
    assert abs(said.read_noise_e - 0.3) < 4 * said.read_noise_sigma_e
    assert 1e-4 < said.outliers < 2e-3
    clipped = np.where(hit, 4000.0, clean).astype(np.float32)
    same = estimate_noise(clipped, unlit, variance, saturated=hit)
    assert same.readings == clean.size - hit.sum()
    assert abs(same.offset_e - OFFSET) < 4 * same.offset_sigma_e


def test_pixels_of_another_noise_are_not_asked():
    rng = np.random.default_rng(6)
    loud = np.zeros(SHAPE[1:], bool)
    loud[:, ::10] = True
    x = frames(rng, 0.3, 0.0)
    x[:, loud] *= 3
    said = estimate_noise(x, np.ones(SHAPE[1:], bool), np.where(loud, 0.81, 0.09).astype(np.float32))
    assert said.readings == SHAPE[0] * (~loud).sum()
    assert said.scale == pytest.approx(1, abs=0.01)


def test_unlit_is_what_stays_dark_in_the_model_and_is_good():
    expected = np.fromfunction(lambda y, x: 10.0 ** (-(y + 0 * x) / 10), (60, 60))
    good = np.ones((60, 60), bool)
    good[-1] = False
    dark = unlit_pixels(expected, good)
    assert dark.sum() == 60 * 29
    assert not dark[29].any()
    assert dark[30].all()
    with pytest.raises(
        DatasetError, match=r"run.h5: 60 pixels stay below 1.6e-06 electrons, it takes 1000 .*darks' values"
    ):
        unlit_pixels(expected, good, 1.6e-6, "run.h5")


def test_too_little_and_too_even_is_refused():
    few = np.zeros((40, 50), bool)
    few[0, :30] = True
    variance = np.full((40, 50), 0.09, np.float32)
    with pytest.raises(DatasetError, match=r"low.h5: 90 readings of ordinary unlit pixels, it takes 2000"):
        estimate_noise(np.zeros((3, 40, 50), np.float32), few, variance, source="low.h5")
    with pytest.raises(DatasetError, match=r"frames: unlit pixels do not scatter"):
        estimate_noise(np.zeros((3, 40, 50), np.float32), np.ones((40, 50), bool), variance)
    with pytest.raises(DatasetError, match=r"0 readings"):
        estimate_noise(np.zeros((3, 40, 50), np.float32), np.zeros((40, 50), bool), variance)


def test_telegraph_pixels_are_those_whose_variance_300_darks_cannot_explain():
    rng = np.random.default_rng(7)
    honest = 9.0 * rng.chisquare(299, (300, 300)) / 299
    assert honest.std() / 9 == pytest.approx(0.082, abs=0.001)
    assert not noisy_pixels(honest, 300).any()
    telegraph = honest.copy()
    telegraph[::30, ::30] *= 2
    assert noisy_pixels(telegraph, 300)[::30, ::30].mean() > 0.97
    assert noisy_pixels(telegraph, 300).sum() <= 100
    # Noise with tails scatters more, and is then judged by its own spread.
    wide = 9.0 * np.exp(0.2 * rng.normal(size=(300, 300)))
    assert noisy_pixels(wide, 300).mean() < 1e-3


def test_pixels_that_glow_in_every_frame_are_hot_and_one_photon_is_not():
    rng = np.random.default_rng(8)
    expected = np.full((80, 90), 0.01)
    x = (rng.poisson(expected, (16, 80, 90)) + 0.3 * rng.normal(size=(16, 80, 90))).astype(np.float32)
    variance = np.full((80, 90), 0.09, np.float32)
    assert glowing_pixels(x, expected, variance).sum() <= 1
    x[:, 10, ::9] += 1.0
    assert glowing_pixels(x, expected, variance)[10, ::9].all()
    bright = np.where(np.arange(90) == 0, 50.0, expected).astype(np.float32)
    lit = x + rng.poisson(np.maximum(bright - expected, 0), x.shape)
    # Under fifty electrons the extra one is nothing.
    assert not glowing_pixels(lit.astype(np.float32), bright, variance)[:, 0].any()
