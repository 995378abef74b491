"""How exact must a calibration be for the latent estimate? Wrong positions, distance and probe, and what they cost.

python -m benchmarks.latent_robustness [--photons 1000,300] [--count 8] [--device cuda]

Frames are made under the true light; the estimator is told positions with normal errors, another distance, or a probe
with smooth complex noise. Beside the PSNR stand the rms z-score of the pixels, which tells whether the error bars still
hold, and how many of the digits were called recovered.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.latent_cases import SURE, Case, doses
from benchmarks.latent_scene import Bench, Objects, bench_options, psnr32, settings_of
from benchmarks.report import append_rows, machine
from recon.illumination import Illumination
from recon.verdict import Word

ERRORS: tuple[tuple[str, float, str], ...] = (
    ("none", 0.0, ""),
    ("positions", 2e-6, "2 um rms"),
    ("positions", 5e-6, "5 um rms"),
    ("positions", 10e-6, "10 um rms"),
    ("positions", 20e-6, "20 um rms"),
    ("distance", 0.05e-3, "0.05 mm"),
    ("distance", 0.2e-3, "0.2 mm"),
    ("distance", 1e-3, "1 mm"),
    ("probe", 0.02, "2 %"),
    ("probe", 0.05, "5 %"),
    ("probe", 0.1, "10 %"),
)
GRAIN_PX = 8.0
"""Correlation length of the probe's errors, camera pixels."""


def wrong(light: Illumination, what: str, size: float, seed: int) -> Illumination:
    """The light as a calibration with that error would know it."""
    rng = np.random.default_rng([9, seed])
    if what == "positions":
        errors = rng.normal(0, size, light.positions_m.shape)
        return replace(light, positions_m=light.positions_m + errors - errors.mean(0))
    if what == "distance":
        return replace(light, geometry=replace(light.geometry, distance_m=light.geometry.distance_m + size))
    if what == "probe":
        return replace(light, probe=_disturbed(light.probe, size, rng))
    return light


def _disturbed(probe: NDArray[np.complex64], relative: float, rng: np.random.Generator) -> NDArray[np.complex64]:
    """A probe with smooth complex noise of that relative L2 norm, its energy kept."""
    noise = ndimage.gaussian_filter(rng.normal(size=probe.shape), GRAIN_PX) + 1j * ndimage.gaussian_filter(
        rng.normal(size=probe.shape), GRAIN_PX
    )
    noise = noise * np.abs(probe)
    noise *= relative * np.linalg.norm(probe) / np.linalg.norm(noise)
    changed = probe + noise
    return (changed * np.linalg.norm(probe) / np.linalg.norm(changed)).astype(np.complex64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    bench_options(parser)
    parser.add_argument("--photons", default="1000")
    parser.add_argument("--count", type=int, default=8)
    asked = parser.parse_args()
    bench = Bench.build(asked.decoder, asked.prior, asked.device, settings=settings_of(asked.set))
    objects = Objects.load(asked.objects)
    rows: list[tuple[str, str, str]] = []
    for photons in doses(asked):
        for what, size, name in ERRORS:
            psnr, square, pixels, called = [], 0.0, 0, 0
            for index in range(asked.count):
                case = Case("digit", index, photons, asked.read_noise)
                truth = objects.image("digit", index)
                data = bench.exposed(truth, photons, asked.read_noise, case.seed)
                light = wrong(bench.scene.light, what, size, index)
                estimator = replace(bench.estimator, light=light, _prepared={})
                found = estimator.estimate(data)
                psnr.append(psnr32(found.mean, truth))
                wide = found.deviation > SURE
                square += float(np.square((found.mean - truth) / found.deviation)[wide].sum())
                pixels += int(wide.sum())
                called += found.verdict.word is Word.RECOVERED
            measured = f"{np.mean(psnr):.2f} dB, z {np.sqrt(square / max(1, pixels)):.2f}, {called}/{asked.count}"
            quantity = f"{photons:g} photons, {what} wrong by {name}" if name else f"{photons:g} photons, all known"
            print(f"{quantity}: {measured}", flush=True)
            rows.append((f"psnr32, rms z-score, called recovered: {quantity}", measured, ""))
    if asked.record:
        command = f"python -m benchmarks.latent_robustness --count {asked.count} --photons {asked.photons}"
        append_rows(command, rows, machine("torch"))


if __name__ == "__main__":
    main()
