"""What fails on the wire or in the mechanics, in each phase: a named error, both axes stopped, and a way back."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest

from drivers.apt_link import AptLink
from drivers.apt_watch import LimitedLog
from drivers.base import Cancelled, ConnectionLost, DeviceTimeout, InstrumentError, MotionError, StagePosition
from drivers.clock import VirtualClock
from simulators.apt_protocol import Id, StatusBit
from simulators.apt_wire import FaultKind, WireFault
from tests.drivers.rig import FASTER, HERE, KINDS, rig, wait_until


def provoke(r, phase, fault):
    """Let it fail in a phase; returns the error."""
    began = []

    def cancel():
        if r.wire.motor(fault.axis).moving and not began:
            began.append(True)
            r.wire.inject(fault)
        return False

    try:
        if phase == "idle":
            r.wire.inject(fault)
            wait_until(lambda: r.stage.position() is None)
        elif phase == "moving":
            r.stage.move_to(StagePosition(20e-3, 20e-3), cancel)
        else:
            r.stage.home(cancel)
    except InstrumentError as error:
        return error
    raise AssertionError("no error")


LINE_FAULTS = {
    FaultKind.SILENT: "has not answered for 0.7 s; check its cable",
    FaultKind.GARBAGE: "sends nonsense, .* check its cable",
    FaultKind.UNPLUGGED: "(is gone|cannot be written to) .*plug it in",
}


@pytest.mark.parametrize("phase", ["idle", "moving", "homing"])
@pytest.mark.parametrize("kind", LINE_FAULTS)
def test_a_dead_line_is_a_named_error_and_the_other_axis_stops(kind, phase):
    with rig(speed=10, homed=phase == "moving") as r:
        # That it takes less than a second is shown by the watch on its own clock (test_thorlabs_clock).
        error = provoke(r, phase, WireFault(kind, axis=1))
        assert isinstance(error, ConnectionLost)
        assert error.device == "stage x"
        assert re.search(LINE_FAULTS[kind], str(error))
        with pytest.raises(ConnectionLost, match=LINE_FAULTS[kind]):
            r.stage.position()
        assert "\n" not in str(error)
        if phase != "idle":
            assert "may still be going on" in str(error)
            wait_until(lambda: not r.wire.motor(0).moving)
        with pytest.raises(ConnectionLost):
            _ = r.stage.homed
        r.stage.stop()
        # Reconnecting.
        r.stage.close()
        r.wire.heal()
        r.wire.plug()
        r.stage.open()
        r.stage.position()


def test_a_bsc203_that_falls_silent_is_named():
    with rig("bsc203", speed=10, homed=True) as r:
        error = provoke(r, "moving", WireFault(FaultKind.SILENT))
        assert isinstance(error, ConnectionLost)
        assert str(error).startswith("stage: has not answered")


def test_a_silent_controller_is_noticed_while_opening():
    with rig(opened=False) as r:
        r.wire.inject(WireFault(FaultKind.SILENT, axis=1))
        with pytest.raises((ConnectionLost, DeviceTimeout), match=r"stage x: .*answer"):
            r.stage.open()
        assert not [t for t in threading.enumerate() if "_run_eventloop" in t.name]
        r.wire.heal()
        r.stage.open()


MOTION_FAULTS = {
    FaultKind.STALLED: r"stage: y is stalled at 0\.\d+ m on its way to 0\.002 m, its counter stands still",
    FaultKind.WRONG_ARRIVAL: r"stage: y arrived at 0\.00200\d+ m instead of 0\.002 m",
    FaultKind.LIMIT_SWITCH: r"stage: y was stopped at a limit switch at 0\.00\d+ m on its way to 0\.002 m",
}


@pytest.mark.parametrize(
    ("controller", "kind"), [*(("kst101", kind) for kind in MOTION_FAULTS), ("bsc203", FaultKind.LIMIT_SWITCH)]
)
def test_a_motion_that_fails_is_a_named_error_and_both_axes_stop(controller, kind):
    with rig(controller, homed=True, faults=(WireFault(kind, axis=0, microsteps=9_000),)) as r:
        with pytest.raises(MotionError, match=MOTION_FAULTS[kind]):
            r.stage.move_to(HERE)
        assert not r.wire.motor(0).moving
        assert not r.wire.motor(1).moving
        # The next motion is as good as any.
        r.stage.home()
        r.stage.move_to(HERE)


FAST_HOMING = {"homing_velocity_m_s": 18e-3, "acceleration_m_s2": 1.0, "actuator": FASTER}
"""The deadline comes from the programmed velocity, whatever speed the emulated motors have."""


def test_a_stalled_homing_is_named_when_its_time_is_over():
    fault = WireFault(FaultKind.STALLED, axis=1, message=Id.MOVE_HOME)
    with rig(speed=1, faults=(fault,), **FAST_HOMING) as r:
        text = (
            r"x is stalled at .* on its way to its reference, homing has not ended within [34]\.\d+ s and its counter"
        )
        with pytest.raises(MotionError, match=text):
            r.stage.home()
        assert not r.stage.homed
        assert not r.wire.motor(1).moving
        r.stage.home()


def test_a_pause_at_the_switch_is_no_stall():
    with rig(speed=1, switch_pause_s=0.9, **FAST_HOMING) as r:
        r.stage.home()
        assert r.stage.position() == StagePosition(0, 0)


def test_a_stage_that_was_homed_before_and_ignores_the_command_is_not_homed_again():
    fault = WireFault(FaultKind.IGNORED, axis=1, message=Id.MOVE_HOME)
    with rig(homed=True, faults=(fault,)) as r:
        r.stage.move_to(HERE)
        with pytest.raises(MotionError, match=r"stage: x has not begun to home, it stands at 0\.003 m; look at it"):
            r.stage.home()
        assert r.wire.motor(1).counter == round(HERE.x * r.wire.motor(1)._carriage.settings.microsteps_per_m)
        r.stage.home()
        assert r.stage.position() == StagePosition(0, 0)


def test_a_stage_that_was_not_homed_and_ignores_the_command_is_named_too():
    with rig(faults=(WireFault(FaultKind.IGNORED, axis=0, message=Id.MOVE_HOME),)) as r:
        with pytest.raises(MotionError, match=r"y has not begun to home"):
            r.stage.home()
        assert not r.stage.homed


@KINDS
@pytest.mark.parametrize("answer_s", [0.015, 0.04])
def test_a_controller_that_answers_slowly_is_neither_stalled_nor_swamped(controller, answer_s):
    """A stop is behind one answer at most, and on a shared controller behind the other axis's stop."""
    with rig(controller, speed=2, homed=True, answer_s=answer_s) as r:
        there = StagePosition(0.6e-3, 0.7e-3)
        assert r.stage.move_to(there).as_tuple() == pytest.approx(there.as_tuple(), abs=1e-9)
        r.wire.stream()
        begun = r.stage._heard()
        marks = []

        def stop():
            if not marks and r.stage._heard() > begun + 20:
                marks.append(len(r.wire.heard))
            if len(marks) == 1 and r.stage._heard() > begun + 40:
                marks.append(len(r.wire.heard))
                r.stage.stop()
            return False

        with pytest.raises(Cancelled):
            r.stage.move_to(StagePosition(20e-3, 20e-3), stop)
        first = {heard.axis: heard.ahead for heard in reversed(r.wire.messages(Id.MOVE_STOP))}
        # One more than there should be: on a busy machine an answer may be taken for lost.
        assert first[0] <= 2
        assert first[1] <= (3 if controller == "bsc203" else 2)
        assert max(heard.ahead for heard in list(r.wire.heard)[marks[0] : marks[1]]) <= 2
        r.stage.home()


def test_a_handler_that_fails_is_not_told_as_a_loose_cable(monkeypatch, caplog):
    with rig(homed=True) as r:

        def broken(message):
            raise KeyError("no such axis")

        monkeypatch.setattr(r.stage._links[1]._device._watch, "hear", broken)
        text = r"stage x: is connected, but this program failed over what it said \(KeyError: 'no such axis'\); report"
        with pytest.raises(ConnectionLost, match=text) as error:
            wait_until(lambda: r.stage.position() is None)
        assert "plug" not in str(error.value)
        assert "Traceback" in caplog.text
        monkeypatch.undo()
        r.stage.close()
        r.stage.open()
        r.stage.position()


def test_answers_that_come_late_are_waited_for():
    with rig(homed=True) as r:
        r.wire.inject(WireFault(FaultKind.DELAYED, axis=0, delay_s=0.2))
        r.stage.move_to(HERE)
        assert r.stage.position().y == pytest.approx(HERE.y, abs=1e-9)


def test_news_of_an_end_that_was_lost_is_made_up_for_by_a_standing_counter(monkeypatch):
    with rig() as r:
        monkeypatch.setattr("simulators.apt_controller.Controller._report", lambda *arguments: None)
        r.stage.home()
        assert r.stage.homed
        assert r.stage.move_to(HERE).y == pytest.approx(HERE.y, abs=1e-9)


def test_a_motion_that_never_ends_is_a_time_out(monkeypatch):
    monkeypatch.setattr("drivers.thorlabs.MARGIN_S", 0.3)
    with rig(homed=True, velocity_m_s=10e-3, acceleration_m_s2=0.1, actuator=FASTER) as r:
        motor = r.wire.motor(0)
        motor.enabled = True
        monkeypatch.setattr(motor, "bits", lambda now: StatusBit.HOMED | StatusBit.ENABLED | StatusBit.MOVING_FORWARD)
        monkeypatch.setattr("simulators.apt_controller.Controller._report", lambda *arguments: None)
        wait_until(lambda: r.stage._axes[0].state.moving)
        monkeypatch.setattr(r.stage, "_require_standing", lambda: None)
        with pytest.raises(DeviceTimeout, match=r"stage: the move of y(, x)? has not ended within 0\.\d+ s"):
            r.stage.move_to(StagePosition(1e-3, 0.5e-3))


def test_a_dead_reader_thread_is_noticed(monkeypatch):
    with rig() as r:
        device = r.stage._links[0]._device
        device._loop.call_soon_threadsafe(device._loop.stop)
        device._thread.join(5)
        with pytest.raises(ConnectionLost, match=r"thread has died|closed"):
            wait_until(lambda: r.stage.position() is None, 5)
        r.stage.stop()


def test_warnings_of_the_library_are_rate_limited(caplog):
    clock = VirtualClock()
    log = LimitedLog(logging.getLogger("test"), clock)
    with caplog.at_level(logging.DEBUG):
        for _ in range(1000):
            log.warn("Message mot_move_completed has unrecognised source=0.")
            clock.sleep(0.01)
        log.warn("something else")
        log.debug("every byte")
        clock.sleep(10)
        log.warning("Message mot_move_completed has unrecognised source=0.")
        for k in range(500):
            log.warn(f"{k} kinds of things")
    texts = [record.message for record in caplog.records if record.message.startswith("Message")]
    assert len(texts) == 2
    assert texts[1].endswith("(999 more like this)")
    assert len(log._said) <= 64


def test_a_garbage_sending_line_writes_no_log(caplog):
    with rig() as r, caplog.at_level(logging.INFO):
        r.wire.inject(WireFault(FaultKind.GARBAGE))
        with pytest.raises(ConnectionLost):
            wait_until(lambda: r.stage.position() is None)
        assert len(caplog.records) < 5


def test_a_link_says_what_cannot_be_opened(tmp_path):
    file = tmp_path / "not-a-port"
    file.write_text("x")
    with pytest.raises(ConnectionLost, match="cannot open"):
        AptLink("kst101", str(file), (1,), VirtualClock(), threading.Condition(), "stage y")
    assert Path(file).read_text() == "x"
