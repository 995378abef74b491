"""What a run file is made from: the description fixed at its creation, and the frames that fill it.

Plain numbers and texts: this package knows no device, plan or profile class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Geometry, Truth

from .darks import DarkSummary

StreamName = Literal["dark", "empty", "calibration", "evaluation"]
SAME_LEVEL_ADU = 0.01
"""Black levels that differ by less are the same setting, digital numbers."""


@dataclass(frozen=True)
class CameraRecord:
    """The camera as the run knew it.

    Attributes:
        model, serial: identity.
        electrons_per_adu: conversion gain.
        black_level_adu: nominal offset.
        saturation_adu: raw values from here on count as clipped.
        quantum_efficiency: electrons per photon.
        node_map: every setting that the camera has, as a JSON object; "" where it has none.
        gain_db: analogue gain.
        region: (top, left, rows, columns) of the sensor that is read out.
        read_noise_e, dark_current_e_s: electrons rms; electrons per pixel and second. NaN when nobody knows.
        exposure_offset_s: exposure that takes place minus the one that the camera reports.
        bit_depth: of the digital numbers; None when nobody knows.
    """

    model: str
    serial: str
    electrons_per_adu: float
    black_level_adu: float
    saturation_adu: float
    quantum_efficiency: float
    node_map: str = ""
    gain_db: float = 0.0
    region: tuple[int, int, int, int] = (0, 0, 0, 0)
    read_noise_e: float = math.nan
    dark_current_e_s: float = math.nan
    exposure_offset_s: float = 0.0
    bit_depth: int | None = None


@dataclass(frozen=True)
class StageRecord:
    """The stage as the run knew it.

    Attributes:
        model, serial: identity.
        stage_to_object: (2, 2) matrix; object position = matrix @ (displacement - centre), all (y, x).
        centre_m: (y, x) displacement at which the beam hits the object's origin.
    """

    model: str
    serial: str
    stage_to_object: tuple[tuple[float, float], tuple[float, float]]
    centre_m: tuple[float, float]

    def object_position(self, displacement_m: NDArray | tuple[float, float]) -> NDArray[np.float64]:
        """(..., 2) displacements (y, x) to (..., 2) positions of the illumination on the object, metres."""
        offset = np.asarray(displacement_m, np.float64) - np.asarray(self.centre_m)
        return offset @ np.asarray(self.stage_to_object, np.float64).T


@dataclass(frozen=True)
class RunDescription:
    """Everything that is known before the first frame and never changes.

    Attributes:
        title: for people.
        simulated: whether any device is simulated.
        geometry: nominal wavelength, distance, pitch and the frame's shape.
        illumination_m: diameter of the illumination at the object.
        camera, stage: the devices.
        positions: number of points of the plan's scan.
        calibration_exposure_s, calibration_frames: of the bright scan, whose entry bears this exposure.
        calibration_exposures_s: all exposures of the bright scan; without them it has the one.
        evaluation_exposures_s, evaluation_frames: ascending exposures of the series, and frames of each.
        empty_exposure_s, empty_frames: of the empty beam; 0 frames when there is none.
        empty_before: so many of them are taken before the scan, the others after it; None: all of them.
        dark_exposures_s: every exposure that has darks of its own.
        keep_darks: raw dark frames kept per exposure.
        plan_json, profile_json: as executed.
        steps: of the plan, where their order may be chosen on the way; 0: where it stays.
        seed: of the simulated noise, so that a resumed run takes the same frames.
        sample: what lies on the simulated stage, as it was asked for; "" when nobody said.
        software: names and versions.
        truth: of a simulated bench; its positions are filled in frame by frame.
        darks: darks of an earlier recording, by exposure; the other exposures' are still to come.
        darks_source: where those are from.
        calibration_source: JSON of `recon.files.reuse.Source`: the calibration that a low-dose run relies on.
        characterisation: text of the file with what was measured of the bench; "" when there is none.
        visit_frames: most frames of one visit to a point, for the room of points that are taken again; None: one of
            each exposure.
        spare_visits: so many visits may have to be taken again besides those that are interrupted.
        sample_name, notes: what people call the sample, and what they wrote down.
    """

    title: str
    simulated: bool
    geometry: Geometry
    illumination_m: float
    camera: CameraRecord
    stage: StageRecord
    positions: int
    calibration_exposure_s: float
    calibration_frames: int
    evaluation_exposures_s: tuple[float, ...]
    evaluation_frames: int
    empty_exposure_s: float
    empty_frames: int
    dark_exposures_s: tuple[float, ...]
    keep_darks: int
    plan_json: str
    profile_json: str
    seed: int = 0
    sample: str = ""
    software: Mapping[str, str] = field(default_factory=dict)
    truth: Truth | None = None
    calibration_exposures_s: tuple[float, ...] = ()
    empty_before: int | None = None
    darks: Mapping[float, DarkSummary] = field(default_factory=dict)
    darks_source: str = ""
    characterisation: str = ""
    calibration_source: str = ""
    visit_frames: int | None = None
    steps: int = 0
    spare_visits: int = 0
    sample_name: str = ""
    notes: str = ""


@dataclass(frozen=True)
class FrameRecord:
    """One frame on its way into the file.

    Attributes:
        stream: what it is for.
        step, repeat: its place in the plan, both from 0.
        last: whether it is the step's last frame, so that the step is complete with it.
        position_index: index of the scan point, -1 where none applies.
        asked_exposure_s: the plan's exposure: it chooses the entry.
        exposure_s: the exposure that took place.
        time: seconds since the epoch.
        image: (rows, columns) uint16 raw digital numbers.
        commanded_m, readback_m: (y, x) displacement of the stage; NaN where nobody commanded anything.
        true_position_m: (y, x) true position of the illumination on the object, simulated frames of the bright scan
            (of the evaluation points where there is none) only.
    """

    stream: StreamName
    step: int
    repeat: int
    last: bool
    position_index: int
    asked_exposure_s: float
    exposure_s: float
    time: float
    image: NDArray[np.uint16]
    commanded_m: tuple[float, float]
    readback_m: tuple[float, float]
    true_position_m: tuple[float, float] | None = None
