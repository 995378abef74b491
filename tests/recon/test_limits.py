"""What physics and memory forbid is refused before anything is computed, with the bounds and their reason."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recon import stages
from recon.calibrate import batch_of
from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.limits import MOST_MODES, Range
from recon.stages import CalibrationSettings

GEOMETRY = Geometry(561e-9, 20e-3, 10e-6, (16, 16))


def scan(geometry: Geometry = GEOMETRY, frames: int = 4, reach_m: float = 1e-4) -> Ptychogram:
    side = geometry.shape
    return Ptychogram(
        frames=np.ones((frames, *side), np.float32),
        positions_m=np.linspace(-reach_m, reach_m, 2 * frames).reshape(frames, 2),
        exposures_s=np.ones(frames),
        geometry=geometry,
        dark_variance=np.ones(side, np.float32),
        mask=np.ones(side, bool),
        name="some.cxi",
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, 2.1, 0.9e-3])
def test_a_range_holds_its_ends_and_nothing_outside(value):
    limit = Range(1e-3, 2.0, "m", "for a test")
    assert limit.holds(1e-3)
    assert limit.holds(2.0)
    assert not limit.holds(value)
    assert "0.001 .. 2 m (for a test)" in limit.refusal(value)


@pytest.mark.parametrize("name", ["wavelength_m", "distance_m", "pixel_size_m"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e300, 1e-30, math.nan, math.inf])
def test_a_geometry_that_cannot_be_is_refused(name, value):
    with pytest.raises(DatasetError, match=rf"geometry: {name} .* m is outside"):
        replace(GEOMETRY, **{name: value})


@pytest.mark.parametrize("shape", [(0, 16), (16, -1)])
def test_frames_without_pixels_are_refused(shape):
    with pytest.raises(DatasetError, match="hold nothing"):
        replace(GEOMETRY, shape=shape)


@pytest.mark.parametrize("focus_m", [1e300, 1e-300, math.nan, 0.0])
def test_a_cone_beam_that_cannot_be_is_refused(focus_m):
    with pytest.raises(DatasetError, match=r"geometry: focus to sample .* is outside"):
        GEOMETRY.fresnel_scaled(focus_m)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (CalibrationSettings(probe_diameter_m=1.0), r"some.cxi: a probe of 1 m is outside 1e-05 .. 0.00016 m"),
        (CalibrationSettings(probe_diameter_m=1e-9), r"some.cxi: a probe of 1e-09 m is outside"),
        (CalibrationSettings(modes=MOST_MODES + 1), rf"{MOST_MODES + 1} modes .* 1 to {MOST_MODES}"),
        (CalibrationSettings(modes=0), "0 modes"),
        (CalibrationSettings(batch=5), "steps of 5 frames; the scan has 4, lower --batch"),
    ],
)
def test_what_cannot_be_found_in_the_frames_is_refused_at_the_start(settings, message):
    with pytest.raises(DatasetError, match=message):
        settings.check(scan())


def test_a_whole_frame_wide_probe_and_all_frames_a_step_are_fine():
    settings = CalibrationSettings(probe_diameter_m=16 * 10e-6, modes=MOST_MODES, batch=4)
    settings.check(scan())
    assert batch_of(settings, 4) == 4


def test_a_scan_without_frames_is_refused():
    with pytest.raises(DatasetError, match="holds no frames"):
        CalibrationSettings().check(scan().select(np.zeros(4, bool)))


def test_an_object_that_does_not_fit_into_memory_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(stages, "available_memory", lambda: 4_000_000_000)
    CalibrationSettings().check(scan(reach_m=0.02))
    with pytest.raises(DatasetError, match=r"some.cxi: positions over .* make an object of .* 4 GB are free; are the"):
        CalibrationSettings().check(scan(reach_m=0.2))
