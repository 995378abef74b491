"""What a calibration costs against the number of frames and against their size.

    python -m benchmarks.cost [--write] [--folder DIR]

Two lines: 24, 96, 384 and 2,000 frames of 256 x 256, and 24 frames of side 128, 256, 512, 1024 and 2048 over the same
field (3.5 mm, so that the pitch shrinks as the side grows). Each scan is simulated into an HDF5 file of uint16 in a
process of its own (one frame a chunk, kept in DIR) and calibrated in two others, one thread each: once with no frame
held in memory, all of them read from the file in every epoch, and once with all frames held. Time is core-seconds (user
+ system, the reading thread included) of an epoch with everything free: the second of two over the whole frames at the
camera's pitch; the rows also have the second of two at the coarsest level of the plan.
Memory is the process's peak (ru_maxrss), Python and torch included. Nothing is extrapolated.
The plot goes to docs/images/cost.png, rows to RESULTS.md with `--write`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import append_rows, machine

COMMAND = "python -m benchmarks.cost"
FRAMES, SIDES = (24, 96, 384, 2000), (128, 256, 512, 1024, 2048)
FIELD_M, DIAMETER_M = 256 * 13.8e-6, 500e-6
BLACK_ADU, ELECTRONS_PER_ADU = 200, 0.5
KINDS = {"streamed": 0.0, "held": 1000.0}
"""Gigabytes of frames that may be held: none, or all there are."""
WORDS = {"streamed": "streamed, none held", "held": "all held"}
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "cost.png"


def prepare(path: Path, count: int, side: int) -> None:
    """Simulate a scan into a CXI file, as a camera would have written it."""
    import h5py

    from benchmarks.scans import WAVELENGTH_M, Bench, simulate
    from recon.files.skeleton import LIGHT_SPEED, PLANCK
    from simulators.sensor import Sensor

    sensor = Sensor((side, side), 1.0, 0.3, 0.006, ELECTRONS_PER_ADU, BLACK_ADU, 16, 32000)
    bench = Bench(side, FIELD_M / side, 65e-3, 1e7, sensor, oversampling=1, diameter_m=DIAMETER_M)
    data = simulate(bench, count, distance_error_m=1e-3, position_rms_m=10e-6).data
    part = path.with_suffix(".part")
    with h5py.File(part, "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        frames = detector.create_dataset("data", (count, side, side), np.uint16, chunks=(1, side, side))
        for k in range(count):
            frames[k] = np.clip(np.rint(data.frames[k] / ELECTRONS_PER_ADU) + BLACK_ADU, 0, 65535).astype(np.uint16)
        detector["data_dark"] = np.full((side, side), BLACK_ADU, np.float32)
        detector["distance"] = data.geometry.distance_m
        detector["x_pixel_size"] = detector["y_pixel_size"] = data.geometry.pixel_size_m
        file["entry_1/instrument_1/beam_1/energy"] = PLANCK * LIGHT_SPEED / WAVELENGTH_M
        positions = np.column_stack([data.positions_m[:, ::-1], np.zeros(count)])
        file["entry_1/sample_1/geometry_1/translation"] = positions
    part.replace(path)


def core_seconds() -> float:
    """User and system time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_bytes() -> int:
    """Most memory that this process has had (Linux counts in KiB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(path: Path, budget_bytes: float) -> dict[str, Any]:
    """Calibrate a file for a few epochs in this process."""
    import torch

    from recon.calibrate import CalibrationSettings, EpochReport, calibrate
    from recon.device import keep_memory
    from recon.files.imports import Overrides, open_any

    torch.set_num_threads(1)
    keep_memory()
    before = peak_bytes()
    settings = CalibrationSettings(
        probe_diameter_m=DIAMETER_M,
        position_prior_m=10e-6,
        warm_epochs=1,
        joint_epochs=2,
        refine_epochs=1,
        full_epochs=2,
        polish_epochs=0,
        loss_tolerance=0.0,
    )
    marks: list[tuple[str, float]] = []

    def shown(epoch: EpochReport) -> None:
        marks.append((epoch.stage, core_seconds()))

    overrides = Overrides(electrons_per_count=ELECTRONS_PER_ADU, read_noise_e=0.3)
    with open_any(path, overrides) as data:
        found = calibrate(data, settings, report=shown, memory_bytes=budget_bytes)
        frames_bytes = data.nbytes

    def last(stage: str) -> float:
        place = max(k for k, (name, _) in enumerate(marks) if name == stage)
        return marks[place][1] - marks[place - 1][1]

    return {
        "full_s": last("full"),
        "joint_s": last("joint"),
        "all_s": core_seconds(),
        "peak": peak_bytes(),
        "before": before,
        "frames": frames_bytes,
        "plan": list(found.plan),
        "object": len(found.object),
    }


def isolated(arguments: list[str]) -> str:
    """The last line of what this module prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks.cost {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return (done.stdout.splitlines() or [""])[-1]


Found = dict[tuple[int, int], dict[str, dict[str, Any]]]
"""(frames, side) to "streamed" and "held" to what was measured."""


def draw(found: Found, made_on: str) -> None:
    """Time and memory against the size of the scan, both lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = (
        ("frames of 256 x 256", [(n, 256) for n in FRAMES], "C0", "o", lambda n, side: f"{n:,}"),
        ("24 frames, by side", [(24, side) for side in SIDES], "C1", "s", lambda n, side: f"{side}"),
    )
    for name, cases, colour, marker, label in lines:
        cases = [case for case in cases if case in found]
        pixels = [n * side**2 / 1e6 for n, side in cases]
        full = [found[case]["streamed"]["full_s"] for case in cases]
        left.loglog(pixels, full, marker + "-", color=colour, label=f"{name}: streamed, none held")
        held = [found[case]["held"]["full_s"] for case in cases]
        left.loglog(pixels, held, marker + ":", color=colour, mfc="white", label=f"{name}: all held")
        peak = [found[case]["streamed"]["peak"] / 1e9 for case in cases]
        right.semilogx(pixels, peak, marker + "-", color=colour, label=f"{name}: streamed, none held")
        most = [found[case]["held"]["peak"] / 1e9 for case in cases]
        right.semilogx(pixels, most, marker + ":", color=colour, mfc="white", label=f"{name}: all held")
        above = name.startswith("24")
        for axes, values in ((left, full), (right, peak)):
            for case, x, y in zip(cases, pixels, values, strict=True):
                axes.annotate(
                    label(*case),
                    (x, y),
                    (-5, 7) if above else (5, -13),
                    textcoords="offset points",
                    ha="right" if above else "left",
                    color=colour,
                    fontsize=9,
                )
    span = np.geomspace(*(edge(n * side**2 / 1e6 for n, side in found) for edge in (min, max)), 50)
    each = [got for case in found.values() for got in case.values()]
    largest = max(got["full_s"] for got in each)
    left.loglog(span, largest * span / span[-1], "--", color="0.6", label="proportional to pixels")
    right.semilogx(span, 4 * span / 1e3, "--", color="0.6", label="all frames as float32, for comparison")
    right.axhline(each[0]["before"] / 1e9, color="0.75", lw=1, label="Python and torch alone")
    left.set(xlabel="million pixels in the scan", ylabel="core-seconds per epoch", title="time, whole frames")
    right.set(xlabel="million pixels in the scan", ylabel="GB", title="peak memory of the process")
    left.set_ylim(None, 8 * largest)
    right.set_ylim(0, 1.5 * max(got["peak"] for got in each) / 1e9)
    for axes in (left, right):
        axes.set_xlim(span[0] / 2, span[-1] * 2.5)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left")
    figure.suptitle(f"Calibration: cost against size. {made_on}", fontsize=9)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


def main() -> int:
    """Measure all sizes, draw, and print one row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    parser.add_argument("--folder", type=Path, help="where the simulated scans are kept; default: nowhere")
    parser.add_argument("--prepare", nargs=3, metavar=("FILE", "FRAMES", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "GB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(Path(arguments.prepare[0]), int(arguments.prepare[1]), int(arguments.prepare[2]))
        return 0
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure[0]), 1e9 * float(arguments.measure[1]))))
        return 0
    cases = sorted({(n, 256) for n in FRAMES} | {(24, side) for side in SIDES}, key=lambda case: case[0] * case[1] ** 2)
    found: Found = {}
    made_on = machine("torch", "numpy", "h5py", cores=1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for count, side in cases:
            path = folder / f"{count}x{side}.cxi"
            if not path.is_file():
                isolated(["--prepare", str(path), str(count), str(side)])
            got = found[count, side] = {
                kind: json.loads(isolated(["--measure", str(path), str(budget_gb)]))
                for kind, budget_gb in KINDS.items()
            }
            for kind, one in got.items():
                rows.append(
                    (
                        f"{count} x {side} x {side}, {WORDS[kind]}: an epoch over whole frames; at the coarsest level;"
                        " peak memory",
                        f"{one['full_s']:.2f} core-s; {one['joint_s']:.2f} core-s; {one['peak'] / 1e9:.2f} GB"
                        f" ({one['before'] / 1e9:.2f} before the scan)",
                        "none",
                    )
                )
                print(*rows[-1][:2], sep="   ", flush=True)
    rows.append(("the same on several GPUs", "not measured", "none"))
    draw(found, made_on)
    if arguments.write:
        append_rows(COMMAND, rows, made_on)
    return 0


if __name__ == "__main__":
    sys.exit(main())
