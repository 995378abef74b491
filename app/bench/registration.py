"""How far the sample moved between two pictures: in the plane of the sample, where the beam's edge does not matter.

On the camera both the beam's own pattern, which stays, and the sample's, which moves, interfere: comparing pictures
there gives anything between nothing and the true shift. So each picture is first taken back to the object under the
known beam (Gerchberg-Saxton with the beam's disc as support and a transmission between 0 and 1), and the transmissions
are compared inside the disc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from app.bench.beam import FreeSpace

ITERATIONS = 40
SUPPORT = 0.05
LIT = 0.6
"""Amplitude of the beam over its peak from where on the transmission is trusted."""
BRIGHTEST = 1.05
SMOOTHING_PX = 1.0
LEAST_OVERLAP = 0.35
REFINEMENTS = 15
CLOSE_PX = 1e-3


def transmission(
    picture: NDArray[np.float64],
    wave: NDArray[np.complex64],
    space: FreeSpace,
    start: NDArray[np.float64] | None = None,
    iterations: int = ITERATIONS,
) -> tuple[NDArray[np.float64], float]:
    """(size, size) transmission in 0..1 where the beam is, and the unexplained share of the picture's light.

    Args:
        picture: (size, size) in the units of the beam's picture, background subtracted; NaN where unknown.
        wave: (size, size) the beam at the object.
        space: from object to camera.
        start: (size, size) transmission to begin with; what is left of it in the result should move with the sample.
        iterations: how often to go there and back.
    """
    known = np.isfinite(picture)
    root = np.sqrt(np.maximum(np.where(known, picture, 0.0), 0.0)).astype(np.float32)
    support = np.abs(wave) > SUPPORT * np.abs(wave).max()
    inverse = np.where(support, 1 / np.where(support, wave, 1), 0).astype(np.complex64)
    found = np.where(support, 0.5 if start is None else start, 0.0).astype(np.float32)
    size = root
    for _ in range(iterations):
        field = space.to_camera(wave * found)
        size = np.abs(field)
        field *= np.where(known, root / np.maximum(size, 1e-20), np.float32(1))
        back = space.to_object(field)
        found = np.clip(back.real * inverse.real - back.imag * inverse.imag, 0.0, BRIGHTEST)
    misfit = float(((size - root)[known] ** 2).sum() / max(float((root[known] ** 2).sum()), 1e-30))
    return found.astype(np.float64), misfit


def mosaic(
    transmissions: Sequence[NDArray[np.float64]], places_px: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Transmissions put together where they belong.

    Args:
        transmissions: (size, size) each.
        places_px: (N, 2) of the beam on the object, pixels; NaN leaves one out.
        mask: (size, size) where they are trusted.

    Returns:
        (M, M) mean, (M, M) weight, and the index at which a transmission at the place 0, 0 begins.
    """
    size = len(mask)
    known = [k for k in range(len(places_px)) if np.isfinite(places_px[k]).all()]
    margin = int(np.ceil(np.abs(places_px[known]).max())) + 2
    total, weight = np.zeros((2, size + 2 * margin, size + 2 * margin))
    for k in known:
        whole = np.floor(places_px[k]).astype(int)
        part = places_px[k] - whole
        top, left = whole + margin
        box = (slice(top, top + size), slice(left, left + size))
        share = ndimage.shift(mask.astype(np.float64), part, order=1)
        total[box] += ndimage.shift(transmissions[k] * mask, part, order=1)
        weight[box] += share
    return np.where(weight > 0.1, total / np.maximum(weight, 0.1), 0.0), weight, margin


def seen_at(
    picture: NDArray[np.float64], weight: NDArray[np.float64], margin: int, place_px: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """(size, size) of a mosaic at a place of the beam; 0.5 where it knows nothing."""
    filled = np.where(weight > 0.1, picture, 0.5)
    whole = np.floor(place_px).astype(int)
    top, left = whole + margin
    padded = np.pad(filled, 2, mode="edge")
    box = padded[top + 2 : top + size + 3, left + 2 : left + size + 3]
    part = place_px - whole
    rows = box[:-1] * (1 - part[0]) + box[1:] * part[0]
    return rows[:, :-1] * (1 - part[1]) + rows[:, 1:] * part[1]


def trusted(wave: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """(size, size) where transmissions may be compared: well inside the beam."""
    size = np.abs(wave)
    return ndimage.binary_erosion(size > LIT * np.percentile(size[size > SUPPORT * size.max()], 90), iterations=2)


@dataclass(frozen=True)
class Shift:
    """The movement of what is seen, second picture against first.

    Attributes:
        pixels: (y, x).
        information: (2, 2) inverse covariance, up to a common factor: an edge says nothing about its own direction.
        likeness: correlation of the two at this shift, at most 1.
    """

    pixels: NDArray[np.float64]
    information: NDArray[np.float64]
    likeness: float


def shift_between(
    first: NDArray[np.float64], second: NDArray[np.float64], mask: NDArray[np.bool_], reach_px: float
) -> Shift | None:
    """The shift that maps the first picture onto the second inside the mask; None where nothing fits.

    Masked normalised cross-correlation (Padfield, IEEE Trans. Image Process. 21, 2706, 2012) to a pixel, then least
    squares. No direction is assumed.

    Args:
        first, second: (size, size).
        mask: (size, size) where both are known.
        reach_px: longest shift looked for.
    """
    lit_rows, lit_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (slice(lit_rows[0], lit_rows[-1] + 1), slice(lit_columns[0], lit_columns[-1] + 1))
    a, b = (ndimage.gaussian_filter(picture, SMOOTHING_PX)[box] for picture in (first, second))
    mask = mask[box]
    splines = ndimage.spline_filter(a, mode="nearest")
    start = _coarse(a, b, mask, reach_px)
    if start is None:
        return None
    shift, brightness = start.astype(np.float64), 1.0
    information, likeness = np.zeros((2, 2)), 0.0
    for _ in range(REFINEMENTS):
        moved = ndimage.shift(splines, shift, order=3, mode="nearest", prefilter=False)
        weight = ndimage.shift(mask.astype(np.float64), shift, order=1) * mask
        slope_y, slope_x = np.gradient(moved)
        design = np.stack([moved, -brightness * slope_y, -brightness * slope_x], axis=-1).reshape(-1, 3)
        rest = (b - brightness * moved).ravel()
        weighted = design * weight.ravel()[:, None]
        normal = weighted.T @ design
        if np.linalg.cond(normal) > 1e10:
            return None
        step = np.linalg.solve(normal, weighted.T @ rest)
        brightness += step[0]
        shift += step[1:]
        if np.hypot(*(shift - start)) > 3 + 0.3 * reach_px:
            return None
        variance = float((weight.ravel() * rest**2).sum() / max(weight.sum(), 1.0))
        # The part of the information that is left when the brightness is free.
        information = (normal[1:, 1:] - np.outer(normal[1:, 0], normal[0, 1:]) / normal[0, 0]) / max(variance, 1e-12)
        inside = weight > 0.5
        likeness = _correlation(moved[inside], b[inside])
        if np.abs(step[1:]).max() < CLOSE_PX:
            return Shift(shift, information, likeness)
    return Shift(shift, information, likeness)


def places_from_shifts(
    count: int, pairs: Sequence[tuple[int, int]], shifts: Sequence[Shift]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Places that explain the shifts between pairs of pictures best, and which pairs agree.

    Pairs that contradict the rest (a wrong correlation peak) are left out one after the other.

    Args:
        count: pictures.
        pairs: (first, second) of each shift.
        shifts: what was found between them.

    Returns:
        (count, 2) places in pixels, NaN for pictures without a trusted pair; (pairs,) bool.
    """
    use = np.ones(len(pairs), bool)
    places = np.full((count, 2), np.nan)
    for _ in range(len(pairs)):
        normal, right = np.zeros((2 * count, 2 * count)), np.zeros(2 * count)
        for (i, j), shift, keep in zip(pairs, shifts, use, strict=True):
            if not keep:
                continue
            w = _limited(shift.information)
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                normal[2 * a : 2 * a + 2, 2 * b : 2 * b + 2] += sign * w
            right[2 * i : 2 * i + 2] -= w @ shift.pixels
            right[2 * j : 2 * j + 2] += w @ shift.pixels
        seen = np.array([any(k in pair for pair, keep in zip(pairs, use, strict=True) if keep) for k in range(count)])
        solution = (np.linalg.pinv(normal, rcond=1e-9, hermitian=True) @ right).reshape(count, 2)
        places = np.where(seen[:, None], solution, np.nan)
        residual = np.array(
            [
                float(np.hypot(*(places[j] - places[i] - s.pixels))) if keep else 0.0
                for (i, j), s, keep in zip(pairs, shifts, use, strict=True)
            ]
        )
        typical = 1.4826 * float(np.median(residual[use])) if use.any() else 0.0
        worst = int(residual.argmax())
        if residual[worst] <= max(1.0, 6 * typical):
            break
        use[worst] = False
    return places, use


def _limited(information: NDArray[np.float64]) -> NDArray[np.float64]:
    """Information with its largest eigenvalue set to 1: pictures differ in noise by less than one believes."""
    return information / max(float(np.linalg.eigvalsh(information)[-1]), 1e-30)


def _coarse(
    a: NDArray[np.float64], b: NDArray[np.float64], mask: NDArray[np.bool_], reach_px: float
) -> NDArray[np.intp] | None:
    """Whole-pixel shift with the largest masked normalised cross-correlation."""
    m = mask.astype(np.float64)
    shape = tuple(scipy.fft.next_fast_len(2 * n) for n in m.shape)
    fa, fb = (scipy.fft.rfft2(p * m, shape) for p in (a, b))
    fa2, fb2 = (scipy.fft.rfft2(p**2 * m, shape) for p in (a, b))
    fm = scipy.fft.rfft2(m, shape)

    def correlate(moving: NDArray, fixed: NDArray) -> NDArray[np.float64]:
        return scipy.fft.irfft2(fixed * moving.conj(), shape)

    overlap = np.maximum(correlate(fm, fm), 1e-9)
    sum_a, sum_b = correlate(fa, fm), correlate(fm, fb)
    product = correlate(fa, fb) - sum_a * sum_b / overlap
    var_a = np.maximum(correlate(fa2, fm) - sum_a**2 / overlap, 0.0)
    var_b = np.maximum(correlate(fm, fb2) - sum_b**2 / overlap, 0.0)
    floor = 1e-4 * max(float(var_a.max()), float(var_b.max()), 1e-12)
    likeness = product / np.sqrt(np.maximum(var_a, floor) * np.maximum(var_b, floor))
    shift_y, shift_x = (scipy.fft.fftfreq(n, 1 / n) for n in shape)
    allowed = (np.hypot(shift_y[:, None], shift_x) <= reach_px) & (overlap >= LEAST_OVERLAP * m.sum())
    if not allowed.any():
        return None
    best = np.unravel_index(int(np.where(allowed, likeness, -2.0).argmax()), shape)
    return np.array([round(shift_y[best[0]]), round(shift_x[best[1]])], np.intp)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
