"""Likelihoods of single pixels, summed over the camera, as functions of the light at some nodes.

The diffraction of what a decoder draws is smooth over some camera pixels (`recon.paper`), so the sum over pixels is one
over the nodes b of a coarser grid of functions of the light there,

    sum_p l(X_p, I_p) = sum_b F_b(I_b),   F_b(I) = sum_p w_b(p) l(X_p, I),

w the weights of cubic interpolation. The frames fix every F_b before an image is drawn. Eq. 1 needs of the readings
around a node their weighted number, mean and spread, the paper's Poisson-only loss their number and the sum of their
square roots; any other likelihood gets a table of F_b, equally spaced in the logarithm of the light, cubic between,
under a little stray light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.likelihoods import likelihood_named
from recon.noise import Likelihood, PaperPoisson
from recon.paper import LitBlocks, Summed, eq1

STEP = 0.2
"""Distance of a table's knots, in the logarithm of the light."""
DARKEST = 1e-8
"""Stray light that a table adds to every pixel, over the brightest light possible: -X ln I has no end at I = 0."""
HEADROOM = 1.5
"""Light that tables reach to, over that of an image of ones: a resize overshoots, and flux may be free."""


class NodeLoss(Protocol):
    """-ln p of the frames of one exposure, nats, by one likelihood.

    Attributes:
        name: of the likelihood.
        offset: nats that `value` leaves out, the same for every image.
    """

    @property
    def name(self) -> str: ...

    @property
    def offset(self) -> float: ...

    def value(self, frame: int, light: Tensor) -> Tensor:
        """(S,) of one frame for the light (m, S) of one second at its nodes, without the offset."""
        ...

    def slope(self, frame: int, light: Tensor) -> Tensor:
        """(m, S) derivative in that light."""
        ...

    def fisher(self, frame: int, light: Tensor) -> Tensor:
        """(m, S) information on that light that the nodes' pixels hold, by the likelihood's own model."""
        ...

    def every(self, step: int) -> NodeLoss:
        """Of every `step`-th node."""
        ...


def node_loss(name: str, lit: LitBlocks, data: Ptychogram) -> NodeLoss:
    """The loss of that name (`recon.likelihoods`) of frames at the operator's positions.

    Masked and clipped pixels do not count. Raises `ValueError` naming the known ones.
    """
    likelihood = likelihood_named(name)
    summed = lit.summed(data)
    seconds = [float(s) for s in data.exposures_s]
    base = _Base(likelihood, seconds, summed)
    if name == "mixed":
        return MixedNodes(base)
    if isinstance(likelihood, PaperPoisson):
        return RootNodes.build(base, lit, data, likelihood.floor)
    return TableNodes.build(base, lit, data)


@dataclass(frozen=True)
class _Base:
    """What all of them hold: likelihood, exposure of each frame, and what `LitBlocks.summed` says of the frames."""

    likelihood: Likelihood
    seconds: list[float]
    summed: Summed

    def fisher(self, frame: int, light: Tensor) -> Tensor:
        seconds, count, variance = self.seconds[frame], self.summed.count[frame], self.summed.variance[frame]
        # Nodes without a good pixel have no read noise, and no weight.
        usual = variance[count > 0].median() if bool((count > 0).any()) else variance.new_ones(())
        variance = torch.where(count > 0, variance, usual)
        each = self.likelihood.fisher(light * seconds, variance.expand_as(light))
        return each * count * seconds**2

    def every(self, step: int) -> _Base:
        s = self.summed
        parts = ([p[::step] for p in column] for column in (s.count, s.mean, s.spread, s.variance))
        return replace(self, summed=Summed(*parts))


@dataclass(frozen=True)
class MixedNodes:
    """Eq. 1 of the paper, halved: nats."""

    base: _Base
    name: str = "mixed"
    offset: float = 0.0

    def value(self, frame: int, light: Tensor) -> Tensor:
        return 0.5 * eq1(self.base.summed, frame, (light * self.base.seconds[frame])[:, None])[0][0]

    def slope(self, frame: int, light: Tensor) -> Tensor:
        seconds = self.base.seconds[frame]
        return 0.5 * seconds * eq1(self.base.summed, frame, (light * seconds)[:, None])[1][:, 0]

    def fisher(self, frame: int, light: Tensor) -> Tensor:
        return self.base.fisher(frame, light)

    def every(self, step: int) -> MixedNodes:
        return replace(self, base=self.base.every(step))


@dataclass(frozen=True)
class RootNodes:
    """The paper's Poisson-only loss, doubled: 2 sum (sqrt X - sqrt I)^2, X taken as 0 where it is negative.

    Attributes:
        roots: [(m_j, 1)] sum of sqrt X.
        floor: electrons, see `recon.noise.PaperPoisson`.
        offset: 2 sum X.
    """

    base: _Base
    roots: list[Tensor]
    floor: float
    offset: float
    name: str = "poisson"

    @classmethod
    def build(cls, base: _Base, lit: LitBlocks, data: Ptychogram, floor: float) -> RootNodes:
        """From the frames."""
        roots, offset = [], 0.0
        for j in range(len(lit.chosen)):
            part = _Part.of(lit, data, j)
            positive = part.reading.clamp_min(0)
            roots.append(part.summed(positive.sqrt())[:, None])
            offset += 2 * float(part.summed(positive).double().sum())
        return cls(base, roots, floor, offset)

    def value(self, frame: int, light: Tensor) -> Tensor:
        expected = light * self.base.seconds[frame] + self.floor
        return 2 * (self.base.summed.count[frame] * expected - 2 * self.roots[frame] * expected.sqrt()).sum(0)

    def slope(self, frame: int, light: Tensor) -> Tensor:
        seconds = self.base.seconds[frame]
        expected = light * seconds + self.floor
        return 2 * seconds * (self.base.summed.count[frame] - self.roots[frame] * expected.rsqrt())

    def fisher(self, frame: int, light: Tensor) -> Tensor:
        return self.base.fisher(frame, light)

    def every(self, step: int) -> RootNodes:
        return replace(self, base=self.base.every(step), roots=[part[::step] for part in self.roots])


@dataclass(frozen=True)
class TableNodes:
    """Any likelihood, from tables.

    Attributes:
        least: [N] electrons of stray light a pixel: tables are of the likelihood at I + least.
        tables: [(m_j, K, 4)] coefficients of the cubics on each node's K cells, less the node's smallest value.
        offset: what was left out of them, summed.
    """

    base: _Base
    least: list[float]
    tables: list[Tensor]
    offset: float
    name: str

    @classmethod
    def build(cls, base: _Base, lit: LitBlocks, data: Ptychogram) -> TableNodes:
        """From the frames: every pixel's likelihood at every knot."""
        least, tables, offset = [], [], 0.0
        for j in range(len(lit.chosen)):
            top = HEADROOM * _brightest(lit.rows[j]) * base.seconds[j]
            least.append(DARKEST * top)
            values, slopes = _tabulated(_Part.of(lit, data, j), base.likelihood, _knots(top, least[j]))
            smallest = values.amin(1, keepdim=True)
            offset += float(smallest.sum())
            tables.append(_cubics((values - smallest).float(), (slopes * STEP).float()))
        return cls(base, least, tables, offset, base.likelihood.name)

    def _placed(self, frame: int, expected: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (m, S, 4) of the cells that expected electrons (m, S) fall into, and where in them, 0..1."""
        table = self.tables[frame]
        cells = table.shape[1]
        where = (expected / self.least[frame]).log1p_().div_(STEP)
        cell = where.long()
        if int(cell.max()) >= cells:
            raise ValueError(
                f"frame {frame}: {float(expected.max()):.3g} electrons a pixel, its table ends at an image of ones "
                f"times {HEADROOM:g}; amplitudes must stay in 0..1"
            )
        where -= cell
        cell += torch.arange(len(table), device=table.device)[:, None] * cells
        return table.view(-1, 4)[cell], where

    def value(self, frame: int, light: Tensor) -> Tensor:
        a, u = self._placed(frame, light * self.base.seconds[frame])
        return (((a[..., 3] * u + a[..., 2]) * u + a[..., 1]) * u + a[..., 0]).sum(0)

    def slope(self, frame: int, light: Tensor) -> Tensor:
        seconds = self.base.seconds[frame]
        expected = light * seconds
        a, u = self._placed(frame, expected)
        along = (3 * a[..., 3] * u + 2 * a[..., 2]) * u + a[..., 1]
        return along / (STEP * (expected + self.least[frame])) * seconds

    def fisher(self, frame: int, light: Tensor) -> Tensor:
        return self.base.fisher(frame, light + self.least[frame] / self.base.seconds[frame])

    def every(self, step: int) -> TableNodes:
        return replace(self, base=self.base.every(step), tables=[part[::step].contiguous() for part in self.tables])


@dataclass(frozen=True)
class _Part:
    """The part of a frame that its nodes reach.

    Attributes:
        reading, dark: (h, w) electrons and dark variance; where a pixel does not count, 0 and a usual variance.
        good: (h, w) pixels that count for one of the nodes.
        down, across: (g, h), (w, g') weights of the pixels around each row and column of nodes.
        place: (m,) the nodes among those rows and columns, flattened.
    """

    reading: Tensor
    dark: Tensor
    good: Tensor
    down: Tensor
    across: Tensor
    place: Tensor

    @classmethod
    def of(cls, lit: LitBlocks, data: Ptychogram, frame: int) -> _Part:
        device = lit.operator.probe.device
        index, wide = lit.chosen[frame], lit.grid[1]
        nodes = (index // wide, index % wide)
        spans, weights = [], []
        for axis, where in enumerate(nodes):
            first, last = int(where.min()), int(where.max())
            low = max(0, lit.corner[axis] + (first - 2) * lit.side)
            high = min(data.geometry.shape[axis], lit.corner[axis] + (last + 3) * lit.side)
            spans.append(slice(low, high))
            weights.append(lit.weights(axis)[first : last + 1, low:high])

        place = (nodes[0] - nodes[0].min()) * len(weights[1]) + (nodes[1] - nodes[1].min())

        def cut(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values[spans[0], spans[1]])).to(device)

        good = cut(data.mask)
        if data.saturated is not None:
            good = good & ~cut(data.saturated[frame])
        chosen = torch.zeros(len(weights[0]), len(weights[1]), device=device)
        chosen.view(-1)[place] = 1
        good = good & (weights[0].abs().T @ chosen @ weights[1].abs() > 0)
        dark = cut(data.dark_variance)
        usual = float(dark[good].median()) if bool(good.any()) else 1.0
        reading = torch.where(good, cut(data.frames[frame]), 0.0)
        return cls(reading, torch.where(good, dark, usual), good, weights[0], weights[1].T, place)

    def summed(self, pixels: Tensor) -> Tensor:
        """(..., m) of pixels (..., h, w): weighted sums around the nodes."""
        return (self.down @ torch.where(self.good, pixels, 0.0) @ self.across).flatten(-2)[..., self.place]


def _brightest(rows: Tensor) -> float:
    """Most light a pixel and second at any node that an image in 0..1 can send, from above."""
    real, imaginary = rows.abs().sum(1).chunk(2)
    return float((real.square() + imaginary.square()).max())


def _knots(top: float, least: float) -> list[float]:
    count = math.ceil(math.log1p(top / least) / STEP) + 1
    return [least * math.exp(STEP * k) for k in range(count)]


def _cubics(values: Tensor, slopes: Tensor) -> Tensor:
    """(m, K - 1, 4) coefficients between knots of values and slopes (m, K), the slopes in cells."""
    left, right, begin, end = values[:, :-1], values[:, 1:], slopes[:, :-1], slopes[:, 1:]
    rise = right - left
    return torch.stack((left, begin, 3 * rise - 2 * begin - end, begin + end - 2 * rise), 2)


def _tabulated(part: _Part, likelihood: Likelihood, knots: list[float]) -> tuple[Tensor, Tensor]:
    """(m, K) values of F_b at the knots, electrons a pixel, and slopes in their logarithm, double precision."""
    reading, dark = part.reading[part.good], part.dark[part.good]
    spread = torch.zeros(2, *part.good.shape, device=reading.device)
    values, slopes = [], []
    for light in knots:
        cost, score, _ = likelihood.evaluate(torch.full_like(reading, light), reading, dark)
        spread[:, part.good] = torch.stack((cost, score))
        value, slope = part.summed(spread).double()
        values.append(value)
        slopes.append(slope * light)
    return torch.stack(values, 1), torch.stack(slopes, 1)
