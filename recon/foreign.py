"""Whether the object is of the decoder's class: evidence for something that the decoder cannot draw.

A locally best test of variance components: the object is what the decoder draws plus a smooth random field, whose
strength is the decoder's known misfit to real images of its class, or that of a foreign object. The field is
integrated out to second order about the mode, the latents with it, so that only light they cannot explain counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.observation import Observation

GRAIN = 1.2
"""Correlation length of the field, in pixels of the decoder's image."""
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Variances that are compared, in those of the decoder's misfit."""
OWN = 4.0
"""Up to this strength a misfit is that of the class itself."""
HIGHEST = 32
"""Cosines along each axis that the field is made of."""


@dataclass(frozen=True)
class Foreign:
    """Evidence for a field beside the decoder's image.

    Attributes:
        log_odds: nats, best strength above that of the class against best up to it.
        strength: most likely variance, in those of the misfit to images of the class.
        evidence: of each of `STRENGTHS` over no field at all, nats.
    """

    log_odds: float
    strength: float
    evidence: tuple[float, ...]


def foreign_evidence(
    observation: Observation, image: Tensor, jacobian: Tensor, prior_precision: Tensor, misfit: Tensor
) -> Foreign:
    """At a mode.

    Args:
        image: (s, s) lit image of the mode.
        jacobian: (s^2, size) of it.
        prior_precision: (size, size) of the parameters.
        misfit: (s, s) variance of real images about what the decoder draws.
    """
    size = image.shape[-1]
    basis = _field(size, image.device)
    # Where the decoder is sure of black or white a foreign object can still be anything: a floor under the misfit.
    deviation = (misfit + 0.25 * misfit.mean()).sqrt().flatten()
    along = torch.cat((jacobian, deviation[:, None] * basis), 1)
    terms = observation.terms(image[None], along[None])
    gradient, information = terms.gradient[0].double(), terms.information[0].double()
    own = jacobian.shape[1]
    inner = information[:own, :own] + prior_precision.double()
    cross = information[:own, own:]
    factor = torch.linalg.cholesky(inner)
    solved = torch.cholesky_solve(cross, factor)
    left = information[own:, own:] - cross.T @ solved
    pull = gradient[own:] - solved.T @ gradient[:own]
    values, vectors = torch.linalg.eigh(0.5 * (left + left.T))
    square, values = (vectors.T @ pull).square(), values.clamp_min(0)
    evidence = [float((0.5 * s * square / (1 + s * values) - 0.5 * torch.log1p(s * values)).sum()) for s in STRENGTHS]
    ours = max(e for e, s in zip(evidence, STRENGTHS, strict=True) if s <= OWN)
    theirs = max(e for e, s in zip(evidence, STRENGTHS, strict=True) if s > OWN)
    best = max(range(len(STRENGTHS)), key=evidence.__getitem__)
    return Foreign(theirs - max(ours, 0.0), STRENGTHS[best], tuple(evidence))


def _field(size: int, device: torch.device) -> Tensor:
    """(s^2, k) smooth unit-variance field as columns times independent unit normals: cosines under a Gaussian."""
    axis = torch.arange(size, device=device, dtype=torch.float32)
    order = torch.arange(min(size, HIGHEST), device=device, dtype=torch.float32)
    cosines = torch.cos(math.pi * (axis[:, None] + 0.5) * order[None] / size)
    cosines[:, 0] *= math.sqrt(0.5)
    weight = torch.exp(-0.25 * (GRAIN * math.pi * order / size).square())
    lines = cosines * weight
    # No more columns than hold 99 % of the variance.
    power = (weight[:, None] * weight[None]).square().flatten()
    order_by = power.sort(descending=True)
    count = int((order_by.values.cumsum(0) < 0.99 * power.sum()).sum()) + 1
    chosen = order_by.indices[:count]
    rows, columns = chosen // len(order), chosen % len(order)
    field = (lines[:, None, rows] * lines[None, :, columns]).flatten(0, 1)
    return field / field.square().sum(1).mean().sqrt()
