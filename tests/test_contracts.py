"""One suite over every bench: what a camera, a stage and a light owe to whoever uses them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.base import (
    Camera,
    Cancelled,
    Light,
    LightState,
    LimitError,
    NotReadyError,
    Region,
    Stage,
    StagePosition,
)
from tests.rigs import RIGS, Rig
from tests.simulators.bench_settings import SMALL

PATIENCE_S = 30.0


@pytest.fixture(params=sorted(RIGS))
def rig(request) -> Iterator[Rig]:
    """A bench with closed devices; whatever the test leaves open is closed."""
    with RIGS[request.param]() as bench:
        try:
            yield bench
        finally:
            bench.camera.close()
            bench.stage.close()
            bench.light.close()


@pytest.fixture
def camera(rig: Rig) -> Camera:
    rig.camera.open()
    rig.light.open()
    rig.light.unblock()
    return rig.camera


@pytest.fixture
def stage(rig: Rig) -> Stage:
    rig.stage.open()
    return rig.stage


@pytest.fixture
def homed(stage: Stage) -> Stage:
    stage.home()
    return stage


class After:
    """A cancel that says no a number of times, then yes."""

    def __init__(self, asked: int):
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


# ---- Camera ----------------------------------------------------------------------------------------------------------


def test_a_closed_camera_refuses_and_says_what_to_do(rig):
    for call in (
        lambda: rig.camera.info,
        lambda: rig.camera.set_exposure(0.01),
        rig.camera.acquire,
        rig.camera.start_live,
        lambda: rig.camera.newest(0.0),
        rig.camera.describe,
        lambda: rig.camera.set_region(Region(0, 0, 8, 8)),
    ):
        with pytest.raises(NotReadyError, match=r"^camera: .*open"):
            call()
    rig.camera.stop_live()
    rig.camera.close()


def test_a_camera_opens_and_closes_twice(rig):
    rig.camera.open()
    rig.camera.open()
    assert isinstance(rig.camera, Camera)
    rig.camera.close()
    rig.camera.close()
    rig.camera.open()
    assert rig.camera.acquire().image.shape == rig.camera.info.shape


def test_frames_are_raw_numbers_of_the_region(camera):
    info = camera.info
    assert info.region.inside(info.sensor_shape)
    image = camera.acquire().image
    assert image.dtype == np.uint16
    assert image.shape == info.shape
    assert image.max() <= info.saturation_adu


def test_an_exposure_is_accepted_as_far_as_the_camera_can(rig, camera):
    limits = camera.info.exposure_s
    for wanted in (max(limits.low, 1e-3), 0.0123, 0.05):
        accepted = camera.set_exposure(wanted)
        assert accepted == pytest.approx(wanted, abs=rig.accepted_s + 1e-12)
        assert camera.acquire().exposure_s == pytest.approx(accepted, abs=rig.accepted_s + 1e-12)


def test_exposures_end_where_the_profile_says(camera):
    limits = camera.info.exposure_s
    assert (limits.low, limits.high) == (SMALL.min_exposure_s, SMALL.max_exposure_s)


@pytest.mark.parametrize("factor", [0.5, -1.0, math.nan, math.inf])
def test_an_exposure_out_of_range_is_refused_and_changes_nothing(camera, factor):
    limits = camera.info.exposure_s
    before = camera.set_exposure(0.01)
    wanted = limits.low * factor if factor in (0.5, -1.0) else factor
    with pytest.raises(LimitError, match=r"camera: exposure .* is outside"):
        camera.set_exposure(wanted)
    with pytest.raises(LimitError):
        camera.set_exposure(limits.high * 1.01)
    assert camera.acquire().exposure_s == before


def test_more_light_makes_brighter_frames_and_a_blocked_beam_dark_ones(rig, camera):
    def signal(exposure_s: float) -> float:
        camera.set_exposure(exposure_s)
        return float(camera.acquire().image.mean()) - camera.info.black_level_adu

    dim, bright = signal(0.03), signal(0.3)
    assert bright == pytest.approx(10 * dim, rel=0.2)
    rig.light.block()
    assert abs(signal(0.3)) < 0.05 * bright


def test_times_of_frames_do_not_go_back(camera):
    camera.set_exposure(0.01)
    times = [camera.acquire().time for _ in range(4)]
    assert times == sorted(times)


def test_a_cancelled_exposure_leaves_a_camera_that_works(camera):
    camera.set_exposure(0.5)
    with pytest.raises(Cancelled, match="camera"):
        camera.acquire(After(1))
    camera.set_exposure(0.01)
    first, second = camera.acquire(), camera.acquire()
    assert first.exposure_s == second.exposure_s == pytest.approx(0.01, abs=1e-4)


def test_live_view_and_triggered_frames_exclude_each_other(rig, camera):
    camera.set_exposure(0.01)
    with pytest.raises(NotReadyError, match="live"):
        camera.newest(0.0)
    camera.start_live()
    with pytest.raises(NotReadyError, match="live"):
        camera.acquire()
    with pytest.raises(NotReadyError, match="live"):
        camera.set_region(camera.info.region)
    frame = camera.newest(PATIENCE_S)
    assert frame is not None
    assert frame.image.shape == camera.info.shape
    camera.stop_live()
    camera.stop_live()
    assert camera.acquire().image.shape == camera.info.shape


def test_a_live_frame_is_returned_once(camera):
    camera.set_exposure(0.05)
    camera.start_live()
    first, second = camera.newest(PATIENCE_S), camera.newest(PATIENCE_S)
    assert first is not None
    assert second is not None
    assert second.time > first.time


def test_a_region_changes_the_frames_and_one_off_the_sensor_is_refused(camera):
    rows, columns = camera.info.sensor_shape
    smaller = Region.centred((rows, columns), (64, 32))
    assert camera.set_region(smaller) == smaller
    assert camera.info.region == smaller
    assert camera.acquire().image.shape == (64, 32)
    for wrong in (Region(0, 0, rows + 64, 64), Region(-8, 0, 64, 64), Region(0, columns, 64, 64), Region(0, 0, 0, 64)):
        with pytest.raises(LimitError, match=r"^camera: .*pixels"):
            camera.set_region(wrong)
    assert camera.info.region == smaller
    assert camera.acquire().image.shape == (64, 32)


def test_devices_describe_themselves(rig, camera, stage):
    for device in (rig.camera, rig.stage, rig.light):
        facts = device.describe()
        assert facts["model"]
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in facts.items())
    assert rig.camera.describe()["serial"] == rig.camera.info.serial
    assert rig.stage.describe()["homed"] == "no"


# ---- Stage -----------------------------------------------------------------------------------------------------------


def test_a_closed_stage_refuses_and_says_what_to_do(rig):
    for call in (
        lambda: rig.stage.info,
        rig.stage.position,
        rig.stage.home,
        rig.stage.describe,
        lambda: rig.stage.move_to(rig.near),
    ):
        with pytest.raises(NotReadyError, match=r"^stage: .*open"):
            call()
    rig.stage.stop()
    rig.stage.close()


def test_opening_a_stage_moves_and_homes_nothing(rig):
    rig.stage.open()
    assert isinstance(rig.stage, Stage)
    before = rig.stage.position()
    rig.stage.open()
    assert not rig.stage.homed
    assert rig.stage.position() == before
    with pytest.raises(NotReadyError, match=r"stage: .*home"):
        rig.stage.move_to(rig.near)
    assert rig.stage.position() == before


def test_a_homed_stage_goes_where_it_is_sent(rig, homed):
    assert homed.homed
    step = homed.info.step_m
    for target in (rig.near, rig.far, StagePosition(rig.near.y, rig.far.x)):
        arrived = homed.move_to(target)
        assert abs(arrived.y - target.y) <= step
        assert abs(arrived.x - target.x) <= step
        assert homed.position() == arrived


def test_a_target_outside_the_limits_is_refused_before_anything_moves(rig, homed):
    at = homed.move_to(rig.near)
    info = homed.info
    for wrong in (
        StagePosition(info.y_m.high + 1e-6, rig.near.x),
        StagePosition(rig.near.y, info.x_m.low - 1e-6),
        StagePosition(math.nan, rig.near.x),
        StagePosition(rig.near.y, -math.inf),
    ):
        with pytest.raises(LimitError, match=r"^stage: [yx] position .* is outside .* nothing was sent"):
            homed.move_to(wrong)
    assert homed.position() == at


def test_a_limit_is_a_place_like_any_other(homed):
    """Limits are no whole microsteps: what is counted at one must neither leave it nor bar the way along the limit."""
    info = homed.info
    assert info.y_m.high / info.step_m % 1 > 0.5, "rounded to the nearest, this limit would lie beyond itself"
    for y in (info.y_m.low, info.y_m.high):
        at = homed.move_to(StagePosition(y, 1.2e-3))
        assert info.y_m.contains(at.y)
        assert abs(at.y - y) <= info.step_m
        there = homed.move_to(StagePosition(at.y, at.x + 1e-5))
        assert (there.y, there.x) == (at.y, pytest.approx(at.x + 1e-5, abs=info.step_m))
    # Counted beyond it by half a microstep, as another program leaves it.
    homed.move_to(StagePosition(info.y_m.high + 0.499 * info.step_m, 1.2e-3))
    assert info.y_m.contains(homed.position().y)
    with pytest.raises(LimitError, match="y position"):
        homed.move_to(StagePosition(info.y_m.high + 0.501 * info.step_m, 1.2e-3))


def test_a_cancelled_move_has_stopped(rig, homed):
    homed.move_to(rig.near)
    with pytest.raises(Cancelled, match="stage"):
        homed.move_to(rig.far, After(3))
    at = homed.position()
    assert at != rig.far
    rig.clock.sleep(0.2)
    assert homed.position() == at
    assert homed.move_to(rig.near).distance_to(rig.near) <= 2 * homed.info.step_m


def test_stop_from_another_thread_ends_a_move(rig, homed):
    homed.move_to(rig.near)
    moving, ended = threading.Event(), []

    def asked() -> bool:
        moving.set()
        if not rig.real_time:
            stopped.wait(PATIENCE_S)  # virtual time would be over before the other thread has said anything
        return False

    def move() -> None:
        try:
            homed.move_to(rig.far, asked)
        except Cancelled as error:
            ended.append(error)

    stopped = threading.Event()
    thread = threading.Thread(target=move)
    thread.start()
    assert moving.wait(PATIENCE_S)
    homed.stop()
    stopped.set()
    thread.join(PATIENCE_S)
    assert len(ended) == 1
    at = homed.position()
    assert at.distance_to(rig.far) > 1e-4
    rig.clock.sleep(0.2)
    assert homed.position() == at


def test_a_second_mover_is_refused_while_the_first_one_moves(rig, homed):
    moving, go_on, ended = threading.Event(), threading.Event(), []

    def asked() -> bool:
        moving.set()
        go_on.wait(PATIENCE_S)
        return False

    thread = threading.Thread(target=lambda: ended.append(homed.move_to(rig.far, asked)))
    thread.start()
    assert moving.wait(PATIENCE_S)
    try:
        with pytest.raises(NotReadyError, match=r"stage: .*moving"):
            homed.move_to(rig.near)
    finally:
        go_on.set()
    thread.join(PATIENCE_S)
    assert ended[0].distance_to(rig.far) <= 2 * homed.info.step_m


def test_a_cancelled_homing_leaves_the_stage_unhomed(rig, homed):
    homed.move_to(rig.far)
    with pytest.raises(Cancelled, match="stage"):
        homed.home(After(2))
    assert not homed.homed
    with pytest.raises(NotReadyError, match="home"):
        homed.move_to(rig.near)
    homed.home()
    assert homed.homed


def test_stopping_what_stands_does_nothing(rig, homed):
    at = homed.move_to(rig.near)
    homed.stop()
    homed.stop()
    assert homed.position() == at
    assert homed.move_to(rig.near).distance_to(at) <= homed.info.step_m


# ---- Light -----------------------------------------------------------------------------------------------------------


def test_the_light_does_what_it_is_told(rig):
    with pytest.raises(NotReadyError, match=r"^light: .*open"):
        rig.light.block()
    rig.light.open()
    assert isinstance(rig.light, Light)
    rig.light.block()
    assert rig.light.state is LightState.BLOCKED
    rig.light.unblock()
    assert rig.light.state is LightState.OPEN
    rig.light.close()


# ---- Any sequence ----------------------------------------------------------------------------------------------------

COORDINATES = st.floats(-1e-3, 26e-3)
ORDERS = st.one_of(
    st.tuples(st.just("move"), COORDINATES, COORDINATES),
    st.tuples(st.just("cancel"), COORDINATES, COORDINATES),
    st.just(("home",)),
    st.just(("stop",)),
    st.tuples(st.just("expose"), st.floats(1e-7, 0.05)),
)


def obey(rig: Rig, orders: list[tuple]) -> None:
    """Give the orders, and hold the devices to what a model of them says."""
    stage, camera = rig.stage, rig.camera
    limits_y, limits_x = stage.info.y_m, stage.info.x_m
    step = stage.info.step_m
    homed = stage.homed
    at = stage.position()
    for order in orders:
        if order[0] == "home":
            stage.home()
            homed, at = True, stage.position()
            assert at.distance_to(StagePosition(0.0, 0.0)) <= 2 * step
        elif order[0] == "stop":
            stage.stop()
        elif order[0] == "expose":
            if camera.info.exposure_s.contains(order[1]):
                camera.set_exposure(order[1])
                assert camera.acquire().exposure_s == pytest.approx(order[1], abs=rig.accepted_s + 1e-12)
            else:
                with pytest.raises(LimitError):
                    camera.set_exposure(order[1])
        else:
            target = StagePosition(order[1], order[2])
            if not (limits_y.contains(target.y) and limits_x.contains(target.x)):
                with pytest.raises(LimitError):
                    stage.move_to(target)
            elif not homed:
                with pytest.raises(NotReadyError):
                    stage.move_to(target)
            elif order[0] == "cancel":
                before = at
                try:
                    at = stage.move_to(target, After(1))
                except Cancelled:
                    at = stage.position()
                for value, low, high in (
                    (at.y, min(before.y, target.y), max(before.y, target.y)),
                    (at.x, min(before.x, target.x), max(before.x, target.x)),
                ):
                    assert low - step <= value <= high + step
            else:
                at = stage.move_to(target)
                assert abs(at.y - target.y) <= step
                assert abs(at.x - target.x) <= step
        now = stage.position()
        assert now == at
        assert stage.homed == homed
        if homed:
            # The reference itself lies below the soft limits; no move may lead further out than that.
            assert min(0.0, limits_y.low) - step <= now.y <= limits_y.high + step
            assert min(0.0, limits_x.low) - step <= now.x <= limits_x.high + step


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders=st.lists(ORDERS, max_size=12))
def test_no_sequence_of_orders_leaves_the_limits_or_the_model(orders):
    with RIGS["simulated"]() as rig:
        for device in (rig.camera, rig.stage, rig.light):
            device.open()
        obey(rig, orders)
