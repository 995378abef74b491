"""The pictures of docs/window.md: every panel during a real simulated run, drawn off screen or on a display.

    python -m benchmarks.screenshots [--out docs/images] [--speed 12] [--only bench|live]

`live` takes those of the reconstruction, in a small run; its worker is the real one.
`QT_QPA_PLATFORM=xcb` draws on the display that DISPLAY names, Xvfb's for instance.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PIL import Image
from PyQt5.QtTest import QTest
from PyQt5.QtWidgets import QWidget

from app.gui.connect import Choice
from app.gui.live import LivePanel
from app.gui.program import configure_plots, make_application
from app.gui.window import Window
from app.live.state import Health
from app.profile import PROFILES
from app.worker.live import Live
from drivers.base import ConnectionLost
from drivers.clock import SystemClock

PATIENCE_S = 900.0
COLOURS = 255


class Photographer:
    """A window, what it takes to get somewhere in it, and its pictures."""

    def __init__(self, out: Path, folder: Path):
        self._app = make_application()
        configure_plots()
        self._out = out
        self.panel = LivePanel(Live())
        self.window = Window(SystemClock(), folder / "settings.json", [self.panel])
        self.window.resize(1440, 940)
        self.window.show()
        self.live(0.3)

    def live(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let the window live so long, or until the condition holds."""
        end = time.monotonic() + (seconds if until is None else PATIENCE_S)
        while time.monotonic() < end:
            self._app.processEvents()
            QTest.qWait(5)
            if until is not None and until():
                return
        if until is not None:
            raise TimeoutError(self.window.journal.since(0)[-1].text)

    def take(self, name: str, widget: QWidget | None = None) -> None:
        path = self._out / f"window-{name}.png"
        self.live(0.4)
        (widget or self.window).grab().save(str(path))
        # Few colours are enough for a window, and a repository keeps every picture for ever.
        Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(path)

    def idle(self) -> None:
        self.live(0.15)
        self.live(0, lambda: self.window.owner.state.idle)
        self.live(0.15)


def stage_and_camera(p: Photographer) -> None:
    w = p.window
    w.stage.home.click()
    p.take("confirm")
    w.stage.confirm.yes.click()
    p.live(0, lambda: w.owner.state.stage.homed)
    p.idle()
    w.stage.centre.click()
    w.stage.confirm.yes.click()
    p.live(0, lambda: w.owner.state.stage.position.y > 12e-3)
    p.idle()
    for way in ("+x", "+x", "-y", "+x"):
        w.stage.pad.arrows[way].click()
        p.idle()
    w.camera.suggest.click()
    p.idle()
    p.live(1.5)
    w.camera.centre.click()
    w.camera.scale.setCurrentText("log")
    w.camera.colours.setCurrentText("viridis")
    w.camera.plots.choose("Radial")
    p.live(0.8)
    p.take("stage")
    w.camera.marks.click()
    w.camera.scale.setCurrentText("square root")
    w.camera.colours.setCurrentText("inferno")
    w.camera.plots.choose("Histogram")


def scan(p: Photographer, folder: Path) -> None:
    w = p.window
    w.show_panel("scan")
    w.scan.form.sample.setText("digit on chrome")
    w.scan.form.notes.setText("after cleaning the pinhole")
    w.scan.form.path.setText(str(folder / "run.h5"))
    w.scan._edited()
    p.live(0, w.scan.begin.isEnabled)
    p.take("scan")
    w.scan.begin.click()
    p.live(0, lambda: w.owner.state.run is not None and w.owner.state.run.done > 255)
    p.take("overview")
    w.set_theme("light")
    p.take("light")
    w.set_theme("dark")
    p.live(0, lambda: not w.owner.state.run.running)
    p.idle()


def align(p: Photographer) -> None:
    w = p.window
    w.show_panel("align")
    p.live(0.4)
    w.align.plan.click()
    p.live(0, w.align.confirm.isVisible)
    w.align.confirm.yes.click()
    p.live(0, lambda: w.align.result is not None)
    p.idle()
    p.take("align")


def fault(p: Photographer) -> None:
    w = p.window
    w.show_panel("stage")
    camera = w.owner.setup.devices.camera

    def gone(timeout_s: float) -> None:
        raise ConnectionLost("camera", "was unplugged; look at its cable, then reconnect")

    camera.newest = gone  # type: ignore[method-assign]
    p.live(0, lambda: w.top.lamps["camera"].health is Health.FAULT)
    p.take("fault")
    del camera.newest
    w.top.reconnect.click()
    p.idle()
    w.notices.banner.hide()


def replay(p: Photographer, path: Path) -> None:
    w = p.window
    w.open_recording(path)
    p.live(0, lambda: w.owner.replay is not None and w.owner.state.run is not None)
    w.show_panel("scan")
    head = w.owner.replay.playhead
    head.seek(int(0.7 * head.count))
    w.replay.speed.setCurrentText("5 x")
    head.play()
    p.live(1.0)
    p.take("replay")


def small_profile(folder: Path) -> str:
    """`tiny` with more points and light that leaves its mark photon by photon: calibration and images in a minute."""
    text = (PROFILES / "tiny.toml").read_text()
    for old, new in (
        ("positions = 9", "positions = 25"),
        ("evaluation_positions = 3", "evaluation_positions = 12"),
        ("overlap = 0.60", "overlap = 0.70"),
        ("evaluation_exposures_s = [3e-4, 3e-2]", "evaluation_exposures_s = [1e-5, 3e-5, 1e-4]"),
        ("dark_frames = 4", "dark_frames = 12"),
    ):
        if old not in text:
            raise RuntimeError(f"tiny.toml has no {old!r} any more; correct this benchmark")
        text = text.replace(old, new, 1)
    (folder / "small.toml").write_text(text)
    # The bar shows the profile's name as it was given.
    os.chdir(folder)
    return "small.toml"


def live(p: Photographer, folder: Path, speed: float) -> None:
    """A run that is reconstructed while it goes on: its calibration, then its images."""
    w, panel = p.window, p.panel
    # Of the run before, whose images nobody waited for.
    w.notices.banner.hide()
    w.connect_bench(Choice(small_profile(folder), 0, None, speed))
    p.live(0, lambda: w.camera._view is not None and w.owner.state.idle)
    panel.pose.setCurrentText("known")
    w.show_panel("scan")
    w.scan.form.path.setText(str(folder / "live.h5"))
    w.scan._edited()
    p.live(0, w.scan.begin.isEnabled)
    w.scan.begin.click()
    w.scan.confirm.yes.click()
    w.show_panel("guest-0")
    p.live(0, lambda: panel.live.shown is not None and len(panel.live.shown.epochs) >= 24)
    p.take("calibration", panel)

    def imaged() -> bool:
        images = panel.live.shown.images.values()
        return len(images) == 3 and all(one.pixels is not None for one in images)

    p.live(0, imaged)
    p.live(0.5)
    p.take("reconstruction")


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--speed", type=float, default=12.0, help="of simulated time")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--only", choices=("bench", "live"), default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        p = Photographer(arguments.out.resolve(), folder)
        if arguments.only == "live":
            live(p, folder, arguments.speed)
            p.window.leave()
            p.live(0, lambda: not p.window.isVisible())
            return 0
        p.take("empty")
        p.window.connect_bench(Choice(arguments.profile, 0, None, arguments.speed))
        p.live(0, lambda: p.window.camera._view is not None and p.window.owner.state.idle)
        p.live(1.0)
        stage_and_camera(p)
        scan(p, folder)
        align(p)
        fault(p)
        replay(p, folder / "run.h5")
        if arguments.only is None:
            live(p, folder, arguments.speed)
        p.window.leave()
        p.live(0, lambda: not p.window.isVisible())
    return 0


if __name__ == "__main__":
    sys.exit(main())
