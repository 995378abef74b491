"""The paper's Fig. 5, with success below: PSNR against photons per exposure, a colour a method, a line a read noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from app.drawing import BLUE, GREEN, ORANGE, VERMILION, headed, save, styled
from app.studies.curves import Curve, Dose

LABELS = {
    "latent": "latent, this program",
    "hybrid": "hybrid",
    "paper": "latent, the paper's estimator",
    "pixel": "conventional",
}
COLOURS = {"latent": BLUE, "hybrid": VERMILION, "paper": ORANGE, "pixel": GREEN}
STYLES: tuple[LineStyleType, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
"""One a decoder."""


@styled
def dose_study_figure(curves: Sequence[Curve], baselines: tuple[float, float], heading: str, path: Path) -> Path:
    """Draws and writes it; returns the path.

    Args:
        baselines: mean PSNR over the objects of the prior's mean image and of the noise-free fit.
    """
    figure = Figure(figsize=(7.6, 8.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.set_xscale("log")
    above.set_xlim(min(c.photons[0] for c in curves) / 1.3, max(c.photons[-1] for c in curves) * 1.3)
    decoders = list(dict.fromkeys(c.decoder for c in curves if c.decoder))
    noises = sorted({c.read_noise for c in curves})
    for level in (50, 90):
        below.axhline(level, color="0.85", lw=0.7, zorder=0)
    for curve in curves:
        colour, style = COLOURS[curve.method], STYLES[noises.index(curve.read_noise) % len(STYLES)]
        marker = MARKERS[decoders.index(curve.decoder) % len(MARKERS)] if curve.decoder else "."
        for axes, values in ((above, curve.psnr_db), (below, 100 * curve.success)):
            axes.plot(curve.photons, values, color=colour, linestyle=style, marker=marker, markersize=4)
        above.fill_between(curve.photons, curve.band_db[:, 0], curve.band_db[:, 1], color=colour, alpha=0.1, lw=0)
        for level, found in ((50, curve.dose50), (90, curve.dose90)):
            _mark(below, found, level, colour)
    for value, text, side in zip(
        baselines, ("prior mean", "noise-free fit of the reference decoder"), ("right", "left"), strict=True
    ):
        above.axhline(value, color="0.5", lw=0.8)
        above.annotate(
            text, (1 if side == "right" else 0, value), xycoords=("axes fraction", "data"), fontsize=8, color="0.35",
            xytext=(-4 if side == "right" else 4, 2), textcoords="offset points", ha=side,
        )  # fmt: skip
    above.set_ylabel("PSNR (dB); band: 16-84 % of objects")
    below.set_ylabel("success (%); x: dose50, dose90")
    below.set_xlabel("photons per exposure")
    below.set_ylim(-4, 104)
    for axes in (above, below):
        axes.grid(axis="x", color="0.92", lw=0.6)
    methods = list(dict.fromkeys(c.method for c in curves))
    entries = [Line2D([], [], color=COLOURS[method], label=LABELS[method]) for method in methods]
    entries += [
        Line2D([], [], color="0.3", linestyle=STYLES[k % len(STYLES)], label=f"read noise {noise:g} e-")
        for k, noise in enumerate(noises)
    ]
    entries += [
        Line2D([], [], color="0.3", linestyle="", marker=MARKERS[k % len(MARKERS)], markersize=4, label=Path(name).stem)
        for k, name in enumerate(decoders)
    ]
    headed(figure, heading)
    figure.legend(handles=entries, loc="outside lower center", ncols=3)
    return save(figure, path)


def _mark(axes: Axes, found: Dose, level: float, colour: str) -> None:
    """A cross where success is `level` per cent, with its interval where both ends are known."""
    if found.photons is None:
        return
    axes.plot([found.photons], [level], marker="x", color=colour, markersize=6, linestyle="", zorder=3)
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [level, level], color=colour, lw=2.5, alpha=0.45, solid_capstyle="butt")
