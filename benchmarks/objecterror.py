"""The error of a peer's object, as metrics.md has it: after the best shift and complex scale, nothing else removed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

MARGIN = 16
"""Pixels around the scored square: room for the shift."""


def peers_error(estimate: NDArray, truth: NDArray, radius_px: int, *, ramp: bool = False) -> float:
    """norm(g O_est - O)/norm(O) in the central square of +-`radius_px`.

    Args:
        estimate, truth: (M, M) and (L, L) complex on one pitch, their origins in the middle.
        ramp: removes the best linear phase too, which probe and object may exchange.
    """
    half = radius_px + MARGIN
    pieces = []
    for field in (estimate, truth):
        c = field.shape[0] // 2
        pieces.append(field[c - half : c + half, c - half : c + half].astype(complex))
    piece, target = pieces
    if not np.isfinite(piece).all():
        return float("inf")
    inside = slice(MARGIN, MARGIN + 2 * radius_px)
    goal = target[inside, inside]
    y, x = np.indices(goal.shape) - radius_px
    spectra = [np.fft.fft2(np.abs(p) - np.abs(p).mean()) for p in pieces]
    match = np.fft.ifft2(spectra[0].conj() * spectra[1]).real
    start = np.array(np.unravel_index(np.argmax(match), match.shape), float)
    start = np.where(start > half, start - 2 * half, start)
    if np.abs(start).max() > MARGIN - 4:
        start = np.zeros(2)
    # Splines of order 5 on both parts: filtered once, evaluated for every shift.
    filtered = [ndimage.spline_filter(part, order=5) for part in (piece.real, piece.imag)]

    def residual(p: NDArray) -> float:
        real, imag = (ndimage.shift(part, p[:2], order=5, prefilter=False)[inside, inside] for part in filtered)
        moved = real + 1j * imag
        if ramp:
            moved = moved * np.exp(1j * (p[2] * y + p[3] * x))
        scale = np.vdot(moved, goal) / max(float((np.abs(moved) ** 2).sum()), 1e-300)
        return float(np.linalg.norm(scale * moved - goal) / np.linalg.norm(goal))

    steps = (0.5, 0.5, 2e-3, 2e-3)[: 4 if ramp else 2]
    first = np.concatenate([start, np.zeros(len(steps) - 2)])
    simplex = np.stack([first] + [first + step * np.eye(len(steps))[k] for k, step in enumerate(steps)])
    options = {"initial_simplex": simplex, "maxiter": 300, "xatol": 2e-3, "fatol": 1e-5}
    return float(optimize.minimize(residual, first, method="Nelder-Mead", options=options).fun)
