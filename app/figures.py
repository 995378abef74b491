"""Pictures of reconstructions: pure functions from arrays to files, drawn without a window."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.drawing import (
    AMPLITUDE,
    BLUE,
    GREY,
    SKY,
    UNSEEN,
    VERMILION,
    bare,
    block_means,
    colour_bar,
    headed,
    light,
    save,
    scale_bar,
    styled,
)

BRIGHT = 0.15
"""Amplitude from which on a phase is shown."""
SEEN_E = 16.0
"""Dim light is seen where neighbouring pixels are taken together, until the brightest hold so many electrons."""
LEAST_PIXELS = 32
"""But at least so many remain each way."""


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


@styled
def dose_figure(
    columns: Sequence[DoseColumn],
    truth: NDArray | None,
    lit: NDArray,
    rows: Sequence[str],
    heading: str,
    path: Path,
    pixel_m: float,
    camera_pixel_m: float,
) -> Path:
    """Diffraction patterns and objects, a row a method, against dose, the truth beside them; returns the path.

    Args:
        pixel_m: pitch of the objects.
    """
    extra = 0 if truth is None else 1
    height = 1 + len(rows)
    figure = Figure(figsize=(1.75 * (len(columns) + extra) + 0.5, 1.95 * height + 0.5), layout="constrained")
    axes = figure.subplots(height, len(columns) + extra, squeeze=False)

    def shown(place: Axes, image: NDArray, title: str = "") -> None:
        place.imshow(np.abs(image), **AMPLITUDE)
        place.contour(lit, levels=[0.5], colors=[SKY], linewidths=0.7)
        bare(place, title)

    for k, column in enumerate(columns):
        top = max(float(np.percentile(column.pattern, 99.9)), 1.0)
        light(axes[0, k], column.pattern, top, column.title, bar=False)
        axes[0, k].set_xlabel(f"0 to {top:.3g} e$^-$")
        for row, (image, value) in enumerate(zip(column.images, column.psnr_db, strict=True), start=1):
            shown(axes[row, k], image)
            if value is not None:
                axes[row, k].set_xlabel(f"{value:.1f} dB")
    scale_bar(axes[0, 0], columns[0].pattern.shape[1] * camera_pixel_m)
    scale_bar(axes[1, 0], columns[0].images[0].shape[1] * pixel_m)
    for row, name in enumerate(("one diffraction pattern", *rows)):
        axes[row, 0].set_ylabel("\n".join(textwrap.wrap(name, 18)))
    if truth is not None:
        for row in range(height):
            axes[row, -1].set_axis_off()
        axes[1, -1].set_axis_on()
        shown(axes[1, -1], truth, "truth")
    headed(figure, heading)
    return save(figure, path)


@styled
def orientation_figure(objects: Sequence[tuple[str, float, NDArray]], pixel_m: float, heading: str, path: Path) -> Path:
    """Amplitudes of (name, loss, object) in rows of pairs, the best first and framed; returns the path."""
    columns = 4
    rows = -(-len(objects) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.75 * rows + 0.4), layout="constrained")
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
        frames, positions, sign = name.partition("positions ")
        words = [*textwrap.wrap(frames.rstrip(", "), 30), *([positions + sign] if sign else []), f"loss {loss:.4g}"]
        bare(place)
        place.set_title("\n".join(words), fontsize=8)
        if number == 0:
            scale_bar(place, len(shown) * pixel_m)
        for spine in place.spines.values():
            spine.set(color=BLUE if number < 2 else GREY, linewidth=2.5 if number < 2 else 0.7)
    headed(figure, heading)
    return save(figure, path)


@dataclass(frozen=True)
class Seen:
    """What every picture of one result shows beside the object.

    Attributes:
        measured, expected: (H, W) electrons, all frames together.
        camera_pixel_m: pitch of the camera.
        pixel_m: pitch of the object that is drawn.
    """

    measured: NDArray
    expected: NDArray
    camera_pixel_m: float
    pixel_m: float

    def draw(self, left: Axes, right: Axes) -> None:
        """Both patterns in the same colours; where there is little light, in larger pixels."""
        top = max(float(np.percentile(self.expected, 99.9)), 1e-12)
        together = max(1, math.ceil(math.sqrt(SEEN_E / top)))
        most = max(LEAST_PIXELS, max(self.measured.shape) // together)
        for place, image, name in ((left, self.measured, "measured"), (right, self.expected, "expected")):
            light(place, block_means(image, most), top, f"{name}, sum of frames")
        scale_bar(left, self.measured.shape[1] * self.camera_pixel_m)


def _phase(axes: Axes, phase: NDArray, title: str) -> None:
    axes.set_facecolor(UNSEEN)
    drawn = axes.imshow(phase, cmap="viridis")
    bare(axes, title)
    colour_bar(axes, drawn, "rad")


@styled
def reconstruction_figure(
    seen: Seen, obj: NDArray, loss: NDArray, levels: Sequence[int], heading: str, path: Path, phase: bool = False
) -> Path:
    """One result: object, summed patterns measured and expected, and the loss; returns the path.

    `levels` are steps of each level of pixels, none for a search on one level. `phase` shows that of a complex object
    too, turned so that its mean, weighted by the light, is zero.
    """
    figure = Figure(figsize=(14.0 if phase else 11.2, 2.9), layout="constrained")
    axes = list(figure.subplots(1, 5 if phase else 4))
    drawn = axes[0].imshow(np.abs(obj), **AMPLITUDE)
    bare(axes[0], "object, amplitude")
    colour_bar(axes[0], drawn, "transmission")
    scale_bar(axes[0], len(obj) * seen.pixel_m)
    if phase:
        turned = obj * np.exp(-1j * np.angle((obj * np.abs(obj)).sum()))
        _phase(axes.pop(1), np.where(np.abs(obj) > BRIGHT, np.angle(turned), np.nan), "object, phase")
    seen.draw(axes[1], axes[2])
    _search(axes[3], loss, levels)
    headed(figure, heading)
    return save(figure, path)


def _search(axes: Axes, loss: NDArray, levels: Sequence[int]) -> None:
    """The loss, epoch by epoch; on several levels of pixels how far each is from where its own level ends."""
    axes.set(title="course of the search", xlabel="epoch", ylabel="loss per pixel and frame")
    if len(levels) < 2:
        axes.plot(np.arange(1, len(loss) + 1), loss, color=BLUE)
        return
    begin = 0
    for k, steps in enumerate(levels):
        epochs = np.arange(begin, begin + steps)
        last = k == len(levels) - 1
        name = "fine pixels" if last else "coarse pixels"
        axes.plot(epochs + 1, loss[epochs] - loss[epochs[-1:]], color=BLUE if last else VERMILION, label=name)
        begin += steps
    axes.set_ylabel("loss less that at the level's end")
    axes.legend()


@styled
def hybrid_figure(
    seen: Seen, latent: NDArray, obj: NDArray, deviation: NDArray | None, heading: str, path: Path
) -> Path:
    """Decoder's image, hybrid, their difference and the deviation if known, with the patterns; returns the path."""
    count = 5 if deviation is None else 6
    figure = Figure(figsize=(2.55 * count, 2.55), layout="constrained")
    axes = figure.subplots(1, count)
    pictures: list[tuple[NDArray, str, str, dict[str, Any]]] = [
        (latent, "decoder's image", "transmission", AMPLITUDE),
        (obj, "hybrid image", "transmission", AMPLITUDE),
        (obj - latent, "hybrid minus decoder's", "difference", {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}),
    ]
    if deviation is not None:
        pictures.append((deviation, "standard deviation", "transmission", {"cmap": "magma", "vmin": 0}))
    for place, (image, title, label, style) in zip(axes, pictures, strict=False):
        drawn = place.imshow(image, **style)
        bare(place, title)
        colour_bar(place, drawn, label)
    scale_bar(axes[0], len(latent) * seen.pixel_m)
    seen.draw(axes[-2], axes[-1])
    headed(figure, heading)
    return save(figure, path)


@dataclass(frozen=True)
class PosteriorPicture:
    """What the figure of a posterior shows.

    Attributes:
        mean, deviation: (s, s) of the amplitude.
        samples: (n, s, s) some draws.
        classes: probability of each class.
        seen: the light, and the pitch of these images.
        lit: (s, s) where there was light, or None.
        verdict: in words.
        phase: (s, s) rad, and its standard deviation, of a complex object.
    """

    mean: NDArray
    deviation: NDArray
    samples: NDArray
    classes: dict[int, float]
    seen: Seen
    lit: NDArray | None
    verdict: str
    phase: tuple[NDArray, NDArray] | None = None


@styled
def posterior_figure(picture: PosteriorPicture, heading: str, path: Path) -> Path:
    """Mean, deviation, draws, classes, and the light measured and expected; returns the path.

    A complex object's phase and its deviation take the place of two of the draws.
    """
    figure = Figure(figsize=(11.5, 4.5), layout="constrained")
    axes = figure.subplots(2, 5)

    def shown(place: Axes, image: NDArray, title: str, label: str = "", **style: Any) -> None:
        drawn = place.imshow(image, **style)
        if picture.lit is not None:
            place.contour(picture.lit, levels=[0.5], colors=[SKY], linewidths=0.8)
        bare(place, title)
        if label:
            colour_bar(place, drawn, label)

    shown(axes[0, 0], picture.mean, "posterior mean", "transmission", **AMPLITUDE)
    scale_bar(axes[0, 0], len(picture.mean) * picture.seen.pixel_m)
    shown(axes[0, 1], picture.deviation, "standard deviation", "transmission", cmap="magma", vmin=0, vmax=0.5)
    picture.seen.draw(axes[0, 2], axes[0, 3])
    bars = axes[0, 4]
    bars.bar([str(label) for label in picture.classes], list(picture.classes.values()), color=GREY)
    # One class alone is no wall.
    beside = max(0.0, (6 - len(picture.classes)) / 2)
    ends = (-0.6 - beside, len(picture.classes) - 0.4 + beside)
    bars.set(title="class, if it is one of these", xlim=ends, ylim=(0, 1), ylabel="probability")
    first = 0
    if picture.phase is not None:
        first = 2
        dark = picture.mean < BRIGHT
        styles: tuple[dict[str, Any], ...] = ({"cmap": "viridis"}, {"cmap": "magma", "vmin": 0})
        titles = ("phase, mean", "phase, standard deviation")
        for place, values, title, style in zip(axes[1], picture.phase, titles, styles, strict=False):
            place.set_facecolor(UNSEEN)
            shown(place, np.where(dark, np.nan, values), title, "rad", **style)
    for k, sample in enumerate(picture.samples[: 4 - first]):
        shown(axes[1, first + k], sample, f"draw {k + 1}", **AMPLITUDE)
    words = axes[1, 4]
    words.axis("off")
    words.text(0, 0.95, "\n".join(textwrap.wrap(picture.verdict, 28)), va="top", fontsize=9)
    headed(figure, heading)
    return save(figure, path)
