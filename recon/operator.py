"""From a decoder's image to the camera, as a few small matrices: what a calibration leaves to compute, computed once.

With probe, positions and distance known the field on the camera is linear in the decoder's image x (s, s):

    psi_j = K [P o (R_j x C_j^T)] K^T,

R_j and C_j the Mitchell resize at the continuous coordinates that frame j sees, P the probe, K the one-dimensional
band-limited Fresnel propagator. A decoder draws no fine detail, so probe and object are sampled at twice the camera's
pitch, and K is a small matrix from there to any camera pixels that are asked for. Nothing is truncated: every pixel of
the decoder's image that the frame's light can reach has its own column.

The paraxial step drops the cross term of the transfer function's fourth order, pi lambda^3 z u^2 v^2 / 2: 0.01 rad at
28/mm each over 80 mm. `tests/recon/test_operator.py` holds the whole against the angular spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.illumination import Illumination
from recon.objects import mitchell

COARSER = 2
"""Camera pixels per sample of probe and object, each way: carries fields up to 72/mm on 3.45 um pixels."""
GUARD_PX = 4
"""Camera pixels added around the probe's array before it is thinned, so that its shoulders do not wrap around."""


def fresnel_kernel(
    outputs: NDArray[np.float64], inputs: NDArray[np.float64], wavelength_m: float, distance_m: float, limit: float
) -> NDArray[np.complex128]:
    """(m, n) amplitudes at coordinates `outputs` (m,) of unit samples at `inputs` (n,), one dimension, metres.

    The band |u| <= limit of exp(-i pi lambda z u^2 - i pi lambda^3 z u^4/4), the angular spectrum to fourth order less
    its cross term; samples are those of a field band-limited to the same limit. The integral over u is a midpoint sum
    fine enough for the farthest pair of points.
    """
    reach = float(np.abs(outputs[:, None] - inputs[None, :]).max()) + wavelength_m * distance_m * limit
    count = 2 * math.ceil(8 * limit * reach)
    u = (np.arange(count) + 0.5) / count * 2 * limit - limit
    phase = -np.pi * wavelength_m * distance_m * u**2 * (1 + (wavelength_m * u) ** 2 / 4)
    # exp(2 pi i u (x - s)) is separable: two small matrices instead of one exponential a pair and frequency.
    towards = np.exp(2j * np.pi * outputs[:, None] * u[None, :] + 1j * phase[None, :])
    kernel: NDArray[np.complex128] = towards @ np.exp(-2j * np.pi * u[:, None] * inputs[None, :]) / count
    return kernel


def thinned(field: NDArray[np.complex64], factor: int) -> NDArray[np.complex64]:
    """Every `factor`-th sample of a centred field (K, K) after the band that those carry; index n//2 stays the axis."""
    size = len(field)
    extra = -size % (2 * factor)
    before = (size + extra) // 2 - size // 2
    padded = np.pad(field, ((before, extra - before),) * 2)
    count = len(padded) // factor
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(padded)))
    first = len(padded) // 2 - count // 2
    kept = spectrum[first : first + count, first : first + count]
    return (np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept))) / factor**2).astype(np.complex64)


@dataclass(frozen=True)
class Drawing:
    """How a decoder's image lies on the object.

    Attributes:
        samples: side s of the decoder's image.
        field_m: side of the square it covers.
        centre_m: (y, x) of that square on the object.
    """

    samples: int
    field_m: float
    centre_m: tuple[float, float] = (0.0, 0.0)

    def weights(self, coordinates_m: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """(..., s) Mitchell weights of object coordinates along one axis (0: y, 1: x); zero outside the square."""
        position = (coordinates_m - self.centre_m[axis] + self.field_m / 2) / self.field_m * self.samples - 0.5
        raw = mitchell(position[..., None] - np.arange(self.samples))
        inside = (position >= -0.5) & (position < self.samples - 0.5)
        total = raw.sum(-1, keepdims=True)
        return np.where(inside[..., None], raw / np.where(total == 0, 1, total), 0.0)


@dataclass(frozen=True)
class CameraOperator:
    """The linear map from a decoder's image to the fields of all frames, in factors.

    Attributes:
        drawing: where the image lies.
        probe: (n, n) complex64, thinned, square root of electrons per thinned sample and second.
        kernel_y, kernel_x: (H, n), (W, n) complex64 to all rows and columns of the frame.
        rows, columns: (N, n, L) float32 resize weights of the L image rows (columns) that each frame sees.
        corners: the first of those rows and columns of each frame; zeros where they leave the image.
        seconds: (N,) exposure.
    """

    drawing: Drawing
    probe: Tensor
    kernel_y: Tensor
    kernel_x: Tensor
    rows: Tensor
    columns: Tensor
    corners: list[tuple[int, int]]
    seconds: Tensor

    @classmethod
    def build(
        cls,
        light: Illumination,
        positions_m: NDArray[np.float64],
        seconds: NDArray[np.float64],
        shape: tuple[int, int],
        drawing: Drawing,
        device: str = "cpu",
    ) -> CameraOperator:
        """The operator of frames at `positions_m` (N, 2) exposed for `seconds` (N,), of `shape` pixels.

        The distance and the pitch are those of `light.geometry`.
        """
        geometry = light.geometry
        pitch = geometry.pixel_size_m
        probe = thinned(np.pad(light.probe, GUARD_PX), COARSER) * COARSER
        count = len(probe)
        samples = (np.arange(count, dtype=np.float64) - count // 2) * pitch * COARSER
        limit = 1 / (2 * pitch * COARSER)
        kernels = [
            fresnel_kernel(axis, samples, geometry.wavelength_m, geometry.distance_m, limit) / math.sqrt(COARSER)
            for axis in ((np.arange(n, dtype=np.float64) - n // 2) * pitch for n in shape)
        ]
        parts, firsts = [], []
        for axis in (0, 1):
            weights = drawing.weights(positions_m[:, axis, None] + samples, axis)
            part, first = _windows(weights)
            parts.append(part)
            firsts.append(first)

        def put(values: NDArray, kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device=device, dtype=kind)

        return cls(
            drawing,
            put(probe, torch.complex64),
            put(kernels[0], torch.complex64),
            put(kernels[1], torch.complex64),
            put(parts[0], torch.float32),
            put(parts[1], torch.float32),
            [(int(r), int(c)) for r, c in zip(*firsts, strict=True)],
            put(seconds, torch.float32),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, frames: Sequence[int]) -> CameraOperator:
        """That of some of the frames."""
        chosen = list(frames)
        corners = [self.corners[j] for j in chosen]
        return replace(
            self,
            rows=self.rows[chosen],
            columns=self.columns[chosen],
            corners=corners,
            seconds=self.seconds[chosen],
        )

    def joined(self, more: CameraOperator) -> CameraOperator:
        """These frames and more, selected from one operator or from those of alike frames.

        Raises:
            ValueError: they see windows of different sizes.
        """
        if self.window != more.window:
            raise ValueError(f"frames see windows of {self.window} and {more.window} pixels; build one operator of all")
        return replace(
            self,
            rows=torch.cat((self.rows, more.rows)),
            columns=torch.cat((self.columns, more.columns)),
            corners=self.corners + more.corners,
            seconds=torch.cat((self.seconds, more.seconds)),
        )

    @property
    def window(self) -> tuple[int, int]:
        """(L_y, L_x) pixels of the decoder's image that one frame sees at most."""
        return self.rows.shape[2], self.columns.shape[2]

    @property
    def channels(self) -> int:
        """Numbers for each pixel of an image: one, its amplitude."""
        return 1

    @property
    def seen(self) -> tuple[int, ...]:
        """Shape of what one frame sees of an image, (L_y, L_x), behind its channels where there are two."""
        return self.window if self.channels == 1 else (self.channels, *self.window)

    def local(self, images: Tensor) -> Tensor:
        """(N, S, L_y, L_x) the parts of images (S, s, s) that each frame sees, zeros beyond the image's border."""
        high, wide = self.window
        padded = torch.nn.functional.pad(images, (0, wide, 0, high))
        return torch.stack([padded[:, r : r + high, c : c + wide] for r, c in self.corners])

    def whole(self, parts: Tensor) -> Tensor:
        """(S, s, s) sums of parts (N, S, L_y, L_x) where they belong: the transpose of `local`."""
        high, wide = self.window
        size = self.drawing.samples
        total = parts.new_zeros(parts.shape[1], size + high, size + wide)
        for part, (r, c) in zip(parts, self.corners, strict=True):
            total[:, r : r + high, c : c + wide] += part
        return total[:, :size, :size]

    def exit_waves(self, images: Tensor) -> Tensor:
        """(N, S, n, n) complex exit waves of images (S, s, s), square root of electrons per thinned sample."""
        drawn = torch.einsum("nyi,nsij,nxj->nsyx", self.rows, self.local(images), self.columns)
        return drawn * (self.probe * self.seconds.sqrt()[:, None, None])[:, None]

    def fields(self, images: Tensor) -> Tensor:
        """(N, S, H, W) complex fields on the whole camera; for checks and pictures."""
        return self.kernel_y @ self.exit_waves(images) @ self.kernel_x.T

    def gram(self) -> Tensor:
        """(N, L, L) float32, L = L_y L_x: x^T G x = electrons that leave the object towards each frame, x as `local`.

        That is what an unbounded camera would detect: propagation conserves energy.
        """
        power = self.probe.abs().square()
        # sum_yx |P|^2 R_yi R_yk C_xj C_xl: pairs of rows and pairs of columns, each contracted once.
        pairs_y = (self.rows[:, :, :, None] * self.rows[:, :, None, :]).flatten(2)
        pairs_x = (self.columns[:, :, :, None] * self.columns[:, :, None, :]).flatten(2)
        blocks = pairs_y.transpose(1, 2) @ (power @ pairs_x) * self.seconds[:, None, None]
        high, wide = self.window
        blocks = blocks.view(len(self), high, high, wide, wide).permute(0, 1, 3, 2, 4)
        return blocks.reshape(len(self), high * wide, high * wide)

    def at_pixels(self, frame: int, row: Tensor, column: Tensor) -> Tensor:
        """(m, L) complex64: the field of one frame at camera pixels (row, column), per pixel of `local` images."""
        # First over x for every column that is asked for, then over y a pixel at a time.
        wanted, where = torch.unique(column, return_inverse=True)
        lit = self.probe * self.seconds[frame].sqrt()
        across = torch.einsum("cx,yx,xj->cyj", self.kernel_x[wanted], lit, self.columns[frame].to(lit.dtype))
        down = self.kernel_y[row][:, None, :] * self.rows[frame].T[None]
        return torch.bmm(down, across[where]).flatten(1)

    def on_grid(self, frame: int, rows: Tensor, columns: Tensor) -> Tensor:
        """(m_y m_x, L) complex64, as `at_pixels`, on the product of some rows and columns."""
        lit = self.probe * self.seconds[frame].sqrt()
        across = torch.einsum("cx,yx,xj->ycj", self.kernel_x[columns], lit, self.columns[frame].to(lit.dtype))
        down = self.kernel_y[rows][:, None, :] * self.rows[frame].T[None]
        high, wide = down.shape[1], across.shape[2]
        product = down.flatten(0, 1) @ across.flatten(1)
        return (
            product.view(len(rows), high, len(columns), wide).permute(0, 2, 1, 3).reshape(len(rows) * len(columns), -1)
        )


def _windows(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Weights (N, n, s) cut to the L columns that are not zero, the same L for all; and where those begin (N,)."""
    used = np.abs(weights).max(1) > 0
    size = weights.shape[2]
    first = np.where(used.any(1), used.argmax(1), 0)
    last = np.where(used.any(1), size - 1 - used[:, ::-1].argmax(1), 0)
    length = int((last - first).max()) + 1
    padded = np.pad(weights, ((0, 0), (0, 0), (0, length)))
    return np.stack([w[:, f : f + length] for w, f in zip(padded, first, strict=True)]), first
