"""Photons one by one, for sensors that tell single electrons apart, in the dark.

A pixel whose reading stays below a threshold says only that it did. That is exact, costs 2 % of the information, and
makes the sum over a million dark pixels a quadratic form of the image that depends on no reading: it is made before
the frames come. What is left of a frame is a list of some hundred bright pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.observation import FLUX_TOLERANCE, LightMap, Terms, information
from recon.operator import CameraOperator

MISSED_SIGMA = 2.0
"""The lowest threshold lies so many read noises below one electron: 2.3 % of the single electrons stay below it."""
WORTHWHILE = 0.03
"""Odds of a photon, at the light expected from the prior, from which on a pixel is looked at one by one."""
FARTHEST_SIGMA = 2.0
"""A pixel so dark that its threshold lies this many read noises above one electron is not looked at."""
RESOLVING_E = 0.45
"""Read noise up to which electrons are counted one by one."""
QUICK = 3
"""The bank is scored by one in so many events, the likeliest."""
MOST_TERMS = 12
"""Electrons in one pixel up to which events are counted."""


@dataclass(frozen=True)
class Watch:
    """What to look at in frames to come: a threshold for every pixel, and what staying below it means.

    Attributes:
        operator: from images to the camera.
        light: where the prior expects light.
        sigma: (H, W) read noise, electrons.
        thresholds: (N, g, side, g, side) electrons; infinite where a pixel is not looked at.
        quadratic: (N, L, L) Q of each frame.
    """

    operator: CameraOperator
    light: LightMap
    sigma: Tensor
    thresholds: Tensor
    quadratic: Tensor

    @classmethod
    def build(cls, operator: CameraOperator, light: LightMap, variance: Tensor, mask: Tensor) -> Watch:
        """For a sensor with the dark `variance` (H, W) and `mask` (H, W) of good pixels."""
        sigma = variance.sqrt()
        covered, good = light.pixels(sigma), light.pixels(mask)
        thresholds, quadratic = [], []
        for j in range(len(operator)):
            mean = light.mean[j][:, None, :, None].clamp_min(1e-12)
            # Odds of one electron against none at the reading t: mean exp((2 t - 1)/(2 sigma^2)).
            threshold = 0.5 + covered.square() * torch.log(WORTHWHILE / mean)
            threshold = torch.maximum(threshold, 1 - MISSED_SIGMA * covered)
            seen = good & (threshold < 1 + FARTHEST_SIGMA * covered)
            missed = _normal((threshold - 1) / covered) / _normal(threshold / covered)
            weight = torch.where(seen, 1 - missed, 0.0).sum((1, 3)).flatten()
            lit = weight > 0
            grid = operator.on_grid(j, light.centres(0), light.centres(1))[lit]
            stacked = torch.cat((grid.real, grid.imag))
            quadratic.append(stacked.T @ (stacked * weight[lit].repeat(2)[:, None]))
            thresholds.append(torch.where(seen, threshold, math.inf))
        return cls(operator, light, sigma, torch.stack(thresholds), torch.stack(quadratic))

    def count(self, data: Ptychogram) -> Events:
        """The events of frames that were taken as the operator says; clipped pixels do not count."""
        operator, light = self.operator, self.light
        device = operator.probe.device
        highest = max(float(frame[data.mask].max()) for frame in data.frames)
        terms = min(MOST_TERMS, max(2, math.ceil(highest + 4 * float(self.sigma.median())) + 1))
        lists, ratios, quadratic = [], [], self.quadratic
        seen, noise = [], []
        covered = light.pixels(self.sigma.square())
        for j in range(len(data)):
            frame = torch.from_numpy(data.frames[j]).to(device)
            reading, threshold = light.pixels(frame), self.thresholds[j]
            looked = threshold.isfinite()
            hit = reading > threshold
            if data.saturated is not None and data.saturated[j].any():
                clipped = light.pixels(torch.from_numpy(data.saturated[j]).to(device)) & looked
                looked = looked & ~clipped
                field = operator.at_pixels(j, *self._places(clipped))
                lost = torch.cat((field.real, field.imag))
                quadratic = quadratic.clone() if quadratic is self.quadratic else quadratic
                quadratic[j] -= lost.T @ lost
                hit &= ~clipped
            seen.append(torch.where(looked, reading, 0.0).sum())
            noise.append(torch.where(looked, covered, 0.0).sum())
            row, column = self._places(hit)
            ratio = _ratios(frame[row, column], self.sigma[row, column], terms)
            mean = light.mean[j, (row - light.corner[0]) // light.side, (column - light.corner[1]) // light.side]
            likely = (ratio[:, 0] * mean).argsort(descending=True, stable=True)
            lists.append(operator.at_pixels(j, row[likely], column[likely]))
            ratios.append(ratio[likely])
        most = max(1, max(len(part) for part in lists))
        rows = torch.zeros(len(data), 2 * most, lists[0].shape[1], device=device)
        padded = torch.zeros(len(data), most, terms, device=device)
        for j, (part, ratio) in enumerate(zip(lists, ratios, strict=True)):
            rows[j, : len(part)], rows[j, most : most + len(part)] = part.real, part.imag
            padded[j, : len(part)] = ratio
        counts = [len(part) for part in lists]
        total = torch.stack(seen)
        return Events(operator, rows, counts, padded, quadratic, float(total.sum()), total, torch.stack(noise))

    def _places(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns (m,) of the camera's pixels that are true in (g, side, g, side)."""
        y, dy, x, dx = chosen.nonzero(as_tuple=True)
        side, (top, left) = self.light.side, self.light.corner
        return y * side + dy + top, x * side + dx + left


@dataclass(frozen=True)
class Events:
    """Bright pixels one by one, dark ones by a quadratic form.

    log p = sum_events ln(1 + r_1 I + r_2 I^2 + ...) - x^T Q x, r_n = p(X | n electrons)/(n! p(X | none)).

    Attributes:
        operator: from images to the camera.
        rows: (N, 2 m, L) float32, real then imaginary part of the field at each event; zeros fill up.
        counts: events of each frame.
        ratios: (N, m, T) r_1 .. r_T.
        quadratic: (N, L, L) Q of each frame.
        electrons: counted.
        seen: (N,) electrons in the pixels of each frame that are looked at.
        noise: (N,) variance of their read noise.
    """

    operator: CameraOperator
    rows: Tensor
    counts: list[int]
    ratios: Tensor
    quadratic: Tensor
    electrons: float
    seen: Tensor
    noise: Tensor

    def _light(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Local images (N, L, S), fields (N, 2 m, S), intensities (N, m, S) and quadratic forms (N, S)."""
        local = self.operator.local(images).flatten(2).transpose(1, 2)
        fields = self.rows @ local
        half = fields.shape[1] // 2
        intensity = fields[:, :half].square() + fields[:, half:].square()
        return local, fields, intensity, ((self.quadratic @ local) * local).sum(1)

    def quick(self) -> Events:
        """The likeliest photons of each frame; the events are in that order."""
        half = self.rows.shape[1] // 2
        most = max(1, half // QUICK)
        rows = torch.cat((self.rows[:, :most], self.rows[:, half : half + most]), 1)
        counts = [min(count, most) for count in self.counts]
        return replace(self, rows=rows, counts=counts, ratios=self.ratios[:, :most, :2].contiguous())

    def value(self, images: Tensor) -> Tensor:
        """(S,) log-likelihood of images (S, s, s)."""
        _, _, intensity, quadratic = self._light(images)
        return _odds(self.ratios, intensity).log1p_().sum((0, 1)) - quadratic.sum(0)

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        """Along the `jacobians` (S, s^2, d) of images (S, s, s)."""
        local, fields, intensity, quadratic = self._light(images)
        odds, slope = _polynomial(self.ratios, intensity)
        value = torch.log1p(odds).sum((0, 1)) - quadratic.sum(0)
        pull = slope / (1 + odds)
        weighted = 2 * fields * torch.cat((pull, pull), 1)
        parts = self.rows.transpose(1, 2) @ weighted - 2 * (self.quadratic @ local)
        high, wide = self.operator.window
        parts = parts.transpose(1, 2).unflatten(2, (high, wide))
        gradient = self.operator.whole(parts).flatten(1)
        found = information(self.operator, self.rows, weighted, jacobians, self.counts)
        return Terms(value, (gradient[:, None] @ jacobians)[:, 0], found)

    def frame_scores(self, image: Tensor) -> Tensor:
        """(N,) light of each frame less that expected of an image (s, s), in standard deviations."""
        _, _, _, quadratic = self._light(image[None])
        # What stays below the thresholds, 2 % of the light, is not in the quadratic form.
        expected = quadratic[:, 0] / (1 - float(_normal(torch.tensor(-MISSED_SIGMA))))
        return (self.seen - expected) / (expected + self.noise + (FLUX_TOLERANCE * expected).square()).sqrt()


def _normal(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2.0))


def _ratios(reading: Tensor, sigma: Tensor, terms: int) -> Tensor:
    """(m, T) r_n = N(X; n, s)/(n! N(X; 0, s)), n = 1 .. T."""
    n = torch.arange(1, terms + 1, device=reading.device)
    exponent = n * (2 * reading[:, None] - n) / (2 * sigma[:, None].square()) - torch.lgamma(n + 1.0)
    return exponent.clamp_max(80.0).exp()


def _odds(ratios: Tensor, intensity: Tensor) -> Tensor:
    """sum_n r_n I^n for ratios (N, m, T) and intensities (N, m, S)."""
    total = intensity * ratios[:, :, -1:]
    for k in range(ratios.shape[2] - 2, -1, -1):
        total.add_(ratios[:, :, k : k + 1]).mul_(intensity)
    return total


def _polynomial(ratios: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
    """sum_n r_n I^n and its slope in I, for ratios (N, m, T) and intensities (N, m, S)."""
    highest = ratios[:, :, -1:]
    value, slope = highest * intensity, highest.expand_as(intensity).clone()
    for k in range(ratios.shape[2] - 2, -1, -1):
        value.add_(ratios[:, :, k : k + 1])
        slope.mul_(intensity).add_(value)
        value.mul_(intensity)
    return value, slope
