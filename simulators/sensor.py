"""The simulated silicon: photons to digital numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

HOT_DARK_CURRENT_E_S = (300.0, 30_000.0)
"""Range of a hot pixel's dark current, electrons per second, logarithmic."""


@dataclass(frozen=True)
class Sensor:
    """What turns photons into counts.

    Electrons = min(Poisson(quantum_efficiency * photons + dark_current * exposure), full_well) + Normal(0, read_noise);
    counts = round(electrons / electrons_per_adu + black_level), clipped to 0 .. 2^bit_depth - 1.

    Attributes:
        shape: (rows, columns).
        quantum_efficiency: electrons per photon.
        read_noise_e: electrons rms.
        dark_current_e_s: electrons per pixel and second.
        electrons_per_adu: conversion gain.
        black_level_adu: offset of a dark frame.
        bit_depth: of the counts, at most 16.
        full_well_e: electrons that a pixel can hold.
        hot_pixels: flat indices of pixels with a large dark current.
        hot_current_e_s: their dark currents, electrons per second.
        exposure_offset_s: the exposure that takes place minus the one asked for.
        line_time_s: exposures are whole multiples of this, at least one; 0 for any exposure.
    """

    shape: tuple[int, int]
    quantum_efficiency: float
    read_noise_e: float
    dark_current_e_s: float
    electrons_per_adu: float
    black_level_adu: float
    bit_depth: int
    full_well_e: float
    hot_pixels: tuple[int, ...] = ()
    hot_current_e_s: tuple[float, ...] = ()
    exposure_offset_s: float = 0.0
    line_time_s: float = 0.0

    def effective_exposure(self, asked_s: float) -> float:
        """The exposure that really takes place, s."""
        if self.line_time_s > 0:
            asked_s = max(1, round(asked_s / self.line_time_s)) * self.line_time_s
        return asked_s + self.exposure_offset_s

    def with_hot_pixels(self, count: int, rng: np.random.Generator) -> Sensor:
        """The same sensor with `count` hot pixels (fewer where places coincide) at random places."""
        places = np.unique(rng.integers(self.shape[0] * self.shape[1], size=count))
        low, high = HOT_DARK_CURRENT_E_S
        currents = low * (high / low) ** rng.uniform(size=len(places))
        return replace(self, hot_pixels=tuple(places.tolist()), hot_current_e_s=tuple(currents.tolist()))

    def amplified(self, gain_db: float, black_level_adu: float | None = None) -> Sensor:
        """The same sensor at an analogue gain, and at another black level unless it is None."""
        black = self.black_level_adu if black_level_adu is None else black_level_adu
        return replace(self, electrons_per_adu=self.electrons_per_adu / 10 ** (gain_db / 20), black_level_adu=black)

    def expose(
        self, photons_per_second: NDArray[np.float32] | None, exposure_s: float, rng: np.random.Generator
    ) -> NDArray[np.uint16]:
        """One frame, (rows, columns) uint16.

        Args:
            photons_per_second: (rows, columns) photons a pixel and second, or None in the dark.
            exposure_s: exposure asked for.
            rng: source of this frame's noise; the same state gives the same frame.
        """
        exposure_s = self.effective_exposure(exposure_s)
        dark = self.dark_current_e_s * exposure_s
        if photons_per_second is None:
            # Equal rates everywhere draw several times faster than an array of them.
            electrons = rng.poisson(dark, self.shape).astype(np.float32)
        else:
            mean = photons_per_second * np.float32(self.quantum_efficiency * exposure_s) + np.float32(dark)
            electrons = rng.poisson(mean).astype(np.float32)
        if self.hot_pixels:
            extra = rng.poisson(np.array(self.hot_current_e_s) * exposure_s)
            electrons.ravel()[list(self.hot_pixels)] += extra.astype(np.float32)
        np.minimum(electrons, self.full_well_e, out=electrons)
        electrons += np.float32(self.read_noise_e) * rng.standard_normal(self.shape, np.float32)
        counts = electrons / np.float32(self.electrons_per_adu) + np.float32(self.black_level_adu)
        return np.clip(np.rint(counts), 0, 2**self.bit_depth - 1).astype(np.uint16)
