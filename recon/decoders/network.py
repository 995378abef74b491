"""The implicit rank-minimising autoencoder (IRMAE) of the paper's Fig. 2.

Jing, Zbontar & LeCun, "Implicit rank-minimizing autoencoder" (2020), as adapted by Seifert, Shao & Mosk (2024):
four strided convolutions, a linear map to the latent, a chain of bias-free square layers that drives the latent
to a low rank, and a decoder that ends in a sigmoid, so that images lie in 0..1 and can be amplitude transmissions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from recon.decoders.architecture import register
from recon.decoders.pairs import RELIEF_RAD

LINEAR_STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "glorot": nn.init.xavier_uniform_,
}
"""How the square layers may start."""


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of an autoencoder; stored in its package as plain numbers.

    Attributes:
        name: identifies the family; a package with another name is refused.
        image_size: side of the square images, in decoder pixels; a multiple of 16.
        latent_size: length of the latent vector.
        linear_layers: square layers between encoder and latent (the paper: 8; 0 is a plain autoencoder).
        encoder_channels: channels after each of the four strided convolutions.
        decoder_channels: channels of the first, small image and after each doubling of its side; the paper doubles
            twice, from 8 to 32 pixels.
    """

    name: str = "irmae"
    image_size: int = 32
    latent_size: int = 128
    linear_layers: int = 8
    encoder_channels: tuple[int, int, int, int] = (32, 64, 128, 256)
    decoder_channels: tuple[int, ...] = (128, 64, 32)

    NAME: ClassVar[str] = "irmae"

    def __post_init__(self) -> None:
        if self.name != self.NAME:
            raise ValueError(f"unknown decoder architecture {self.name!r}; known: {self.NAME!r}")
        if self.image_size < 16 or self.image_size % 16:
            raise ValueError(f"image_size must be a positive multiple of 16, got {self.image_size}")
        if self.latent_size < 1 or self.linear_layers < 0:
            raise ValueError(
                f"latent_size must be at least 1 and linear_layers at least 0, "
                f"got {self.latent_size} and {self.linear_layers}"
            )
        doublings = len(self.decoder_channels) - 1
        if doublings < 1 or self.image_size % 2**doublings or any(n < 1 for n in self.decoder_channels):
            raise ValueError(
                f"decoder_channels {tuple(self.decoder_channels)} must be positive and name at least two, and "
                f"image_size {self.image_size} must be divisible by 2 once for each after the first"
            )
        object.__setattr__(self, "encoder_channels", tuple(self.encoder_channels))
        object.__setattr__(self, "decoder_channels", tuple(self.decoder_channels))

    @property
    def channels(self) -> int:
        """Of the images: one, the amplitude."""
        return 1

    @classmethod
    def of_size(cls, image_size: int, latent_size: int = 128, linear_layers: int = 8) -> Architecture:
        """The paper's network for images of any size: the decoder starts at 8 pixels and doubles as often as it takes.

        Sizes that are not 8 times a power of two keep the paper's two doublings.
        """
        doublings = (image_size // 8).bit_length() - 1
        if doublings < 2 or image_size != 8 * 2**doublings:
            return cls(image_size=image_size, latent_size=latent_size, linear_layers=linear_layers)
        channels = (128,) * (doublings - 1) + (64, 32)
        return cls(
            image_size=image_size, latent_size=latent_size, linear_layers=linear_layers, decoder_channels=channels
        )

    def as_dict(self) -> dict:
        """The fields as JSON-ready values."""
        return asdict(self)

    def modules(self) -> tuple[nn.Module, nn.Module]:
        """Encoder, with room for the folded chain, and decoder."""
        return Encoder(self), Decoder(self)


register("irmae", lambda values: Architecture(**values))


@dataclass(frozen=True)
class ComplexArchitecture(Architecture):
    """The same with two channels, amplitude and phase, that share every layer but the first and the last.

    Attributes:
        channels: 2; declared in every package, so that whoever reads one knows what it draws.
        phase_rad: phase, in rad, of a second channel of 1.
    """

    name: str = "irmae-complex"
    channels: int = 2
    phase_rad: float = RELIEF_RAD

    NAME: ClassVar[str] = "irmae-complex"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels != 2 or not 0 < self.phase_rad <= 2 * math.pi:
            raise ValueError(
                f"an amplitude and a phase are 2 channels and the phase's range is up to 2 pi, got {self.channels} "
                f"and {self.phase_rad} rad"
            )


register("irmae-complex", lambda values: ComplexArchitecture(**values))


def in_channels(images: Tensor) -> Tensor:
    """(n, c, s, s) of images (n, s, s) or of images that have their channels already."""
    return images.unsqueeze(1) if images.ndim == 3 else images


class Encoder(nn.Module):
    """Images (n, c, s, s) in 0..1 to latents (n, latent_size)."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        layers: list[nn.Module] = []
        channels = architecture.channels
        for out in architecture.encoder_channels:
            layers += [nn.Conv2d(channels, out, kernel_size=4, stride=2, padding=1), nn.ReLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        side = architecture.image_size // 16
        self.to_latent = nn.Linear(channels * side * side, architecture.latent_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.to_latent(self.features(images).flatten(1))


class Decoder(nn.Module):
    """Latents (n, latent_size) to images (n, c, s, s) in 0..1."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        channels = architecture.decoder_channels
        self.channels = channels[0]
        self.side = architecture.image_size // 2 ** (len(channels) - 1)
        self.from_latent = nn.Linear(architecture.latent_size, self.channels * self.side * self.side)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1)]
        last = nn.Conv2d(channels[-1], architecture.channels, kernel_size=3, padding=1)
        self.upsample = nn.Sequential(*layers, nn.ReLU(), last)

    def logits(self, latents: Tensor) -> Tensor:
        """Images before the sigmoid, for a numerically safe cross-entropy."""
        features = self.from_latent(latents).view(-1, self.channels, self.side, self.side)
        return self.upsample(features)

    def forward(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(latents))


class Autoencoder(nn.Module):
    """Encoder, the chain of linear layers, and decoder, as they are while training.

    The linear chain starts orthogonal: with PyTorch's default initialisation the product of eight layers is so
    small that the latent's rank collapses to one for many epochs. "glorot" is the start of the paper's framework: the
    product of eight such layers favours few directions from the first step, and the rank ends lower.
    """

    def __init__(self, architecture: Architecture, linear_start: str = "orthogonal"):
        """Raises `ValueError` for a start that is not in `LINEAR_STARTS`."""
        super().__init__()
        if linear_start not in LINEAR_STARTS:
            raise ValueError(f"linear_start {linear_start!r}: known are {', '.join(LINEAR_STARTS)}")
        self.architecture = architecture
        self.encoder = Encoder(architecture)
        size = architecture.latent_size
        chain = [nn.Linear(size, size, bias=False) for _ in range(architecture.linear_layers)]
        for layer in chain:
            LINEAR_STARTS[linear_start](layer.weight)
        self.linear = nn.Sequential(*chain)
        self.decoder = Decoder(architecture)

    def encode(self, images: Tensor) -> Tensor:
        """Images (n, c, s, s) to the latents (n, latent_size) that the decoder takes."""
        return self.linear(self.encoder(images))

    def logits(self, images: Tensor) -> Tensor:
        """Reconstructed images before the sigmoid."""
        return self.decoder.logits(self.encode(images))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(images))

    @torch.no_grad()
    def folded_linear(self) -> Tensor:
        """The chain as one matrix W (latent_size, latent_size): h = W f(x)."""
        size = self.architecture.latent_size
        folded = torch.eye(size, dtype=torch.float64)
        for layer in self.linear:
            assert isinstance(layer, nn.Linear)
            folded = layer.weight.detach().to("cpu", torch.float64) @ folded
        return folded

    @torch.no_grad()
    def folded_encoder(self) -> Encoder:
        """An encoder whose last layer already contains the chain, so that it ends at the decoder's latents."""
        folded = Encoder(self.architecture)
        folded.load_state_dict(self.encoder.state_dict())
        matrix = self.folded_linear()
        last = folded.to_latent
        last.weight.copy_((matrix @ last.weight.double()).float())
        last.bias.copy_((matrix @ last.bias.double()).float())
        return folded
