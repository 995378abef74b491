"""The empty run file: every group, dataset and link, before the first frame."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np

from recon.dataset import DatasetError

from . import schema
from .darks import DarkSummary, histogram_edges, no_darks
from .layout import RunDescription
from .revisions import REASON_BYTES, room

PLANCK = 6.62607015e-34
LIGHT_SPEED = 299792458.0
COMPRESSIONS = ("none", "gzip")


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def put_text(group: h5py.Group, name: str, text: str, size: int = 0) -> None:
    """A fixed-length UTF-8 string dataset of at least `size` bytes, so that it can be overwritten in place."""
    raw = text.encode()
    group.create_dataset(name, data=np.array(raw, dtype=f"S{max(1, size, len(raw))}"))


def put(group: h5py.Group, name: str, value: Any, units: str = "") -> h5py.Dataset:
    """A dataset with its units as an attribute."""
    dataset = group.create_dataset(name, data=value)
    if units:
        dataset.attrs[schema.ATTR_UNITS] = units
    return dataset


def frame_stack(group: h5py.Group, name: str, count: int, shape: tuple[int, int], compression: str) -> h5py.Dataset:
    """(count, H, W) uint16, one chunk a frame.

    Uncompressed chunks get their place in the file now, unwritten (sparse): later writes then change no metadata.
    """
    if compression == "gzip":
        return group.create_dataset(
            name, (count, *shape), np.uint16, chunks=(1, *shape), compression="gzip", compression_opts=1, shuffle=True
        )
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if count:
        dcpl.set_chunk((1, *shape))
        dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((count, *shape))
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.NATIVE_UINT16, space, dcpl)
    return group[name]


def _frames_group(group: h5py.Group, count: int, run: RunDescription, compression: str) -> None:
    """What every stack of frames has: data, exposures, times, position indices and the commit counter."""
    frame_stack(group, schema.DATA, count, run.geometry.shape, compression)
    put(group, schema.COUNT_TIME, np.full(count, np.nan), "s")
    put(group, schema.ASKED_TIME, np.full(count, np.nan), "s")
    put(group, schema.TIMESTAMPS, np.full(count, np.nan), "s")
    put(group, schema.POSITION_INDEX, np.full(count, -1, np.int64))
    put(group, schema.FRAMES_COMMITTED, np.int64(0))


def put_dark(group: h5py.Group, exposure_s: float, dark: DarkSummary) -> None:
    """The datasets of one exposure's darks."""
    put_text(group, schema.NAME, f"dark {exposure_s:g} s")
    put(group, schema.EXPOSURE, exposure_s, "s")
    put(group, schema.DARK_COUNT, np.int64(dark.count))
    put(group, schema.DARK_MEAN, dark.mean, "adu")
    put(group, schema.DARK_SAMPLE_VARIANCE, dark.variance, "adu^2")
    put(group, schema.DARK_HISTOGRAM, dark.histogram)
    put(group, schema.DARK_HISTOGRAM_EDGES, histogram_edges(), "adu")
    put(group, schema.DARK_HISTOGRAM_FRAMES, np.int64(dark.histogram_frames))
    put(group, schema.DARK_RAW, dark.raw, "adu")


def _dark(group: h5py.Group, exposure_s: float, run: RunDescription) -> None:
    put_dark(group, exposure_s, run.darks.get(exposure_s) or no_darks(run.geometry.shape, run.keep_darks))


def _entry(file: h5py.File, number: int, exposure_s: float, count: int, run: RunDescription, compression: str) -> None:
    entry = file.create_group(schema.entry_name(number))
    entry.attrs[schema.ATTR_CLASS] = "NXentry"
    entry.attrs[schema.ATTR_DEFAULT] = schema.DATA_LINKS
    put_text(entry, schema.NAME, "calibration" if number == 1 else f"evaluation {exposure_s:g} s")
    put_text(entry, schema.TITLE, run.title)
    put_text(entry, schema.DEFINITION, schema.DEFINITION_VALUE)
    put_text(entry, schema.STREAM, "calibration" if number == 1 else "evaluation")
    put(entry, schema.EXPOSURE, exposure_s, "s")
    put(entry, schema.SIMULATED, np.int8(run.simulated))
    geometry = run.geometry
    energy = PLANCK * LIGHT_SPEED / geometry.wavelength_m
    entry.create_group(schema.INSTRUMENT).attrs[schema.ATTR_CLASS] = "NXinstrument"
    source = entry.create_group(schema.SOURCE)
    source.attrs[schema.ATTR_CLASS] = "NXsource"
    put(source, schema.ENERGY, energy, "J")
    beam = entry.create_group(schema.BEAM)
    beam.attrs[schema.ATTR_CLASS] = "NXbeam"
    put(beam, schema.ENERGY, energy, "J")
    put(beam, schema.BEAM_ENERGY, energy, "J")
    put(beam, schema.BEAM_WAVELENGTH, geometry.wavelength_m, "m")
    put(beam, schema.EXTENT, run.illumination_m, "m")
    detector = entry.create_group(schema.DETECTOR)
    detector.attrs[schema.ATTR_CLASS] = "NXdetector"
    _frames_group(detector, count, run, compression)
    put(detector, schema.MASK, np.zeros(geometry.shape, np.uint32))
    put(detector, schema.DISTANCE, geometry.distance_m, "m")
    put(detector, schema.X_PIXEL, geometry.pixel_size_m, "m")
    put(detector, schema.Y_PIXEL, geometry.pixel_size_m, "m")
    put(detector, schema.GAIN, run.camera.electrons_per_adu, "electrons/adu")
    put(detector, schema.BLACK_LEVEL, run.camera.black_level_adu, "adu")
    if run.camera.bit_depth is not None:
        put(detector, schema.BIT_DEPTH, np.int64(run.camera.bit_depth))
    put(detector, schema.SATURATION, run.camera.saturation_adu, "adu")
    put(detector, schema.QUANTUM_EFFICIENCY, run.camera.quantum_efficiency)
    put_text(detector, schema.CAMERA, run.camera.model)
    put_text(detector, schema.CAMERA_SERIAL, run.camera.serial)
    put_text(detector, schema.NODE_MAP, run.camera.node_map)
    put(detector, schema.GAIN_DB, run.camera.gain_db, "dB")
    put(detector, schema.REGION, np.array(run.camera.region, np.int64))
    put(detector, schema.READ_NOISE, run.camera.read_noise_e, "electrons")
    put(detector, schema.DARK_CURRENT, run.camera.dark_current_e_s, "electrons/s")
    put(detector, schema.EXPOSURE_OFFSET, run.camera.exposure_offset_s, "s")
    sample = entry.create_group(schema.GEOMETRY)
    put(sample, schema.TRANSLATION, np.full((count, 3), np.nan), "m")
    moves = entry.create_group(schema.TRANSFORMATIONS)
    put(moves, schema.COMMANDED, np.full((count, 2), np.nan), "m")
    put(moves, schema.READBACK, np.full((count, 2), np.nan), "m")
    put(entry, schema.STAGE_TO_OBJECT, np.array(run.stage.stage_to_object))
    put(entry, schema.STAGE_CENTRE, np.array(run.stage.centre_m), "m")
    put_text(entry, schema.STAGE, run.stage.model)
    put_text(entry, schema.STAGE_SERIAL, run.stage.serial)
    links = entry.create_group(schema.DATA_LINKS)
    links.attrs[schema.ATTR_CLASS] = "NXdata"
    links.attrs["signal"] = schema.DATA
    links[schema.DATA] = h5py.SoftLink(f"{entry.name}/{schema.DETECTOR}/{schema.DATA}")
    links[schema.TRANSLATION] = h5py.SoftLink(f"{entry.name}/{schema.GEOMETRY}/{schema.TRANSLATION}")


def _link_dark(first: h5py.Group, target: h5py.Group, exposure_s: float, run: RunDescription) -> None:
    _require_darks(run, (exposure_s,))
    number = run.dark_exposures_s.index(exposure_s) + 1
    dark = first[f"{schema.DARKS}/{schema.dark_name(number)}"]
    target[schema.DARK] = dark
    detector = target.get(schema.DETECTOR)
    if detector is not None:
        detector[schema.DATA_DARK] = dark[schema.DARK_MEAN]
        detector[schema.DARK_VARIANCE] = dark[schema.DARK_SAMPLE_VARIANCE]


def _require_darks(run: RunDescription, exposures_s: tuple[float, ...]) -> None:
    for exposure in exposures_s:
        if exposure not in run.dark_exposures_s:
            raise DatasetError(f"run {run.title!r}: exposure {exposure:g} s has no darks; add it to the plan's darks")


def _revisions(first: h5py.Group, run: RunDescription, compression: str) -> None:
    """The empty pool of points that are taken again; none where a visit is a single frame."""
    frames = room(run)
    if not frames:
        return
    group = first.create_group(schema.REVISIONS)
    frame_stack(group, schema.DATA, frames, run.geometry.shape, compression)
    for name in (schema.COUNT_TIME, schema.ASKED_TIME, schema.TIMESTAMPS, schema.REVISION_TIME):
        put(group, name, np.full(frames, np.nan), "s")
    for name in (schema.POSITION_INDEX, schema.REVISION_ENTRY, schema.REVISION_FRAME, schema.REVISION_NUMBER):
        put(group, name, np.full(frames, -1, np.int64))
    put(group, schema.TRANSLATION, np.full((frames, 3), np.nan), "m")
    for name in (schema.COMMANDED, schema.READBACK, schema.TRUE_POSITION):
        put(group, name, np.full((frames, 2), np.nan), "m")
    put(group, schema.REVISION_POINT, np.full(frames, -1, np.int64))
    group.create_dataset(schema.REVISION_REASON, data=np.zeros(frames, f"S{REASON_BYTES}"))
    put(group, schema.COMMITTED, np.zeros(2, np.int64))


def _truth(first: h5py.Group, run: RunDescription) -> None:
    if run.truth is None:
        return
    truth = first.create_group(schema.TRUTH)
    put(truth, schema.TRUTH_OBJECT, run.truth.object)
    put(truth, schema.TRUTH_OBJECT_PIXEL, run.truth.object_pixel_m, "m")
    put(truth, schema.TRUTH_PROBE, run.truth.probe)
    put(truth, schema.TRUTH_PROBE_PIXEL, run.truth.probe_pixel_m, "m")
    put(truth, schema.TRUTH_DISTANCE, run.truth.distance_m, "m")
    put(truth, schema.TRUTH_POSITIONS, np.full((run.positions, 2), np.nan), "m")


def build(file: h5py.File, run: RunDescription, compression: str, now: float) -> None:
    """Fill an empty file with everything but frames.

    Raises:
        DatasetError: unknown compression, or an exposure without darks.
    """
    if compression not in COMPRESSIONS:
        raise DatasetError(f"compression {compression!r} is unknown; choose {' or '.join(COMPRESSIONS)}")
    file.attrs[schema.ATTR_CREATOR] = schema.CREATOR
    file.attrs[schema.ATTR_FORMAT] = schema.FORMAT_VERSION
    file.attrs[schema.ATTR_DEFAULT] = schema.entry_name(1)
    put(file, schema.CXI_VERSION_NAME, np.int64(schema.CXI_VERSION))
    _entry(file, 1, run.calibration_exposure_s, run.calibration_frames, run, compression)
    for number, exposure in enumerate(run.evaluation_exposures_s, start=2):
        _entry(file, number, exposure, run.evaluation_frames, run, compression)
    first = file[schema.entry_name(1)]
    for number, exposure in enumerate(run.dark_exposures_s, start=1):
        _dark(first.create_group(f"{schema.DARKS}/{schema.dark_name(number)}"), exposure, run)
    bracket = run.calibration_exposures_s or (run.calibration_exposure_s,)
    put(first, schema.CALIBRATION_EXPOSURES, np.array(bracket), "s")
    _require_darks(run, bracket)
    _link_dark(first, first, run.calibration_exposure_s, run)
    for number, exposure in enumerate(run.evaluation_exposures_s, start=2):
        _link_dark(first, file[schema.entry_name(number)], exposure, run)
    if run.empty_frames:
        empty = first.create_group(schema.EMPTY)
        put_text(empty, schema.NAME, "empty beam")
        put(empty, schema.EXPOSURE, run.empty_exposure_s, "s")
        before = run.empty_frames if run.empty_before is None else run.empty_before
        put(empty, schema.EMPTY_BEFORE, np.int64(before))
        _frames_group(empty, run.empty_frames, run, compression)
        _link_dark(first, empty, run.empty_exposure_s, run)
    _revisions(first, run, compression)
    _truth(first, run)
    put_text(first, schema.START_TIME, iso(now), schema.SHORT_TEXT)
    put_text(first, schema.END_TIME, "", schema.SHORT_TEXT)
    put_text(first, schema.OUTCOME, "running", schema.SHORT_TEXT)
    put_text(first, schema.PLAN, run.plan_json)
    if run.steps:
        put(first, schema.ORDER, np.arange(run.steps))
    put_text(first, schema.PROFILE, run.profile_json)
    put(first, schema.SEED, np.int64(run.seed))
    put_text(first, schema.SAMPLE, run.sample)
    put_text(first, schema.SAMPLE_NAME, run.sample_name)
    put_text(first, schema.NOTES, run.notes)
    put_text(first, schema.DARKS_SOURCE, run.darks_source)
    put_text(first, schema.CALIBRATION_SOURCE, run.calibration_source)
    put_text(first, schema.CHARACTERISATION, run.characterisation)
    digest = hashlib.sha256(run.characterisation.encode()).hexdigest() if run.characterisation else ""
    put_text(first, schema.CHARACTERISATION_HASH, digest)
    software = first.create_group(schema.SOFTWARE)
    for name, version in run.software.items():
        put_text(software, name, version)
    first.create_dataset(schema.LOG, data=np.zeros(schema.LOG_LINES, f"S{schema.LOG_LINE_BYTES}"))
    put(first, schema.COMMITTED, np.zeros(4 + len(run.evaluation_exposures_s), np.int64))
    file[schema.PTYLAB_FRAMES] = first[f"{schema.DETECTOR}/{schema.DATA}"]
    put(file, schema.PTYLAB_ENCODER, np.full((run.calibration_frames, 2), np.nan), "m")
    put(file, schema.PTYLAB_WAVELENGTH, run.geometry.wavelength_m, "m")
    put(file, schema.PTYLAB_PIXEL, run.geometry.pixel_size_m, "m")
    put(file, schema.PTYLAB_DISTANCE, run.geometry.distance_m, "m")
    put(file, schema.PTYLAB_PUPIL, run.illumination_m, "m")
    put(file, schema.PTYLAB_ORIENTATION, np.int64(0))
