"""Pictures of what the operator measures: pure functions from arrays to files, drawn without a window."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from app.bench.align import Alignment
from app.bench.characterise import Result
from app.bench.darks import DarkReport
from app.bench.jog import View
from app.bench.registration import mosaic, trusted
from app.drawing import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    UNSEEN,
    VERMILION,
    bare,
    colour_bar,
    headed,
    light,
    save,
    scale_bar,
    styled,
    time_words,
)
from recon.files.darks import DarkSummary, histogram_edges


@styled
def darks_figure(dark: DarkSummary, report: DarkReport, electrons_per_adu: float, heading: str, path: Path) -> Path:
    """Residuals and offset map of the longest exposure, dark current and noise over all; returns the path."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    edges = histogram_edges()
    centres = (edges[1:] + edges[:-1]) / 2
    reach = 8 * max(report.lines[-1].noise_e / electrons_per_adu, 0.5)
    shown = np.abs(centres) <= reach
    width = edges[1] - edges[0]
    density = dark.histogram / max(dark.histogram.sum(), 1) / width
    sigma = float(np.sqrt(np.median(dark.variance)))
    axes[0].step(
        centres[shown], np.maximum(density[shown], 1e-9), where="mid", color=BLUE, linewidth=0.9, label="measured"
    )
    bell = np.exp(-0.5 * (centres / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    axes[0].plot(centres[shown], np.maximum(bell[shown], 1e-9), color=VERMILION, linewidth=0.9, label="normal")
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-7, None)
    axes[0].legend()
    axes[0].set_title(f"residuals at {time_words(report.lines[-1].exposure_s)}")
    axes[0].set(xlabel="digital numbers", ylabel="density")
    low, high = np.percentile(dark.mean, [1, 99])
    picture = axes[1].imshow(dark.mean, cmap="viridis", vmin=low, vmax=max(high, low + 1e-3))
    bare(axes[1], "offset of each pixel")
    colour_bar(axes[1], picture, "digital numbers", extend="both")
    exposures = np.array([line.exposure_s for line in report.lines])
    above = (np.array([line.offset_adu for line in report.lines]) - report.bias_adu) * electrons_per_adu
    errors = np.array([line.offset_error_adu for line in report.lines]) * electrons_per_adu
    axes[2].errorbar(exposures, above, errors, fmt="o", markersize=4, color=BLUE)
    title = "offset above zero exposure"
    if report.dark_current_e_s is not None:
        span = np.linspace(0.0, exposures.max(), 2)
        axes[2].plot(span, report.dark_current_e_s * span, color=VERMILION, linewidth=0.9)
        title = f"dark current {report.dark_current_e_s:.3g} ± {report.dark_current_error_e_s:.1g} e$^-$/s"
    axes[2].set_title(title)
    axes[2].set(xlabel="exposure (s)", ylabel="mean offset (electrons)")
    axes[3].semilogx(exposures, [line.noise_e for line in report.lines], "o-", markersize=4, color=BLUE)
    axes[3].set_title("noise and bad pixels")
    axes[3].set_xlabel("exposure (s)")
    axes[3].set_ylabel("noise of a pixel (electrons, rms)", color=BLUE)
    axes[3].set(ylim=(0, 1.5 * max(line.noise_e for line in report.lines)))
    twin = axes[3].twinx()
    twin.semilogx(exposures, [line.hot_pixels for line in report.lines], "s--", markersize=3, color=ORANGE)
    twin.set_ylabel("bad pixels", color=ORANGE)
    twin.set_ylim(0, 1.2 * max(1, *(line.hot_pixels for line in report.lines)))
    twin.yaxis.set_major_locator(MaxNLocator(integer=True))
    twin.spines["right"].set_visible(True)
    headed(figure, heading)
    return save(figure, path)


@styled
def characterise_figure(result: Result, heading: str, path: Path) -> Path:
    """Photon transfer, signal against exposure, its deviations, and the true length of short exposures."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    measured, fit, line = result.measured, result.fit, result.line
    mean = np.array([point.mean_adu for point in result.points])
    variance = np.array([point.variance_adu2 for point in result.points])
    for chosen, colour, label in ((fit.used, BLUE, "used"), (~fit.used, GREY, "left out")):
        if chosen.any():
            axes[0].loglog(np.maximum(mean[chosen], 1e-3), variance[chosen], ".", color=colour, label=label)
    span = np.geomspace(max(mean[mean > 0].min(), 1e-2), mean.max(), 100)
    axes[0].loglog(span, fit.noise_adu2 + span / fit.electrons_per_adu, color=VERMILION, linewidth=0.9)
    axes[0].legend()
    axes[0].set_title(
        f"gain {measured.electrons_per_adu:.4g} ± {measured.electrons_per_adu_error:.1g} e$^-$/adu,\n"
        f"read noise {measured.read_noise_e:.3g} e$^-$",
        fontsize=9,
    )
    axes[0].set(xlabel="mean signal (adu)", ylabel="variance (adu²)")
    exposures = line.exposures_s
    axes[1].loglog(exposures, np.maximum(line.amplitudes, 1e-12), "o", markersize=4)
    axes[1].loglog(exposures, line.rate * (exposures + line.offset_s), color=VERMILION, linewidth=0.9, label="fit")
    axes[1].loglog(exposures, line.rate * exposures, color=GREY, linewidth=0.9, linestyle="--", label="no offset")
    axes[1].legend()
    axes[1].set_title("signal against exposure")
    axes[1].set(xlabel="reported exposure (s)", ylabel="signal, of the brightest")
    relative = line.errors / line.amplitudes
    good = relative < 0.05
    axes[2].errorbar(exposures[good], 100 * line.residuals[good], 100 * relative[good], fmt="o", markersize=4)
    axes[2].axhline(0, color=VERMILION, linewidth=0.9)
    axes[2].set_xscale("log")
    axes[2].set_title(f"linearity, worst {100 * measured.linearity:.2g} %")
    axes[2].set(xlabel="reported exposure (s)", ylabel="deviation from the line (%)")
    short = exposures <= max(1e-3, exposures[min(4, len(exposures) - 1)])
    true = line.amplitudes / line.rate - exposures
    axes[3].errorbar(exposures[short] * 1e6, 1e6 * true[short], 1e6 * line.errors[short] / line.rate, fmt="o", ms=4)
    axes[3].axhline(1e6 * line.offset_s, color=VERMILION, linewidth=0.9)
    axes[3].set_xscale("log")
    axes[3].set_title(
        f"true minus reported exposure:\n{1e6 * line.offset_s:.2f} ± {1e6 * line.offset_error_s:.2f} µs", fontsize=9
    )
    axes[3].set(xlabel="reported exposure (µs)", ylabel="true minus reported (µs)")
    headed(figure, heading)
    return save(figure, path)


@styled
def align_figure(found: Alignment, heading: str, path: Path) -> Path:
    """Empty beam, first picture, the sample put together, and where the stage went; returns the path."""
    figure = Figure(figsize=(12.5, 3.7), layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, picture, title in (
        (axes[0], found.empty, "empty beam, region proposed"),
        (axes[1], found.start, "sample at the start"),
    ):
        light(axis, picture, max(float(np.percentile(picture, 99.95)), 1e-9), title, unit="digital numbers")
        scale_bar(axis, picture.shape[1] * found.grid.pixel_m / found.grid.binning)
    row, column = found.beam_px[0] - found.measured.origin[0], found.beam_px[1] - found.measured.origin[1]
    axes[0].plot(column, row, "+", color=SKY, markersize=14)
    picture, extent = _mosaic(found)
    drawn = axes[2].imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent)
    colour_bar(axes[2], drawn, "transmission")
    axes[2].set_facecolor(UNSEEN)
    axes[2].set_title("sample, put together")
    axes[2].set(xlabel="x (µm)", ylabel="y (µm)")
    stage = np.array([seen.stage_m for seen in found.seen])
    known = np.isfinite(found.positions_m).all(axis=1)
    seen_um = 1e6 * (found.positions_m[known] - found.positions_m[known].mean(axis=0))
    fitted_um = 1e6 * (stage[known] - stage[known].mean(axis=0)) @ found.found.matrix.T
    axes[3].plot(fitted_um[:, 1], fitted_um[:, 0], "o", markersize=8, markerfacecolor="none", label="mapped")
    axes[3].plot(seen_um[:, 1], seen_um[:, 0], ".", color=VERMILION, label="seen")
    axes[3].set_aspect("equal")
    axes[3].invert_yaxis()
    axes[3].legend(loc="upper right", handlelength=1.0, borderaxespad=0.0)
    axes[3].set_title(f"beam on the object,\n{1e6 * found.found.residual_m:.1f} µm unexplained")
    axes[3].set(xlabel="x (µm)", ylabel="y (µm)")
    headed(figure, heading)
    return save(figure, path)


def _mosaic(found: Alignment) -> tuple[NDArray[np.float64], tuple[float, float, float, float]]:
    """The sample put together, and the picture's extent (left, right, bottom, top) in micrometres."""
    pixel = found.grid.pixel_m
    places = (found.positions_m - np.nanmean(found.positions_m, axis=0)) / pixel
    picture, weight, _ = mosaic([seen.transmission for seen in found.seen], places, trusted(found.beam.wave))
    picture = np.where(weight > 0.1, picture, np.nan)
    rows, columns = (np.flatnonzero((weight > 0.1).any(axis=axis)) for axis in (1, 0))
    cut = min(rows[0], columns[0], len(weight) - 1 - rows[-1], len(weight) - 1 - columns[-1])
    half = (len(picture) / 2 - cut) * pixel * 1e6
    inside = slice(cut, len(picture) - cut)
    return picture[inside, inside], (-half, half, half, -half)


@styled
def view_figure(view: View, pixel_m: float, heading: str, path: Path) -> Path:
    """One picture of a jog on a camera of this pitch, square root of brightness; returns the path."""
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axis = figure.subplots()
    top = max(float(np.percentile(view.picture, 99.95)), 1.0)
    light(axis, view.picture, top, "\n".join(textwrap.wrap(view.line(), 70)), unit="digital numbers")
    scale_bar(axis, view.picture.shape[1] * pixel_m)
    headed(figure, heading)
    return save(figure, path)
