"""One estimator for dark and light: latent, hybrid and conventional images of photomasks from 30 to 1e6 photons.

python -m benchmarks.hybrid [--count 8] [--out FOLDER] [--picture FILE] [--record]

On the small scene of `benchmarks.small_cases`; the same command goes on where it was stopped. The same at full size:
`ptychoscope study dose --truth mask --methods latent,hybrid,pixel`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.studies.figure import COLOURS, LABELS
from benchmarks.report import append_rows, machine
from benchmarks.small_cases import Cases

PHOTONS = (30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5, 1e6)
METHODS = ("latent", "hybrid", "pixel")
PICTURED = (100.0, 1e3, 1e4, 1e6)


def table(cases: Cases) -> dict[str, NDArray[np.float64]]:
    """(objects, photons) of PSNR by method."""
    found: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for name in cases.objects:
        for method in METHODS:
            row = [cases.score(method, name, photons)["psnr_db"] for photons in PHOTONS]
            found[method].append(row)
            print(f"{name:14} {method:8}" + "".join(f"{value:7.2f}" for value in row), flush=True)
    return {method: np.array(rows) for method, rows in found.items()}


def draw(cases: Cases, scores: dict[str, NDArray[np.float64]], path: Path) -> None:
    """PSNR against photons, and the images of one object."""
    name = list(cases.objects)[-1]
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    axes = left.subplots()
    for method in METHODS:
        axes.semilogx(PHOTONS, scores[method].mean(0), "o-", color=COLOURS[method], label=LABELS[method], ms=4)
    axes.set(xlabel="photons per exposure", ylabel=f"PSNR in dB, mean of {len(cases.objects)} masks")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    grid = right.subplots(3, len(PICTURED) + 1)
    middle = slice(cases.scene.size // 2 - 110, cases.scene.size // 2 + 110)
    for column, photons in enumerate(PICTURED):
        for row, method in enumerate(METHODS):
            found, truth, _ = cases.estimate(method, name, photons)
            place = grid[row, column]
            place.imshow(found.obj[middle, middle], cmap="gray", vmin=0, vmax=1)
            place.set_title(f"{cases.score(method, name, photons)['psnr_db']:.1f} dB", fontsize=8)
            if column == 0:
                place.set_ylabel(LABELS[method].split(",")[0], fontsize=9)
            if row == 2:
                place.set_xlabel(f"{photons:g} photons", fontsize=8)
    grid[0, -1].imshow(truth.amplitude[middle, middle], cmap="gray", vmin=0, vmax=1)
    grid[0, -1].set_title("truth", fontsize=8)
    grid[1, -1].imshow(cases.scene.lit[middle, middle], cmap="gray")
    grid[1, -1].set_title("lit", fontsize=8)
    for place in grid.flat:
        place.set_xticks([])
        place.set_yticks([])
    grid[2, -1].axis("off")
    FigureCanvasAgg(figure).print_figure(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8, help="digits, from the first of MNIST's test set")
    parser.add_argument("--out", type=Path, default=Path("hybrid"), help="folder of the finished cases")
    parser.add_argument("--picture", type=Path, help="figure to write")
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(asked.count, asked.out)
    scores = table(cases)
    better = np.maximum(scores["latent"].mean(0), scores["pixel"].mean(0))
    gain = scores["hybrid"].mean(0) - better
    rows = []
    for column, photons in enumerate(PHOTONS):
        means = " / ".join(f"{scores[method][:, column].mean():.2f}" for method in METHODS)
        seconds = " / ".join(
            f"{np.mean([cases.score(m, name, photons)['core_seconds'] for name in cases.objects]):.1f}" for m in METHODS
        )
        print(f"{photons:9g} photons: {' / '.join(METHODS)}: {means} dB, hybrid {gain[column]:+.2f}, {seconds} core-s")
        rows.append(
            (
                f"{photons:g} photons, {len(cases.objects)} masks: PSNR of {' / '.join(METHODS)}",
                f"{means} dB; hybrid {gain[column]:+.2f} dB; {seconds} core-s",
                "hybrid >= better of the two - 0.5 dB",
            )
        )
    print(f"worst against the better of the two: {gain.min():+.2f} dB; best {gain.max():+.2f} dB")
    if asked.picture is not None:
        draw(cases, scores, asked.picture)
    if asked.record:
        command = f"python -m benchmarks.hybrid --count {asked.count}"
        append_rows(command, rows, machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
