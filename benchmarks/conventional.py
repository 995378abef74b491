"""The conventional reconstruction against photons: strength chosen by the data, and by an oracle that sees the truth.

16 frames of 256 x 256 at 80 % overlap, probe, distance and positions known exactly, read noise 0.3 or 2.3 electrons.
Row by row on stdout; `--record` appends to RESULTS.md and draws docs/images/conventional.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from benchmarks.report import append_rows, machine
from benchmarks.scans import SimulatedScan, simulate, small_bench
from recon.illumination import Illumination, illuminated
from recon.metrics import psnr_db
from recon.reconstruct import PixelSettings, reconstruct_pixels
from recon.strength import KAPPAS
from simulators.objects import Sample, draw_digit

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "conventional.png"


def scan(digit: int, photons: float, seed: int, read_noise_e: float) -> SimulatedScan:
    """Sixteen frames of a hand-drawn digit of 0.7 mm."""
    bench = small_bench()
    bench = replace(bench, photons=photons, sensor=replace(bench.sensor, read_noise_e=read_noise_e))
    return simulate(bench, 16, sample=Sample.from_drawing(draw_digit(digit, seed), 0.7e-3, 4e-3), seed=seed)


def measure(digit: int, photons: float, seed: int, read_noise_e: float, positivity: bool) -> dict[str, float]:
    """PSNR with the chosen strength and the best of all tried; kappa of both; core-seconds of the former."""
    case = scan(digit, photons, seed, read_noise_e)
    geometry = case.data.geometry
    light = Illumination(case.probe, geometry, case.positions_m, case.data.indices)
    settings = PixelSettings(positivity=positivity)

    def scored(kappa: float | None) -> tuple[float, float]:
        result = reconstruct_pixels(case.data, light, replace(settings, kappa=kappa))
        size, whole = len(result.object), len(case.object)
        half = min(size, whole) // 2
        lit = illuminated(case.probe, case.positions_m / geometry.pixel_size_m, size)
        parts = [
            a[len(a) // 2 - half : len(a) // 2 + half, len(a) // 2 - half : len(a) // 2 + half]
            for a in (result.object, case.object, lit)
        ]
        return psnr_db(*parts), getattr(result.settings, "kappa", float("nan"))

    begin = time.process_time()
    chosen, kappa = scored(None)
    seconds = time.process_time() - begin
    best, best_kappa = max(scored(k) for k in KAPPAS)
    return {"psnr": chosen, "kappa": kappa, "oracle": best, "oracle_kappa": best_kappa, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--doses", type=float, nargs="+", default=[1e2, 1e3, 1e4, 1e5, 1e6, 1e7])
    parser.add_argument("--objects", type=int, nargs="+", default=[4, 2, 7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--read-noise", type=float, default=0.3)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    curves: dict[str, list[float]] = {f"{a}, {b}": [] for a in ("positivity", "free") for b in ("chosen", "oracle")}
    for photons in arguments.doses:
        for name, positivity in (("positivity", True), ("free", False)):
            found = []
            for digit in arguments.objects:
                for seed in arguments.seeds:
                    one = measure(digit, photons, seed, arguments.read_noise, positivity)
                    found.append(one)
                    shown = " ".join(f"{key} {value:.2f}" for key, value in one.items())
                    sys.stdout.write(f"{photons:.0e} {name} digit:{digit} seed {seed}: {shown}\n")
                    sys.stdout.flush()
            mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
            worst = max(one["oracle"] - one["psnr"] for one in found)
            curves[f"{name}, chosen"].append(mean["psnr"])
            curves[f"{name}, oracle"].append(mean["oracle"])
            measured = f"{mean['psnr']:.1f} dB, oracle {mean['oracle']:.1f}, worst gap {worst:.2f} dB"
            quantity = f"{name}, {photons:.0e} photons, read noise {arguments.read_noise}, {len(found)} cases"
            rows.append((quantity, f"{measured}; {mean['seconds']:.1f} core-s", "within 0.5 dB of the oracle"))
    if arguments.record:
        append_rows("python -m benchmarks.conventional", rows, machine("torch", "numpy", cores=1))
        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for label, values in curves.items():
            axes.semilogx(arguments.doses, values, "o-" if "chosen" in label else "x:", label=label)
        axes.set(xlabel="photons per exposure", ylabel="PSNR over the lit field (dB)")
        axes.legend(frameon=False)
        figure.savefig(FIGURE, dpi=120)


if __name__ == "__main__":
    main()
