"""Photon transfer: gain, read noise, linearity and true exposures from the statistics of frames.

Gain: the variance of a pixel grows with its mean as mean/gain (Janesick, Photon Transfer, 2007). Variances come from
differences of two frames taken one after the other, so that the pattern of beam and sensor cancels, their total flux
made equal first, so that a flickering source does too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTISATION_ADU2 = 1.0 / 12.0
GROUPS = 20
FAINTEST = 0.01
"""Pixels below this share of the brightest are left out."""
FLICKER_ELECTRONS = 1e4
"""Below so many electrons in a frame its total says nothing about the source's flicker."""
TRUSTED = 0.4
"""Up to this share of the range a sensor is taken to be linear at first."""
OUTLIER_SIGMAS = 5.0
OUTLIER_RELATIVE = 0.05
LINEAR_ERROR = 3e-3
"""Exposures whose signal is known this well say something about linearity."""


@dataclass(frozen=True)
class Template:
    """How the light is distributed: the pixels that take part, sorted into groups of similar brightness.

    Attributes:
        signal: (P,) mean signal of the pixels above their bias, digital numbers.
        bias: (P,) their level without light and exposure, digital numbers.
        group: (P,) number of each pixel's group, 0 .. groups - 1.
        pixels: (rows, columns) bool, which pixels these are.
        weight: (P,) of each pixel in a frame's amplitude.
    """

    signal: NDArray[np.float64]
    bias: NDArray[np.float64]
    group: NDArray[np.intp]
    pixels: NDArray[np.bool_]
    weight: NDArray[np.float64]

    @classmethod
    def build(
        cls,
        mean: NDArray[np.float64],
        bias: NDArray[np.float64],
        good: NDArray[np.bool_],
        noise_adu2: float,
        electrons_per_adu: float,
    ) -> Template:
        """From a mean frame that clips nowhere and the bias, (rows, columns) digital numbers, and the good pixels."""
        signal = mean - bias
        top = float(np.percentile(signal[good], 99.9))
        pixels = good & (signal > FAINTEST * top)
        chosen = signal[pixels]
        edges = np.geomspace(FAINTEST * top, chosen.max() * (1 + 1e-9), GROUPS + 1)
        group = np.clip(np.searchsorted(edges, chosen, side="right") - 1, 0, GROUPS - 1)
        weight = chosen / (noise_adu2 + 0.05 * chosen / electrons_per_adu)
        return cls(chosen, bias[pixels], group, pixels, weight)

    def amplitude(self, frame: NDArray) -> float:
        """Brightness of a frame in units of the template, its level without light included; see `Series`."""
        return float(self.weight @ (frame[self.pixels] - self.bias)) / float(self.weight @ self.signal)

    @property
    def dark_share(self) -> float:
        """Amplitude that one digital number in every pixel amounts to."""
        return float(self.weight.sum()) / float(self.weight @ self.signal)

    def amplitude_variance(self, amplitude: float, noise_adu2: float, electrons_per_adu: float) -> float:
        """Variance of `amplitude` by read and photon noise."""
        norm = float(self.weight @ self.signal)
        shot = float(self.weight**2 @ self.signal) * max(amplitude, 0.0) / electrons_per_adu
        return (float((self.weight**2).sum()) * noise_adu2 + shot) / norm**2


@dataclass(frozen=True)
class Point:
    """Mean and variance of one group of pixels at one exposure.

    Attributes:
        exposure_s: exposure.
        mean_adu, variance_adu2: above the bias; of a single frame.
        samples: differences that went in.
    """

    exposure_s: float
    mean_adu: float
    variance_adu2: float
    samples: int


def pair_points(
    template: Template,
    exposure_s: float,
    first: NDArray[np.uint16],
    second: NDArray[np.uint16],
    electrons_per_adu: float,
) -> list[Point]:
    """What two frames of one exposure say about each group of pixels."""
    a = first[template.pixels] - template.bias
    b = second[template.pixels] - template.bias
    ratio = 1.0
    if min(a.sum(), b.sum()) * electrons_per_adu > FLICKER_ELECTRONS:
        ratio = float(a.sum() / b.sum())
    squares = (a - ratio * b) ** 2 / (1.0 + ratio**2)
    means = (a + ratio * b) / 2
    count = np.bincount(template.group, minlength=GROUPS)
    mean = np.bincount(template.group, means, GROUPS)
    square = np.bincount(template.group, squares, GROUPS)
    return [
        Point(exposure_s, float(mean[g] / count[g]), float(square[g] / count[g]), int(count[g]))
        for g in range(GROUPS)
        if count[g] > 0
    ]


def pooled(points: list[Point]) -> Point:
    """Points of the same exposure and group made one."""
    total = sum(point.samples for point in points)
    return Point(
        points[0].exposure_s,
        sum(p.mean_adu * p.samples for p in points) / total,
        sum(p.variance_adu2 * p.samples for p in points) / total,
        total,
    )


@dataclass(frozen=True)
class Transfer:
    """Gain by photon transfer.

    Attributes:
        electrons_per_adu, electrons_per_adu_error: conversion gain.
        noise_adu2: variance without light that the line begins at, quantisation included.
        used: (N,) bool, the points that the line goes through.
        chi2_per_point: of the fit, 1 when the scatter is what statistics make it.
    """

    electrons_per_adu: float
    electrons_per_adu_error: float
    noise_adu2: float
    used: NDArray[np.bool_]
    chi2_per_point: float


def fit_transfer(points: list[Point], noise_adu2: float, range_adu: float) -> Transfer:
    """The straight line variance = noise + mean/gain through all points below saturation.

    The noise is fixed to that of the darks. Weights come from the line, not from the points: else low variances would
    count more and the gain would come out high.

    Args:
        points: means and variances.
        noise_adu2: variance without light.
        range_adu: largest signal that the converter can tell.

    Raises:
        ValueError: fewer than three points below saturation.
    """
    x = np.array([point.mean_adu for point in points])
    y = np.array([point.variance_adu2 for point in points])
    n = np.array([point.samples for point in points], np.float64)
    used = (x > 0) & (x < TRUSTED * range_adu)
    slope = 0.0
    for _ in range(12):
        if used.sum() < 3:
            raise ValueError(f"{used.sum()} points below saturation, at least 3 are needed")
        model = noise_adu2 + max(slope, 1e-9) * np.maximum(x, 0.0) if slope else np.maximum(y, noise_adu2)
        weight = n / (2 * model**2)
        slope = float(np.sum((weight * x * (y - noise_adu2))[used]) / np.sum((weight * x * x)[used]))
        line = noise_adu2 + slope * x
        deviation = np.abs(y - line)
        allowed = np.maximum(OUTLIER_SIGMAS * line * np.sqrt(2 / n), OUTLIER_RELATIVE * line)
        used = (x > 0) & (x < 0.95 * range_adu) & (deviation < allowed)
    line = noise_adu2 + slope * x
    weight = n / (2 * line**2)
    chi2 = float(np.mean((weight * (y - line) ** 2)[used]))
    error = float(1 / np.sqrt(np.sum((weight * x * x)[used]))) * max(1.0, np.sqrt(chi2))
    return Transfer(1 / slope, error / slope**2, noise_adu2, used, chi2)


@dataclass(frozen=True)
class Linearity:
    """Signal against exposure.

    Attributes:
        rate: amplitude per second.
        offset_s, offset_error_s: exposure that takes place minus the one reported.
        jitter_s: scatter of the true exposures that statistics do not explain: 0, or the camera quantises them.
        exposures_s, amplitudes, errors: (N,) what was fitted: the mean of each exposure's frames.
        residuals: (N,) relative deviation from the line.
        worst: the largest residual among exposures whose signal is known to `LINEAR_ERROR`; NaN if there is none.
    """

    rate: float
    offset_s: float
    offset_error_s: float
    jitter_s: float
    exposures_s: NDArray[np.float64]
    amplitudes: NDArray[np.float64]
    errors: NDArray[np.float64]
    residuals: NDArray[np.float64]
    worst: float


def fit_exposures(
    exposures_s: NDArray[np.float64], amplitudes: NDArray[np.float64], variances: NDArray[np.float64]
) -> Linearity:
    """amplitude = rate (exposure + offset) through single frames; several of each exposure.

    The source's flicker, seen in the scatter of bright frames, makes long exposures count less, so that the offset
    comes from the short ones where it matters; what scatter remains becomes a jitter of the exposures.

    Args:
        exposures_s: (F,) exposures as the camera reports them.
        amplitudes, variances: (F,) brightness of each frame and its variance by photon and read noise.
    """
    times = np.unique(exposures_s)
    groups = [np.flatnonzero(exposures_s == t) for t in times]
    mean = np.array([amplitudes[g].mean() for g in groups])
    noise = np.array([variances[g].mean() / len(g) for g in groups])
    flicker2 = _flicker2(amplitudes, variances, groups, mean)
    error2 = noise + np.array([flicker2 * m * m / len(g) for m, g in zip(mean, groups, strict=True)])
    jitter = 0.0
    rate, offset, covariance, chi2 = _line(times, mean, error2)
    freedom = max(len(times) - 2, 1)
    if chi2 > freedom + 3 * np.sqrt(2 * freedom):
        low, high = 1e-12, float(times.max())
        for _ in range(60):
            jitter = float(np.sqrt(low * high))
            rate, offset, covariance, chi2 = _line(times, mean, error2 + (rate * jitter) ** 2)
            low, high = (jitter, high) if chi2 > freedom else (low, jitter)
    residuals = mean / (rate * (times + offset)) - 1.0
    known = np.sqrt(noise) < LINEAR_ERROR * np.abs(mean)
    return Linearity(
        rate=rate,
        offset_s=offset,
        offset_error_s=float(np.sqrt(covariance)),
        jitter_s=jitter,
        exposures_s=times,
        amplitudes=mean,
        errors=np.sqrt(error2),
        residuals=residuals,
        worst=float(np.abs(residuals[known]).max()) if known.any() else float("nan"),
    )


def plateau(
    frame: NDArray, predicted: NDArray[np.float64], pixels: NDArray[np.bool_], limit_adu: float
) -> float | None:
    """Level at which pixels stop growing, digital numbers; None when none is expected above 1.3 limits.

    Args:
        frame: (rows, columns) an overexposed frame.
        predicted: (P,) signal that the pixels would show without a limit.
        pixels: (rows, columns) bool, which they are.
        limit_adu: where the converter ends.
    """
    full = predicted > 1.3 * limit_adu
    return float(np.median(frame[pixels][full])) if full.sum() >= 10 else None


def _flicker2(
    amplitudes: NDArray, variances: NDArray, groups: list[NDArray[np.intp]], mean: NDArray[np.float64]
) -> float:
    """Relative variance of the source from frame to frame, from exposures where it would show."""
    found = [
        max(0.0, float(amplitudes[g].var(ddof=1) - variances[g].mean())) / m**2
        for g, m in zip(groups, mean, strict=True)
        if len(g) > 3 and variances[g].mean() < (LINEAR_ERROR * m) ** 2
    ]
    return float(np.mean(found)) if found else 0.0


def _line(
    x: NDArray[np.float64], y: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """rate, offset, variance of the offset and chi^2 of y = rate (x + offset)."""
    design = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(design.T @ (design / variance[:, None]))
    a, rate = inverse @ (design.T @ (y / variance))
    gradient = np.array([1 / rate, -a / rate**2])
    chi2 = float(np.sum((y - a - rate * x) ** 2 / variance))
    return float(rate), float(a / rate), float(gradient @ inverse @ gradient), chi2
