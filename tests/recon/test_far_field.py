"""Far-field data as others publish them: the object comes back, whichever way round the frames are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from recon.calibrate import CalibrationSettings, calibrate
from recon.dataset import DatasetError, Geometry, Ptychogram, turned
from recon.orient import Orientation, orient, oriented
from tests.recon.scans import spiral

SIDE, SIZE, COUNT = 40, 120, 70
GEOMETRY = Geometry(1e-10, 2.0, 75e-6, (SIDE, SIDE), far_field=True)
SETTINGS = CalibrationSettings(
    position_prior_m=2 * GEOMETRY.object_pixel_m,
    warm_epochs=2,
    joint_epochs=24,
    full_epochs=0,
    object_rate=0.03,
)


def probe() -> NDArray[np.complex64]:
    """A zone plate's focus, a little behind it: curved, half the window wide, without symmetry."""
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    light = np.exp(-((y / 6.5) ** 2 + (x / 5.5) ** 2)) * np.exp(0.05j * (y**2 + 0.7 * x**2) + 0.1j * x)
    return light.astype(np.complex64)


def sample() -> NDArray[np.complex128]:
    """Grey and phase blobs."""
    noise = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(2, SIZE, SIZE)), (0, 2.0, 2.0))
    noise /= noise.std((1, 2), keepdims=True)
    return np.clip(0.8 + 0.1 * noise[0], 0.1, 1) * np.exp(0.4j * noise[1])


@pytest.fixture(scope="module")
def scan() -> Ptychogram:
    """Poisson counts, transforms by numpy, positions half a pixel wrong."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(6)
    pitch = GEOMETRY.object_pixel_m
    true = spiral(COUNT, 28.0)
    light, frequency = probe().astype(complex), np.fft.fftfreq(SIDE)
    light *= np.sqrt(4e5 / (np.abs(light) ** 2).sum())
    frames = []
    for place in true:
        whole = np.round(place).astype(int)
        dy, dx = place - whole
        ramp = np.exp(-2j * np.pi * (frequency[:, None] * dy + frequency[None, :] * dx))
        top, left = whole + SIZE // 2 - SIDE // 2
        wave = np.fft.ifft2(np.fft.fft2(light) * ramp) * sample()[top : top + SIDE, left : left + SIDE]
        frames.append(np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2)
    return Ptychogram(
        frames=rng.poisson(np.stack(frames)).astype(np.float32),
        positions_m=(true + rng.normal(0, 0.5, true.shape)) * pitch,
        exposures_s=np.ones(COUNT),
        geometry=GEOMETRY,
        dark_variance=np.zeros((SIDE, SIDE), np.float32),
        mask=np.ones((SIDE, SIDE), bool),
        name="far field",
    )


def likeness(found: NDArray, radius: int = 24) -> float:
    """Of an object and the true one in the middle: modulus of their correlation, after the best shift of up to 3 px."""
    c, half = SIZE // 2, len(found) // 2
    true = sample()[c - radius : c + radius, c - radius : c + radius]
    best = 0.0
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            piece = found[half - radius + dy : half + radius + dy, half - radius + dx : half + radius + dx]
            step = (
                np.angle((piece[1:] * piece[:-1].conj() * (true[1:] * true[:-1].conj()).conj()).sum()),
                np.angle((piece[:, 1:] * piece[:, :-1].conj() * (true[:, 1:] * true[:, :-1].conj()).conj()).sum()),
            )
            y, x = np.indices(piece.shape)
            flat = piece * np.exp(-1j * (step[0] * y + step[1] * x))
            best = max(best, abs(np.vdot(true, flat)) / np.linalg.norm(true) / np.linalg.norm(flat))
    return float(best)


def test_the_object_comes_back_from_wrong_positions(scan):
    found = calibrate(scan, SETTINGS, probe=probe()[None])
    assert likeness(found.object) > 0.985
    assert found.loss[-1] < 1.35
    true = spiral(COUNT, 28.0)
    pitch = GEOMETRY.object_pixel_m

    def error(positions_m: NDArray) -> float:
        off = positions_m / pitch - true
        return float(np.sqrt(((off - off.mean(0)) ** 2).sum(1).mean()))

    assert error(found.illumination.positions_m) < 0.4 * error(scan.positions_m)
    assert found.illumination.geometry == GEOMETRY
    assert "far field" in found.plan[0]


def test_the_probe_to_begin_with_must_fit(scan):
    with pytest.raises(DatasetError, match="32 x 32 pixels to begin with, but the window has 40 x 40"):
        calibrate(scan, SETTINGS, probe=np.ones((1, 32, 32), np.complex64))


@pytest.mark.parametrize("wrong", [Orientation(0, 1), Orientation(6, -1)], ids=lambda o: o.name)
def test_frames_that_lie_wrong_are_found(scan, wrong):
    """Turned frames, as a camera on its side gives them: what turns them back comes first."""
    ways = (0, 2, 5, 6)
    verdict = orient(oriented(scan, wrong), SETTINGS, ways=ways, frames=24, epochs=(2, 3), probe=probe()[None])
    picture = np.arange(6).reshape(2, 3)
    way = next(k for k in range(8) if np.array_equal(turned(turned(picture, wrong.frames), k), picture))
    right = Orientation(way, wrong.sign)
    assert verdict.best in (right, right.same)
    assert verdict.clear


def test_the_pitch_of_the_object_follows_from_the_side_of_the_frame():
    assert GEOMETRY.object_pixel_m == pytest.approx(1e-10 * 2.0 / (SIDE * 75e-6))
    assert replace(GEOMETRY, far_field=False).object_pixel_m == 75e-6
    with pytest.raises(DatasetError, match="near field"):
        GEOMETRY.fresnel_scaled(1e-3)
