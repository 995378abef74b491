"""An exposure at which the light fills the range and nothing clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.bench.session import Session
from drivers.base import InstrumentError

CLIPPING = 0.93
LEAST = 1 / 8
"""Dimmest that is accepted, of the brightness wanted."""
TRIES = 14


class LightError(InstrumentError):
    """Too much light, too little, or an unsteady one."""

    def __init__(self, message: str):
        super().__init__("light", message)


def find_exposure(
    session: Session,
    background: float | NDArray[np.float64],
    wanted: float,
    number: int,
) -> tuple[float, int]:
    """The exposure at which the brightest pixels reach `wanted` of the range.

    Args:
        session: an open bench, the beam on.
        background: level without light, digital numbers, one or (rows, columns).
        wanted: share of the converter's range.
        number: of the next frame in this command.

    Returns:
        the exposure and the number of the next frame.

    Raises:
        LightError: the camera's limits of the exposure do not suffice.
    """
    info = session.devices.camera.info
    limits, scale = info.exposure_s, info.saturation_adu - float(np.median(background))
    exposure_s = float(np.clip(1e-3, limits.low, limits.high))
    for _ in range(TRIES):
        frame = session.mean_frame(exposure_s, 1, number) - background
        number += 1
        bright = brightest(frame) / scale
        if 0.75 * wanted <= bright <= 1.15 * wanted and bright < CLIPPING:
            return exposure_s, number
        # Near the top a frame clips and says only that it is too bright.
        factor = 0.25 if bright > CLIPPING else wanted / max(bright, wanted / 16)
        next_s = float(np.clip(exposure_s * factor, limits.low, limits.high))
        if next_s == exposure_s:
            if bright > wanted or bright < wanted * LEAST:
                raise LightError(
                    f"too {'bright' if bright > wanted else 'dark'}: at {exposure_s:g} s, the camera's limit, the "
                    f"brightest pixels reach {100 * bright:.1f} % of the range, {100 * wanted * LEAST:.0f} to "
                    f"{100 * wanted:.0f} % is needed; change the light's power"
                )
            return exposure_s, number
        exposure_s = next_s
    raise LightError("changes from frame to frame by more than can be followed; steady it")


def brightest(frame: NDArray[np.float64]) -> float:
    """The brightest place of a (rows, columns) frame, the dimmest of 2 x 2 pixels: hot ones do not count."""
    rows, columns = (n // 2 * 2 for n in frame.shape)
    part = frame[:rows, :columns]
    low = np.minimum(np.minimum(part[::2, ::2], part[1::2, ::2]), np.minimum(part[::2, 1::2], part[1::2, 1::2]))
    return float(low.max())
