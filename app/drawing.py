"""What all pictures share: one style, colours that colour-blind eyes tell apart, scale bars, how they are written."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, hsv_to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#808080",
)
"""Okabe and Ito's colours, and a grey: told apart by colour-blind readers, and mostly in print too."""
AMPLITUDE: dict[str, Any] = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
PHASE: dict[str, Any] = {"cmap": "twilight", "vmin": -np.pi, "vmax": np.pi}
UNSEEN = "0.55"
"""Where there is nothing to show: no light, or nothing that comes through."""
DPI = 150
_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 10.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "image.interpolation": "nearest",
}
_P = ParamSpec("_P")
_R = TypeVar("_R")


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that draws, in the common style; what others draw in the same process keeps its own."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def headed(figure: Figure, text: str) -> None:
    """The figure's title, in as many lines as its width asks for."""
    # A letter is about six tenths as wide as the type is high.
    letters = int(figure.get_figwidth() * 72 / (0.6 * float(_STYLE["figure.titlesize"])))
    figure.suptitle("\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, letters)))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure and return the path; its folder is made."""
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def bare(axes: Axes, title: str = "") -> None:
    """A frame without ticks: pictures, whose scale bar tells their size."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
    if title:
        axes.set_title(title)


def colour_bar(axes: Axes, drawn: AxesImage, label: str, **options: Any) -> None:
    """A labelled bar beside a picture, as high as it is."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure | SubFigure)
    # Inside its own axes, so that pictures with and without a bar are equally large and line up.
    bar = figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)), **options)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)


def light(
    axes: Axes, pattern: NDArray, top: float, title: str = "", *, bar: bool = True, unit: str = "electrons per pixel"
) -> None:
    """A diffraction pattern (H, W) up to `top` in square-root colours."""
    drawn = axes.imshow(pattern, norm=PowerNorm(0.5, 0.0, top, clip=True), cmap="inferno")
    bare(axes, title)
    if bar:
        colour_bar(axes, drawn, unit, ticks=MaxNLocator(3), extend="max")


def scale_bar(axes: Axes, width_m: float) -> None:
    """A bar of a round length in the corner of a picture that is `width_m` wide, and its length in words."""
    length = round_length(width_m / 3)
    right, low = 0.95, 0.06
    style = [withStroke(linewidth=2.5, foreground="black")]
    place: dict[str, Any] = {"transform": axes.transAxes, "color": "white", "path_effects": style}
    axes.plot([right - length / width_m, right], [low, low], lw=2.0, solid_capstyle="butt", **place)
    axes.text(right, low + 0.025, length_words(length), ha="right", va="bottom", **place)


def round_length(most: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is at most `most`, which is above zero."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(power * step for step in (1, 2, 5) if power * step <= most * (1 + 1e-9))


def length_words(metres: float) -> str:
    """A length with the unit that suits it."""
    return _in_units(metres, (("m", 1.0), ("mm", 1e-3), ("µm", 1e-6), ("nm", 1e-9)))


def time_words(seconds: float) -> str:
    """An exposure with the unit that suits it."""
    return _in_units(seconds, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def _in_units(value: float, units: tuple[tuple[str, float], ...]) -> str:
    name, unit = next(((n, u) for n, u in units if abs(value) >= u * (1 - 1e-6)), units[-1])
    return f"{value / unit:.4g} {name}"


def count_words(value: float) -> str:
    """A number of photons, three digits of it: in full up to 9990, else in powers of ten, as mathematical text."""
    value = float(f"{value:.3g}")
    if value < 10_000:
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    power = math.floor(math.log10(value) + 1e-9)
    factor = f"{value / 10.0**power:.3g}"
    return rf"$10^{{{power}}}$" if factor == "1" else rf"${factor}\times10^{{{power}}}$"


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
