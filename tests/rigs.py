"""Benches for the contract suite: each is one camera, stage and light behind the same protocols."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from drivers.base import Camera, Light, Stage, StagePosition
from drivers.basler import BaslerCamera, BaslerSettings
from drivers.clock import Clock, SystemClock, VirtualClock
from drivers.thorlabs import ThorlabsSettings, ThorlabsStage
from simulators.bench import build_bench
from simulators.objects import Sample, draw_digit
from tests.simulators.bench_settings import SMALL

SAMPLE = Sample.from_drawing(draw_digit(4, 0), 0.9e-3, 8e-3, pitch_m=6.9e-6)
SPEED = 20.0
"""How much faster than programmed emulated motors turn: slow enough to be interrupted, fast enough to wait for."""
NEAR, FAR = StagePosition(1.0e-3, 1.2e-3), StagePosition(12.0e-3, 9.0e-3)


@dataclass(frozen=True)
class Rig:
    """Devices under contract, closed.

    Attributes:
        camera, stage, light, clock: as in a run.
        near, far: targets inside the limits, a short and a long way from the reference.
        accepted_s: how far an accepted exposure may be from the one asked for.
        real_time: whether a cancel takes real time, so that another thread is needed to stop a move.
    """

    camera: Camera
    stage: Stage
    light: Light
    clock: Clock
    near: StagePosition = NEAR
    far: StagePosition = FAR
    accepted_s: float = 0.0
    real_time: bool = False


@contextmanager
def simulated() -> Iterator[Rig]:
    """The bench made of numbers, in virtual time."""
    clock = VirtualClock(1.7e9)
    camera, stage, light, _ = build_bench(SMALL, SAMPLE, clock, 3)
    yield Rig(camera, stage, light, clock)


@contextmanager
def emulated() -> Iterator[Rig]:
    """The same bench seen and moved by the real libraries: Basler's emulator and APT controllers, in real time."""
    from simulators.apt_wire import AptWire  # POSIX systems only
    from simulators.pylon_wire import SERIAL, PylonWire

    clock = SystemClock()
    simulated_camera, simulated_stage, light, _ = build_bench(SMALL, SAMPLE, clock, 3)
    pylon_wire = PylonWire(simulated_camera.source, clock, longest_wait_s=0.3)
    camera = BaslerCamera(
        BaslerSettings(
            SMALL.shape,
            SMALL.pixel_size_m,
            SMALL.bit_depth,
            SMALL.electrons_per_adu,
            200.0,
            SERIAL,
            min_exposure_s=SMALL.min_exposure_s,
            max_exposure_s=SMALL.max_exposure_s,
        ),
        clock,
        pylon_wire,
    )
    with AptWire(simulated_stage.carriage, speed=SPEED, clock=clock) as apt_wire:
        settings = ThorlabsSettings(SMALL.limits_y_m, SMALL.limits_x_m, apt_wire.ports, settling_s=0.0, simulated=True)
        yield Rig(camera, ThorlabsStage(settings, clock), light, clock, accepted_s=1e-6, real_time=True)


RIGS: dict[str, Callable[[], AbstractContextManager[Rig]]] = {"simulated": simulated}
if os.name == "posix":
    RIGS["emulated"] = emulated
