"""The driver's waiting on an injected clock: how long it waits for what, without a controller and without real time."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from drivers.apt_axis import LAG_S, STALL_S, STANDING_S
from drivers.apt_link import Identity
from drivers.apt_settings import MotionParameters, ThorlabsSettings
from drivers.apt_watch import AxisState, Pace, Watch
from drivers.base import Cancelled, ConnectionLost, DeviceTimeout, InstrumentError, MotionError, StagePosition
from drivers.clock import VirtualClock
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

    def home(self, index):
        self.log.append("home")
        self.before, self.began = self.now, self.clock.monotonic()
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


def homes(after, pause):
    """Seeks its switch, stands there with the bit of homing alone, and counts from there."""

    def script(t, target, before):
        if t < LAG_S:
            return before
        if t < after + pause:
            gone = min(t, after) / after
            return replace(
                before, position=int(before.position * (1 - gone)), homing=True, homed=False, moving=t < after
            )
        return replace(before, position=0, homed=True, homings=before.homings + 1, homed_time=after + pause)

    return script


def without_news(script):
    return lambda t, target, before: replace(script(t, target, before), homings=before.homings)


def hangs(t, target, before):
    return (
        replace(before, position=before.position // 2, homing=True, homed=False, moving=True) if t > LAG_S else before
    )


def ignores(t, target, before):
    return before


def loses_its_reference(t, target, before):
    return replace(before, homing=LAG_S < t < 1.0, homed=t < LAG_S)


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


@pytest.mark.parametrize("news", [True, False])
def test_homing_may_pause_at_its_switch_for_longer_than_a_stall(made, news):
    script = homes(1.0, 3 * STALL_S)
    stage, links, clock = made(*[script if news else without_news(script)] * 2)
    for link in links:
        link.now = replace(link.now, position=5_000_000)
    begin = clock.monotonic()
    stage.home()
    assert clock.monotonic() - begin < 1.0 + 3 * STALL_S + (LAG_S if news else STALL_S) + 0.2
    assert links[0].log == ["home"]
    assert stage.position() == StagePosition(0, 0)


@pytest.mark.parametrize("position", [0, 10_000_000, None])
def test_a_homing_that_hangs_is_named_when_its_way_could_have_been_made(made, position):
    """None: not homed before, so that its counter means nothing and its way may be the whole travel."""
    stage, links, clock = made(hangs, hangs)
    for link in links:
        link.now = replace(link.now, position=position or 0, homed=position is not None)
    begin = clock.monotonic()
    with pytest.raises(
        MotionError, match=r"y is stalled at .* on its way to its reference, homing has not ended within"
    ):
        stage.home()
    way = 25e-3 if position is None else position / 2_184_533_333
    needed = (way + 2e-4) / 0.5e-3 + 2 * 0.5
    assert needed < clock.monotonic() - begin < 1.1 * needed + LAG_S + MARGIN_S + 1.0
    assert links[0].log == links[1].log == ["home", "stop"]


def test_a_homing_that_is_still_moving_gets_the_time_of_the_whole_travel(made):
    stage, links, clock = made(homes(40.0, 0.0), homes(1.0, 0.0))
    for link in links:
        link.now = replace(link.now, position=1_000_000)
    stage.home()
    assert clock.monotonic() == pytest.approx(40.0, abs=0.5)


@pytest.mark.parametrize(
    ("script", "homed", "text"),
    [
        (ignores, True, "y has not begun to home, it stands at 0.00228 m"),
        (ignores, False, "y has not begun to home"),
        (loses_its_reference, True, "y has stopped without finding its reference"),
    ],
)
def test_an_old_bit_is_no_homing(made, script, homed, text):
    stage, links, clock = made(script, homes(1.0, 0.0))
    links[0].now = replace(links[0].now, position=4_980_736, homed=homed)
    with pytest.raises(MotionError, match=text):
        stage.home()
    assert clock.monotonic() < 1.0 + STALL_S + STANDING_S + 0.3
    assert links[0].log == links[1].log == ["home", "stop"]


# Polling and its silence


def served(answer_s: float, seconds: float, lost: int = -1, streamed_s: float = math.inf) -> tuple[int, int]:
    """A controller that serves one request after the other: (answers, most requests that were waiting late on).

    lost: which answer does not come; streamed_s: how often a status comes without having been asked for.
    """
    pace, now, asked, answers, longest, busy, stream = Pace(0.01), 0.0, [], 0, 0, 0.0, streamed_s
    while now < seconds:
        if pace.due(now) <= 0:
            pace.asked(now)
            asked.append(max(now, busy) + answer_s)
            busy = asked[-1]
        if now > seconds / 2:
            longest = max(longest, len(asked))
        if asked and asked[0] <= now:
            asked.pop(0)
            answers += 1
            if answers != lost:
                pace.answered(now)
        if now >= stream:
            stream += streamed_s
            pace.answered(now)
        now += 1e-3
    return answers, longest


@pytest.mark.parametrize(("answer_s", "least"), [(0.003, 900), (0.015, 300), (0.04, 110), (0.08, 55)])
def test_a_controller_is_polled_as_fast_as_it_answers_and_no_faster(answer_s, least):
    answers, waiting = served(answer_s, 10.0)
    assert least <= answers <= 1000
    assert waiting == 1


def test_a_lost_answer_does_not_end_polling():
    answers, waiting = served(0.003, 10.0, lost=100)
    assert answers > 850
    assert waiting == 1


def test_what_streams_unasked_does_not_pile_up():
    assert served(0.04, 10.0, streamed_s=0.1)[1] <= 2


@pytest.mark.parametrize(("noise", "text"), [(0, "has not answered for 0.7 s"), (20, "sends nonsense, .* bytes of it")])
def test_silence_and_nonsense_are_known_within_a_second(noise, text):
    clock = VirtualClock()
    watch = Watch("stage", (0x50,), clock, threading.Condition())
    watch.asked(0x50)
    while watch.fault is None:
        clock.sleep(0.01)
        watch.passed(noise)
    assert clock.monotonic() < 1.0
    assert re.search(text, watch.fault)


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
