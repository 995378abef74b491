"""What a calibration hands on, and its pieces: lit window, points and mask, starting disc, ramp gauge. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Geometry, Scan
from recon.streaming import Sums, sums_of


@dataclass(frozen=True)
class Illumination:
    """What a calibration hands to every later reconstruction. It holds no object: a latent method may never see one.

    Attributes:
        probe: (K, K) complex64, square root of electrons per pixel and second.
        geometry: with the calibrated distance.
        positions_m: (N, 2) corrected positions of the calibration scan's points, (y, x).
        indices: (N,) the points' indices in the plan.
    """

    probe: NDArray[np.complex64]
    geometry: Geometry
    positions_m: NDArray[np.float64]
    indices: NDArray[np.int64]

    @property
    def electrons_per_second(self) -> float:
        """Flux of the illumination in detected electrons: photons x quantum efficiency."""
        return float((np.abs(self.probe.astype(np.complex128)) ** 2).sum())

    def positions_of(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Corrected positions (n, 2) of some of the points; raises `DatasetError` for a point that was not scanned."""
        known = {int(index): k for k, index in enumerate(self.indices)}
        missing = [int(i) for i in indices if int(i) not in known]
        if missing:
            raise DatasetError(f"calibration: no corrected position for point {missing[0]}; calibrate all of the scan")
        return self.positions_m[[known[int(i)] for i in indices]]


def soft_disc(window: int, diameter_px: float, edge_px: float = 1.5) -> NDArray[np.complex64]:
    """A disc of amplitude one with a soft edge, centred at window//2: (window, window) complex64."""
    axis = np.arange(window) - window // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    return (0.5 * (1 - np.tanh((radius - diameter_px / 2) / edge_px))).astype(np.complex64)


LEAST_ELECTRONS = 1000.0
"""Light of a frame from which on it can tell its position better than a stage can: a speckle over sqrt(electrons)."""


def lit_points(data: Scan, sums: Sums | None = None) -> NDArray[np.bool_]:
    """(n,) which of the scan's distinct points, ascending, have a frame whose light can tell where it was taken.

    `sums` are those of all frames; None looks at them.
    """
    light = (sums or sums_of(data)).light
    noise = 10 * np.sqrt(float(data.dark_variance[data.mask].sum(dtype=np.float64)))
    lit = light > max(LEAST_ELECTRONS, noise)
    return np.array([lit[data.indices == point].any() for point in np.unique(data.indices)])


def lit_window(data: Scan, energy: float, sums: Sums | None = None) -> tuple[int, float]:
    """Side of the smallest centred square (a multiple of 32 px) with that share of all light, and its share.

    Light is what stands above the dark: frames are summed first, so that read noise averages out. `sums` are those of
    all frames; None looks at them.
    """
    total = np.where(data.mask, (sums or sums_of(data)).total, 0.0)
    rows, columns = data.geometry.shape
    smallest = min(rows, columns)
    whole = max(float(total.sum()), 1e-30)
    for side in range(64, smallest + 1, 32):
        top, left = rows // 2 - side // 2, columns // 2 - side // 2
        share = float(total[top : top + side, left : left + side].sum()) / whole
        if share >= energy:
            return side, share
    return smallest, 1.0


def remove_ramp(obj: NDArray, probe: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Take the linear phase and the global phase off an object and give the probe the opposite ramp.

    The ramp is the weighted mean phase step between neighbouring pixels; `weight` (M, M) says where the object is
    known. Intensities change by nothing but a shift-dependent global phase, which no camera sees.
    """
    lit = obj * np.sqrt(weight)
    steps = [np.angle((lit[1:] * lit[:-1].conj()).sum()), np.angle((lit[:, 1:] * lit[:, :-1].conj()).sum())]
    m, k = np.arange(len(obj)) - len(obj) // 2, np.arange(len(probe)) - len(probe) // 2
    obj = obj * np.exp(-1j * (steps[0] * m[:, None] + steps[1] * m[None, :]))
    probe = probe * np.exp(1j * (steps[0] * k[:, None] + steps[1] * k[None, :]))
    phase = np.angle((obj * weight * np.abs(obj)).sum())
    return obj * np.exp(-1j * phase), probe * np.exp(1j * phase)


def illuminated(probe: NDArray, positions_px: NDArray, size: int, threshold: float = 0.05) -> NDArray[np.bool_]:
    """The lit mask (size, size): union over the positions of |P|^2 > `threshold` of its peak."""
    lit = np.abs(probe) ** 2 > threshold * (np.abs(probe) ** 2).max()
    mask = np.zeros((size, size), bool)
    window = len(probe)
    for y, x in np.round(positions_px).astype(int):
        top, left = y + size // 2 - window // 2, x + size // 2 - window // 2
        mask[top : top + window, left : left + window] |= lit
    return mask
