"""What is shown of a frame: levels and saturation of all its pixels, scales, profiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.live.picture import CLIPPED_INDEX, TOP_INDEX, Scale, ViewSettings, find_centre, radial_profile, render

TOP = 4095


def frame(seed: int = 0, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, TOP, shape, np.uint16)


def test_one_saturated_pixel_in_a_million_is_counted_and_marked():
    image = np.full((1000, 1000), 20, np.uint16)
    image[123, 456] = TOP
    picture = render(image, TOP, ViewSettings())
    assert picture.saturated == 1
    assert picture.brightest == TOP
    assert picture.indices[123, 456] == CLIPPED_INDEX
    assert (picture.indices == CLIPPED_INDEX).sum() == 1
    assert not (render(image, TOP, ViewSettings(overlay=False)).indices == CLIPPED_INDEX).any()


def test_the_histogram_counts_every_pixel():
    image = frame()
    picture = render(image, TOP, ViewSettings())
    assert picture.counts.sum() == image.size
    expected, _ = np.histogram(image, picture.edges)
    np.testing.assert_array_equal(picture.counts, expected)


def test_levels_are_percentiles_of_the_full_frame():
    image = frame()
    picture = render(image, TOP, ViewSettings(percentiles=(10.0, 90.0)))
    assert picture.levels == pytest.approx(np.percentile(image, (10, 90)), abs=5)


@pytest.mark.parametrize(
    ("scale", "function"),
    [
        (Scale.LINEAR, lambda share: share),
        (Scale.ROOT, np.sqrt),
        (Scale.LOG, lambda share: np.log1p(share * 3000) / np.log1p(3000)),
    ],
)
def test_scales(scale, function):
    image = frame()
    picture = render(image, TOP + 1, ViewSettings(scale=scale, locked=(500.0, 3500.0)))
    share = np.clip((image - 500.0) / 3000.0, 0, 1)
    np.testing.assert_allclose(picture.indices, TOP_INDEX * function(share), atol=0.51)


def test_a_dark_is_subtracted_and_negatives_stay():
    image = np.full((20, 20), 100, np.uint16)
    image[5, 5], image[6, 6] = 90, 300
    dark = np.full((20, 20), 100.0, np.float32)
    picture = render(image, TOP, ViewSettings(dark=dark, locked=(-10.0, 200.0), scale=Scale.LINEAR, mark=(5, 6)))
    assert picture.subtracted
    assert picture.row_cut[5] == -10.0
    assert picture.column_cut[6] == 200.0
    assert picture.indices[5, 5] == 0
    assert picture.indices[6, 6] == TOP_INDEX
    assert picture.edges[0] == -10.0
    assert picture.radial.min() >= -10.0


def test_a_dark_of_another_shape_is_left_out():
    picture = render(frame(), TOP, ViewSettings(dark=np.zeros((3, 3), np.float32)))
    assert not picture.subtracted


def test_the_radial_profile_of_a_ring():
    y, x = np.indices((81, 81))
    image = np.where(np.rint(np.hypot(y - 40, x - 40)) == 17, 1000, 10).astype(np.uint16)
    radius, mean = radial_profile(image, (40.0, 40.0))
    assert radius[np.argmax(mean)] == 17
    assert mean[17] == 1000
    assert mean[16] == mean[18] == 10


@pytest.mark.parametrize("centre", [(20.0, 31.0), (33.0, 12.0)])
def test_the_centre_of_a_spot_is_found(centre):
    y, x = np.indices((50, 50))
    spot = 3000 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 18)
    image = np.random.default_rng(1).poisson(spot + 100).astype(np.uint16)
    assert find_centre(image) == pytest.approx(centre, abs=0.3)


def test_darkness_has_no_centre():
    assert find_centre(np.random.default_rng(2).poisson(100, (50, 50)).astype(np.uint16)) is None


def test_marks_outside_the_frame_are_brought_inside():
    picture = render(frame(), TOP, ViewSettings(mark=(500, -3)))
    assert picture.mark == (39, 0)


@given(st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(list(Scale)))
def test_any_two_values_are_shown_in_their_order(a, b, scale):
    image = np.array([[a, b]], np.uint16)
    picture = render(image, 65536, ViewSettings(scale=scale))
    low, high = picture.indices[0]
    assert (int(low) - int(high)) * (a - b) >= 0
    assert picture.counts.sum() == 2
