"""A stage of the real driver on emulated controllers, and what tests ask of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from drivers.apt_settings import ZFS25B, ThorlabsSettings
from drivers.base import Interval, StagePosition
from drivers.thorlabs import ThorlabsStage
from simulators.apt_protocol import Id, Message
from simulators.apt_wire import ANSWER_S, AptWire, WireFault
from simulators.carriage import Carriage, StageSettings

LIMITS = (0.5e-3, 24.5e-3)
BENCH = StageSettings(limits_y_m=LIMITS, limits_x_m=LIMITS, centre_m=(12.5e-3, 12.5e-3))
HERE = StagePosition(2e-3, 3e-3)
"""A place that is not far."""
KINDS = pytest.mark.parametrize("controller", ["kst101", "bsc203"])
MOVES = (Id.MOVE_HOME, Id.MOVE_ABSOLUTE, Id.MOVE_RELATIVE, Id.MOVE_VELOCITY, Id.MOVE_JOG)


FASTER = replace(ZFS25B, velocity_m_s=Interval(0, 20e-3, "m/s"), acceleration_m_s2=Interval(0, 2, "m/s^2"))
"""An actuator that no test has to wait for."""


@dataclass
class Rig:
    wire: AptWire
    stage: ThorlabsStage
    carriage: Carriage


@contextmanager
def rig(
    controller: str = "kst101",
    speed: float = 100.0,
    faults: tuple[WireFault, ...] = (),
    bench: StageSettings = BENCH,
    opened: bool = True,
    homed: bool = False,
    carriage: Carriage | None = None,
    answer_s: float = ANSWER_S,
    switch_pause_s: float = 0.0,
    **changes: object,
) -> Iterator[Rig]:
    """Emulated controllers with a stage on them, homed by an earlier program if at all; settling takes no time."""
    carriage = carriage or Carriage(bench, 3)
    with AptWire(
        carriage,
        controller,  # type: ignore[arg-type]
        speed=speed,
        faults=faults,
        answer_s=answer_s,
        switch_pause_s=switch_pause_s,
    ) as wire:
        options = {"settling_s": 0.0, "simulated": True, "serials": wire.ports, "controller": controller} | changes
        stage = ThorlabsStage(ThorlabsSettings(limits_y_m=LIMITS, limits_x_m=LIMITS, **options))  # type: ignore[arg-type]
        try:
            if homed:
                for axis in (0, 1):
                    carriage.turn(axis, -int(carriage.zero[axis]))
                    carriage.reference(axis)
                    wire.motor(axis).homed = True
            if opened:
                stage.open()
            yield Rig(wire, stage, carriage)
        finally:
            stage.close()


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Until it is true; an AssertionError when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        time.sleep(0.002)


def sent(r: Rig, *identifiers: int) -> list[tuple[int | None, Message]]:
    """(axis, message) of what the controllers have heard, of these kinds or of all."""
    return [(heard.axis, heard.message) for heard in r.wire.messages(*identifiers)]
