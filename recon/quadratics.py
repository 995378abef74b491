"""Light in dark pixels, frame by frame, as quadratic forms of the decoder's image, and their sum over all frames.

Each frame sees a window of the image, so that its form is small; but the windows overlap, and the sum over all frames
on the whole image is one matrix, whose cost does not depend on how many frames there are. The cheaper of the two is
what sums are taken with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.operator import CameraOperator


@dataclass(frozen=True)
class Quadratics:
    """x_j^T Q_j x_j of each frame j, x_j the part of the image that it sees.

    Attributes:
        operator: says which part that is.
        each: (N, L, L) Q of each frame, symmetric.
        whole: (c s^2, c s^2) their sum where they belong; None where the frames one by one cost less.
    """

    operator: CameraOperator
    each: Tensor
    whole: Tensor | None

    @classmethod
    def of(cls, operator: CameraOperator, each: Tensor) -> Quadratics:
        """From the forms (N, L, L) of an operator's frames."""
        pixels = operator.channels * operator.drawing.samples**2
        if pixels**2 > each.numel():
            return cls(operator, each, None)
        whole = each.new_zeros(pixels, pixels)
        for j, form in enumerate(each):
            _put(whole, operator, j, form)
        return cls(operator, each, whole)

    def select(self, operator: CameraOperator, frames: Sequence[int]) -> Quadratics:
        """Those of some frames, whose operator that is."""
        return Quadratics.of(operator, self.each[list(frames)])

    def joined(self, operator: CameraOperator, more: Quadratics) -> Quadratics:
        """Those of these frames and of more, whose operator together that is."""
        each = torch.cat((self.each, more.each))
        if self.whole is None:
            return Quadratics.of(operator, each)
        whole = self.whole.clone()
        for j, form in enumerate(more.each):
            _put(whole, more.operator, j, form)
        return replace(self, operator=operator, each=each, whole=whole)

    def less(self, lost: dict[int, Tensor]) -> Quadratics:
        """Without some pixels' share (L, L) of some frames."""
        each = self.each.clone()
        whole = None if self.whole is None else self.whole.clone()
        for frame, form in lost.items():
            each[frame] -= form
            if whole is not None:
                _put(whole, self.operator, frame, -form)
        return replace(self, each=each, whole=whole)

    def apply(self, images: Tensor) -> Tensor:
        """(S, s, s) Q x of images (S, s, s), summed over the frames: half of the sum's gradient."""
        if self.whole is not None:
            return (images.flatten(1) @ self.whole).view_as(images)
        local = self.operator.local(images).flatten(2).transpose(1, 2)
        parts = (self.each @ local).transpose(1, 2).unflatten(2, self.operator.seen)
        return self.operator.whole(parts)

    def total(self, images: Tensor) -> Tensor:
        """(S,) x^T Q x of images (S, s, s), summed over the frames."""
        return (self.apply(images) * images).flatten(1).sum(1)

    def by_frame(self, images: Tensor) -> Tensor:
        """(N, S) x^T Q x of images (S, s, s)."""
        local = self.operator.local(images).flatten(2).transpose(1, 2)
        return ((self.each @ local) * local).sum(1)


def _put(whole: Tensor, operator: CameraOperator, frame: int, form: Tensor) -> None:
    """Add a frame's form (L, L) to that of the whole image; what its window has beyond the image's border is left."""
    size, (high, wide), (r, c) = operator.drawing.samples, operator.window, operator.corners[frame]
    h, w = min(high, size - r), min(wide, size - c)
    count = operator.channels
    local = form.view(count, high, wide, count, high, wide)[:, :h, :w, :, :h, :w]
    whole.view(count, size, size, count, size, size)[:, r : r + h, c : c + w, :, r : r + h, c : c + w] += local
