"""Loss of a batch of frames and all its gradients in one pass, the adjoint written by hand.

Exit wave psi_j(s) = P(s - shift_j) O(whole_j + s), field at the camera, intensity, average over the pixel, loss; and
back. What autograd would record is not recorded: transforms cost three a frame forward and three back (one and one of
them on the probe's small window: its sub-pixel shift; two and two to the camera, pruned to rows with light and
frequencies in band), plus one shared transform of the probe each way. Half of autograd's time and a third of its
memory; equal to it to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.noise import SlopedLoss
from recon.propagators import Optics, crossed, unit


@dataclass(frozen=True)
class Batch:
    """Measured frames of one step, on the device.

    Attributes:
        frames: (B, H, W) electrons.
        variance: (H, W) or (B, H, W) dark variance, electrons squared.
        weight: broadcasts to (B, H, W), zero where a pixel does not count; None when all of them count.
        corners: (B, 2) int64 first row and column of each probe window on the object's grid; a list on the CPU, where
            slicing is fastest, or a tensor on the device.
        shift_px: (B, 2) sub-pixel displacement of the probe within its window.
        gain: (B,) electrons per unit of intensity: flux x exposure.
        background: (B,) electrons a pixel that came by another way; zeros for none.
    """

    frames: Tensor
    variance: Tensor
    weight: Tensor | None
    corners: list[tuple[int, int]] | Tensor
    shift_px: Tensor
    gain: Tensor
    background: Tensor


@dataclass(frozen=True)
class Gradients:
    """Sum of the loss over a batch and its gradients.

    Attributes:
        value: () loss.
        probe: (m, K, K) complex.
        object: (M, M) complex, zero where no probe of the batch was.
        shift_px: (B, 2).
        offset_m: ().
        gain: (B,), of the logarithm of the gain.
        background: (B,).
    """

    value: Tensor
    probe: Tensor
    object: Tensor
    shift_px: Tensor
    offset_m: Tensor
    gain: Tensor
    background: Tensor


def spread(intensity: Tensor) -> Tensor:
    """`recon.model.pixel_average` in place-friendly form: I + lap(I)/24; its own adjoint."""
    out = intensity * (20.0 / 24.0)
    w = 1.0 / 24.0
    out[..., 1:, :].add_(intensity[..., :-1, :], alpha=w)
    out[..., :-1, :].add_(intensity[..., 1:, :], alpha=w)
    out[..., :, 1:].add_(intensity[..., :, :-1], alpha=w)
    out[..., :, :-1].add_(intensity[..., :, 1:], alpha=w)
    # A border pixel takes itself for the neighbour that is missing.
    for edge in (0, -1):
        out[..., edge, :].add_(intensity[..., edge, :], alpha=w)
        out[..., :, edge].add_(intensity[..., :, edge], alpha=w)
    return out


def gather(field: Tensor, corners: list[tuple[int, int]] | Tensor, size: int) -> Tensor:
    """Windows (B, size, size) of a field (M, M)."""
    if isinstance(corners, Tensor):
        return field.flatten()[_indices(field, corners, size)]
    return torch.stack([field[r : r + size, c : c + size] for r, c in corners])


def scatter(patches: Tensor, corners: list[tuple[int, int]] | Tensor, total: Tensor) -> None:
    """The adjoint of `gather`: add windows to `total` (M, M)."""
    size = patches.shape[-1]
    if isinstance(corners, Tensor):
        pairs = torch.view_as_real(total).view(-1, 2)
        pairs.index_add_(0, _indices(total, corners, size).flatten(), torch.view_as_real(patches).reshape(-1, 2))
        return
    for patch, (r, c) in zip(patches, corners, strict=True):
        total[r : r + size, c : c + size] += patch


def _indices(field: Tensor, corners: Tensor, size: int) -> Tensor:
    side = field.shape[-1]
    axis = torch.arange(size, device=field.device)
    first = corners[:, 0] * side + corners[:, 1]
    return first[:, None, None] + axis[:, None] * side + axis


class FrameLoss:
    """Loss and gradients of a batch. `pixels` says whether intensities are averaged over the camera's pixels."""

    def __init__(self, optics: Optics, loss: SlopedLoss, *, pixels: bool = True):
        self.optics = optics
        self.loss = loss
        self.pixels = pixels

    def _ramps(self, shift_px: Tensor, like: Tensor) -> Tensor:
        """exp(-2 pi i f.shift) (B, K, K)."""
        f = torch.fft.fftfreq(self.optics.window, device=like.device, dtype=shift_px.dtype)
        lines = unit((-2 * math.pi) * shift_px[:, :, None] * f)
        return lines[:, 0, :, None] * lines[:, 1, None, :]

    def _waves(
        self, probe: Tensor, obj: Tensor | None, batch: Batch
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Displaced probes (B, m, K, K), patches (B, 1, K, K), the probes' spectra and ramps; None for no object."""
        if obj is None:
            return probe[None], None, None, None
        ramps = self._ramps(batch.shift_px, probe)
        spectra = torch.fft.fft2(probe)[None] * ramps[:, None]
        return torch.fft.ifft2(spectra), gather(obj, batch.corners, self.optics.window)[:, None], spectra, ramps

    def intensities(self, probe: Tensor, obj: Tensor | None, batch: Batch, offset_m: Tensor) -> Tensor:
        """Expected electrons (B, H, W)."""
        moved, patches, _, _ = self._waves(probe, obj, batch)
        waves = moved if patches is None else moved * patches
        modes = probe.shape[0]
        fields, _ = self.optics.forward(waves.flatten(0, 1), batch.shift_px.repeat_interleave(modes, 0), offset_m)
        return self._expected(_squared(fields, modes), batch)

    def _expected(self, intensity: Tensor, batch: Batch) -> Tensor:
        if self.pixels:
            intensity = spread(intensity)
        return intensity.mul_(batch.gain[:, None, None]).add_(batch.background[:, None, None])

    def __call__(self, probe: Tensor, obj: Tensor | None, batch: Batch, offset_m: Tensor) -> Gradients:
        """Value and gradients for probe modes (m, K, K) and object (M, M); no object is the empty beam."""
        modes, window = probe.shape[0], self.optics.window
        moved, patches, spectra, ramps = self._waves(probe, obj, batch)
        waves = (moved if patches is None else moved * patches).flatten(0, 1)
        shifts = batch.shift_px if modes == 1 else batch.shift_px.repeat_interleave(modes, 0)
        fields, trace = self.optics.forward(waves, shifts, offset_m)
        expected = self._expected(_squared(fields, modes), batch)
        value, slope = self.loss.sloped(expected, batch.frames, batch.variance, batch.weight)
        background = slope.sum((1, 2))
        gain = (slope * expected).sum((1, 2)) - background * batch.background
        slope.mul_((2 * batch.gain)[:, None, None])
        if self.pixels:
            slope = spread(slope)
        if modes > 1:
            slope = slope.repeat_interleave(modes, 0)
        pairs = torch.view_as_real(fields)
        pairs[..., 0].mul_(slope)
        pairs[..., 1].mul_(slope)
        back, moments = self.optics.adjoint(fields, trace)
        back = back.view(-1, modes, window, window)
        if obj is None or patches is None or spectra is None or ramps is None:
            zero = torch.zeros_like(batch.shift_px)
            offset = offset_m.new_zeros(()) if moments is None else moments[:, 0].sum()
            return Gradients(value, back.sum(0), probe.new_zeros(0), zero, offset, gain, background)
        object_gradient = torch.zeros_like(obj)
        scatter((back * moved.conj_physical_()).sum(1), batch.corners, object_gradient)
        spectral = torch.fft.fft2(back.mul_(patches.conj_physical_()), norm="forward")
        # d(phase)/d(shift) = -2 pi f here: the probe moves the other way than the transfer function's ramp.
        f = torch.fft.fftfreq(window, device=probe.device, dtype=batch.shift_px.dtype)
        overlap = crossed(spectral, spectra).sum(1)
        shift = (-2 * math.pi) * torch.stack((overlap.sum(2) @ f, overlap.sum(1) @ f), 1)
        offset = offset_m.new_zeros(())
        if moments is not None:
            per_frame = moments.view(-1, modes, 3).sum(1)
            shift += per_frame[:, 1:]
            offset = per_frame[:, 0].sum()
        spectral.mul_(ramps.conj_physical_()[:, None])
        probe_gradient = torch.fft.ifft2(spectral.sum(0), norm="forward")
        return Gradients(value, probe_gradient, object_gradient, shift, offset, gain, background)


def _squared(fields: Tensor, modes: int) -> Tensor:
    """|field|^2, incoherent modes added: (B, H, W)."""
    pairs = torch.view_as_real(fields)
    out = torch.mul(pairs[..., 0], pairs[..., 0])
    out.addcmul_(pairs[..., 1], pairs[..., 1])
    return out if modes == 1 else out.view(-1, modes, *out.shape[1:]).sum(1)
