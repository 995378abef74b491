"""Image, deviation and share recovered against photons for each order of the points, and where those points lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, headed, save, styled
from app.studies.nextframe_curves import OrderCurve

COLOURS = {
    "spiral": GREY,
    "random": GREEN,
    "prior": ORANGE,
    "posterior": BLUE,
    "deviation": PURPLE,
}


@styled
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
    deviation.axhline(sigma, color=GREY, lw=0.8, ls="--", zorder=0)
    deviation.annotate(
        "target", (1, sigma), xycoords=("axes fraction", "data"), xytext=(-2, -3), textcoords="offset points",
        ha="right", va="top", color=GREY,
    )  # fmt: skip
    share.set_title("share of scans; bars below: mean photons to the target")
    places.set_title("points visited; area: frames a scan")
    share.set_ylim(-9 - 7 * len(curves), 104)
    share.set_yticks(range(0, 101, 20))
    for axes, label in (
        (image, "mean PSNR of 32 x 32 pixels (dB)"),
        (deviation, "mean standard deviation"),
        (share, "met the target (%)"),
    ):
        axes.set_xlabel("photons on the sample")
        axes.set_ylabel(label)
        axes.set_xlim(0, None)
    image.legend(title="order of the points")
    places.set_aspect("equal", adjustable="datalim")
    places.invert_yaxis()
    places.plot(positions_m[:, 1] * 1e6, positions_m[:, 0] * 1e6, ".", color="0.88", ms=3)
    for curve in curves:
        visited, often = np.unique(curve.points, return_counts=True)
        mean = often / len(curve.points)
        at = positions_m[visited] * 1e6
        places.scatter(at[:, 1], at[:, 0], s=60 * mean, facecolors="none", edgecolors=COLOURS[curve.order], lw=0.9)
    places.set_xlabel("x (µm)")
    places.set_ylabel("y (µm)")
    headed(figure, heading)
    return save(figure, path)
