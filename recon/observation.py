"""What frames say about a decoder's image: log-likelihood, gradient and information, for many images at once.

Images are amplitudes (S, s, s); under a `recon.complexoperator` they are (S, 2, s, s), real and imaginary part.

Two kinds answer one protocol: `recon.events`, for sensors that tell single electrons apart, in the dark, and
`recon.bins`, for light, or for read noise that does not. Log-likelihoods are in nats relative to a black
object, log p(X | image) - log p(X | 0): their own evidence against an empty field of view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from recon.operator import CameraOperator

FLUX_TOLERANCE = 0.1
"""Relative error that the light of a single frame may have: what the decoder cannot draw of a digit is 6 to 10 %, as
frames of 100,000 photons show, and the laser drifts."""
BLOCK_M = 18e-6
"""Side of the blocks in which light and thresholds are counted: the diffraction of what a decoder draws is smooth."""


@dataclass(frozen=True)
class Terms:
    """Log-likelihood (S,), gradient (S, d) and information (S, d, d), positive semi-definite."""

    value: Tensor
    gradient: Tensor
    information: Tensor


class Observation(Protocol):
    """Frames as a function of the decoder's image.

    Attributes:
        operator: from images to the camera.
        counting: "events", "pixels" or "bins"; see `recon.manner`.
        electrons: counted in the pixels that are looked at, dark ones subtracted.
    """

    @property
    def operator(self) -> CameraOperator: ...

    @property
    def counting(self) -> str: ...

    @property
    def electrons(self) -> float: ...

    def quick(self) -> Observation:
        """Itself or a part of it that is enough to find where to search."""
        ...

    def value(self, images: Tensor) -> Tensor:
        """(S,) log-likelihood of images (S, s, s)."""
        ...

    def photons(self, images: Tensor) -> Tensor:
        """(S,) the part of it that was not known before the frames came."""
        ...

    def joined(self, more: Self) -> Self:
        """These frames and more of the same kind."""
        ...

    def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (S,) of images (S, s, s) and its gradient (S, s, s) in them."""
        ...

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        """Along the `jacobians` (S, s^2, d) of images (S, s, s)."""
        ...

    def counted(self, image: Tensor) -> float:
        """Electrons in the pixels that are looked at, if an image (s, s) is what lights them: never negative."""
        ...

    def frame_scores(self, image: Tensor) -> Tensor:
        """(N,) light of each frame less that expected of an image (s, s), in standard deviations."""
        ...

    def pattern_scores(self, image: Tensor) -> Tensor:
        """(N,) how much more of each frame's light lies where an image (s, s) is bright than it says, in deviations.

        Far from zero where frames and image do not belong together, whatever their light in all.
        """
        ...


@dataclass(frozen=True)
class LightMap:
    """Where the prior expects light, in blocks of the camera.

    Attributes:
        side: pixels of a block each way, odd, its centre a pixel.
        corner: (row, column) of the first pixel of the first block.
        mean: (N, g, g) electrons a pixel, mean over images from the prior.
    """

    side: int
    corner: tuple[int, int]
    mean: Tensor

    @classmethod
    def build(cls, operator: CameraOperator, images: Tensor, pixel_m: float, energy: float = 0.998) -> LightMap:
        """From images (S, s, s) of the prior; blocks cover the smallest centred square with that share of the light."""
        side = max(1, 2 * round((BLOCK_M / pixel_m - 1) / 2) + 1)
        shape = (operator.kernel_y.shape[0], operator.kernel_x.shape[0])
        count = min(shape) // side
        corner = (shape[0] // 2 - count * side // 2, shape[1] // 2 - count * side // 2)
        mean = _on_blocks(operator, images, side, corner, count)
        total = mean.sum(0)
        half = count // 2
        for reach in range(1, half + 1):
            inner = slice(half - reach, half + reach)
            if float(total[inner, inner].sum()) >= energy * float(total.sum()):
                break
        first = half - reach
        placed = (corner[0] + first * side, corner[1] + first * side)
        return cls(side, placed, mean[:, inner, inner].contiguous())

    def select(self, frames: Sequence[int]) -> LightMap:
        """That of some of the frames, in the same blocks."""
        return replace(self, mean=self.mean[list(frames)])

    def joined(self, more: LightMap) -> LightMap:
        """These frames and more.

        Raises:
            ValueError: their blocks differ.
        """
        if (self.side, self.corner, self.mean.shape[1:]) != (more.side, more.corner, more.mean.shape[1:]):
            raise ValueError("frames are looked at in different blocks; select them from one map")
        return replace(self, mean=torch.cat((self.mean, more.mean)))

    def of(self, operator: CameraOperator, image: Tensor) -> Tensor:
        """(N, g, g) electrons a pixel of an image (s, s) at the blocks' centres."""
        return _on_blocks(operator, image[None], self.side, self.corner, self.mean.shape[1])

    def centres(self, axis: int) -> Tensor:
        """(g,) rows (axis 0) or columns (1) of the blocks' centres."""
        count = self.mean.shape[1]
        return torch.arange(count, device=self.mean.device) * self.side + (self.corner[axis] + self.side // 2)

    def sampled(self, weight: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and columns of the centres of every `stride`-th block, and their weights (n,), from those (g, g) of all.

        A diffraction pattern holds no frequency above beam diameter/(lambda z): sums on any grid finer than the inverse
        are the same, as far as the weights are smooth.
        """
        first = slice(stride // 2, None, stride)
        return self.centres(0)[first], self.centres(1)[first], stride**2 * weight[first, first].flatten()

    def pixels(self, frame: Tensor) -> Tensor:
        """(g, side, g, side) view of a frame's (H, W) pixels that the blocks cover."""
        count, side = self.mean.shape[1], self.side
        r, c = self.corner
        return frame[r : r + count * side, c : c + count * side].reshape(count, side, count, side)


def pattern_weight(intensity: Tensor, typical: Tensor) -> Tensor:
    """Weight of the light at a pixel in the score of a pattern: about the logarithm of a bright pixel's intensity."""
    return torch.log1p(intensity / typical.clamp_min(1e-12))


def _on_blocks(operator: CameraOperator, images: Tensor, side: int, corner: tuple[int, int], count: int) -> Tensor:
    device = operator.probe.device
    rows = torch.arange(count, device=device) * side + corner[0] + side // 2
    columns = torch.arange(count, device=device) * side + corner[1] + side // 2
    down, across = operator.kernel_y[rows], operator.kernel_x[columns]
    mean = torch.zeros(len(operator), count, count, device=device)
    for part in images.split(8):
        fields = down @ operator.exit_waves(part) @ across.T
        mean += fields.abs().square().sum(1)
    return mean / len(images)


def information(operator: CameraOperator, parts: Iterable[tuple[int, Tensor, Tensor]], jacobians: Tensor) -> Tensor:
    """(S, d, d) sum of outer products of the gradients of single pixels.

    Args:
        operator: says what each frame sees.
        parts: frame, rows (2 m, L), real parts first, and their weights (2 m, S).
        jacobians: (S, s^2, d).
    """
    size, dims = operator.drawing.samples, jacobians.shape[2]
    high, wide = operator.window
    padded = torch.nn.functional.pad(jacobians.unflatten(1, (-1, size, size)), (0, 0, 0, wide, 0, high))
    total = jacobians.new_zeros(len(jacobians), dims, dims)
    for frame, rows, weighted in parts:
        r, c = operator.corners[frame]
        half = len(rows) // 2
        local = padded[:, :, r : r + high, c : c + wide].flatten(1, 3)
        single = (rows[:half] @ local) * weighted[:half].T[:, :, None]
        single += (rows[half:] @ local) * weighted[half:].T[:, :, None]
        total += single.transpose(1, 2) @ single
    return total


def trimmed(values: Tensor, count: int) -> Tensor:
    """(n, 2 count, ...) the first `count` of each half of values (n, 2 m, ...)."""
    half = values.shape[1] // 2
    return values if count == half else torch.cat((values[:, :count], values[:, half : half + count]), 1)


def alike(a: Tensor, b: Tensor, axis: int, filling: float = 0.0) -> tuple[Tensor, Tensor]:
    """Both, filled up to the longer one along an axis."""
    most = max(a.shape[axis], b.shape[axis])

    def filled(values: Tensor) -> Tensor:
        room = (0, 0) * (values.ndim - 1 - axis) + (0, most - values.shape[axis])
        return torch.nn.functional.pad(values, room, value=filling)

    return filled(a), filled(b)
