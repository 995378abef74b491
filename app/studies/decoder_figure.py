"""The paper's Fig. 3: spectra of latents, images between two digits, images drawn at random, a decoder a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, save, styled
from recon.decoders.latentspace import LatentSpace

COLOURS = (BLUE, SKY, ORANGE, GREEN, PURPLE, VERMILION, BLACK, GREY)


@styled
def decoder_figure(
    spaces: Sequence[LatentSpace], rows: Sequence[dict[str, Any]], threshold: float, digits: tuple[int, int], path: Path
) -> Path:
    """Draws and writes it; returns the path. `rows` are the decoders' summaries."""
    figure = Figure(figsize=(12.5, 4.3 + 0.62 * len(spaces)), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.8, 0.5 + 0.62 * len(spaces)))[:, 0]
    spectrum, linear = above.subplots(1, 2)
    for k, (space, row) in enumerate(zip(spaces, rows, strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        order = np.arange(1, len(space.variances) + 1)
        paper = "" if row["paper_rank"] is None else f" (paper {row['paper_rank']})"
        relative = np.maximum(space.variances / space.variances[0], 1e-12)
        spectrum.semilogy(order, relative, color=colour, lw=1.4, label=f"{space.name}: rank {row['rank']}{paper}")
        spectrum.plot(row["rank"], relative[row["rank"] - 1], "o", color=colour, ms=5)
        if row["rank_linear"] is not None:
            linear.semilogy(order, space.linear / space.linear[0], color=colour, lw=1.4)
            linear.plot(
                row["rank_linear"], space.linear[row["rank_linear"] - 1] / space.linear[0], "o", color=colour, ms=5
            )
    spectrum.axhline(threshold, color="0.6", lw=0.8, ls="--")
    spectrum.set_ylim(1e-7, 2)
    spectrum.set_ylabel("singular value of the covariance,\nof the largest")
    spectrum.set_title("(A) latents of unseen digits")
    spectrum.legend(loc="upper right")
    linear.set_title("(A') the square layers, folded into one matrix W")
    linear.set_ylabel("singular value of W, of the largest")
    for axes in (spectrum, linear):
        axes.set_xlabel("order")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    columns = (
        (f"(B) from a {digits[0]} to a {digits[1]}", "interpolation"),
        ("(C) draws from a normal distribution", "gaussian"),
        ("(C') draws from the shipped prior", "mixture"),
    )
    places = below.subplots(len(spaces), len(columns), squeeze=False)
    for k, space in enumerate(spaces):
        for axes, (title, name) in zip(places[k], columns, strict=True):
            images: NDArray[np.float32] = getattr(space, name)
            axes.set_xticks([])
            axes.set_yticks([])
            if k == 0:
                axes.set_title(title)
            if len(images) == 0:
                # As large as a strip, so that titles line up.
                blank = np.ones_like(_strip(space.gaussian))
                axes.imshow(blank, cmap="gray", vmin=0, vmax=1, aspect="equal")
                middle = blank.shape[1] / 2, blank.shape[0] / 2
                axes.text(*middle, "no prior beside this decoder", ha="center", va="center", fontsize=8, color="0.5")
                axes.set_frame_on(False)
                continue
            axes.imshow(_strip(images), cmap="gray", vmin=0, vmax=1, aspect="equal")
        places[k, 0].set_ylabel(
            f"{space.name}\n{space.psnr_db:.1f} dB",
            fontsize=8,
            color=COLOURS[k % len(COLOURS)],
            rotation=0,
            ha="right",
            va="center",
        )
    return save(figure, path)


def _strip(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (n, s, s) side by side, a grey line between."""
    gap = np.full((images.shape[1], max(1, images.shape[1] // 32)), 0.5, np.float32)
    parts: list[NDArray[np.float32]] = []
    for image in images:
        parts += [image, gap]
    return np.concatenate(parts[:-1], 1)
