"""Photons one by one, for sensors that tell single electrons apart, in the dark.

A pixel whose reading stays below a threshold says only that it did. That is exact, costs 2 % of the information, and
makes the sum over a million dark pixels a quadratic form of the image that depends on no reading: it is made before
the frames come. What is left of a frame is a list of some hundred bright pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.observation import FLUX_TOLERANCE, LightMap, Terms, alike, information, pattern_weight, trimmed
from recon.operator import CameraOperator
from recon.quadratics import Quadratics

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
SUREST = 50.0
"""Nats by which one pixel can speak for one electron or more against none."""
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
        quadratic: Q of each frame.
        share: (N,) x^T Q x over the light in the pixels that are looked at, for the light expected from the prior.
        weights: (N, g, g) of the light at a block's centre in x^T Q x.
    """

    operator: CameraOperator
    light: LightMap
    sigma: Tensor
    thresholds: Tensor
    quadratic: Quadratics
    share: Tensor
    weights: Tensor

    @classmethod
    def build(cls, operator: CameraOperator, light: LightMap, variance: Tensor, mask: Tensor, stride: int = 1) -> Watch:
        """For a sensor with the dark `variance` (H, W) and `mask` (H, W) of good pixels.

        Of the dark blocks every `stride`-th each way stands for its neighbours in Q; see `LightMap.sampled`.
        """
        sigma = variance.sqrt()
        covered, good = light.pixels(sigma), light.pixels(mask)
        thresholds, quadratic, share, weights = [], [], [], []
        for j in range(len(operator)):
            mean = light.mean[j][:, None, :, None].clamp_min(1e-12)
            # Odds of one electron against none at the reading t: mean exp((2 t - 1)/(2 sigma^2)).
            threshold = 0.5 + covered.square() * torch.log(WORTHWHILE / mean)
            threshold = torch.maximum(threshold, 1 - MISSED_SIGMA * covered)
            seen = good & (threshold < 1 + FARTHEST_SIGMA * covered)
            weight = torch.where(seen, 1 - _missed(threshold, covered), 0.0).sum((1, 3))
            looked = seen.sum((1, 3)) * light.mean[j]
            share.append((weight * light.mean[j]).sum() / looked.sum().clamp_min(1e-12))
            weights.append(weight)
            rows, columns, weight = light.sampled(weight, stride)
            lit = weight > 0
            grid = operator.on_grid(j, rows, columns)[lit]
            stacked = torch.cat((grid.real, grid.imag))
            quadratic.append(stacked.T @ (stacked * weight[lit].repeat(2)[:, None]))
            thresholds.append(torch.where(seen, threshold, math.inf))
        forms = Quadratics.of(operator, torch.stack(quadratic))
        return cls(operator, light, sigma, torch.stack(thresholds), forms, torch.stack(share), torch.stack(weights))

    def select(self, frames: Sequence[int]) -> Watch:
        """What to look at in some of the frames."""
        chosen = list(frames)
        operator = self.operator.select(chosen)
        return Watch(
            operator,
            self.light.select(chosen),
            self.sigma,
            self.thresholds[chosen],
            self.quadratic.select(operator, chosen),
            self.share[chosen],
            self.weights[chosen],
        )

    def count(self, data: Ptychogram) -> Events:
        """The events of frames that were taken as the operator says; clipped pixels do not count."""
        operator, light = self.operator, self.light
        device = operator.probe.device
        weights, lost = self.weights, dict[int, Tensor]()
        places, seen, noise = [], [], []
        covered = light.pixels(self.sigma.square())
        for j in range(len(data)):
            reading = light.pixels(torch.from_numpy(data.frames[j]).to(device))
            looked = self.thresholds[j].isfinite()
            if data.saturated is not None and data.saturated[j].any():
                clipped = light.pixels(torch.from_numpy(data.saturated[j]).to(device)) & looked
                looked = looked & ~clipped
                lost[j] = self._dark(j, clipped)
                weights = weights.clone() if weights is self.weights else weights
                missed_there = _missed(self.thresholds[j], light.pixels(self.sigma))
                weights[j] -= torch.where(clipped, 1 - missed_there, 0.0).sum((1, 3))
            places.append(self._places(looked & (reading > self.thresholds[j])))
            seen.append(torch.where(looked, reading, 0.0).sum())
            noise.append(torch.where(looked, covered, 0.0).sum())
        readings = [torch.from_numpy(data.frames[j]).to(device)[place] for j, place in enumerate(places)]
        sigmas = [self.sigma[place] for place in places]
        highest = max((float((x + 4 * s).max()) for x, s in zip(readings, sigmas, strict=True) if len(x)), default=0.0)
        terms = min(MOST_TERMS, max(2, math.ceil(highest) + 1))
        most = max(1, max(len(part) for part in readings))
        rows = torch.zeros(len(data), 2 * most, self.quadratic.each.shape[1], device=device)
        padded = torch.zeros(len(data), most, terms, device=device)
        missed = torch.zeros(len(data), most, device=device)
        top, left = light.corner
        for j, ((row, column), reading, sigma) in enumerate(zip(places, readings, sigmas, strict=True)):
            ratio = _ratios(reading, sigma, terms)
            mean = light.mean[j, (row - top) // light.side, (column - left) // light.side]
            likely = ((2 * reading - 1) / (2 * sigma.square()) + mean.log()).argsort(descending=True, stable=True)
            row, column, m = row[likely], column[likely], len(likely)
            field = operator.at_pixels(j, row, column)
            rows[j, :m], rows[j, most : most + m] = field.real, field.imag
            padded[j, :m] = ratio[likely]
            missed[j, :m] = _missed(
                self.thresholds[j].flatten(2).flatten(0, 1)[row - top, column - left], sigma[likely]
            )
        counts = [len(part) for part in readings]
        total = torch.stack(seen)
        return Events(
            operator,
            rows,
            counts,
            padded,
            missed,
            self.quadratic.less(lost) if lost else self.quadratic,
            total,
            torch.stack(noise),
            self.share,
            light,
            weights,
        )

    def _dark(self, frame: int, chosen: Tensor) -> Tensor:
        """(L, L) what pixels that are true in (g, side, g, side) have added to Q of a frame."""
        row, column = self._places(chosen)
        side, (top, left) = self.light.side, self.light.corner
        threshold = self.thresholds[frame][chosen]
        weight = 1 - _missed(threshold, self.sigma[row, column])

        def centre(index: Tensor, first: int) -> Tensor:
            return (index - first) // side * side + first + side // 2

        field = self.operator.at_pixels(frame, centre(row, top), centre(column, left))
        stacked = torch.cat((field.real, field.imag))
        return stacked.T @ (stacked * weight.repeat(2)[:, None])

    def _places(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns (m,) of the camera's pixels that are true in (g, side, g, side)."""
        y, dy, x, dx = chosen.nonzero(as_tuple=True)
        side, (top, left) = self.light.side, self.light.corner
        return y * side + dy + top, x * side + dx + left


@dataclass(frozen=True)
class Events:
    """Bright pixels one by one, dark ones by a quadratic form.

    log p = sum_events ln(1 + r_1 I + r_2 I^2 + ...) - m I - x^T Q x, r_n = p(X | n electrons)/(n! p(X | none)), m the
    single electrons that the pixel's threshold misses over those without any below it; Q holds 1 - m of all pixels.

    Attributes:
        operator: from images to the camera.
        rows: (N, 2 m, L) float32, real then imaginary part of the field at each event; zeros fill up.
        counts: events of each frame.
        ratios: (N, m, T) r_1 .. r_T.
        missed: (N, m) m of each event's pixel.
        quadratic: Q of each frame.
        seen: (N,) electrons in the pixels of each frame that are looked at.
        noise: (N,) variance of their read noise.
        share: (N,) x^T Q x over the light in those pixels.
        light: blocks.
        weights: (N, g, g) of the light at a block's centre in x^T Q x.
    """

    operator: CameraOperator
    rows: Tensor
    counts: list[int]
    ratios: Tensor
    missed: Tensor
    quadratic: Quadratics
    seen: Tensor
    noise: Tensor
    share: Tensor
    light: LightMap
    weights: Tensor

    counting: ClassVar[str] = "events"

    @property
    def electrons(self) -> float:
        """Counted in the pixels that are looked at."""
        return float(self.seen.sum())

    def joined(self, more: Events) -> Events:
        """These frames and more, of the same sensor and looked at in the same blocks."""
        operator = self.operator.joined(more.operator)
        rows = alike(self.rows.unflatten(1, (2, -1)), more.rows.unflatten(1, (2, -1)), 2)
        ratios = alike(*alike(self.ratios, more.ratios, 2), 1)
        return Events(
            operator,
            torch.cat(rows).flatten(1, 2),
            self.counts + more.counts,
            torch.cat(ratios),
            torch.cat(alike(self.missed, more.missed, 1)),
            self.quadratic.joined(operator, more.quadratic),
            torch.cat((self.seen, more.seen)),
            torch.cat((self.noise, more.noise)),
            torch.cat((self.share, more.share)),
            self.light.joined(more.light),
            torch.cat((self.weights, more.weights)),
        )

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        """All frames together on a GPU; on a CPU one by one, each with its own events only, which stay in its cache."""
        if self.rows.is_cuda:
            return (_Group(slice(None), self.rows, self.ratios, self.missed),)
        return tuple(
            _Group(
                slice(j, j + 1), trimmed(self.rows[j : j + 1], m), self.ratios[j : j + 1, :m], self.missed[j, None, :m]
            )
            for j, m in enumerate(self.counts)
        )

    def _local(self, images: Tensor) -> Tensor:
        """(N, L, S) what each frame sees of images (S, s, s)."""
        return self.operator.local(images).flatten(2).transpose(1, 2)

    def quick(self) -> Events:
        """The likeliest photons of each frame; the events are in that order."""
        half = self.rows.shape[1] // 2
        most = max(1, half // QUICK)
        rows = torch.cat((self.rows[:, :most], self.rows[:, half : half + most]), 1)
        counts = [min(count, most) for count in self.counts]
        return replace(self, rows=rows, counts=counts, ratios=self.ratios[:, :most], missed=self.missed[:, :most])

    def value(self, images: Tensor) -> Tensor:
        """(S,) log-likelihood of images (S, s, s)."""
        return self.photons(images) - self.quadratic.total(images)

    def photons(self, images: Tensor) -> Tensor:
        """(S,) the part of the log-likelihood that the frames decide: all but the quadratic forms."""
        local = self._local(images)
        total = images.new_zeros(len(images))
        for group in self._groups:
            _, intensity = group.light(local)
            lost = torch.einsum("nm,nms->s", group.missed, intensity)
            total += _odds(group.ratios, intensity).log1p_().sum((0, 1)) - lost
        return total

    def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (S,) of images (S, s, s) and its gradient (S, s, s) in them."""
        value, gradient, _ = self._sloped(images)
        return value, gradient

    def _sloped(self, images: Tensor) -> tuple[Tensor, Tensor, list[tuple[_Group, Tensor, Tensor]]]:
        """As `slope`; and of each group twice the fields (n, 2 m, S) and the pull d ln(1 + ..)/dI (n, m, S)."""
        local = self._local(images)
        applied = self.quadratic.apply(images)
        value = -(applied * images).flatten(1).sum(1)
        parts = local.new_zeros(len(local), len(images), local.shape[1])
        pulls = []
        for group in self._groups:
            fields, intensity = group.light(local)
            odds, slope = polynomial(group.ratios, intensity)
            missed = group.missed[:, :, None]
            value += (torch.log1p(odds) - missed * intensity).sum((0, 1))
            pull = slope.div_(odds.add_(1))
            twice = fields.mul_(2)
            pulled = twice.unflatten(1, (2, -1)) * (pull - missed)[:, None]
            parts[group.frames] = (group.rows.transpose(1, 2) @ pulled.flatten(1, 2)).transpose(1, 2)
            pulls.append((group, twice, pull))
        return value, self.operator.whole(parts.unflatten(2, self.operator.seen)) - 2 * applied, pulls

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        """Along the `jacobians` (S, s^2, d) of images (S, s, s)."""
        value, gradient, pulls = self._sloped(images)

        def weighted() -> Iterator[tuple[int, Tensor, Tensor]]:
            for group, twice, pull in pulls:
                # With s = pull - 1 the score of a pixel, E[s (s + 1)] over events alone is the information of all.
                worth = (pull * (pull - 1)).clamp_min_(0).sqrt_()
                weights = (twice.unflatten(1, (2, -1)) * worth[:, None]).flatten(1, 2)
                for k, j in enumerate(range(*group.frames.indices(len(self.counts)))):
                    m = self.counts[j]
                    yield j, trimmed(group.rows[k, None], m)[0], trimmed(weights[k, None], m)[0]

        found = information(self.operator, weighted(), jacobians)
        return Terms(value, (gradient.flatten(1)[:, None] @ jacobians)[:, 0], found)

    def counted(self, image: Tensor) -> float:
        """Electrons that the events hold, if an image (s, s) lights them: of each, the number that its reading and the
        light there make likely. Readings alone would add up the read noise of a million dark pixels."""
        local = self._local(image[None])
        total = 0.0
        for group in self._groups:
            _, intensity = group.light(local)
            odds, slope = polynomial(group.ratios, intensity)
            total += float((intensity * slope / (1 + odds)).sum())
        return total

    def frame_scores(self, image: Tensor) -> Tensor:
        """(N,) light of each frame less that expected of an image (s, s), in standard deviations."""
        expected = self.quadratic.by_frame(image[None])[:, 0] / self.share
        return (self.seen - expected) / (expected + self.noise + (FLUX_TOLERANCE * expected).square()).sqrt()

    def pattern_scores(self, image: Tensor) -> Tensor:
        """(N,) how much more of each frame's light lies where an image (s, s) is bright than it says, in deviations."""
        fields = self.rows @ self._local(image[None])
        half = fields.shape[1] // 2
        intensity = (fields[:, :half].square() + fields[:, half:].square())[:, :, 0]
        blocks = self.light.of(self.operator, image)
        dark = self.weights * blocks
        typical = dark.square().sum((1, 2)) / dark.sum((1, 2)).clamp_min(1e-12) / self.light.side**2
        odds, slope = polynomial(self.ratios, intensity[:, :, None])
        pull = (slope / (1 + odds))[:, :, 0]
        weight = pattern_weight(intensity, typical[:, None])
        lit = pattern_weight(blocks, typical[:, None, None])
        expected, counted = (dark * lit).sum((1, 2)), (dark * lit.square()).sum((1, 2))
        found = (weight * intensity * (pull - self.missed)).sum(1)
        # Read noise leaves a part of what counting would tell, about the same in all frames; a frame that happens to
        # hold few photons is no more certain for that.
        left = ((weight * intensity).square() * (pull * (pull - 1)).clamp_min(0)).sum() / counted.sum().clamp_min(1e-12)
        variance = left * counted + (FLUX_TOLERANCE * expected).square()
        return (found - expected) / variance.clamp_min(1e-12).sqrt()


@dataclass(frozen=True)
class _Group:
    """Frames that are looked at together; see `Events`."""

    frames: slice
    rows: Tensor
    ratios: Tensor
    missed: Tensor

    def light(self, local: Tensor) -> tuple[Tensor, Tensor]:
        """Fields (n, 2 m, S) and intensities (n, m, S) of what all frames see (N, L, S)."""
        fields = self.rows @ local[self.frames]
        half = fields.shape[1] // 2
        return fields, fields[:, :half].square().add_(fields[:, half:].square())


def _normal(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2.0))


def _missed(threshold: Tensor, sigma: Tensor) -> Tensor:
    """Probability of a reading below a threshold with one electron over that with none."""
    return _normal((threshold - 1) / sigma) / _normal(threshold / sigma)


def _ratios(reading: Tensor, sigma: Tensor, terms: int) -> Tensor:
    """(m, T) r_n = N(X; n, s)/(n! N(X; 0, s)), n = 1 .. T.

    A reading that no light would explain by more than `SUREST` nats is given that much: all its r_n are scaled alike,
    so that single precision holds their sum, and which image explains it best does not change.
    """
    n = torch.arange(1, terms + 1, device=reading.device)
    exponent = n * (2 * reading[:, None] - n) / (2 * sigma[:, None].square()) - torch.lgamma(n + 1.0)
    return (exponent - (exponent.amax(1, keepdim=True) - SUREST).clamp_min(0)).exp()


def _odds(ratios: Tensor, intensity: Tensor) -> Tensor:
    """sum_n r_n I^n for ratios (N, m, T) and intensities (N, m, S)."""
    total = intensity * ratios[:, :, -1:]
    for k in range(ratios.shape[2] - 2, -1, -1):
        total.add_(ratios[:, :, k : k + 1]).mul_(intensity)
    return total


def polynomial(ratios: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
    """sum_n r_n I^n and its slope in I, for ratios (N, m, T) and intensities (N, m, S)."""
    highest = ratios[:, :, -1:]
    value, slope = highest * intensity, highest.expand_as(intensity).clone()
    for k in range(ratios.shape[2] - 2, -1, -1):
        value.add_(ratios[:, :, k : k + 1])
        slope.mul_(intensity).add_(value)
        value.mul_(intensity)
    return value, slope
