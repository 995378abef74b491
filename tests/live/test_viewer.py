"""The viewer: only the newest frame is shown, and the rate and the loss are told."""

from __future__ import annotations

import numpy as np
import pytest

from app.live.order import Look
from app.live.picture import ViewSettings
from app.live.slot import Slot
from app.live.viewer import Viewer
from drivers.base import CameraInfo, Exposure, Interval, Region
from drivers.clock import VirtualClock

INFO = CameraInfo(
    "fake", "1", (8, 8), Region(0, 0, 8, 8), 1e-6, 12, 1.0, 100.0, 0.0, Interval(1e-6, 10.0, "s"), simulated=True
)


def look(value: int) -> Look:
    return Look(Exposure(np.full((8, 8), value, np.uint16), 0.1, 0.0), INFO)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def viewer(clock) -> Viewer:
    return Viewer(Slot(clock), clock)


def test_only_the_newest_is_shown_and_the_others_are_counted(viewer):
    viewer._frames.put(look(1))
    assert viewer.look()
    for value in range(2, 7):
        viewer._frames.put(look(value))
    assert viewer.look()
    assert not viewer.look()
    shown = viewer.views.newest().item
    assert shown.look.exposure.image[0, 0] == 6
    assert shown.skipped == 4


def test_frames_a_second_are_those_that_came(viewer, clock):
    for value in range(40):
        clock.sleep(0.05)
        viewer._frames.put(look(value))
        if value % 4 == 0:
            viewer.look()
    assert viewer.views.newest().item.rate_hz == pytest.approx(20.0, rel=0.02)


def test_new_settings_show_the_same_frame_again(viewer):
    viewer._frames.put(look(7))
    viewer.look()
    viewer.settings = ViewSettings(locked=(0.0, 7.0))
    assert viewer.look()
    assert viewer.views.newest().item.picture.levels == (0.0, 7.0)
    assert not viewer.look()


def test_a_dark_is_the_mean_of_the_frames_that_follow(viewer):
    viewer.take_dark(3)
    for value in (10, 20, 60):
        assert viewer.settings.dark is None
        viewer._frames.put(look(value))
        viewer.look()
    np.testing.assert_array_equal(viewer.settings.dark, np.full((8, 8), 30, np.float32))


def test_a_dark_begins_anew_when_the_frames_change_their_shape(viewer):
    viewer.take_dark(2)
    viewer._frames.put(look(10))
    viewer.look()
    small = Look(Exposure(np.full((4, 4), 50, np.uint16), 0.1, 0.0), INFO)
    viewer._frames.put(small)
    viewer.look()
    assert viewer.settings.dark is not None
    np.testing.assert_array_equal(viewer.settings.dark, np.full((4, 4), 50, np.float32))


def test_the_thread_shows_what_is_put_and_ends():
    from drivers.clock import SystemClock

    clock = SystemClock()
    viewer = Viewer(Slot(clock), clock)
    viewer.start()
    viewer._frames.put(look(3))
    deadline = clock.monotonic() + 20
    while viewer.views.newest() is None and clock.monotonic() < deadline:
        pass
    viewer.end()
    assert viewer.views.newest().item.look.exposure.image[0, 0] == 3
