"""A calibration of one run for the frames of another: probe, distance and flux of the bench, never its object."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Scan
from recon.illumination import Illumination

from .read import open_run
from .results import StoredCalibration, load_calibration

LENGTHS = ("pixel_size_m", "wavelength_m")
SAME = 1e-6
"""Relative difference of two lengths that count as the same."""


@dataclass(frozen=True)
class Source:
    """Which calibration a run relies on.

    Attributes:
        path: the calibrated run, absolute.
        sha256: of what is reused (`digest`), so that results stored in that run later do not matter.
        bench: what that run was taken with, see `RunFile.bench`.
    """

    path: str
    sha256: str
    bench: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Source:
        """The calibration in a run, which has to be complete: light that is spent under it does not come back.

        Raises `DatasetError` as `whole_calibration`.
        """
        stored = whole_calibration(path, complete=True)
        with open_run(path) as run:
            return cls(str(path.resolve()), digest(stored), run.bench)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Source:
        raw = json.loads(text)
        return cls(raw["path"], raw["sha256"], raw["bench"])


def digest(calibration: StoredCalibration) -> str:
    """SHA-256 of probe, pitch, distance and positions."""
    total = hashlib.sha256()
    for values in (calibration.probe, calibration.positions_m):
        total.update(np.ascontiguousarray(values).tobytes())
    total.update(np.array([calibration.probe_pixel_m, calibration.distance_m]).tobytes())
    return total.hexdigest()


def differences(calibrated: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what two benches differ, as a list of words; "" where a calibration of the one holds for the other."""
    found = []
    for name, theirs in calibrated.items():
        ours = here[name]
        same = math.isclose(theirs, ours, rel_tol=SAME) if name in LENGTHS else theirs == ours
        if not same:
            found.append(f"{name} {theirs!r} instead of {ours!r}")
    return ", ".join(found)


def calibration_of(path: Path, given: Path | None) -> Path | None:
    """The run whose calibration is to be reused for the frames of `path`; None where it has its own.

    Raises:
        DatasetError: a low-dose run's calibration is gone or is no longer what it was.
    """
    if given is not None:
        return given
    with open_run(path) as run:
        text = run.calibration_source
    if not text:
        return None
    source = Source.from_json(text)
    # Moved together with its calibration, a run still finds it beside itself.
    places = [Path(source.path), path.parent / Path(source.path).name]
    place = next((p for p in places if p.is_file()), None)
    if place is None:
        raise DatasetError(f"{path}: its calibration {source.path} is not there; give it with --calibration")
    found = digest(whole_calibration(place))
    if found != source.sha256:
        raise DatasetError(
            f"{path}: {place} has been calibrated anew since (digest {found[:8]}, the scan had {source.sha256[:8]}); "
            "give it with --calibration if that is meant"
        )
    return place


@dataclass(frozen=True)
class Reusable:
    """What of a calibration holds for a new sample on the same bench, never its object.

    Attributes:
        probe, distance_m, positions_m: see `StoredCalibration`.
        window: side of the lit window, pixels.
        stage_m: (N, 2) positions of the same frames as their stage had them.
        empty: (H, W) electrons of the empty beam, or None; good: (H, W) bool, its good pixels.
        empty_exposure_s: its exposure, or None.
    """

    probe: NDArray[np.complex64]
    distance_m: float
    positions_m: NDArray[np.float64]
    window: int
    stage_m: NDArray[np.float64]
    empty: NDArray[np.float32] | None
    empty_exposure_s: float | None
    good: NDArray[np.bool_]

    @classmethod
    def of(cls, path: Path) -> Reusable:
        """The calibration in a run. Raises `DatasetError` as `whole_calibration`."""
        stored = whole_calibration(path)
        with open_run(path) as run:
            bright = run.streamed(1)
            return cls(
                stored.probe,
                stored.distance_m,
                stored.positions_m,
                int(stored.settings["window_px"]),
                bright.positions_m,
                bright.empty,
                bright.empty_exposure_s,
                bright.mask,
            )

    def illumination(self, data: Scan) -> Illumination:
        """At the points of a scan, whose positions are its own stage's. Raises `DatasetError`: a beam without light."""
        matrix, shift = _affine(self.stage_m, self.positions_m)
        # A later pass sends the stage to the same places: one position for each point.
        indices, point = np.unique(data.indices, return_inverse=True)
        sums = np.zeros((len(indices), 2))
        np.add.at(sums, point, data.positions_m)
        places = sums / np.bincount(point)[:, None]
        probe = self.probe * np.float32(math.sqrt(self._flux_ratio(data)))
        geometry = replace(data.geometry, distance_m=self.distance_m)
        return Illumination(probe.astype(np.complex64), geometry, places @ matrix.T + shift, indices)

    def _flux_ratio(self, data: Scan) -> float:
        if data.empty is None or self.empty is None or not data.empty_exposure_s or not self.empty_exposure_s:
            return 1.0
        good = data.mask & self.good
        now = float(data.empty[good].sum(dtype=np.float64)) / data.empty_exposure_s
        then = float(self.empty[good].sum(dtype=np.float64)) / self.empty_exposure_s
        if not (now > 0 and then > 0):
            raise DatasetError(f"{data.name}: its empty beam holds no light; was the beam blocked?")
        return now / then


def reused_illumination(path: Path, entry: int, other: Path) -> tuple[Illumination, int]:
    """The illumination of `other`'s calibration at the points of an entry of `path`, and its lit window in pixels.

    The positions are those of this run's stage, through the affine map that the other's calibration found between its
    stage and its corrected positions: rotation, scale, shear and the joint shift belong to the bench. What each arrival
    missed its target by is unknown here. Where both runs have an empty beam, the flux follows their ratio.

    Raises:
        DatasetError: another bench (what differs is named), or `other` is not calibrated.
    """
    whole_calibration(other)
    with open_run(path) as run, open_run(other) as theirs:
        different = differences(theirs.bench, run.bench)
        if different:
            raise DatasetError(f"{other}: its calibration is of {different} of {path}; calibrate the bench of that run")
        data = run.streamed(entry)
    known = Reusable.of(other)
    return known.illumination(data), known.window


def whole_calibration(path: Path, complete: bool = False) -> StoredCalibration:
    """The calibration in a run; one that was interrupted says so, see `unfinished`.

    Args:
        path: the run.
        complete: refuse one that was interrupted.

    Raises:
        DatasetError: not a run; not calibrated; or it was, of fewer frames, before its scan was resumed, or of other
            visits, before points were taken again.
    """
    stored = load_calibration(path)
    if stored is None:
        raise DatasetError(f"{path}: is not calibrated yet; run `ptychoscope calibrate {path}` first")
    with open_run(path) as run:
        frames, visits = len(run.streamed(1)), run.visits(1)
        points = run.points(1)
    if len(stored.positions_m) != frames:
        raise DatasetError(
            f"{path}: its calibration is of {len(stored.positions_m)} frames, the bright scan has {frames} by now; "
            f"run `ptychoscope calibrate {path}` again"
        )
    # Files of older versions do not say: their calibration counts as made before any point was taken again.
    made = np.zeros_like(visits) if stored.visits is None else stored.visits
    if again := sorted({int(point) for point in points[made != visits]}):
        named = f"point{'s' if len(again) > 1 else ''} {', '.join(map(str, again))}"
        raise DatasetError(
            f"{path}: its calibration is of an earlier visit to {named}, taken again since; "
            f"run `ptychoscope calibrate {path}` again"
        )
    if complete and stored.interrupted:
        raise DatasetError(f"{path}: {unfinished(stored)}; run `ptychoscope calibrate {path}` again")
    return stored


def unfinished(stored: StoredCalibration) -> str:
    """What to say of a calibration that was interrupted; "" for one that is complete."""
    return f"its calibration was interrupted after {counted(len(stored.loss), 'epoch')}" if stored.interrupted else ""


def counted(number: int, noun: str) -> str:
    """So many of them, in words: "1 epoch", "2 epochs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _affine(stage_m: NDArray, corrected_m: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares matrix (2, 2) and shift (2,) with corrected = matrix stage + shift."""
    if len(np.unique(stage_m, axis=0)) < 3:
        return np.eye(2), (corrected_m - stage_m).mean(0)
    design = np.concatenate([stage_m, np.ones((len(stage_m), 1))], 1)
    found = np.linalg.lstsq(design, corrected_m, rcond=None)[0]
    return found[:2].T, found[2]
