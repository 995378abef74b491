"""A run that arrives frame by frame, in any order, twice, or late: the same arrays as its file will hold in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.acquire.plan import Step, Stream
from app.runs import stored_plan
from app.worker.message import Begin, Darks, Frame, Key
from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.files.corrections import Dark, summarise_darks
from recon.files.layout import StageRecord
from recon.streaming import Electrons, Streamed

MOST_FRAMES = 1_000_000
"""Frames of a plan that is believed; the paper's scan has some two thousand."""
ASKED_IN_VAIN = 3
"""Darks that are asked for so often at the end of a run and do not come are not in its file."""


@dataclass(frozen=True)
class HeldFrames:
    """Raw frames (H, W) in memory. Implements `recon.streaming.RawFrames`."""

    images: Sequence[NDArray[np.uint16]]

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, columns = self.images[0].shape
        return len(self.images), rows, columns

    def raw(self, frame: int) -> NDArray:
        return self.images[frame]

    def close(self) -> None:
        """Nothing to let go of."""


class RunBook:
    """What has arrived of a run. Not safe for several threads.

    Args:
        begin: the run.

    Raises:
        DatasetError: its plan or profile cannot be read.

    Attributes:
        plan, profile: of the run.
        committed: (step, repeat) up to which frames are in its file.
        ended: how it ended, or "".
        left_out: steps among the committed ones that hold no frame.
        in_vain: how often darks alone were asked for since.
        geometry: nominal.
    """

    def __init__(self, begin: Begin):
        self.plan, self.profile = stored_plan(begin.plan, begin.profile, begin.name)
        self.begin = begin
        self.committed: Key = (0, 0)
        self.ended = ""
        self.left_out: frozenset[int] = frozenset()
        self.in_vain = 0
        self._stage = StageRecord("", "", begin.stage_to_object, begin.centre_m)
        self.geometry = Geometry(begin.wavelength_m, begin.distance_m, begin.pixel_size_m, begin.shape)
        self._frames: dict[Key, Frame] = {}
        self._news: dict[tuple[Stream, float | None], int] = {}
        self._darks: dict[float, Dark] = {}
        self._keys: dict[tuple[Stream, float | None], list[Key]] = {}
        self._check_steps()
        for step in self.plan.steps:
            if step.stream is not Stream.DARK:
                place = self._keys.setdefault(self._place(step), [])
                place += [(step.number, repeat) for repeat in range(step.repeats)]

    def _check_steps(self) -> None:
        """Raises `DatasetError`: a plan of more frames than any run has, or one that no program made."""
        total = 0
        for number, step in enumerate(self.plan.steps):
            good = type(step.repeats) is int and step.repeats >= 1 and step.number == number
            if not (good and isinstance(step.exposure_s, float | int) and 0 < step.exposure_s < math.inf):
                raise DatasetError(f"{self.begin.name}: step {number} of its plan cannot be; it is refused")
            total += step.repeats
        if total > MOST_FRAMES:
            raise DatasetError(f"{self.begin.name}: a plan of {total} frames, {MOST_FRAMES} at most; it is refused")

    @staticmethod
    def _place(step: Step) -> tuple[Stream, float | None]:
        """As the file has it: an entry for each evaluation exposure, one for the whole bright scan."""
        return step.stream, step.exposure_s if step.stream is Stream.EVALUATION else None

    # ---- What arrives ------------------------------------------------------------------------------------------------

    def add_darks(self, darks: Darks) -> None:
        """Raises `DatasetError`: of another shape, or too few."""
        if darks.mean.shape != self.geometry.shape or darks.variance.shape != self.geometry.shape:
            raise DatasetError(f"{self.begin.name}: darks of {darks.mean.shape}, frames have {self.geometry.shape}")
        if darks.count < 2:
            raise DatasetError(f"{self.begin.name}: {darks.count} darks of {darks.exposure_s:g} s; two are needed")
        gain = self.begin.electrons_per_adu
        mean, variance, good = summarise_darks(darks.mean, darks.variance, darks.count, gain)
        none = np.zeros(0)
        self._darks[darks.exposure_s] = Dark(mean, variance, good, darks.count, none.astype(np.int64), none)

    def add(self, frame: Frame) -> bool:
        """Take a frame in; false for one that is here already, or that a later visit has superseded.

        Raises:
            DatasetError: it is none of the plan's, or of another shape.
        """
        step = self.plan.steps[frame.step] if frame.step < len(self.plan.steps) else None
        known = step is not None and (
            frame.repeat < step.repeats
            and frame.stream == step.stream.value
            and self._there(step, frame.position_index)
            and math.isclose(frame.asked_exposure_s, step.exposure_s, rel_tol=1e-12)
            and step.stream is not Stream.DARK
        )
        if not known:
            raise DatasetError(f"{self.begin.name}: frame {frame.step}.{frame.repeat} is not in its plan")
        if frame.image.shape != self.geometry.shape:
            raise DatasetError(
                f"{self.begin.name}: a frame of {frame.image.shape}, the run's have {self.geometry.shape}"
            )
        key = (frame.step, frame.repeat)
        held = self._frames.get(key)
        if held is not None and held.time >= frame.time:
            return False
        self._frames[key] = frame
        assert step is not None
        self._news[self._place(step)] = self._news.get(self._place(step), 0) + 1
        return True

    def _there(self, step: Step, point: int) -> bool:
        """Whether a frame of a step can be of this point: the visits of a low-dose scan may change places."""
        if step.stream is Stream.EVALUATION and self.plan.low_dose:
            return point in self.plan.evaluation_indices
        return point == step.position_index

    def copy(self) -> RunBook:
        """As it is now, to be read by another thread while this one goes on."""
        other = copy(self)
        other._frames, other._darks, other._news = dict(self._frames), dict(self._darks), dict(self._news)
        return other

    # ---- What there is -----------------------------------------------------------------------------------------------

    @property
    def exposures(self) -> tuple[float, ...]:
        """Of the evaluation series, ascending."""
        return self.plan.evaluation_exposures_s

    @property
    def whole(self) -> bool:
        """Whether everything committed by the end of the run has arrived."""
        return bool(self.ended) and not self.lacks()

    @property
    def settled(self) -> bool:
        """Whether nothing more can come: darks may arrive after the last frame, or be none."""
        return self.whole and (self.in_vain >= ASKED_IN_VAIN or not self.lacking_darks())

    def lacks(self) -> tuple[Key, ...]:
        """Frames that are in the file and have not arrived, the bright scan's first."""
        order = {Stream.EMPTY: 0, Stream.CALIBRATION: 1, Stream.EVALUATION: 2}
        found: list[Key] = []
        for place in sorted(self._keys, key=lambda place: order[place[0]]):
            found += [key for key in self._taken(place) if key not in self._frames]
        return tuple(found)

    def lacking_darks(self) -> tuple[float, ...]:
        """Exposures of committed steps whose darks have not arrived."""
        own = {step.exposure_s for step in self.plan.steps if step.stream is Stream.DARK}
        seen = {step.exposure_s for step in self._steps_begun() if step.stream is not Stream.DARK}
        past = {step.exposure_s for step in self.plan.steps[: self.committed[0]] if step.stream is Stream.DARK}
        # Darks of an earlier recording are there from the beginning.
        return tuple(sorted(((seen - own) | past) - set(self._darks)))

    def _steps_begun(self) -> Iterator[Step]:
        step, repeat = self.committed
        yield from self.plan.steps[:step]
        if repeat and step < len(self.plan.steps):
            yield self.plan.steps[step]

    def evaluation(self, exposure_s: float) -> list[Key]:
        """Frames of an exposure that are here, in the file's order."""
        return self._present((Stream.EVALUATION, exposure_s))

    def taken(self, exposure_s: float) -> dict[Key, float]:
        """Frames of an exposure that are here, in the file's order, and when they were taken."""
        return {key: self._frames[key].time for key in self.evaluation(exposure_s)}

    def news(self, exposure_s: float) -> int:
        """How often a frame of an exposure has come that was not there, or took another's place."""
        return self._news.get((Stream.EVALUATION, exposure_s), 0)

    def committed_frames(self, exposure_s: float) -> int:
        """Frames of an exposure that are in the file."""
        return len(self._taken((Stream.EVALUATION, exposure_s)))

    def bright_indices(self) -> NDArray[np.int64]:
        """Scan points of the bright scan's frames, in the file's order."""
        keys = self._keys.get((Stream.CALIBRATION, None), [])
        return np.array([self.plan.steps[step].position_index for step, _ in keys], np.int64)

    def bright_times(self) -> NDArray[np.float64]:
        """When the bright scan's frames that are here were taken, seconds since the epoch, in the file's order."""
        return np.array([self._frames[key].time for key in self._present((Stream.CALIBRATION, None))], np.float64)

    def places(self, exposure_s: float) -> dict[int, NDArray[np.float64]]:
        """Where the stage says it was at the points of an exposure's frames, means over the visits, on the object."""
        seen: dict[int, list[tuple[float, float]]] = {}
        for key in self.evaluation(exposure_s):
            frame = self._frames[key]
            seen.setdefault(frame.position_index, []).append(_pair(frame))
        return {index: self._stage.object_position(np.array(pairs)).mean(0) for index, pairs in seen.items()}

    def planned(self, exposure_s: float) -> int:
        """Frames of an exposure: as planned less those left out, or as many as the run has taken when it is over."""
        if self.ended:
            return self.committed_frames(exposure_s)
        return len([key for key in self._keys.get((Stream.EVALUATION, exposure_s), []) if key[0] not in self.left_out])

    @property
    def bright(self) -> bool:
        """Whether the bright scan is here, whole, with its darks."""
        keys = self._keys.get((Stream.CALIBRATION, None), [])
        return bool(keys) and all(key in self._frames for key in keys) and self._dark_enough(keys)

    @property
    def empties(self) -> bool:
        """Whether the frames of the empty beam that precede the scan are here; true where none are planned."""
        keys = self._keys.get((Stream.EMPTY, None), [])
        first = next((s.number for s in self.plan.steps if s.stream in (Stream.CALIBRATION, Stream.EVALUATION)), 0)
        before = [key for key in keys if key[0] < first]
        return all(key in self._frames for key in before) and self._dark_enough(before)

    def dark(self, exposure_s: float) -> bool:
        """Whether the darks of an exposure are here."""
        return exposure_s in self._darks

    def _dark_enough(self, keys: Sequence[Key]) -> bool:
        return {self.plan.steps[step].exposure_s for step, _ in keys} <= set(self._darks)

    def _taken(self, place: tuple[Stream, float | None]) -> list[Key]:
        """Frames that are in the file."""
        return [key for key in self._keys.get(place, []) if key < self.committed and key[0] not in self.left_out]

    def _present(self, place: tuple[Stream, float | None]) -> list[Key]:
        return [key for key in self._keys.get(place, []) if key in self._frames]

    # ---- As reconstructions take it ----------------------------------------------------------------------------------

    def bright_scan(self) -> Ptychogram:
        """The calibration scan. Raises `DatasetError`."""
        return self.ptychogram(self._present((Stream.CALIBRATION, None)), "calibration")

    def ptychogram(self, keys: Sequence[Key], name: str) -> Ptychogram:
        """These frames in electrons, exactly as `recon.files.read` makes them of the file. Raises `DatasetError`."""
        frames = [self._frames[key] for key in keys]
        if not frames:
            raise DatasetError(f"{self.begin.name}: no frame has arrived")
        steps = [self.plan.steps[frame.step] for frame in frames]
        asked = np.array([step.exposure_s for step in steps])
        mask = np.ones(self.geometry.shape, bool)
        variance = np.zeros(self.geometry.shape, np.float64)
        which, darks = np.zeros(len(frames), np.int64), []
        for number, exposure in enumerate(np.unique(asked)):
            members = np.flatnonzero(asked == exposure)
            dark = self._dark(float(exposure))
            darks.append(dark.mean_adu)
            which[members] = number
            mask &= dark.good
            variance += dark.variance * (len(members) / len(frames))
        empty, empty_exposure = self._empty()
        offset = self.begin.exposure_offset_s
        return Streamed(
            source=HeldFrames([frame.image for frame in frames]),
            electrons=Electrons(self.begin.electrons_per_adu, tuple(darks), which, self.begin.saturation_adu),
            chosen=np.arange(len(frames)),
            positions_m=np.array([self._stage.object_position(_pair(frame)) for frame in frames]),
            exposures_s=np.array([frame.exposure_s for frame in frames]) + offset,
            geometry=self.geometry,
            dark_variance=variance.astype(np.float32),
            mask=mask,
            indices=np.array([frame.position_index for frame in frames], np.int64),
            quantum_efficiency=self.begin.quantum_efficiency,
            name=f"{self.begin.name} {name}",
            empty=empty,
            empty_exposure_s=empty_exposure,
        ).load()

    def expected(self, exposure_s: float, count: int | None = None) -> Ptychogram:
        """What the first `count` (all) frames of an exposure will be, without light: where the stage will be sent.

        Raises:
            DatasetError: its darks have not arrived.
        """
        steps = [self.plan.steps[step] for step, _ in self._keys[Stream.EVALUATION, exposure_s][:count]]
        targets = [(s.target.y, s.target.x) if s.target is not None else (math.nan, math.nan) for s in steps]
        dark = self._dark(exposure_s)
        empty, empty_exposure = self._empty()
        return Ptychogram(
            frames=np.broadcast_to(np.float32(0), (len(steps), *self.geometry.shape)),
            positions_m=self._stage.object_position(np.array(targets)),
            exposures_s=np.full(len(steps), exposure_s + self.begin.exposure_offset_s),
            geometry=self.geometry,
            dark_variance=dark.variance.astype(np.float64).astype(np.float32),
            mask=dark.good.copy(),
            indices=np.array([step.position_index for step in steps], np.int64),
            name=f"{self.begin.name} to come",
            empty=empty,
            empty_exposure_s=empty_exposure,
        )

    def _dark(self, exposure_s: float) -> Dark:
        try:
            return self._darks[exposure_s]
        except KeyError:
            raise DatasetError(f"{self.begin.name}: darks of {exposure_s:g} s have not arrived") from None

    def _empty(self) -> tuple[NDArray[np.float32] | None, float | None]:
        keys = self._present((Stream.EMPTY, None))
        if not keys:
            return None, None
        frames = [self._frames[key] for key in keys]
        dark = self._dark(self.plan.steps[keys[0][0]].exposure_s)
        mean = np.stack([frame.image for frame in frames]).mean(axis=0, dtype=np.float64)
        exposure = float(np.mean([frame.exposure_s for frame in frames])) + self.begin.exposure_offset_s
        return ((mean - dark.mean_adu) * self.begin.electrons_per_adu).astype(np.float32), exposure


def _pair(frame: Frame) -> tuple[float, float]:
    return (math.nan, math.nan) if frame.readback_m is None else frame.readback_m
