"""A quick stand-in for a decoder: dense layers that draw what it draws, some fifty times faster on a CPU.

Searching and sampling latents takes thousands of images; the decoder's convolutions would take most of the time. The
sketch is trained on the decoder's own images of latents from the prior, and the decoder itself draws every result and
weighs the samples anew, so that its error costs samples, not accuracy. `recon.decoders.direct` draws with the decoder
itself behind the same protocol, for decoders that have no sketch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from recon.decoders.mixture import Mixture

WARMER = 1.1
"""Spread of the latents to train on, in those of the prior: a search looks a little beyond it."""
PEAK_RATE = 2e-3
"""Learning rate at the middle of the one-cycle schedule."""
HELD_BACK = 30
"""One pair in so many is held back to measure the fidelity."""
DRAWN_AT_ONCE = 512


class Drawer(Protocol):
    """Images and their Jacobians as functions of whitened latents."""

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d)."""
        ...

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and their Jacobians (n, s^2, d)."""
        ...


class StandIn(Drawer, Protocol):
    """What a companion draws with: a sketch, or the decoder itself where there is none."""

    @property
    def samples(self) -> int:
        """Side s of the images."""
        ...

    @property
    def fidelity_db(self) -> float:
        """PSNR against the decoder's own images; infinite for the decoder itself."""
        ...

    def to(self, device: torch.device | str) -> StandIn:
        """A copy on `device`."""
        ...


@dataclass(frozen=True)
class Sketch:
    """Dense layers with silu between them and a sigmoid at the end: sigmoid(W3 silu(W2 silu(W1 zeta + b1) + b2) + b3).

    Attributes:
        weights: of each layer, (w, d), (w, w) ..., (s^2, w).
        biases: of each layer, (w,), ..., (s^2,).
        fidelity_db: PSNR against the decoder's images of unseen latents from the prior.
        channels: c of the images, (n, c, s, s) where there are more than one; the last layer has c s^2 rows.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    fidelity_db: float
    channels: int = 1

    def __post_init__(self) -> None:
        shapes = [tuple(w.shape) for w in self.weights]
        if len(shapes) < 2 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"a sketch has at least two layers of matrices, got {shapes}")
        fits = all(after[1] == before[0] for before, after in pairwise(shapes))
        if not fits or [tuple(b.shape) for b in self.biases] != [shape[:1] for shape in shapes]:
            raise ValueError(f"layers of a sketch do not fit each other: {shapes}")
        if self.channels * self.samples**2 != shapes[-1][0]:
            raise ValueError(f"a sketch draws squares, not {shapes[-1][0]} pixels")

    @property
    def samples(self) -> int:
        """Side s of the images."""
        return math.isqrt(len(self.biases[-1]) // self.channels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        square = (self.samples, self.samples)
        return square if self.channels == 1 else (self.channels, *square)

    @property
    def size(self) -> int:
        """Dimensions d of the latents."""
        return self.weights[0].shape[1]

    def to(self, device: torch.device | str) -> Sketch:
        """A copy on `device`."""
        return replace(
            self, weights=tuple(w.to(device) for w in self.weights), biases=tuple(b.to(device) for b in self.biases)
        )

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d)."""
        values = zeta
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = functional.silu(torch.addmm(bias, values, weight.T))
        values = torch.addmm(self.biases[-1], values, self.weights[-1].T).sigmoid()
        return values.view(len(zeta), *self.shape)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and their Jacobians (n, s^2, d), forward through the layers."""
        values = zeta
        tangent: Tensor | None = None
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            sums = torch.addmm(bias, values, weight.T)
            gate = sums.sigmoid()
            slope = gate * (1 + sums * (1 - gate))
            values = sums * gate
            tangent = slope[:, :, None] * (weight if tangent is None else weight @ tangent)
        assert tangent is not None
        values = torch.addmm(self.biases[-1], values, self.weights[-1].T).sigmoid()
        tangent = (values * (1 - values))[:, :, None] * (self.weights[-1] @ tangent)
        return values.view(len(zeta), *self.shape), tangent


@dataclass(frozen=True)
class SketchSettings:
    """How a sketch is trained.

    Attributes:
        width: of the hidden layers.
        depth: hidden layers.
        pairs: latents drawn from the prior, spread by `WARMER`, and the decoder's images of them.
        epochs: passes over the pairs.
        batch: pairs a step.
        seed: of the latents, the first weights and the shuffling.
    """

    width: int = 768
    depth: int = 2
    pairs: int = 150_000
    epochs: int = 25
    batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.epochs, self.batch) < 1 or self.pairs < 2:
            raise ValueError(f"a sketch needs at least 2 pairs and 1 of everything else, got {self}")


def train_sketch(
    draw: Callable[[Tensor], Tensor],
    prior: Mixture,
    settings: SketchSettings | None = None,
    report: Callable[[int, int, float], None] = lambda *_: None,
) -> Sketch:
    """A sketch of the decoder `draw`, from whitened latents (n, d) to images (n, s, s), where the prior's tensors are.

    Args:
        report: told (pairs drawn, pairs, nan) while the decoder draws, then (epoch, epochs, fidelity in dB).
    """
    settings = settings or SketchSettings()
    device = prior.means.device
    with torch.no_grad():
        channels = draw(prior.means[:1])[0].shape[:-2].numel()
    latents, drawn = _pairs(draw, prior, settings, lambda done: report(done, settings.pairs, math.nan))
    count = settings.pairs - max(1, settings.pairs // HELD_BACK)
    network = _network(prior.size, drawn.shape[1], settings).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=PEAK_RATE, fused=device.type == "cuda")
    steps = settings.epochs * math.ceil(count / settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(settings.seed)
    for epoch in range(settings.epochs):
        for chosen in torch.randperm(count, generator=generator).to(device).split(settings.batch):
            optimiser.zero_grad(set_to_none=True)
            loss = (network(latents[chosen]).sigmoid() - drawn[chosen].float()).square().sum(1).mean()
            loss.backward()
            optimiser.step()
            schedule.step()
        sketch = _stored(network, latents[count:], drawn[count:], channels)
        report(epoch + 1, settings.epochs, sketch.fidelity_db)
    return sketch


def _pairs(
    draw: Callable[[Tensor], Tensor], prior: Mixture, settings: SketchSettings, report: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Latents (pairs, d) and the decoder's images of them (pairs, s^2), the images in half precision."""
    wide = Mixture(prior.weights, prior.means, prior.factors * WARMER, prior.labels)
    latents = wide.sample(settings.pairs, settings.seed + 11)
    drawn: Tensor | None = None
    done = 0
    with torch.no_grad():
        for part in latents.split(DRAWN_AT_ONCE):
            images = draw(part).flatten(1)
            if drawn is None:
                # In one piece from the start: parts joined at the end would take twice the memory.
                drawn = torch.empty(settings.pairs, images.shape[1], dtype=torch.float16, device=images.device)
            drawn[done : done + len(part)] = images
            done += len(part)
            report(done)
    assert drawn is not None
    return latents, drawn


def _network(size: int, outputs: int, settings: SketchSettings) -> torch.nn.Sequential:
    """The layers without the sigmoid at the end."""
    widths = [size] + [settings.width] * settings.depth + [outputs]
    layers: list[torch.nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for before, after in pairwise(widths):
            layers += [torch.nn.Linear(before, after), torch.nn.SiLU()]
    return torch.nn.Sequential(*layers[:-1])


def _stored(network: torch.nn.Sequential, latents: Tensor, drawn: Tensor, channels: int) -> Sketch:
    """The network in half precision, as it is stored, and its fidelity then: what is measured is what ships."""
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    weights = tuple(layer.weight.detach().half().float() for layer in layers)
    biases = tuple(layer.bias.detach().half().float() for layer in layers)
    sketch = Sketch(weights, biases, math.nan, channels)
    with torch.no_grad():
        parts = zip(latents.split(DRAWN_AT_ONCE), drawn.split(DRAWN_AT_ONCE), strict=True)
        square = sum(float((sketch.images(z).flatten(1) - d.float()).square().sum()) for z, d in parts)
    return replace(sketch, fidelity_db=-10 * math.log10(max(square / drawn.numel(), 1e-12)))
