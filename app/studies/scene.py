"""The scene of the studies: the paper's simulated bench, its calibration known exactly.

561 nm, 80 mm, 1024 x 1024 pixels of 3.45 um, a pinhole of 500 um with flat phase and a soft edge, a Fermat spiral of 96
points of which every 6th is used, a decoder's field of 1.615 mm. Quantum efficiency 1, so photons are electrons.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.acquire.fermat import spiral
from recon.dataset import Geometry, Ptychogram
from recon.illumination import Illumination, illuminated
from simulators.optics import Illumination as Pinhole

POINTS, SPACING_M = 96, 57e-6
FIELD_M = 1.615e-3
MARGIN_PX = 8
"""Pixels of the object's grid around the outermost window, as reconstructions have them."""
SCORED = 32
"""Side of the grid on which `psnr32_db` is taken: the decoder's."""


@dataclass(frozen=True)
class StudyScene:
    """What does not change within a study.

    Attributes:
        name: "paper", or "small" for tests.
        pixel_m, frame: of the camera; `frame` pixels each way.
        positions: how many of the spiral's points are used, evenly spaced in its order.
    """

    name: str = "paper"
    pixel_m: float = 3.45e-6
    frame: int = 1024
    positions: int = 16

    @classmethod
    def small(cls, positions: int = 6) -> StudyScene:
        """The same light on a sixteenth of the pixels."""
        return cls("small", 6.9e-6, 256, positions)

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits of everything that defines the scene."""
        facts = [self.pixel_m, self.frame, self.positions, POINTS, SPACING_M, FIELD_M, 561e-9, 80e-3, 500e-6, 12e-6]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    @cached_property
    def light(self) -> Illumination:
        """One electron a second in all, so that seconds of exposure are photons per exposure."""
        geometry = Geometry(561e-9, 80e-3, self.pixel_m, (self.frame, self.frame))
        pinhole = Pinhole(500e-6, 12e-6)
        window = pinhole.window(self.pixel_m)
        return Illumination(
            pinhole.field(self.pixel_m, window + window % 2), geometry, spiral(POINTS, SPACING_M), np.arange(POINTS)
        )

    @property
    def indices(self) -> NDArray[np.int64]:
        """The points that are used, evenly spaced along the unordered spiral."""
        return np.arange(0, POINTS, POINTS // self.positions)[: self.positions]

    @property
    def positions_m(self) -> NDArray[np.float64]:
        """(N, 2) of them."""
        return self.light.positions_m[self.indices]

    @cached_property
    def size(self) -> int:
        """Side M of the object's grid, for all points of the spiral."""
        reach = int(np.ceil(np.abs(self.light.positions_m).max() / self.pixel_m)) + MARGIN_PX
        return 2 * (reach + (len(self.light.probe) + 1) // 2)

    @cached_property
    def lit(self) -> NDArray[np.bool_]:
        """(M, M) the lit mask of the positions used."""
        return illuminated(self.light.probe, self.positions_m / self.pixel_m, self.size)

    @cached_property
    def to_scored(self) -> NDArray[np.float32]:
        """(32, M) means over the pixels of the 32 x 32 grid along one axis: x = A O A^T."""
        edges = np.linspace(-FIELD_M / 2, FIELD_M / 2, SCORED + 1)
        centres = (np.arange(self.size) - self.size // 2) * self.pixel_m
        low, high = centres - self.pixel_m / 2, centres + self.pixel_m / 2
        shared = np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None])
        return (np.clip(shared, 0, None) / (FIELD_M / SCORED)).astype(np.float32)

    def scored(self, obj: NDArray) -> NDArray[np.float32]:
        """An object (M, M) on the 32 x 32 grid."""
        result: NDArray[np.float32] = self.to_scored @ np.abs(obj).astype(np.float32) @ self.to_scored.T
        return result

    def ptychogram(self, frames: NDArray[np.float32], photons: float, read_noise_e: float, name: str) -> Ptychogram:
        """Frames (N, H, W) with what an estimator may know."""
        count, shape = len(frames), frames.shape[1:]
        return Ptychogram(
            frames=frames,
            dark_variance=np.full(shape, read_noise_e**2, np.float32),
            mask=np.ones(shape, bool),
            positions_m=self.positions_m,
            indices=self.indices,
            exposures_s=np.full(count, photons),
            geometry=self.light.geometry,
            name=name,
        )
