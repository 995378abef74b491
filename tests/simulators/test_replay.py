"""Recorded frames as devices: served in their order or under a playhead, and everything else refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import (
    AcquisitionError,
    Camera,
    CameraInfo,
    Cancelled,
    Interval,
    Light,
    LightState,
    NotReadyError,
    Region,
    Stage,
    StageInfo,
    StagePosition,
)
from drivers.clock import VirtualClock
from simulators.replay import Moment, Playhead, ReplayCamera, ReplayLight, ReplayStage

HERE, THERE = StagePosition(1e-3, 2e-3), StagePosition(1.1e-3, 2e-3)
TIMES = (100.0, 100.5, 101.0, 103.0)


class Recording:
    """Four frames: two steps at one place, the beam blocked in the first, then the same place in another visit."""

    def __init__(self) -> None:
        limits = Interval(0.0, 0.025, "m")
        self.camera = CameraInfo(
            "rec", "7", (4, 6), Region(0, 0, 4, 6), 1e-6, 12, 1.0, 100.0, 0.0, Interval(0, 10.0, "s"), simulated=True
        )
        self.stage = StageInfo("rec", "8", limits, limits, 1e-3, 1e-3, 1e-9, 0.1, simulated=True)
        places = [(None, None), (HERE, StagePosition(1e-3 + 1e-9, 2e-3)), (HERE, None), (HERE, THERE)]
        self.moments = tuple(
            Moment((3, number), 0.1, 0.1, TIMES[number], sent, back, number > 0, visit=int(number == 3), step=number)
            for number, (sent, back) in enumerate(places)
        )

    def image(self, number: int) -> np.ndarray:
        return np.full((4, 6), number, np.uint16)

    def close(self) -> None:
        pass


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def playhead(clock) -> Playhead:
    return Playhead(TIMES, clock)


@pytest.fixture
def camera(playhead, clock) -> ReplayCamera:
    made = ReplayCamera(Recording(), playhead, clock)
    made.open()
    return made


@pytest.fixture
def stage(playhead) -> ReplayStage:
    made = ReplayStage(Recording(), playhead)
    made.open()
    return made


def test_they_are_a_camera_a_stage_and_a_light(camera, stage, playhead):
    assert isinstance(camera, Camera)
    assert isinstance(stage, Stage)
    assert isinstance(ReplayLight(Recording(), playhead), Light)


def test_frames_come_in_their_order_with_their_times_and_then_no_more(camera):
    found = [camera.acquire() for _ in range(4)]
    assert [int(exposure.image[0, 0]) for exposure in found] == [0, 1, 2, 3]
    assert [exposure.time for exposure in found] == list(TIMES)
    with pytest.raises(AcquisitionError, match="ends after 4 frames"):
        camera.acquire()


def test_a_runner_chooses_the_frame_by_its_number(camera):
    camera.seed_next(3, 2)
    assert camera.acquire().image[0, 0] == 2
    with pytest.raises(AcquisitionError, match="frame 9 of stream 3 is not in the recording"):
        camera.seed_next(3, 9)


def test_an_exposure_that_was_not_recorded_is_refused(camera):
    camera.set_exposure(0.2)
    with pytest.raises(AcquisitionError, match=r"recorded at 0\.1 s, not 0\.2 s"):
        camera.acquire()


def test_a_region_that_was_not_recorded_is_refused(camera):
    assert camera.set_region(Region(0, 0, 4, 6)) == Region(0, 0, 4, 6)
    with pytest.raises(NotReadyError, match="cannot read out"):
        camera.set_region(Region(0, 0, 2, 2))


def test_as_much_time_passes_as_did(camera, clock):
    begin = clock.monotonic()
    for _ in range(4):
        camera.acquire()
    assert clock.monotonic() - begin == pytest.approx(3.0, abs=1e-6)


def test_a_replay_can_be_cancelled(camera):
    camera.acquire()
    with pytest.raises(Cancelled):
        camera.acquire(lambda: True)


def test_live_frames_are_those_under_the_playhead_each_once(camera, playhead):
    camera.start_live()
    assert camera.newest(0.0).image[0, 0] == 0
    assert camera.newest(0.0) is None
    playhead.seek(2)
    assert camera.newest(0.0).image[0, 0] == 2
    with pytest.raises(NotReadyError, match="stop them first"):
        camera.acquire()
    camera.stop_live()
    with pytest.raises(NotReadyError, match="start them first"):
        camera.newest(0.0)


def test_a_move_ends_where_it_ended_then_and_nowhere_else(stage):
    assert stage.move_to(HERE) == StagePosition(1e-3 + 1e-9, 2e-3)
    # The second step of the visit had no position of its own: where it was sent.
    assert stage.position() == HERE
    stage.seed_visit(1)
    assert stage.move_to(HERE) == THERE
    with pytest.raises(NotReadyError, match=r"was never sent to y 0\.0011 m"):
        stage.move_to(THERE)
    with pytest.raises(NotReadyError, match="cannot be homed"):
        stage.home()


def test_stage_and_light_are_what_they_were_under_the_playhead(stage, playhead):
    light = ReplayLight(Recording(), playhead)
    assert light.state is LightState.BLOCKED
    assert stage.position() == StagePosition(1e-3 + 1e-9, 2e-3)
    playhead.seek(3)
    assert light.state is LightState.OPEN
    assert stage.position() == THERE


def test_the_playhead_plays_at_any_speed_and_stops_at_the_end(playhead, clock):
    assert (playhead.count, playhead.duration_s) == (4, 3.0)
    playhead.play()
    clock.sleep(0.6)
    assert playhead.number == 1
    playhead.set_speed(10.0)
    clock.sleep(0.04)
    assert playhead.number == 2
    playhead.pause()
    clock.sleep(5.0)
    assert playhead.number == 2
    playhead.play()
    clock.sleep(5.0)
    assert playhead.number == 3
    assert not playhead.playing
    playhead.seek(1)
    assert not playhead.playing
    assert playhead.number == 1
    playhead.step(-1)
    assert playhead.number == 0


def test_from_its_end_it_begins_again(playhead, clock):
    playhead.seek(99)
    playhead.play()
    assert playhead.number == 0
    assert playhead.playing


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_speeds_are_above_zero(playhead, speed):
    with pytest.raises(ValueError, match="is not a finite number above 0"):
        playhead.set_speed(speed)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.data())
def test_every_frame_can_be_reached_whatever_its_clock_said(times, data):
    playhead = Playhead(times, VirtualClock())
    number = data.draw(st.integers(0, len(times) - 1))
    playhead.seek(number)
    assert playhead.number == number


def test_closed_devices_refuse(playhead, clock):
    camera, stage = ReplayCamera(Recording(), playhead, clock), ReplayStage(Recording(), playhead)
    for call in (lambda: camera.info, camera.acquire, lambda: stage.info, stage.position):
        with pytest.raises(NotReadyError, match="is closed"):
            call()
