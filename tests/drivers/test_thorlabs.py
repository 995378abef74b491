"""The Thorlabs driver on the real library, against emulated controllers: what it does and what it refuses."""

from __future__ import annotations

import threading
import time
from dataclasses import fields

import numpy as np
import pytest

from app.acquire.planning import approach_point, make_plan
from app.profile import load_profile, shipped_profiles
from drivers.apt_settings import ZFS25B, ThorlabsSettings
from drivers.base import Cancelled, InstrumentError, LimitError, NotReadyError, Stage, StagePosition
from drivers.clock import VirtualClock
from drivers.thorlabs import ThorlabsStage
from simulators.apt_protocol import Id
from simulators.apt_wire import AptWire
from simulators.bench import BenchSettings
from simulators.carriage import Carriage
from simulators.stage import SimulatedStage
from tests.drivers.rig import BENCH, HERE, KINDS, LIMITS, rig, sent, wait_until


@KINDS
def test_homes_moves_and_tells(controller):
    with rig(controller) as r:
        stage = r.stage
        assert isinstance(stage, Stage)
        assert not stage.homed
        stage.home()
        assert stage.homed
        assert stage.position() == StagePosition(0, 0)
        there = stage.move_to(HERE)
        assert there.as_tuple() == pytest.approx(HERE.as_tuple(), abs=stage.info.step_m)
        assert r.carriage.true_displacement() == pytest.approx(there.as_tuple(), abs=1e-12)
        facts = stage.describe()
        assert facts["y homed"] == "yes"
        assert controller.upper() in facts["x controller"]
        assert "firmware 1.2.3" in facts["x controller"]
        assert stage.info.simulated
        assert controller.upper() in stage.info.model


def test_the_channels_of_a_bsc203_are_those_of_the_settings():
    carriage = Carriage(BENCH, 0)
    with AptWire(carriage, "bsc203", speed=100, channels=(3, 1)) as wire:
        settings = ThorlabsSettings(LIMITS, LIMITS, wire.ports, "bsc203", channels=(3, 1), settling_s=0)
        stage = ThorlabsStage(settings)
        stage.open()
        stage.home()
        stage.move_to(HERE)
        assert carriage.true_displacement() == pytest.approx(HERE.as_tuple(), abs=1e-9)
        stage.close()
        assert {h.message.destination for h in wire.messages(Id.MOVE_ABSOLUTE)} == {0x21, 0x23}


@KINDS
def test_bit_identical_with_the_simulated_stage_over_a_whole_plan(controller):
    """Equal commands and an equal seed find equal true positions, one-sided approaches included."""
    profile = load_profile("tiny")
    sections = (profile.geometry, profile.camera, profile.stage, profile.light, profile.simulation)
    bench = BenchSettings.gather(*(section.model_dump() for section in sections)).stage
    assert bench.backlash_m > 0
    assert bench.repeatability_m > 0
    reference = SimulatedStage(bench, VirtualClock(), 11)
    reference.open()
    reference.home()
    plan = make_plan(profile)
    targets = list(dict.fromkeys(step.target for step in plan.steps if step.target is not None))
    settings = ThorlabsSettings.gather(profile.stage.model_dump(), serials=(), controller=controller)
    with rig(
        controller,
        speed=1000,
        carriage=Carriage(bench, 11),
        travel_m=settings.travel_m,
        microsteps_per_m=settings.microsteps_per_m,
    ) as r:
        r.stage.home()
        for target in targets:
            for place in (approach_point(target, profile.stage.approach_m), target):
                assert r.stage.move_to(place) == reference.move_to(place)
                assert r.carriage.true_displacement().tolist() == reference.true_displacement().tolist()
        # And from above, where the backlash and another random error show.
        back = StagePosition(10e-3, 10e-3)
        assert r.stage.move_to(back) == reference.move_to(back)
        assert r.carriage.true_displacement().tolist() == reference.true_displacement().tolist()
        assert np.abs(r.carriage.true_displacement() - back.as_tuple()).max() > 5e-6


def test_both_axes_move_together():
    with rig(speed=20, homed=True) as r:
        together = []

        def cancel():
            together.append(r.wire.motor(0).moving and r.wire.motor(1).moving)
            return False

        r.stage.move_to(StagePosition(4e-3, 4e-3), cancel)
        assert any(together)


def test_an_axis_that_is_there_already_is_left_alone():
    with rig(homed=True) as r:
        r.stage.move_to(HERE)
        before = len(sent(r, Id.MOVE_ABSOLUTE))
        r.stage.move_to(StagePosition(HERE.y, HERE.x + 1e-4))
        assert [axis for axis, _ in sent(r, Id.MOVE_ABSOLUTE)[before:]] == [1]
        assert r.stage.move_to(r.stage.position()) == r.stage.position()
        assert len(sent(r, Id.MOVE_ABSOLUTE)) == before + 1


def test_settling_is_waited_for_and_can_be_cancelled():
    with rig(homed=True, settling_s=0.2) as r:
        begin = time.monotonic()
        r.stage.move_to(HERE)
        assert time.monotonic() - begin >= 0.2
    with rig(homed=True, settling_s=20.0) as r:
        asked = []

        def cancel():
            if all(axis.state.completed for axis in r.stage._axes):
                asked.append(True)
            return len(asked) > 3

        with pytest.raises(Cancelled, match="settling was stopped"):
            r.stage.move_to(HERE, cancel)


def test_a_cancel_brakes_and_the_stage_stands():
    with rig(speed=25, homed=True) as r:
        with pytest.raises(Cancelled, match=r"stage: the move was stopped at y 0\.00"):
            r.stage.move_to(StagePosition(20e-3, 20e-3), lambda: r.wire.motor(0).counter > 4_000_000)
        assert not r.wire.motor(0).moving
        assert not r.wire.motor(1).moving
        assert r.wire.motor(0).counter > 4_000_000
        assert [m.parameters[1] for _, m in sent(r, Id.MOVE_STOP)][-2:] == [2, 2]
        assert r.stage.position().y == pytest.approx(r.wire.motor(0).counter * r.stage.info.step_m, abs=1e-12)
        assert r.stage.homed
        r.stage.move_to(HERE)


def test_an_immediate_stop_is_a_choice():
    with rig(speed=25, homed=True, immediate_stop=True) as r:
        with pytest.raises(Cancelled):
            r.stage.move_to(StagePosition(20e-3, 20e-3), lambda: r.wire.motor(0).counter > 4_000_000)
        assert [m.parameters[1] for _, m in sent(r, Id.MOVE_STOP)][-2:] == [1, 1]


def test_a_cancelled_homing_leaves_it_unhomed():
    with rig(speed=2) as r:
        with pytest.raises(Cancelled, match="homing was stopped"):
            r.stage.home(lambda: r.wire.motor(0).moving)
        assert not r.stage.homed
        assert not r.wire.motor(0).moving
        with pytest.raises(NotReadyError, match="not homed"):
            r.stage.move_to(HERE)


def test_stop_from_another_thread_ends_the_move_and_a_second_motion_is_refused():
    with rig(speed=25, homed=True) as r:
        outcome = []

        def mover():
            try:
                r.stage.move_to(StagePosition(20e-3, 20e-3))
            except Cancelled as error:
                outcome.append(str(error))

        thread = threading.Thread(target=mover)
        thread.start()
        wait_until(lambda: r.wire.motor(0).moving)
        with pytest.raises(NotReadyError, match="moving for another caller"):
            r.stage.move_to(HERE)
        with pytest.raises(NotReadyError, match="moving for another caller"):
            r.stage.home()
        r.stage.stop()
        thread.join(10)
        assert outcome
        assert "the move was stopped" in outcome[0]
        # A stop is for the motion it met.
        r.stage.stop()
        r.stage.move_to(HERE)


def test_closing_ends_a_move_and_stops_the_motors():
    with rig(speed=25, homed=True) as r:
        outcome = []

        def mover():
            try:
                r.stage.move_to(StagePosition(20e-3, 20e-3))
            except InstrumentError as error:
                outcome.append(error)

        thread = threading.Thread(target=mover)
        thread.start()
        wait_until(lambda: r.wire.motor(0).moving)
        r.stage.close()
        thread.join(10)
        assert isinstance(outcome[0], Cancelled)
        wait_until(lambda: not r.wire.motor(0).moving and not r.wire.motor(1).moving)
        assert r.wire.motor(0).counter < 20e-3 * BENCH.microsteps_per_m
        r.stage.close()
        r.stage.stop()


def test_closed_it_refuses():
    stage = ThorlabsStage(ThorlabsSettings(LIMITS, LIMITS, ("a/b", "c/d")))
    calls = (stage.position, stage.home, stage.describe, lambda: stage.info, lambda: stage.homed)
    for call in (*calls, lambda: stage.move_to(HERE)):
        with pytest.raises(NotReadyError, match="stage: is closed; open it first"):
            call()
    stage.stop()
    stage.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serials": ("26000001",)}, "needs 2 different serial"),
        ({"serials": ("26000001", "26000001")}, "needs 2 different serial"),
        ({"serials": ("1", "2"), "controller": "bsc203"}, "needs 1 different serial"),
        ({"serials": ("1",), "controller": "bsc203", "channels": (1, 1)}, r"channels \(1, 1\)"),
        ({"limits_x_m": (0.0, 0.026)}, r"x soft limit 0\.026 m is outside 0 \.\. 0\.025 m"),
        ({"limits_y_m": (-1e-3, 0.02)}, "y soft limit"),
        ({"switch_mode": 1}, "ignores the limit switches"),
        (
            {"velocity_m_s": 0.02},
            r"stage: ZFS25B velocity \(stage.velocity_m_s\) 0\.02 m/s is outside 1e-06 \.\. 0\.003",
        ),
        ({"velocity_m_s": 3.1e-3}, "velocity"),
        ({"velocity_m_s": 1e-9}, "velocity"),
        ({"acceleration_m_s2": 100.0}, r"acceleration .* 100 m/s\^2 is outside"),
        ({"homing_velocity_m_s": 15e-3}, r"homing velocity .* 0\.015 m/s is outside"),
        ({"homing_offset_m": 1.0}, r"homing offset .* 1 m is outside 0 \.\. 0\.025 m"),
        ({"backlash_correction_m": 1.5}, r"backlash correction .* 1\.5 m is outside 0 \.\. 0\.025 m"),
        ({"microsteps_per_m": 1e15}, r"resolution .* 1e\+15 1/m is outside"),
        ({"travel_m": 1.0}, r"travel .* 1 m is outside 0 \.\. 0\.025 m"),
    ],
)
def test_settings_that_make_no_sense_are_named_before_a_port_is_opened(changes, message):
    options = {"limits_y_m": LIMITS, "limits_x_m": LIMITS, "serials": ("x/1", "x/2")} | changes
    with pytest.raises((NotReadyError, LimitError), match=message):
        ThorlabsStage(ThorlabsSettings(**options)).open()


@pytest.mark.parametrize("end", ["low", "high"])
def test_whatever_an_actuator_may_do_can_be_told_to_its_controller(end):
    """The protocol has 32 bits; a number beyond them would end in a traceback."""
    extremes = {
        name: getattr(getattr(ZFS25B, name), end) for name in ("velocity_m_s", "acceleration_m_s2", "microsteps_per_m")
    }
    way = ZFS25B.travel_m if end == "high" else 0.0
    told = ThorlabsSettings(
        LIMITS,
        LIMITS,
        ("x/1", "x/2"),
        homing_velocity_m_s=extremes["velocity_m_s"],
        homing_offset_m=way,
        backlash_correction_m=way,
        **extremes,
    )
    told.require_sense("stage")
    parameters = told.parameters()
    assert all(0 <= getattr(parameters, field.name) < 2**31 for field in fields(parameters))
    assert min(parameters.velocity, parameters.acceleration, parameters.homing_velocity) > 0


@pytest.mark.parametrize("name", shipped_profiles())
def test_the_shipped_profiles_keep_within_the_actuator(name):
    settings = ThorlabsSettings.gather(load_profile(name).stage.model_dump(), serials=("x/1", "x/2"))
    settings.require_sense("stage")
