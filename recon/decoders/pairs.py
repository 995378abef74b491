"""Amplitude and phase from one image: what a decoder with a shared latent for both is trained on.

The amplitude is the grey image itself, as the paper's objects are. The phase is its relief: the image smoothed by a
Gaussian of 1/32 of its side, lit along the diagonal, so that a stroke's upper left flank is ahead and its lower right
one behind. On the strokes the two are uncorrelated (MNIST: 0.001), yet one image fixes both: one latent must do.
Where the amplitude is dark the phase is the middle of its range; no light asks for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RELIEF_RAD = 2.0
"""Phase between the steepest flank of a stroke and the opposite one."""
SMOOTHING = 1 / 32
"""Standard deviation of the Gaussian, over the image's side."""
STEEPEST = 0.35
"""Slope of the smoothed image, per 1/32 of its side, at which the relief ends; MNIST's steepest is 0.355."""


def relief(images: NDArray[np.float32], side: float | None = None) -> NDArray[np.float32]:
    """(n, s, t) in 0..1 of grey images (n, s, t): 0.5 where they are flat, 1 on flanks that rise to the lower right.

    `side` is that of the whole image, in pixels, of which these show a part; outside them it is black.
    """
    from scipy.ndimage import gaussian_filter

    side = images.shape[-1] if side is None else side
    smooth = np.empty_like(images, np.float32)
    for image, out in zip(images, smooth, strict=True):
        gaussian_filter(image, SMOOTHING * side, output=out, mode="constant")
    slope = (np.gradient(smooth, axis=1) + np.gradient(smooth, axis=2)) * (side / 32 / np.sqrt(2))
    return np.clip(0.5 + 0.5 * slope / STEEPEST, 0, 1).astype(np.float32)


def paired(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2, s, s) amplitude and relief of grey images (n, s, s)."""
    return np.stack((images, relief(images)), 1)


def transmission(pairs: NDArray[np.float32], phase_rad: float) -> NDArray[np.complex64]:
    """(n, s, s) complex transmission of amplitude and phase in 0..1 (n, 2, s, s), the phase in units of `phase_rad`."""
    return (pairs[:, 0] * np.exp(1j * phase_rad * pairs[:, 1])).astype(np.complex64)
