"""The picture of a calibration: what it found, how it went, and what it leaves unexplained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PHASE,
    PURPLE,
    UNSEEN,
    VERMILION,
    bare,
    block_means,
    colour_bar,
    headed,
    round_length,
    save,
    scale_bar,
    styled,
)

DARK = 0.1
"""Amplitude of the probe, of its largest, below which it has no phase to show."""
OPAQUE = 0.2
"""Likewise of the object."""
STAGES = {"warm": GREY, "joint": ORANGE, "refine": PURPLE, "full": BLUE}


@dataclass(frozen=True)
class CalibrationPicture:
    """What the figure of a calibration shows.

    Attributes:
        probe: (K, K) complex, square root of electrons per pixel and second.
        object: (M, M) complex, index M//2 at the origin; lit: (M, M) where the light of the scan reached it.
        pixel_m: pitch of both; camera_pixel_m: of the frames.
        positions_m, nominal_m: (N, 2) found and commanded, (y, x).
        loss, distance_m: (epochs,); stages: their names.
        unexplained: (H, W) squared residuals over their variance, mean of the frames.
        unexplained_frames: (N,) the same of each frame.
        points: (N,) the frames' points in the plan.
    """

    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]
    lit: NDArray[np.bool_]
    pixel_m: float
    camera_pixel_m: float
    positions_m: NDArray[np.float64]
    nominal_m: NDArray[np.float64]
    loss: NDArray[np.float64]
    distance_m: NDArray[np.float64]
    stages: tuple[str, ...]
    unexplained: NDArray[np.float32]
    unexplained_frames: NDArray[np.float64]
    points: NDArray[np.int64]


@styled
def calibration_figure(picture: CalibrationPicture, heading: str, path: Path) -> Path:
    """Probe, object, corrected positions, the calibration's course and what it leaves unexplained; returns the path."""
    figure = Figure(figsize=(14.0, 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.0, 1.05))[:, 0]
    pictures, plots = above.subplots(1, 5), below.subplots(1, 4)
    _probe(pictures[0], pictures[1], picture)
    _object(pictures[2], pictures[3], picture)
    drawn = pictures[4].imshow(block_means(picture.unexplained, 256), cmap="RdBu_r", vmin=0, vmax=2)
    bare(pictures[4], "unexplained, mean of frames")
    colour_bar(pictures[4], drawn, "squared residual / variance", extend="max")
    scale_bar(pictures[4], picture.unexplained.shape[1] * picture.camera_pixel_m)
    _positions(plots[0], picture)
    _course(plots[1], plots[2], picture)
    plots[3].plot(picture.points, picture.unexplained_frames, ".", color=VERMILION)
    plots[3].axhline(1.0, color=GREY, linewidth=0.8)
    plots[3].set(title="unexplained, frame by frame", xlabel="point of the scan", ylabel="squared residual / variance")
    headed(figure, heading)
    return save(figure, path)


def _probe(left: Axes, right: Axes, picture: CalibrationPicture) -> None:
    amplitude = np.abs(picture.probe)
    top = float(np.percentile(amplitude, 99.9)) or 1.0
    drawn = left.imshow(amplitude, cmap="inferno", vmin=0, vmax=top)
    bare(left, "probe, amplitude")
    colour_bar(left, drawn, r"$\sqrt{\mathrm{e}^-\,\mathrm{px}^{-1}\,\mathrm{s}^{-1}}$")
    scale_bar(left, len(picture.probe) * picture.pixel_m)
    _phase(right, picture.probe, amplitude > DARK * top, "probe, phase (grey: dark)")


def _object(left: Axes, right: Axes, picture: CalibrationPicture) -> None:
    """Where there was light; the margins of the grid are left out."""
    size = len(picture.object)
    rows, columns = (np.flatnonzero(picture.lit.any(axis)) for axis in (1, 0))
    half = min(size // 2, int(max(abs(edge - size // 2) for edge in (rows[0], rows[-1], columns[0], columns[-1]))) + 4)
    middle = slice(size // 2 - half, size // 2 + half)
    obj, lit = picture.object[middle, middle], picture.lit[middle, middle]
    amplitude = np.abs(obj)
    low, high = np.percentile(amplitude[lit], [1, 99.5])
    left.set_facecolor(UNSEEN)
    drawn = left.imshow(np.where(lit, amplitude, np.nan), cmap="gray", vmin=low if low > 0.3 * high else 0.0, vmax=high)
    bare(left, "object, amplitude (grey: no light)")
    colour_bar(left, drawn, "transmission")
    scale_bar(left, len(obj) * picture.pixel_m)
    seen = lit & (amplitude > OPAQUE * high)
    _phase(right, obj, seen, "object, phase (grey: opaque)")


def _phase(axes: Axes, field: NDArray, seen: NDArray, title: str) -> None:
    """Cyclic colours where all phases occur, else diverging ones about zero."""
    reach = max(float(np.percentile(np.abs(np.angle(field[seen])), 99)), 1e-3) if seen.any() else np.pi
    style: dict[str, Any] = PHASE if reach > np.pi / 2 else {"cmap": "PuOr", "vmin": -reach, "vmax": reach}
    axes.set_facecolor(UNSEEN)
    drawn = axes.imshow(np.where(seen, np.angle(field), np.nan), **style)
    bare(axes, title)
    colour_bar(axes, drawn, "rad")


def _positions(axes: Axes, picture: CalibrationPicture) -> None:
    """Where the points were commanded to be and, magnified, how far from there they are."""
    nominal = picture.nominal_m * 1e6
    shift = (picture.positions_m - picture.nominal_m) * 1e6
    rms = float(np.sqrt((shift**2).sum(1).mean()))
    axes.plot(nominal[:, 1], nominal[:, 0], ".", color=GREY, markersize=3)
    arrows = axes.quiver(
        nominal[:, 1], nominal[:, 0], shift[:, 1], shift[:, 0], angles="xy", color=VERMILION, width=0.004
    )
    if rms > 0:
        length = round_length(2.5 * rms * 1e-6) * 1e6
        axes.quiverkey(arrows, 0.86, 0.96, length, f"{length:g} µm", labelpos="S", labelsep=0.04)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    axes.invert_yaxis()
    pixels = rms * 1e-6 / picture.pixel_m
    axes.set(title=f"position corrections, rms {rms:.3g} µm ({pixels:.2f} px)", xlabel="x (µm)", ylabel="y (µm)")


def _course(left: Axes, right: Axes, picture: CalibrationPicture) -> None:
    """Loss and distance, a colour a stage, each with a loss of its own."""
    epochs = np.arange(1, len(picture.loss) + 1)
    others = iter((GREEN, VERMILION))
    for stage in dict.fromkeys(picture.stages):
        chosen = np.array([s == stage for s in picture.stages])
        colour = STAGES.get(stage) or next(others, GREY)
        left.plot(epochs[chosen], picture.loss[chosen], ".-", color=colour, label=stage)
        right.plot(epochs[chosen], picture.distance_m[chosen] * 1e3, ".-", color=colour, label=stage)
    left.set_yscale("symlog", linthresh=1.0)
    if picture.stages:
        left.legend(title="stage, each with its own loss")
    left.set(title="course of the loss", xlabel="epoch", ylabel="loss per pixel and frame")
    right.ticklabel_format(useOffset=False)
    right.set(title="course of the distance", xlabel="epoch", ylabel="object to camera (mm)")
