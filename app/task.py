"""One exposure of a run, or several together, made ready for a reconstruction: its frames, its light, its yardstick."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.drawing import time_words
from app.figures import Seen
from app.yardstick import Yardstick
from recon.calibrate import Illumination, illuminated
from recon.dataset import Ptychogram, Scan, Truth
from recon.imperfections import Imperfections
from recon.knownlight import grid_size
from recon.margins import Margins, by_margins


@dataclass(frozen=True)
class Task:
    """One exposure of a run, ready to be reconstructed.

    Attributes:
        data: all frames; parts: the same, one set an exposure; entry, exposure_s: of the shortest.
        imperfections: what is uncertain, or None.
        beam: a scan with the empty beam that belongs to the light, or without any.
    """

    path: Path
    entry: int
    exposure_s: float
    data: Ptychogram
    light: Illumination
    field_m: float
    decoder: str
    truth: Truth | None
    folder: Path
    device: str
    parts: tuple[Ptychogram, ...]
    imperfections: Imperfections | None
    beam: Scan

    @property
    def pixel_m(self) -> float:
        return self.light.geometry.pixel_size_m

    @property
    def size(self) -> int:
        """Side of the object's grid: room for all points of the calibration scan."""
        return grid_size(self.light)

    def psnr_db(self, obj: NDArray) -> float | None:
        if self.truth is None:
            return None
        return Yardstick.build(self.truth, self.light, self.data.indices, len(obj)).psnr_db(obj)

    def phase(self, obj: NDArray, tilt_rad: NDArray) -> dict[str, Any]:
        """What is known of a complex object's phase: the beam's tilt it was found under, and its scores."""
        known: dict[str, Any] = {"phase_psnr_db": None, "phase_error_rad": None}
        if self.truth is not None:
            known = dict(Yardstick.build(self.truth, self.light, self.data.indices, len(obj)).phase(obj))
        return known | {"beam_tilt_rad": [float(v) for v in tilt_rad]}

    def heading(self, method: str, psnr: float | None, phase: Mapping[str, Any] | None = None) -> str:
        """A figure's title: run, method, the exposures that are in it, and how near the truth the image is."""
        scored = "" if psnr is None else f", PSNR {psnr:.1f} dB"
        if phase and phase["phase_error_rad"] is not None:
            scored += f", phase {phase['phase_error_rad']:.2f} rad off"
        exposures = " and ".join(time_words(float(part.exposures_s[0])) for part in self.parts)
        if len(self.parts) > 2:
            first, last = (time_words(float(part.exposures_s[0])) for part in (self.parts[0], self.parts[-1]))
            exposures = f"{len(self.parts)} exposures from {first} to {last} together"
        elif len(self.parts) == 2:
            exposures += " together"
        return f"{self.path.name}: {method}, {exposures}, {len(self.data)} frames{scored}"

    def seen(self, expected: NDArray) -> Seen:
        """What the figure of an object on the camera's pitch shows beside it; (N, H, W) electrons `expected`."""
        return Seen(self.data.frames.sum(0), expected.sum(0), self.data.geometry.pixel_size_m, self.pixel_m)

    def figure(self, method: str) -> Path:
        return self.folder / f"{method}-{self.exposure_s * 1e3:.4g}ms.png"


def lit_part(data: Ptychogram, window: int) -> Ptychogram:
    """The frames' lit window that calibration found; what lies outside holds next to no light."""
    return data if window >= min(data.geometry.shape) else data.crop((window, window))


def cleaned(data: Ptychogram, window: int) -> tuple[Ptychogram, Margins]:
    """`lit_part` of frames whose offset and read noise agree with their own unlit margins, and what was done for it."""
    margins = by_margins(data, window)
    return lit_part(margins.data, window), margins


def field_of_view(obj: NDArray, field_m: float, pixel_m: float) -> NDArray:
    """The middle of an object's grid that the decoder's image covers."""
    half = min(len(obj) // 2, math.ceil(field_m / 2 / pixel_m))
    middle = slice(len(obj) // 2 - half, len(obj) // 2 + half)
    return obj[middle, middle]


def lit_samples(light: Illumination, data: Ptychogram, field_m: float, samples: int) -> NDArray[np.float32]:
    """(samples, samples) share of each pixel of the decoder's image that the frames' light reached."""
    pixel = light.geometry.pixel_size_m
    size = 2 * math.ceil(field_m / pixel / 2) + 2
    lit = illuminated(light.probe, light.positions_of(data.indices) / pixel, max(size, grid_size(light)))
    axis = ((np.arange(samples) + 0.5) / samples - 0.5) * field_m / pixel + len(lit) // 2
    grid = np.meshgrid(axis, axis, indexing="ij")
    shown: NDArray[np.float32] = ndimage.map_coordinates(lit.astype(np.float32), grid, order=1)
    return shown
