"""Image, deviation and share recovered against photons for each order of the points, and where those points lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.studies.nextframe_curves import OrderCurve

COLOURS = {
    "spiral": "0.45",
    "random": "tab:green",
    "prior": "tab:orange",
    "posterior": "tab:blue",
    "deviation": "tab:purple",
}


def next_study_figure(
    curves: Sequence[OrderCurve], positions_m: NDArray[np.float64], sigma: float, heading: str, path: Path
) -> Path:
    """Draws and writes it; returns the path.

    Args:
        positions_m: (N, 2) of all points of the spiral.
        sigma: the target's deviation.
    """
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    (image, deviation), (share, places) = figure.subplots(2, 2)
    for k, curve in enumerate(curves):
        style = {"color": COLOURS[curve.order], "marker": ".", "label": curve.order}
        image.plot(curve.photons, curve.psnr32_db, **style)
        deviation.plot(curve.photons, curve.sigma, **style)
        share.plot(curve.photons, 100 * curve.reached, **style)
        # Below the curves, one under the other: mean photons to the target and their interval.
        height, found = -9 - 7 * k, curve.to_target
        share.plot([found.low, found.high], [height, height], color=COLOURS[curve.order], lw=1.5)
        share.plot([found.mean], [height], color=COLOURS[curve.order], marker="|", ms=9, mew=2)
    deviation.axhline(sigma, color="0.85", lw=0.8, zorder=0)
    share.set_ylim(-9 - 7 * len(curves), 104)
    share.set_yticks(range(0, 101, 20))
    for axes, label in (
        (image, "mean PSNR32 (dB)"),
        (deviation, "mean standard deviation"),
        (share, "met the target (%); below: mean photons to it"),
    ):
        axes.set_xlabel("photons on the sample")
        axes.set_ylabel(label)
        axes.set_xlim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    image.legend(frameon=False, fontsize=8)
    places.set_aspect("equal")
    places.plot(positions_m[:, 1] * 1e3, positions_m[:, 0] * 1e3, ".", color="0.88", ms=3)
    for curve in curves:
        visited, often = np.unique(curve.points, return_counts=True)
        mean = often / len(curve.points)
        at = positions_m[visited] * 1e3
        places.scatter(at[:, 1], at[:, 0], s=60 * mean, facecolors="none", edgecolors=COLOURS[curve.order], lw=0.9)
    places.set_xlabel("x (mm)")
    places.set_ylabel("y (mm); area: frames a scan")
    figure.suptitle(heading, fontsize=10)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
