"""How long after its first frame does a low-dose scan show an image? The real worker, over the real line.

    python -m benchmarks.first_image [--calibrated RUN.h5] [--poses known,free] [--exposure 3e-6] [--write]

A bright run of `quick` is taken and calibrated (unless a calibrated one is given); a low-dose scan of another digit
runs in real time while a worker of its own follows it. Timed from the commit of the first evaluation frame to the
arrival of the first image, and of the later ones from the commit of their newest frame. `--write` appends to
RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from app.acquire.frame import Frame
from app.acquire.observer import Progress
from app.acquire.plan import Stream
from app.acquire.scan import Scan
from app.calibration import calibrate_file
from app.devices import START_OF_SIMULATED_TIME, open_devices
from app.live.pace import PacedClock
from app.profile import load_profile
from app.worker.follow import RunningSource
from app.worker.link import Link, LinkState
from app.worker.message import Choose, Estimate, ToWindow
from app.worker.place import OwnWorker
from benchmarks.report import append_rows, machine
from recon.files.imports import Overrides

CLAIM_S = 2.0
PATIENCE_S = 300.0


class TimedSource(RunningSource):
    """When each evaluation frame was committed."""

    def __init__(self, scan: Scan):
        super().__init__(scan)
        self.times: list[float] = []

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        if frame.step.stream is Stream.EVALUATION:
            self.times.append(time.monotonic())
        super().frame_committed(frame, progress)


def delays(calibrated: Path, folder: Path, pose: str, exposure_s: float) -> tuple[list[float], list[int]]:
    """Seconds from the newest frame of each image to the image, and how many frames it held."""
    profile = load_profile("quick")
    scan = profile.scan.model_copy(update={"evaluation_exposures_s": (exposure_s,)})
    profile = profile.model_copy(update={"scan": scan})
    devices = open_devices(profile, 0, "digit:7", PacedClock(1.0, START_OF_SIMULATED_TIME))
    low = Scan.low_dose(profile, folder / f"{pose}.h5", calibrated, devices=devices)
    found: list[tuple[float, int]] = []
    complete = threading.Event()

    def heard(message: ToWindow) -> None:
        if isinstance(message, Estimate):
            found.append((time.monotonic(), message.frames))
            if message.final:
                complete.set()

    link = Link(OwnWorker(), heard=heard, say=print)
    link.start()
    link.want(True)
    try:
        with devices:
            source = TimedSource(low)
            link.watch(source, Choose("", pose=pose, conventional=False))
            end = time.monotonic() + PATIENCE_S
            while link.status.state is not LinkState.CONNECTED:
                if time.monotonic() > end:
                    raise TimeoutError("the worker did not start")
                time.sleep(0.05)
            low.runner(source).run()
        if not complete.wait(PATIENCE_S):
            raise TimeoutError("no final image")
    finally:
        link.end()
        link.join(10.0)
    return [at - source.times[frames - 1] for at, frames in found], [frames for _, frames in found]


def main() -> int:
    """Print the delays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrated", type=Path)
    parser.add_argument("--poses", default="known,free")
    parser.add_argument("--exposure", type=float, default=3e-6)
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    arguments = parser.parse_args()
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder, calibrated = Path(name), arguments.calibrated
        if calibrated is None:
            calibrated = folder / "bright.h5"
            bright = Scan.new(load_profile("quick"), calibrated, 0)
            with bright.devices:
                bright.runner().run()
            calibrate_file(calibrated, folder, "cpu", None, None, 0, Overrides(), with_uncertainty=False)
        for pose in arguments.poses.split(","):
            seconds, frames = delays(calibrated, folder, pose, arguments.exposure)
            print(f"{pose}: {[f'{n}: {s:.2f} s' for n, s in zip(frames, seconds, strict=True)]}", flush=True)
            what = f"low-dose scan of quick, {arguments.exposure:g} s, pose {pose}, worker in a process of its own"
            rows.append(
                (f"first frame committed to first image, {what}", f"{seconds[0]:.2f} s", f"within {CLAIM_S:g} s")
            )
            rest = f"median {statistics.median(seconds):.2f} s over {len(seconds)} images of {max(frames)} frames"
            rows.append((f"newest frame of an image committed to the image, {what}", rest, "-"))
    for quantity, value, claim in rows:
        print(f"{quantity}: {value}; claim {claim}")
    if arguments.write:
        made_on = machine("torch", "pyzmq") + f"; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        append_rows("python -m benchmarks.first_image", rows, made_on)
    return 0


if __name__ == "__main__":
    sys.exit(main())
