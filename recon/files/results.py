"""Results inside a run: the calibration CXI style, and named arrays per exposure.

The measured data stay untouched, however storing ends: `recon.files.journal`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError
from recon.errorbars import Uncertainty
from recon.files.journal import changing

from . import schema
from .read import open_hdf5, open_run
from .skeleton import put, put_text


@dataclass(frozen=True)
class StoredCalibration:
    """A calibration as it lies in a run.

    Attributes:
        probe: (K, K) complex64, square root of electrons per pixel and second, on `probe_pixel_m`.
        probe_pixel_m: pitch.
        object: (M, M) complex64 transmission on `object_pixel_m`; for looking at, never for latent methods.
        object_pixel_m: pitch.
        distance_m: object to camera.
        positions_m: (N, 2) corrected (y, x) of each calibration frame in the file's order.
        loss: (epochs,) history.
        settings: how it was made.
        software: names and versions.
        uncertainty: standard deviations of distance, positions and probe, or None where nobody asked.
        visits: (N,) from which visit to its point each frame is (`RunFile.visits`); None in files of older versions.
    """

    probe: NDArray[np.complex64]
    probe_pixel_m: float
    object: NDArray[np.complex64]
    object_pixel_m: float
    distance_m: float
    positions_m: NDArray[np.float64]
    loss: NDArray[np.float64]
    settings: Mapping[str, Any]
    software: Mapping[str, str]
    uncertainty: Uncertainty | None = None
    visits: NDArray[np.int64] | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before its time: the best that there was by then."""
        return bool(self.settings.get("interrupted", False))


def store_calibration(path: Path | str, calibration: StoredCalibration) -> None:
    """Write a calibration into a run, in place of an earlier one.

    Layout: `entry_1/image_1` (probe), `entry_1/image_2` (object), `entry_1/calibration`, and a link from the source.

    Raises:
        DatasetError: not a run of this program, or open elsewhere.
        OSError: the disk is full; the run is as it was.
    """
    path = Path(path)
    with _results(path) as file:
        entry = file[schema.entry_name(1)]
        probe = _replacing(path, entry, schema.PROBE_IMAGE)
        _image(probe, "probe", calibration.probe, calibration.probe_pixel_m)
        image = _replacing(path, entry, schema.OBJECT_IMAGE)
        _image(image, "object", calibration.object, calibration.object_pixel_m)
        group = _replacing(path, entry, schema.CALIBRATION)
        put(group, schema.RESULT_DISTANCE, float(calibration.distance_m), "m")
        put(group, schema.RESULT_POSITIONS, np.asarray(calibration.positions_m, np.float64), "m")
        put(group, schema.RESULT_LOSS, np.asarray(calibration.loss, np.float64))
        put_text(group, schema.RESULT_SETTINGS, json.dumps(dict(calibration.settings)))
        put_text(group, schema.RESULT_SOFTWARE, json.dumps(dict(calibration.software)))
        if calibration.visits is not None:
            put(group, schema.RESULT_VISITS, np.asarray(calibration.visits, np.int64))
        if calibration.uncertainty is not None:
            _put_uncertainty(group.create_group(schema.UNCERTAINTY), calibration.uncertainty)
        source = entry[schema.SOURCE]
        if "illumination" not in source:
            source["illumination"] = h5py.SoftLink(f"{entry.name}/{schema.PROBE_IMAGE}/{schema.DATA}")


def load_calibration(path: Path | str) -> StoredCalibration | None:
    """The calibration in a run, or None. Raises `DatasetError` as `open_run`."""
    open_run(path).close()
    with open_hdf5(Path(path)) as file:
        entry = file[schema.entry_name(1)]
        if schema.CALIBRATION not in entry:
            return None
        probe, image, group = entry[schema.PROBE_IMAGE], entry[schema.OBJECT_IMAGE], entry[schema.CALIBRATION]
        return StoredCalibration(
            probe=probe[schema.DATA][...],
            probe_pixel_m=float(probe[schema.IMAGE_PIXEL][()]),
            object=image[schema.DATA][...],
            object_pixel_m=float(image[schema.IMAGE_PIXEL][()]),
            distance_m=float(group[schema.RESULT_DISTANCE][()]),
            positions_m=group[schema.RESULT_POSITIONS][...],
            loss=group[schema.RESULT_LOSS][...],
            settings=json.loads(bytes(group[schema.RESULT_SETTINGS][()])),
            software=json.loads(bytes(group[schema.RESULT_SOFTWARE][()])),
            uncertainty=_uncertainty(group[schema.UNCERTAINTY]) if schema.UNCERTAINTY in group else None,
            visits=group[schema.RESULT_VISITS][...] if schema.RESULT_VISITS in group else None,
        )


def _put_uncertainty(group: h5py.Group, found: Uncertainty) -> None:
    put_text(group, schema.NAME, "standard deviations")
    put(group, schema.DISTANCE_SIGMA, found.distance_sigma_m, "m")
    put(group, schema.DISTANCE_STEP, found.distance_step_m, "m")
    put(group, schema.AFFINE_SIGMA, found.affine_sigma)
    put(group, schema.POSITION_SIGMA, found.position_sigma_m, "m")
    put(group, schema.PROBE_MODES, found.probe_modes)
    put(group, schema.PROBE_SIGMA, found.probe_sigma)
    put(group, schema.PROBE_MODES_PIXEL, found.probe_pixel_m, "m")
    put(group, schema.PROBE_RELATIVE, found.probe_relative)
    put(group, schema.MISFIT, found.misfit)
    put(group, schema.FITTED, found.fitted)
    put(group, schema.BINNING, np.int64(found.binning))
    put(group, schema.PRODUCTS, np.int64(found.products))


def _uncertainty(group: h5py.Group) -> Uncertainty:
    return Uncertainty(
        distance_sigma_m=float(group[schema.DISTANCE_SIGMA][()]),
        affine_sigma=group[schema.AFFINE_SIGMA][...],
        position_sigma_m=group[schema.POSITION_SIGMA][...],
        probe_modes=group[schema.PROBE_MODES][...],
        probe_sigma=group[schema.PROBE_SIGMA][...],
        probe_pixel_m=float(group[schema.PROBE_MODES_PIXEL][()]),
        probe_relative=float(group[schema.PROBE_RELATIVE][()]),
        distance_step_m=float(group[schema.DISTANCE_STEP][()]),
        misfit=float(group[schema.MISFIT][()]),
        fitted=float(group[schema.FITTED][()]),
        binning=int(group[schema.BINNING][()]),
        products=int(group[schema.PRODUCTS][()]),
    )


def store_result(
    path: Path | str,
    entry: int,
    arrays: Mapping[str, NDArray],
    settings: Mapping[str, Any],
    name: str = schema.POSTERIOR,
) -> None:
    """Write named arrays (images, latents, covariances) with their settings into `entry_<entry>/<name>`.

    Replaces an earlier result of that name.

    Raises:
        DatasetError: not a run of this program, no such entry, a name that belongs to measured data, or open elsewhere.
        OSError: the disk is full; the run is as it was.
    """
    path = Path(path)
    with _results(path) as file:
        group_name = schema.entry_name(entry)
        if group_name not in file:
            raise DatasetError(f"{path}: no entry {entry} to store {name!r} in")
        group = _replacing(path, file[group_name], name)
        for key, array in arrays.items():
            put(group, key, np.asarray(array))
        put_text(group, schema.RESULT_SETTINGS, json.dumps(dict(settings)))


def load_result(
    path: Path | str, entry: int, name: str = schema.POSTERIOR
) -> tuple[dict[str, NDArray], dict[str, Any]] | None:
    """The arrays and settings that `store_result` wrote, or None. Raises `DatasetError` as `open_run`."""
    open_run(path).close()
    with open_hdf5(Path(path)) as file:
        group = file.get(f"{schema.entry_name(entry)}/{name}")
        if group is None:
            return None
        arrays = {key: value[...] for key, value in group.items() if key not in (schema.RESULT_SETTINGS, schema.NAME)}
        return arrays, json.loads(bytes(group[schema.RESULT_SETTINGS][()]))


def _image(group: h5py.Group, title: str, values: NDArray, pixel_m: float) -> None:
    group.attrs[schema.ATTR_CLASS] = "NXdata"
    put_text(group, schema.TITLE, title)
    data = put(group, schema.DATA, np.asarray(values, np.complex64))
    data.attrs["pixel_size_m"] = pixel_m
    put(group, schema.IMAGE_PIXEL, float(pixel_m), "m")
    put_text(group, "data_space", "real")
    put_text(group, "data_type", "complex")


@contextmanager
def _results(path: Path) -> Iterator[h5py.File]:
    """A run to add results to: all that is written in the block, or nothing where it ends badly."""
    open_run(path).close()
    with ExitStack() as stack:
        try:
            file = stack.enter_context(changing(path))
        except OSError as error:
            reason = " ".join(str(error).split())
            raise DatasetError(
                f"{path}: cannot be opened to store results ({reason}); is it in use or read-only?"
            ) from None
        yield file


def _replacing(path: Path, parent: h5py.Group, name: str) -> h5py.Group:
    """A new group in the place of an old one. Raises `DatasetError` where measured data are."""
    if name in parent:
        if parent[name].attrs.get("result") is None:
            raise DatasetError(f"{path}: {parent.name}/{name} is measured data; choose another name")
        del parent[name]
    group = parent.create_group(name)
    group.attrs["result"] = 1
    put_text(group, schema.NAME, name)
    return group
