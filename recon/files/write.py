"""The writer of a running scan's file: data first, flushed, then the commit counter, flushed.

A file killed between any two writes reopens for reading and for resuming, and holds every committed frame.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np

from recon.dataset import DatasetError
from recon.files.disk import as_os_error, fsync, reason_of, reopen
from recon.files.journal import recover

from . import schema, skeleton
from .darks import DarkAccumulator, DarkSummary
from .layout import FrameRecord, RunDescription, StageRecord
from .order import plan_in_order
from .revisions import FrameKey, Pool, Retake

Fault = Callable[[str], None]
"""Called with "before NAME" and "after NAME" around everything that touches the file; tests die in it."""

SYNC_INTERVAL_S = 3.0
_STEPS, _REPEATS, _FIRST, _EMPTY = range(4)


def no_fault(where: str) -> None:
    """The `Fault` of real life."""


class WriterClock(Protocol):
    """What the writer asks of a clock."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class RunWriter:
    """One open run file; the only process that has it open. Not safe for several threads.

    Make one with `create` or `resume`; use it as a context manager or `close` it.

    Attributes:
        last_darks: exposure and statistics of the darks that were completed last, in this session.
    """

    def __init__(self, file: h5py.File, path: Path, clock: WriterClock, fault: Fault = no_fault):
        self._file = file
        self._path = path
        self._clock = clock
        self._fault = fault
        self._synced = clock.monotonic()
        first = file[schema.entry_name(1)]
        self._first = first
        self._committed = first[schema.COMMITTED][...]
        self._shape: tuple[int, int] = first[f"{schema.DETECTOR}/{schema.DATA}"].shape[1:]
        m, centre = first[schema.STAGE_TO_OBJECT][...], first[schema.STAGE_CENTRE][...]
        self._stage = StageRecord(
            model="",
            serial="",
            stage_to_object=((float(m[0, 0]), float(m[0, 1])), (float(m[1, 0]), float(m[1, 1]))),
            centre_m=(float(centre[0]), float(centre[1])),
        )
        # Where the frames of a stream and exposure go: (group, place in the commit vector).
        self._places: dict[tuple[str, float], tuple[h5py.Group, int]] = {}
        bracket = first[schema.CALIBRATION_EXPOSURES if schema.CALIBRATION_EXPOSURES in first else schema.EXPOSURE]
        for exposure in np.atleast_1d(bracket[()]):
            self._places["calibration", float(exposure)] = (first, _FIRST)
        for number in range(2, len(self._committed) - 2):
            entry = file[schema.entry_name(number)]
            self._places["evaluation", float(entry[schema.EXPOSURE][()])] = (entry, number + 2)
        if schema.EMPTY in first:
            empty = first[schema.EMPTY]
            self._places["empty", float(empty[schema.EXPOSURE][()])] = (empty, _EMPTY)
        self._darks = {float(g[schema.EXPOSURE][()]): g for g in first[schema.DARKS].values()}
        self._open: dict[str, h5py.Dataset] = {}
        self._accumulator: DarkAccumulator | None = None
        self.last_darks: tuple[float, DarkSummary] | None = None
        self._retake: Retake | None = None
        self._filled: deque[FrameKey] = deque()
        self._log_lines = int(np.count_nonzero(first[schema.LOG][...] != b""))

    @classmethod
    def create(
        cls,
        path: Path,
        run: RunDescription,
        clock: WriterClock,
        *,
        compression: str = "none",
        fault: Fault = no_fault,
    ) -> RunWriter:
        """A new file with its skeleton safely on disk.

        The skeleton is written under a temporary name and renamed, so the final name never shows a stub.

        Raises:
            DatasetError: the path exists or cannot be written.
            OSError: the disk is full.
        """
        if path.exists():
            raise DatasetError(f"{path}: exists already; choose another name, or resume it")
        temporary = path.with_name(path.name + ".part")
        fault("before skeleton")
        try:
            file = h5py.File(temporary, "w")
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{temporary}: cannot be created ({reason_of(error)}); choose a writable folder"
            ) from None
        try:
            with file:
                skeleton.build(file, run, compression, clock.now())
                fault("before skeleton flush")
                file.flush()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fault("before skeleton rename")
        fsync(temporary)
        # A hard link refuses an existing name, where a rename would replace a file that appeared meanwhile.
        try:
            os.link(temporary, path)
        except FileExistsError:
            temporary.unlink()
            raise DatasetError(f"{path}: appeared while the run was prepared; choose another name") from None
        except OSError:  # a file system without hard links
            temporary.rename(path)
        else:
            temporary.unlink()
        fsync(path.parent)
        fault("after skeleton rename")
        return cls(reopen(path), path, clock, fault)

    @classmethod
    def resume(cls, path: Path, clock: WriterClock, *, fault: Fault = no_fault) -> RunWriter:
        """A file that was interrupted, ready for its next frame; what lies beyond the commit counter is overwritten.

        Raises:
            DatasetError: not a run of this program, damaged, or open in another process.
        """
        recover(path)
        try:
            file = reopen(path)
        except FileNotFoundError:
            raise DatasetError(f"{path}: does not exist; give the file of an interrupted run") from None
        except BlockingIOError:
            raise DatasetError(f"{path}: another process has it open; stop that first") from None
        except OSError as error:
            raise DatasetError(f"{path}: cannot be opened as HDF5 ({reason_of(error)})") from None
        try:
            if file.attrs.get(schema.ATTR_CREATOR) != schema.CREATOR or schema.entry_name(1) not in file:
                raise DatasetError(f"{path}: is not a run of {schema.CREATOR}; only its own runs can be resumed")
            writer = cls(file, path, clock, fault)
            writer._restore_counters()
            return writer
        except KeyError as error:
            file.close()
            raise DatasetError(f"{path}: is incomplete ({reason_of(error)}) and cannot be resumed") from None
        except DatasetError:
            file.close()
            raise

    @property
    def path(self) -> Path:
        return self._path

    @property
    def steps_committed(self) -> int:
        """Plan steps that are complete in the file."""
        return int(self._committed[_STEPS])

    @property
    def repeats_committed(self) -> int:
        """Frames of the next step that are in the file already; dark steps count only when complete."""
        return int(self._committed[_REPEATS])

    @property
    def frames_committed(self) -> int:
        """Frames in all entries and the empty stream; darks are not counted."""
        return int(self._committed[_FIRST:].sum())

    def frames_of(self, stream: str, asked_exposure_s: float) -> int:
        """Frames of a stream and exposure; the exposures of the bright scan count together."""
        return int(self._committed[self._places[stream, asked_exposure_s][1]])

    @property
    def revisions(self) -> int:
        """How often a point has been taken again."""
        return len(Pool(self._first).revisions)

    @property
    def outcome(self) -> str:
        return bytes(self._first[schema.OUTCOME][()]).decode()

    @property
    def plan_json(self) -> str:
        return plan_in_order(self._first)

    @property
    def profile_json(self) -> str:
        return bytes(self._first[schema.PROFILE][()]).decode()

    def leave_out(self, step: int) -> None:
        """Go past the next step of the series without a frame; one that was gone past before is left alone.

        What is left out of an exposure has to be its end, so that a count says which frames there are.

        Raises:
            DatasetError: another step is next.
        """
        if step < self.steps_committed:
            return
        if (step, 0) != (self.steps_committed, self.repeats_committed):
            raise DatasetError(
                f"{self._path}: step {step} cannot be left out, expected frame {self.repeats_committed} of step "
                f"{self.steps_committed}"
            )
        self._committed[_STEPS] = step + 1
        self._write(self._first[schema.COMMITTED], ..., self._committed)
        self._flush()

    def retake(
        self,
        point: int,
        taken: Sequence[FrameKey],
        reason: str,
        places: Sequence[int] | None = None,
        filled: Sequence[FrameKey] = (),
    ) -> None:
        """The next frames to come are those of `taken` once more: they supersede frames of a point.

        Args:
            point: index of the scan point.
            taken: all frames of its visit that are in the file, in the plan's order.
            reason: why they are taken again.
            places: index of each in its entry; without them they are the last frames there are.
            filled: frames that come after them and were left out before; they go behind the last of their entries.

        Raises:
            DatasetError: no room for them; nothing was written.
        """
        group = self._first.get(schema.REVISIONS)
        free = 0 if group is None else Retake.free(group)
        if free < len(taken):
            raise DatasetError(
                f"{self._path}: point {point} has to be taken again, {len(taken)} frames, and the room for such frames "
                f"has {free} left; calibrate it as it is, or begin a new scan"
            )
        behind: dict[int, int] = {}
        superseded = []
        for key in reversed(taken):
            group_of, place = self._places[key.stream, key.asked_exposure_s]
            behind[place] = behind.get(place, 0) + 1
            entry = int(group_of.name.rsplit("_", 1)[1])
            superseded.append((key, (entry, int(self._committed[place]) - behind[place])))
        superseded.reverse()
        if places is not None:
            superseded = [(key, (entry, own)) for (key, (entry, _)), own in zip(superseded, places, strict=True)]
        self._retake = Retake(group, point, superseded, reason) if superseded else None
        self._filled = deque(filled)

    def reorder(self, order: Sequence[int]) -> None:
        """From the next frame on the plan's steps come in another order.

        Args:
            order: at each place the number, in the plan as it is now (`plan_json`), of the step that comes there.

        Raises:
            DatasetError: the file keeps no order, or a step that is committed would change its place.
        """
        done = self.steps_committed + (self.repeats_committed > 0)
        if schema.ORDER not in self._first or list(order[:done]) != list(range(done)):
            raise DatasetError(
                f"{self._path}: its steps cannot change places; only those to come of a low-dose run can"
            )
        dataset = self._first[schema.ORDER]
        self._write(dataset, ..., dataset[...][list(order)])
        self._flush()

    def append(self, frame: FrameRecord) -> None:
        """Write one frame and commit it. Frames come in the plan's order.

        Raises:
            DatasetError: a frame out of order, of the wrong shape, or of an exposure that the file has no place for.
            OSError: the disk is full or gone.
        """
        if frame.image.shape != self._shape:
            raise DatasetError(f"{self._path}: frame of shape {frame.image.shape}, the file holds {self._shape}")
        if self._retake is not None:
            self._append_again(frame, self._retake)
        elif frame.stream == "dark":
            self._append_dark(frame)
        else:
            self._append_light(frame)
        if self._clock.monotonic() - self._synced >= SYNC_INTERVAL_S:
            self.sync()

    def log(self, line: str) -> None:
        """Add a time-stamped line to the run's log; beyond its capacity the last line is overwritten."""
        stamp = skeleton.iso(self._clock.now())
        place = min(self._log_lines, schema.LOG_LINES - 1)
        raw = f"{stamp} {line}".encode()[: schema.LOG_LINE_BYTES]
        self._write(self._first[schema.LOG], place, raw.decode(errors="ignore").encode())
        self._log_lines = place + 1
        self._flush()

    def set_outcome(self, outcome: str) -> None:
        """Record how the run stands: one of `schema.OUTCOMES`; all but "running" also set the end time."""
        if outcome not in schema.OUTCOMES:
            raise ValueError(f"outcome {outcome!r} is not one of {', '.join(schema.OUTCOMES)}")
        end = "" if outcome == "running" else skeleton.iso(self._clock.now())
        self._write(self._first[schema.END_TIME], (), np.bytes_(end))
        self._write(self._first[schema.OUTCOME], (), np.bytes_(outcome))
        self._flush()
        self.sync()

    def sync(self) -> None:
        """Make the operating system put the file on the disk."""
        fsync(self._path)
        self._synced = self._clock.monotonic()

    def close(self) -> None:
        """Flush, sync and close; may be called twice."""
        if self._file:
            self._flush()
            self.sync()
            self._file.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append_again(self, frame: FrameRecord, retake: Retake) -> None:
        key = retake.expected
        self._require(frame, key.step, key.repeat)
        retake.put(frame, self._stage, self._write, self._flush, self._clock.now())
        if retake.complete:
            self._retake = None

    def _append_light(self, frame: FrameRecord) -> None:
        try:
            group, place = self._places[frame.stream, frame.asked_exposure_s]
        except KeyError:
            raise DatasetError(
                f"{self._path}: no entry for {frame.stream} frames of {frame.asked_exposure_s:g} s; the plan differs"
            ) from None
        if self._filled:
            self._require(frame, self._filled[0].step, self._filled[0].repeat)
        else:
            self._require(frame, self.steps_committed, self.repeats_committed)
        index = int(self._committed[place])
        frames = group if frame.stream == "empty" else group[schema.DETECTOR]
        if index >= len(frames[schema.DATA]):
            raise DatasetError(f"{self._path}: {group.name} is full at {index} frames; the plan differs")
        self._write(frames[schema.DATA], index, frame.image)
        self._write(frames[schema.COUNT_TIME], index, frame.exposure_s)
        if schema.ASKED_TIME in frames:  # files of the first version have none
            self._write(frames[schema.ASKED_TIME], index, frame.asked_exposure_s)
        self._write(frames[schema.TIMESTAMPS], index, frame.time)
        self._write(frames[schema.POSITION_INDEX], index, frame.position_index)
        if frame.stream != "empty":
            y, x = self._stage.object_position(frame.readback_m)
            moves = group[schema.TRANSFORMATIONS]
            self._write(moves[schema.COMMANDED], index, np.array(frame.commanded_m))
            self._write(moves[schema.READBACK], index, np.array(frame.readback_m))
            self._write(group[schema.GEOMETRY][schema.TRANSLATION], index, np.array([x, y, 0.0]))
            if frame.stream == "calibration":
                self._write(self._file[schema.PTYLAB_ENCODER], index, np.array([y, x]))
            if frame.true_position_m is not None and schema.TRUTH in self._first:
                positions = self._first[schema.TRUTH][schema.TRUTH_POSITIONS]
                self._write(positions, frame.position_index, np.array(frame.true_position_m))
        self._flush()
        self._committed[place] += 1
        self._commit(frame)
        # For other programs: readers of this one go by the commit vector, which counts in one write.
        self._write(frames[schema.FRAMES_COMMITTED], (), self._committed[place])
        self._flush()

    def _restore_counters(self) -> None:
        """A kill between a frame's commit and its entry's own counter leaves that counter one behind."""
        for stream, group, place in {(s, *place) for (s, _), place in self._places.items()}:
            counter = (group if stream == "empty" else group[schema.DETECTOR])[schema.FRAMES_COMMITTED]
            if int(counter[()]) != int(self._committed[place]):
                self._write(counter, (), self._committed[place])
        self._flush()

    def _append_dark(self, frame: FrameRecord) -> None:
        if frame.asked_exposure_s not in self._darks:
            raise DatasetError(f"{self._path}: no place for darks of {frame.asked_exposure_s:g} s; the plan differs")
        group = self._darks[frame.asked_exposure_s]
        if frame.repeat == 0 or self._accumulator is None:
            self._accumulator = DarkAccumulator(self._shape, len(group[schema.DARK_RAW]))
        self._require(frame, self.steps_committed, self._accumulator.count)
        self._accumulator.add(frame.image)
        if not frame.last:
            return
        dark = self._accumulator.summary()
        self._accumulator = None
        self._write(group[schema.DARK_COUNT], (), dark.count)
        self._write(group[schema.DARK_MEAN], ..., dark.mean)
        self._write(group[schema.DARK_SAMPLE_VARIANCE], ..., dark.variance)
        self._write(group[schema.DARK_HISTOGRAM], ..., dark.histogram)
        self._write(group[schema.DARK_HISTOGRAM_FRAMES], (), dark.histogram_frames)
        for index, image in enumerate(dark.raw):
            self._write(group[schema.DARK_RAW], index, image)
        self._flush()
        self._commit(frame)
        self.last_darks = (frame.asked_exposure_s, dark)

    def _require(self, frame: FrameRecord, step: int, repeat: int) -> None:
        if (frame.step, frame.repeat) != (step, repeat):
            raise DatasetError(
                f"{self._path}: frame {frame.repeat} of step {frame.step} is out of order, "
                f"expected frame {repeat} of step {step}"
            )

    def _commit(self, frame: FrameRecord) -> None:
        if self._filled:
            # Of a step that was gone past long ago.
            self._filled.popleft()
        elif frame.last:
            self._committed[_STEPS] = frame.step + 1
            self._committed[_REPEATS] = 0
        else:
            self._committed[_REPEATS] = frame.repeat + 1
        self._write(self._first[schema.COMMITTED], ..., self._committed)
        self._flush()

    def _write(self, dataset: h5py.Dataset, place: Any, value: Any) -> None:
        """The one way into the file."""
        self._fault(f"before {dataset.name}")
        # Kept open until the file is closed: HDF5 holds small writes back, and an error in the late write of a dataset
        # that is being discarded would be lost. Open, it is `_flush` that writes and fails.
        dataset = self._open.setdefault(dataset.name, dataset)
        with as_os_error(self._path):
            dataset[place] = value
        self._fault(f"after {dataset.name}")

    def _flush(self) -> None:
        self._fault("before flush")
        with as_os_error(self._path):
            self._file.flush()
        self._fault("after flush")
