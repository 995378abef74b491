"""What the unlit margins of the frames say about the sensor, against what the darks said an hour ago.

Calibration finds the window that holds the light; the pixels around it are darks, taken with every frame. Where they
agree with the darks nothing changes. Where offset or read noise have drifted, the frames are brought back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recon.dataset import DatasetError, Ptychogram
from recon.sensornoise import SensorNoise, estimate_noise, unlit_pixels

OUTSIDE = 0.005
"""Share of the light that may lie outside the window."""
MOST_LIGHT_E = 1e-3
"""Electrons a pixel of it at which the margin no longer counts as dark."""
SIGNIFICANT = 4.0
"""Standard errors from which on a drift is one."""
WORTHWHILE_OFFSET, WORTHWHILE_NOISE = 0.01, 0.01
"""Drifts below these, in read noises and relative, change no image and are left alone."""


@dataclass(frozen=True)
class Margins:
    """Frames, and what was done to them.

    Attributes:
        data: the frames, corrected where that was called for.
        noise: what the margins say; None where they could not be asked.
        corrected: whether anything was changed.
        reason: one sentence with the numbers that decided.
    """

    data: Ptychogram
    noise: SensorNoise | None
    corrected: bool
    reason: str

    def summary(self) -> dict[str, Any]:
        """Numbers for reports: offset and read noise in electrons as the margins have them, None where unknown."""
        known = self.noise
        return {
            "offset_e": None if known is None else known.offset_e,
            "read_noise_e": None if known is None else known.read_noise_e,
            "corrected": self.corrected,
            "reason": self.reason,
        }


def by_margins(data: Ptychogram, window: int) -> Margins:
    """Whole frames (N, H, W), corrected by what lies outside their centred `window` of that many pixels each way."""
    height, width = data.geometry.shape
    outside = np.ones((height, width), bool)
    top, left = (height - window) // 2, (width - window) // 2
    outside[max(0, top) : top + window, max(0, left) : left + window] = False
    count = int((outside & data.mask).sum())
    # Light in the middle counts as it was read: noise averages out over the pixels.
    light = max(0.0, float(data.frames[:, ~outside & data.mask].sum(1, dtype=np.float64).max(initial=0.0)))
    if count and OUTSIDE * light / count > MOST_LIGHT_E:
        return Margins(
            data, None, False, f"{light:.0f} electrons a frame also light the margin; the darks' values stand"
        )
    try:
        unlit = unlit_pixels(np.where(outside, 0.0, np.inf), data.mask, source=data.name)
        noise = estimate_noise(data.frames, unlit, data.dark_variance, saturated=data.saturated, source=data.name)
    except DatasetError as refused:
        return Margins(data, None, False, f"the darks' values stand: {refused}")
    said = math.sqrt(float(np.median(data.dark_variance[unlit])))
    offset = abs(noise.offset_e) > max(SIGNIFICANT * noise.offset_sigma_e, WORTHWHILE_OFFSET * said)
    error = noise.read_noise_sigma_e / noise.read_noise_e
    spread = abs(math.sqrt(noise.scale) - 1) > max(SIGNIFICANT * error, WORTHWHILE_NOISE)
    if not (offset or spread):
        return Margins(data, noise, False, f"the frames' margins agree with the darks (read noise {said:.3g} e-)")
    changed, words = data, []
    if offset:
        changed = replace(changed, frames=(data.frames - np.float32(noise.offset_e)).astype(np.float32))
        words.append(f"offset {noise.offset_e:+.3g} e- subtracted")
    if spread:
        changed = replace(changed, dark_variance=noise.corrected(data.dark_variance))
        words.append(f"read noise {noise.read_noise_e:.3g} e- in place of the darks' {said:.3g}")
    return Margins(changed, noise, True, "by the frames' unlit margins: " + ", ".join(words))
