"""How well a reconstruction explains measured frames: one plain numpy computation for everybody's solutions.

It shares no line with this project's reconstruction or a peer's. A solution brings object, probe modes, whole and
remaining position of each window, factors of the frames and a background; here they become frames again,

    psi = shifted probe x object window,   I = weight^2 sum over modes |propagated psi|^2 + background,

with the whole angular spectrum in double precision (near field: unpadded, exact transfer function, and the sub-pixel
displacement taken back) or one Fourier transform (far field). Errors:

    amplitude: sum (sqrt I_measured - sqrt I)^2 / sum I_measured over good pixels;
    poisson: 2 sum (I - X + X ln X/I) over the number of good pixels with at least one count: what cdtools calls its
    loss (SimplePoissonNLLNormalizer), 1 for nothing but photon noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TINY = 1e-6


@dataclass(frozen=True)
class Setup:
    """What was measured.

    Attributes:
        frames: (N, H, W) counts, zero frequency in the middle for far field.
        good: (H, W) bool.
        pixel_m, distance_m, wavelength_m: pitch of object and camera and what lies between; unused in the far field.
        far: Fraunhofer.
    """

    frames: NDArray
    good: NDArray[np.bool_]
    pixel_m: float
    distance_m: float
    wavelength_m: float
    far: bool


@dataclass(frozen=True)
class Solution:
    """What was found; see the module. `averaged`: intensities are averages over the camera's square pixels."""

    object: NDArray
    probe: NDArray
    corner: NDArray[np.int64]
    shift: NDArray[np.float64]
    weight: NDArray[np.float64]
    background: NDArray[np.float64]
    averaged: bool = False


@dataclass(frozen=True)
class Score:
    """The two errors."""

    amplitude: float
    poisson: float


def predicted(setup: Setup, solution: Solution) -> Iterator[NDArray[np.float64]]:
    """The expected counts (H, W) of each frame."""
    rows, columns = solution.probe.shape[-2:]
    v, u = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :]
    # cycles per metre over those of the light
    sine2 = (v**2 + u**2) * (setup.wavelength_m / setup.pixel_m) ** 2
    transfer = np.exp(2j * np.pi * setup.distance_m / setup.wavelength_m * (np.sqrt(1 - np.minimum(sine2, 1)) - 1))
    spectra = np.fft.fft2(solution.probe.astype(np.complex128))
    field = solution.object.astype(np.complex128)
    for (top, left), (dy, dx), weight in zip(solution.corner, solution.shift, solution.weight, strict=True):
        ramp = np.exp(-2j * np.pi * v * dy) * np.exp(-2j * np.pi * u * dx)
        waves = np.fft.ifft2(spectra * ramp) * field[top : top + rows, left : left + columns]
        if setup.far:
            light = np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(-2, -1))
        else:
            light = np.fft.ifft2(np.fft.fft2(waves) * (transfer * ramp.conj()))
        intensity = (np.abs(light) ** 2).sum(0) * weight**2
        yield (_averaged(intensity) if solution.averaged else intensity) + solution.background


def _averaged(intensity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over square pixels to second order, I + laplacian(I)/24, a border pixel standing for what is missing."""
    edged = np.pad(intensity, 1, mode="edge")
    neighbours = edged[:-2, 1:-1] + edged[2:, 1:-1] + edged[1:-1, :-2] + edged[1:-1, 2:]
    return intensity + (neighbours - 4 * intensity) / 24


def score(setup: Setup, solution: Solution) -> Score:
    """Both errors of a solution over all frames."""
    amplitude = total = likelihood = 0.0
    lit = 0
    for measured, expected in zip(setup.frames, predicted(setup, solution), strict=True):
        x, i = measured[setup.good].astype(np.float64), expected[setup.good] + TINY
        amplitude += float(((np.sqrt(x) - np.sqrt(i)) ** 2).sum())
        total += float(x.sum())
        likelihood += float((i - x + x * np.log(np.maximum(x, TINY) / i)).sum())
        lit += int((x >= 1).sum())
    return Score(amplitude / total, likelihood / (0.5 * lit))
