"""Does recording keep up with the camera: Basler's emulator, the driver, the runner, its recorder and the file.

    python -m benchmarks.recording [--write] [--frames 300] [--repeats 5] [--folder DIR]

A calibration scan of 1024 x 1024 Mono12 frames goes through pypylon's emulator into a run file on the disk while a
viewer polls a latest-wins slot 30 times a second and counts the clipped pixels of what it finds. The stage takes no
time and neither does the exposure, so what a frame costs is overhead. It is done flat out, and at the camera's own pace
of 35 frames a second: a frame that is asked for later than ten frames (the buffers that pylon holds) after its time
counts as dropped. Every frame carries its number and is compared with what was fed, so one that was lost, doubled or
damaged on its way into the file is found and counts too. Frames of 512 x 512 Mono16, those of the profile `quick`, are
taken flat out as well; and each kind without runner and file, which shows the emulator's own part.
The files are deleted; `--write` appends the result to RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from app.acquire.frame import Frame
from app.acquire.observer import RunState, SilentObserver
from app.acquire.planning import make_plan
from app.acquire.runner import Runner
from app.acquire.scan import describe
from app.devices import Devices
from app.live.slot import Slot, SlotObserver
from app.profile import Profile, load_profile
from benchmarks.report import append_rows, machine
from drivers.basler import BaslerCamera, BaslerSettings
from drivers.clock import SystemClock, VirtualClock
from recon.files import schema
from recon.files.write import RunWriter
from simulators.light import SimulatedLight
from simulators.pylon_wire import SERIAL, PylonWire
from simulators.stage import SimulatedStage, StageSettings

CAMERA_RATE_HZ = 35.0
CAMERA_MB_S = 73.4
BUFFERS = 10
VIEWER_HZ = 30.0
DARKS = 2
MOST_OVERHEAD_MS = 15.0
STAGE_FIELDS = {field.name for field in fields(StageSettings)}


@dataclass(frozen=True)
class Kind:
    """One kind of frame."""

    side: int
    bits: int

    @property
    def mb(self) -> float:
        return 2 * self.side**2 / 1e6

    @property
    def name(self) -> str:
        return f"{self.side} x {self.side} Mono{self.bits}"


PAPER, QUICK = Kind(1024, 12), Kind(512, 16)


class Numbered:
    """Twelve noisy pictures in turn, the frame's number in the first two pixels; asked at most at `rate_hz`."""

    def __init__(self, kind: Kind, rate_hz: float | None):
        self.shape = (kind.side, kind.side)
        self.bit_depth = kind.bits
        rng = np.random.default_rng(1)
        self._pictures = [rng.poisson(40.0, self.shape).astype(np.uint16) for _ in range(12)]
        self._period_s = None if rate_hz is None else 1 / rate_hz
        self._due: float | None = None
        self.times: list[float] = []
        self.lags_s: list[float] = [0.0]
        self.dropped = 0

    def look(self) -> None:
        now = time.perf_counter()
        # The darks before the scan have no pace, and the stage is homed in between.
        if self._period_s is not None and len(self.times) >= DARKS:
            due = now if self._due is None else self._due + self._period_s
            if now - due > BUFFERS * self._period_s:
                self.dropped += 1
                due = now
            if due > now:
                time.sleep(due - now)
            self.lags_s.append(max(0.0, now - due))
            self._due = due
        self.times.append(time.perf_counter())

    def expose(self, light: object, exposure_s: float, gain_db: float, black_level_adu: float) -> NDArray[np.uint16]:
        return self.picture(len(self.times) - 1)

    def picture(self, number: int) -> NDArray[np.uint16]:
        picture = self._pictures[number % len(self._pictures)]
        picture[0, :2] = divmod(number, 256)
        return picture


@dataclass
class Viewer:
    """Looks into the slot 30 times a second, as a live view does."""

    slot: Slot[Frame]
    most: int
    seen: int = 0
    skipped: int = 0
    ages_s: list[float] = field(default_factory=list)

    def run(self, done: threading.Event) -> None:
        while not done.wait(1 / VIEWER_HZ):
            latest = self.slot.newest(self.seen)
            if latest is not None:
                self.seen = latest.number
                self.skipped += latest.skipped
                self.ages_s.append(latest.age_s)
                np.count_nonzero(latest.item.exposure.image >= self.most)


@dataclass(frozen=True)
class Recording:
    """What one scan showed.

    Attributes:
        rate_hz: frames a second from the first trigger to the last.
        interval_ms: median time from trigger to trigger.
        dropped: frames that are missing, doubled or damaged in the file, or that came too late.
        lag_s: longest that a frame was behind its time.
        cpu_ms: processor time of this process a frame, all threads; other programs do not count in it.
        shown: frames that the viewer showed.
        oldest_s: greatest age of a frame when the viewer found it.
    """

    rate_hz: float
    interval_ms: float
    dropped: int
    lag_s: float
    cpu_ms: float
    shown: int
    oldest_s: float


def profile_of(kind: Kind, frames: int) -> Profile:
    """`paper` with so many calibration frames of this kind, as few darks as a plan may have and nothing else."""
    raw = load_profile("paper").model_dump()
    raw["camera"] |= {"shape": (kind.side, kind.side), "bit_depth": kind.bits}
    raw["scan"] |= {
        "positions": frames,
        "overlap": 0.95,
        "evaluation_positions": 0,
        "evaluation_exposures_s": (),
        "empty_frames": 0,
        "empty_after": False,
        "dark_frames": DARKS,
        "keep_darks": 0,
    }
    return Profile.model_validate(raw)


def camera_of(kind: Kind, source: Numbered) -> BaslerCamera:
    clock = SystemClock()
    settings = BaslerSettings((kind.side, kind.side), 3.45e-6, kind.bits, 2.6, 20.0, SERIAL)
    return BaslerCamera(settings, clock, PylonWire(source, clock, longest_wait_s=0.0))


def record(kind: Kind, frames: int, rate_hz: float | None, folder: Path) -> Recording:
    """One scan into a file in `folder`, checked and deleted."""
    profile = profile_of(kind, frames)
    clock, source = SystemClock(), Numbered(kind, rate_hz)
    stage = SimulatedStage(StageSettings(**profile.stage.model_dump(include=STAGE_FIELDS)), VirtualClock(), 0)
    devices = Devices(camera_of(kind, source), stage, SimulatedLight(), clock)
    plan = make_plan(profile)
    viewer = Viewer(Slot(clock), 2**kind.bits - 1)
    done = threading.Event()
    path = folder / "recording.h5"
    thread = threading.Thread(target=viewer.run, args=(done,))
    with devices:
        runner = Runner(
            plan,
            devices,
            profile.stage.approach_m,
            lambda: None,
            lambda: RunWriter.create(path, describe(plan, profile, devices), clock),
            SlotObserver(viewer.slot, SilentObserver()),
        )
        thread.start()
        cpu = time.process_time()
        try:
            if runner.run() is not RunState.COMPLETED:
                raise RuntimeError("the scan did not complete")
        finally:
            done.set()
            thread.join()
        cpu = time.process_time() - cpu
    bad = damaged(path, source, frames)
    path.unlink()
    times = np.array(source.times[DARKS:])
    steps = np.diff(times)
    return Recording(
        rate_hz=len(steps) / float(times[-1] - times[0]),
        interval_ms=1e3 * float(np.median(steps)),
        dropped=bad + source.dropped,
        lag_s=max(source.lags_s),
        cpu_ms=1e3 * cpu / (frames + DARKS),
        shown=len(viewer.ages_s),
        oldest_s=max(viewer.ages_s),
    )


def damaged(path: Path, source: Numbered, frames: int) -> int:
    """Frames of the file that are not what was fed."""
    with h5py.File(path) as file:
        data = file[f"entry_1/{schema.DETECTOR}/{schema.DATA}"]
        committed = int(file[f"entry_1/{schema.DETECTOR}/{schema.FRAMES_COMMITTED}"][()])
        wrong = sum(not np.array_equal(data[k], source.picture(DARKS + k)) for k in range(committed))
    return wrong + frames - committed


def bare_ms(kind: Kind, frames: int) -> float:
    """Median time of a frame that the driver takes from the emulator and nobody records."""
    camera = camera_of(kind, Numbered(kind, None))
    camera.open()
    times = []
    for _ in range(frames):
        begin = time.perf_counter()
        camera.acquire()
        times.append(time.perf_counter() - begin)
    camera.close()
    return 1e3 * statistics.median(times)


def main() -> int:
    """Print what was measured; 1 when nothing kept up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the file is written; default: the system's temporary folder")
    arguments = parser.parse_args()
    made_on = machine("numpy", "h5py", "pypylon")
    print(made_on)
    load = os.getloadavg()[0]
    cases = (("flat out", PAPER, None), ("at 35 1/s", PAPER, CAMERA_RATE_HZ), ("flat out", QUICK, None))
    runs: dict[tuple[str, Kind], list[Recording]] = {(name, kind): [] for name, kind, _ in cases}
    bare: dict[Kind, list[float]] = {PAPER: [], QUICK: []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for repeat in range(arguments.repeats):
            for name, kind, rate in cases:
                found = record(kind, arguments.frames, rate, Path(folder))
                runs[name, kind].append(found)
                print(
                    f"{repeat} {kind.name:18} {name:9} {found.rate_hz:5.1f} frames/s {found.rate_hz * kind.mb:5.1f} "
                    f"MB/s, {found.dropped} dropped, {found.interval_ms:5.2f} ms a frame, lag {found.lag_s:.3f} s, "
                    f"CPU {found.cpu_ms:.1f} ms; "
                    f"viewer: {found.shown} shown, oldest {found.oldest_s:.3f} s"
                )
            for kind, times in bare.items():
                times.append(bare_ms(kind, arguments.frames // 3))
                print(f"{repeat} {kind.name:18} unrecorded {times[-1]:.2f} ms a frame")
    flat, paced = runs["flat out", PAPER], runs["at 35 1/s", PAPER]
    rates = [one.rate_hz for one in flat]
    dropped = [one.dropped for one in paced]
    what = f"{arguments.frames} frames of {PAPER.name}, viewer at 30 1/s, {arguments.repeats} scans"
    rows = [
        (f"frames a second, {what}", spread(rates, ".1f", max), f"at least {CAMERA_RATE_HZ:.0f}"),
        (
            f"MB/s, {what}",
            spread([rate * PAPER.mb for rate in rates], ".0f", max),
            f"at least {CAMERA_MB_S:.0f}, the camera's own",
        ),
        (f"frames dropped at 35 1/s, {what}", spread(dropped, ".0f", min), "0"),
        (
            f"longest lag behind 35 1/s, {what}",
            spread([1e3 * one.lag_s for one in paced], ".0f", min, " ms"),
            f"below {1e3 * BUFFERS / CAMERA_RATE_HZ:.0f} ms, ten buffers",
        ),
        (
            f"greatest age of a frame in the view at 35 1/s, {what}",
            spread([1e3 * one.oldest_s for one in paced], ".0f", min, " ms"),
            "-",
        ),
    ]
    rows.append(
        (
            f"processor time a frame at 35 1/s, emulator and viewer included, {what}",
            spread([one.cpu_ms for one in paced], ".1f", min, " ms"),
            f"below {2e3 / CAMERA_RATE_HZ:.0f} ms, two cores",
        )
    )
    for kind, claim in ((QUICK, f"at most {MOST_OVERHEAD_MS:.0f} ms"), (PAPER, "-")):
        rows.append(
            (
                f"scan overhead a frame beyond motion, settling and exposure, {kind.name}; taken but not recorded",
                spread([one.interval_ms for one in runs["flat out", kind]], ".1f", min, " ms")
                + "; "
                + spread(bare[kind], ".1f", min, " ms"),
                claim,
            )
        )
    for name, value, claim in rows:
        print(f"{name}: {value}; claim {claim}")
    if arguments.write:
        # Its own share of the load is about one; what is above stands for other programs on the same cores.
        made_on += f"; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        append_rows("python -m benchmarks.recording", rows, made_on)
    return 0 if max(rates) >= CAMERA_RATE_HZ and min(dropped) == 0 else 1


def spread(values: Sequence[float], form: str, best: Callable[[Sequence[float]], float], unit: str = "") -> str:
    return f"best {best(values):{form}}{unit}, median {statistics.median(values):{form}}{unit}"


if __name__ == "__main__":
    sys.exit(main())
