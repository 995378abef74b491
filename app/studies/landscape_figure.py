"""Pictures of loss landscapes: the paper's Fig. 6 as surfaces and maps, and maps of all that was computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.drawing import VERMILION, count_words, headed, save, styled
from recon.basins import basin_of, local_minima

if TYPE_CHECKING:
    from app.studies.landscape import Landscape

COLOURS = "viridis"
LOWEST = 1e-5
"""Share of a landscape's depth at which the logarithmic colours begin."""


@styled
def paper_figure(found: Sequence[Landscape], exposures: Sequence[str], heading: str, path: Path) -> Path:
    """The panels of the paper's Fig. 6 that there are: surface, map in both units, and what is drawn on the plane.

    `exposures` are labels, the brightest first.
    """
    panels = _panels(found, exposures)
    count = len(panels)
    figure = Figure(figsize=(4.1 * count, 10.6), layout="constrained")
    headed(figure, heading)
    grid = figure.add_gridspec(3, count, height_ratios=(1.05, 1.0, 0.9))
    for column, (letter, one) in enumerate(panels):
        surface = figure.add_subplot(grid[0, column], projection="3d")
        _surface(surface, one)
        surface.set_title(f"({letter}) {one.decoder}, {_light(one)}\n{_name(one.loss)}")
        _map(figure.add_subplot(grid[1, column]), one, both_units=True)
        _thumbnails(figure.add_subplot(grid[2, column]), one)
    return save(figure, path)


@styled
def maps_figure(found: Sequence[Landscape], heading: str, path: Path) -> Path:
    """A map of every landscape: a row a decoder and exposure, a column a loss."""
    rows = list(dict.fromkeys((one.decoder, one.exposure) for one in found))
    columns = list(dict.fromkeys(one.loss for one in found))
    figure = Figure(figsize=(3.3 * len(columns) + 0.4, 3.5 * len(rows) + 0.5), layout="constrained")
    headed(figure, f"{heading}\noutline: basin of the optimum; dots: local minima; cross: the optimum")
    places = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes in places.flat:
        axes.set_visible(False)
    for one in found:
        axes = places[rows.index((one.decoder, one.exposure)), columns.index(one.loss)]
        axes.set_visible(True)
        _map(axes, one, both_units=False)
        s = one.shapes["whitened"]
        axes.set_title(
            f"{one.decoder}, {_light(one)}, {_name(one.loss)}\n"
            f"minima {s.minima} (deep {s.deep_minima}), basin {100 * s.basin:.0f} %, "
            f"bent down {100 * s.bent_down:.0f} %",
            fontsize=7,
        )
    return save(figure, path)


def _panels(found: Sequence[Landscape], exposures: Sequence[str]) -> list[tuple[str, Landscape]]:
    """A to D of the paper where they are there; else the first four."""
    general, special = found[0].decoder, found[-1].decoder
    bright, dark = exposures[0], exposures[-1]
    wanted = (
        ("A", (general, bright, "mixed")),
        ("B", (general, dark, "mixed")),
        ("C", (special, bright, "mixed")),
        ("D", (general, bright, "poisson")),
    )
    known = {(one.decoder, one.exposure, one.loss): one for one in reversed(found)}
    # With one decoder or one exposure several letters mean the same landscape, which is shown once.
    chosen = {key: letter for letter, key in reversed(wanted) if key in known}
    if not chosen:
        return list(zip("ABCD", found, strict=False))
    return sorted(((letter, known[key]) for key, letter in chosen.items()), key=lambda pair: pair[0])


def _light(one: Landscape) -> str:
    """The exposure; photons as people write them."""
    number, _, unit = one.exposure.partition(" ")
    return f"{count_words(float(number))} photons" if unit == "photons" else one.exposure


def _name(loss: str) -> str:
    return {"mixed": "Eq. 1 (mixed)", "poisson": "Poisson only", "exact": "exact likelihood"}.get(loss, loss)


def _surface(axes: Any, one: Landscape) -> None:
    raised = one.values - one.values.min()
    a, b = np.meshgrid(one.first * one.spread[0], one.second * one.spread[1], indexing="ij")
    shade = np.log10(np.maximum(raised, LOWEST * raised.max()))
    shade = (shade - shade.min()) / max(float(np.ptp(shade)), 1e-12)
    power = int(np.floor(np.log10(max(float(raised.max()), 1e-12))))
    unit = 10.0**power if power > 2 else 1.0
    label = rf"$L - L_{{\min}}$, $10^{{{power}}}$ nats" if power > 2 else r"$L - L_{\min}$, nats"
    axes.plot_surface(
        a,
        b,
        raised / unit,
        facecolors=colormaps[COLOURS](shade),
        rcount=80,
        ccount=80,
        lw=0,
        antialiased=False,
        shade=False,
    )
    axes.set_xlabel(r"$\alpha$", labelpad=-6)
    axes.set_ylabel(r"$\beta$", labelpad=-6)
    axes.set_zlabel(label, labelpad=-2)
    axes.tick_params(labelsize=6, pad=-2)
    axes.view_init(elev=38, azim=-56)


def _map(axes: Axes, one: Landscape, *, both_units: bool) -> None:
    raised = one.values - one.values.min()
    top = float(raised.max())
    shown = np.maximum(raised, LOWEST * top)
    norm = LogNorm(LOWEST * top, top)
    drawn = axes.pcolormesh(one.first, one.second, shown.T, norm=norm, cmap=COLOURS, shading="nearest", rasterized=True)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.8, pad=0.02, aspect=30)
    bar.set_label(r"$L - L_{\min}$ (nats)")
    levels = top * 10.0 ** np.arange(-4, 0, 0.5)
    axes.contour(one.first, one.second, raised.T, levels=levels, colors="white", linewidths=0.35, alpha=0.6)
    steps = (float(one.first[1] - one.first[0]), float(one.second[1] - one.second[0]))
    basin = basin_of(one.values, steps).astype(float)
    if 0 < basin.mean() < 1:
        axes.contour(one.first, one.second, basin.T, levels=[0.5], colors=VERMILION, linewidths=1.2)
    minima = local_minima(one.values)
    axes.plot(one.first[minima[:, 0]], one.second[minima[:, 1]], "o", ms=3, mfc="none", mec="white", mew=0.8)
    row, column = one.shapes["whitened"].optimum
    axes.plot(one.first[row], one.second[column], "+", ms=9, mew=1.4, color=VERMILION)
    axes.set_aspect("equal" if np.ptp(one.first) == np.ptp(one.second) else "auto")
    axes.tick_params(labelsize=6)
    axes.set_xlabel("first component, standard deviations", fontsize=7)
    axes.set_ylabel("second component, standard deviations", fontsize=7)
    if both_units:
        first, second = one.spread
        above = axes.secondary_xaxis("top", functions=(lambda a: a * first, lambda a: a / first))
        beside = axes.secondary_yaxis("right", functions=(lambda b: b * second, lambda b: b / second))
        above.set_xlabel(r"$\alpha$, latents as they are", fontsize=7)
        beside.set_ylabel(r"$\beta$", fontsize=7)
        for other in (above, beside):
            other.tick_params(labelsize=6)


def _thumbnails(axes: Axes, one: Landscape) -> None:
    """The images on the plane, first component to the right, second upwards."""
    pictures: NDArray = one.thumbnails.swapaxes(0, 1)[::-1]
    rows, columns, side, _ = pictures.shape
    mosaic = pictures.swapaxes(1, 2).reshape(rows * side, columns * side)
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=1)
    for edge in range(1, rows):
        axes.axhline(edge * side - 0.5, color="0.4", lw=0.5)
        axes.axvline(edge * side - 0.5, color="0.4", lw=0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    s, w = one.shapes["paper"], one.shapes["whitened"]
    axes.set_xlabel(
        f"minima {w.minima}, deep {w.deep_minima}; basin {100 * w.basin:.0f} % ({100 * s.basin:.0f} %)\n"
        f"condition in the plane {w.condition:.3g} ({s.condition:.3g}), all axes {one.conditions['whitened']:.2g}"
        f" ({one.conditions['paper']:.2g})\nbent down {100 * w.bent_down:.0f} %, plateau {100 * w.plateau:.1f} %;"
        " in brackets: the paper's units",
        fontsize=7,
    )
