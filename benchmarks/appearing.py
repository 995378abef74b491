"""The object appearing, photon by photon: an animated picture of the window's panel during a low-dose scan.

    python -m benchmarks.appearing [--out docs/images/appearing.gif] [--exposure 3e-6] [--calibrated RUN.h5]

A bright run of `quick` is taken and calibrated (unless a calibrated one is given), the sample is changed for another
digit, and its low-dose scan goes through the worker's session one frame at a time; after each the panel is
photographed. Times are evened out: each picture stays for 20 s over their number.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PIL import Image
from PyQt5.QtTest import QTest

from app.acquire.scan import Scan
from app.calibration import calibrate_file
from app.gui.live import LivePanel
from app.gui.program import configure_plots, make_application
from app.gui.theme import DARK, apply
from app.live.state import BenchState
from app.profile import load_profile
from app.worker.engine import Engine
from app.worker.live import Live
from app.worker.message import Choose, Ping
from app.worker.session import Session
from app.worker.source import RecordedSource
from app.worker.view import Shown
from recon.files.imports import Overrides

SECONDS = 20.0
COLOURS = 64
SIZE = (440, 720)
LARGEST_BYTES = 3_000_000


def low_dose_run(folder: Path, calibrated: Path | None, exposure_s: float, passes: int) -> Path:
    """The run that is shown."""
    profile = load_profile("quick")
    scan = profile.scan.model_copy(update={"evaluation_exposures_s": (exposure_s,)})
    profile = profile.model_copy(update={"scan": scan})
    if calibrated is None:
        calibrated = folder / "bright.h5"
        bright = Scan.new(load_profile("quick"), calibrated, 0)
        with bright.devices:
            bright.runner().run()
        calibrate_file(calibrated, folder, "cpu", None, None, 0, Overrides(), with_uncertainty=False)
    path = folder / "low.h5"
    low = Scan.low_dose(profile, path, calibrated, 0, "digit:7", passes=passes)
    with low.devices:
        low.runner().run()
    return path


def feed(session: Session, source: RecordedSource, committed: tuple[int, int], ended: str) -> None:
    """What the session asks for, until it has all up to there."""
    number = 0
    while True:
        number += 1
        pong = session.pong(Ping(number, source.begin.run, committed, ended), 0, 0)
        if "begin" in pong.needs:
            session.take(source.begin)
            session.take(Choose(source.begin.run, pose="known", conventional=False))
            continue
        messages = [source.carried() if "carried" in pong.needs else None]
        messages += [source.darks(exposure) for exposure in pong.darks] + source.frames(pong.lacks)
        given = [message for message in messages if message is not None]
        for message in given:
            session.take(message)
        if not given:
            return


def main() -> int:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/appearing.gif"))
    parser.add_argument("--exposure", type=float, default=3e-6, help="s; 3e-6 are 100 photons in the beam")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--calibrated", type=Path)
    arguments = parser.parse_args()
    app = make_application()
    configure_plots()
    apply(app, DARK)
    with tempfile.TemporaryDirectory() as name:
        source = RecordedSource(low_dose_run(Path(name), arguments.calibrated, arguments.exposure, arguments.passes))
        panel = LivePanel(Live())
        panel.resize(*SIZE)
        panel.show()
        shown = Shown(source.begin.run, (arguments.exposure,))
        panel.pose.setCurrentText("known")
        panel.live._next = shown
        session = Session(Engine("cpu"), panel.live.link.results.put)
        series = [key for key in source.order if source.plan.steps[key[0]].stream == "evaluation"]
        pictures = []
        for number, (step, repeat) in enumerate([(series[0][0] - 1, 0), *series]):
            begin = time.monotonic()
            feed(session, source, (step, repeat + 1), "")
            while session.work():
                pass
            panel.refresh(BenchState(), 0.0)
            # No worker's process here: its state says nothing.
            panel.status.hide()
            QTest.qWait(50)
            picture = panel.grab().toImage().convertToFormat(4)
            data = picture.constBits().asstring(picture.byteCount())
            image = Image.frombytes("RGBX", (picture.width(), picture.height()), data).convert("RGB")
            blue, green, red = image.split()
            pictures.append(Image.merge("RGB", (red, green, blue)).quantize(COLOURS, dither=Image.Dither.NONE))
            print(f"{number} frames: {time.monotonic() - begin:.1f} s, {panel.verdict.text()}", flush=True)
        panel.close()
    pictures[0].save(
        arguments.out,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1e3 * SECONDS / len(pictures)),
        loop=0,
        optimize=True,
    )
    size = arguments.out.stat().st_size
    print(f"{arguments.out}: {len(pictures)} pictures, {size / 1e6:.2f} MB")
    if size > LARGEST_BYTES:
        raise RuntimeError(f"{arguments.out}: {size} bytes, at most {LARGEST_BYTES} are wanted; use fewer colours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
