"""How exact must a calibration be for the latent estimate? Wrong positions, distance and probe, and what they cost.

python -m benchmarks.latent_robustness [--photons 1000,300] [--count 8] [--device cuda]
python -m benchmarks.latent_robustness --marginalise [--photons 1000,300] [--count 6] [--out FOLDER]

Frames are made under the true light; the estimator is told positions with normal errors, another distance, or a probe
with smooth complex noise. Beside the PSNR stand the rms z-score of the pixels, which tells whether the error bars still
hold, and how many of the digits were called recovered.

`--marginalise`: positions, light and distance wrong by as much as is said of them, frame by frame, and integrated out
(`recon.marginal`), on a quarter of the camera's pixels of twice the pitch; what is done is kept in FOLDER, and a
second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.studies.scene import FIELD_M, StudyScene
from benchmarks.latent_cases import SURE, Case, doses
from benchmarks.latent_scene import Bench, Objects, bench_options, psnr32, settings_of
from benchmarks.report import append_rows, machine
from recon.dataset import Ptychogram
from recon.estimator import LatentEstimator
from recon.illumination import Illumination
from recon.imperfections import Imperfections
from recon.marginal import marginalised
from recon.posterior import Posterior
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


UNCERTAIN: tuple[tuple[str, float, str], ...] = (
    ("positions", 20e-6, "20 um rms"),
    ("flux", 0.2, "20 % a frame"),
    ("distance", 1e-3, "1 mm rms"),
    ("positions", 10e-6, "10 um rms"),
    ("flux", 0.05, "5 % a frame"),
    ("distance", 0.5e-3, "0.5 mm rms"),
)
SMALL = StudyScene("small", 6.9e-6, 256, 16)
"""The studies' light and positions on a camera of 256 x 256 pixels."""


def told(
    light: Illumination, data: Ptychogram, what: str, size: float, seed: int
) -> tuple[Illumination, Ptychogram, Imperfections]:
    """Light and frames as told to an estimator that is wrong by draws from what it knows of its errors."""
    rng = np.random.default_rng([11, seed])
    count = len(data)
    if what == "positions":
        errors = rng.normal(0, size, light.positions_m.shape)
        return replace(light, positions_m=light.positions_m + errors), data, Imperfections.of(count, position_m=size)
    if what == "distance":
        far = light.geometry.distance_m + size * rng.normal()
        known = Imperfections.of(count, distance_m=size)
        return replace(light, geometry=replace(light.geometry, distance_m=far)), data, known
    true = (1 + 0.5 * size * rng.normal(size=count)) ** 2
    return light, replace(data, exposures_s=data.exposures_s / true), Imperfections.of(count, flux=size)


def _scored(found: Posterior, truth: NDArray[np.float32], seconds: float) -> dict[str, Any]:
    wide = found.deviation > SURE
    return {
        "psnr": psnr32(found.mean, truth),
        "square": float(np.square((found.mean - truth) / found.deviation)[wide].sum()),
        "pixels": int(wide.sum()),
        "recovered": found.verdict.word is Word.RECOVERED,
        "evidence": found.log_evidence,
        "cpu_seconds": seconds,
    }


def _in_words(results: list[dict[str, Any]]) -> str:
    square, pixels = (sum(r[name] for r in results) for name in ("square", "pixels"))
    called, seconds = sum(r["recovered"] for r in results), np.mean([r["cpu_seconds"] for r in results])
    psnr = np.mean([r["psnr"] for r in results])
    return f"{psnr:.2f} dB, z {np.sqrt(square / max(1, pixels)):.2f}, {called}/{len(results)} ({seconds:.0f} s)"


def uncertain(asked: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows of `--marginalise`: exact values known, wrong ones taken as exact, and integrated out."""
    bench = Bench.build(asked.decoder, asked.prior, asked.device, settings=settings_of(asked.set))
    bench.scene = SMALL
    bench.estimator = LatentEstimator.build(
        bench.package,
        bench.companion,
        SMALL.light,
        FIELD_M,
        settings=settings_of(asked.set),
        device=asked.device,
    )
    objects = Objects.load(asked.objects)
    asked.out.mkdir(parents=True, exist_ok=True)
    kept = asked.out / "uncertain.json"
    done: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}

    def estimated(key: str, truth: NDArray[np.float32], estimate: Any) -> None:
        if key in done:
            return
        begin = time.process_time()
        found = estimate()
        done[key] = _scored(found, truth, time.process_time() - begin)
        kept.write_text(json.dumps(done), encoding="utf-8")
        print(f"{key}: {_in_words([done[key]])}", flush=True)

    # The large errors of all digits come first.
    cases = [(case, index) for part in (UNCERTAIN[:3], UNCERTAIN[3:]) for index in range(asked.count) for case in part]
    for (what, size, name), index in cases:
        for photons in doses(asked):
            truth = objects.image("digit", index)
            seed = Case("digit", index, photons, asked.read_noise).seed
            data = bench.exposed(truth, photons, asked.read_noise, seed)
            light, frames, known = told(SMALL.light, data, what, size, index)
            wrongly = replace(bench.estimator, light=light, _prepared={})
            at = f"{photons:g} photons, digit {index}"
            wrong_at = f"{what} wrong by {name}, {at}"
            estimated(f"known: {at}", truth, lambda d=data: bench.estimator.estimate(d))
            estimated(f"told: {wrong_at}", truth, lambda e=wrongly, f=frames: e.estimate(f))
            estimated(
                f"integrated: {wrong_at}",
                truth,
                lambda e=wrongly, f=frames, k=known: marginalised(e, [f], k).posterior,
            )
    return _rows(done, doses(asked), asked.count)


def _rows(done: dict[str, dict[str, Any]], photons: list[float], count: int) -> list[tuple[str, str, str]]:
    """Of each error and dose, over the digits."""
    rows = []
    for dose in photons:
        for what, _, name in UNCERTAIN:
            words = []
            for kind in ("known", "told", "integrated"):
                before = "" if kind == "known" else f"{what} wrong by {name}, "
                results = [done[f"{kind}: {before}{dose:g} photons, digit {i}"] for i in range(count)]
                words.append(f"{kind} {_in_words(results)}")
            quantity = f"psnr32, rms z-score, called recovered (CPU time): {what} wrong by {name}, {dose:g} photons"
            rows.append((quantity, "; ".join(words), ""))
            print(f"{quantity}: {rows[-1][1]}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    bench_options(parser)
    parser.add_argument("--photons", default="1000")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--marginalise", action="store_true", help="integrate out what is uncertain")
    parser.add_argument(
        "--out", type=Path, default=Path("robustness"), help="with --marginalise: where results are kept"
    )
    asked = parser.parse_args()
    if asked.marginalise:
        rows = uncertain(asked)
        if asked.record:
            command = f"python -m benchmarks.latent_robustness --marginalise --count {asked.count}"
            append_rows(f"{command} --photons {asked.photons} --set {asked.set}", rows, machine("torch"))
        return
    bench = Bench.build(asked.decoder, asked.prior, asked.device, settings=settings_of(asked.set))
    objects = Objects.load(asked.objects)
    rows = []
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
