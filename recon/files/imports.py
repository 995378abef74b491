"""Other people's data: CXI, PtyLab's HDF5 and npz, as a `Ptychogram`. Files are opened for reading only."""

from __future__ import annotations

import bz2
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Geometry, Ptychogram

from . import schema
from .mapping import FieldMap
from .read import open_hdf5, open_run
from .skeleton import LIGHT_SPEED, PLANCK

NPZ_FRAMES = ("frames", "ptychogram", "data", "reciprocal", "diffraction", "diff3d")
NPZ_POSITIONS_M = ("positions_m", "positions", "position", "encoder", "translation_m")
NPZ_POSITIONS_PX = ("scan", "positions_px")


@dataclass(frozen=True)
class Overrides:
    """What a foreign file lacks or has wrong; None takes the file's.

    Attributes:
        wavelength_m, distance_m, pixel_size_m: geometry.
        focus_to_sample_m: cone beam: distance from focus to sample; the geometry becomes its parallel equivalent.
        electrons_per_count: conversion of the file's counts.
        read_noise_e: standard deviation of the noise without photons, electrons; 0 for a counting detector.
        entry: which entry of a file that has several.
        fields: where an HDF5 file of no known kind has what is needed.
    """

    wavelength_m: float | None = None
    distance_m: float | None = None
    pixel_size_m: float | None = None
    focus_to_sample_m: float | None = None
    electrons_per_count: float = 1.0
    read_noise_e: float = 0.0
    entry: int = 1
    fields: FieldMap | None = None


@dataclass(frozen=True)
class _Found:
    """Raw content of a foreign file; None where it says nothing."""

    frames: NDArray
    positions_m: NDArray | None
    positions_px: NDArray | None
    wavelength_m: float | None
    distance_m: float | None
    pixel_size_m: float | None
    good: NDArray[np.bool_] | None = None
    dark: NDArray | None = None
    exposures_s: NDArray | None = None


def read_any(path: Path | str, overrides: Overrides | None = None) -> Ptychogram:
    """A run of this program, CXI, PtyLab HDF5, or npz (also bz2-compressed), told apart by content.

    CXI: translation (N, 3) in metres, (x, y, z); PtyLab: encoder (N, 2) in metres, (y, x); npz: frames under one of
    `NPZ_FRAMES`, positions (N, 2) as (row, column) in metres or, under "scan", in pixels.

    Raises:
        DatasetError: unreadable, of no known kind, inconsistent, or lacking something that `overrides` may supply.
    """
    path = Path(path)
    overrides = overrides or Overrides()
    if path.name.endswith((".npz", ".npz.bz2")):
        return _ptychogram(path, _read_npz(path), overrides)
    with open_hdf5(path) as file:
        if overrides.fields is not None or file.attrs.get(schema.ATTR_CREATOR) != schema.CREATOR:
            return _ptychogram(path, _read_hdf5(path, file, overrides), overrides)
    with open_run(path) as run:
        return run.ptychogram(overrides.entry)


def _read_hdf5(path: Path, file: h5py.File, overrides: Overrides) -> _Found:
    try:
        if overrides.fields is not None:
            return _read_mapped(file, overrides.fields)
        if schema.PTYLAB_FRAMES in file and schema.PTYLAB_ENCODER in file:
            return _read_ptylab(file)
        entry = file.get(schema.entry_name(overrides.entry))
        if isinstance(entry, h5py.Group) and f"{schema.DETECTOR}/{schema.DATA}" in entry:
            return _read_cxi(path, entry)
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: its arrays cannot be read ({reason}); the file is damaged or unusual") from None
    raise DatasetError(
        f"{path}: is HDF5 but holds neither {schema.entry_name(overrides.entry)}/{schema.DETECTOR}/{schema.DATA} (CXI) "
        f"nor {schema.PTYLAB_FRAMES} and {schema.PTYLAB_ENCODER} (PtyLab); say where things are: "
        "ptychoscope import --map frames=/... --map positions=/..."
    )


def _read_mapped(file: h5py.File, fields: FieldMap) -> _Found:
    keep = fields.kept(file)
    frames = fields.array(file, "frames", keep)
    assert frames is not None
    metres = fields.unit.metres
    positions = fields.positions(file, keep)
    mask, exposures = fields.array(file, "mask"), fields.array(file, "exposures", keep)
    return _Found(
        frames=frames,
        positions_m=None if metres is None else positions * metres,
        positions_px=positions if metres is None else None,
        wavelength_m=fields.wavelength(file),
        distance_m=fields.number(file, "distance"),
        pixel_size_m=fields.number(file, "pixel_size"),
        good=None if mask is None else mask == fields.good,
        dark=_mean_dark(fields.array(file, "background")),
        exposures_s=None if exposures is None else exposures.ravel(),
    )


def _mean_dark(dark: NDArray | None) -> NDArray | None:
    """One dark frame (H, W) from one or a stack of them, without axes of length one."""
    if dark is None:
        return None
    dark = np.asarray(dark, np.float64)
    return dark.reshape(-1, *dark.shape[-2:]).mean(axis=0) if dark.ndim >= 2 else dark


def _read_cxi(path: Path, entry: h5py.Group) -> _Found:
    detector = entry[schema.DETECTOR]
    pixel = _scalar(detector, schema.X_PIXEL)
    pixel_y = _scalar(detector, schema.Y_PIXEL)
    if pixel is not None and pixel_y is not None and not np.isclose(pixel, pixel_y, rtol=1e-3, atol=0.0):
        raise DatasetError(f"{path}: pixels of {pixel_y:.6g} x {pixel:.6g} m are not square, which is not supported")
    energy = _scalar(entry, f"{schema.BEAM}/{schema.ENERGY}") or _scalar(entry, f"{schema.SOURCE}/{schema.ENERGY}")
    translation = entry.get(f"{schema.GEOMETRY}/{schema.TRANSLATION}")
    if translation is None:
        translation = entry.get(f"{schema.DATA_LINKS}/{schema.TRANSLATION}")
    mask = detector.get(schema.MASK)
    dark = detector.get(schema.DATA_DARK)
    times = detector.get(schema.COUNT_TIME)
    frames = detector[schema.DATA][...]
    return _Found(
        frames=frames,
        positions_m=None if translation is None else translation[...][:, 1::-1],
        positions_px=None,
        wavelength_m=None if not energy else PLANCK * LIGHT_SPEED / energy,
        distance_m=_scalar(detector, schema.DISTANCE),
        pixel_size_m=pixel,
        good=None if mask is None else mask[...] == 0,
        dark=None if dark is None else dark[...],
        exposures_s=None if times is None or times.shape != (len(frames),) else times[...],
    )


def _read_ptylab(file: h5py.File) -> _Found:
    frames, background = file[schema.PTYLAB_FRAMES][...], file.get(schema.PTYLAB_BACKGROUND)
    dark = None if background is None else _mean_dark(background[...])
    orientation = int(_scalar(file, schema.PTYLAB_ORIENTATION) or 0)
    if orientation not in range(8):
        raise ValueError(f"orientation {orientation} is none of 0 .. 7")
    return _Found(
        frames=_oriented(frames, orientation),
        positions_m=file[schema.PTYLAB_ENCODER][...],
        positions_px=None,
        wavelength_m=_scalar(file, schema.PTYLAB_WAVELENGTH),
        distance_m=_scalar(file, schema.PTYLAB_DISTANCE),
        pixel_size_m=_scalar(file, schema.PTYLAB_PIXEL),
        dark=dark if dark is None or dark.ndim != 2 else _oriented(dark, orientation),
    )


def _oriented(frames: NDArray, orientation: int) -> NDArray:
    """Frames (..., H, W) as PtyLab and ptypy turn them: bit 2 transposes, then bit 0 flips columns and bit 1 rows."""
    if orientation & 4:
        frames = np.swapaxes(frames, -1, -2)
    if orientation & 1:
        frames = frames[..., ::-1]
    if orientation & 2:
        frames = frames[..., ::-1, :]
    return np.ascontiguousarray(frames)


def _read_npz(path: Path) -> _Found:
    if not path.is_file():
        raise DatasetError(f"{path}: does not exist or is not a file; check the name")
    try:
        raw = path.read_bytes()
        content = io.BytesIO(bz2.decompress(raw) if path.suffix == ".bz2" else raw)
        with np.load(content, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: not a readable npz file ({reason}); it is truncated or something else") from None

    def first(names: tuple[str, ...]) -> NDArray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    def points(names: tuple[str, ...]) -> NDArray | None:
        # tike keeps several views in front: (1, N, 2).
        value = first(names)
        return value[0] if value is not None and value.ndim == 3 and len(value) == 1 else value

    def number(*names: str) -> float | None:
        value = first(names)
        return None if value is None or value.size != 1 else float(value.ravel()[0])

    frames = first(NPZ_FRAMES)
    if frames is None:
        raise DatasetError(f"{path}: no frames; expected an array named {', '.join(NPZ_FRAMES)}, has {sorted(arrays)}")
    if frames.ndim == 4 and len(frames) == 1:
        frames = frames[0]
    return _Found(
        frames=frames,
        positions_m=points(NPZ_POSITIONS_M),
        positions_px=points(NPZ_POSITIONS_PX),
        wavelength_m=number("wavelength_m", "wavelength"),
        distance_m=number("distance_m", "distance", "zo"),
        pixel_size_m=number("pixel_size_m", "pixel_size", "dxd"),
        good=None if (mask := first(("mask",))) is None else mask == 0,
        exposures_s=first(("exposures_s",)),
    )


def _ptychogram(path: Path, found: _Found, overrides: Overrides) -> Ptychogram:
    frames = found.frames
    if frames.ndim != 3 or frames.dtype.kind not in "uif":
        raise DatasetError(
            f"{path}: frames are {frames.dtype} of shape {frames.shape}, expected real (N, rows, columns)"
        )
    if not np.isfinite(frames).all():
        raise DatasetError(f"{path}: frames contain values that are not finite; mask or remove them")

    def needed(name: str, of_file: float | None) -> float:
        value = getattr(overrides, name)
        value = of_file if value is None else value
        if value is None:
            option = name.removesuffix("_m").replace("_", "-")
            raise DatasetError(f"{path}: does not say {name}; give it (calibrate --{option})")
        return float(value)

    shape = (int(frames.shape[1]), int(frames.shape[2]))
    geometry = Geometry(
        needed("wavelength_m", found.wavelength_m),
        needed("distance_m", found.distance_m),
        needed("pixel_size_m", found.pixel_size_m),
        shape,
    )
    if overrides.focus_to_sample_m is not None:
        geometry = geometry.fresnel_scaled(overrides.focus_to_sample_m)
    if found.positions_m is not None:
        positions = np.asarray(found.positions_m, np.float64)
    elif found.positions_px is not None:
        positions = np.asarray(found.positions_px, np.float64) * geometry.pixel_size_m
    else:
        raise DatasetError(f"{path}: holds no positions; without them nothing can be reconstructed")
    if positions.shape != (len(frames), 2):
        raise DatasetError(f"{path}: {len(frames)} frames but positions of shape {positions.shape}; they do not belong")
    gain = overrides.electrons_per_count
    dark = 0.0 if found.dark is None or found.dark.shape != shape else found.dark.astype(np.float32)
    return Ptychogram(
        frames=((frames.astype(np.float32) - dark) * np.float32(gain)).astype(np.float32),
        positions_m=np.ascontiguousarray(positions),
        exposures_s=np.ones(len(frames)) if found.exposures_s is None else found.exposures_s.astype(np.float64),
        geometry=geometry,
        dark_variance=np.full(shape, overrides.read_noise_e**2, np.float32),
        mask=np.ones(shape, bool) if found.good is None or found.good.shape != shape else found.good,
        name=path.name,
    )


def _scalar(group: h5py.Group, name: str) -> float | None:
    value = group.get(name)
    if value is None or value.size != 1:
        return None
    return float(np.ravel(value[()])[0])
