"""Is an object of the decoder's class told as one in any light, and are its error bars true? From dark to light.

python -m benchmarks.own_class [--count 10] [--photons 1000,3000,1e4,3e4,1e5,1e6] [--others 6] [--out FOLDER]
    [--picture PNG] [--record]

Unseen digits as the decoder's own resize draws them, on the small scene of `benchmarks.small_cases`: as the estimator
sees them, which looks for what the decoder misses where there is light enough (`recon.missed`), and with latents alone.
`--others` adds so many of each kind that is not of the class (other characters; digits whose frames lie at wrong
positions), none of which may be called recovered. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from app.studies.objects import StudyObject
from app.studies.scene import FIELD_M
from app.studies.scores import Scores
from benchmarks.latent_scene import Objects
from benchmarks.report import append_rows, machine
from benchmarks.small_cases import DECODER, Cases
from recon.estimator import LatentEstimator

PHOTONS = "1000,3000,1e4,3e4,1e5,1e6"
KINDS = ("kmnist", "omniglot", "shuffled")
SHIFTED = 3
"""Positions by which the frames of a shuffled digit are moved on."""
TOLD = 0.05
"""Deviation from which on a pixel's z-score counts."""


class LatentsAlone(LatentEstimator):
    """What the decoder misses is added to the deviation, and never looked for."""

    looks_beside = False


def measured(cases: Cases, estimator: LatentEstimator, name: str, photons: float) -> dict[str, Any]:
    """One object at one dose."""
    key = f"{name} {photons:g} {'beside' if estimator.looks_beside else 'alone'}"
    if key not in cases.done:
        truth, data = cases.shop.taken(replace(cases.frames(name, photons), truth="matched"))
        if name.startswith("shuffled"):
            data.frames[:] = np.roll(data.frames, SHIFTED, 0)
        begin = time.process_time()
        found = estimator.estimate(data)
        spent = time.process_time() - begin
        drawn = Scores.of(np.zeros_like(truth.amplitude), found.mean, truth, cases.scene)
        apart = (found.mean - truth.small) / found.deviation
        counted = found.deviation > TOLD
        cases.keep(
            key,
            {
                "psnr32_db": float(drawn.psnr32_db),
                "error": float(np.square(found.mean - truth.small).mean()),
                "said": float(np.square(found.deviation).mean()),
                "square": float(np.square(apart[counted]).sum()),
                "pixels": int(counted.sum()),
                "typicality": found.typicality,
                "foreign": found.foreign.log_odds,
                "missed": found.missed,
                "verdict": found.verdict.word.value,
                "converged": found.converged,
                "counting": found.counting,
                "core_seconds": spent,
            },
        )
    return cases.done[key]


def summary(found: list[dict[str, Any]]) -> str:
    """Of some objects at one dose."""
    recovered = sum(case["verdict"] == "recovered" for case in found)
    mean, spent = (float(np.mean([float(case[k]) for case in found])) for k in ("psnr32_db", "core_seconds"))
    ratio = np.sqrt(sum(c["error"] for c in found) / sum(c["said"] for c in found))
    square, pixels = (sum(case[k] for case in found) for k in ("square", "pixels"))
    z = f"{np.sqrt(square / pixels):.2f}" if pixels else "none"
    beside = sum(case["missed"] > 0 for case in found)
    return (
        f"psnr32 {mean:.2f} dB, {recovered} of {len(found)} recovered, rms error over rms deviation {ratio:.2f}, "
        f"rms z-score {z}, looked beside in {beside}, {spent:.1f} core-s"
    )


def draw(cases: Cases, each: tuple[LatentEstimator, LatentEstimator], doses: list[float], path: Path) -> None:
    """PSNR and recovered against photons, and the second digit at the brightest dose, seen in both ways."""
    names = [name for name in cases.objects if ":" in name and name.startswith("mnist")]
    told = "with what the decoder misses", "latents alone"
    colours = "tab:blue", "tab:orange"
    figure = plt.figure(figsize=(12, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 5, width_ratios=(1.7, 1, 1, 1, 1))
    curves = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    for estimator, label, colour in zip(each, told, colours, strict=True):
        found = [[measured(cases, estimator, name, photons) for name in names] for photons in doses]
        psnr = np.array([[case["psnr32_db"] for case in row] for row in found])
        recovered = [np.mean([case["verdict"] == "recovered" for case in row]) for row in found]
        curves[0].errorbar(
            doses, psnr.mean(1), psnr.std(1) / np.sqrt(len(names)), marker="o", color=colour, label=label
        )
        curves[1].plot(doses, recovered, marker="o", color=colour)
    for axis, words in zip(curves, ("PSNR, dB", "called recovered"), strict=True):
        axis.set(xscale="log", ylabel=words, xlabel="photons an exposure")
    curves[0].legend(fontsize=8)
    curves[1].set_ylim(-0.05, 1.05)
    name, photons = names[min(1, len(names) - 1)], doses[-1]
    truth, data = cases.shop.taken(replace(cases.frames(name, photons), truth="matched"))
    for row, (estimator, label) in enumerate(zip(each, told, strict=True)):
        found = estimator.estimate(data)
        shown = (
            (truth.small, "truth", "gray", 1.0),
            (found.mean, label, "gray", 1.0),
            (np.abs(found.mean - truth.small), "error", "magma", 0.2),
            (found.deviation, "standard deviation", "magma", 0.2),
        )
        for column, (image, title, colours_of, most) in enumerate(shown, 1):
            axis = figure.add_subplot(grid[row, column])
            drawn = axis.imshow(image, cmap=colours_of, vmin=0, vmax=most)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
        figure.colorbar(drawn, ax=axis, fraction=0.046)
    figure.suptitle(f"An unseen digit from {photons:g} photons an exposure, and {len(names)} of them from any light")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="digits, from the first of MNIST's test set")
    parser.add_argument("--photons", default=PHOTONS, help="per exposure")
    parser.add_argument("--others", type=int, default=0, help="objects of each other kind")
    parser.add_argument(
        "--objects",
        type=Path,
        default=Path(os.environ.get("PTYCHOSCOPE_DATA", "data")),
        help="folder of the data sets, or a pack",
    )
    parser.add_argument("--out", type=Path, default=Path("own-class"), help="folder of the finished cases")
    parser.add_argument("--picture", type=Path, help="draw what came out")
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(asked.count, asked.out)
    digits = list(cases.objects)
    others = {kind: [f"{kind}:{k}" for k in range(asked.others)] for kind in KINDS}
    if asked.others:
        pictures = Objects.load(asked.objects)
        for kind, names in others.items():
            source = "digit" if kind == "shuffled" else kind
            for k, name in enumerate(names):
                cases.objects[name] = StudyObject(name, pictures.image(source, k))
    package, companion = cases.shop.package(DECODER), cases.shop.companion(DECODER)
    beside, alone = (
        kind.build(package, companion, cases.scene.light, FIELD_M) for kind in (LatentEstimator, LatentsAlone)
    )
    rows = []
    for photons in map(float, asked.photons.split(",")):
        each = [[measured(cases, estimator, name, photons) for name in digits] for estimator in (beside, alone)]
        said = f"{each[0][0]['counting']}: {summary(each[0])}; latents alone: {summary(each[1])}"
        rows.append((f"{photons:g} photons, {len(digits)} digits of the class, read noise 0.3", said, "recovered"))
        print(f"{rows[-1][0]}: {said}", flush=True)
        if asked.others:
            called = []
            for kind, names in others.items():
                found = [measured(cases, beside, name, photons) for name in names]
                false = sum(case["verdict"] == "recovered" for case in found)
                called.append(
                    f"{kind} {false} of {len(found)} ({np.mean([c['core_seconds'] for c in found]):.1f} core-s)"
                )
            rows.append((f"{photons:g} photons, objects of other kinds: called recovered", ", ".join(called), "none"))
            print(f"{rows[-1][0]}: {rows[-1][1]}", flush=True)
    if asked.picture is not None:
        draw(cases, (beside, alone), [float(photons) for photons in asked.photons.split(",")], asked.picture)
    if asked.record:
        command = f"python -m benchmarks.own_class --count {asked.count}"
        command += f" --others {asked.others}" if asked.others else ""
        append_rows(command, rows, machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
