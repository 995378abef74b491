"""Pictures of results: pure functions from arrays to files, drawn without a window."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

GREY = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
BRIGHT = 0.15
"""Amplitude from which on a phase is shown."""


@dataclass(frozen=True)
class DoseColumn:
    """One exposure of the figure in the spirit of the paper's Fig. 4.

    Attributes:
        title: exposure and photons.
        pattern: (H, W) electrons, one diffraction pattern.
        images: (S, S) objects in the decoder's field, one per row of the figure.
        psnr_db: PSNR of each, or None without a truth.
    """

    title: str
    pattern: NDArray
    images: tuple[NDArray, ...]
    psnr_db: tuple[float | None, ...]


def complex_colours(field: NDArray, top: float | None = None) -> NDArray[np.float64]:
    """(H, W, 3) colours of a complex field: hue is the phase, brightness the amplitude."""
    amplitude = np.abs(field) / (top or float(np.percentile(np.abs(field), 99.7)) or 1.0)
    hue = (np.angle(field) / (2 * np.pi)) % 1.0
    return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), np.clip(amplitude, 0, 1)], axis=-1))


def block_means(image: NDArray, most: int) -> NDArray:
    """Means over square blocks, so that at most that many remain each way; nan is left out, edges may be."""
    factor = max(1, -(-max(image.shape) // most))
    rows, columns = (n // factor for n in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    count = np.isfinite(blocks).sum((1, 3))
    total = np.where(np.isfinite(blocks), blocks, 0).sum((1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _bare(axes: Axes, title: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if title:
        axes.set_title(title, fontsize=9)


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def dose_figure(
    columns: Sequence[DoseColumn],
    truth: NDArray | None,
    lit: NDArray,
    rows: Sequence[str],
    heading: str,
    path: Path,
) -> Path:
    """Diffraction patterns and objects, a row a method, against dose, the truth beside them; returns the path."""
    extra = 0 if truth is None else 1
    height = 1 + len(rows)
    figure = Figure(figsize=(1.9 * (len(columns) + extra) + 0.6, 2.1 * height), layout="constrained")
    axes = figure.subplots(height, len(columns) + extra, squeeze=False)
    for k, column in enumerate(columns):
        top = max(float(np.percentile(column.pattern, 99.9)), 1.0)
        axes[0, k].imshow(np.sqrt(np.clip(column.pattern, 0, top)), cmap="inferno")
        _bare(axes[0, k], column.title)
        for row, (image, value) in enumerate(zip(column.images, column.psnr_db, strict=True), start=1):
            axes[row, k].imshow(np.abs(image), **GREY)
            axes[row, k].contour(lit, levels=[0.5], colors="tab:blue", linewidths=0.6)
            _bare(axes[row, k])
            if value is not None:
                axes[row, k].set_xlabel(f"{value:.1f} dB", fontsize=9)
    for row, name in enumerate(("diffraction (square root)", *rows)):
        axes[row, 0].set_ylabel(name, fontsize=10)
    if truth is not None:
        for row in range(height):
            axes[row, -1].set_axis_off()
        axes[1, -1].set_axis_on()
        axes[1, -1].imshow(np.abs(truth), **GREY)
        axes[1, -1].contour(lit, levels=[0.5], colors="tab:blue", linewidths=0.6)
        _bare(axes[1, -1], "truth")
    figure.suptitle(heading, fontsize=11)
    return _save(figure, path)


def calibration_figure(
    probe: NDArray,
    obj: NDArray,
    positions_px: NDArray,
    nominal_px: NDArray,
    loss: NDArray,
    distance_m: NDArray,
    stages: Sequence[str],
    unexplained: NDArray,
    unexplained_frames: NDArray,
    heading: str,
    path: Path,
) -> Path:
    """Probe, object, corrected positions, the calibration's course and what it leaves unexplained; returns the path.

    Args:
        unexplained: (H, W) squared residuals over their variance, mean of the frames.
        unexplained_frames: (N,) the same of each frame.
    """
    figure = Figure(figsize=(16, 7.4), layout="constrained")
    axes = figure.subplots(2, 4)
    axes[0, 0].imshow(complex_colours(probe))
    _bare(axes[0, 0], "probe (brightness: amplitude, hue: phase)")
    half = min(len(obj) // 2, int(np.abs(positions_px).max()) + len(probe) // 3)
    middle = slice(len(obj) // 2 - half, len(obj) // 2 + half)
    shown = obj[middle, middle]
    amplitude = np.abs(shown)
    quarter = slice(len(shown) // 4, -(len(shown) // 4) or None)
    low, high = np.percentile(amplitude[quarter, quarter], [1, 99.5])
    axes[0, 1].imshow(amplitude, cmap="gray", vmin=low if low > 0.3 * high else 0.0, vmax=high)
    _bare(axes[0, 1], "object, amplitude")
    # Where nothing comes through there is no phase to show.
    phase = np.where(amplitude > 0.2 * high, np.angle(shown), np.nan)
    inner = phase[quarter, quarter][np.isfinite(phase[quarter, quarter])]
    reach = float(np.percentile(np.abs(inner), 99)) if inner.size else np.pi
    axes[0, 2].set_facecolor("0.5")
    axes[0, 2].imshow(phase, cmap="twilight_shifted", vmin=-reach, vmax=reach)
    _bare(axes[0, 2], f"object, phase ({-reach:.2f} to {reach:.2f} rad; grey: opaque)")
    shift = positions_px - nominal_px
    axes[1, 0].quiver(
        nominal_px[:, 1], nominal_px[:, 0], shift[:, 1], shift[:, 0], angles="xy", color="tab:red", width=0.004
    )
    axes[1, 0].plot(nominal_px[:, 1], nominal_px[:, 0], ".", color="0.6", markersize=3)
    axes[1, 0].set_aspect("equal")
    axes[1, 0].invert_yaxis()
    rms = float(np.sqrt((shift**2).sum(1).mean()))
    axes[1, 0].set_title(f"position corrections, rms {rms:.2f} px", fontsize=9)
    epochs = np.arange(1, len(loss) + 1)
    for stage in dict.fromkeys(stages):
        chosen = np.array([s == stage for s in stages])
        axes[1, 1].plot(epochs[chosen], loss[chosen], ".-", label=stage)
    axes[1, 1].legend(fontsize=8)
    axes[1, 1].set_title("loss per pixel and frame (a stage a scale)", fontsize=9)
    axes[1, 1].set_xlabel("epoch")
    axes[1, 2].plot(epochs, np.asarray(distance_m) * 1e3, ".-")
    axes[1, 2].ticklabel_format(useOffset=False)
    axes[1, 2].set_title("distance (mm)", fontsize=9)
    axes[1, 2].set_xlabel("epoch")
    shown_map = axes[0, 3].imshow(block_means(unexplained, 256), cmap="RdBu_r", vmin=0, vmax=2)
    figure.colorbar(shown_map, ax=axes[0, 3], shrink=0.8, extend="max")
    _bare(axes[0, 3], "squared residual over its variance (1: explained)")
    axes[1, 3].plot(np.arange(len(unexplained_frames)), unexplained_frames, ".", color="tab:red")
    axes[1, 3].axhline(1.0, color="0.6", linewidth=0.8)
    axes[1, 3].set_title("the same, frame by frame", fontsize=9)
    axes[1, 3].set_xlabel("frame")
    figure.suptitle(heading, fontsize=11)
    return _save(figure, path)


def orientation_figure(objects: Sequence[tuple[str, float, NDArray]], heading: str, path: Path) -> Path:
    """Amplitudes of (name, loss, object) in rows of pairs, the best first and framed; returns the path."""
    columns = 4
    rows = -(-len(objects) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.75 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for number, (name, loss, obj) in enumerate(objects):
        place = axes[number // columns, number % columns]
        place.set_axis_on()
        # The lit part: the grid's margins are never seen.
        edge = len(obj) // 6
        shown = np.abs(obj)[edge : len(obj) - edge, edge : len(obj) - edge]
        place.imshow(shown, cmap="gray", vmin=0, vmax=float(np.percentile(shown, 99)))
        _bare(place, f"{name}\nloss {loss:.4g}")
        for spine in place.spines.values():
            spine.set(color="tab:green" if number < 2 else "0.6", linewidth=2.5 if number < 2 else 0.8)
    figure.suptitle(heading, fontsize=11)
    return _save(figure, path)


def reconstruction_figure(
    measured: NDArray, expected: NDArray, obj: NDArray, loss: NDArray, heading: str, path: Path, phase: bool = False
) -> Path:
    """One result: object, summed patterns measured and expected, and the loss; returns the path.

    `phase` shows that of a complex object too, turned so that its mean, weighted by the light, is zero.
    """
    figure = Figure(figsize=(15 if phase else 12, 3.4), layout="constrained")
    axes = figure.subplots(1, 5 if phase else 4)
    axes[0].imshow(np.abs(obj), **GREY)
    _bare(axes[0], "object, amplitude")
    if phase:
        turned = obj * np.exp(-1j * np.angle((obj * np.abs(obj)).sum()))
        axes[1].set_facecolor("0.5")
        drawn = axes[1].imshow(np.where(np.abs(obj) > BRIGHT, np.angle(turned), np.nan), cmap="viridis")
        _bare(axes[1], "object, phase (rad)")
        figure.colorbar(drawn, ax=axes[1], shrink=0.8)
        axes = np.delete(axes, 1)
    top = max(float(np.percentile(expected, 99.9)), 1e-12)
    for k, image, title in ((1, measured, "measured, sum of frames"), (2, expected, "expected, sum of frames")):
        axes[k].imshow(np.sqrt(np.clip(image, 0, top)), cmap="inferno", vmax=np.sqrt(top))
        _bare(axes[k], title)
    axes[3].plot(np.arange(1, len(loss) + 1), loss)
    axes[3].set(title="loss per pixel and frame", xlabel="epoch")
    figure.suptitle(heading, fontsize=11)
    return _save(figure, path)


def hybrid_figure(
    measured: NDArray,
    expected: NDArray,
    latent: NDArray,
    obj: NDArray,
    deviation: NDArray | None,
    heading: str,
    path: Path,
) -> Path:
    """Decoder's image, hybrid, their difference and the deviation if known, with the patterns; returns the path."""
    count = 5 if deviation is None else 6
    figure = Figure(figsize=(2.6 * count, 3.1), layout="constrained")
    axes = figure.subplots(1, count)
    axes[0].imshow(latent, **GREY)
    _bare(axes[0], "what the decoder says")
    axes[1].imshow(obj, **GREY)
    _bare(axes[1], "hybrid, amplitude")
    drawn = axes[2].imshow(obj - latent, cmap="RdBu_r", vmin=-1, vmax=1)
    _bare(axes[2], "what the light adds")
    figure.colorbar(drawn, ax=axes[2], shrink=0.8)
    if deviation is not None:
        drawn = axes[3].imshow(deviation, cmap="magma", vmin=0)
        _bare(axes[3], "standard deviation")
        figure.colorbar(drawn, ax=axes[3], shrink=0.8)
    top = max(float(np.percentile(expected, 99.9)), 1e-12)
    for place, image, title in ((axes[-2], measured, "measured"), (axes[-1], expected, "expected")):
        shown = block_means(image, 96)
        place.imshow(np.sqrt(np.clip(shown, 0, top)), cmap="inferno", vmin=0, vmax=np.sqrt(top))
        _bare(place, f"{title}, sum of frames")
    figure.suptitle(heading, fontsize=11)
    return _save(figure, path)


@dataclass(frozen=True)
class PosteriorPicture:
    """What the figure of a posterior shows.

    Attributes:
        mean, deviation: (s, s) of the amplitude.
        samples: (n, s, s) some draws.
        classes: probability of each class.
        measured, expected: (H, W) electrons, all frames together.
        lit: (s, s) where there was light, or None.
        verdict: in words.
        phase: (s, s) rad, and its standard deviation, of a complex object.
    """

    mean: NDArray
    deviation: NDArray
    samples: NDArray
    classes: dict[int, float]
    measured: NDArray
    expected: NDArray
    lit: NDArray | None
    verdict: str
    phase: tuple[NDArray, NDArray] | None = None


def posterior_figure(picture: PosteriorPicture, heading: str, path: Path) -> Path:
    """Mean, deviation, draws, classes, and the light measured and expected; returns the path.

    A complex object's phase and its deviation take the place of two of the draws.
    """
    figure = Figure(figsize=(12.5, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 1, 1.1))

    def shown(place: Any, image: NDArray, title: str, **style: Any) -> Any:
        axes = figure.add_subplot(place)
        drawn = axes.imshow(image, **style)
        if picture.lit is not None and image.shape == picture.lit.shape:
            axes.contour(picture.lit, levels=[0.5], colors=["tab:blue"], linewidths=0.8)
        _bare(axes, title)
        return axes, drawn

    shown(grid[0, 0], picture.mean, "posterior mean, amplitude", **GREY)
    axes, drawn = shown(grid[0, 1], picture.deviation, "standard deviation", cmap="magma", vmin=0, vmax=0.5)
    figure.colorbar(drawn, ax=axes, shrink=0.8)
    top = max(float(np.percentile(picture.expected, 99.9)), 1e-12)
    # Dim light is seen only where neighbouring pixels are taken together.
    block = max(1, min(picture.measured.shape) // 96)
    for place, image, title in ((grid[0, 2], picture.measured, "measured"), (grid[0, 3], picture.expected, "expected")):
        rows, columns = (n // block * block for n in image.shape)
        binned = image[:rows, :columns].reshape(rows // block, block, columns // block, block).mean((1, 3))
        shown(place, np.sqrt(np.clip(binned, 0, top)), f"{title}, sum of frames", cmap="inferno", vmax=np.sqrt(top))
    bars = figure.add_subplot(grid[0, 4])
    labels = [str(label) for label in picture.classes]
    bars.bar(labels, list(picture.classes.values()), color="0.35")
    bars.set(title="class", ylim=(0, 1), ylabel="probability")
    first = 0
    if picture.phase is not None:
        first = 2
        dark = picture.mean < BRIGHT
        titles = ("phase (rad)", "its standard deviation (rad)")
        for k, (values, title) in enumerate(zip(picture.phase, titles, strict=True)):
            style = {"cmap": "viridis"} if k == 0 else {"cmap": "magma", "vmin": 0}
            axes, drawn = shown(grid[1, k], np.where(dark, np.nan, values), title, **style)
            axes.set_facecolor("0.5")
            figure.colorbar(drawn, ax=axes, shrink=0.8)
    for k, sample in enumerate(picture.samples[: 4 - first]):
        shown(grid[1, first + k], sample, f"draw {k + 1}", **GREY)
    words = figure.add_subplot(grid[1, 4])
    words.axis("off")
    words.text(0, 0.95, "\n".join(textwrap.wrap(picture.verdict, 34)), va="top", fontsize=9)
    figure.suptitle(heading, fontsize=11)
    return _save(figure, path)
