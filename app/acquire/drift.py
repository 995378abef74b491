"""Did the beam change during a scan: the empty beam before against after, with errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from recon.files import schema
from recon.files.read import EmptyBeam, open_run
from recon.files.results import load_result, store_result

LIT = 0.05
"""Pixels brighter than this share of the peak are the beam."""
SIGNIFICANT = 5.0
"""Changes of so many standard errors are not chance."""
FLUX_MATTERS = 2e-3
"""Smaller relative changes of the flux harm no reconstruction."""
SHIFT_MATTERS_PX = 0.1
"""Smaller shifts of the beam harm none."""
ROUNDS = 5


@dataclass(frozen=True)
class Drift:
    """After minus before, with one standard error.

    Attributes:
        flux_change, flux_error: relative.
        shift_px, shift_error_px: (y, x) of the beam on the camera, pixels.
        seconds: between the middles of the two.
        frames_before, frames_after: how many.
    """

    flux_change: float
    flux_error: float
    shift_px: tuple[float, float]
    shift_error_px: tuple[float, float]
    seconds: float
    frames_before: int
    frames_after: int

    def warning(self) -> str | None:
        """One line when the beam moved or changed by more than chance and more than is harmless, else None."""
        parts = []
        if abs(self.flux_change) > max(SIGNIFICANT * self.flux_error, FLUX_MATTERS):
            parts.append(f"its flux changed by {100 * self.flux_change:+.2f} +- {100 * self.flux_error:.2f} %")
        if any(
            abs(shift) > max(SIGNIFICANT * error, SHIFT_MATTERS_PX)
            for shift, error in zip(self.shift_px, self.shift_error_px, strict=True)
        ):
            (y, x), (dy, dx) = self.shift_px, self.shift_error_px
            parts.append(f"its centre moved by ({y:+.2f} +- {dy:.2f}, {x:+.2f} +- {dx:.2f}) pixels (y, x)")
        if not parts:
            return None
        return (
            f"the beam was not steady in these {self.seconds:.0f} s: {' and '.join(parts)}; let it settle, scan again"
        )


def beam_drift(beam: EmptyBeam) -> Drift | None:
    """The change between the frames before and those after; None unless there are both.

    Least squares of the picture after on the picture before, shifted and scaled: a centre of mass would miss the light
    that leaves the pixels that are looked at. Errors: photon and read noise, and for the flux also the scatter from
    frame to frame where it is larger.
    """
    after = len(beam.frames) - beam.before
    if beam.before < 1 or after < 1:
        return None
    groups = (beam.frames[: beam.before], beam.frames[beam.before :])
    first, second = (group.mean(axis=0, dtype=np.float64) for group in groups)
    mean = (first + second) / 2
    lit = beam.good & (mean > LIT * np.percentile(mean[beam.good], 99.9))
    share = 1 / beam.before + 1 / after
    weight = 1 / ((np.maximum(mean[lit], 1.0) + beam.dark_variance[lit]) * share)
    filled = np.where(beam.good, first, ndimage.median_filter(first, 3))
    shift, brightness = np.zeros(2), 1.0
    covariance = np.eye(3)
    for _ in range(ROUNDS):
        moved = ndimage.shift(filled, shift, order=3, mode="nearest")
        slopes = [brightness * slope[lit] for slope in np.gradient(moved)]
        design = np.stack([moved[lit], -slopes[0], -slopes[1]], axis=1)
        covariance = np.linalg.inv(design.T @ (design * weight[:, None]))
        step = covariance @ (design.T @ (weight * (second[lit] - brightness * moved[lit])))
        brightness += step[0]
        shift += step[1:]
    scatter = [g[:, lit].sum(axis=1, dtype=np.float64) for g in groups]
    flicker = sum((s.std(ddof=1) / s.mean()) ** 2 / len(s) for s in scatter if len(s) > 1)
    times = beam.times[: beam.before].mean(), beam.times[beam.before :].mean()
    errors = np.sqrt(np.diag(covariance))
    return Drift(
        flux_change=float(brightness - 1.0),
        flux_error=float(np.sqrt(max(errors[0] ** 2, flicker))),
        shift_px=(float(shift[0]), float(shift[1])),
        shift_error_px=(float(errors[1]), float(errors[2])),
        seconds=float(times[1] - times[0]),
        frames_before=beam.before,
        frames_after=after,
    )


def record_drift(path: Path) -> Drift | None:
    """Compare the empty beams of a completed run and store the result in it, once; None where there is nothing to.

    Raises:
        DatasetError: not a run, or it cannot be written.
    """
    with open_run(path) as run:
        beam = run.empty_beam()
    drift = None if beam is None else beam_drift(beam)
    if drift is not None and load_result(path, 1, schema.DRIFT) is None:
        store_result(path, 1, {}, asdict(drift), schema.DRIFT)
    return drift


def stored_drift(path: Path) -> dict[str, Any] | None:
    """What `record_drift` stored, or None."""
    found = load_result(path, 1, schema.DRIFT)
    return None if found is None else found[1]
