"""The decoder itself where a search expects a sketch: exact, some fifty times slower on a CPU, for any decoder."""

from __future__ import annotations

import math
import warnings
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import jvp, vmap

from recon.decoders.package import DecoderPackage
from recon.decoders.whitening import Whitening

AT_ONCE = 256
"""Images that are drawn at a time on a GPU."""
IN_CACHE = 32
"""The same on a CPU: layers of so many stay in its cache."""
TANGENTS = 512
"""Derivatives of images along an axis that are computed at a time."""


@dataclass(frozen=True)
class DirectDrawer:
    """Draws whitened latents with the decoder; see `recon.decoders.sketch.Drawer`.

    Attributes:
        package: the decoder.
        whitening: of its latents, on the same device.
    """

    package: DecoderPackage
    whitening: Whitening

    @classmethod
    def of(cls, package: DecoderPackage) -> DirectDrawer:
        """Over the free axes of a package, where it is."""
        # Channels beside each other in memory: transposed convolutions take half of the time, to rounding.
        decoder = deepcopy(package.decoder)
        for weight in decoder.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return cls(replace(package, decoder=decoder), Whitening.of(package))

    @property
    def samples(self) -> int:
        """Side s of the images."""
        return self.package.architecture.image_size

    @property
    def size(self) -> int:
        """Dimensions d of the latents."""
        return self.whitening.size

    @property
    def fidelity_db(self) -> float:
        """Infinite: it is the decoder."""
        return math.inf

    def to(self, device: torch.device | str) -> DirectDrawer:
        """A copy on `device`."""
        return DirectDrawer(self.package.to(device), self.whitening.to(device))

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d)."""
        count = AT_ONCE if zeta.is_cuda else IN_CACHE
        return torch.cat([self.package.decode(self.whitening.latents(part)) for part in zeta.split(count)])

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and their Jacobians (n, s^2, d), all axes together in forward mode."""
        images, jacobians = [], []
        for part in zeta.split(max(1, TANGENTS // self.size)):
            latents = self.whitening.latents(part)
            images.append(self.package.decode(latents))
            jacobians.append(_along(self.package, latents, self.whitening.axes.T).flatten(2).permute(1, 2, 0))
        return torch.cat(images), torch.cat(jacobians)


def rehearse(package: DecoderPackage) -> None:
    """Draw an image with its Jacobian and let it go: at their first use torch loads its rules of forward mode.

    That takes more than a second, which no frame should wait for.
    """
    drawer = DirectDrawer.of(package)
    drawer.drawn(torch.zeros(1, drawer.size))


def _along(package: DecoderPackage, latents: Tensor, axes: Tensor) -> Tensor:
    """(d, n, s, s) derivatives of the decoder's images of latents (n, l) along directions (d, l)."""

    def one(axis: Tensor) -> Tensor:
        along: Tensor = jvp(package.decode, (latents,), (axis.expand_as(latents),))[1]
        return along

    with warnings.catch_warnings():
        # At its first use torch loads its rules of forward mode, some through a compiler that it has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        return vmap(one)(axes)
