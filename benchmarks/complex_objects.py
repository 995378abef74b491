"""Complex objects: amplitude and phase of unseen digits from few photons, by the latent method and by free pixels.

The first test digits of MNIST, which no training saw, each with its relief as phase (`recon.decoders.pairs`), drawn
onto the object's grid (`--truth matched`: 32 x 32 pixels through the decoder's own resize; `mask`: where a cubic spline
through the digit exceeds 0.5, its relief drawn with it on pixels four times finer than the object's) and sent through
the padded angular spectrum at 561 nm over 80 mm; 16 positions of the studies' spiral, 256 x 256 pixels of 6.9 um (the
studies' small scene), read noise 0.3 electrons, light and positions known. Both methods get the same frames. Free
pixels are complex, under total variation whose strength the data choose (`recon.reconstruct`).

PSNR of the amplitude is that of `recon.metrics.psnr_db` over the lit mask. The phase's has one turn as its peak; its
error is that of `phase_error_rad` over the same mask: modulo a global phase, weighted by the light that the object lets
through. `flat` is the true amplitude without any phase: what a phase is worth that nobody looked for.

Finished cases stay in the folder `--out`, so that the same command goes on after an end or `--seconds`; `--part pixels`
needs no decoder. `--record` writes the rows and the figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from app.studies.objects import MNIST, OVERSAMPLING, drawn_on, load_objects
from app.studies.scene import FIELD_M, StudyScene
from benchmarks.report import append_rows, machine
from recon.complexlatent import ComplexEstimator, ComplexPosterior
from recon.dataset import Ptychogram
from recon.decoders.companion import companion_path, load_companion, plain_companion
from recon.decoders.package import find_package, load_package
from recon.decoders.pairs import RELIEF_RAD, paired, relief, transmission
from recon.latent import LatentSettings
from recon.metrics import phase_error_rad, phase_psnr_db, psnr_db
from recon.reconstruct import PixelSettings, reconstruct_pixels
from recon.simulated import exposed, intensities
from recon.verdict import Word

READ_NOISE_E = 0.3
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "complex.png"
COMMAND = "python -m benchmarks.complex_objects"
SCENE = StudyScene.small(16)
SEARCH = LatentSettings(starts=12, proposals=256, chains=32, settling=1, mended=96)
"""Half of the usual starts and a quarter of the draws: enough for a mean."""
SHOWN = 1e4
"""Photons of the figure."""


def complex_drawn(image: NDArray, scene: StudyScene = SCENE) -> NDArray[np.complex64]:
    """(M, M) a complex image (s, s) on the scene's object grid; opaque outside the decoder's square."""
    parts = (drawn_on(np.ascontiguousarray(part, np.float32), scene) for part in (image.real, image.imag))
    real, imaginary = parts
    return (real + 1j * imaginary).astype(np.complex64)


def mask_drawn(image: NDArray[np.float32], scene: StudyScene = SCENE) -> NDArray[np.complex64]:
    """(M, M) a photomask of an image (s, s) with its relief: means over pixels `OVERSAMPLING` times finer."""
    fine = scene.size * OVERSAMPLING
    axis = ((np.arange(fine) + 0.5) / OVERSAMPLING - 0.5 - scene.size // 2) * scene.pixel_m
    at = (axis / FIELD_M + 0.5) * len(image) - 0.5
    grey = map_coordinates(image, np.meshgrid(at, at, indexing="ij"), order=3, mode="grid-constant")
    ink = (grey > 0.5).astype(np.float32)
    phase = RELIEF_RAD * relief(ink[None], FIELD_M / scene.pixel_m * OVERSAMPLING)[0]
    blocks = (ink * np.exp(1j * phase)).reshape(scene.size, OVERSAMPLING, scene.size, OVERSAMPLING)
    return blocks.mean((1, 3)).astype(np.complex64)


def truths_of(number: int, kind: str) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """A test digit's transmission: (M, M) on the object's grid, and (32, 32) on the decoder's."""
    image = load_objects(MNIST, number + 1)[number].image
    if kind == "matched":
        small = transmission(paired(image[None]), RELIEF_RAD)[0]
        return complex_drawn(small), small
    obj = mask_drawn(image)
    return obj, (SCENE.to_scored @ obj @ SCENE.to_scored.T).astype(np.complex64)


def frames_of(
    number: int, photons: float, seed: int, kind: str = "matched"
) -> tuple[NDArray[np.complex64], Ptychogram]:
    """The true object (M, M), and frames of it."""
    obj, _ = truths_of(number, kind)
    per_photon = intensities(SCENE.light, SCENE.positions_m, obj)
    words = np.array([seed, number, int(photons), 6], np.uint32)
    return obj, SCENE.ptychogram(
        exposed(per_photon, photons, READ_NOISE_E, words).numpy(), photons, READ_NOISE_E, "digit"
    )


def scores(estimate: NDArray, truth: NDArray, seconds: float) -> dict[str, float]:
    """Of an object (M, M)."""
    return {
        "amplitude_db": psnr_db(estimate, truth, SCENE.lit),
        "phase_db": phase_psnr_db(estimate, truth, SCENE.lit),
        "phase_rad": phase_error_rad(estimate, truth, SCENE.lit),
        "seconds": seconds,
    }


def measured_latent(
    estimator: ComplexEstimator, data: Ptychogram, truth: NDArray, small: NDArray[np.complex64]
) -> dict[str, float]:
    """Scores, and how far the truth lies from the estimate in its own deviations where the object is bright."""
    begin = time.process_time()
    found: ComplexPosterior = estimator.estimate(data)
    result = scores(complex_drawn(found.transmission), truth, time.process_time() - begin)
    bright = np.abs(small) > 0.5
    turn = np.angle((small[bright] * found.transmission[bright].conj()).sum())
    amplitude = (found.mean - np.abs(small))[bright] / found.deviation[bright]
    phase = np.angle(found.transmission * small.conj() * np.exp(1j * turn))[bright] / found.phase_deviation[bright]
    result |= {"amplitude_z": float(np.sqrt(np.square(amplitude).mean()))}
    result |= {"phase_z": float(np.sqrt(np.square(phase).mean()))}
    result |= {"recovered": float(found.verdict.word is Word.RECOVERED)}
    result |= {"expected_db": found.verdict.expected_db, "expected_rad": found.phase_error_rad}
    result |= {"converged": float(found.converged), "accepted": found.moved, "efficiency": found.efficiency}
    return result


def measured_pixels(data: Ptychogram, truth: NDArray) -> tuple[NDArray[np.complex64], dict[str, float]]:
    """The object, and its scores."""
    begin = time.process_time()
    found = reconstruct_pixels(data, SCENE.light, PixelSettings(positivity=False))
    assert isinstance(found.settings, PixelSettings)
    assert found.settings.kappa is not None
    # Both grids have their origin at index n//2; the scene's has a margin.
    obj, missing = found.object, (SCENE.size - len(found.object)) // 2
    obj = np.pad(obj, missing) if missing >= 0 else obj[-missing : missing + len(obj), -missing : missing + len(obj)]
    if obj.shape != truth.shape:
        raise ValueError(f"free pixels: grid of {found.object.shape}, the scene's is {truth.shape}")
    return obj, scores(obj, truth, time.process_time() - begin) | {"kappa": found.settings.kappa}


def built(decoder: str) -> ComplexEstimator:
    """The estimator of the scene; a decoder without a prior gets the plain one."""
    package, path = load_package(decoder, 2), companion_path(find_package(decoder))
    companion = load_companion(path, package) if path.exists() else plain_companion(package)
    return ComplexEstimator.build(package, companion, SCENE.light, FIELD_M, settings=SEARCH, bank=2048)


def figure(number: int, seed: int, estimator: ComplexEstimator) -> None:
    """Truth, latent estimate and free pixels at `SHOWN` photons: amplitude and phase, and the latent's deviations."""
    truth, data = frames_of(number, SHOWN, seed)
    found = estimator.estimate(data)
    latent, pixels = complex_drawn(found.transmission), measured_pixels(data, truth)[0]
    half = round(0.5 * FIELD_M / SCENE.pixel_m)
    middle = slice(SCENE.size // 2 - half, SCENE.size // 2 + half)
    deviations = (found.deviation, found.phase_deviation)
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plot, axes = plt.subplots(2, 4, figsize=(12, 6), layout="constrained")
    weight = np.abs(truth) ** 2
    for column, (name, obj) in enumerate((("truth", truth), ("latent", latent), ("free pixels", pixels))):
        turn = np.angle((weight * obj * truth.conj()).sum())
        phase = np.where(np.abs(obj) > 0.15, np.angle(obj * np.exp(-1j * turn)), np.nan)
        low = axes[0, column].imshow(np.abs(obj)[middle, middle], cmap="gray", vmin=0, vmax=1)
        high = axes[1, column].imshow(phase[middle, middle], cmap="viridis", vmin=0, vmax=RELIEF_RAD)
        title = name
        if column:
            found_db = psnr_db(obj, truth, SCENE.lit), phase_psnr_db(obj, truth, SCENE.lit)
            title += f": {found_db[0]:.1f} dB, phase {found_db[1]:.1f} dB"
        axes[0, column].set_title(title, fontsize=10)
    for row, (deviation, unit) in enumerate(zip(deviations, ("", " (rad)"), strict=True)):
        shown = deviation if row == 0 else np.where(found.mean > 0.15, deviation, np.nan)
        image = axes[row, 3].imshow(shown, cmap="magma", vmin=0)
        plot.colorbar(image, ax=axes[row, 3], label=f"latent's deviation{unit}")
    plot.colorbar(low, ax=axes[0, 2], label="amplitude")
    plot.colorbar(high, ax=axes[1, 2], label="phase (rad)")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    light = f"{SHOWN:.0e} photons in each of 16 exposures"
    plot.suptitle(f"An unseen digit, {light}; phases are shown where the amplitude exceeds 0.15")
    plot.savefig(FIGURE, dpi=110)
    plt.close(plot)


def rows(cases: list[dict], doses: list[float], decoder: str, kind: str) -> list[tuple[str, str, str]]:
    """One for each dose."""
    result = []
    for photons in doses:
        at = [case for case in cases if case["photons"] == photons and {"latent", "pixels"} <= set(case)]
        if not at:
            continue

        def mean(method: str, key: str, at: list[dict] = at) -> float:
            return float(np.mean([case[method][key] for case in at]))

        better = [sum(c["latent"][key] > c["pixels"][key] for c in at) for key in ("amplitude_db", "phase_db")]
        measured = "; ".join(
            f"{name} {mean(method, 'amplitude_db'):.1f} and {mean(method, 'phase_db'):.1f} dB "
            f"({mean(method, 'phase_rad'):.2f} rad), {mean(method, 'seconds'):.0f} core-s"
            for name, method in (("latent", "latent"), ("free pixels", "pixels"))
        )
        measured += f"; without phase {mean('flat', 'phase_db'):.1f} dB; latent better for {better[0]} and {better[1]}"
        measured += (
            f"; errors over deviations, rms {mean('latent', 'amplitude_z'):.2f} and {mean('latent', 'phase_z'):.2f}"
        )
        words = sum(case["latent"]["recovered"] for case in at)
        measured += f"; verdict recovered for {words:.0f}; moves accepted {mean('latent', 'accepted'):.2f}"
        quantity = (
            f"PSNR of amplitude and of phase (peak 2 pi), {kind} truths, {photons:.0e} photons, {len(at)} unseen "
            f"digits, `{decoder}`"
        )
        claimed = photons == SHOWN and kind == "matched"
        result.append((quantity, measured, "latent above free pixels in both" if claimed else ""))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doses", type=float, nargs="+", default=[1e4, 1e3, 1e5])
    parser.add_argument("--count", type=int, default=8, help="unseen digits, the first of the test set")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", default="mnist-complex")
    parser.add_argument("--truth", choices=["matched", "mask"], default="matched")
    parser.add_argument("--part", choices=["pixels", "latent", "both"], default="both")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished cases")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further case after so long")
    parser.add_argument("--record", action="store_true", help="append rows, draw the figure of matched truths")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    estimator = built(options.decoder) if options.part != "pixels" else None
    cases = []
    for photons in options.doses:
        for number in range(options.first, options.first + options.count):
            name = f"{photons:.0e}-{number}-{options.seed}"
            path = options.out / f"{'' if options.truth == 'matched' else 'mask-'}{name}.json"
            case = json.loads(path.read_text()) if path.exists() else {"photons": photons, "number": number}
            wanted = {"pixels": "pixels", "latent": "latent"}
            todo = [key for key in wanted if options.part in (key, "both") and key not in case]
            if todo and time.monotonic() - begin < options.seconds:
                truth, data = frames_of(number, photons, options.seed, options.truth)
                case["flat"] = scores(np.abs(truth), truth, 0.0)
                if "pixels" in todo:
                    case["pixels"] = measured_pixels(data, truth)[1]
                if "latent" in todo and estimator is not None:
                    case["latent"] = measured_latent(estimator, data, truth, truths_of(number, options.truth)[1])
                # Another process may have done the other part meanwhile.
                case = (json.loads(path.read_text()) if path.exists() else {}) | case
                path.write_text(json.dumps(case))
                for key in ("flat", *todo):
                    shown = " ".join(f"{name} {value:.2f}" for name, value in case[key].items())
                    sys.stdout.write(f"{photons:.0e} digit {number} {key}: {shown}\n")
                sys.stdout.flush()
            cases.append(case)
    made = rows(cases, options.doses, options.decoder, options.truth)
    for row in made:
        sys.stdout.write(" | ".join(row) + "\n")
    if options.record and estimator is not None:
        command = COMMAND if options.truth == "matched" else f"{COMMAND} --truth {options.truth}"
        append_rows(command, made, machine("torch", "numpy", cores=1))
    if options.record and estimator is not None and options.truth == "matched":
        figure(1, options.seed, estimator)


if __name__ == "__main__":
    main()
