"""A window on simulated devices that a test can spy on, make fail and make wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QAbstractButton

from app.gui.panels import GuestPanel
from app.gui.program import configure_plots
from app.gui.window import Window
from app.live.setup import Setup
from app.live.state import BenchState, Health
from drivers.base import Camera, Cancel, Facts, InstrumentError, LightState, Stage, StageInfo, StagePosition, never
from drivers.clock import SystemClock
from drivers.manual import ManualLight

PATIENCE_MS = 20_000
FAST = 300.0
"""Simulated seconds a second: homing in 10 ms, a whole scan in some hundred."""
SLOW = 1.0
"""A move that lasts long enough to be stopped."""


class ShiftedClock(SystemClock):
    """Real time that a test may put forward."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.shift_s


class SpyStage:
    """Writes down what would move; `position` waits while `hang`, and fails with `gone`."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self.motions: list[str] = []
        self.stops: list[str] = []
        self.hung = threading.Event()
        self.released = threading.Event()
        self.hang = False
        self.gone: InstrumentError | None = None

    def open(self) -> None:
        self._stage.open()

    def close(self) -> None:
        self._stage.close()

    @property
    def info(self) -> StageInfo:
        return self._stage.info

    @property
    def homed(self) -> bool:
        return self._stage.homed

    def position(self) -> StagePosition:
        if self.hang:
            self.hung.set()
            self.released.wait(20)
        if self.gone is not None:
            raise self.gone
        return self._stage.position()

    def home(self, cancel: Cancel = never) -> None:
        self.motions.append("home")
        self._stage.home(cancel)

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        self.motions.append(f"move {target.y:.6f} {target.x:.6f}")
        return self._stage.move_to(target, cancel)

    def stop(self) -> None:
        self.stops.append(threading.current_thread().name)
        self._stage.stop()

    def describe(self) -> Facts:
        return self._stage.describe()


@dataclass
class Desk:
    """A window and who sits before it.

    Attributes:
        window: shown.
        bot: pytest-qt's.
        clock: the window's.
        stage: the spy in the bench that was connected last.
    """

    window: Window
    bot: object
    clock: ShiftedClock
    stage: SpyStage | None = None

    @property
    def bench(self) -> BenchState:
        latest = self.window.owner.watched.bench.newest()
        assert latest is not None
        return latest.item

    def connect(
        self,
        speed: float = FAST,
        profile: str = "tiny",
        seed: int = 0,
        camera: Callable[[Camera], Camera] = lambda camera: camera,
        by_hand: bool = False,
    ) -> None:
        """Connect a simulated bench, its devices wrapped, and wait until they are there; its beam by hand or not."""

        def make(ask):
            setup = Setup.of_profile(profile, ask, seed, speed=speed)
            self.stage = SpyStage(setup.devices.stage)
            devices = replace(setup.devices, camera=camera(setup.devices.camera), stage=self.stage)
            if by_hand:
                beam = devices.light
                beam.open()
                switch = {LightState.OPEN: beam.unblock, LightState.BLOCKED: beam.block}
                devices = replace(devices, light=ManualLight(ask, lambda state: switch[state]()))
            return replace(setup, devices=devices)

        self.window.use(make)
        self.until(lambda: self.bench.name == profile and self.bench.idle)
        self.until(lambda: self.window.top.lamps["light"].health is Health.CONNECTED)

    def until(self, condition: Callable[[], bool]) -> None:
        self.bot.waitUntil(condition, timeout=PATIENCE_MS)

    def click(self, button: QAbstractButton) -> None:
        """Press a button that can be pressed, as a person does: wait until it can be."""
        self.until(button.isEnabled)
        self.bot.mouseClick(button, Qt.LeftButton)

    def home(self) -> None:
        stage = self.window.stage
        self.click(stage.home)
        self.click(stage.confirm.yes)
        self.until(lambda: self.bench.stage.homed and self.bench.idle)

    def messages(self) -> str:
        return "\n".join(message.text for message in self.window.journal.since(0))

    def start_scan(self) -> None:
        """Start, and say yes when it asks: it does before it homes, and when nobody sees its panel."""
        scan = self.window.scan
        self.click(scan.begin)
        if scan.confirm.isVisibleTo(scan):
            self.click(scan.confirm.yes)

    def ready_to_scan(self, path: Path) -> None:
        """Type the name of the run file and wait for the checks."""
        self.window.show_panel("scan")
        form = self.window.scan.form
        form.path.clear()
        self.bot.keyClicks(form.path, str(path))
        self.until(self.window.scan.begin.isEnabled)


@contextmanager
def desk(bot: object, folder: Path, guests: Sequence[GuestPanel] = ()) -> Iterator[Desk]:
    """A window with settings in a folder, closed at the end however it was left."""
    configure_plots()
    clock = ShiftedClock()
    window = Window(clock, folder / "settings.json", guests)
    window.settings = replace(window.settings, folder=str(folder))
    window.show()
    made = Desk(window, bot, clock)
    try:
        yield made
    finally:
        if made.stage is not None:
            made.stage.released.set()
        window.leave()
        made.until(lambda: not window.isVisible() and not window.owner.alive)
        window.deleteLater()
