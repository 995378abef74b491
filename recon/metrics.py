"""What each figure means: scores of results against a simulated truth, modulo the gauge freedoms.

A joint shift of probe and object, opposite phase ramps, a complex scalar, a probe shift with tilt, and distance with
scale leave every diffraction pattern unchanged; none of them may count as an error or hide one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize


@dataclass(frozen=True)
class PositionFit:
    """Estimated against true positions after the best shift and isotropic scale: r_est = scale r_true + shift.

    Attributes:
        scale: isotropic scale of the estimate.
        shift_m: (2,) joint shift of the estimate.
        rms_m: root mean square of the remaining distances.
    """

    scale: float
    shift_m: NDArray[np.float64]
    rms_m: float


def fit_positions(estimate_m: NDArray, truth_m: NDArray) -> PositionFit:
    """Least-squares shift and isotropic scale between two sets of positions (N, 2); raises ValueError for none."""
    known = np.isfinite(truth_m).all(1)
    if known.sum() < 2:
        raise ValueError(f"positions: {int(known.sum())} true positions are known, 2 are needed")
    estimate, truth = estimate_m[known], truth_m[known]
    centred_e, centred_t = estimate - estimate.mean(0), truth - truth.mean(0)
    spread = float((centred_t**2).sum())
    scale = float((centred_e * centred_t).sum() / spread) if spread > 0 else 1.0
    rest = (centred_e - scale * centred_t) / scale
    return PositionFit(scale, estimate.mean(0) - scale * truth.mean(0), float(np.sqrt((rest**2).sum(1).mean())))


def distance_error_m(estimate_m: float, truth_m: float, scale: float) -> float:
    """z_est/m - z_true: what remains of the distance's error once the scale that goes with it is taken out."""
    return estimate_m / scale - truth_m


def resample(field: NDArray, pixel_m: float, size: int, to_pixel_m: float) -> NDArray:
    """A centred complex field on another pitch and size by cubic splines; zero outside; values are kept."""
    scale = to_pixel_m / pixel_m
    axis = (np.arange(size) - size // 2) * scale + len(field) // 2
    grid = np.meshgrid(axis, axis, indexing="ij")

    def part(values: NDArray) -> NDArray:
        return ndimage.map_coordinates(values, grid, order=3, mode="constant")

    return part(field.real) + 1j * part(field.imag)


def stretched_probe(
    truth: NDArray,
    pixel_m: float,
    size: int,
    to_pixel_m: float,
    scale: float,
    wavelength_m: float,
    distance_m: float,
) -> NDArray:
    """(size, size) the true probe as it explains the frames where positions are `scale` times as large as they are.

    The distance is `scale` times as large then, and the probe wider by as much and bent: P(s/m) exp(i a s^2) with
    a = pi/(lambda z) (1/m^2 - 1/m) gives the very same frames. It counts as no error.
    """
    axis = (np.arange(size) - size // 2) * to_pixel_m
    bend = np.pi / (wavelength_m * distance_m) * (1 / scale**2 - 1 / scale)
    radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
    return resample(truth, pixel_m * scale, size, to_pixel_m) * np.exp(1j * bend * radius2)


def probe_error(estimate: NDArray, truth: NDArray, pixel_m: float, wavelength_m: float, distance_m: float) -> float:
    """norm(P_est - P)/norm(P) where |P| > 1 % of its peak, after the best scalar, shift with tilt, and ramp.

    Args:
        estimate, truth: (K, K) on the same grid of pitch `pixel_m`.
    """
    axis = np.arange(len(truth)) - len(truth) // 2
    y, x = axis[:, None], axis[None, :]
    support = np.abs(truth) > 0.01 * np.abs(truth).max()
    norm = float((np.abs(truth[support]) ** 2).sum())
    f = np.fft.fftfreq(len(truth))
    spectrum = np.fft.fft2(estimate)

    def moved(parameters: NDArray) -> NDArray:
        dy, dx, ty, tx = parameters
        shifted = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (f[:, None] * dy + f[None, :] * dx)))
        # The ramp is free, so the tilt that goes with a shift needs no parameter of its own.
        return shifted * np.exp(2j * np.pi * (ty * y + tx * x) / len(truth))

    def residual(parameters: NDArray) -> float:
        candidate = moved(parameters)[support]
        energy = float((np.abs(candidate) ** 2).sum())
        overlap = np.abs((candidate.conj() * truth[support]).sum()) ** 2
        return 1.0 - float(overlap) / max(energy * norm, 1e-300)

    # The shift starts where the intensities' centroids agree, the ramp where the remaining phase slope is.
    def centroid(field: NDArray) -> NDArray:
        weight = np.abs(field) ** 2
        return np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()

    shift = centroid(truth) - centroid(estimate)
    product = moved(np.array([*shift, 0, 0])).conj() * truth
    slopes = [
        np.angle((product[1:] * product[:-1].conj()).sum()) * len(truth) / (2 * np.pi),
        np.angle((product[:, 1:] * product[:, :-1].conj()).sum()) * len(truth) / (2 * np.pi),
    ]
    best = optimize.minimize(residual, np.array([*shift, *slopes]), method="Nelder-Mead", options={"maxiter": 400})
    return float(np.sqrt(max(best.fun, 0.0)))


def psnr_db(estimate: NDArray, truth: NDArray, mask: NDArray[np.bool_]) -> float:
    """Eq. 3 of the paper over the lit mask: amplitudes clipped to 0..1, no rescaling of the image."""
    difference = np.clip(np.abs(estimate), 0, 1)[mask] - np.clip(np.abs(truth), 0, 1)[mask]
    return float(-10 * np.log10(max(float((difference**2).mean()), 1e-12)))


def phase_error_rad(estimate: NDArray, truth: NDArray, mask: NDArray[np.bool_]) -> float:
    """Root mean square of the phase's error over the mask, weighted by the light |truth|^2 that a pixel lets through.

    The estimate's global phase, which no camera sees, is first turned to the one that fits best.
    """
    weight = np.abs(truth[mask]).astype(np.float64) ** 2
    apart = np.exp(1j * (np.angle(estimate[mask]) - np.angle(truth[mask])))
    apart *= np.exp(-1j * np.angle((weight * apart).sum()))
    return float(np.sqrt((weight * np.angle(apart) ** 2).sum() / weight.sum()))


def phase_psnr_db(estimate: NDArray, truth: NDArray, mask: NDArray[np.bool_]) -> float:
    """PSNR of the phase, its peak one turn: 20 log10(2 pi / `phase_error_rad`)."""
    return float(20 * np.log10(2 * np.pi / max(phase_error_rad(estimate, truth, mask), 1e-6)))


def dice(estimate: NDArray, truth: NDArray, mask: NDArray[np.bool_]) -> float:
    """Overlap 2|A and B|/(|A| + |B|) of the two images above amplitude 0.5, inside the mask."""
    a, b = np.abs(estimate)[mask] > 0.5, np.abs(truth)[mask] > 0.5
    total = int(a.sum() + b.sum())
    return float(2 * (a & b).sum() / total) if total else 1.0


def success_db(prior_mean_db: float, noise_free_db: float) -> float:
    """PSNR from which an image counts as recovered: midway, in dB, between prior mean and noise-free fit."""
    return 0.5 * (prior_mean_db + noise_free_db)
