"""An estimate that knows what it is not told exactly: positions, light, distance are integrated out.

1. A rough search with the nuisances loose about the values told gives an image; the nuisances that suit it best are the
   next values about which all is linearised. So again from the modes found, until they stay.
2. Search and chains are those of `recon.estimator`, on a likelihood in which every image has nuisances of its own that
   are integrated out (`recon.loose`). The prior stays where it was told.

Nothing is sampled but images: no ensemble, no weights. It costs four or five plain estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.combined import Sets
from recon.dataset import Ptychogram
from recon.directions import Directions
from recon.estimator import LatentEstimator
from recon.illumination import Illumination
from recon.imperfections import FrameNuisances, Imperfections
from recon.latent import CHUNK, Modes, refine, search
from recon.loose import Loose
from recon.operator import CameraOperator, Drawing
from recon.posterior import Posterior

TURNS = 3
"""Times that the nuisances are linearised anew, at most, before the last."""
STAYS = 0.25
"""Standard deviations by which the nuisances may still move, rms, when they have stayed."""
SPARSEST = 0.75
"""Spacing of the dark blocks that are looked at, in what the diffraction of the beam's extent would still allow."""
KEPT_MODES = 4
"""Modes that are followed from one linearisation to the next."""


@dataclass(frozen=True)
class Marginal:
    """A posterior over objects, and what was found of the rest.

    Attributes:
        posterior: nuisances integrated out.
        nuisances: which they are.
        mean: (T,) their posterior means, in their prior's standard deviations.
        deviation: (T,) their posterior standard deviations, likewise.
        turns: linearisations that it took.
    """

    posterior: Posterior
    nuisances: FrameNuisances
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    turns: int

    def summary(self) -> dict[str, Any]:
        """Numbers for reports."""
        return self.nuisances.summary(self.mean, self.deviation) | {"linearisations": self.turns}


def marginalised(estimator: LatentEstimator, parts: Sequence[Ptychogram], given: Imperfections) -> Marginal:
    """The posterior of sets of frames whose positions, light and distance are uncertain by `given`.

    `given` speaks of all frames, one set after another; its `stops` may be `recon.combined.stops`.

    Raises:
        ValueError: nothing is uncertain, the deviations are of another number of frames, or the estimator's operator
            is not of amplitudes.
    """
    if estimator.kind is not CameraOperator:
        raise ValueError("uncertain positions are integrated out of amplitudes only; leave the imperfections out")
    if given.none:
        raise ValueError("nothing is uncertain: all deviations are zero; take `combined`")
    sets = Sets.of(estimator, parts)
    if len(given.stops) != len(sets):
        raise ValueError(f"deviations of {len(given.stops)} frames given, there are {len(sets)}")
    light = estimator.light
    positions = light.positions_of(sets.indices)
    nuisances = FrameNuisances.numbered(given, positions, light.geometry.distance_m)
    shape = sets.parts[0].geometry.shape
    drawing = Drawing(estimator.samples, estimator.field_m)

    stride = _stride(light, sets)

    def linearised(values: NDArray[np.float64]) -> Loose:
        ways = Directions.at(nuisances, values, light, sets.exposures_s, shape, drawing, estimator.device)
        base, others = sets.through(ways.operator, ways.others, stride)
        return Loose(base, tuple(others), ways, stride)

    values = np.zeros(len(nuisances))
    modes: Modes | None = None
    scores: Tensor | None = None
    turns = 1
    for _ in range(TURNS):
        turns += 1
        loose = linearised(values)
        rough = loose.quick()
        if modes is None:
            scores = estimator.bank.scores(loose.base.quick())
            modes = search(rough, estimator.scene, estimator.bank, estimator.settings, (), scores)
        else:
            modes = refine(loose, estimator.scene, modes.theta, estimator.settings)
        modes = modes.select(torch.arange(min(KEPT_MODES, len(modes.theta)), device=modes.theta.device))
        best = estimator.scene.images(modes.theta[:1])
        beyond, _ = loose.nuisances(best)
        step = beyond[0].double().cpu().numpy()
        values = values + step
        if np.sqrt(np.square(step).mean()) < STAYS:
            break
    loose = linearised(values)
    assert modes is not None
    # One step of the nuisances is enough for images near the likeliest, not for one that gains a whole field.
    found = estimator.found(loose, modes.theta, scores, beside=False)
    posterior = estimator.pictured(loose, found)
    means, covariances = [], []
    for part in found.lit(estimator.scene).split(CHUNK):
        beyond, covariance = loose.nuisances(part)
        means.append(beyond.double())
        covariances.append(covariance.diagonal(dim1=1, dim2=2).double())
    each = torch.cat(means)
    deviation = (torch.cat(covariances).mean(0) + each.var(0)).sqrt()
    return Marginal(
        posterior,
        nuisances,
        values + each.mean(0).cpu().numpy(),
        deviation.cpu().numpy(),
        turns,
    )


def _stride(light: Illumination, sets: Sets) -> int:
    """Blocks that one can stand for in sums over dark pixels, each way."""
    geometry = light.geometry
    extent = len(light.probe) * geometry.pixel_size_m
    finest = geometry.wavelength_m * geometry.distance_m / extent
    return max(1, int(SPARSEST * finest / (sets.light.side * geometry.pixel_size_m)))
