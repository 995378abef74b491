"""Other people's data: CXI, PtyLab's HDF5 and npz, as a `Ptychogram`. Files are opened for reading only."""

from __future__ import annotations

import bz2
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Geometry, Ptychogram, turned
from recon.streaming import ArrayFrames, Electrons, RawFrames, Streamed

from . import schema
from .arrays import UNREADABLE, opened_archive, why_unreadable
from .frames import CornerFrames, Hdf5Frames, mapped_member
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
        far_field: the frames are Fraunhofer patterns; positions in pixels then count the object's.
        zero_in_corner: far-field frames have zero frequency in the corner, as a Fourier transform leaves it, instead of
            the middle.
        electrons_per_count: conversion of the file's counts.
        read_noise_e: standard deviation of the noise without photons, electrons; 0 for a counting detector.
        entry: which entry of a file that has several.
        fields: where an HDF5 file of no known kind has what is needed.
    """

    wavelength_m: float | None = None
    distance_m: float | None = None
    pixel_size_m: float | None = None
    focus_to_sample_m: float | None = None
    far_field: bool = False
    zero_in_corner: bool = False
    electrons_per_count: float = 1.0
    read_noise_e: float = 0.0
    entry: int = 1
    fields: FieldMap | None = None


@dataclass(frozen=True)
class _Found:
    """Raw content of a foreign file; None where it says nothing."""

    frames: RawFrames
    positions_m: NDArray | None
    positions_px: NDArray | None
    wavelength_m: float | None
    distance_m: float | None
    pixel_size_m: float | None
    good: NDArray[np.bool_] | None = None
    dark: NDArray | None = None
    exposures_s: NDArray | None = None
    chosen: NDArray[np.int64] | None = None
    """Numbers of the frames that count; None for all."""
    far_field: bool = False


def read_any(path: Path | str, overrides: Overrides | None = None) -> Ptychogram:
    """A run of this program, CXI, PtyLab HDF5, or npz (also bz2-compressed), told apart by content.

    CXI: translation (N, 3) in metres, (x, y, z); PtyLab: encoder (N, 2) in metres, (y, x); npz: frames under one of
    `NPZ_FRAMES`, positions (N, 2) as (row, column) in metres or, under "scan", in pixels.

    Raises:
        DatasetError: unreadable, of no known kind, inconsistent, or lacking something that `overrides` may supply.
    """
    with open_any(path, overrides) as data:
        return data.load()


def open_any(path: Path | str, overrides: Overrides | None = None) -> Streamed:
    """The same with its frames left in the file, to be closed by the caller.

    Frames of HDF5 files and of npz archives as `numpy.savez` writes them stay there; a compressed archive is read
    whole, because it has no other way.

    Raises:
        DatasetError: as `read_any`, save for values that are not finite, which reading shows.
    """
    path = Path(path)
    overrides = overrides or Overrides()
    if overrides.fields is not None and path.name.endswith((".npz", ".npz.bz2")):
        raise DatasetError(f"{path}: a mapping says where things are in HDF5, npz has names; leave --map out")
    if path.name.endswith((".npz", ".npz.bz2")):
        return _scan(path, _read_npz(path), overrides)
    file = open_hdf5(path)
    try:
        if overrides.fields is not None or file.attrs.get(schema.ATTR_CREATOR) != schema.CREATOR:
            return _scan(path, _read_hdf5(path, file, overrides), overrides)
    except BaseException:
        file.close()
        raise
    file.close()
    if overrides != Overrides(entry=overrides.entry):
        raise DatasetError(f"{path}: a run knows its own geometry and noise; leave --wavelength and the like out")
    run = open_run(path)
    try:
        return run.streamed(overrides.entry)
    except BaseException:
        run.close()
        raise


def read_probe(path: Path | str) -> NDArray[np.complex64]:
    """(m, K, K) probe modes of an npz file (`probe`) or a CXI file (the first entry's illumination, or its `image_1`).

    Raises:
        DatasetError: unreadable, or without a probe.
    """
    path = Path(path)
    if path.name.endswith((".npz", ".npz.bz2")):
        found = _npz_arrays(path).get("probe")
    else:
        with open_hdf5(path) as file:
            entry = file.get(schema.entry_name(1), {})
            places = (f"{schema.SOURCE}/illumination", f"{schema.PROBE_IMAGE}/{schema.DATA}")
            found = next((entry[place][...] for place in places if place in entry), None)
    if found is None:
        raise DatasetError(f"{path}: holds no probe; expected `probe` in npz, source_1/illumination in CXI")
    if found.ndim < 2 or found.dtype.kind not in "cf" or found.shape[-1] != found.shape[-2]:
        raise DatasetError(f"{path}: its probe is {found.dtype} {found.shape}, expected square modes (m, K, K)")
    return found.reshape(-1, *found.shape[-2:]).astype(np.complex64)


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
    dataset = fields.dataset(file, "frames")
    if keep is not None and dataset.shape[:1] != keep.shape:
        raise DatasetError(
            f"{file.filename}: frames have shape {dataset.shape}, --where chooses among {len(keep)} frames"
        )
    metres = fields.unit.metres
    positions = fields.positions(file, keep)
    mask, exposures = fields.array(file, "mask"), fields.array(file, "exposures", keep)
    return _Found(
        frames=_stack(file, dataset),
        chosen=None if keep is None else np.flatnonzero(keep),
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
    frames = detector[schema.DATA]
    return _Found(
        frames=_stack(entry.file, frames),
        positions_m=None if translation is None else translation[...][:, 1::-1],
        positions_px=None,
        wavelength_m=None if not energy else PLANCK * LIGHT_SPEED / energy,
        distance_m=_scalar(detector, schema.DISTANCE),
        pixel_size_m=pixel,
        good=None if mask is None else mask[...] == 0,
        dark=None if dark is None else dark[...],
        exposures_s=None if times is None or times.shape != (len(frames),) else times[...],
        far_field=bool(detector.attrs.get(schema.ATTR_FAR_FIELD, False)),
    )


def _read_ptylab(file: h5py.File) -> _Found:
    background = file.get(schema.PTYLAB_BACKGROUND)
    dark = None if background is None else _mean_dark(background[...])
    orientation = int(_scalar(file, schema.PTYLAB_ORIENTATION) or 0)
    if orientation not in range(8):
        raise ValueError(f"orientation {orientation} is none of 0 .. 7")
    return _Found(
        frames=_stack(file, file[schema.PTYLAB_FRAMES], orientation),
        positions_m=file[schema.PTYLAB_ENCODER][...],
        positions_px=None,
        wavelength_m=_scalar(file, schema.PTYLAB_WAVELENGTH),
        distance_m=_scalar(file, schema.PTYLAB_DISTANCE),
        pixel_size_m=_scalar(file, schema.PTYLAB_PIXEL),
        dark=dark if dark is None or dark.ndim != 2 else turned(dark, orientation),
    )


def _stack(file: h5py.File, dataset: h5py.Dataset, orientation: int = 0) -> Hdf5Frames:
    _check_stack(Path(file.filename), dataset.dtype, dataset.shape)
    return Hdf5Frames(dataset, orientation)


def _check_stack(path: Path, kind: np.dtype, shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or kind.kind not in "uif":
        raise DatasetError(f"{path}: frames are {kind} of shape {shape}, expected real (N, rows, columns)")


def _npz_arrays(path: Path) -> dict[str, Any]:
    """What is in an npz file; frames that it holds uncompressed are mapped, not read."""
    if not path.is_file():
        raise DatasetError(f"{path}: does not exist or is not a file; check the name")
    try:
        packed = path.suffix == ".bz2"
        with (
            io.BytesIO(bz2.decompress(path.read_bytes())) if packed else path.open("rb") as file,
            opened_archive(file) as archive,
        ):
            mapped = next((name for name in NPZ_FRAMES if name in archive.files and not packed), None)
            stack = None if mapped is None else mapped_member(path, mapped)
            return {name: stack if name == mapped and stack is not None else archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise DatasetError(
            f"{path}: not a readable npz file ({why_unreadable(error)}); it is truncated or something else"
        ) from None


def _read_npz(path: Path) -> _Found:
    arrays = _npz_arrays(path)

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
    _check_stack(path, frames.dtype, frames.shape)
    return _Found(
        frames=ArrayFrames(frames),
        positions_m=points(NPZ_POSITIONS_M),
        positions_px=points(NPZ_POSITIONS_PX),
        wavelength_m=number("wavelength_m", "wavelength"),
        distance_m=number("distance_m", "distance", "zo"),
        pixel_size_m=number("pixel_size_m", "pixel_size", "dxd"),
        good=None if (mask := first(("mask",))) is None else mask == 0,
        exposures_s=first(("exposures_s",)),
        far_field=bool(number("far_field") or False),
    )


def _scan(path: Path, found: _Found, overrides: Overrides) -> Streamed:
    def needed(name: str, of_file: float | None) -> float:
        value = getattr(overrides, name)
        value = of_file if value is None else value
        if value is None:
            option = name.removesuffix("_m").replace("_", "-")
            raise DatasetError(f"{path}: does not say {name}; give it (calibrate --{option})")
        return float(value)

    chosen = np.arange(found.frames.shape[0]) if found.chosen is None else found.chosen
    count, shape = len(chosen), found.frames.shape[1:]
    numbers = {name: needed(name, getattr(found, name)) for name in ("wavelength_m", "distance_m", "pixel_size_m")}
    try:
        geometry = Geometry(**numbers, shape=(shape[0], shape[1]), far_field=overrides.far_field or found.far_field)
        if overrides.zero_in_corner and not geometry.far_field:
            raise DatasetError("zero frequency in the corner is a matter of far-field frames; add --far-field")
        if overrides.focus_to_sample_m is not None:
            geometry = geometry.fresnel_scaled(overrides.focus_to_sample_m)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    if found.positions_m is not None:
        positions = np.asarray(found.positions_m, np.float64)
    elif found.positions_px is not None:
        positions = np.asarray(found.positions_px, np.float64) * geometry.object_pixel_m
    else:
        raise DatasetError(f"{path}: holds no positions; without them nothing can be reconstructed")
    if positions.shape != (count, 2):
        raise DatasetError(f"{path}: {count} frames but positions of shape {positions.shape}; they do not belong")
    for name, value in (("mask", found.good), ("dark frame", found.dark)):
        if value is not None and value.shape != shape:
            raise DatasetError(f"{path}: its {name} has shape {value.shape}, its frames {shape}; they do not belong")

    def placed(values: NDArray) -> NDArray:
        return np.fft.fftshift(values) if overrides.zero_in_corner else values

    return Streamed(
        source=CornerFrames(found.frames) if overrides.zero_in_corner else found.frames,
        electrons=Electrons(
            overrides.electrons_per_count, () if found.dark is None else (placed(found.dark.astype(np.float64)),)
        ),
        chosen=chosen,
        positions_m=np.ascontiguousarray(positions),
        exposures_s=np.ones(count) if found.exposures_s is None else found.exposures_s.astype(np.float64),
        geometry=geometry,
        dark_variance=np.full(shape, overrides.read_noise_e**2, np.float32),
        mask=np.ones(shape, bool) if found.good is None else placed(found.good),
        indices=np.arange(count),
        name=path.name,
    )


def _scalar(group: h5py.Group, name: str) -> float | None:
    value = group.get(name)
    if value is None or value.size != 1:
        return None
    return float(np.ravel(value[()])[0])
