"""Whether the object is of the decoder's class: evidence for something that the decoder cannot draw.

What the decoder misses of an object of its class is known (`recon.decoders.misfit`): it lies along edges and is
grainy, so that little of it is seen in the dark. A foreign object misses whole strokes. Both are fields beside the
decoder's image, random, the first with the spectrum of a class's misfit, the second with a smooth one on top. Each is
integrated out about the mode, the latents with it, so that only light they cannot explain counts; the difference of
their evidences decides. A complex object has two such fields, along its transmission and across it: what its amplitude
and what its phase is missed by, of one strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.observation import Observation

OWN_POWER = 0.2
"""Variance of a cosine of what a decoder misses of its class, in that of the misfit a pixel: 0.09 to 0.21 at all orders
of 40 unseen digits for `mnist`, where white noise of the misfit's strength would have one."""
OWN_STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times that: objects of the class are missed more or less."""
BESIDE_STRENGTHS = (*OWN_STRENGTHS, 8.0)
"""The same where what is missed was found with the latents, which then make up for none of it."""
GRAIN = 1.2
"""Correlation length of what a foreign object has beside the decoder's image, in pixels of it."""
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Variances of that which are compared, in those of the misfit."""
COARSE = 4.0
"""Power of that in the coarse orders that dim light shows, in that of white noise of the same variance: 9 at the
coarsest, 2.3 at the tenth."""
FLOOR = 0.25
"""Where the decoder is sure of black or white an object can still be anything: this share of the mean misfit is added
everywhere."""
DARK = 1e-4
"""Amplitude below which an object has no phase."""
HIGHEST = 18
"""Cosines up to this radial order (half periods across the image) are looked at."""


@dataclass(frozen=True)
class Foreign:
    """Evidence for a foreign field beside the decoder's image.

    Attributes:
        log_odds: nats, the best strength of a foreign field over what the class itself is missed by.
        strength: most likely variance of the foreign field, in those of the misfit to images of the class.
        own: evidence of each of `OWN_STRENGTHS`, over a perfect decoder.
        evidence: of each of `STRENGTHS`, likewise.
    """

    log_odds: float
    strength: float
    own: tuple[float, ...]
    evidence: tuple[float, ...]

    @property
    def residual(self) -> float:
        """Power, in coarse orders, of what lies beside the decoder's image, in misfit variances a pixel.

        The mean of its logarithm over all strengths by their evidence, the class's own and foreign ones equally likely
        beforehand.
        """
        own, theirs = len(self.own), len(self.evidence)
        powers = [OWN_POWER * s for s in OWN_STRENGTHS] + [OWN_POWER + COARSE * s for s in STRENGTHS]
        logs = torch.tensor([*self.own, *self.evidence], dtype=torch.float64)
        logs -= torch.tensor([own] * own + [theirs] * theirs, dtype=torch.float64).log()
        return float((torch.softmax(logs, 0) * torch.tensor(powers, dtype=torch.float64).log()).sum().exp())


def widened(misfit: Tensor) -> Tensor:
    """(..., s, s) a misfit's variance with its floor."""
    return misfit + FLOOR * misfit.mean((-2, -1), keepdim=True)


def foreign_evidence(
    observation: Observation,
    image: Tensor,
    jacobian: Tensor,
    prior_precision: Tensor,
    misfit: Tensor,
    phase_misfit: Tensor | None = None,
) -> Foreign:
    """At a mode.

    Args:
        image: (s, s) lit image of the mode; (2, s, s), real and imaginary part, of a complex object.
        jacobian: (s^2, size) of it; (2 s^2, size).
        prior_precision: (size, size) of the parameters.
        misfit: (s, s) variance of real images, their amplitudes, about what the decoder draws.
        phase_misfit: (s, s) that of a complex object's phase, rad^2.
    """
    evidence, power = _evidence(observation, image, jacobian, prior_precision, misfit, phase_misfit)
    missed = torch.full_like(power, OWN_POWER)
    ours = [evidence(s * missed) for s in OWN_STRENGTHS]
    theirs = [evidence(missed + s * power) for s in STRENGTHS]
    best = max(range(len(STRENGTHS)), key=theirs.__getitem__)
    return Foreign(theirs[best] - max(*ours, 0.0), STRENGTHS[best], tuple(ours), tuple(theirs))


def foreign_beside(
    observation: Observation,
    image: Tensor,
    jacobian: Tensor,
    prior: tuple[Tensor, Tensor],
    beside: Tensor,
    misfit: Tensor,
    phase_misfit: Tensor | None = None,
) -> tuple[float, float]:
    """The same about a mode in the light, where what the decoder misses was found too (`recon.missed`).

    The likelihood is linearised where the frames are explained, and a foreign field competes with a class that is
    missed by whatever suits it best.

    Args:
        image: (s, s) or (2, s, s), as the decoder draws it there.
        prior: gradient (size,) and precision (size, size) of the parameters.
        beside: of the image's shape, what it misses.

    Returns:
        Nats for a foreign field of the best strength, and that strength.
    """
    gradient, precision = prior
    evidence, power = _evidence(observation, image, jacobian, precision, misfit, phase_misfit, beside, gradient)
    missed = torch.full_like(power, OWN_POWER)
    own = max(BESIDE_STRENGTHS, key=lambda s: evidence(s * missed))
    theirs = [evidence(own * missed + s * power) for s in STRENGTHS]
    best = max(range(len(STRENGTHS)), key=theirs.__getitem__)
    return theirs[best] - evidence(own * missed), STRENGTHS[best]


def _evidence(
    observation: Observation,
    image: Tensor,
    jacobian: Tensor,
    prior_precision: Tensor,
    misfit: Tensor,
    phase_misfit: Tensor | None,
    beside: Tensor | None = None,
    prior_gradient: Tensor | None = None,
) -> tuple[Callable[[Tensor], float], Tensor]:
    """Nats as a function of the variances (k,) of a field's cosines, over none of it; power (k,) of a smooth field.

    `beside` is what of such a field is known, in the image's shape: the likelihood is linearised there.
    """
    size = image.shape[-1]
    basis, power = _field(size, image.device)
    if phase_misfit is None:
        fields = [widened(misfit).sqrt().flatten()[:, None] * basis]
    else:
        ways = _two_ways(image, misfit, phase_misfit)
        fields = [(way.flatten(1)[:, :, None] * basis).flatten(0, 1) for way in ways]
        power = torch.cat((power, power))
    known = torch.zeros_like(image) if beside is None else beside
    along = torch.cat((jacobian, *fields, known.flatten()[:, None]), 1)
    terms = observation.terms((image + known)[None], along[None])
    gradient, information = terms.gradient[0].double(), terms.information[0].double()
    own = jacobian.shape[1]
    # The quadratic model's gradient where nothing is known yet.
    gradient, information = gradient[:-1] + information[:-1, -1], information[:-1, :-1]
    if prior_gradient is not None:
        gradient[:own] += prior_gradient
    inner = information[:own, :own] + prior_precision.double()
    cross = information[:own, own:]
    solved = torch.cholesky_solve(cross, torch.linalg.cholesky(inner))
    left = information[own:, own:] - cross.T @ solved
    pull = gradient[own:] - solved.T @ gradient[:own]

    def evidence(variance: Tensor) -> float:
        root = variance.double().sqrt()
        scaled = torch.eye(len(root), device=root.device, dtype=root.dtype) + root[:, None] * left * root
        factor = torch.linalg.cholesky(scaled)
        whitened = torch.linalg.solve_triangular(factor, (root * pull)[:, None], upper=False)
        return 0.5 * float(whitened.square().sum()) - float(factor.diagonal().log().sum())

    return evidence, power


def directions(image: Tensor) -> tuple[Tensor, Tensor]:
    """(s, s) cosine and sine of the phase of an image (2, s, s).

    Where next to nothing comes through there is no phase: any two directions at right angles will do.
    """
    amplitude = torch.hypot(image[0], image[1])
    lit = amplitude > DARK
    real = torch.where(lit, image[0] / amplitude.clamp_min(DARK), 1.0)
    return real, torch.where(lit, image[1] / amplitude.clamp_min(DARK), 0.0)


def _two_ways(image: Tensor, misfit: Tensor, phase_misfit: Tensor) -> tuple[Tensor, Tensor]:
    """(2, s, s) each: what a deviation of the amplitude, and one of the phase, does to real and imaginary part."""
    amplitude = torch.hypot(image[0], image[1])
    real, imaginary = directions(image)
    # What is foreign in the dark may have any phase: there both are the same.
    along = widened(misfit).sqrt()
    across = (amplitude.square() * phase_misfit + FLOOR * misfit.mean()).sqrt()
    return along * torch.stack((real, imaginary)), across * torch.stack((-imaginary, real))


def _field(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(s^2, k) orthonormal cosines, and the power (k,) of a smooth field of unit variance in each."""
    axis = torch.arange(size, device=device, dtype=torch.float32)
    order = torch.arange(min(size, HIGHEST + 1), device=device, dtype=torch.float32)
    cosines = torch.cos(math.pi * (axis[:, None] + 0.5) * order[None] / size)
    cosines /= cosines.square().sum(0).sqrt()
    chosen = (order[:, None].square() + order[None].square()).sqrt() <= HIGHEST
    rows, columns = chosen.nonzero(as_tuple=True)
    field = (cosines[:, None, rows] * cosines[None, :, columns]).flatten(0, 1)
    # Unit variance a pixel: the powers of all s^2 cosines have mean one.
    every = torch.arange(size, device=device, dtype=torch.float32)
    line = torch.exp(-0.5 * (GRAIN * math.pi * every / size).square())
    power = line[rows] * line[columns] / line.mean().square()
    return field, power
