"""`ptychoscope reconstruct`: the object of a calibrated run at one or every exposure, conventionally or latently."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.calibration import software, stored_illumination
from app.errors import UsageError
from app.figures import reconstruction_figure
from app.progress import Course
from app.runs import entry_of_exposure
from recon.calibrate import Illumination, illuminated
from recon.counting import PHOTON_RESOLVING_E, PREPARED
from recon.dataset import Ptychogram, Truth
from recon.decoders.package import DecoderPackage, load_package
from recon.device import pick_device
from recon.files.read import open_run
from recon.files.results import store_result
from recon.files.reuse import calibration_of, reused_illumination
from recon.metrics import fit_positions, psnr_db
from recon.noise import LOSSES
from recon.reconstruct import (
    CONVENTIONAL,
    PixelSettings,
    Reconstruction,
    ReconstructionSettings,
    reconstruct_latent,
    reconstruct_pixels,
)

METHODS = ("latent", "paper", "conventional")
PAPER = ReconstructionSettings(epochs=40, batch=1)
"""The paper's estimator, one pattern a step; on simulated runs the loss has settled after 40 of its 100 epochs."""
PAPER_RATES = (0.3, 1.0)
"""Learning rates tried for the paper's estimator; the lower loss wins. Its range is 0.1 to 1."""
LATENT = ReconstructionSettings(epochs=30, batch=1, prior=True)
"""This program's: whitened latents under their prior, the exact likelihood where the sensor resolves photons."""
CONTINUED_RATE = 0.1
"""Step in whitened latents when a darker exposure's result is the start: near the solution already."""
EXACT_ELECTRONS = 18.0
"""Brightest pixel up to which the exact likelihood is worth its terms; beyond, Eq. 1 is as good."""


@dataclass(frozen=True)
class Yardstick:
    """The truth of a simulated run, moved to where the calibration puts it, for scoring.

    Attributes:
        amplitude: (M, M) on the reconstruction's grid, the calibration's shift and scale applied.
        lit: (M, M) the lit mask of the positions used.
    """

    amplitude: NDArray[np.float64]
    lit: NDArray[np.bool_]

    @classmethod
    def build(cls, truth: Truth, light: Illumination, indices: NDArray[np.int64], size: int) -> Yardstick:
        """From a run's truth for frames at the points `indices`, on a grid of `size` camera pixels."""
        pixel = light.geometry.pixel_size_m
        fit = fit_positions(light.positions_m, truth.positions_m[light.indices])
        axis = (np.arange(size) - size // 2) * pixel
        centre = len(truth.object) // 2
        rows, columns = ((axis - shift) / fit.scale / truth.object_pixel_m + centre for shift in fit.shift_m)
        grid = np.meshgrid(rows, columns, indexing="ij")
        amplitude = ndimage.map_coordinates(np.abs(truth.object).astype(np.float64), grid, order=1)
        return cls(amplitude, illuminated(light.probe, light.positions_of(indices) / pixel, size))

    def psnr_db(self, obj: NDArray) -> float:
        """Eq. 3 of the paper over the lit mask."""
        return psnr_db(obj, self.amplitude, self.lit)


def lit_part(data: Ptychogram, window: int) -> Ptychogram:
    """The frames' lit window that calibration found; what lies outside holds next to no light."""
    return data if window >= min(data.geometry.shape) else data.crop((window, window))


def best_latent(
    data: Ptychogram,
    light: Illumination,
    package: DecoderPackage,
    field_m: float,
    settings: Sequence[ReconstructionSettings],
    device: str,
    course: Course,
    name: str,
    start_latent: NDArray | None = None,
) -> Reconstruction:
    """Several learning rates or starts, the one with the lowest final loss kept: the paper's estimator has two."""
    course.begin(name, sum(s.epochs for s in settings))
    results: list[Reconstruction] = []
    done = 0
    for setting in settings:

        def shown(epoch: int, _: int, loss: float, before: int = done) -> None:
            course.advance(before + epoch, f"loss {loss:.5f}")

        results.append(
            reconstruct_latent(
                data,
                light,
                package,
                field_m,
                setting,
                start_latent=start_latent,
                device=device,
                report=shown,
                stop=course.stopped,
            )
        )
        done += setting.epochs
        if course.stopped():
            break
    return min(results, key=lambda r: float(r.loss[-1]))


def conventional(
    data: Ptychogram,
    light: Illumination,
    settings: PixelSettings,
    device: str,
    course: Course,
    name: str,
) -> Reconstruction:
    """The conventional reconstruction with progress."""
    course.begin(name, 2 * settings.steps)
    return reconstruct_pixels(
        data,
        light,
        settings,
        device=device,
        report=lambda epoch, _, loss: course.advance(epoch, f"loss {loss:.5f}"),
        stop=course.stopped,
    )


def latent_settings(data: Ptychogram, seed: int, continued: bool) -> ReconstructionSettings:
    """This program's latent settings for one exposure: the loss by read noise and brightness, the step by the start."""
    brightest = float(np.where(data.mask, data.frames, 0).max())
    counting = brightest <= EXACT_ELECTRONS and float(np.sqrt(np.median(data.dark_variance))) < PHOTON_RESOLVING_E
    rate = CONTINUED_RATE if continued else LATENT.learning_rate
    return replace(LATENT, loss="exact" if counting else "mixed", learning_rate=rate, seed=seed)


def field_of_view(obj: NDArray, field_m: float, pixel_m: float) -> NDArray:
    """The middle of an object's grid that the decoder's image covers."""
    half = min(len(obj) // 2, math.ceil(field_m / 2 / pixel_m))
    middle = slice(len(obj) // 2 - half, len(obj) // 2 + half)
    return obj[middle, middle]


def store(path: Path, entry: int, result: Reconstruction, psnr: float | None, name: str = "") -> None:
    """Put a result into the run, beside the exposure it belongs to."""
    arrays: dict[str, NDArray] = {"object": result.object, "loss": result.loss}
    if result.image is not None and result.latent is not None:
        arrays |= {"image": result.image, "latent": result.latent}
    settings = result.summary() | {"psnr_db": psnr, "software": software()}
    store_result(path, entry, arrays, settings, name=f"reconstruction_{name or result.method}")


def reconstruct_file(
    path: Path,
    method: str,
    decoder: str | None,
    exposure_s: float | None,
    out: Path | None,
    device: str,
    learning_rate: float | None,
    epochs: int | None,
    start: str,
    loss: str | None,
    seed: int,
    calibration: Path | None = None,
    positivity: bool = True,
) -> dict[str, Any]:
    """Reconstruct one exposure of a calibrated run; returns the values of the command's JSON line.

    `calibration` is a run whose calibration is reused; a low-dose run knows its own.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: known are {', '.join(METHODS)}")
    if loss is not None and loss not in LOSSES:
        raise UsageError(f"loss {loss!r}: known are {', '.join(LOSSES)}")
    if start not in ("mean", "random"):
        raise UsageError(f"start {start!r}: known are mean, random")
    begin = time.monotonic()
    device = pick_device(device)
    with open_run(path) as run:
        profile, truth = run.profile, run.truth()
        entry = 2 if exposure_s is None else entry_of_exposure(run, exposure_s)
        if run.entries < entry:
            raise UsageError(f"{path}: holds no evaluation series; its plan has only a calibration scan")
        data, exposure = run.ptychogram(entry), run.exposure_s(entry)
    other = calibration_of(path, calibration)
    light, window = stored_illumination(path) if other is None else reused_illumination(path, entry, other)
    data = lit_part(data, window)
    field = profile["reconstruction"]["field_m"]
    package = None
    with Course() as course, course.interruptible():
        if method != "conventional":
            package = load_package(decoder or profile["reconstruction"]["decoder"])
            base = latent_settings(data, seed, continued=False) if method == "latent" else replace(PAPER, seed=seed)
            base = replace(base, start=start, loss=loss or base.loss, epochs=epochs or base.epochs)
            rates = PAPER_RATES if method == "paper" else (base.learning_rate,)
            rates = rates if learning_rate is None else (learning_rate,)
            trials = [replace(base, learning_rate=rate) for rate in rates]
            result = best_latent(data, light, package, field, trials, device, course, method)
        else:
            if loss is not None and loss not in PREPARED:
                raise UsageError(f"loss {loss!r}: conventional takes {', '.join(PREPARED)}")
            if learning_rate is not None:
                raise UsageError("--learning-rate: the conventional method finds its own steps; leave it out")
            settings = replace(CONVENTIONAL, loss=loss, positivity=positivity, seed=seed)
            if epochs is not None:
                settings = replace(settings, steps=epochs)
            result = conventional(data, light, settings, device, course, "conventional")
    psnr = None
    if truth is not None:
        psnr = Yardstick.build(truth, light, data.indices, len(result.object)).psnr_db(result.object)
    store(path, entry, result, psnr, method)
    folder = out or path.with_name(f"{path.stem}-reconstruction")
    shown = field_of_view(result.object, field, light.geometry.pixel_size_m)
    heading = f"{path.name}: {method}, {exposure * 1e3:.4g} ms" + ("" if psnr is None else f", {psnr:.1f} dB")
    figure = reconstruction_figure(
        data.frames.sum(0),
        result.expected.sum(0),
        shown,
        result.loss,
        heading,
        folder / f"{method}-{exposure * 1e3:.4g}ms.png",
    )
    return {
        "method": method,
        "decoder": None if package is None else package.name,
        "calibration": str(path if other is None else other),
        "exposure_s": exposure,
        "psnr_db": psnr,
        "loss": float(result.loss[-1]),
        "epochs": len(result.loss),
        "converged": result.converged,
        "strength": getattr(result.settings, "kappa", None),
        "seconds": time.monotonic() - begin,
        "figure": str(figure),
    }
