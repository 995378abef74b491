"""Frames under a known illumination: expectation of an object, and the gradient back to it, written by hand.

What `recon.frameloss` does for a calibration, less what is known here: displaced probes are made once, and no gradient
but the object's is taken. Four pruned transforms of the camera's window a frame there and back, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.counting import Prepared
from recon.dataset import Ptychogram
from recon.frameloss import gather, scatter, spread
from recon.illumination import Illumination
from recon.model import object_size
from recon.propagators import NearField, unit

CHUNK = 4
"""Frames at a time: their fields stay in the processor's caches."""


def coarse_probe(probe: NDArray, factor: int) -> NDArray[np.complex64]:
    """Block means of a probe (K, K) on pixels `factor` times coarser, of the same energy; zeros complete a block."""
    if factor == 1:
        return probe.astype(np.complex64)
    pad = -len(probe) // 2 % factor
    padded = np.pad(probe, pad) if pad else probe
    side = len(padded) // factor
    blocks = padded.reshape(side, factor, side, factor).mean((1, 3))
    energies = [float((np.abs(p.astype(np.complex128)) ** 2).sum()) for p in (probe, blocks)]
    return (blocks * math.sqrt(energies[0] / max(energies[1], 1e-30))).astype(np.complex64)


def grid_size(light: Illumination) -> int:
    """Side of the object's grid that holds every probe window of the calibration scan, in camera pixels."""
    return object_size(torch.from_numpy(light.positions_m / light.geometry.pixel_size_m), len(light.probe))


@dataclass(frozen=True)
class KnownLight:
    """Frames and light of one level on the device.

    Attributes:
        optics: to the camera, padded as the geometry demands.
        probes: (N, K, K) complex64 displaced by each position's sub-pixel part, square root of expected electrons.
        corners: first row and column of each frame's probe window on the object's grid.
        shift_px: (N, 2) the sub-pixel part.
        frames: (N, H, W) electrons.
        variance: (H, W) electrons squared.
        good: (N, H, W) or (1, H, W) float32, zero where a pixel does not count.
        size: side M of the object's grid.
        binning: camera pixels per pixel of this level, each way.
    """

    optics: NearField
    probes: Tensor
    corners: list[tuple[int, int]]
    shift_px: Tensor
    frames: Tensor
    variance: Tensor
    good: Tensor
    size: int
    binning: int

    @classmethod
    def build(cls, data: Ptychogram, light: Illumination, binning: int, device: str = "cpu") -> KnownLight:
        """The frames on pixels `binning` times coarser.

        Raises:
            DatasetError: a frame's point was not calibrated, frames cannot be binned, or the probe exceeds them.
        """
        part = data if binning == 1 else data.binned(binning)
        geometry = replace(part.geometry, distance_m=light.geometry.distance_m)
        probe = torch.from_numpy(coarse_probe(light.probe, binning)).to(device)
        window = len(probe)
        optics = NearField.build(geometry, window, padded=True, device=device)
        pitch = geometry.pixel_size_m
        # Room for the whole field: all points of the scan, so that every exposure and subset has the same grid.
        size = object_size(torch.from_numpy(light.positions_m / pitch), window)
        positions = torch.from_numpy(light.positions_of(data.indices) / pitch)
        whole = positions.round()
        shift = (positions - whole).float().to(device)
        f = torch.fft.fftfreq(window, device=device)
        lines = unit((-2 * math.pi) * shift[:, :, None] * f)
        ramps = lines[:, 0, :, None] * lines[:, 1, None, :]
        seconds = torch.from_numpy(part.exposures_s).float().to(device)
        probes = torch.fft.ifft2(torch.fft.fft2(probe) * ramps) * seconds.sqrt()[:, None, None]
        corners = whole.long() + (size // 2 - window // 2)
        mask = part.mask[None] if part.saturated is None else part.mask & ~part.saturated
        return cls(
            optics,
            probes,
            [(int(r), int(c)) for r, c in corners.tolist()],
            shift,
            torch.from_numpy(part.frames).to(device),
            torch.from_numpy(part.dark_variance).to(device),
            torch.from_numpy(mask).float().to(device),
            size,
            binning,
        )

    def electrons(self) -> Tensor:
        """(M, M) expected electrons that reach each object pixel, all frames together."""
        total = torch.zeros(self.size, self.size, dtype=torch.complex64, device=self.probes.device)
        scatter(torch.complex(self.probes.abs().square(), torch.zeros_like(self.probes.real)), self.corners, total)
        return total.real.contiguous()

    @torch.no_grad()
    def expected(self, obj: Tensor) -> Tensor:
        """(N, H, W) electrons for an object (M, M) complex64."""
        count = len(self.frames)
        zero = self.shift_px.new_zeros(())
        parts = []
        for first in range(0, count, CHUNK):
            rows = slice(first, min(first + CHUNK, count))
            waves = self.probes[rows] * gather(obj, self.corners[rows], self.probes.shape[-1])
            fields, _ = self.optics.forward(waves, self.shift_px[rows], zero)
            parts.append(spread(fields.real.square() + fields.imag.square()))
        return torch.cat(parts)

    @torch.no_grad()
    def loss(self, obj: Tensor, likelihood: Prepared, weight: Tensor) -> tuple[float, float, Tensor]:
        """Loss over the pixels of `weight`, over the good ones outside it, and the former's gradient (M, M).

        The gradient is that of real and imaginary part, dL/dRe + i dL/dIm.
        """
        count, window = len(self.frames), self.probes.shape[-1]
        zero = self.shift_px.new_zeros(())
        gradient = torch.zeros_like(obj)
        sums = torch.zeros(2, dtype=torch.float64, device=obj.device)
        for first in range(0, count, CHUNK):
            rows = slice(first, min(first + CHUNK, count))
            probes = self.probes[rows]
            waves = probes * gather(obj, self.corners[rows], window)
            fields, trace = self.optics.forward(waves, self.shift_px[rows], zero)
            expected = spread(fields.real.square() + fields.imag.square())
            value, slope = likelihood(expected, rows)
            inside = weight if len(weight) == 1 else weight[rows]
            good = self.good if len(self.good) == 1 else self.good[rows]
            sums[0] += (value * inside).sum()
            sums[1] += (value * (good - inside)).sum()
            slope = spread(slope.mul_(2 * inside))
            pairs = torch.view_as_real(fields)
            pairs.mul_(slope[..., None])
            back, _ = self.optics.adjoint(fields, trace)
            scatter(back * probes.conj(), self.corners[rows], gradient)
        inside_sum, outside_sum = sums.tolist()
        return inside_sum, outside_sum, gradient
