"""How right, how efficient and how fast the likelihoods of a pixel are.

    python -m benchmarks.likelihoods [--write]

Right: value and score of the exact likelihood against an explicit sum in extended precision, 4,000 draws of intensity
(1e-6 .. 1e5 electrons), read noise (0.2 .. 5) and reading (-1 .. 1e5, half of them likely ones). Efficient: information
that each likelihood's score holds on one pixel, over the exact one's (Godambe's: (d E[score]/dI)^2/Var[score] where the
mean score is zero), and what it settles on; by quadrature. Fast: 16 frames of 512 x 512 at 0.01 electrons a pixel, one
thread. Sensor: offset and read noise of 24 simulated stacks from darks that had the noise 5 % off.
The figure goes to docs/images/noise.png, rows to RESULTS.md with `--write`.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln

from app.drawing import BLUE, GREEN, GREY, ORANGE, VERMILION, save, styled
from benchmarks.report import append_rows, machine
from recon.codenoise import CodeMixed
from recon.exactnoise import ExactMixed
from recon.information import exact_information, grid
from recon.noise import (
    Likelihood,
    MixedGaussian,
    PaperPoisson,
    ShiftedPoisson,
    TruePoisson,
)
from recon.readkernel import gaussian_kernel
from recon.sensornoise import estimate_noise

COMMAND = "python -m benchmarks.likelihoods"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "noise.png"
READ_NOISES = (0.3, 2.3)
LEVELS = np.logspace(-4, 3, 36)
COLOURS = (BLUE, ORANGE, GREEN, VERMILION)
SHOWN: tuple[tuple[Likelihood, str], ...] = (
    (MixedGaussian(), "Eq. 1 of the paper"),
    (ShiftedPoisson(), "shifted Poisson"),
    (PaperPoisson(), "the paper's Poisson-only"),
    (TruePoisson(), "true Poisson"),
)


def explicit(intensity: float, reading: float, sigma: float) -> tuple[float, float]:
    """-ln p and its slope, every term that counts in extended precision."""
    reach = 14 * sigma + 40 + 30 * sigma**2
    n = np.arange(max(0, int(reading - reach)), int(max(reading, 0) + reach) + 1).astype(np.longdouble)
    i, s = np.longdouble(intensity), np.longdouble(sigma)
    log = n * np.log(i) - gammaln(n.astype(float) + 1) - ((reading - n) / s) ** 2 / 2
    term = np.exp(log - log.max())
    mean = (term * n).sum() / term.sum()
    value = i - log.max() - np.log(term.sum()) + np.log(2 * np.longdouble(math.pi) * s**2) / 2
    return float(value), float((i - mean) / i)


def right(size: int = 4000) -> list[tuple[str, str, str]]:
    rng = np.random.default_rng(0)
    intensity = 10 ** rng.uniform(-6, 5, size)
    sigma = np.exp(rng.uniform(math.log(0.2), math.log(5), size))
    likely = rng.poisson(intensity) + sigma * rng.normal(size=size)
    reading = np.where(rng.random(size) < 0.5, likely, 10 ** rng.uniform(-1, 5, size) - 1.1).clip(-1, 1e5)
    single = [torch.from_numpy(part).float() for part in (intensity, reading, sigma**2)]
    double = [part.double() for part in single]
    rows = zip(*(part.numpy() for part in (double[0], double[1], double[2].sqrt())), strict=True)
    truth = np.array([explicit(*row) for row in rows])
    exact = ExactMixed()
    typical = exact.fisher(double[0], double[2]).sqrt().numpy()
    found = []
    for name, inputs in (("double", double), ("single", single)):
        value, score, _ = (part.double().numpy() for part in exact.evaluate(*inputs))
        error = np.abs(value - truth[:, 0])
        modest = np.abs(truth[:, 0]) < 3000
        slope = np.abs(score - truth[:, 1]) / np.maximum(np.abs(truth[:, 1]), typical)
        found.append(
            (
                f"exact likelihood, {name} precision: value, of those below 3000 nats and of all; score, relative",
                f"{error[modest].max():.1e} and {error.max():.1e} nats; {slope.max():.1e}",
                "1e-3 nats; 1e-4",
            )
        )
    return found


def settled(likelihood: Likelihood, intensity: float, sigma: float) -> tuple[float, float]:
    """Intensity at which the mean score is zero, and Godambe's information there."""
    x, probability, _ = grid(intensity, sigma)
    readings, variance = torch.from_numpy(x), torch.tensor(sigma**2, dtype=torch.float64)

    def score(level: float) -> NDArray[np.float64]:
        return likelihood.score(torch.full_like(readings, level), readings, variance).numpy()

    low, high = math.log(1e-7), math.log(10 * intensity + 10)
    place = math.exp(brentq(lambda log: float((probability * score(math.exp(log))).sum()), low, high, xtol=1e-9))
    own = score(place)
    mean = float((probability * own).sum())
    spread = float((probability * (own - mean) ** 2).sum())
    # d p/dI = p (E[n | X]/I - 1)
    _, _, electrons = grid(intensity, sigma)
    slope = float((probability * (electrons / intensity - 1) * own).sum())
    return place, slope**2 / spread


def efficient() -> dict[float, dict[str, NDArray[np.float64]]]:
    """For each read noise and likelihood (2, L): share of the exact information, and intensity settled on."""
    found: dict[float, dict[str, NDArray[np.float64]]] = {}
    for sigma in READ_NOISES:
        bound = np.array([exact_information(level, sigma) for level in LEVELS])
        found[sigma] = {"exact": np.stack([bound * LEVELS, LEVELS])}
        for likelihood, label in SHOWN:
            places, shares = zip(*(settled(likelihood, level, sigma) for level in LEVELS), strict=True)
            found[sigma][label] = np.stack([np.array(shares) / bound, np.array(places)])
    return found


@styled
def draw(found: dict[float, dict[str, NDArray[np.float64]]]) -> None:
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, sigma in enumerate(READ_NOISES):
        top, bottom = axes[:, column]
        for number, (_, label) in enumerate(SHOWN):
            share, place = found[sigma][label]
            style = "-" if number < 2 else "--"
            top.plot(LEVELS, share, style, color=COLOURS[number], label=label)
            if number >= 2:
                bottom.plot(LEVELS, np.abs(place - LEVELS), style, color=COLOURS[number], label=label)
        top.axhline(1, color="k", label="exact")
        top.plot(LEVELS, found[sigma]["exact"][0], ":", color=GREY, label="exact, of ideal counting")
        bottom.plot(LEVELS, LEVELS, ":", color=GREY, label="the intensity itself")
        top.set_title(f"read noise {sigma:g} e$^-$")
        top.set_ylim(0, 1.05)
        bottom.set(xscale="log", yscale="log", ylim=(1e-4, 100), xlabel="photons in the pixel")
    axes[0, 0].set_ylabel("information, share of the exact")
    axes[1, 0].set_ylabel("|bias|, electrons (others: none)")
    axes[0, 0].legend(loc="lower right")
    axes[1, 0].legend(loc="upper left")
    save(figure, PICTURE)


def shares(found: dict[float, dict[str, NDArray[np.float64]]]) -> list[tuple[str, str, str]]:
    rows = []
    wanted = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    at = [int(np.argmin(np.abs(np.log(LEVELS / level)))) for level in wanted]
    for sigma in READ_NOISES:
        for label in ("Eq. 1 of the paper", "shifted Poisson"):
            loss = 1 / found[sigma][label][0][at]
            rows.append(
                (
                    f"variance over the exact likelihood's, one pixel at 1e-3 / 1e-2 / 0.1 / 1 / 10 photons, {label}, "
                    f"read noise {sigma:g}",
                    " / ".join(f"{value:.3g}" for value in loss),
                    "-",
                )
            )
    return rows


def fast() -> list[tuple[str, str, str]]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    expected = torch.rand(16, 512, 512, generator=generator) * 0.02
    rows = []
    for sigma, gain in ((0.3, 0.1), (2.3, 1.0)):
        variance = torch.full((512, 512), sigma**2)
        noise = sigma * torch.randn(expected.shape, generator=generator)
        measured = torch.poisson(expected, generator=generator) + noise
        times = []
        exact = ExactMixed(read_noise_e=(sigma, sigma))
        for likelihood in (MixedGaussian(), ShiftedPoisson(), exact, CodeMixed(gaussian_kernel(sigma, gain))):
            likelihood.fisher(expected[:1, :2, :2], variance[:2, :2])
            spent = []
            for _ in range(3):
                begin = time.perf_counter()
                likelihood.evaluate(expected, measured, variance)
                spent.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            likelihood.fisher(expected, variance)
            look_up = time.perf_counter() - begin
            per = 1e9 / expected.numel()
            times.append(f"{likelihood.name} {min(spent) * per:.0f} + {look_up * per:.0f}")
        rows.append(
            (
                f"value, score and curvature + Fisher information, ns a pixel, one thread, read noise {sigma:g}",
                "; ".join(times),
                "-",
            )
        )
    return rows


def sensor(seeds: int = 24) -> list[tuple[str, str, str]]:
    rows = []
    for sigma, rate, gain in ((0.3, 2e-4, 0.1), (2.3, 2e-4, 2.6)):
        true = math.sqrt(sigma**2 + gain**2 / 12)
        pulls, spent = [], 0.0
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            black = rng.uniform(0, 1, (200, 200))
            x = rng.poisson(rate, (16, 200, 200)) + 0.004 + sigma * rng.normal(size=(16, 200, 200))
            frames = ((np.rint(x / gain + black) - black) * gain).astype(np.float32)
            darks = np.full((200, 200), (1.05 * true) ** 2, np.float32)
            begin = time.perf_counter()
            said = estimate_noise(frames, np.ones((200, 200), bool), darks, electrons_per_adu=gain)
            spent += time.perf_counter() - begin
            pulls.append(
                [(said.offset_e - 0.004) / said.offset_sigma_e, (said.read_noise_e - true) / said.read_noise_sigma_e]
            )
        rms = np.sqrt((np.array(pulls) ** 2).mean(0))
        rows.append(
            (
                f"offset of 0.004 and read noise {sigma:g} e- ({gain:g} e-/DN), 16 x 40,000 unlit pixels, darks 5 % "
                "off: standard errors; rms error over standard error; time",
                f"{said.offset_sigma_e:.1e} and {said.read_noise_sigma_e:.1e} e-; {rms[0]:.2f} and {rms[1]:.2f}; "
                f"{1e3 * spent / seeds:.0f} ms",
                "1 and 1",
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    arguments = parser.parse_args()
    found = efficient()
    draw(found)
    rows = [*right(), *shares(found), *fast(), *sensor()]
    for row in rows:
        print(" | ".join(row))
    if arguments.write:
        append_rows(COMMAND, rows, machine("numpy", "scipy", "torch"))


if __name__ == "__main__":
    main()
