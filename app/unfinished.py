"""A calibration or an image that somebody stopped: what is kept of it, and what is said of it. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.errors import Interrupted
from recon.dataset import DatasetError
from recon.files.results import load_calibration, load_result
from recon.files.reuse import counted, unfinished, whole_calibration

if TYPE_CHECKING:
    from recon.calibrate import Calibration

FOREIGN = "calibration.npz"
"""Where the calibration of somebody else's file is kept, in the folder of its figure."""


def holds_complete(place: Path) -> bool:
    """Whether a run, or the folder of somebody else's file, holds a calibration that serves as it is."""
    if not place.is_file():
        if not (place / FOREIGN).is_file():
            return False
        with np.load(place / FOREIGN) as stored:
            return not ("interrupted" in stored and bool(stored["interrupted"]))
    try:
        whole_calibration(place, complete=True)
    except DatasetError:
        return False
    return True


def what_is_left(calibration: Calibration, kept: bool, missing: bool, where: Path, checkpoint: Path | None) -> str:
    """What somebody who has stopped `calibrate` is told.

    Args:
        calibration: complete, if it was stopped in what comes after.
        kept: whether it was stored.
        missing: whether its standard deviations were wanted and are not there.
        where: where calibrations of this file are kept.
        checkpoint: what the same command goes on from.
    """
    epochs = counted(len(calibration.loss), "epoch")
    if not calibration.interrupted:
        without = " without standard deviations, which the same command finds" if missing else ""
        return f"calibrate: the calibration is complete and kept in {where}{without}"
    if kept:
        said = f"what {epochs} found is kept in {where}, marked as interrupted"
    else:
        said = f"{where} keeps its complete calibration, nothing of the {epochs} of this one"
    further = (
        "begins anew, with --checkpoint FILE it could go on" if checkpoint is None else f"goes on from {checkpoint}"
    )
    return f"calibrate: {said}; the same command {further}"


def warning_of(path: Path) -> str:
    """What whoever uses the calibration of a run has to be told; "" of one that is complete."""
    stored = load_calibration(path)
    if stored is None or not stored.interrupted:
        return ""
    return f"warning: {path}: {unfinished(stored)}; `ptychoscope calibrate {path}` makes a complete one"


def spare_complete(path: Path, entry: int, name: str, interrupted: bool) -> None:
    """Raise `Interrupted` where a part of an image would take the place of a complete one in its run."""
    before = load_result(path, entry, f"reconstruction_{name}") if interrupted else None
    if before is not None and not before[1].get("interrupted", False):
        raise Interrupted(
            f"reconstruct: {path} keeps its complete {name} image, nothing of this one; the same command begins anew"
        )


def image_left(path: Path, interrupted: bool) -> str:
    """What somebody who has stopped `reconstruct` is told."""
    if not interrupted:
        return f"reconstruct: the image is complete and kept in {path}"
    return f"reconstruct: what was found so far is kept in {path}, marked as interrupted; the same command begins anew"
