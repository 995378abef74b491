"""A run as a worker hears of it, from its file: complete, interrupted or shown again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.acquire.plan import Plan, Stream
from app.runs import stored_plan
from app.worker.message import Begin, Calibrated, Carried, Darks, Frame, Key
from recon.files.dark_sets import read_dark_set
from recon.files.darks import DarkSummary
from recon.files.read import RunFile, open_run
from recon.files.recorded import RecordedFrames
from recon.files.results import StoredCalibration, load_calibration
from recon.files.reuse import Reusable, calibration_of, whole_calibration

SAME_EXPOSURE = 1e-6
"""Relative difference of two exposures that count as the same."""


class Source(Protocol):
    """Where a link gets what the worker asks for. Called in the link's thread; reading a file is allowed.

    What is asked for and is not to be had now is None, or left out: it is asked for again.
    """

    @property
    def begin(self) -> Begin: ...

    def fresh(self) -> tuple[list[Frame], Key]:
        """Frames since the last call, and (step, repeat) up to which, this one not included, frames are there."""
        ...

    @property
    def committed(self) -> Key: ...

    @property
    def ended(self) -> str:
        """How the run ended; "" while it goes on."""
        ...

    @property
    def left_out(self) -> tuple[int, ...]:
        """Steps before `committed` that hold no frame: there was enough light."""
        ...

    @property
    def exposed_s(self) -> float:
        """Time for which the sample has been exposed, superseded frames included."""
        ...

    def carried(self) -> Carried | None: ...

    def calibrated(self) -> Calibrated | None: ...

    def darks(self, exposure_s: float) -> Darks | None: ...

    def frames(self, keys: Sequence[Key]) -> list[Frame]: ...


class RecordedSource:
    """See above. The file is open only while something is read.

    Args:
        path: the run.
        run: its identity for the worker; None makes one.
        anew: calibrate again even where the run has a calibration.

    Raises:
        DatasetError: not a run, being written, or damaged.
    """

    def __init__(self, path: Path, run: str | None = None, anew: bool = False):
        self._path = path
        with open_run(path) as file:
            self.plan, _ = stored_plan(file.plan_json, file.profile_json, path.name)
            camera, (matrix, centre) = file.camera, file.stage_map
            self._committed: Key = (file.steps_committed, file.repeats_committed)
            self._outcome = file.outcome
            self._left_out = tuple(s.number for s in self.plan.left_out(self._committed[0], file.series_committed))
            self._superseded_s = superseded_s(self.plan, file)
            geometry, illumination_m = file.geometry(), file.illumination_m
            texts = (file.plan_json, file.profile_json)
        known = not self.plan.low_dose and not anew and load_calibration(path) is not None
        self.begin = Begin(
            run=run or uuid.uuid4().hex,
            name=path.name,
            plan=texts[0],
            profile=texts[1],
            wavelength_m=geometry.wavelength_m,
            distance_m=geometry.distance_m,
            pixel_size_m=geometry.pixel_size_m,
            shape=geometry.shape,
            illumination_m=illumination_m,
            electrons_per_adu=camera.electrons_per_adu,
            saturation_adu=camera.saturation_adu,
            quantum_efficiency=camera.quantum_efficiency,
            exposure_offset_s=camera.exposure_offset_s,
            stage_to_object=matrix,
            centre_m=centre,
            reuses=self.plan.low_dose,
            known=known,
        )
        self.order: tuple[Key, ...] = tuple(
            (step.number, repeat)
            for step in self.plan.steps
            if step.stream is not Stream.DARK and step.number not in self._left_out
            for repeat in range(step.repeats)
            if (step.number, repeat) < self._committed
        )
        self._places = self.plan.places()
        self._darks: dict[float, DarkSummary] | None = None

    @property
    def committed(self) -> Key:
        return self._committed

    def fresh(self) -> tuple[list[Frame], Key]:
        return [], self._committed

    @property
    def ended(self) -> str:
        return self._outcome

    @property
    def left_out(self) -> tuple[int, ...]:
        return self._left_out

    @property
    def exposed_s(self) -> float:
        return self._superseded_s + exposed_s(self.plan, self.committed, self._left_out)

    def carried(self) -> Carried | None:
        other = calibration_of(self._path, None)
        return None if other is None else carried(self.begin.run, other)

    def calibrated(self) -> Calibrated | None:
        if load_calibration(self._path) is None:
            return None
        found = whole_calibration(self._path, complete=True)
        with open_run(self._path) as run:
            return calibrated(self.begin.run, found, run.times(1))

    def darks(self, exposure_s: float) -> Darks | None:
        if self._darks is None:
            self._darks = dict(read_dark_set(self._path).darks)
        return darks_of(self.begin.run, exposure_s, self._darks)

    def frames(self, keys: Sequence[Key]) -> list[Frame]:
        found = []
        with RecordedFrames(self._path) as file:
            facts = {entry: file.facts(entry) for entry in {self._places[key][0] for key in keys}}
            for step_number, repeat in keys:
                entry, index = self._places[step_number, repeat]
                known, step = facts[entry], self.plan.steps[step_number]
                if index >= len(known):
                    continue
                y, x = (float(v) for v in known.readback_m[index])
                found.append(
                    Frame(
                        run=self.begin.run,
                        stream=step.stream.value,
                        step=step_number,
                        repeat=repeat,
                        position_index=step.position_index,
                        asked_exposure_s=step.exposure_s,
                        exposure_s=float(known.exposures_s[index]),
                        time=float(known.times[index]),
                        readback_m=(y, x) if np.isfinite([y, x]).all() else None,
                        image=file.image(entry, index),
                    )
                )
        return found


SAMPLE = (Stream.CALIBRATION, Stream.EVALUATION)
"""Streams during which the sample is in the beam."""


def exposed_s(plan: Plan, committed: Key, left_out: Collection[int] = ()) -> float:
    """Exposure of the sample in the frames before `committed`, each once."""
    total = 0.0
    for step in plan.steps[: committed[0] + 1]:
        if step.stream in SAMPLE and step.number not in left_out:
            total += step.exposure_s * (step.repeats if step.number < committed[0] else committed[1])
    return total


def superseded_s(plan: Plan, run: RunFile) -> float:
    """Exposure of the sample in the frames of a run that later visits took the place of."""
    exposures = {place: plan.steps[key[0]].exposure_s for key, place in plan.places().items()}
    return sum(exposures[place] for revision in run.revisions for place in revision.superseded)


def calibrated(run: str, found: StoredCalibration, times: NDArray[np.float64]) -> Calibrated:
    """A calibration as it is sent; `times` (N,) are those of its frames."""
    return Calibrated(
        run=run,
        probe=found.probe,
        object=found.object,
        pixel_m=found.probe_pixel_m,
        distance_m=found.distance_m,
        positions_m=found.positions_m,
        times=times,
        loss=found.loss,
        settings=json.dumps(dict(found.settings)),
        software=json.dumps(dict(found.software)),
    )


def carried(run: str, path: Path) -> Carried:
    """What of the calibration in a run holds for another. Raises `DatasetError`."""
    known = Reusable.of(path)
    return Carried(
        run=run,
        probe=known.probe,
        distance_m=known.distance_m,
        positions_m=known.positions_m,
        window=known.window,
        stage_m=known.stage_m,
        empty=np.zeros((0, 0), np.float32) if known.empty is None else known.empty,
        empty_exposure_s=known.empty_exposure_s or 0.0,
        good=known.good,
    )


def darks_of(run: str, exposure_s: float, held: dict[float, DarkSummary]) -> Darks | None:
    """The darks of an exposure among others."""
    for own, summary in held.items():
        if abs(own - exposure_s) <= SAME_EXPOSURE * exposure_s:
            return Darks(run, exposure_s, summary.count, summary.mean, summary.variance)
    return None
