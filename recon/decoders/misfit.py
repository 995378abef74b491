"""How far real images lie from what a decoder draws: an error that no number of photons removes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LEVELS, CONTRASTS = 12, 8
"""Bins of the table: drawn amplitude, and its range over the neighbours."""
LEANING = 20
"""Pixels that the mean of all counts for in each bin: a bin of few pixels leans on it, an empty one has it."""


@dataclass(frozen=True)
class Misfit:
    """Mean square of image minus drawn image.

    Attributes:
        variance: (levels, contrasts) over training images, by the drawn amplitude and by its range over a pixel's
            3 x 3 neighbourhood, both from 0 to 1 in equal bins.
    """

    variance: Tensor

    @classmethod
    def measured(cls, images: Tensor, drawn: Tensor, by: Tensor | None = None) -> Misfit:
        """From images (n, s, s) and what the decoder draws for them, where they are.

        `by` is the amplitude drawn with them, where they are phases.
        """
        bins = _bins(drawn if by is None else by).flatten()
        square = (images - drawn).square().flatten().double()
        total = torch.zeros(LEVELS * CONTRASTS, dtype=torch.float64, device=drawn.device)
        count = torch.bincount(bins, minlength=LEVELS * CONTRASTS)
        total.index_add_(0, bins, square)
        table = (total + LEANING * square.mean()) / (count + LEANING)
        return cls(table.float().view(LEVELS, CONTRASTS))

    @classmethod
    def even(cls, variance: float) -> Misfit:
        """The same for every pixel: of a decoder of which no more than its PSNR is known."""
        return cls(torch.full((LEVELS, CONTRASTS), variance))

    def to(self, device: torch.device | str) -> Misfit:
        """A copy on `device`."""
        return Misfit(self.variance.to(device))

    def of(self, drawn: Tensor) -> Tensor:
        """(..., s, s) variance for drawn images (..., s, s)."""
        return self.variance.flatten()[_bins(drawn)]


def _bins(drawn: Tensor) -> Tensor:
    flat = drawn.reshape(-1, 1, *drawn.shape[-2:])
    highest = functional.max_pool2d(flat, 3, 1, 1)
    lowest = -functional.max_pool2d(-flat, 3, 1, 1)
    contrast = ((highest - lowest) * CONTRASTS).long().clamp(0, CONTRASTS - 1)
    level = (flat * LEVELS).long().clamp(0, LEVELS - 1)
    return (level * CONTRASTS + contrast).view(drawn.shape)
