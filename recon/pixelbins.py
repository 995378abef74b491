"""The exact likelihood of all pixels of a bin together, as a function of the bin's light: a table for each bin.

Where read noise leaves single electrons half visible, a sum over pixels hides them. The light of a bin is even over
its pixels, so that what all of their readings say is still a function of one number: with p(X | I)/p(X | 0) =
e^-I (1 + r_1 I + r_2 I^2 + ...) of a pixel (`ExactMixed.series`), the bin of n pixels under the light L = n I has

    log p(readings | L) - log p(readings | 0) = -L + g(L),    g(L) = sum_pixels ln(1 + r_1 I + r_2 I^2 + ...).

g is a cubic between nodes that are even in u = ln(1 + L/c), with its own value and slope at each. c = 1/g'(0): in u
the light that one electron explains is a straight line, whichever electron it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.exactnoise import series_terms
from recon.information import LEAST_SIGMA, MOST_SIGMA, fisher_table
from recon.observation import alike

NODES = 28
"""Of each bin's table: within 1e-3 nats a bin at a read noise of 0.45 electrons, which bends it most."""
BRIGHTEST_E = 12.0
"""Light of a pixel, in electrons, where tables end; beyond it g goes on as a straight line in u."""
MOST_E = 24.0
"""Reading of a pixel up to which there are tables."""
MOST_TERMS = 64
"""Of the series. The likeliest electrons are fewer than `MOST_E`, and those that count some five roots of it more, also
in a hot pixel whose noise would ask `series_terms` for hundreds."""
PIECE = 2**15
"""Lights that a CPU looks up at a time: they stay in its cache."""
LEAST_SCALE = 1e-30
"""Electrons: c of a reading that no light explains stays a number of single precision."""


@dataclass(frozen=True)
class PixelTables:
    """g of each bin of frames; in the padding it is zero.

    Attributes:
        read_noise_e: (least, most) of the pixels, electrons rms.
        pixels: (N, m) good pixels n of each bin; one in the padding.
        scale: (N, m) c, electrons.
        step: (N, m) distance of the nodes in u.
        cubics: (N, m, K, 4) coefficients of g, from each node on, in the number of steps; straight from the last on.
    """

    read_noise_e: tuple[float, float]
    pixels: Tensor
    scale: Tensor
    step: Tensor
    cubics: Tensor

    @classmethod
    def build(
        cls, read_noise_e: tuple[float, float], frames: Sequence[tuple[Tensor, Tensor, Tensor]], most: int
    ) -> PixelTables:
        """From readings, dark variances and whether they count, each (m, n), of every frame, filled up to `most` bins.

        Pixels that do not count may hold anything.
        """
        device = frames[0][0].device
        pixels, scale, step = (torch.ones(len(frames), most, device=device) for _ in range(3))
        cubics = torch.zeros(len(frames), most, NODES, 4, device=device)
        for j, (reading, variance, good) in enumerate(frames):
            if m := len(reading):
                scale[j, :m], step[j, :m], cubics[j, :m] = _tabulated(reading, variance, good)
                pixels[j, :m] = good.sum(1)
        return cls(read_noise_e, pixels, scale, step, cubics)

    def of_frame(self, frame: int, count: int) -> PixelTables:
        """The first `count` bins of one frame."""
        parts = (part[frame, None, :count] for part in (self.pixels, self.scale, self.step, self.cubics))
        return PixelTables(self.read_noise_e, *parts)

    def every(self, step: int) -> PixelTables:
        """Every so many-th bin of each frame."""
        parts = (part[:, ::step] for part in (self.pixels, self.scale, self.step, self.cubics))
        return PixelTables(self.read_noise_e, *parts)

    def joined(self, more: PixelTables) -> PixelTables:
        """These frames and more."""
        least, most = (self.read_noise_e, more.read_noise_e)
        parts = [
            torch.cat(alike(a, b, 1, filling))
            for a, b, filling in (
                (self.pixels, more.pixels, 1.0),
                (self.scale, more.scale, 1.0),
                (self.step, more.step, 1.0),
                (self.cubics, more.cubics, 0.0),
            )
        ]
        return PixelTables((min(least[0], most[0]), max(least[1], most[1])), *parts)

    def cost(self, light: Tensor) -> Tensor:
        """(N, m, S) minus the log-likelihood over that of no light, of the bins' lights (N, m, S)."""
        (found,) = self._in_pieces(lambda *at: (_value(*at)[0],), light, 1)
        return found

    def evaluate(self, light: Tensor) -> tuple[Tensor, Tensor]:
        """`cost` and its slope, which is that of the interpolation, in the bins' lights."""
        cost, slope = self._in_pieces(_sloped, light, 2)
        return cost, slope

    def fisher(self, light: Tensor, variance: Tensor) -> Tensor:
        """(N, m, S) information about the bins' lights, of pixels whose variances add up to `variance` (N, m).

        Pixels of one bin count with their mean variance.
        """
        pixels = self.pixels[:, :, None]
        table = fisher_table(*self.read_noise_e)
        return table.look_up(light / pixels, (variance[:, :, None] / pixels).expand_as(light)) / pixels

    def _in_pieces(
        self, of: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]], light: Tensor, count: int
    ) -> list[Tensor]:
        lights = light.flatten(0, 1)
        tables = (self.scale.flatten()[:, None], self.step.flatten()[:, None], self.cubics.flatten(0, 1))
        if light.device.type != "cpu":
            return [part.view_as(light) for part in of(lights, *tables)]
        out = [torch.empty_like(lights) for _ in range(count)]
        rows = max(1, PIECE // max(1, lights.shape[1]))
        for first in range(0, len(lights), rows):
            here = slice(first, first + rows)
            for place, found in zip(out, of(lights[here], *(table[here] for table in tables)), strict=True):
                place[here] = found
        return [part.view_as(light) for part in out]


def read_noise_range(variance: Tensor) -> tuple[float, float]:
    """(least, most) read noise of variances, electrons rms, within what information is tabulated for."""
    low, high = torch.aminmax(variance.clamp(LEAST_SIGMA**2, MOST_SIGMA**2))
    return math.sqrt(float(low)), math.sqrt(float(high))


def _tabulated(reading: Tensor, variance: Tensor, good: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c (m,), step (m,) and cubics (m, K, 4) of bins of pixels (m, n)."""
    x, v = torch.where(good, reading, 0.0).double(), torch.where(good, variance, 1.0).double()
    terms = min(MOST_TERMS, series_terms(BRIGHTEST_E, float(x.max()), math.sqrt(float(v[good].max()))))
    order = torch.arange(terms + 1, dtype=torch.float64, device=x.device)
    # ln r_0 .. r_T, as `ExactMixed.series` has them, relative to the largest: nothing overflows.
    logs = (x[:, :, None] - order / 2) * (order / v[:, :, None]) - torch.lgamma(order + 1)
    reference = logs.amax(2, keepdim=True)
    series = (logs - reference).exp()
    counted, pixels = good.double()[:, None], good.sum(1)
    steepest = (counted @ logs[:, :, 1:2].exp())[:, 0, 0].clamp_max(1 / LEAST_SCALE)
    scale = pixels / steepest
    step = torch.log1p(BRIGHTEST_E * pixels / scale) / (NODES - 1)
    nodes = torch.arange(NODES, dtype=torch.float64, device=x.device)
    stretch = (step[:, None] * nodes).expm1()
    intensity = stretch * (scale / pixels)[:, None]
    powers = [torch.ones_like(intensity)]
    for _ in range(terms):
        powers.append(powers[-1] * intensity)
    raised = torch.stack(powers, 1)
    # A reading that no light explains by 690 nats is given no more.
    value = (series @ raised).clamp_min_(1e-300)
    slope = (series[:, :, 1:] * order[1:]) @ raised[:, :-1]
    g = (counted @ value.log())[:, 0] + counted[:, 0].mul(reference[:, :, 0]).sum(1, keepdim=True)
    # Of no light it is zero by definition, rounding or not.
    g[:, 0] = 0.0
    # dg/du = dg/dI dI/du a pixel, in steps; I = c/n (e^u - 1).
    along = (counted @ slope.div_(value))[:, 0] * (stretch + 1) * (scale / pixels * step)[:, None]
    rise = g[:, 1:] - g[:, :-1]
    # g never falls, and no more do cubics whose slopes are at most three times the rise (Fritsch & Carlson 1980). Only
    # readings that no light explains, on their way from none, ask for that.
    most = 3 * torch.minimum(torch.cat((rise, rise[:, -1:]), 1), torch.cat((rise[:, :1], rise), 1))
    along = torch.minimum(along, most)
    # What lies beyond the last node goes on straight.
    second, third = torch.zeros_like(along), torch.zeros_like(along)
    second[:, :-1] = 3 * rise - 2 * along[:, :-1] - along[:, 1:]
    third[:, :-1] = along[:, :-1] + along[:, 1:] - 2 * rise
    return scale.float(), step.float(), torch.stack((g, along, second, third), 2).float()


def _value(light: Tensor, scale: Tensor, step: Tensor, cubics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L - g(L) of lights (r, S), how many steps they lie beyond a node, and its coefficients (r, S, 4)."""
    along = (light / scale).log1p_().div_(step)
    node = along.floor().clamp_max_(NODES - 1)
    along -= node
    first = torch.arange(len(light), device=light.device)[:, None] * NODES
    four = cubics.reshape(-1, 4)[node.long().add_(first)]
    g = torch.addcmul(four[..., 2], four[..., 3], along)
    g = torch.addcmul(four[..., 1], g, along)
    g = torch.addcmul(four[..., 0], g, along)
    return light - g, along, four


def _sloped(light: Tensor, scale: Tensor, step: Tensor, cubics: Tensor) -> tuple[Tensor, Tensor]:
    """L - g(L) and 1 - g'(L)."""
    cost, along, four = _value(light, scale, step, cubics)
    rise = torch.addcmul(2 * four[..., 2], four[..., 3], along, value=3)
    rise = torch.addcmul(four[..., 1], rise, along)
    return cost, 1 - rise.div_((light + scale).mul_(step))
