"""A run as a worker hears of it, from its file: complete, interrupted or shown again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from app.acquire.plan import Plan, Stream
from app.worker.message import Begin, Calibrated, Carried, Darks, Frame, Key
from recon.files.dark_sets import read_dark_set
from recon.files.darks import DarkSummary
from recon.files.read import open_run
from recon.files.recorded import EMPTY, RecordedFrames
from recon.files.results import load_calibration
from recon.files.reuse import Reusable, calibration_of

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
            self.plan = Plan.from_json(file.plan_json)
            camera, (matrix, centre) = file.camera, file.stage_map
            self._committed: Key = (file.steps_committed, file.repeats_committed)
            self._outcome = file.outcome
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
            if step.stream is not Stream.DARK
            for repeat in range(step.repeats)
            if (step.number, repeat) < self._committed
        )
        self._places = _places(self.plan)
        self._darks: dict[float, DarkSummary] | None = None

    @property
    def committed(self) -> Key:
        return self._committed

    def fresh(self) -> tuple[list[Frame], Key]:
        return [], self._committed

    @property
    def ended(self) -> str:
        return self._outcome

    def carried(self) -> Carried | None:
        other = calibration_of(self._path, None)
        return None if other is None else carried(self.begin.run, other)

    def calibrated(self) -> Calibrated | None:
        found = load_calibration(self._path)
        if found is None:
            return None
        return Calibrated(
            run=self.begin.run,
            probe=found.probe,
            object=found.object,
            pixel_m=found.probe_pixel_m,
            distance_m=found.distance_m,
            positions_m=found.positions_m,
            loss=found.loss,
            settings=json.dumps(dict(found.settings)),
            software=json.dumps(dict(found.software)),
        )

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


def _places(plan: Plan) -> dict[Key, tuple[int, int]]:
    """Entry and index in it of every frame of a plan but the darks."""
    done: dict[int, int] = {}
    places = {}
    for step in plan.steps:
        if step.stream is Stream.DARK:
            continue
        entry = 1
        if step.stream is Stream.EMPTY:
            entry = EMPTY
        elif step.stream is Stream.EVALUATION:
            entry = 2 + plan.evaluation_exposures_s.index(step.exposure_s)
        for repeat in range(step.repeats):
            places[step.number, repeat] = (entry, done.get(entry, 0))
            done[entry] = done.get(entry, 0) + 1
    return places


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
