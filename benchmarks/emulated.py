"""The whole demo scan through both vendors' libraries on emulated wires, against the simulated one.

    python -m benchmarks.emulated [--write]

Runs the profiles `quick` and `emulated` (376 frames, 97 places) with one seed, compares every dataset of the two run
files that is neither a time nor says which devices they were, and times the emulated one: how long it took beyond
motion, settling and exposure, all as they pass there. `--write` appends the result to RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import h5py

from app.acquire.planning import approach_point
from app.acquire.scan import Scan
from app.profile import Profile, load_profile
from benchmarks.report import append_rows, machine
from drivers.base import StageInfo
from drivers.basler import load_pylon
from drivers.pylon_device import EMULATOR
from recon.files import schema

APART = {
    schema.TIMESTAMPS,
    schema.START_TIME,
    schema.END_TIME,
    schema.LOG,
    schema.PROFILE,
    schema.TITLE,
    schema.REGION,
    schema.CAMERA,
    schema.CAMERA_SERIAL,
    schema.NODE_MAP,
    schema.STAGE,
    schema.STAGE_SERIAL,
}
"""When it was, and which devices."""
SEED = 0


def scan(name: str, path: Path) -> tuple[Scan, float, StageInfo]:
    """Run a shipped profile into `path`; seconds from the first step on, and its stage."""
    made = Scan.new(load_profile(name), path, SEED)
    with made.devices:
        if name == "emulated":
            made.devices.stage.home()
        begin = time.perf_counter()
        made.runner().run()
        return made, time.perf_counter() - begin, made.devices.stage.info


def unavoidable_s(made: Scan, info: StageInfo) -> float:
    """Motion, settling and exposures of the plan, as they pass on the emulated wires."""
    profile: Profile = made.profile
    speed, longest = profile.emulation.speed, profile.emulation.longest_exposure_s
    seconds, at = 0.0, None
    for step in made.plan.steps:
        seconds += step.repeats * min(step.exposure_s, longest)
        if step.target is not None and step.target != at:
            begin = approach_point(step.target, profile.stage.approach_m)
            if at is not None:
                seconds += info.move_duration_s(at, begin) / speed
            seconds += info.settling_s + info.move_duration_s(begin, step.target) / speed + info.settling_s
            at = step.target
    return seconds


def emulator_ms(frames: int = 200) -> float:
    """What the emulator itself takes for a frame of this size: triggers in a loop, a test image, nothing of ours."""
    os.environ["PYLON_CAMEMU"] = "1"
    pylon, _ = load_pylon()
    wanted = pylon.DeviceInfo()
    wanted.SetDeviceClass(EMULATOR)
    factory = pylon.TlFactory.GetInstance()
    with pylon.InstantCamera(factory.CreateDevice(factory.EnumerateDevices([wanted])[0])) as camera:
        camera.PixelFormat.Value = "Mono16"
        camera.Height.Value = camera.Width.Value = 512
        camera.TriggerSelector.Value = "FrameStart"
        camera.TriggerSource.Value, camera.TriggerMode.Value = "Software", "On"
        camera.StartGrabbing(pylon.GrabStrategy_OneByOne)
        begin = time.perf_counter()
        for _ in range(frames):
            camera.WaitForFrameTriggerReady(1000, pylon.TimeoutHandling_ThrowException)
            camera.ExecuteSoftwareTrigger()
            with camera.RetrieveResult(1000, pylon.TimeoutHandling_ThrowException):
                pass
        return 1e3 * (time.perf_counter() - begin) / frames


def differences(first: Path, second: Path) -> tuple[int, list[str]]:
    """How many datasets were compared, and the names of those that differ."""
    names: list[str] = []
    with h5py.File(first, "r") as a, h5py.File(second, "r") as b:
        a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        compared = [name for name in names if name.rsplit("/", 1)[-1] not in APART]
        different = []
        for name in compared:
            one, other = a[name][...], b[name][...] if name in b else None
            same = other is not None and one.shape == other.shape and one.tobytes() == other.tobytes()
            if not same:
                different.append(name)
    return len(compared), different


def main() -> int:
    """Print the result; 1 when the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        simulated, emulated = Path(name, "simulated.h5"), Path(name, "emulated.h5")
        _, rendering, _ = scan("quick", simulated)
        made, seconds, stage = scan("emulated", emulated)
        unavoidable = unavoidable_s(made, stage)
        compared, different = differences(simulated, emulated)
        with h5py.File(emulated, "r") as file:
            frames = sum(len(file[f"entry_{k}/instrument_1/detector_1/data"]) for k in range(1, 8))
    frames += sum(step.repeats for step in made.plan.steps if step.stream.value in ("dark", "empty"))
    places = len({step.target for step in made.plan.steps if step.target is not None})
    beyond = 1e3 * (seconds - unavoidable) / frames
    rows = [
        (
            f"`emulated` against `quick`, seed {SEED}: {frames} frames, {places} places",
            f"{compared} datasets compared, {len(different)} differ",
            "none differs",
        ),
        (
            "the scan beyond motion, settling and exposure, per frame; and without what the simulated scan takes (its "
            "light is rendered and recorded too)",
            f"{beyond:.1f} ms; {beyond - 1e3 * rendering / frames:.1f} ms ({seconds:.1f} s in all, {unavoidable:.1f} s "
            f"unavoidable, {rendering:.1f} s simulated)",
            "at most 15 ms without",
        ),
        ("Basler's emulator alone, a loop of triggers, per frame", f"{emulator_ms():.1f} ms", "-"),
    ]
    for quantity, measured, claim in rows:
        print(f"{quantity}: {measured}; claim: {claim}")
    for name in different:
        print(f"differs: {name}")
    if arguments.write:
        append_rows("python -m benchmarks.emulated", rows, machine("numpy", "pypylon", "thorlabs-apt-device"))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
