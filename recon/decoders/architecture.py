"""Named architectures: what a decoder package may ask for. A file gives a name and numbers; code is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn


class DecoderArchitecture(Protocol):
    """Everything that fixes a network's shapes.

    Attributes:
        name: under which it is registered.
        image_size: side s of the images.
        latent_size: length d of the latents.
        channels: c of the images: 1 is an amplitude, 2 an amplitude and a phase.
    """

    @property
    def name(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    @property
    def latent_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def as_dict(self) -> dict[str, Any]:
        """The name and what else a package stores of it, JSON-ready."""
        ...

    def modules(self) -> tuple[nn.Module | None, nn.Module]:
        """Encoder, images (n, c, s, s) to latents (n, d), if there is one; decoder, latents to images in 0..1."""
        ...


_known: dict[str, Callable[[Mapping[str, Any]], DecoderArchitecture]] = {}


def register(name: str, build: Callable[[Mapping[str, Any]], DecoderArchitecture]) -> None:
    """Let packages ask for an architecture of one's own: `build` gets what its `as_dict` has stored.

    Raises:
        ValueError: the name is taken.
    """
    if name in _known:
        raise ValueError(f"decoder architecture {name!r} is registered already")
    _known[name] = build


def architecture_of(values: Mapping[str, Any]) -> DecoderArchitecture:
    """The architecture that a package's metadata describe.

    Raises:
        KeyError, TypeError, ValueError: no such name, or numbers that it does not take.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"an architecture is a table, not {type(values).__name__}")
    name = values.get("name", "irmae")
    if name not in _known:
        raise ValueError(f"unknown decoder architecture {name!r}; known: {', '.join(sorted(_known))}")
    return _known[name](values)
