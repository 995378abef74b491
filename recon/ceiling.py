"""What a decoder can draw at best: the noise-free fit that a study's successes are measured against.

Noise-free data say of a pixel only its intensity; their Poisson likelihood is 2 (sqrt I - sqrt I0)^2 near the optimum,
least squares in amplitudes, for which Gauss-Newton is made. The sketch finds the valleys, the decoder ends in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import DecoderPackage
from recon.decoders.whitening import Whitening
from recon.paper import LitBlocks

STARTS = 64
COARSE = ((5, 64), (6, 12))
"""Steps on the sketch, and how many of the best starts go on after them, twice."""
KEPT, FINE_STEPS = 2, 14
"""Valleys that the decoder itself descends, beside the encoder's, and its steps."""
SETTLED = 1e-5
"""Relative gain of a step below which the best start has arrived."""
NODE_M = 31e-6
"""Distance of the points at which amplitudes are compared: what a decoder draws has no finer diffraction."""
MEAN_OF = 2048
"""Draws of the prior whose mean is its mean image."""
SPARSER = 8
"""Every so many-th point is enough for a first search."""


@dataclass(frozen=True)
class Terms:
    """Half the squared amplitude residuals (S,), their gradient (S, d) and Gauss-Newton matrix (S, d, d)."""

    value: Tensor
    gradient: Tensor
    information: Tensor


def amplitude_terms(lit: LitBlocks, target: list[Tensor], images: Tensor, jacobians: Tensor) -> Terms:
    """Of 2 side^2 (|psi| - target)^2 summed over blocks, for images (S, s, s) with Jacobians (S, s^2, d).

    Args:
        target: [(m_j,)] square roots of the electrons a pixel.
    """
    count, dims = len(images), jacobians.shape[2]
    side = lit.operator.drawing.samples
    value, gradient = images.new_zeros(count), images.new_zeros(count, dims)
    information = images.new_zeros(count, dims, dims)
    weight = 2.0 * lit.side
    maps = jacobians.transpose(1, 2).reshape(count * dims, side, side)
    for j, wanted in enumerate(target):
        fields, intensity = lit.fields(j, images)
        modulus = intensity.clamp_min(1e-12).sqrt()
        half = len(wanted)
        slopes, _ = lit.fields(j, maps)
        slopes = slopes.view(2 * half, count, dims)
        along = (fields[:half, :, None] * slopes[:half] + fields[half:, :, None] * slopes[half:]) / modulus[:, :, None]
        along = along.permute(1, 0, 2) * weight
        residual = (wanted[:, None] - modulus).T * weight
        value += 0.5 * residual.square().sum(1)
        gradient += (residual[:, None] @ along)[:, 0]
        information += along.transpose(1, 2) @ along
    return Terms(value, gradient, information)


Draw = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From whitened latents (S, d) to images (S, s, s) and Jacobians (S, s^2, d)."""


def _descended(lit: LitBlocks, target: list[Tensor], draw: Draw, zeta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt of all starts (S, d) under a unit-normal prior; where they end, and their values."""

    def looked(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        terms = amplitude_terms(lit, target, *draw(at))
        unit = torch.eye(at.shape[1], device=at.device)
        return terms.value + 0.5 * at.square().sum(1), terms.gradient - at, terms.information + unit

    value, gradient, precision = looked(zeta)
    damping = torch.full_like(value, 0.1)
    for _ in range(steps):
        before = value.min()
        damped = precision + torch.diag_embed(damping[:, None] * precision.diagonal(dim1=1, dim2=2))
        tried = zeta + torch.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        new_value, new_gradient, new_precision = looked(tried)
        better = new_value <= value
        damping = torch.where(better, damping * 0.2, damping * 5).clamp(1e-8, 1e8)
        zeta = torch.where(better[:, None], tried, zeta)
        value = torch.where(better, new_value, value)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        precision = torch.where(better[:, None, None], new_precision, precision)
        arrived = better[value.argmin()] & (before - value.min() < SETTLED * value.min())
        if bool(arrived):
            break
    return zeta, value


def noise_free_fit(
    lit: LitBlocks,
    per_second: Tensor,
    package: DecoderPackage,
    companion: Companion,
    truth: NDArray[np.float32],
    seed: int = 0,
) -> NDArray[np.float32]:
    """(s, s) the decoder's image that explains noise-free intensities (N, H, W) best.

    Along the free axes, as estimators search, from the encoder's latent of the `truth` (s, s) and 64 prior draws;
    `lit` holds the exposure, 1e8 photons.
    """
    encoded = package.encode(torch.from_numpy(truth).to(package.latent_mean.device)[None])[0]
    seconds = float(lit.operator.seconds[0])
    target = [(values * seconds).clamp_min(0).sqrt() for values in lit.at_nodes(per_second)]
    free = Whitening.of(package)
    starts = torch.cat((free.whitened(encoded[None]), companion.prior.sample(STARTS, seed + 3)))
    sparse, thin = lit.every(SPARSER), [t[::SPARSER] for t in target]
    found = starts
    for steps, kept in COARSE:
        found, value = _descended(sparse, thin, companion.sketch.drawn, found, steps)
        found = found[value.argsort()[:kept]]
    found = found[:KEPT]
    # The encoder's own latent joins, wherever it went in the first search.
    drawing = DirectDrawer.of(package)
    zeta, value = _descended(lit, target, drawing.drawn, torch.cat((found, starts[:1])), FINE_STEPS)
    with torch.no_grad():
        best: NDArray[np.float32] = package.decode(free.latents(zeta[value.argmin()][None]))[0].cpu().numpy()
    return best


def prior_mean(companion: Companion, package: DecoderPackage) -> NDArray[np.float32]:
    """(s, s) the mean of what the decoder draws of its prior: the best image before any light has come."""
    latents = Whitening.of(package).latents(companion.prior.sample(MEAN_OF, 1))
    with torch.no_grad():
        mean: NDArray[np.float32] = torch.cat([package.decode(p) for p in latents.split(256)]).mean(0).cpu().numpy()
    return mean
