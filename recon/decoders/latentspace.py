"""A decoder's latent space: how many axes it uses, what lies between two objects, what its priors draw (Fig. 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recon.decoders.companion import Companion
from recon.decoders.package import DecoderError, DecoderPackage, latent_statistics
from recon.decoders.training import psnr_per_image
from recon.decoders.whitening import Whitening

AT_ONCE = 500
LINEAR_THRESHOLD = 0.1
"""Share of the largest singular value of the folded square layers above which one counts. Those that nothing has driven
stay near one, where an orthogonal chain begins, and the driven ones grow to some twenty."""


def effective_rank(values: NDArray[np.float64], threshold: float) -> int:
    """How many of descending values exceed that share of the first."""
    return int((values > threshold * values[0]).sum())


def knee(values: NDArray[np.float64]) -> int:
    """The rank after which descending values fall most, as a ratio; no threshold enters."""
    kept = values[values > 1e-9 * values[0]]
    if len(kept) < 2:
        return len(kept)
    return int((kept[:-1] / kept[1:]).argmax()) + 1


@dataclass(frozen=True)
class LatentSpace:
    """What a decoder's latent space is like.

    Attributes:
        name: of the decoder.
        images: validation images that were encoded.
        variances: (d,) singular values of the covariance of their latents, descending.
        linear: (d,) singular values of the folded square layers, descending; all one where there are none.
        psnr_db: mean over the validation images, encoded and decoded.
        interpolation: (k, s, s) images along the straight line between two latents.
        gaussian: (n, s, s) images of draws from the normal distribution with the training latents' covariance.
        mixture: (n, s, s) images of draws from the shipped prior; empty where there is none.
    """

    name: str
    images: int
    variances: NDArray[np.float64]
    linear: NDArray[np.float64]
    psnr_db: float
    interpolation: NDArray[np.float32]
    gaussian: NDArray[np.float32]
    mixture: NDArray[np.float32]


@torch.no_grad()
def latent_space(
    package: DecoderPackage,
    companion: Companion | None,
    images: NDArray[np.float32],
    ends: NDArray[np.float32],
    steps: int = 9,
    samples: int = 9,
    seed: int = 0,
) -> LatentSpace:
    """From validation images (n, s, s) and the two images `ends` (2, s, s), where the package is.

    Raises:
        DecoderError: the decoder has no encoder.
        ValueError: fewer than two validation images.
    """
    if package.encoder is None:
        raise DecoderError(f"decoder {package.name!r}: holds no encoder, so images have no latents to look at")
    if len(images) < 2:
        raise ValueError(f"{len(images)} validation images are too few, a covariance needs two")
    device = package.latent_mean.device
    seen = torch.from_numpy(np.ascontiguousarray(images))
    _, variances, _ = latent_statistics(package.encoder, seen.to(device))
    errors = []
    for part in seen.split(AT_ONCE):
        part = part.to(device)
        errors.append(psnr_per_image(package.decode(package.encode(part)), part))
    begin, end = package.encode(torch.from_numpy(np.ascontiguousarray(ends)).to(device))
    between = torch.linspace(0, 1, steps, device=device)[:, None]
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(samples, len(package.latent_mean), generator=generator).to(device)
    gaussian = package.latent_mean + (white * package.latent_eigenvalues.sqrt()) @ package.latent_eigenvectors.T
    drawn = np.empty((0, *images.shape[1:]), np.float32)
    if companion is not None and not companion.plain:
        zeta = companion.prior.sample(samples, seed)
        drawn = package.decode(Whitening.of(package).latents(zeta.to(device))).cpu().numpy()
    return LatentSpace(
        name=package.name,
        images=len(images),
        variances=variances.cpu().numpy(),
        linear=package.linear_singular_values.double().cpu().numpy(),
        psnr_db=float(torch.cat(errors).mean()),
        interpolation=package.decode(begin + between * (end - begin)).cpu().numpy(),
        gaussian=package.decode(gaussian).cpu().numpy(),
        mixture=drawn,
    )
