"""Emulated Basler cameras for tests: canned frames, a wire that only watches, and pylon handles that misbehave."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from drivers.base import TriggerSettings
from drivers.basler import BaslerCamera, BaslerSettings
from drivers.clock import VirtualClock
from simulators.pylon_wire import SERIAL, PylonWire

SHAPE = (64, 96)


class Canned:
    """Frames of random numbers, each from its own index; remembers them all."""

    def __init__(self, shape: tuple[int, int] = SHAPE, bit_depth: int = 12):
        self.shape = shape
        self.bit_depth = bit_depth
        self.exposed: list[tuple[float, float, float]] = []
        self.frames: list[np.ndarray] = []

    def look(self) -> None:
        return None

    def expose(self, light: object, exposure_s: float, gain_db: float, black_level_adu: float) -> np.ndarray:
        rng = np.random.default_rng(len(self.frames))
        self.frames.append(rng.integers(0, 2**self.bit_depth, self.shape, np.uint16))
        self.exposed.append((exposure_s, gain_db, black_level_adu))
        return self.frames[-1]


class Watcher:
    """A wire without frames: the emulator shows black. Notes who called what and with which settings."""

    def __init__(self, cameras: int = 1, on_attach: Callable[[Any], None] = lambda device: None):
        self.cameras = cameras
        self.on_attach = on_attach
        self.calls: list[str] = []
        self.triggers: list[TriggerSettings] = []
        self.threads: set[int] = set()
        self.device: Any = None

    def connect(self) -> None:
        self.calls.append("connect")
        os.environ["PYLON_CAMEMU"] = str(self.cameras)  # and left so: pylon loses pipes when it finds this changed

    def attach(self, device: Any) -> None:
        self.calls.append("attach")
        self.device = device
        self.on_attach(device)

    def before_trigger(self, settings: TriggerSettings) -> None:
        self.triggers.append(settings)
        self.threads.add(threading.get_ident())

    def disconnect(self) -> None:
        self.calls.append("disconnect")


class Stand:
    """A pylon object with some attributes replaced; everything else reaches the object inside."""

    def __init__(self, inside: Any, **replaced: Any):
        object.__setattr__(self, "_inside", inside)
        object.__setattr__(self, "_replaced", replaced)

    def __getattr__(self, name: str) -> Any:
        replaced = object.__getattribute__(self, "_replaced")
        return replaced[name] if name in replaced else getattr(object.__getattribute__(self, "_inside"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_inside"), name, value)


def settings(**changes: Any) -> BaslerSettings:
    return BaslerSettings(
        **{
            "shape": SHAPE,
            "pixel_size_m": 3.45e-6,
            "bit_depth": 12,
            "electrons_per_adu": 2.4,
            "black_level_adu": 32.0,
            **changes,
        }
    )


def fed(source: Any = None, clock: VirtualClock | None = None, **changes: Any) -> tuple[BaslerCamera, PylonWire]:
    """A closed camera on a wire that feeds it from `source`, in virtual time."""
    clock = clock or VirtualClock(1000.0)
    source = source or Canned()
    wire = PylonWire(source, clock)
    changes = {"serial": SERIAL, "shape": source.shape, "bit_depth": source.bit_depth} | changes
    return BaslerCamera(settings(**changes), clock, wire), wire
