"""Whether the darks of a scan are dark, asked of the first frames of each exposure, before the rest is taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.bench.darks import CHECK_FRAMES, SensorGuess, require_dark


class DarkCheck:
    """Looks at dark frames as they come, exposures ascending.

    Args:
        guess: what is known of the sensor; asked at the first frame, when the camera is open.
    """

    def __init__(self, guess: Callable[[], SensorGuess]):
        self._guess = guess
        self._shortest: tuple[float, NDArray[np.float64]] | None = None
        self._exposure_s = 0.0
        self._sum: NDArray[np.float64] | None = None
        self._count = 0

    def __call__(self, exposure_s: float, image: NDArray[np.uint16]) -> None:
        """One more dark frame. Raises `NotDarkError` when light reaches the camera."""
        if self._sum is None or exposure_s != self._exposure_s:
            self._exposure_s, self._count = exposure_s, 0
            self._sum = np.zeros(image.shape, np.float64)
        if self._count >= CHECK_FRAMES:
            return
        self._sum += image
        self._count += 1
        if self._count < CHECK_FRAMES:
            return
        mean = self._sum / CHECK_FRAMES
        if self._shortest is None or exposure_s < self._shortest[0]:
            self._shortest = (exposure_s, mean)
        # A room that is not quite dark shows in what a frame gains over the shortest one.
        require_dark({self._shortest[0]: self._shortest[1], exposure_s: mean}, CHECK_FRAMES, self._guess())
