"""One estimator for dark and light: latent, hybrid and conventional images of photomasks from 30 to 1e6 photons.

python -m benchmarks.hybrid [--count 8] [--out FOLDER] [--picture FILE] [--record]

The studies' light on a sixteenth of their pixels (256 x 256 of 6.9 um, 16 positions, read noise 0.3 e-), mask truth,
calibration and pose known; a case is kept as soon as it is finished, and the same command goes on. The same at full
size: `ptychoscope study dose --truth mask --methods latent,hybrid,pixel`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.studies.cases import Frames
from app.studies.figure import COLOURS, LABELS
from app.studies.objects import MNIST, Truth, load_objects
from app.studies.scene import StudyScene
from app.studies.scores import Scores
from app.studies.work import Assignment, Estimate, Workshop
from benchmarks.report import append_rows, machine

PHOTONS = (30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5, 1e6)
METHODS = ("latent", "hybrid", "pixel")
DECODER, READ_NOISE, POSITIONS = "mnist", 0.3, 16
PICTURED = (100.0, 1e3, 1e4, 1e6)


class Cases:
    """Estimates and their scores, the latter kept in a file of JSON lines."""

    def __init__(self, count: int, out: Path):
        self.scene = StudyScene.small(POSITIONS)
        self.objects = {o.name: o for o in load_objects(MNIST, count)}
        self.shop = Workshop(Assignment(self.scene, self.objects, {}))
        self.path = out / "cases.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.done = {line["key"]: line for line in map(json.loads, lines)}

    def frames(self, name: str, photons: float) -> Frames:
        digest = self.objects[name].digest
        return Frames(name, digest, "mask", "known", photons, READ_NOISE, POSITIONS, 0, self.scene.digest)

    def estimate(self, method: str, name: str, photons: float) -> tuple[Estimate, Truth, float]:
        """An estimate, the truth, and the core-seconds it took."""
        frames = self.frames(name, photons)
        truth, data = self.shop.taken(frames)
        begin = time.process_time()
        if method == "latent":
            found = self.shop.estimate_latent(frames, data, DECODER)
        elif method == "hybrid":
            found = self.shop.estimate_hybrid(frames, data, DECODER)
        else:
            found = self.shop.estimate_pixels(data)
        return found, truth, time.process_time() - begin

    def score(self, method: str, name: str, photons: float) -> dict[str, Any]:
        """As kept, or made and kept."""
        key = f"{method} {name} {photons:g}"
        if key not in self.done:
            found, truth, seconds = self.estimate(method, name, photons)
            scores = Scores.of(found.obj, found.small, truth, self.scene)
            self.done[key] = {"key": key, "psnr_db": float(scores.psnr_db), "core_seconds": seconds}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.done[key]) + "\n")
        return self.done[key]


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
