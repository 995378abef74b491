"""Reading a run: raw numbers as they are, or electrons with their noise."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Geometry, Ptychogram, Truth
from recon.files.journal import recover, undisturbed
from recon.streaming import Electrons, Streamed

from . import schema
from .corrections import Dark, summarise_darks
from .frames import Hdf5Frames
from .layout import CameraRecord
from .order import plan_in_order
from .revisions import Pool, Revision

_FIRST, _EMPTY = 2, 3


@dataclass(frozen=True)
class EmptyBeam:
    """The beam without a sample, before and perhaps after a scan.

    Attributes:
        frames: (N, H, W) float32 electrons, in the order in which they were taken.
        good: (H, W) bool, false for hot, noisy, dead and clipped pixels.
        dark_variance: (H, W) float32 electrons squared of one frame.
        times: (N,) seconds since the epoch.
        before: the first so many were taken before the scan.
    """

    frames: NDArray[np.float32]
    good: NDArray[np.bool_]
    dark_variance: NDArray[np.float32]
    times: NDArray[np.float64]
    before: int


def open_run(path: Path | str) -> RunFile:
    """Open a run for reading.

    Raises:
        DatasetError: missing, not HDF5, truncated, being written by another process, or of another program.
    """
    path = Path(path)
    file = open_hdf5(path)
    if file.attrs.get(schema.ATTR_CREATOR) != schema.CREATOR or schema.entry_name(1) not in file:
        file.close()
        raise DatasetError(f"{path}: is HDF5 but not a run of {schema.CREATOR}; import it instead")
    version = int(file.attrs.get(schema.ATTR_FORMAT, 0))
    if version > schema.FORMAT_VERSION:
        file.close()
        raise DatasetError(f"{path}: format {version} is newer than {schema.FORMAT_VERSION}; update the program")
    return RunFile(file, path)


def stored_bit_depth(camera: h5py.Group, profile_json: str) -> int | None:
    """Bits of the digital numbers; files of older versions say so in their profile only. None when nobody knows."""
    if schema.BIT_DEPTH in camera:
        return int(camera[schema.BIT_DEPTH][()])
    bits = json.loads(profile_json).get("camera", {}).get("bit_depth")
    return None if bits is None else int(bits)


def open_hdf5(path: Path) -> h5py.File:
    """An HDF5 file for reading only. Raises `DatasetError`."""
    if not path.is_file():
        raise DatasetError(f"{path}: does not exist or is not a file; check the name")
    try:
        with undisturbed():
            recover(path)
            return h5py.File(path, "r")
    except BlockingIOError:
        raise DatasetError(f"{path}: another process is writing it; wait until the scan has ended") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: not a readable HDF5 file ({reason}); it is truncated or something else") from None


class RunFile:
    """A run, open for reading; use as a context manager. Entries count from 1 (calibration)."""

    def __init__(self, file: h5py.File, path: Path):
        self._file = file
        self._pool = Pool(file[schema.entry_name(1)])
        self.path = path

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RunFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def entries(self) -> int:
        """Number of entries: the calibration and one per evaluation exposure."""
        return len(self._committed) - 3

    @property
    def outcome(self) -> str:
        """ "running", "completed", "aborted" or "failed"; "running" in a closed file means that it was killed."""
        return self._text(1, schema.OUTCOME)

    @property
    def simulated(self) -> bool:
        return bool(self._get(1, schema.SIMULATED)[()])

    @property
    def title(self) -> str:
        return self._text(1, schema.TITLE)

    @property
    def plan_json(self) -> str:
        """As executed: its steps in the order in which they were carried out. Raises `DatasetError`: damaged."""
        return plan_in_order(self._file[schema.entry_name(1)])

    @property
    def profile_json(self) -> str:
        return self._text(1, schema.PROFILE)

    @property
    def profile(self) -> dict[str, Any]:
        """The profile as plain values."""
        return json.loads(self.profile_json)

    @property
    def seed(self) -> int:
        """Seed of the simulated noise."""
        return int(self._get(1, schema.SEED)[()])

    @property
    def sample(self) -> str:
        """What lay on the simulated stage, as it was asked for."""
        return self._text(1, schema.SAMPLE)

    @property
    def sample_name(self) -> str:
        """What people call the sample; "" when nobody said and in files of older versions."""
        return self._text(1, schema.SAMPLE_NAME) if schema.SAMPLE_NAME in self._file[schema.entry_name(1)] else ""

    @property
    def notes(self) -> str:
        """What people wrote down; "" when nobody did and in files of older versions."""
        return self._text(1, schema.NOTES) if schema.NOTES in self._file[schema.entry_name(1)] else ""

    @property
    def node_map(self) -> str:
        """Every setting of the camera as a JSON object; "" for a simulated one and in files of older versions."""
        name = f"{schema.DETECTOR}/{schema.NODE_MAP}"
        return self._text(1, name) if name in self._file[schema.entry_name(1)] else ""

    @property
    def camera(self) -> CameraRecord:
        """The camera as the run knew it."""
        detector = self._get(1, schema.DETECTOR)

        def number(name: str, otherwise: float) -> float:
            return float(detector[name][()]) if name in detector else otherwise

        region = detector[schema.REGION][...] if schema.REGION in detector else (0, 0, *detector[schema.MASK].shape)
        top, left, rows, columns = (int(value) for value in region)
        return CameraRecord(
            model=self._text(1, f"{schema.DETECTOR}/{schema.CAMERA}"),
            serial=self._text(1, f"{schema.DETECTOR}/{schema.CAMERA_SERIAL}"),
            electrons_per_adu=number(schema.GAIN, math.nan),
            black_level_adu=number(schema.BLACK_LEVEL, math.nan),
            saturation_adu=number(schema.SATURATION, math.nan),
            quantum_efficiency=number(schema.QUANTUM_EFFICIENCY, math.nan),
            node_map=self.node_map,
            gain_db=number(schema.GAIN_DB, 0.0),
            region=(top, left, rows, columns),
            read_noise_e=number(schema.READ_NOISE, math.nan),
            dark_current_e_s=number(schema.DARK_CURRENT, math.nan),
            exposure_offset_s=number(schema.EXPOSURE_OFFSET, 0.0),
            bit_depth=stored_bit_depth(detector, self.profile_json),
        )

    @property
    def stage(self) -> tuple[str, str]:
        """Model and serial number of the stage; controllers of two axes stand beside each other in both."""
        return self._text(1, schema.STAGE), self._text(1, schema.STAGE_SERIAL)

    @property
    def stage_map(self) -> tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]:
        """Matrix from stage to object, and (y, x) displacement of the object's origin; see `StageRecord`."""
        (a, b), (c, d) = self._get(1, schema.STAGE_TO_OBJECT)[...].tolist()
        y, x = self._get(1, schema.STAGE_CENTRE)[...].tolist()
        return ((a, b), (c, d)), (y, x)

    @property
    def log(self) -> tuple[str, ...]:
        lines = self._get(1, schema.LOG)[...]
        return tuple(bytes(line).decode(errors="replace") for line in lines if line)

    @property
    def software(self) -> dict[str, str]:
        group = self._get(1, schema.SOFTWARE)
        return {name: bytes(value[()]).decode() for name, value in group.items()}

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """Points that were taken again, in the order in which it was done."""
        return self._pool.revisions

    def visits(self, entry: int = 1) -> NDArray[np.int64]:
        """(N,) from which visit each committed frame is: number of its revision, from 1, or 0 for the first visit."""
        return self._pool.visits(entry, self.committed(entry))

    def points(self, entry: int = 1) -> NDArray[np.int64]:
        """(N,) scan point of each committed frame."""
        return self._get(entry, schema.DETECTOR)[schema.POSITION_INDEX][: self.committed(entry)].astype(np.int64)

    def times(self, entry: int = 1) -> NDArray[np.float64]:
        """(N,) seconds since the epoch of the committed frames; of a point that was taken again the newest."""
        return self._newest(entry, schema.DETECTOR, schema.TIMESTAMPS).astype(np.float64)

    @property
    def steps_committed(self) -> int:
        """Plan steps that are complete."""
        return int(self._committed[0])

    @property
    def repeats_committed(self) -> int:
        """Frames of the next step that are in the file already."""
        return int(self._committed[1])

    @property
    def series_committed(self) -> dict[float, int]:
        """Exposure of the evaluation series to its frames."""
        return {self.exposure_s(entry): self.committed(entry) for entry in range(2, self.entries + 1)}

    @property
    def frames_committed(self) -> int:
        """Frames in all entries and the empty stream, darks not counted."""
        return int(self._committed[_FIRST:].sum())

    @property
    def illumination_m(self) -> float:
        """Nominal diameter of the illumination at the object."""
        return float(self._get(1, f"{schema.BEAM}/{schema.EXTENT}")[()])

    def committed(self, entry: int = 1) -> int:
        """Frames committed in an entry."""
        self._check(entry)
        return int(self._committed[_FIRST if entry == 1 else entry + 2])

    def exposure_s(self, entry: int) -> float:
        """The exposure asked for in an entry."""
        return float(self._get(entry, schema.EXPOSURE)[()])

    def geometry(self, entry: int = 1) -> Geometry:
        """Nominal geometry."""
        detector = self._get(entry, schema.DETECTOR)
        return Geometry(
            wavelength_m=float(self._get(entry, f"{schema.BEAM}/{schema.BEAM_WAVELENGTH}")[()]),
            distance_m=float(detector[schema.DISTANCE][()]),
            pixel_size_m=float(detector[schema.X_PIXEL][()]),
            shape=detector[schema.DATA].shape[1:],
        )

    def raw(self, entry: int = 1) -> NDArray[np.uint16]:
        """(N, H, W) committed raw frames; of a point that was taken again the newest."""
        return self._newest(entry, schema.DETECTOR, schema.DATA)

    def commanded_m(self, entry: int = 1) -> NDArray[np.float64]:
        """(N, 2) commanded (y, x) displacements of the committed frames."""
        return self._newest(entry, schema.TRANSFORMATIONS, schema.COMMANDED)

    def dark(self, entry: int = 1) -> Dark:
        """The darks of an entry's exposure. Raises `DatasetError` when they are missing."""
        return self._dark(self._get(entry, schema.DARK), float(self._get(entry, schema.DETECTOR)[schema.GAIN][()]))

    def empty_beam(self) -> EmptyBeam | None:
        """The committed frames of the empty beam, before and after the scan; None when there are none.

        Raises:
            DatasetError: no darks of their exposure.
        """
        group = self._file[schema.entry_name(1)].get(schema.EMPTY)
        count = int(self._committed[_EMPTY])
        if group is None or count == 0:
            return None
        gain = float(self._get(1, schema.DETECTOR)[schema.GAIN][()])
        dark = self._dark(group[schema.DARK], gain)
        before = int(group[schema.EMPTY_BEFORE][()]) if schema.EMPTY_BEFORE in group else count
        raw = group[schema.DATA][:count]
        return EmptyBeam(
            frames=((raw - dark.mean_adu) * gain).astype(np.float32),
            good=dark.good & (raw < float(self._get(1, schema.DETECTOR)[schema.SATURATION][()])).all(axis=0),
            dark_variance=dark.variance,
            times=group[schema.TIMESTAMPS][:count],
            before=min(before, count),
        )

    @property
    def calibration_source(self) -> str:
        """JSON of the calibration that a low-dose run relies on; "" for others and in files of older versions."""
        entry = self._file[schema.entry_name(1)]
        return self._text(1, schema.CALIBRATION_SOURCE) if schema.CALIBRATION_SOURCE in entry else ""

    @property
    def bench(self) -> dict[str, Any]:
        """What has to be the same for a calibration to hold for another run: name to value."""
        detector, beam = self._get(1, schema.DETECTOR), self._get(1, schema.BEAM)
        region = detector[schema.REGION][...].tolist() if schema.REGION in detector else None
        return {
            "camera": self._text(1, f"{schema.DETECTOR}/{schema.CAMERA_SERIAL}"),
            "stage": self._text(1, schema.STAGE_SERIAL),
            "pixel_size_m": float(detector[schema.X_PIXEL][()]),
            "wavelength_m": float(beam[schema.BEAM_WAVELENGTH][()]),
            "region": region,
        }

    @property
    def characterisation(self) -> str:
        """Text of the characterisation that the run was made with; "" when there was none."""
        entry = self._file[schema.entry_name(1)]
        return self._text(1, schema.CHARACTERISATION) if schema.CHARACTERISATION in entry else ""

    def ptychogram(self, entry: int = 1) -> Ptychogram:
        """The committed frames of an entry in electrons, with positions read back from the stage.

        Of a point that was taken again they are those of its last visit.

        Raises:
            DatasetError: no such entry, no committed frame, or no darks.
        """
        return self.streamed(entry).load()

    def streamed(self, entry: int = 1) -> Streamed:
        """The same with its frames left in the file, which must stay open; closing it closes the run.

        Raises:
            DatasetError: no such entry, no committed frame, or no darks.
        """
        count = self.committed(entry)
        if count == 0:
            raise DatasetError(f"{self.path}: entry {entry} holds no committed frame; resume the scan")
        detector = self._get(entry, schema.DETECTOR)
        gain = float(detector[schema.GAIN][()])
        mask = detector[schema.MASK][...] == 0
        variance = np.zeros(mask.shape, np.float64)
        which = np.zeros(count, np.int64)
        darks = self._darks_of_frames(entry, count, gain)
        for number, (dark, members) in enumerate(darks):
            which[members] = number
            mask &= dark.good
            # A bracketed scan has several dark variances and the ptychogram one: the frames' mean.
            variance += dark.variance * (len(members) / count)
        offset = float(detector[schema.EXPOSURE_OFFSET][()]) if schema.EXPOSURE_OFFSET in detector else 0.0
        translation = self._newest(entry, schema.GEOMETRY, schema.TRANSLATION)
        times = self._newest(entry, schema.DETECTOR, schema.COUNT_TIME)
        empty, empty_exposure = self._empty(gain)
        return Streamed(
            source=Hdf5Frames(detector[schema.DATA], 0, self._pool.frames, self._pool.replaced(entry)),
            electrons=Electrons(
                gain, tuple(dark.mean_adu for dark, _ in darks), which, float(detector[schema.SATURATION][()])
            ),
            chosen=np.arange(count),
            positions_m=np.ascontiguousarray(translation[:, 1::-1], np.float64),
            exposures_s=times.astype(np.float64) + offset,
            geometry=self.geometry(entry),
            dark_variance=variance.astype(np.float32),
            mask=mask,
            indices=detector[schema.POSITION_INDEX][:count].astype(np.int64),
            quantum_efficiency=float(detector[schema.QUANTUM_EFFICIENCY][()]),
            name=f"{self.path.name} {self._text(entry, schema.NAME)}",
            empty=empty,
            empty_exposure_s=None if empty_exposure is None else empty_exposure + offset,
        )

    def truth(self) -> Truth | None:
        """What the simulated bench was like; None for a measured run."""
        group = self._file[schema.entry_name(1)].get(schema.TRUTH)
        if group is None:
            return None
        return Truth(
            object=group[schema.TRUTH_OBJECT][...],
            object_pixel_m=float(group[schema.TRUTH_OBJECT_PIXEL][()]),
            probe=group[schema.TRUTH_PROBE][...],
            probe_pixel_m=float(group[schema.TRUTH_PROBE_PIXEL][()]),
            distance_m=float(group[schema.TRUTH_DISTANCE][()]),
            positions_m=self._pool.newest_truth(group[schema.TRUTH_POSITIONS][...]),
        )

    def _newest(self, entry: int, place: str, name: str) -> NDArray:
        """A dataset of an entry's committed frames, those of the last visit where a point was taken again."""
        values = self._get(entry, place)[name][: self.committed(entry)]
        return self._pool.newest(entry, name, values)

    @property
    def _committed(self) -> NDArray[np.int64]:
        return self._get(1, schema.COMMITTED)[...]

    def _empty(self, gain: float) -> tuple[NDArray[np.float32] | None, float | None]:
        group = self._file[schema.entry_name(1)].get(schema.EMPTY)
        count = int(self._committed[_EMPTY])
        if group is None or count == 0:
            return None, None
        dark = self._dark(group[schema.DARK], gain)
        mean = group[schema.DATA][:count].mean(axis=0, dtype=np.float64)
        exposure = float(group[schema.COUNT_TIME][:count].mean())
        return ((mean - dark.mean_adu) * gain).astype(np.float32), exposure

    def _darks_of_frames(self, entry: int, count: int, gain: float) -> list[tuple[Dark, list[int]]]:
        """The darks of an entry's frames with those frames' indices: several only where exposures are bracketed."""
        frames = self._get(entry, schema.DETECTOR)
        own = self.exposure_s(entry)
        asked = frames[schema.ASKED_TIME][:count] if schema.ASKED_TIME in frames else np.full(count, own)
        places = {}
        if len(np.unique(asked)) > 1:
            groups = self._get(entry, schema.DARKS).values()
            places = {float(group[schema.EXPOSURE][()]): group for group in groups}
        found = []
        for exposure in np.unique(asked):
            group = places.get(float(exposure), self._get(entry, schema.DARK))
            found.append((self._dark(group, gain), np.flatnonzero(asked == exposure).tolist()))
        return found

    def _dark(self, group: h5py.Group, gain: float) -> Dark:
        count = int(group[schema.DARK_COUNT][()])
        exposure = float(group[schema.EXPOSURE][()])
        if count < 2:
            raise DatasetError(f"{self.path}: darks of {exposure:g} s are missing; resume the scan or record them")
        mean, variance = group[schema.DARK_MEAN][...], group[schema.DARK_SAMPLE_VARIANCE][...]
        subtract, electrons2, good = summarise_darks(mean, variance, count, gain)
        edges = group[schema.DARK_HISTOGRAM_EDGES][...]
        return Dark(subtract, electrons2, good, count, group[schema.DARK_HISTOGRAM][...], edges)

    def _check(self, entry: int) -> None:
        if not 1 <= entry <= self.entries:
            raise DatasetError(f"{self.path}: no entry {entry}; it has 1 .. {self.entries}")

    def _get(self, entry: int, name: str) -> Any:
        try:
            return self._file[schema.entry_name(entry)][name]
        except KeyError:
            if name != schema.COMMITTED:
                self._check(entry)
            raise DatasetError(f"{self.path}: entry {entry} lacks {name!r}; the file is damaged") from None

    def _text(self, entry: int, name: str) -> str:
        return bytes(self._get(entry, name)[()]).decode()
