"""The driver's waiting on an injected clock: how long it waits for what, without a controller and without real time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from drivers.apt_axis import LAG_S, STALL_S, STANDING_S
from drivers.apt_link import Identity
from drivers.apt_settings import MotionParameters, ThorlabsSettings
from drivers.apt_watch import AxisState
from drivers.base import (
    Cancelled,
    ConnectionLost,
    DeviceTimeout,
    InstrumentError,
    MotionError,
    StagePosition,
    VirtualClock,
)
from drivers.thorlabs import MARGIN_S, ThorlabsStage
from tests.drivers.rig import HERE, LIMITS

TICK = 0.01
Script = Callable[[float, int, AxisState], AxisState]


class FakeLink:
    """A controller that follows a script: (seconds since the command, its target, the state before) to the state."""

    def __init__(self, kind, address, channels, clock, bell, name):
        self.name, self.port, self.identity = name, address, Identity("KST101", "1", "1.0.0")
        self.clock = clock
        self.reported, self.last_report, self.heard = 0, "", 0
        self.now = AxisState(homed=True, enabled=True)
        self.before = self.now
        self.script: Script | None = None
        self.began = 0.0
        self.target = 0
        self.lost: str | None = None
        self.log: list[str] = []
        self.parameters: MotionParameters | None = None

    def check(self):
        self.clock.sleep(TICK)
        if self.lost:
            raise ConnectionLost(self.name, self.lost)
        self.heard += 1
        if self.script is not None:
            self.now = self.script(self.clock.monotonic() - self.began, self.target, self.before)
        self.now = replace(self.now, time=self.clock.monotonic(), updates=self.heard)

    def state(self, index):
        return self.now

    def refresh(self):
        pass

    def move(self, index, position):
        self.log.append("move")
        self.before, self.began, self.target = self.now, self.clock.monotonic(), position
        self.script = self.next

    next: Script

    def stop(self, immediate):
        self.log.append("stop")
        self.script = None
        self.now = replace(self.now, moving=False, stopped=self.now.stopped + 1)

    def write_parameters(self, index, wanted):
        self.parameters = wanted

    def read_parameters(self, index):
        return self.parameters

    def close(self):
        self.log.append("close")


def arrives(after):
    def script(t, target, before):
        if t < after:
            return replace(before, position=int(target * t / after), moving=t > LAG_S)
        return replace(before, position=target, completed=before.completed + 1)

    return script


def stuck(t, target, before):
    return replace(before, position=target // 2, moving=True)


def claims(offset):
    """Says that it has arrived, so many microsteps away."""
    return lambda t, target, before: replace(before, position=target + offset, completed=before.completed + 1)


def creeps(t, target, before):
    return replace(before, position=int(1e6 * t), moving=True)


def silently_there(t, target, before):
    return replace(before, position=target)


@pytest.fixture
def made():
    """A stage, its links and its clock, each link moving as told."""

    def make(y: Script, x: Script, **changes):
        clock = VirtualClock()
        links: list[FakeLink] = []

        def connect(*arguments):
            links.append(FakeLink(*arguments))
            links[-1].next = (y, x)[len(links) - 1]
            return links[-1]

        stage = ThorlabsStage(ThorlabsSettings(LIMITS, LIMITS, ("/y", "/x"), **changes), clock, connect=connect)
        stage.open()
        return stage, links, clock

    return make


def test_a_move_takes_its_motion_and_settling_and_next_to_nothing_more(made):
    stage, links, clock = made(arrives(1.0), arrives(0.5), settling_s=0.25)
    begin = clock.monotonic()
    assert stage.move_to(HERE).as_tuple() == pytest.approx(HERE.as_tuple(), abs=1e-9)
    assert clock.monotonic() - begin == pytest.approx(1.25, abs=0.25)
    assert links[0].log == links[1].log == ["move"]


@pytest.mark.parametrize(
    ("script", "error", "seconds", "text"),
    [
        (stuck, MotionError, STALL_S, "y is stalled at 0.001 m on its way to 0.002 m"),
        (claims(-500), MotionError, STANDING_S, r"y arrived at 0\.00199977 m instead of 0\.002 m, -500 microsteps"),
        (creeps, DeviceTimeout, None, "the move of y has not ended within"),
    ],
)
def test_what_is_waited_for_how_long(made, script, error, seconds, text):
    stage, links, clock = made(script, arrives(0.2))
    if seconds is None:
        seconds = 1.25 * stage.info.move_duration_s(StagePosition(0, 0), HERE) + LAG_S + MARGIN_S
    begin = clock.monotonic()
    with pytest.raises(error, match=text):
        stage.move_to(HERE)
    # And until the counters stand after the stop.
    assert seconds < clock.monotonic() - begin < seconds + STANDING_S + 0.3
    assert links[0].log == links[1].log == ["move", "stop"]


def test_an_end_without_its_message_is_believed_after_the_time_of_a_stall(made):
    stage, _, clock = made(silently_there, silently_there, settling_s=0.0)
    begin = clock.monotonic()
    stage.move_to(HERE)
    assert STALL_S < clock.monotonic() - begin < STALL_S + 0.2


def test_a_lost_connection_stops_the_other_axis_and_waits_for_nobody(made):
    stage, links, clock = made(arrives(5.0), arrives(5.0))

    def cancel():
        if clock.monotonic() > 1.0:
            links[1].lost = "is gone"
        return False

    with pytest.raises(ConnectionLost, match="stage x: is gone; the move may still be going on"):
        stage.move_to(HERE, cancel)
    assert links[0].log == ["move", "stop"]
    assert clock.monotonic() < 1.2


def test_a_cancel_while_settling_stops_and_says_so(made):
    stage, links, clock = made(arrives(0.2), arrives(0.2), settling_s=5.0)
    with pytest.raises(Cancelled, match=r"settling was stopped at y 0\.002 m, x 0\.003 m"):
        stage.move_to(HERE, lambda: clock.monotonic() > 2.0)
    assert clock.monotonic() < 2.3
    assert links[0].log == ["move", "stop"]


def test_one_controller_that_cannot_be_opened_closes_the_other():
    opened: list[FakeLink] = []

    def connect(kind, address, channels, clock, bell, name):
        if opened:
            raise ConnectionLost(name, "is not there")
        opened.append(FakeLink(kind, address, channels, clock, bell, name))
        return opened[0]

    stage = ThorlabsStage(ThorlabsSettings(LIMITS, LIMITS, ("/y", "/x")), VirtualClock(), connect=connect)
    with pytest.raises(InstrumentError, match="stage x: is not there"):
        stage.open()
    assert opened[0].log == ["close"]
