"""What is unknown about a sample under known light: its latent, where it lies, and how bright the light was.

Parameters theta = (zeta, flux, pose), all in units of their prior's standard deviations, so that one search and one
sampler serve all of them. Flux is the logarithm of the light over the calibrated one; the pose is a shift, a rotation
and the logarithm of a magnification of the decoder's image, applied on the decoder's own grid. Images are amplitudes
(n, s, s), or real and imaginary parts (n, 2, s, s) where the drawer draws those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from recon.decoders.mixture import Mixture
from recon.decoders.network import in_channels
from recon.decoders.sketch import Drawer

NUDGE = 1e-2
"""Step of the central differences by which an image is differentiated in the pose, in standard deviations."""


@dataclass(frozen=True)
class Nuisances:
    """Standard deviations of what is not the object; 0 holds a quantity fixed.

    Attributes:
        flux: relative, of the light on the sample.
        shift_m: of each coordinate of the sample's position (50 um by hand).
        rotation_rad: of its angle (10 degrees).
        scale: relative, of its size (0.1).
    """

    flux: float = 0.0
    shift_m: float = 0.0
    rotation_rad: float = 0.0
    scale: float = 0.0

    @property
    def poses(self) -> bool:
        """Whether the pose is free."""
        return max(self.shift_m, self.rotation_rad, self.scale) > 0


FREE_POSE = Nuisances(flux=0.03, shift_m=50e-6, rotation_rad=math.radians(10), scale=0.1)
"""A mask that was put in by hand under light that was measured."""


@dataclass(frozen=True)
class Scene:
    """Images as a function of theta, and theta's prior.

    Attributes:
        drawer: draws the latent.
        prior: of zeta.
        nuisances: priors of the rest.
        field_m: side of the decoder's square on the object.
    """

    drawer: Drawer
    prior: Mixture
    nuisances: Nuisances = field(default_factory=Nuisances)
    field_m: float = 1.0

    @property
    def size(self) -> int:
        """Dimensions of theta."""
        return self.prior.size + (self.nuisances.flux > 0) + 4 * self.nuisances.poses

    def zeta(self, theta: Tensor) -> Tensor:
        """(n, d) the latents in theta (n, size)."""
        return theta[:, : self.prior.size]

    def _parts(self, theta: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logarithm of the flux (n,) and pose (n, 4), in standard deviations, where they are free."""
        rest = theta[:, self.prior.size :]
        flux = rest[:, 0] if self.nuisances.flux > 0 else None
        pose = rest[:, -4:] if self.nuisances.poses else None
        return flux, pose

    def flux(self, theta: Tensor) -> Tensor:
        """(n,) light over the calibrated one."""
        flux, _ = self._parts(theta)
        return torch.ones(len(theta), device=theta.device) if flux is None else (flux * self.nuisances.flux).exp()

    def pose(self, theta: Tensor) -> Tensor:
        """(n, 4) shift y, x in metres, rotation in rad, logarithm of the magnification."""
        _, pose = self._parts(theta)
        return torch.zeros(len(theta), 4, device=theta.device) if pose is None else pose * self._scales(theta)

    def _scales(self, theta: Tensor) -> Tensor:
        """(4,) standard deviations of the pose."""
        n = self.nuisances
        return torch.tensor([n.shift_m, n.shift_m, n.rotation_rad, n.scale], dtype=theta.dtype, device=theta.device)

    def transmitted(self, images: Tensor, theta: Tensor) -> Tensor:
        """(n, s, s) the decoder's images (n, s, s) in their pose, without the flux: the object itself."""
        if not self.nuisances.poses:
            return images
        return moved(in_channels(images), self.pose(theta), self.field_m).view_as(images)

    def lit(self, images: Tensor, theta: Tensor) -> Tensor:
        """(n, s, s) the same times the square root of the flux: what meets the light."""
        root = self.flux(theta).sqrt()
        return self.transmitted(images, theta) * root.view(-1, *(1,) * (images.ndim - 1))

    def images(self, theta: Tensor) -> Tensor:
        """(n, s, s) as `lit`, drawn by the drawer."""
        return self.lit(self.drawer.images(self.zeta(theta)), theta)

    def drawn(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) as `images`, and their Jacobians (n, s^2, size)."""
        images, jacobian = self.drawer.drawn(self.zeta(theta))
        count, size = len(theta), images.shape[-1]
        columns = []
        if self.nuisances.poses:
            pose = self.pose(theta)
            channels = torch.cat((images.flatten(1)[:, :, None], jacobian), 2).transpose(1, 2)
            turned = moved(channels.reshape(count, -1, size, size), pose, self.field_m)
            turned = turned.view_as(channels).transpose(1, 2)
            for step in torch.diag(self._scales(theta)) * NUDGE:
                shown = in_channels(images)
                ahead, behind = (moved(shown, pose + sign * step, self.field_m) for sign in (1, -1))
                columns.append((ahead - behind).flatten(1)[:, :, None] / (2 * NUDGE))
            images, jacobian = turned[:, :, 0].view_as(images), turned[:, :, 1:]
        if self.nuisances.flux > 0:
            columns.insert(0, 0.5 * self.nuisances.flux * images.flatten(1)[:, :, None])
        if columns:
            jacobian = torch.cat((jacobian, *columns), 2)
        root = self.flux(theta).sqrt()[:, None, None]
        return (images.flatten(1) * root[:, :, 0]).view_as(images), jacobian * root

    def log_prior(self, theta: Tensor) -> Tensor:
        """(n,) log density of theta."""
        rest = theta[:, self.prior.size :]
        return (
            self.prior.log_density(self.zeta(theta))
            - 0.5 * rest.square().sum(1)
            - 0.5 * rest.shape[1] * math.log(2 * math.pi)
        )

    def prior_terms(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density (n,), gradient (n, size) and precision (n, size, size)."""
        _, gradient, precision = self.prior.terms(self.zeta(theta))
        rest = theta[:, self.prior.size :]
        count = len(rest)
        whole = torch.eye(self.size, device=theta.device).repeat(count, 1, 1)
        whole[:, : self.prior.size, : self.prior.size] = precision
        return self.log_prior(theta), torch.cat((gradient, -rest), 1), whole

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, size) draws from the prior."""
        zeta = self.prior.sample(count, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        rest = torch.randn(count, self.size - self.prior.size, generator=generator)
        return torch.cat((zeta, rest.to(zeta.device)), 1)


def moved(channels: Tensor, pose: Tensor, field_m: float) -> Tensor:
    """Images (n, c, s, s) shifted by pose[:, :2] metres, turned by pose[:, 2] and magnified by exp(pose[:, 3]).

    Interpolated by cubic convolution, which keeps an image that does not move; zero comes in from outside.
    """
    cos, sin = pose[:, 2].cos(), pose[:, 2].sin()
    shrink = (-pose[:, 3]).exp()
    half = field_m / 2
    # The source of each pixel: turned back, shrunk, shifted back. Grid coordinates are (x, y), -1 .. 1 over the field.
    dy, dx = pose[:, 0] / half, pose[:, 1] / half
    rows = torch.stack(
        (
            torch.stack((cos, sin, -(cos * dx + sin * dy)), 1) * shrink[:, None],
            torch.stack((-sin, cos, sin * dx - cos * dy), 1) * shrink[:, None],
        ),
        1,
    )
    grid = functional.affine_grid(rows, list(channels.shape), align_corners=False)
    return functional.grid_sample(channels, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
