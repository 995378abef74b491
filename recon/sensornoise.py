"""Offset and read noise as the low-dose frames themselves have them, and pixels that are not to be believed.

A read noise that is 5 % off acts like a background of 0.004 photons a pixel, four times the signal at 1000 photons. The
pixels that no light reaches show both, whatever the darks of another hour said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr

from recon.dataset import DatasetError

LEAST_READINGS = 2000
"""Readings that an estimate needs: they give the read noise to 1.6 %."""
SAME_NOISE = 0.25
"""Relative distance to the median variance within which a pixel counts as an ordinary one."""
SUSPICION = 6.0
"""Standard deviations beyond which a pixel is left out; of 10^6 honest ones, none is."""
_SIDES = 8.0
_BINS_A_SIGMA = 25
_ELECTRONS = 6
_MOST_OUTLIERS = 0.05


@dataclass(frozen=True)
class SensorNoise:
    """What pixels without light say.

    Attributes:
        offset_e, offset_sigma_e: common offset, electrons, with its standard error; to be subtracted.
        read_noise_e, read_noise_sigma_e: electrons rms of a reading, rounding included.
        rate_e, rate_sigma_e: stray photons a pixel and frame that were found there.
        outliers: share of readings that neither explains.
        readings: that went in.
        scale: read noise squared over the mean variance that the darks gave these pixels.
    """

    offset_e: float
    offset_sigma_e: float
    read_noise_e: float
    read_noise_sigma_e: float
    rate_e: float
    rate_sigma_e: float
    outliers: float
    readings: int
    scale: float

    def corrected(self, dark_variance: NDArray[np.float32]) -> NDArray[np.float32]:
        """The darks' (H, W) variances brought to what the frames show; differences between pixels stay."""
        return (dark_variance * self.scale).astype(np.float32)


def unlit_pixels(
    expected_e: NDArray, good: NDArray[np.bool_], most_e: float = 1e-3, source: str = "frames"
) -> NDArray[np.bool_]:
    """(H, W) good pixels that no frame lights beyond `most_e`, from the brightest expectation of each, (H, W).

    Raises:
        DatasetError: fewer than 1000 of them.
    """
    dark = good & (expected_e <= most_e)
    if dark.sum() < 1000:
        raise DatasetError(
            f"{source}: {int(dark.sum())} pixels stay below {most_e:g} electrons, it takes 1000 to measure offset and "
            "read noise; keep the darks' values, or use a larger region"
        )
    return dark


def estimate_noise(
    frames: NDArray[np.float32],
    unlit: NDArray[np.bool_],
    dark_variance: NDArray[np.float32],
    *,
    saturated: NDArray[np.bool_] | None = None,
    electrons_per_adu: float | None = None,
    stray_e: float = 1e-3,
    darks: int | None = None,
    source: str = "frames",
) -> SensorNoise:
    """Offset and read noise by maximum likelihood, with a small rate of photons and a share of outliers beside them.

    The rate is integrated over under an exponential prior: at 0.3 e- its photons stand apart, at 2.3 e- they cannot be
    told from an offset, whose standard error then says so.

    Args:
        frames: (N, H, W) electrons, dark subtracted.
        unlit: (H, W) pixels to use (`unlit_pixels`).
        dark_variance: (H, W) electrons squared, of which only pixels near the median are used.
        saturated: (N, H, W) clipped readings, or None.
        electrons_per_adu: digital step, where it is not small beside the read noise; None for no rounding.
        stray_e: mean of the rate's prior, photons a pixel and frame.
        darks: how many made the mean dark, whose error all frames share; None for an exact one.
        source: stands in messages.

    Raises:
        DatasetError: too few readings, or they do not scatter.
    """
    typical = float(np.median(dark_variance[unlit])) if unlit.any() else 0.0
    ordinary = unlit & (np.abs(dark_variance - typical) <= SAME_NOISE * typical)
    readings = frames[:, ordinary]
    values = readings.ravel() if saturated is None else readings[~saturated[:, ordinary]]
    if len(values) < LEAST_READINGS:
        raise DatasetError(
            f"{source}: {len(values)} readings of ordinary unlit pixels, it takes {LEAST_READINGS} to measure offset "
            "and read noise; keep the darks' values"
        )
    counts = _Histogram.of(values, electrons_per_adu, source)
    peak = counts.fit(np.array([counts.middle, math.log(counts.spread), min(stray_e, 1e-3), 1e-5]), stray_e)
    offset, log_sigma, rate, errors = counts.marginal(peak, stray_e)
    rounding = 0.0 if electrons_per_adu is None else electrons_per_adu**2 / 12
    binning = 0.0 if electrons_per_adu is None else counts.bin**2 / 12
    pure = math.exp(log_sigma)
    sigma = math.sqrt(pure**2 + rounding - binning)
    shared = 1.0 if darks is None else math.sqrt(1 + len(frames) / darks)
    return SensorNoise(
        offset_e=offset,
        offset_sigma_e=float(errors[0]) * shared,
        read_noise_e=sigma,
        read_noise_sigma_e=float(errors[1]) * pure / sigma,
        rate_e=rate,
        rate_sigma_e=float(errors[2]),
        outliers=float(peak[3]),
        readings=len(values),
        scale=sigma**2 / float(dark_variance[ordinary].mean()),
    )


@dataclass(frozen=True)
class _Histogram:
    """Readings in fine bins, so that their number does not matter any more.

    Parameters are (offset, ln sigma, rate, share of outliers), bounded as in `bounds`.
    """

    centres: NDArray[np.float64]
    counts: NDArray[np.float64]
    bin: float
    box: float
    middle: float
    spread: float

    @classmethod
    def of(cls, values: NDArray, step: float | None, source: str) -> _Histogram:
        middle = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - middle)))
        if step is not None:
            # Most readings may share one code, and then the median deviation is nothing.
            spread = max(spread, step / math.sqrt(12))
        if not spread > 0:
            raise DatasetError(f"{source}: unlit pixels do not scatter; the frames are no raw electrons")
        width = spread / _BINS_A_SIGMA
        low = middle - _SIDES * spread
        number = math.ceil((2 * _SIDES * spread + 3.0) / width)
        place = np.floor((values.astype(np.float64) - low) / width)
        place = place[(place >= 0) & (place < number)].astype(np.intp)
        centres = np.asarray(low + width * (np.arange(number) + 0.5), np.float64)
        counts = np.bincount(place, minlength=number).astype(np.float64)
        return cls(centres, counts, width, width if step is None else step, middle, spread)

    def bounds(self) -> tuple[NDArray, NDArray]:
        centre, log = self.middle, math.log(self.spread)
        low = np.array([centre - 2 * self.spread, log - 2, 0.0, 1e-12])
        return low, np.array([centre + 2 * self.spread, log + 1, 0.5, _MOST_OUTLIERS])

    def scores(self, theta: NDArray) -> tuple[float, NDArray, NDArray]:
        """Log-likelihood, its gradient (4,), and the sum of outer products of the readings' scores (4, 4)."""
        offset, log_sigma, rate, share = theta
        sigma = math.exp(log_sigma)
        n = np.arange(_ELECTRONS)
        chance = np.exp(n * math.log(max(rate, 1e-300)) - rate - gammaln(n + 1))
        # d chance/d rate = chance(n - 1) - chance(n)
        slope = np.concatenate([[0.0], chance[:-1]]) - chance
        u = self.centres[:, None] - n - offset
        above, below = (u + self.box / 2) / sigma, (u - self.box / 2) / sigma
        tall = self.bin / self.box
        mass = tall * (
            ndtr(-np.abs(u) / sigma + self.box / 2 / sigma) - ndtr(-np.abs(u) / sigma - self.box / 2 / sigma)
        )
        high, low = (tall * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) for z in (above, below))
        model = mass @ chance
        flat = 1 / len(self.centres)
        total = (1 - share) * model + share * flat
        parts = np.stack(
            [
                (1 - share) * ((low - high) @ chance) / sigma,
                (1 - share) * ((low * below - high * above) @ chance),
                (1 - share) * (mass @ slope),
                flat - model,
            ]
        )
        parts = parts / total
        weighted = parts * self.counts
        return float(self.counts @ np.log(total)), weighted.sum(1), weighted @ parts.T

    def fit(self, theta: NDArray, stray_e: float, free: Sequence[int] = (0, 1, 2, 3)) -> NDArray:
        """The maximum in the parameters `free`, by scoring steps that may not leave the bounds."""
        low, high = self.bounds()
        chosen = list(free)
        theta = np.clip(theta, low, high)
        value, gradient, outer = self.scores(theta)
        value -= theta[2] / stray_e
        for _ in range(60):
            gradient[2] -= 1 / stray_e
            # What a bound holds back does not move, and does not bend the others' step either.
            held = ((theta <= low) & (gradient < 0)) | ((theta >= high) & (gradient > 0))
            moving = [i for i in chosen if not held[i]]
            if not moving:
                break
            step = np.zeros(4)
            matrix = outer[np.ix_(moving, moving)]
            step[moving] = np.linalg.solve(matrix + 1e-12 * np.diag(np.diag(matrix)), gradient[moving])
            promise = float(gradient @ step)
            part = 1.0
            while part > 1e-4:
                trial = np.clip(theta + part * step, low, high)
                new, slope, products = self.scores(trial)
                new -= trial[2] / stray_e
                if new > value:
                    break
                part /= 2
            else:
                break
            theta, value, gradient, outer = trial, new, slope, products
            if promise < 1e-6:
                break
        return theta

    def marginal(self, peak: NDArray, stray_e: float) -> tuple[float, float, float, NDArray]:
        """Offset, ln sigma and rate averaged over the rate; standard errors of offset, sigma and rate, electrons."""
        _, _, outer = self.scores(peak)
        # Information about the rate that offset and noise do not take away.
        others = [0, 1] if peak[3] <= 1e-9 else [0, 1, 3]
        inner = outer[np.ix_(others, others)]
        left = outer[2, 2] - outer[2, others] @ np.linalg.solve(inner, outer[others, 2])
        wide = min(1 / math.sqrt(max(left, 1e-300)), 2 * stray_e)
        rates = np.linspace(max(0.0, peak[2] - 7 * wide), peak[2] + 7 * wide, 41)
        heights, offsets, logs, within = [], [], [], []
        theta = peak
        for rate in rates:
            theta = self.fit(np.array([theta[0], theta[1], rate, theta[3]]), stray_e, others)
            value, _, outer = self.scores(theta)
            covariance = np.linalg.inv(outer[np.ix_(others, others)])
            heights.append(value - rate / stray_e)
            offsets.append(theta[0])
            logs.append(theta[1])
            within.append((covariance[0, 0], covariance[1, 1]))
        weight = np.exp(np.array(heights) - max(heights))
        weight[[0, -1]] /= 2
        weight /= weight.sum()
        columns = np.stack([offsets, logs, rates])
        means = columns @ weight
        spread = ((columns - means[:, None]) ** 2) @ weight
        spread[:2] += weight @ np.array(within)
        errors = np.sqrt(spread)
        errors[1] *= math.exp(means[1])
        return float(means[0]), float(means[1]), float(means[2]), errors


def noisy_pixels(variance: NDArray, count: int) -> NDArray[np.bool_]:
    """(H, W) pixels whose dark variance `count` darks cannot explain: random telegraph noise, mostly.

    Sample variances scatter by sqrt(2/(count - 1)), 8 % at 300, or by more where the noise has tails; the larger of
    that and of their own robust spread is taken. `recon.files.read` leaves out hot and dead pixels and those sixteen
    times as noisy as the rest; these are the ones between.
    """
    middle = float(np.median(variance))
    own = 1.4826 * float(np.median(np.abs(variance - middle)))
    limit = middle + SUSPICION * max(own, middle * math.sqrt(2 / max(count - 1, 1)))
    return np.asarray(variance > limit)


def glowing_pixels(
    frames: NDArray[np.float32], expected_e: NDArray | float, dark_variance: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """(H, W) pixels that hold more than `expected_e` (H, W) in the mean of all frames (N, H, W): hot ones.

    The object moves between frames and a hot pixel does not; `expected_e` is the mean that the model expects.
    """
    mean = frames.mean(axis=0, dtype=np.float64)
    error = np.sqrt((dark_variance + np.maximum(expected_e, 0.0)) / len(frames))
    return np.asarray(mean - expected_e > SUSPICION * error + 1.0 / len(frames))
