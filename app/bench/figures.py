"""Pictures of what the operator measures: pure functions from arrays to files, drawn without a window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from app.bench.darks import DarkReport
from recon.files.darks import DarkSummary, histogram_edges


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return the path."""
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


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
    axes[0].step(centres[shown], np.maximum(density[shown], 1e-9), where="mid", color="tab:blue", linewidth=0.9)
    bell = np.exp(-0.5 * (centres / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    axes[0].plot(centres[shown], np.maximum(bell[shown], 1e-9), color="tab:red", linewidth=0.9, label="normal")
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-7, None)
    axes[0].legend(fontsize=8)
    axes[0].set(title=f"residuals at {report.lines[-1].exposure_s:g} s", xlabel="digital numbers", ylabel="density")
    low, high = np.percentile(dark.mean, [1, 99])
    picture = axes[1].imshow(dark.mean, cmap="viridis", vmin=low, vmax=max(high, low + 1e-3))
    figure.colorbar(picture, ax=axes[1], shrink=0.8)
    axes[1].set(title="offset (digital numbers)", xticks=[], yticks=[])
    exposures = np.array([line.exposure_s for line in report.lines])
    above = (np.array([line.offset_adu for line in report.lines]) - report.bias_adu) * electrons_per_adu
    errors = np.array([line.offset_error_adu for line in report.lines]) * electrons_per_adu
    axes[2].errorbar(exposures, above, errors, fmt="o", markersize=4, color="tab:blue")
    title = "offset above zero exposure"
    if report.dark_current_e_s is not None:
        span = np.linspace(0.0, exposures.max(), 2)
        axes[2].plot(span, report.dark_current_e_s * span, color="tab:red", linewidth=0.9)
        title = f"dark current {report.dark_current_e_s:.3g} ± {report.dark_current_error_e_s:.1g} e-/s"
    axes[2].set(title=title, xlabel="exposure (s)", ylabel="electrons")
    axes[3].semilogx(exposures, [line.noise_e for line in report.lines], "o-", markersize=4, color="tab:blue")
    axes[3].set(title="noise of a pixel (electrons rms)", xlabel="exposure (s)", ylim=(0, None))
    twin = axes[3].twinx()
    twin.semilogx(exposures, [line.hot_pixels for line in report.lines], "s--", markersize=3, color="tab:orange")
    twin.set_ylabel("bad pixels", color="tab:orange")
    twin.set_ylim(0, None)
    figure.suptitle(heading, fontsize=11)
    return save(figure, path)
