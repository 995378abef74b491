"""How long after its first frame does a low-dose scan show an image? The real worker, over the real line.

    python -m benchmarks.first_image [--calibrated RUN.h5] [--poses known,free] [--exposure 3e-6] [--work] [--write]

A bright run of `quick` is taken and calibrated (unless a calibrated one is given); a low-dose scan of another digit
runs in real time while a worker of its own follows it. Timed from the commit of the first evaluation frame to the
arrival of the first image, and of the later ones from the commit of their newest frame. That says little where other
programs keep the cores busy: `--work` counts processor seconds instead, of the same session and engine in this process,
frame by frame, without a line between. `--write` appends to RESULTS.md.
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
from app.worker.engine import Engine
from app.worker.follow import RunningSource
from app.worker.link import Link, LinkState
from app.worker.message import Choose, Estimate, Ping, ToWindow
from app.worker.place import OwnWorker
from app.worker.session import Session
from app.worker.source import RecordedSource
from benchmarks.report import append_rows, machine
from drivers.clock import Clock
from recon.files.imports import Overrides

CLAIM_S = 2.0
PATIENCE_S = 300.0
FOLLOWED = 4
"""Frames whose images are counted in `--work`."""


class TimedSource(RunningSource):
    """When each evaluation frame was committed."""

    def __init__(self, scan: Scan):
        super().__init__(scan)
        self.times: list[float] = []

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        if frame.step.stream is Stream.EVALUATION:
            self.times.append(time.monotonic())
        super().frame_committed(frame, progress)


def low_dose(calibrated: Path, path: Path, exposure_s: float, clock: Clock | None) -> Scan:
    """A scan of another digit under this calibration."""
    profile = load_profile("quick")
    scan = profile.scan.model_copy(update={"evaluation_exposures_s": (exposure_s,)})
    profile = profile.model_copy(update={"scan": scan})
    return Scan.low_dose(profile, path, calibrated, devices=open_devices(profile, 0, "digit:7", clock))


def work(calibrated: Path, folder: Path, pose: str, exposure_s: float) -> tuple[float, list[float]]:
    """Processor seconds before the first frame, and from each of the first frames to its image."""
    path = folder / f"work-{pose}.h5"
    low = low_dose(calibrated, path, exposure_s, None)
    with low.devices:
        low.runner().run()
    source, told = RecordedSource(path), []
    session = Session(Engine("cpu"), told.append)
    run = source.begin.run
    session.take(source.begin)
    session.take(Choose(run, pose=pose, conventional=False))
    session.take(source.carried())
    series = [key for key in source.order if source.plan.steps[key[0]].stream is Stream.EVALUATION]
    for seconds in session.pong(Ping(0, run, series[0]), 0, 0).darks:
        session.take(source.darks(seconds))
    for frame in source.frames([key for key in source.order if key < series[0]]):
        session.take(frame)
    begin = time.process_time()
    while session.work():
        pass
    before, spent = time.process_time() - begin, []
    for key in series[:FOLLOWED]:
        session.take(source.frames([key])[0])
        begin = time.process_time()
        session.work()
        spent.append(time.process_time() - begin)
    if [image.frames for image in told] != list(range(1, FOLLOWED + 1)):
        raise RuntimeError(f"not an image a frame: {told}")
    return before, spent


def delays(calibrated: Path, folder: Path, pose: str, exposure_s: float) -> tuple[float, list[float], list[int]]:
    """Seconds from the first frame to the first image, from the newest frame of each image to it, and its frames."""
    clock = PacedClock(1.0, START_OF_SIMULATED_TIME)
    low = low_dose(calibrated, folder / f"{pose}.h5", exposure_s, clock)
    devices = low.devices
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
    after = [at - source.times[frames - 1] for at, frames in found]
    return found[0][0] - source.times[0], after, [frames for _, frames in found]


def main() -> int:
    """Print the delays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrated", type=Path)
    parser.add_argument("--poses", default="known,free")
    parser.add_argument("--exposure", type=float, default=3e-6)
    parser.add_argument("--work", action="store_true", help="processor seconds instead of real ones")
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
            what = f"low-dose scan of quick, {arguments.exposure:g} s, pose {pose}"
            if arguments.work:
                before, spent = work(calibrated, folder, pose, arguments.exposure)
                after = ", ".join(f"{seconds:.2f}" for seconds in spent[1:])
                value = f"{spent[0]:.2f} s ({before:.2f} s before the frame; the next images {after} s)"
                rows.append((f"processor seconds from first frame to first image, {what}", value, "-"))
                continue
            first, seconds, frames = delays(calibrated, folder, pose, arguments.exposure)
            print(f"{pose}: {[f'{n}: {s:.2f} s' for n, s in zip(frames, seconds, strict=True)]}", flush=True)
            what += ", worker in a process of its own"
            rows.append((f"first frame committed to first image, {what}", f"{first:.2f} s", f"within {CLAIM_S:g} s"))
            rest = f"median {statistics.median(seconds):.2f} s over {len(seconds)} images of {max(frames)} frames"
            rows.append((f"newest frame of an image committed to the image, {what}", rest, "-"))
    for quantity, value, claim in rows:
        print(f"{quantity}: {value}; claim {claim}")
    if arguments.write:
        made_on = machine("torch", "pyzmq") + f"; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        command = "python -m benchmarks.first_image" + (" --work" if arguments.work else "")
        append_rows(command, rows, made_on)
    return 0


if __name__ == "__main__":
    sys.exit(main())
