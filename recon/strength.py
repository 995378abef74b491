"""How strong the regularisation must be, from the data alone: what one half of the pixels predicts of the other.

The scale is set by the noise: strength = kappa sqrt(D), with D the mean metric of `recon.pixels` over the lit pixels,
the curvature of the likelihood, so kappa is of order one at every dose. kappa is chosen by two-fold validation: each
camera pixel of each frame is in one of two halves by a coin; the object that either half gives, down a warm-started
path of strengths, is scored by the likelihood of the other. A half has half the light, so its strength is sqrt(1/2) of
the whole's. Nothing here sees a truth, and no number depends on the dose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.counting import Prepared
from recon.knownlight import KnownLight
from recon.pixels import metric_of, solve

KAPPAS = (2.0, 1.2, 0.7, 0.4, 0.23, 0.13, 0.08, 0.045)
"""Strengths tried, in units of the noise, from strong to weak."""
PATIENCE = 2
"""Weaker strengths in a row that may predict worse before the path ends."""
STEPS = 30
"""Steps at most per strength and half; each begins where the stronger one ended."""
TOLERANCE = 2e-3
"""Rms change of amplitude at which a point of the path has converged."""


def noise_scale(light: KnownLight) -> float:
    """sqrt(D), mean over the lit pixels: the strength at kappa = 1."""
    metric = metric_of(light)
    return float(metric[metric > 1.01 * metric.min()].mean().sqrt())


@dataclass(frozen=True)
class Strength:
    """A choice.

    Attributes:
        kappa: in units of the noise.
        tried: (kappa, held-out loss) of every point of the path.
        object: (c, M, M) the mean of both halves' objects there, a start for the whole.
    """

    kappa: float
    tried: tuple[tuple[float, float], ...]
    object: Tensor


def validated(
    light: KnownLight,
    likelihood: Prepared,
    start: Tensor,
    *,
    bounded: bool,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> Strength:
    """The kappa whose objects predict held-out pixels best."""
    generator = torch.Generator().manual_seed(seed)
    coin = (torch.rand(light.frames.shape, generator=generator) < 0.5).to(light.frames.device)
    halves = (light.good * coin, light.good * ~coin)
    scale = 0.5**0.5 * noise_scale(light)
    objects = [start, start]
    best = Strength(KAPPAS[0], (), start)
    tried: list[tuple[float, float]] = []
    least, worse = float("inf"), 0
    for kappa in KAPPAS:
        score = 0.0
        for half, weight in enumerate(halves):
            found = solve(
                light, likelihood, weight, objects[half], kappa * scale,
                bounded=bounded, tolerance=TOLERANCE, steps=STEPS, told=lambda *_: stop(),
            )  # fmt: skip
            objects[half] = found.channels
            score += found.outside
        tried.append((kappa, score))
        worse = 0 if score < least else worse + 1
        if score < least:
            least, best = score, Strength(kappa, (), (objects[0] + objects[1]) / 2)
        if worse >= PATIENCE or stop():
            break
    return Strength(best.kappa, tuple(tried), best.object)
