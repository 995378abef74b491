"""How far a calibration has come: what each epoch showed, when a stage has converged, best state and checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recon.dataset import DatasetError, Scan
from recon.files.arrays import UNREADABLE, opened_archive, why_unreadable
from recon.files.whole import whole
from recon.streaming import Sums
from recon.unknowns import GROUPS, Unknowns

if TYPE_CHECKING:
    from recon.fit import Fit

CALM = 3
"""Epochs in a row that must change less than the tolerances before a stage counts as converged."""
SETTLING = 0.75
"""Share of a stage's course from which on its steps are small; a stage that has converged goes there at once."""
LAST_SPEED = 0.05
"""Step sizes at a stage's end over those at its start: large steps find, small ones average the batches' noise."""
FIXED = ("nominal_px", "point", "lit")


@dataclass
class CourseTable:
    """What every epoch has shown: lists of equal length."""

    stages: list[str] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    distance_m: list[float] = field(default_factory=list)
    position_change_px: list[float] = field(default_factory=list)


class Course:
    """Progress through stages. Tolerances are those of `CalibrationSettings`.

    Attributes:
        table: of all epochs.
        epoch: number within the stage.
        share: how much of the stage's course is behind, 0 to 1; it may jump when the stage has converged.
        interrupted: ended on demand.
    """

    def __init__(self, loss_tolerance: float, distance_tolerance_m: float, position_tolerance_px: float):
        self.tolerances = (loss_tolerance, distance_tolerance_m, position_tolerance_px)
        self.table = CourseTable()
        self.name, self.epochs, self.epoch, self.share = "", 1, 0, 0.0
        self.best_loss, self.best = math.inf, dict[str, Tensor]()
        self.interrupted = False

    def begin(self, name: str, epochs: int) -> None:
        """A new stage of at most `epochs`."""
        self.name, self.epochs, self.epoch, self.share = name, epochs, 0, 0.0
        self.best_loss, self.best = math.inf, {}

    def stage_goes_on(self) -> bool:
        return self.share < 1 - 1e-9

    def speed(self) -> float:
        """Factor on the step sizes: constant in the warm stage, else a cosine down to `LAST_SPEED`."""
        if self.name == "warm":
            return 1.0
        return LAST_SPEED + (1 - LAST_SPEED) * 0.5 * (1 + math.cos(math.pi * self.share))

    def add(self, loss: float, distance_m: float, moved_px: float, unknowns: Unknowns) -> None:
        """Note an epoch, keep the state if it is the stage's best, and move on."""
        t = self.table
        t.stages.append(self.name)
        t.loss.append(loss)
        t.distance_m.append(distance_m)
        t.position_change_px.append(moved_px)
        if loss < self.best_loss:
            self.best_loss, self.best = loss, unknowns.snapshot()
        self.epoch += 1
        self.share += 1 / self.epochs
        if self.calm():
            self.share = SETTLING if self.share < SETTLING else 1.0

    def calm(self) -> bool:
        """Whether the last epochs of the stage changed loss, distance and positions by less than the tolerances."""
        if self.epoch <= CALM:
            return False
        recent = slice(-CALM, None)
        loss = np.array(self.table.loss[-CALM - 1 :])
        distance = np.array(self.table.distance_m[-CALM - 1 :])
        changes = (
            np.abs(np.diff(loss)) / max(float(np.abs(loss).mean()), 1e-30),
            np.abs(np.diff(distance)),
            np.array(self.table.position_change_px[recent]),
        )
        return all((change < limit).all() for change, limit in zip(changes, self.tolerances, strict=True))

    def restore_best(self, unknowns: Unknowns) -> None:
        """Give the unknowns the best state of the stage so far."""
        if self.best:
            unknowns.load(self.best)


@dataclass
class Checkpoint:
    """A calibration in mid course, read from a file."""

    stage: int
    scale: float
    unknowns: Unknowns
    tensors: dict[str, Tensor]
    notes: dict[str, Any]

    def restore(self, fit: Fit, course: Course) -> None:
        """Put a fit and a course where they were."""
        adam = fit.adam
        for k in range(len(GROUPS)):
            adam.first[k].copy_(self.tensors[f"first.{k}"])
            adam.second[k].copy_(self.tensors[f"second.{k}"])
        adam.fading.copy_(self.tensors["fading"])
        course.table = CourseTable(**self.notes["table"])
        course.epoch, course.share = self.notes["epoch"], self.notes["share"]
        course.best_loss = self.notes["best_loss"]
        course.best = {name: self.tensors[f"best.{name}"].to(adam.fading.device) for name in GROUPS}


def fingerprint(data: Scan, sums: Sums) -> list[float]:
    """What tells one scan from another."""
    return [float(len(data)), *map(float, data.geometry.shape), float(sums.total.sum()), data.geometry.distance_m]


def _alike(a: Any, b: list[float]) -> bool:
    # Several processes add up the frames in another order than one.
    return isinstance(a, list) and len(a) == len(b) and np.allclose(np.array(a, float), b, rtol=1e-9, atol=0)


def save_checkpoint(
    path: Path,
    mark: list[float],
    settings: Any,
    stage: int,
    unknowns: Unknowns,
    scale: float,
    fit: Fit,
    course: Course,
) -> None:
    """Write the state after an epoch; the file is complete or the one before. `mark` is the data's `fingerprint`."""
    tensors = {name: getattr(unknowns, name) for name in (*GROUPS, *FIXED)}
    for k in range(len(GROUPS)):
        tensors |= {f"first.{k}": fit.adam.first[k], f"second.{k}": fit.adam.second[k]}
    tensors |= {f"best.{name}": value for name, value in course.best.items()}
    tensors["fading"] = fit.adam.fading
    notes = {
        "settings": asdict(settings),
        "data": mark,
        "stage": stage,
        "scale": scale,
        "table": asdict(course.table),
        "epoch": course.epoch,
        "share": course.share,
        "best_loss": course.best_loss,
    }
    with whole(path) as part, part.open("wb") as file:
        np.savez(file, notes=np.array(json.dumps(notes)), **{k: v.cpu().numpy() for k, v in tensors.items()})


def load_checkpoint(path: Path, mark: list[float], settings: Any) -> Checkpoint | None:
    """The checkpoint in a file, or None where there is no file. `mark` is the data's `fingerprint`.

    Raises:
        DatasetError: unreadable, or of other data or settings.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, opened_archive(file) as archive:
            notes = json.loads(str(archive["notes"]))
            tensors = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "notes"}
    except (*UNREADABLE, KeyError) as error:
        raise DatasetError(
            f"{path}: not a calibration's checkpoint ({why_unreadable(error)}); give the name of one, or of a new file"
        ) from None
    if notes["settings"] != asdict(settings) or not _alike(notes["data"], mark):
        raise DatasetError(f"{path}: belongs to other data or settings; delete it to begin anew")
    unknowns = Unknowns(*(tensors[name] for name in ("object", "probe", *FIXED)))
    unknowns.load(tensors)
    return Checkpoint(notes["stage"], notes["scale"], unknowns, tensors, notes)
