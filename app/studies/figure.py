"""The paper's Fig. 5, with success below: PSNR against photons per exposure, a colour a method, a line a read noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from app.studies.curves import Curve

LABELS = {"latent": "latent, this program", "paper": "latent, the paper's estimator", "pixel": "conventional"}
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:olive")
STYLES: tuple[LineStyleType, ...] = ("-", "--", ":", "-.")


def dose_study_figure(curves: Sequence[Curve], baselines: tuple[float, float] | None, heading: str, path: Path) -> Path:
    """Draws and writes it; returns the path.

    Args:
        baselines: mean PSNR over the objects of the prior's mean image and of the noise-free fit.
    """
    figure = Figure(figsize=(7.6, 7.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.set_xscale("log")
    above.set_xlim(min(c.photons[0] for c in curves) / 1.3, max(c.photons[-1] for c in curves) * 1.3)
    names = list(dict.fromkeys((c.method, c.decoder) for c in curves))
    noises = sorted({c.read_noise for c in curves})
    for curve in curves:
        colour = COLOURS[names.index((curve.method, curve.decoder)) % len(COLOURS)]
        style = STYLES[noises.index(curve.read_noise) % len(STYLES)]
        look = {"color": colour, "linestyle": style, "marker": "o", "markersize": 3.5}
        above.plot(curve.photons, curve.psnr_db, **look)
        above.fill_between(curve.photons, curve.band_db[:, 0], curve.band_db[:, 1], color=colour, alpha=0.13, lw=0)
        below.plot(curve.photons, 100 * curve.success, **look)
        for value in (curve.dose50.photons, curve.dose90.photons):
            if value is not None:
                below.axvline(value, color=colour, linestyle=style, lw=0.7, alpha=0.6)
    if baselines is not None:
        for value, text in zip(baselines, ("prior mean", "noise-free fit of the reference decoder"), strict=True):
            above.axhline(value, color="0.5", lw=0.8)
            above.annotate(
                text, (1, value), xycoords=("axes fraction", "data"), xytext=(-4, 2),
                textcoords="offset points", fontsize=8, color="0.35", ha="right",
            )  # fmt: skip
    above.set_ylabel("PSNR (dB); band: 16-84 % of objects")
    below.set_ylabel("success (%)")
    below.set_xlabel("photons per exposure")
    below.set_ylim(-4, 104)
    for level in (50, 90):
        below.axhline(level, color="0.8", lw=0.7, zorder=0)
    for axes in (above, below):
        axes.grid(axis="x", color="0.92", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    entries = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], label=LABELS[method] + (f" ({decoder})" if decoder else ""))
        for k, (method, decoder) in enumerate(names)
    ]
    if len(noises) > 1:
        entries += [
            Line2D([], [], color="0.3", linestyle=STYLES[k % len(STYLES)], label=f"read noise {noise:g} e-")
            for k, noise in enumerate(noises)
        ]
    above.legend(handles=entries, fontsize=8, loc="best", frameon=False)
    figure.suptitle(heading, fontsize=10)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
