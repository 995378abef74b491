"""A user's own decoder: a stack of layers out of a fixed list, described by words and numbers, never by code.

A package of this kind names the architecture `layers` and lists its layers; loading builds them from `KINDS` and fills
in the numbers. What is not in the list cannot be in a file. `recon.decoders.ownmodule` goes the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from recon.decoders.architecture import register

Layer = tuple[str, tuple[float, ...]]
"""Kind and numbers."""
MOST_LAYERS = 64
MOST_NUMBERS = 100_000_000
"""Weights of a package, at most: a file's own words must not make the program ask for all memory."""


def _whole(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda *numbers: build(*(int(n) for n in numbers))


KINDS: dict[str, tuple[int, Callable[..., nn.Module]]] = {
    "linear": (2, _whole(nn.Linear)),
    "conv": (5, _whole(nn.Conv2d)),
    "conv_transpose": (5, _whole(nn.ConvTranspose2d)),
    "batch_norm": (1, _whole(nn.BatchNorm2d)),
    "upsample": (1, lambda factor: nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)),
    "unflatten": (3, _whole(lambda *shape: nn.Unflatten(1, shape))),
    "flatten": (0, lambda: nn.Flatten(1)),
    "relu": (0, nn.ReLU),
    "leaky_relu": (1, nn.LeakyReLU),
    "elu": (1, nn.ELU),
    "gelu": (0, nn.GELU),
    "silu": (0, nn.SiLU),
    "tanh": (0, nn.Tanh),
    "sigmoid": (0, nn.Sigmoid),
}
"""How many numbers a kind takes, and the layer it makes: linear (in, out); conv and conv_transpose (in, out, kernel,
stride, padding); batch_norm (channels); upsample (factor); unflatten (channels, rows, columns); leaky_relu (slope);
elu (alpha)."""


@dataclass(frozen=True)
class Layers:
    """A decoder, and an encoder if there is one, as lists of layers.

    Attributes:
        image_size: side s of the images.
        latent_size: length d of the latents.
        decoder: from latents (n, d) to images (n, 1, s, s) or (n, s^2) in 0..1; the last layer is a sigmoid.
        encoder: from images (n, 1, s, s) to latents (n, d); None for none.
    """

    image_size: int
    latent_size: int
    decoder: tuple[Layer, ...]
    encoder: tuple[Layer, ...] | None = None
    name: str = "layers"

    def __post_init__(self) -> None:
        """Raises `ValueError` for sizes, kinds or numbers that are not allowed."""
        if not 1 <= self.image_size <= 1024 or not 1 <= self.latent_size <= 4096:
            raise ValueError(f"image_size {self.image_size} and latent_size {self.latent_size}: at most 1024 and 4096")
        object.__setattr__(self, "decoder", _checked(self.decoder))
        if self.encoder is not None:
            object.__setattr__(self, "encoder", _checked(self.encoder))
        if self.decoder[-1][0] != "sigmoid":
            raise ValueError(f"the decoder's last layer is {self.decoder[-1][0]!r}, images in 0..1 need 'sigmoid'")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        encoder = None if self.encoder is None else [[kind, list(numbers)] for kind, numbers in self.encoder]
        return {
            "name": self.name,
            "image_size": self.image_size,
            "latent_size": self.latent_size,
            "decoder": [[kind, list(numbers)] for kind, numbers in self.decoder],
            "encoder": encoder,
        }

    def modules(self) -> tuple[nn.Module | None, nn.Module]:
        """Encoder, if there is one, and decoder."""
        encoder = None if self.encoder is None else nn.Sequential(*_built(self.encoder))
        decoder = _built(self.decoder)
        if self._flat:
            decoder.append(nn.Unflatten(1, (1, self.image_size, self.image_size)))
        return encoder, nn.Sequential(*decoder)

    @property
    def channels(self) -> int:
        """One: these networks draw amplitudes."""
        return 1

    @property
    def _flat(self) -> bool:
        """Whether the decoder ends in rows of pixels instead of images."""
        for kind, _ in reversed(self.decoder):
            if kind in ("linear", "flatten"):
                return True
            if kind in ("conv", "conv_transpose", "batch_norm", "upsample", "unflatten"):
                return False
        return True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layers:
        """From `as_dict`; raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(
            int(values["image_size"]),
            int(values["latent_size"]),
            tuple((str(kind), tuple(numbers)) for kind, numbers in values["decoder"]),
            None
            if values.get("encoder") is None
            else tuple((str(kind), tuple(numbers)) for kind, numbers in values["encoder"]),
        )


register("layers", Layers.from_dict)


def _checked(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    if not 1 <= len(layers) <= MOST_LAYERS:
        raise ValueError(f"{len(layers)} layers; from 1 to {MOST_LAYERS} are allowed")
    total = 0.0
    for kind, numbers in layers:
        if kind not in KINDS:
            raise ValueError(f"layer {kind!r} is not known; known: {', '.join(KINDS)}")
        wanted = KINDS[kind][0]
        if len(numbers) != wanted or not all(isinstance(n, int | float) and 0 <= n <= 1e6 for n in numbers):
            raise ValueError(f"layer {kind!r} takes {wanted} numbers from 0 to 1e6, got {list(numbers)}")
        if kind in ("linear", "conv", "conv_transpose"):
            total += numbers[0] * numbers[1] * (numbers[2] ** 2 if len(numbers) > 2 else 1)
    if total > MOST_NUMBERS:
        raise ValueError(f"the layers hold {total:.3g} weights, at most {MOST_NUMBERS:.3g} are allowed")
    return tuple((kind, tuple(numbers)) for kind, numbers in layers)


def _built(layers: Sequence[Layer]) -> list[nn.Module]:
    return [KINDS[kind][1](*numbers) for kind, numbers in layers]
