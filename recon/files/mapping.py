"""Where things are in an HDF5 file of nobody's standard: a field mapping, given by whoever knows the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError

from .skeleton import LIGHT_SPEED, PLANCK

ELECTRON_VOLT = 1.602176634e-19
NUMBERS = ("wavelength", "energy_ev", "distance", "pixel_size")
ARRAYS = ("frames", "positions", "y", "x", "background", "mask", "exposures")


class PositionUnit(StrEnum):
    """What positions are counted in."""

    METRES = "m"
    MILLIMETRES = "mm"
    MICROMETRES = "um"
    PIXELS = "px"

    @property
    def metres(self) -> float | None:
        """Metres of one; None for pixels, whose size is the camera's."""
        return {"m": 1.0, "mm": 1e-3, "um": 1e-6, "px": None}[self.value]


class PositionOrder(StrEnum):
    """Order of the columns of positions."""

    YX = "yx"
    XY = "xy"


@dataclass(frozen=True)
class FieldMap:
    """A mapping from what is needed to where a file has it.

    Attributes:
        places: name (of `NUMBERS` or `ARRAYS`) to a dataset's path or, for numbers, to the number itself.
        order, unit: of the positions.
        reverse: the file has positions of the sample, which move against those of the illumination.
        good: value of the mask at good pixels; all other values are bad.
        where: (dataset, value): only frames for which a dataset of N numbers has this value.
    """

    places: dict[str, str] = field(default_factory=dict)
    order: PositionOrder = PositionOrder.YX
    unit: PositionUnit = PositionUnit.METRES
    reverse: bool = False
    good: int = 0
    where: tuple[str, float] | None = None

    @classmethod
    def parse(
        cls,
        entries: Sequence[str],
        order: PositionOrder = PositionOrder.YX,
        unit: PositionUnit = PositionUnit.METRES,
        reverse: bool = False,
        good: int = 0,
        where: str | None = None,
    ) -> FieldMap:
        """From "NAME=PLACE" texts. Raises `DatasetError` naming the wrong one."""
        places: dict[str, str] = {}
        for entry in entries:
            name, equals, place = entry.partition("=")
            if not equals or name not in NUMBERS + ARRAYS or not place:
                raise DatasetError(f"mapping {entry!r}: write NAME=PLACE with NAME of {', '.join(ARRAYS + NUMBERS)}")
            places[name] = place
        if "frames" not in places:
            raise DatasetError("mapping: it does not say where the frames are; add frames=/path/of/the/dataset")
        if "positions" not in places and not {"x", "y"} <= places.keys():
            raise DatasetError("mapping: it does not say where the positions are; add positions=/path, or y= and x=")
        condition = None
        if where is not None:
            dataset, _, value = where.rpartition("=")
            if not dataset or not _is_number(value):
                raise DatasetError(f"--where {where!r}: write DATASET=NUMBER")
            condition = (dataset, float(value))
        return cls(places, order, unit, reverse, good, condition)

    def array(self, file: h5py.File, name: str, keep: NDArray[np.bool_] | None = None) -> NDArray | None:
        """The array mapped to `name`, None when nothing is; its frames only where `keep`. Raises `DatasetError`."""
        place = self.places.get(name)
        return None if place is None else _dataset(file, place, name, keep)

    def dataset(self, file: h5py.File, name: str) -> h5py.Dataset:
        """The dataset mapped to `name`, unread. Raises `DatasetError`, KeyError where nothing is."""
        return _found(file, self.places[name], name)

    def number(self, file: h5py.File, name: str) -> float | None:
        """The number mapped to `name`, None when nothing is. Raises `DatasetError`."""
        place = self.places.get(name)
        if place is None:
            return None
        if _is_number(place):
            return float(place)
        value = _dataset(file, place, name, None)
        if value.size != 1 or value.dtype.kind not in "uif":
            raise DatasetError(f"{file.filename}: {place} ({name}) has shape {value.shape}, expected one number")
        return float(value.ravel()[0])

    def kept(self, file: h5py.File) -> NDArray[np.bool_] | None:
        """Which frames `where` chooses; None for all. Raises `DatasetError` when it chooses none."""
        if self.where is None:
            return None
        dataset, value = self.where
        numbers = _dataset(file, dataset, "where", None).ravel()
        keep = np.isclose(numbers.astype(np.float64), value, rtol=1e-6, atol=0.0)
        if not keep.any():
            known = ", ".join(f"{v:g}" for v in np.unique(numbers)[:12])
            raise DatasetError(f"{file.filename}: {dataset} is never {value:g}; it holds {known}")
        return keep

    def positions(self, file: h5py.File, keep: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        """(N, 2) positions (y, x) of the illumination, in the file's unit."""
        both = self.array(file, "positions", keep)
        if both is not None:
            if both.ndim != 2 or both.shape[1] < 2:
                raise DatasetError(f"{file.filename}: positions have shape {both.shape}, expected (N, 2) or (N, 3)")
            pair = both[:, :2] if self.order is PositionOrder.YX else both[:, 1::-1]
        else:
            y, x = self.array(file, "y", keep), self.array(file, "x", keep)
            assert y is not None
            assert x is not None
            if y.size != x.size:
                raise DatasetError(f"{file.filename}: {y.size} y and {x.size} x positions; they do not belong")
            pair = np.stack([y.ravel(), x.ravel()], axis=1)
        return pair.astype(np.float64) * (-1.0 if self.reverse else 1.0)

    def wavelength(self, file: h5py.File) -> float | None:
        """Metres, from the wavelength or the photon energy, None when neither is mapped."""
        direct = self.number(file, "wavelength")
        energy = self.number(file, "energy_ev")
        return direct if energy is None else PLANCK * LIGHT_SPEED / (energy * ELECTRON_VOLT)


def _found(file: h5py.File, place: str, name: str) -> h5py.Dataset:
    found = file.get(place)
    if not isinstance(found, h5py.Dataset):
        raise DatasetError(f"{file.filename}: has no dataset {place} ({name}); it has {', '.join(_some(file))}")
    return found


def _dataset(file: h5py.File, place: str, name: str, keep: NDArray[np.bool_] | None) -> NDArray:
    found = _found(file, place, name)
    if keep is None:
        return found[...]
    if found.shape[:1] != keep.shape:
        raise DatasetError(
            f"{file.filename}: {place} ({name}) has shape {found.shape}, --where chooses among {len(keep)} frames"
        )
    return found[np.flatnonzero(keep)]


def _some(file: h5py.File, most: int = 12) -> list[str]:
    """Names of the file's first datasets, for a message."""
    names: list[str] = []

    def take(name: str, item: h5py.HLObject) -> bool | None:
        if isinstance(item, h5py.Dataset):
            names.append(f"/{name}")
        return True if len(names) > most else None

    file.visititems(take)
    return [*names[:most], "..."] if len(names) > most else names or ["none"]


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
