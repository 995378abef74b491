"""Darks on their own: recorded once, used by many scans of the same camera, gain and region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from recon.dataset import DatasetError

from . import schema
from .darks import DarkSummary
from .layout import SAME_LEVEL_ADU
from .read import open_hdf5, stored_bit_depth
from .skeleton import iso, put, put_dark, put_text

SAME_EXPOSURE = 1e-6
"""Relative difference of two exposures that count as the same."""


@dataclass(frozen=True)
class DarkSet:
    """Darks of several exposures with what they are good for.

    Attributes:
        model, serial: the camera.
        gain_db: analogue gain.
        region: (top, left, rows, columns) of the sensor that was read out.
        electrons_per_adu: conversion gain as it was known.
        simulated: whether any device was.
        recorded: when, ISO 8601 in UTC.
        darks: by exposure in seconds.
        black_level_adu: nominal offset of a dark frame; NaN in files of older versions.
        bit_depth: of the digital numbers; None when nobody knows.
    """

    model: str
    serial: str
    gain_db: float
    region: tuple[int, int, int, int]
    electrons_per_adu: float
    simulated: bool
    recorded: str
    darks: Mapping[float, DarkSummary]
    black_level_adu: float = math.nan
    bit_depth: int | None = None

    def choose(
        self,
        exposures_s: tuple[float, ...],
        model: str,
        serial: str,
        gain_db: float,
        region: tuple[int, int, int, int],
        black_level_adu: float,
        bit_depth: int,
        source: str,
    ) -> dict[float, DarkSummary]:
        """The darks of these exposures for a scan with that camera; `source` stands in messages.

        Raises:
            DatasetError: another camera, gain, region, black level or bit depth, or exposures that have no darks; all
                differences are named. What the darks' file does not say is not compared.
        """
        differences = [
            f"{what} {own!r} instead of {wanted!r}"
            for what, own, wanted in (
                ("camera", self.model, model),
                ("serial", self.serial, serial),
                ("region (top, left, rows, columns)", self.region, tuple(region)),
            )
            if own != wanted
        ]
        if not math.isclose(self.gain_db, gain_db, abs_tol=0.01):
            differences.append(f"gain {self.gain_db:g} dB instead of {gain_db:g} dB")
        if abs(self.black_level_adu - black_level_adu) > SAME_LEVEL_ADU:
            differences.append(f"black level {self.black_level_adu:g} adu instead of {black_level_adu:g} adu")
        if self.bit_depth not in (None, bit_depth):
            differences.append(f"bit depth {self.bit_depth} instead of {bit_depth}")
        if differences:
            raise DatasetError(f"{source}: these darks are of {'; '.join(differences)}; record new ones")
        chosen = {}
        missing = []
        for wanted_s in exposures_s:
            same = [e for e in self.darks if math.isclose(e, wanted_s, rel_tol=SAME_EXPOSURE)]
            if same:
                chosen[wanted_s] = self.darks[same[0]]
            else:
                missing.append(f"{wanted_s:g}")
        if missing:
            has = ", ".join(f"{e:g}" for e in sorted(self.darks))
            raise DatasetError(
                f"{source}: no darks of {', '.join(missing)} s; it has {has} s; record them, or leave these out"
            )
        return chosen


def write_dark_set(path: Path, dark_set: DarkSet, settings: str) -> None:
    """A new file of darks; `settings` is the profile as JSON. It appears under its name when it is complete.

    Raises:
        DatasetError: it exists, has another suffix, or cannot be written.
    """
    if path.suffix not in (".h5", ".hdf5"):
        raise DatasetError(f"{path}: the name must end in .h5 or .hdf5")
    if path.exists():
        raise DatasetError(f"{path}: exists already; choose another name")
    part = path.with_name(path.name + ".part")
    try:
        with h5py.File(part, "w") as file:
            file.attrs[schema.ATTR_CREATOR] = schema.CREATOR
            file.attrs[schema.ATTR_FORMAT] = schema.FORMAT_VERSION
            group = file.create_group(schema.DARK_FILE)
            put_text(group, schema.NAME, "darks")
            put_text(group, schema.CAMERA, dark_set.model)
            put_text(group, schema.CAMERA_SERIAL, dark_set.serial)
            put(group, schema.GAIN_DB, dark_set.gain_db, "dB")
            put(group, schema.BLACK_LEVEL, dark_set.black_level_adu, "adu")
            if dark_set.bit_depth is not None:
                put(group, schema.BIT_DEPTH, np.int64(dark_set.bit_depth))
            put(group, schema.REGION, np.array(dark_set.region, np.int64))
            put(group, schema.GAIN, dark_set.electrons_per_adu, "electrons/adu")
            put(group, schema.SIMULATED, np.int8(dark_set.simulated))
            put_text(group, schema.START_TIME, dark_set.recorded)
            put_text(group, schema.PROFILE, settings)
            for number, exposure in enumerate(sorted(dark_set.darks), start=1):
                place = group.create_group(f"{schema.DARKS}/{schema.dark_name(number)}")
                put_dark(place, exposure, dark_set.darks[exposure])
        part.rename(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: cannot be written ({reason}); choose a writable folder with room") from None


def read_dark_set(path: Path) -> DarkSet:
    """The darks of a file of darks, or those that an earlier run recorded.

    Raises:
        DatasetError: neither of them, unreadable, or a run without complete darks.
    """
    with open_hdf5(path) as file:
        if file.attrs.get(schema.ATTR_CREATOR) != schema.CREATOR:
            raise DatasetError(f"{path}: is HDF5 but neither darks nor a run of {schema.CREATOR}; record darks anew")
        try:
            if schema.DARK_FILE in file:
                group = file[schema.DARK_FILE]
                about, recorded = group, bytes(group[schema.START_TIME][()]).decode()
            else:
                group = file[schema.entry_name(1)]
                about, recorded = group[schema.DETECTOR], bytes(group[schema.START_TIME][()]).decode()
            darks = {float(g[schema.EXPOSURE][()]): _summary(g) for g in group[schema.DARKS].values()}
            region = tuple(int(n) for n in about[schema.REGION][...])
            found = DarkSet(
                model=bytes(about[schema.CAMERA][()]).decode(),
                serial=bytes(about[schema.CAMERA_SERIAL][()]).decode(),
                gain_db=float(about[schema.GAIN_DB][()]),
                region=(region[0], region[1], region[2], region[3]),
                electrons_per_adu=float(about[schema.GAIN][()]),
                simulated=bool(group[schema.SIMULATED][()]),
                recorded=recorded,
                darks={exposure: dark for exposure, dark in darks.items() if dark.count >= 2},
                black_level_adu=float(about[schema.BLACK_LEVEL][()]) if schema.BLACK_LEVEL in about else math.nan,
                bit_depth=stored_bit_depth(about, bytes(group[schema.PROFILE][()]).decode()),
            )
        except (KeyError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise DatasetError(
                f"{path}: does not say which camera its darks are of ({reason}); record new ones"
            ) from None
    if not found.darks:
        raise DatasetError(f"{path}: holds no complete darks; record new ones")
    return found


def now_text(seconds: float) -> str:
    """Seconds since the epoch as the file's date."""
    return iso(seconds)


def _summary(group: h5py.Group) -> DarkSummary:
    return DarkSummary(
        count=int(group[schema.DARK_COUNT][()]),
        mean=group[schema.DARK_MEAN][...],
        variance=group[schema.DARK_SAMPLE_VARIANCE][...],
        histogram=group[schema.DARK_HISTOGRAM][...],
        histogram_frames=int(group[schema.DARK_HISTOGRAM_FRAMES][()]),
        raw=group[schema.DARK_RAW][...],
    )
