"""Are the uncertainties of whole calibrations true, and what do they cost? Simulated scans, a seed each.

python -m benchmarks.uncertainty [--profile resolved] [--seeds 8] [--first 0]

Errors over what was said of them should have rms one. Unlike the test, which has noise alone, these scans have all that
a calibration gets wrong: unknowns that were never set right, and an optimiser that stops before the optimum. `resolved`
is a small scan (24 frames of 96 x 96) whose truth the model can express, 1 mm and 6 um rms wrong at first
(`benchmarks.scans.resolved_bench`); any other name is a profile, a run of which is recorded and calibrated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.acquire.command import run_scan
from app.calibration import bright_scan
from benchmarks.report import append_rows, machine
from benchmarks.scans import resolved_bench, simulate
from recon.calibrate import CalibrationSettings, calibrate
from recon.dataset import Ptychogram
from recon.files.imports import Overrides
from recon.metrics import distance_error_m, fit_positions, probe_error, stretched_probe
from recon.uncertainty import uncertainty_of

RESOLVED = "resolved"
FRAMES, DISTANCE_ERROR_M, POSITION_RMS_M = 24, 1e-3, 6e-6


@dataclass(frozen=True)
class Case:
    """A scan and what was true: (N, 2) positions of its frames, distance, and the probe with its pitch."""

    data: Ptychogram
    settings: CalibrationSettings
    positions_m: NDArray[np.float64]
    distance_m: float
    probe: NDArray[np.complex64]
    probe_pixel_m: float


def case(profile: str, seed: int, folder: Path) -> Case:
    """A scan of the profile."""
    if profile == RESOLVED:
        bench = resolved_bench()
        scan = simulate(bench, FRAMES, distance_error_m=DISTANCE_ERROR_M, position_rms_m=POSITION_RMS_M, seed=seed)
        settings = CalibrationSettings(probe_diameter_m=bench.diameter_m, position_prior_m=POSITION_RMS_M, seed=seed)
        return Case(scan.data, settings, scan.positions_m, scan.distance_m, scan.probe, bench.pixel_m)
    path = folder / f"{profile}{seed}.h5"
    run_scan(profile, seed, None, path, None)
    streamed, settings, truth = bright_scan(path, None, seed, Overrides())
    assert truth is not None
    with streamed:
        data = streamed.load()
    path.unlink()
    true = truth.positions_m[data.indices]
    return Case(data, settings, true, truth.distance_m, truth.probe, truth.probe_pixel_m)


def measure(profile: str, seed: int, folder: Path) -> tuple[float, float, float, float, float]:
    """Errors over their deviations (distance; positions, rms; probe), and seconds of calibration and uncertainty."""
    true = case(profile, seed, folder)
    begin = time.process_time()
    found = calibrate(true.data, true.settings)
    middle = time.process_time()
    said = uncertainty_of(true.data, found)
    assert said is not None
    end = time.process_time()
    light = found.illumination
    pixel = light.geometry.object_pixel_m
    fit = fit_positions(light.positions_m, true.positions_m)
    distance = distance_error_m(light.geometry.distance_m, true.distance_m, fit.scale)
    wavelength = light.geometry.wavelength_m
    true_probe = stretched_probe(
        true.probe, true.probe_pixel_m, len(light.probe), pixel, fit.scale, wavelength, true.distance_m
    )
    probe = probe_error(light.probe, true_probe, pixel, wavelength, true.distance_m)
    ratio = ((light.positions_m - fit.shift_m) / fit.scale - true.positions_m) / said.position_sigma_m
    result = (distance / said.distance_sigma_m, float(np.sqrt(np.square(ratio).mean())), probe / said.probe_relative)
    print(
        f"seed {seed}: distance {distance * 1e6:+.0f} um, said {said.distance_sigma_m * 1e6:.0f}; "
        f"positions {fit.rms_m / pixel:.4f} px, said {said.summary(pixel)['position_sigma_px']:.4f}; "
        f"probe {probe:.4f}, said {said.probe_relative:.4f}; misfit {said.misfit:.2f}; "
        f"errors over what was said {', '.join(f'{r:.2f}' for r in result)}; "
        f"calibration {middle - begin:.1f} s, uncertainty {end - middle:.1f} s",
        flush=True,
    )
    return (*result, middle - begin, end - middle)


def main() -> None:
    """Measure all seeds and append a row each for distance, positions, probe and cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--profile", default=RESOLVED)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(asked.first, asked.first + asked.seeds)
    with tempfile.TemporaryDirectory() as folder:
        rows = np.array([measure(asked.profile, seed, Path(folder)) for seed in seeds])
    rms = np.sqrt(np.square(rows[:, :3]).mean(0))
    worst = np.abs(rows[:, :3]).max(0)
    calibration, extra = rows[:, 3].sum(), rows[:, 4].sum()
    name = f"{asked.profile}, seeds {seeds[0]} to {seeds[-1]}"
    shown = ("whole calibrations, distance error", "position errors", "probe error")
    append_rows(
        f"python -m benchmarks.uncertainty --profile {asked.profile} --seeds {asked.seeds} --first {asked.first}",
        [
            (f"{name}: {what} over the deviation, rms; worst seed", f"{rms[k]:.2f}; {worst[k]:.2f}", "0.8-1.25; 2")
            for k, what in enumerate(shown)
        ]
        + [
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
