"""What a calibration leaves unexplained: squared residuals over their variance, for every pixel and every frame.

One where the model is right. A ring on the camera speaks for a wrong distance, single frames for a stage that slipped
or a lamp that was on, a spot that stays for dirt or hot pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recon.calibrate import Calibration
from recon.dataset import Scan
from recon.frameloss import Batch, FrameLoss
from recon.noise import MixedGaussian
from recon.propagators import FarField, NearField

AT_ONCE = 4
"""Frames that are propagated together."""
ODD = 1.5
"""Times the median of all frames from which on one is explained much worse."""


@dataclass(frozen=True)
class Residuals:
    """Mean squared residuals over their variance (dark variance plus expected electrons).

    Attributes:
        pixels: (H, W) mean over the frames; nan where no frame counts.
        frames: (N,) mean over the good pixels of each frame.
    """

    pixels: NDArray[np.float32]
    frames: NDArray[np.float64]

    def odd(self) -> list[int]:
        """Frames that are explained much worse than the others."""
        return [int(j) for j in np.flatnonzero(self.frames > ODD * np.median(self.frames))]


@torch.no_grad()
def residuals(data: Scan, found: Calibration, device: str = "cpu") -> Residuals:
    """Of all frames under a calibration of them, read a few at a time."""
    light, geometry = found.illumination, found.illumination.geometry
    pitch, window = geometry.object_pixel_m, found.modes.shape[-1]
    optics = (
        FarField.build(geometry, device)
        if geometry.far_field
        else NearField.build(geometry, window, padded=True, device=device)
    )
    model = FrameLoss(optics, MixedGaussian(), pixels=not geometry.far_field)
    modes = torch.from_numpy(found.modes).to(device)
    obj = torch.from_numpy(found.object).to(device)
    positions = light.positions_m / pitch
    whole = np.round(positions)
    corners = (whole + (len(found.object) // 2 - window // 2)).astype(int)
    total = np.zeros(data.geometry.shape)
    counted = np.zeros(data.geometry.shape, np.int64)
    by_frame = np.zeros(len(data))
    for start in range(0, len(data), AT_ONCE):
        chosen = list(range(start, min(start + AT_ONCE, len(data))))
        frames, clipped = data.read(chosen)
        seconds = data.exposures_s[chosen]
        gain = torch.from_numpy(found.flux[chosen] * seconds).float().to(device)
        background = torch.from_numpy(found.background * seconds).float().to(device)
        shifts = torch.from_numpy(positions[chosen] - whole[chosen]).float().to(device)
        nothing = torch.zeros(0, device=device)
        places = [(int(r), int(c)) for r, c in corners[chosen]]
        batch = Batch(nothing, nothing, None, places, shifts, gain, background)
        expected = model.intensities(modes, obj, batch, torch.zeros((), device=device)).cpu().numpy()
        square = np.square(frames - expected) / (data.dark_variance + np.maximum(expected, 0) + 1e-9)
        good = np.broadcast_to(data.mask, square.shape)
        good = good if clipped is None else good & ~clipped
        total += np.where(good, square, 0).sum(0)
        counted += good.sum(0)
        by_frame[chosen] = np.where(good, square, 0).sum((1, 2)) / np.maximum(good.sum((1, 2)), 1)
    with np.errstate(invalid="ignore"):
        pixels = np.where(counted > 0, total / np.maximum(counted, 1), np.nan).astype(np.float32)
    return Residuals(pixels, by_frame)
