"""Are the uncertainties of whole calibrations true, and what do they cost? Simulated runs of a profile, a seed each.

python -m benchmarks.uncertainty [--profile tiny] [--seeds 8] [--first 0]

Errors over what was said of them should have rms one. Unlike the test, which has noise alone, these runs have all that
a calibration gets wrong: a model on coarser pixels than the truth, and an optimiser that stops before the optimum.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from app.acquire.command import run_scan
from app.calibration import bright_scan, score
from benchmarks.report import append_rows, machine
from recon.calibrate import calibrate
from recon.files.imports import Overrides
from recon.metrics import fit_positions
from recon.uncertainty import uncertainty_of


def measure(profile: str, seed: int, folder: Path) -> tuple[float, float, float, float, float]:
    """Errors over their deviations (distance; positions, rms; probe), and seconds of calibration and uncertainty."""
    path = folder / f"{profile}{seed}.h5"
    run_scan(profile, seed, None, path, None)
    scan, settings, truth = bright_scan(path, None, None, seed, Overrides())
    assert truth is not None
    with scan:
        data = scan.load()
    begin = time.process_time()
    found = calibrate(data, settings)
    middle = time.process_time()
    said = uncertainty_of(data, found)
    assert said is not None
    end = time.process_time()
    errors = score(found, truth)
    light = found.illumination
    true = truth.positions_m[light.indices]
    fit = fit_positions(light.positions_m, true)
    ratio = ((light.positions_m - fit.shift_m) / fit.scale - true) / said.position_sigma_m
    path.unlink()
    result = (
        errors.distance_error_m / said.distance_sigma_m,
        float(np.sqrt(np.square(ratio).mean())),
        errors.probe_error / said.probe_relative,
    )
    print(
        f"seed {seed}: distance {errors.distance_error_m * 1e6:+.0f} um, said {said.distance_sigma_m * 1e6:.0f}; "
        f"positions {errors.position_rms_px:.3f} px, "
        f"said {said.summary(light.geometry.pixel_size_m)['position_sigma_px']:.3f}; "
        f"probe {errors.probe_error:.4f}, said {said.probe_relative:.4f}; misfit {said.misfit:.2f}; "
        f"calibration {middle - begin:.1f} s, uncertainty {end - middle:.1f} s",
        flush=True,
    )
    return (*result, middle - begin, end - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(asked.first, asked.first + asked.seeds)
        rows = np.array([measure(asked.profile, seed, Path(folder)) for seed in seeds])
    distance, positions, probe = (float(np.sqrt(np.square(rows[:, k]).mean())) for k in range(3))
    calibration, extra = rows[:, 3].sum(), rows[:, 4].sum()
    name = f"{asked.profile}, seeds {seeds[0]} to {seeds[-1]}"
    append_rows(
        f"python -m benchmarks.uncertainty --profile {asked.profile} --seeds {asked.seeds} --first {asked.first}",
        [
            (f"{name}: whole calibrations, distance error over its deviation, rms", f"{distance:.2f}", "0.8-1.25"),
            (f"{name}: position errors over their deviations, rms", f"{positions:.2f}", "0.8-1.25"),
            (f"{name}: probe error over its deviation, rms", f"{probe:.2f}", "0.8-1.25"),
            (
                f"{name}: time of the uncertainties over that of the calibrations",
                f"{extra / calibration:.0%} ({extra / asked.seeds:.1f} s each)",
                "about a quarter",
            ),
        ],
        machine("torch", "numpy", cores=1),
    )


if __name__ == "__main__":
    main()
