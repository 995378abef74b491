"""A small scene for the latent estimator: a decoder of a bar with a few latents, a disc of light, five positions.

Frames are simulated through the padded angular spectrum on the camera's own pitch, which shares nothing with the
estimator's operator but the resize of the decoder's image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recon.dataset import Geometry, Ptychogram
from recon.decoders.mixture import Mixture
from recon.decoders.package import DecoderPackage
from recon.illumination import Illumination, soft_disc
from recon.objects import resize_matrix
from recon.observation import LightMap
from recon.operator import CameraOperator, Drawing
from recon.propagators import NearField
from recon.scene import Nuisances, Scene

WAVELENGTH, PIXEL, FRAME, DISTANCE = 561e-9, 6.9e-6, 192, 25e-3
SIDE, FIELD = 24, 0.6e-3
LATENTS = 5
READ_NOISE = 0.3
SECONDS = 0.01
POSITIONS = 110e-6 * np.array([[0.0, 0.0], [-1.0, -0.9], [-0.8, 1.1], [1.2, -0.7], [0.9, 1.0]])


def bar(zeta: Tensor) -> Tensor:
    """(n, SIDE, SIDE) images of whitened latents (n, up to 5): place y, x, angle, length and width of a soft bar."""
    at = torch.cat((zeta, zeta.new_zeros(len(zeta), LATENTS - zeta.shape[1])), 1)
    axis = (torch.arange(SIDE, dtype=zeta.dtype, device=zeta.device) + 0.5) / SIDE * 2 - 1
    y = axis[None, :, None] - 0.16 * at[:, 0, None, None]
    x = axis[None, None, :] - 0.16 * at[:, 1, None, None]
    angle = (0.6 + 0.4 * at[:, 2])[:, None, None]
    along, beside = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    length = 0.42 * (0.2 * at[:, 3])[:, None, None].exp()
    width = 0.16 * (0.2 * at[:, 4])[:, None, None].exp()
    return torch.sigmoid(3.0 - 4.0 * ((along / length) ** 2 + (beside / width) ** 2))


@dataclass(frozen=True)
class BarDrawer:
    """`bar`, with Jacobians by central differences in double precision."""

    def images(self, zeta: Tensor) -> Tensor:
        return bar(zeta)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        at, step = zeta.double(), 1e-4
        columns = [
            (bar(at + shift) - bar(at - shift)).flatten(1) / (2 * step)
            for shift in step * torch.eye(zeta.shape[1], dtype=torch.float64)
        ]
        return bar(zeta), torch.stack(columns, 2).to(zeta.dtype)


class Bars(nn.Module):
    """`bar` as a decoder's network: latents (n, 5) to images (n, 1, s, s)."""

    def forward(self, latents: Tensor) -> Tensor:
        return bar(latents)[:, None]


@dataclass(frozen=True)
class Shape:
    """All that an estimator asks of a package's architecture; a trained one's sides are multiples of 16."""

    image_size: int = SIDE
    channels: int = 1


def package() -> DecoderPackage:
    """`bar` as a package; its latents are white already, and nothing encodes."""
    return DecoderPackage(
        name="bars",
        architecture=Shape(),  # type: ignore[arg-type]
        encoder=nn.Identity(),  # type: ignore[arg-type]
        decoder=Bars(),  # type: ignore[arg-type]
        latent_mean=torch.zeros(LATENTS),
        latent_eigenvalues=torch.ones(LATENTS),
        latent_eigenvectors=torch.eye(LATENTS),
        linear_singular_values=torch.ones(LATENTS),
        training={},
        sha256="bars",
    )


def scene(latents: int = LATENTS, nuisances: Nuisances | None = None) -> Scene:
    """Bars under a unit normal prior; latents beyond the first few stay at zero."""
    return Scene(BarDrawer(), Mixture.normal(latents), nuisances or Nuisances(), FIELD)


def light(
    photons: float,
    window: int = 88,
    shape: tuple[int, int] = (FRAME, FRAME),
    pixel_m: float = PIXEL,
    distance_m: float = DISTANCE,
    positions_m: NDArray[np.float64] = POSITIONS,
) -> Illumination:
    """A soft disc 0.4 mm across, slightly curved and off the axis, of so many photons in `SECONDS`."""
    disc = soft_disc(window, 0.4e-3 / pixel_m, 22e-6 / pixel_m).astype(np.complex128)
    axis = (np.arange(window) - window // 2) * pixel_m
    y, x = axis[:, None], axis[None, :]
    disc = (
        disc * np.exp(1j * (y**2 + 0.5 * x**2) / (0.3e-3) ** 2) * (1 + 0.3 * np.exp(-((y - 6e-5) ** 2 + x**2) / 1e-8))
    )
    disc *= math.sqrt(photons / SECONDS / (np.abs(disc) ** 2).sum())
    geometry = Geometry(WAVELENGTH, distance_m, pixel_m, shape)
    return Illumination(disc.astype(np.complex64), geometry, positions_m, np.arange(len(positions_m)))


def fields(image: Tensor, source: Illumination, seconds: float = SECONDS, margin: int = 0) -> Tensor:
    """(N, H, W) complex fields of an image (s, s) on the camera, by the padded angular spectrum.

    `margin` pixels more are propagated on every side, which the spectrum's band limit would dim otherwise.
    """
    rows, columns = source.geometry.shape
    geometry = replace(source.geometry, shape=(rows + 2 * margin, columns + 2 * margin))
    window = len(source.probe)
    waves = []
    for y, x in source.positions_m:
        down, across = (resize_matrix(window, geometry.pixel_size_m, FIELD, len(image), -centre) for centre in (y, x))
        waves.append(torch.from_numpy(source.probe) * (down @ image @ across.T))
    optics = NearField.build(geometry, window, padded=True, dtype=torch.complex128)
    count = len(waves)
    found, _ = optics.forward(
        torch.stack(waves).to(torch.complex128) * math.sqrt(seconds),
        torch.zeros(count, 2, dtype=torch.float64),
        torch.tensor(0.0, dtype=torch.float64),
    )
    return found[:, margin : margin + rows, margin : margin + columns]


def measured(
    image: Tensor, source: Illumination, seed: int, read_noise: float = READ_NOISE, seconds: float = SECONDS
) -> Ptychogram:
    """Frames of an image (s, s): photons and read noise from `seed`."""
    rng = np.random.default_rng([seed, 7])
    expected = fields(image, source, seconds).abs().square().numpy()
    frames = rng.poisson(expected) + rng.normal(0, read_noise, expected.shape)
    return ptychogram(frames, source, read_noise, seconds)


def ptychogram(
    frames: NDArray, source: Illumination, read_noise: float = READ_NOISE, seconds: float = SECONDS
) -> Ptychogram:
    """Frames (N, H, W) in electrons as data."""
    shape = source.geometry.shape
    return Ptychogram(
        frames=frames.astype(np.float32),
        positions_m=source.positions_m,
        exposures_s=np.full(len(frames), seconds),
        geometry=source.geometry,
        dark_variance=np.full(shape, read_noise**2, np.float32),
        mask=np.ones(shape, bool),
        name="bars",
    )


def operator(source: Illumination, seconds: float = SECONDS) -> CameraOperator:
    """The operator of all positions of an illumination."""
    count = len(source.positions_m)
    return CameraOperator.build(
        source, source.positions_m, np.full(count, seconds), source.geometry.shape, Drawing(SIDE, FIELD)
    )


def light_map(camera: CameraOperator, pixel_m: float = PIXEL) -> LightMap:
    """Where bars of the prior send their light."""
    return LightMap.build(camera, bar(Mixture.normal(LATENTS).sample(32, 1)), pixel_m)


@dataclass(frozen=True)
class Plain:
    """A drawer whose image (1, d) is the latent itself: for likelihoods that are written down in latents."""

    slope: float = 1.0

    def images(self, zeta: Tensor) -> Tensor:
        return self.slope * zeta[:, None]

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        size = zeta.shape[1]
        return self.images(zeta), self.slope * torch.eye(size).expand(len(zeta), size, size)


def brute_force(intensity: Tensor, reading: Tensor, read_noise: float, threshold: Tensor | None = None) -> Tensor:
    """ln p of each pixel in double precision, by the sum over up to 13 electrons; below its threshold, that it is so.

    Intensities and readings (..., H, W) broadcast, and thresholds with them; infinite ones leave a pixel out.
    """
    light, x = intensity.double(), reading.double()
    n = torch.arange(14.0, dtype=torch.float64).view(-1, *[1] * light.dim())
    poisson = torch.special.xlogy(n, light) - light - torch.lgamma(n + 1)
    density = torch.logsumexp(poisson - 0.5 * ((x - n) / read_noise) ** 2, 0)
    if threshold is None:
        return density
    t = threshold.double()
    below = (poisson.exp() * 0.5 * torch.erfc((n - t) / read_noise / math.sqrt(2))).sum(0).log()
    return torch.where(t.isfinite(), torch.where(x > t, density, below), 0.0)
