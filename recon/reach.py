"""Which frequencies of object and probe the camera can see: those whose light meets the frame.

Light of frequency f leaves a point s of the exit wave and meets the camera at s + lambda z f. Where that is beside the
frame for every lit s nothing has been measured, and near there little; yet both fields have pixels fine enough for
such frequencies. A search leaves its own noise in them: steps of one size whatever the slope, and then the measured
noise of the dark pixels, which a likelihood fits the better the longer it is polished. That moved the distance by
several standard deviations and was nearly all of the probe's error (docs/calibration.md). So a frequency counts as
much as the share of the light that meets the frame with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.dataset import Geometry
from recon.unknowns import Unknowns

COMPACT = 0.4
"""Diameter of the beam over the frame's side up to which the share says what is seen."""


class Reach:
    """How much a frequency counts, from the lit profile along each axis.

    Args:
        probe: (m, K, K) modes whose light it is.
        geometry: of the frames, with the distance as far as it is known; in the near field.
    """

    def __init__(self, probe: Tensor, geometry: Geometry):
        self._pixel_m, self._way = geometry.pixel_size_m, geometry.wavelength_m * geometry.distance_m
        self._half_m = [side * geometry.pixel_size_m / 2 for side in geometry.shape]
        light = probe.abs().square().sum(0)
        # Rows' and columns' light, as shares of all.
        self._light = [light.sum(axis) / light.sum() for axis in (1, 0)]
        self._weights: dict[int, Tensor] = {}

    @staticmethod
    def applies(geometry: Geometry, diameter_m: float | None) -> bool:
        """Whether a beam of this diameter is small beside a frame in the near field."""
        frame_m = min(geometry.shape) * geometry.pixel_size_m
        return not geometry.far_field and diameter_m is not None and diameter_m <= COMPACT * frame_m

    def weight(self, side: int) -> Tensor:
        """(side, side) from 0 to 1, for the spectrum of a field of so many pixels, in the order of `torch.fft.fft2`."""
        if side not in self._weights:
            lines = []
            for light, half in zip(self._light, self._half_m, strict=True):
                place = (torch.arange(len(light), device=light.device) - len(light) // 2) * self._pixel_m
                f = torch.fft.fftfreq(side, self._pixel_m, device=light.device)
                meets = (place + self._way * f[:, None]).abs() <= half
                lines.append(meets.to(light.dtype) @ light)
            self._weights[side] = lines[0][:, None] * lines[1]
        return self._weights[side]

    def seen(self, field: Tensor) -> Tensor:
        """A field (..., n, n) or its gradient, each frequency times its weight: linear and its own adjoint."""
        return torch.fft.ifft2(torch.fft.fft2(field) * self.weight(field.shape[-1]))

    def keep_seen(self, unknowns: Unknowns) -> None:
        """Object and probe as far as they are seen, in place."""
        for field in (unknowns.object, unknowns.probe):
            field.copy_(self.seen(field))
