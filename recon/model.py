"""The forward model: probe times object, propagated to the camera, squared.

The projection approximation of the paper (section 2.2): exit wave psi_j(s) = P(s) O(r_j + s), with s counted from the
optical axis. Positions are continuous. Probe and camera are one frame and the object moves, so the sub-pixel part of a
position shifts the *probe* within the object's pixel grid before the product and shifts the exit wave back in the
camera's frame, the latter for free as a ramp on the transfer function. Three transforms a frame, one of them small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recon.dataset import Geometry
from recon.optics import Propagator


class _GatherPatches(torch.autograd.Function):
    """Windows of one array; the gradient adds them back in place, in order, so that it is deterministic and lean."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, rows: tuple[int, ...], columns: tuple[int, ...], size: int) -> Tensor:
        ctx.shape, ctx.rows, ctx.columns, ctx.size = field.shape, rows, columns, size
        return torch.stack([field[r : r + size, c : c + size] for r, c in zip(rows, columns, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        total = grad.new_zeros(ctx.shape)
        for patch, r, c in zip(grad, ctx.rows, ctx.columns, strict=True):
            total[r : r + ctx.size, c : c + ctx.size] += patch
        return total, None, None, None


def pixel_average(intensity: Tensor) -> Tensor:
    """Point samples (..., H, W) to averages over square pixels, to second order in the pitch: I + pitch^2 lap(I)/24.

    The five-point Laplacian; borders, where a neighbour is missing, take the pixel itself for it. Energy is conserved.
    """
    rows = intensity[..., 1:, :] - intensity[..., :-1, :]
    columns = intensity[..., :, 1:] - intensity[..., :, :-1]
    pad = torch.nn.functional.pad
    laplacian = pad(rows, (0, 0, 0, 1)) - pad(rows, (0, 0, 1, 0)) + pad(columns, (0, 1)) - pad(columns, (1, 0))
    return intensity + laplacian / 24.0


def _outer_phase(row: Tensor, column: Tensor) -> Tensor:
    """exp(i (row_m + column_n)) (B, H, W) of phases (B, H) and (B, W): H + W exponentials instead of H W."""
    return torch.polar(torch.ones_like(row), row)[:, :, None] * torch.polar(torch.ones_like(column), column)[:, None]


def object_size(positions_px: Tensor, window: int, margin: int = 8) -> int:
    """Side of the smallest even object grid that holds every probe window, with `margin` pixels for refinement."""
    reach = math.ceil(float(positions_px.abs().max())) + margin
    return 2 * (reach + (window + 1) // 2)


@dataclass(frozen=True)
class ForwardModel:
    """Intensities on the camera for probe, object and positions.

    Attributes:
        geometry: camera pitch and frame shape.
        propagator: of the frame's window.
        window: side K of the probe's array, centred on the optical axis; at most the frame's smaller side.
    """

    geometry: Geometry
    propagator: Propagator
    window: int

    @classmethod
    def build(cls, geometry: Geometry, window: int, device: torch.device | str = "cpu") -> ForwardModel:
        """The model of a geometry. Raises ValueError when the probe's window is larger than the frame."""
        if window > min(geometry.shape):
            raise ValueError(f"probe window {window} px exceeds the frame {geometry.shape}")
        propagator = Propagator.build(
            geometry.shape, geometry.pixel_size_m, geometry.wavelength_m, geometry.distance_m, device
        )
        return cls(geometry, propagator, window)

    def _ramps(self, shift_px: Tensor) -> Tensor:
        """exp(-2 pi i f.shift) (B, H, W) for shifts (B, 2) in pixels."""
        row = -2 * math.pi * shift_px[:, :1] * self.propagator.v
        column = -2 * math.pi * shift_px[:, 1:] * self.propagator.u
        return _outer_phase(row, column)

    def _shifted_probe(self, probe: Tensor, shift_px: Tensor) -> Tensor:
        """The probe (K, K) displaced by each of the shifts (B, 2), by a Fourier ramp: exact if band-limited."""
        f = torch.fft.fftfreq(self.window, device=probe.device)
        row = -2 * math.pi * shift_px[:, :1] * f
        column = -2 * math.pi * shift_px[:, 1:] * f
        ramp = (
            torch.polar(torch.ones_like(row), row)[:, :, None] * torch.polar(torch.ones_like(column), column)[:, None]
        )
        return torch.fft.ifft2(torch.fft.fft2(probe) * ramp)

    def exit_to_camera(self, exit_waves: Tensor, shift_px: Tensor | None, offset_m: Tensor | None) -> Tensor:
        """Fields (B, H, W) at the camera of exit waves (B, K, K) that sit `shift_px` (B, 2) beside the axis."""
        rows, columns = self.geometry.shape
        # Transform only the rows that hold light, zero-padded at the end; the ramp moves them to the frame's middle.
        spectrum = torch.fft.fft(torch.fft.fft(exit_waves, n=columns, dim=-1), n=rows, dim=-2)
        placed = torch.tensor(
            [[rows // 2 - self.window // 2, columns // 2 - self.window // 2]],
            dtype=torch.float32,
            device=exit_waves.device,
        )
        move = placed if shift_px is None else placed - shift_px
        return torch.fft.ifft2(spectrum * (self._ramps(move) * self.propagator.transfer_at(offset_m)))

    def fields(self, probe: Tensor, obj: Tensor, positions_px: Tensor, offset_m: Tensor | None = None) -> Tensor:
        """Complex fields (B, H, W) at the camera.

        Args:
            probe: (K, K) complex.
            obj: (M, M) complex, index M//2 at the object's origin.
            positions_px: (B, 2) illumination on the object, pixels from the origin; gradients flow through it.
            offset_m: distance minus the geometry's, a real scalar tensor, or None.
        """
        whole = positions_px.detach().round()
        corner = whole.long() + (obj.shape[-1] // 2 - self.window // 2)
        if int(corner.min()) < 0 or int(corner.max()) + self.window > obj.shape[-1]:
            raise ValueError(f"a probe window leaves the object grid of {obj.shape[-1]} px; enlarge the grid")
        patches = _GatherPatches.apply(obj, tuple(corner[:, 0].tolist()), tuple(corner[:, 1].tolist()), self.window)
        shift = positions_px - whole
        return self.exit_to_camera(self._shifted_probe(probe, shift) * patches, shift, offset_m)

    def intensities(self, probe: Tensor, obj: Tensor, positions_px: Tensor, offset_m: Tensor | None = None) -> Tensor:
        """Expected signal (B, H, W), averaged over each camera pixel, in the units of |probe|^2."""
        field = self.fields(probe, obj, positions_px, offset_m)
        return pixel_average(field.real.square() + field.imag.square())

    @torch.no_grad()
    def fixed(self, probe: Tensor, positions_px: Tensor) -> FixedIllumination:
        """The model with probe, positions and distance settled: what is the same in every step is computed once."""
        whole = positions_px.round()
        shift = positions_px - whole
        rows, columns = self.geometry.shape
        placed = torch.tensor(
            [[rows // 2 - self.window // 2, columns // 2 - self.window // 2]],
            dtype=torch.float32,
            device=probe.device,
        )
        transfers = self._ramps(placed - shift) * self.propagator.transfer
        return FixedIllumination(self, self._shifted_probe(probe, shift), transfers, whole.long())

    def empty_intensity(self, probe: Tensor, offset_m: Tensor | None = None) -> Tensor:
        """Expected signal (H, W) of the empty beam."""
        field = self.exit_to_camera(probe[None], None, offset_m)[0]
        return pixel_average(field.real.square() + field.imag.square())


@dataclass(frozen=True)
class FixedIllumination:
    """The forward model of a known illumination: two transforms a frame, no exponentials; built by `fixed`.

    Attributes:
        model: the model it belongs to.
        probes: (N, K, K) complex64, the probe displaced by each position's sub-pixel part.
        transfers: (N, H, W) complex64, transfer function times the ramp that brings each exit wave to the axis.
        whole_px: (N, 2) int64, whole pixels of the positions.
    """

    model: ForwardModel
    probes: Tensor
    transfers: Tensor
    whole_px: Tensor

    def intensities(self, obj: Tensor, batch: Tensor) -> Tensor:
        """Expected signal (B, H, W) of the positions `batch` (B,) for an object (M, M), as `ForwardModel` has it."""
        window = self.model.window
        corner = self.whole_px[batch] + (obj.shape[-1] // 2 - window // 2)
        if int(corner.min()) < 0 or int(corner.max()) + window > obj.shape[-1]:
            raise ValueError(f"a probe window leaves the object grid of {obj.shape[-1]} px; enlarge the grid")
        patches = _GatherPatches.apply(obj, tuple(corner[:, 0].tolist()), tuple(corner[:, 1].tolist()), window)
        rows, columns = self.model.geometry.shape
        exit_waves = self.probes[batch] * patches
        spectrum = torch.fft.fft(torch.fft.fft(exit_waves, n=columns, dim=-1), n=rows, dim=-2)
        field = torch.fft.ifft2(spectrum * self.transfers[batch])
        return pixel_average(field.real.square() + field.imag.square())
