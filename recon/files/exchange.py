"""Writing a `Ptychogram` for other programs: CXI (cdtools, ptychodus, ptypy), PtyLab's HDF5, npz.

Frames are in electrons, the dark subtracted, so that nobody has to know this camera. Positions are those of the
illumination on the object in metres and count up with rows and columns. A file appears when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Ptychogram

from . import schema
from .disk import require_room
from .skeleton import LIGHT_SPEED, PLANCK, put, put_text

OVERHEAD = 4 << 20
"""Bytes of a file beside its large arrays, with some to spare."""
CXI_INVALID = 1
"""The mask's bit for a pixel that must not be used (CXI 1.6, Table 7)."""


class ExchangeFormat(StrEnum):
    """Formats that other programs open."""

    CXI = "cxi"
    PTYLAB = "ptylab"
    NPZ = "npz"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings by which those programs know it."""
        return {"cxi": (".cxi", ".h5", ".hdf5"), "ptylab": (".hdf5", ".h5"), "npz": (".npz",)}[self.value]


@dataclass(frozen=True)
class Solution:
    """What a calibration adds to an export.

    Attributes:
        probe: (K, K) complex64, square root of electrons a pixel and second.
        object: (M, M) complex64 on the geometry's object pitch.
        illumination_m: diameter of the illumination, where it is known.
    """

    probe: NDArray[np.complex64] | None = None
    object: NDArray[np.complex64] | None = None
    illumination_m: float | None = None


def export(data: Ptychogram, path: Path, form: ExchangeFormat, solution: Solution | None = None) -> None:
    """Write `data` to a new file.

    Raises:
        DatasetError: the file exists, its name does not end as the format's readers expect, or the format cannot hold
            the data.
        OSError: the disk is full or the folder cannot be written.
    """
    solution = solution or Solution()
    if path.suffix not in form.suffixes:
        raise DatasetError(f"{path}: a file for {form.value} readers must end in {' or '.join(form.suffixes)}")
    if path.exists():
        raise DatasetError(f"{path}: exists already; choose another name")
    write: Callable[[Path, Ptychogram, Solution], None] = {
        ExchangeFormat.CXI: _write_cxi,
        ExchangeFormat.PTYLAB: _write_ptylab,
        ExchangeFormat.NPZ: _write_npz,
    }[form]
    part = path.with_name(path.name + ".part")
    arrays = (data.frames, data.dark_variance, data.mask, data.empty, solution.probe, solution.object)
    require_room(part, OVERHEAD + sum(array.nbytes for array in arrays if array is not None))
    try:
        write(part, data, solution)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def bad_pixels(data: Ptychogram) -> NDArray[np.bool_]:
    """(H, W): pixels that are bad in any frame, clipped ones included; these formats have one mask for all frames."""
    return ~data.mask if data.saturated is None else ~data.mask | data.saturated.any(axis=0)


def _write_cxi(path: Path, data: Ptychogram, solution: Solution) -> None:
    geometry = data.geometry
    count = len(data)
    with h5py.File(path, "w") as file:
        put(file, schema.CXI_VERSION_NAME, np.int64(schema.CXI_VERSION))
        put(file, "number_of_entries", np.int64(1))
        entry = file.create_group(schema.entry_name(1))
        entry.attrs[schema.ATTR_CLASS] = "NXentry"
        put_text(entry, schema.NAME, data.name)
        put_text(entry, schema.TITLE, data.name)
        put_text(entry, schema.DEFINITION, schema.DEFINITION_VALUE)
        energy = PLANCK * LIGHT_SPEED / geometry.wavelength_m
        entry.create_group(schema.INSTRUMENT).attrs[schema.ATTR_CLASS] = "NXinstrument"
        source = entry.create_group(schema.SOURCE)
        put(source, schema.ENERGY, energy, "J")
        put(source, "wavelength", geometry.wavelength_m, "m")
        beam = entry.create_group(schema.BEAM)
        put(beam, schema.BEAM_ENERGY, energy, "J")
        put(beam, schema.BEAM_WAVELENGTH, geometry.wavelength_m, "m")
        if solution.illumination_m is not None:
            put(beam, schema.EXTENT, solution.illumination_m, "m")
        detector = entry.create_group(schema.DETECTOR)
        if geometry.far_field:
            detector.attrs[schema.ATTR_FAR_FIELD] = True
        frames = detector.create_dataset(schema.DATA, data=data.frames, chunks=(1, *geometry.shape))
        frames.attrs[schema.ATTR_UNITS] = "electrons"
        # cdtools takes the axes from here; fixed-length bytes are what it expects.
        frames.attrs["axes"] = np.bytes_("translation:y:x")
        put(detector, schema.MASK, bad_pixels(data).astype(np.uint32) * CXI_INVALID)
        put(detector, schema.DISTANCE, geometry.distance_m, "m")
        put(detector, schema.X_PIXEL, geometry.pixel_size_m, "m")
        put(detector, schema.Y_PIXEL, geometry.pixel_size_m, "m")
        put(detector, schema.COUNT_TIME, data.exposures_s, "s")
        put(detector, schema.DARK_VARIANCE, data.dark_variance, "electrons^2")
        put(detector, schema.POSITION_INDEX, data.indices)
        translation = np.zeros((count, 3))
        translation[:, 0], translation[:, 1] = data.positions_m[:, 1], data.positions_m[:, 0]
        put(entry.create_group(schema.GEOMETRY), schema.TRANSLATION, translation, "m")
        links = entry.create_group(schema.DATA_LINKS)
        links.attrs[schema.ATTR_CLASS] = "NXdata"
        links.attrs["signal"] = schema.DATA
        links[schema.DATA] = h5py.SoftLink(f"{entry.name}/{schema.DETECTOR}/{schema.DATA}")
        links[schema.TRANSLATION] = h5py.SoftLink(f"{entry.name}/{schema.GEOMETRY}/{schema.TRANSLATION}")
        for name, title, field in (
            (schema.PROBE_IMAGE, "probe", solution.probe),
            (schema.OBJECT_IMAGE, "object", solution.object),
        ):
            if field is not None:
                image = entry.create_group(name)
                put_text(image, schema.TITLE, title)
                put(image, schema.DATA, field[None]).attrs["axes"] = "mode:y:x" if title == "probe" else "layer:y:x"
                put(image, "image_size", np.array([field.shape[1], field.shape[0], 0]) * geometry.object_pixel_m, "m")
        if solution.probe is not None:
            source["illumination"] = h5py.SoftLink(f"{entry.name}/{schema.PROBE_IMAGE}/{schema.DATA}")


def _write_ptylab(path: Path, data: Ptychogram, solution: Solution) -> None:
    rows, columns = data.geometry.shape
    if rows != columns:
        raise DatasetError(f"{data.name}: frames of {rows} x {columns} pixels; PtyLab takes square ones, export as cxi")
    with h5py.File(path, "w") as file:
        # PtyLab has no mask: a bad pixel that reads nothing does the least harm.
        put(file, schema.PTYLAB_FRAMES, np.where(bad_pixels(data), np.float32(0), data.frames), "electrons")
        put(file, schema.PTYLAB_ENCODER, data.positions_m, "m")
        put(file, schema.PTYLAB_WAVELENGTH, data.geometry.wavelength_m, "m")
        put(file, schema.PTYLAB_PIXEL, data.geometry.pixel_size_m, "m")
        put(file, schema.PTYLAB_DISTANCE, data.geometry.distance_m, "m")
        put(file, schema.PTYLAB_ORIENTATION, np.int64(0))
        if solution.illumination_m is not None:
            put(file, schema.PTYLAB_PUPIL, solution.illumination_m, "m")
        if data.empty is not None:
            put(file, schema.PTYLAB_EMPTY, data.empty, "electrons")


def _write_npz(path: Path, data: Ptychogram, solution: Solution) -> None:
    arrays: dict[str, NDArray] = {
        "frames": data.frames,
        "positions_m": data.positions_m,
        "exposures_s": data.exposures_s,
        "mask": bad_pixels(data).astype(np.uint8),
        "dark_variance": data.dark_variance,
        "wavelength_m": np.array(data.geometry.wavelength_m),
        "distance_m": np.array(data.geometry.distance_m),
        "pixel_size_m": np.array(data.geometry.pixel_size_m),
        "far_field": np.array(data.geometry.far_field),
    }
    arrays |= {k: v for k, v in (("probe", solution.probe), ("object", solution.object)) if v is not None}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
