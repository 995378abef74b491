"""Dark frames of one exposure, accumulated: count, mean, variance, one residual histogram, the first few raw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import schema

BUFFER_BYTES = 128 * 2**20
"""Raw frames held until the mean is known, so that residuals refer to the final mean."""


def histogram_edges() -> NDArray[np.float64]:
    """Edges of the residual histogram, digital numbers; residuals beyond them count in the outermost bins."""
    half = schema.HISTOGRAM_HALF_RANGE_ADU
    return np.linspace(-half, half, round(2 * half / schema.HISTOGRAM_BIN_ADU) + 1)


@dataclass(frozen=True)
class DarkSummary:
    """Statistics of the darks of one exposure.

    Attributes:
        count: dark frames that went in.
        mean: (H, W) float32 digital numbers.
        variance: (H, W) float32 sample variance (n - 1), digital numbers squared.
        histogram: (B,) int64 residuals (raw minus the pixel's mean) of all pixels of `histogram_frames` frames.
        histogram_frames: frames in the histogram: all of them unless they exceed `BUFFER_BYTES`.
        raw: (k, H, W) uint16, the first frames as they came.
    """

    count: int
    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    histogram: NDArray[np.int64]
    histogram_frames: int
    raw: NDArray[np.uint16]


def no_darks(shape: tuple[int, int], keep: int) -> DarkSummary:
    """The place of darks that are still to come: zeros, and room for `keep` raw frames."""
    zero = np.zeros(shape, np.float32)
    bins = len(histogram_edges()) - 1
    return DarkSummary(0, zero, zero, np.zeros(bins, np.int64), 0, np.zeros((keep, *shape), np.uint16))


class DarkAccumulator:
    """Welford's running mean and variance, plus a bounded buffer for the histogram.

    Args:
        shape: (rows, columns) of a frame.
        keep: raw frames to keep.
    """

    def __init__(self, shape: tuple[int, int], keep: int):
        self._shape = shape
        self._keep = keep
        self._capacity = max(2, BUFFER_BYTES // (2 * shape[0] * shape[1]), keep)
        self._count = 0
        self._mean = np.zeros(shape, np.float64)
        self._squares = np.zeros(shape, np.float64)
        self._buffer: list[NDArray[np.uint16]] = []

    @property
    def count(self) -> int:
        return self._count

    def add(self, image: NDArray[np.uint16]) -> None:
        """Take in one (H, W) raw dark frame."""
        self._count += 1
        delta = image - self._mean
        self._mean += delta / self._count
        self._squares += delta * (image - self._mean)
        if len(self._buffer) < self._capacity:
            self._buffer.append(image)

    def summary(self) -> DarkSummary:
        """What has been accumulated. Raises ValueError before the second frame."""
        if self._count < 2:
            raise ValueError(f"a variance needs two dark frames, got {self._count}")
        bins = len(histogram_edges()) - 1
        histogram = np.zeros(bins, np.int64)
        for image in self._buffer:
            place = (image - self._mean + schema.HISTOGRAM_HALF_RANGE_ADU) / schema.HISTOGRAM_BIN_ADU
            index = np.clip(np.floor(place), 0, bins - 1).astype(np.intp)
            histogram += np.bincount(index.ravel(), minlength=bins)
        raw = self._buffer[: self._keep]
        return DarkSummary(
            count=self._count,
            mean=self._mean.astype(np.float32),
            variance=(self._squares / (self._count - 1)).astype(np.float32),
            histogram=histogram,
            histogram_frames=len(self._buffer),
            raw=np.array(raw, np.uint16) if raw else np.zeros((0, *self._shape), np.uint16),
        )
