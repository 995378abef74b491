"""How wrong a hybrid image is likely to be: the experiment rehearsed on the image itself.

The estimate stands for the object: frames are drawn from the light that it predicts, and searched like the real ones,
about another draw of the latent posterior and a grain as large as what the decoder misses. For normal noise and without
total variation these searches scatter about the estimate as the object does (perturb and optimise: Papandreou & Yuille
2010; Bardsley et al. 2014), and total variation, bounds and edges that it rounds act on them as on the estimate.

In the dark the searches follow the draws, rounded by the bounds and by total variation, and the latent posterior's own
deviation says it better: it counts by how far the searches follow, against how far they do without light.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from recon.dataset import Ptychogram
from recon.hybrid import Expectation, grid_axis
from recon.illumination import Illumination
from recon.posterior import Posterior
from recon.reconstruct import PixelSettings, Reconstruction, coarse_light, refine_pixels

MEMBERS = 8
"""Rehearsals: their rms scatter is good to a quarter in each pixel, and better over the pixels that are averaged."""
UNLIT = 0.7
"""Share of what an expectation is moved by that its image keeps in the dark, after bounds and total variation."""
AVERAGED = 3
"""Variances are means over so many pixels each way."""


@dataclass(frozen=True)
class Rehearsal:
    """What the rehearsals say.

    Attributes:
        deviation: (M, M) float32 standard deviation of the image in each pixel.
        followed: share of what the expectation was moved by that is left in the images, 0..1: whether it is the decoder
            or the light that decides.
        members: rehearsals that were finished.
    """

    deviation: NDArray[np.float32]
    followed: float
    members: int

    def summary(self) -> dict[str, Any]:
        """Numbers for files and reports."""
        return {
            "rehearsals": self.members,
            "rehearsals_followed": self.followed,
            "deviation_mean": float(self.deviation.mean()),
        }


def rehearse(
    data: Ptychogram,
    illumination: Illumination,
    posterior: Posterior,
    field_m: float,
    estimate: Reconstruction,
    members: int = MEMBERS,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[[int, int], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Rehearsal:
    """The deviation of a hybrid estimate; each member takes as long as the estimate's own search.

    Args:
        data: the frames that the estimate was made from.
        posterior: the latent posterior that it was made about.
        estimate: of `recon.hybrid.reconstruct_hybrid`.
        report: called with the members done and in all.
        stop: asked after each member; the finished ones count.

    Raises:
        ValueError: another method's estimate, or no members.
    """
    settings = estimate.settings
    if estimate.method != "hybrid" or not isinstance(settings, PixelSettings):
        raise ValueError(f"rehearsals are of hybrid estimates, not of {estimate.method!r}")
    if members < 1:
        raise ValueError(f"members {members} must be at least 1")
    random = np.random.default_rng(seed)
    expectation = Expectation.of(posterior, field_m)
    grain = np.sqrt(np.maximum(expectation.variance, expectation.misfit))
    pixel = illumination.geometry.pixel_size_m
    found = np.abs(estimate.object)
    axis = grid_axis(len(found), 1, pixel)
    middle = expectation.centre(axis)
    noise = np.sqrt(data.dark_variance).astype(np.float32)
    squares = np.zeros(found.shape)
    along = across = 0.0
    done = 0
    for _ in range(members):
        photons = random.poisson(estimate.expected.clip(0)).astype(np.float32)
        frames = photons + noise * random.standard_normal(photons.shape, dtype=np.float32)
        taken = replace(data, frames=frames)
        draw = posterior.samples[random.integers(len(posterior.samples))].astype(np.float32)
        draw += posterior.decoder_mean - posterior.mean
        moved = replace(expectation, mean=draw, grain=grain * random.standard_normal(grain.shape, dtype=np.float32))
        light = coarse_light(taken, illumination, device)
        refined = refine_pixels(
            taken,
            illumination,
            light,
            moved.anchor(light, pixel).centre.clamp(0, 1),
            settings,
            partial(moved.anchor, pixel_m=pixel),
        )
        apart = np.abs(refined.object).astype(np.float64) - found
        by = moved.centre(axis).astype(np.float64) - middle
        squares += apart * apart
        along += float((apart * by).sum())
        across += float((by * by).sum())
        done += 1
        report(done, members)
        if stop():
            break
    followed = min(1.0, max(0.0, along / max(across, 1e-30)))
    scattered = np.sqrt(averaged(squares / done))
    latent = replace(expectation, mean=posterior.deviation).centre(axis).clip(0)
    weight = min(1.0, followed / UNLIT)
    return Rehearsal(np.maximum(scattered, weight * latent).astype(np.float32), followed, done)


def averaged(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, M) mean of squares (M, M) over the pixels around each.

    The filter adds and takes away along a row, and what is left of that where nothing differs may lie below zero.
    """
    mean: NDArray[np.float64] = uniform_filter(squares, AVERAGED).clip(0)
    return mean
