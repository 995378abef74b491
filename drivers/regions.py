"""Which parts of a sensor a camera can read out: sizes and offsets come in steps."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.base import LimitError, Region


@dataclass(frozen=True)
class RegionGrid:
    """The legal regions of a sensor, all in pixels and as (rows, columns).

    Attributes:
        sensor_shape: the whole sensor.
        smallest: least size of a region.
        size_step: a size is the smallest plus a multiple of this.
        offset_step: an offset is a multiple of this.
    """

    sensor_shape: tuple[int, int]
    smallest: tuple[int, int] = (1, 1)
    size_step: tuple[int, int] = (1, 1)
    offset_step: tuple[int, int] = (1, 1)

    def centred(self, shape: tuple[int, int]) -> Region:
        """The region of this shape in the middle of the sensor, as near as the offset's steps allow."""
        top, left = (
            max(0, self.sensor_shape[k] - shape[k]) // 2 // self.offset_step[k] * self.offset_step[k] for k in (0, 1)
        )
        return Region(top, left, *shape)

    def nearest(self, region: Region) -> Region:
        """The legal region that is nearest in size and then in place; a legal one is its own nearest."""
        (top, rows), (left, columns) = (
            self._axis(0, region.top, region.rows),
            self._axis(1, region.left, region.columns),
        )
        return Region(top, left, rows, columns)

    def require(self, region: Region, device: str) -> None:
        """Raise `LimitError` that names the nearest legal region unless this one is legal."""
        near = self.nearest(region)
        if near != region:
            raise LimitError(
                device,
                f"{_words(region)} cannot be read out of {self.sensor_shape[0]} x {self.sensor_shape[1]} pixels (sizes "
                f"in steps of {_pair(self.size_step)} from {_pair(self.smallest)}, offsets in steps of "
                f"{_pair(self.offset_step)}); nothing was set, the nearest that can is {_words(near)}",
            )

    def _axis(self, k: int, offset: int, size: int) -> tuple[int, int]:
        least, step = self.smallest[k], self.size_step[k]
        most = least + (self.sensor_shape[k] - least) // step * step
        legal_size = min(max(least + round((size - least) / step) * step, least), most)
        grid = self.offset_step[k]
        last = (self.sensor_shape[k] - legal_size) // grid * grid
        return min(max(round(offset / grid) * grid, 0), last), legal_size


def _words(region: Region) -> str:
    return f"{region.rows} x {region.columns} pixels from row {region.top}, column {region.left}"


def _pair(values: tuple[int, int]) -> str:
    return f"({values[0]}, {values[1]})"
