"""From a raw frame to what is shown of it: numpy only, so that it can be computed anywhere and tested without a window.

Levels, histogram and saturation are those of the full frame: sampling would miss the sparse bright pixels that matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TOP_INDEX = 254
CLIPPED_INDEX = 255
"""Place in the colour table that is kept for saturated pixels."""
BINS = 256
_VALUES = 2**16


class Scale(StrEnum):
    LINEAR = "linear"
    ROOT = "square root"
    LOG = "log"


@dataclass(frozen=True)
class ViewSettings:
    """How a frame is shown.

    Attributes:
        scale: of the colours.
        percentiles: levels that follow each frame, per cent.
        locked: levels (low, high) that stay, in shown digital numbers; None follows the frame.
        dark: (rows, columns) float32 to subtract for the view; None for raw frames.
        mark: (row, column) of the crosshair; None: the frame's middle.
        centre: (row, column) that radial profiles are about; None: the frame's middle.
        overlay: whether saturated pixels are marked.
    """

    scale: Scale = Scale.ROOT
    percentiles: tuple[float, float] = (1.0, 99.95)
    locked: tuple[float, float] | None = None
    dark: NDArray[np.float32] | None = None
    mark: tuple[int, int] | None = None
    centre: tuple[float, float] | None = None
    overlay: bool = True


@dataclass(frozen=True)
class Picture:
    """A frame as it is shown.

    Attributes:
        indices: (rows, columns) uint8 into a colour table of 255 colours; 255 marks saturated pixels.
        levels: digital numbers that the first and last colour stand for.
        counts, edges: (B,) and (B + 1,) histogram of the shown values.
        saturated: number of raw pixels at the converter's end.
        brightest: largest raw value.
        bright: largest raw value that its neighbours have as well: single hot pixels do not count.
        mean: of the raw values.
        row_cut, column_cut: shown values along the crosshair's row and column.
        radius, radial: (R,) pixels and mean shown value at that distance from the centre.
        mark, centre: as used.
        subtracted: whether a dark was subtracted.
    """

    indices: NDArray[np.uint8]
    levels: tuple[float, float]
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    saturated: int
    brightest: int
    bright: int
    mean: float
    row_cut: NDArray[np.float64]
    column_cut: NDArray[np.float64]
    radius: NDArray[np.float64]
    radial: NDArray[np.float64]
    mark: tuple[int, int]
    centre: tuple[float, float]
    subtracted: bool = False
    offset: int = field(default=0, repr=False)


def render(image: NDArray[np.uint16], saturation_adu: int, settings: ViewSettings) -> Picture:
    """What is shown of a (rows, columns) raw frame.

    Args:
        image: digital numbers.
        saturation_adu: pixels that reach this are saturated.
        settings: how to show it; a dark of another shape is not subtracted.
    """
    rows, columns = image.shape
    raw = np.bincount(image.ravel(), minlength=_VALUES)
    brightest = int(np.flatnonzero(raw)[-1])
    saturated = int(raw[saturation_adu:].sum())
    dark = settings.dark if settings.dark is not None and settings.dark.shape == image.shape else None
    shown, offset, counts = image, 0, raw
    if dark is not None:
        # Negatives stay: the table's zero lies at `offset`.
        offset = int(np.ceil(float(dark.max()))) + 1
        shown = np.clip(np.rint(image - dark) + offset, 0, _VALUES - 1).astype(np.uint16)
        counts = np.bincount(shown.ravel(), minlength=_VALUES)
    low, high = settings.locked or _percentiles(counts, settings.percentiles, offset)
    indices = _table(settings.scale, low, high, offset)[shown]
    if settings.overlay and saturated:
        indices[image >= saturation_adu] = CLIPPED_INDEX
    mark = settings.mark or (rows // 2, columns // 2)
    mark = (min(max(mark[0], 0), rows - 1), min(max(mark[1], 0), columns - 1))
    centre = settings.centre or (rows / 2, columns / 2)
    radius, radial = radial_profile(shown, centre)
    binned, edges = _histogram(counts, offset)
    return Picture(
        indices=indices,
        levels=(low, high),
        counts=binned,
        edges=edges,
        saturated=saturated,
        brightest=brightest,
        bright=_bright(image),
        mean=float(raw @ np.arange(_VALUES)) / image.size,
        row_cut=shown[mark[0]].astype(np.float64) - offset,
        column_cut=shown[:, mark[1]].astype(np.float64) - offset,
        radius=radius,
        radial=radial - offset,
        mark=mark,
        centre=centre,
        subtracted=dark is not None,
        offset=offset,
    )


def radial_profile(
    image: NDArray[np.uint16], centre: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R,) radii in pixels and (R,) means of the pixels at that distance from (row, column), one pixel wide."""
    rings, sizes = _rings(image.shape, (round(centre[0]), round(centre[1])))
    sums = np.bincount(rings, weights=image.ravel(), minlength=len(sizes))
    filled = sizes > 0
    return np.flatnonzero(filled).astype(np.float64), sums[filled] / sizes[filled]


def find_centre(image: NDArray[np.uint16]) -> tuple[float, float] | None:
    """(row, column) of the light's centre of mass; None where no light stands out of the background."""
    values = image.astype(np.float64)
    middle = np.median(values)
    spread = 1.4826 * float(np.median(np.abs(values - middle))) + 0.5
    peak = float(np.percentile(values, 99.9))
    if peak - middle < 10 * spread:
        return None
    light = np.where(values - middle > max(0.05 * (peak - middle), 5 * spread), values - middle, 0.0)
    rows, columns = light.sum(axis=1), light.sum(axis=0)
    total = light.sum()
    return float(rows @ np.arange(len(rows)) / total), float(columns @ np.arange(len(columns)) / total)


def _bright(image: NDArray[np.uint16]) -> int:
    """The brightest place, the dimmest of 2 x 2 pixels; of a frame with a single row or column its largest value."""
    rows, columns = (n // 2 * 2 for n in image.shape)
    if not rows or not columns:
        return int(image.max())
    part = image[:rows, :columns]
    low = np.minimum(np.minimum(part[::2, ::2], part[1::2, ::2]), np.minimum(part[::2, 1::2], part[1::2, 1::2]))
    return int(low.max())


def _percentiles(counts: NDArray[np.int64], wanted: tuple[float, float], offset: int) -> tuple[float, float]:
    total = np.cumsum(counts)
    low, high = (int(np.searchsorted(total, total[-1] * share / 100.0)) for share in wanted)
    return float(low - offset), float(max(high, low + 1) - offset)


def _histogram(counts: NDArray[np.int64], offset: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most `BINS` bins of whole digital numbers over all values that occur."""
    found = np.flatnonzero(counts)
    first, last = int(found[0]), int(found[-1])
    width = max(1, -(-(last + 1 - first) // BINS))
    bins = -(-(last + 1 - first) // width)
    padded = np.zeros(bins * width, np.int64)
    padded[: last + 1 - first] = counts[first : last + 1]
    edges = first - offset + width * np.arange(bins + 1, dtype=np.float64)
    return padded.reshape(bins, width).sum(axis=1), edges


@lru_cache(maxsize=8)
def _table(scale: Scale, low: float, high: float, offset: int) -> NDArray[np.uint8]:
    """(65536,) uint8: raw value (plus the offset) to place in the colour table."""
    values = np.maximum(np.arange(_VALUES, dtype=np.float64) - offset - low, 0.0)
    span = max(high - low, 1e-9)
    if scale is Scale.LOG:
        share = np.log1p(values) / np.log1p(span)
    elif scale is Scale.ROOT:
        share = np.sqrt(values / span)
    else:
        share = values / span
    return np.clip(np.rint(share * TOP_INDEX), 0, TOP_INDEX).astype(np.uint8)


@lru_cache(maxsize=4)
def _rings(shape: tuple[int, int], centre: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """(rows * columns,) ring of each pixel, and how many pixels each ring has."""
    y, x = np.arange(shape[0]) - centre[0], np.arange(shape[1]) - centre[1]
    rings = np.rint(np.hypot(y[:, None], x)).astype(np.intp).ravel()
    return rings, np.bincount(rings)
