"""A quick stand-in for a decoder: three dense layers that draw what it draws, a hundred times faster on a CPU.

Searching and sampling latents takes thousands of images; the decoder's convolutions would take most of the time. The
sketch is trained on the decoder's own images of latents from the prior, and the decoder itself draws every result and
weighs the samples anew, so that its error costs samples, not accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.decoders.mixture import Mixture

WIDTH = 768
WARMER = 1.1
"""Spread of the latents to train on, in those of the prior: a search looks a little beyond it."""


@dataclass(frozen=True)
class Sketch:
    """sigmoid(W3 silu(W2 silu(W1 zeta + b1) + b2) + b3).

    Attributes:
        weights: (w, d), (w, w), (s^2, w).
        biases: (w,), (w,), (s^2,).
        fidelity_db: PSNR against the decoder's images of unseen latents from the prior.
    """

    weights: tuple[Tensor, Tensor, Tensor]
    biases: tuple[Tensor, Tensor, Tensor]
    fidelity_db: float

    @property
    def samples(self) -> int:
        """Side s of the images."""
        return math.isqrt(len(self.biases[2]))

    def to(self, device: torch.device | str) -> Sketch:
        """A copy on `device`."""
        first, second, third = (w.to(device) for w in self.weights)
        one, two, three = (b.to(device) for b in self.biases)
        return Sketch((first, second, third), (one, two, three), self.fidelity_db)

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d)."""
        values = zeta
        for weight, bias in zip(self.weights[:2], self.biases[:2], strict=True):
            values = torch.nn.functional.silu(torch.addmm(bias, values, weight.T))
        values = torch.addmm(self.biases[2], values, self.weights[2].T).sigmoid()
        return values.view(len(zeta), self.samples, self.samples)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and their Jacobians (n, s^2, d), forward through the layers."""
        values, tangent = zeta, None
        for weight, bias in zip(self.weights[:2], self.biases[:2], strict=True):
            sums = torch.addmm(bias, values, weight.T)
            gate = sums.sigmoid()
            slope = gate * (1 + sums * (1 - gate))
            values = sums * gate
            tangent = slope[:, :, None] * (weight if tangent is None else weight @ tangent)
        values = torch.addmm(self.biases[2], values, self.weights[2].T).sigmoid()
        assert tangent is not None
        tangent = (values * (1 - values))[:, :, None] * (self.weights[2] @ tangent)
        return values.view(len(zeta), self.samples, self.samples), tangent


def train_sketch(
    draw: Callable[[Tensor], Tensor],
    prior: Mixture,
    *,
    pairs: int = 150_000,
    epochs: int = 25,
    batch: int = 256,
    seed: int = 0,
    report: Callable[[int, int, float], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Sketch | None:
    """A sketch of the decoder `draw`, from whitened latents (n, d) to images (n, s, s); None when stopped.

    Args:
        pairs: latents drawn from the prior, spread by `WARMER`, one in thirty held back to measure the fidelity.
        report: told (epoch, epochs, fidelity in dB); epoch 0 while the decoder draws, with the share that is done.
    """
    device = prior.means.device
    wide = Mixture(prior.weights, prior.means, prior.factors * WARMER, prior.labels)
    latents = wide.sample(pairs, seed + 11)
    images = []
    with torch.no_grad():
        for part in latents.split(512):
            images.append(draw(part).flatten(1).half())
            report(0, epochs, len(images) * 512 / pairs)
            if stop():
                return None
    drawn = torch.cat(images)
    held = pairs // 30
    network = _network(prior.size, drawn.shape[1], seed).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    steps = epochs * math.ceil((pairs - held) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    fidelity = -math.inf
    for epoch in range(epochs):
        for chosen in torch.randperm(pairs - held, generator=generator).to(device).split(batch):
            optimiser.zero_grad(set_to_none=True)
            loss = (network(latents[chosen]) - drawn[chosen].float()).square().sum(1).mean()
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            error = (network(latents[-held:]) - drawn[-held:].float()).square().mean()
        fidelity = -10 * math.log10(max(float(error), 1e-12))
        report(epoch + 1, epochs, fidelity)
        if stop():
            return None
    layers = [network[k] for k in (0, 2, 4)]
    # In half precision, as it is stored: what is measured is what ships.
    weights = [layer.weight.detach().half().float() for layer in layers]
    biases = [layer.bias.detach().half().float() for layer in layers]
    return Sketch((weights[0], weights[1], weights[2]), (biases[0], biases[1], biases[2]), fidelity)


def _network(size: int, outputs: int, seed: int) -> torch.nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(size, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, outputs),
            torch.nn.Sigmoid(),
        )
