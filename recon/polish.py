"""The end of a calibration: full passes downhill until nothing that matters moves any more.

Adam on a few frames at a time finds the basin quickly and then hovers in it: each step sees the noise of its own
frames, and directions in which the likelihood is nearly flat take hundreds of epochs. Here every step sees all frames.
L-BFGS (Nocedal & Wright, Numerical Optimization, ch. 7) builds the curvature from the gradients of the last steps; its
first guess of it is the light on each pixel of object and probe and, for what is nearly a gauge (`recon.gauges`), the
inverse Gauss-Newton matrix of a dozen directions from a few frames. Gauss-Newton steps themselves do worse: where
pixels hold less than an electron the likelihood is far from a quadratic in the field (docs/calibration.md has numbers).

A step is one pass over the frames, rarely two; a host looks at the device once a pass, and a team talks once a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from recon.curvature import Curvature, Direction, Free, Look
from recon.fit import Fit
from recon.gauges import inverse, nearly_gauges, scaled
from recon.reach import Reach
from recon.unknowns import GROUPS

MEMORY = 12
"""Steps of which L-BFGS remembers what they changed."""
FLOOR = 3e-3
"""Light on a pixel below this share of the brightest's counts as this share: the dark may not run away."""
SAMPLE = 8
"""Frames that the curvature of the coarse space is taken from."""
HALVINGS = 6
"""Tries of a step, each half of the one before."""
ENOUGH = 1e-4
"""Share of the slope's promise that a step must keep."""
MOVES_PX = 0.5
"""No step moves a position by more."""
STILL, CALM = 0.01, 4
"""A change per pass, in standard deviations, below which distance and positions count as still, and for how many."""


class Polish:
    """Passes of a fit over all frames.

    Args:
        fit: the stage; its unknowns are changed in place.
        reach: what of object and probe may move; None takes all.
        distance, positions: whether these are searched beside object and probe.
    """

    def __init__(self, fit: Fit, *, distance: bool, positions: bool, reach: Reach | None = None):
        self.fit, self.reach = fit, reach
        p = fit.priors
        self.free = Free(p.position_px, distance, positions, p.log_gain, p.background)
        fit.team.follow(fit.unknowns.searched())
        fit.settle()
        self._inverse, self._space, self._coarse = self._first_guess()
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._here: tuple[float, Tensor] | None = None
        self._calm, self._stuck = 0, False

    def _first_guess(self) -> tuple[Tensor, Tensor, Tensor]:
        """Diagonal (n,) of the inverse curvature, coarse space (r, n) and its inverse curvature (r, r)."""
        fit, u = self.fit, self.fit.unknowns
        team, count = fit.team, fit.count
        sample = torch.arange(0, count, max(1, count // SAMPLE), device=u.probe.device)
        mine = sample[sample % team.size == team.rank]
        looks = [Look(fit.chosen(part), part, fit.level[part]) for part in mine.split(fit.batch) if len(part)]
        if fit.empty is not None and team.rank == 0:
            looks.append(Look(fit.empty, mine[:0], 0 * fit.empty.gain))
        curvature = Curvature(
            looks, u, fit.optics, self.free, pixels=fit.pixels_averaged, loss=fit.model.loss, share=len(sample) / count
        )
        diagonal = curvature.diagonal()
        # Every process adds the priors' share once.
        rest = (team.size - 1) / team.size
        own = curvature.priors_diagonal()
        light = fit.light()
        parts = [
            light[0],
            light[1],
            *[d - rest * p for d, p in zip(diagonal.parts()[2:], own.parts()[2:], strict=True)],
        ]
        team.add(parts)
        diagonal = Direction(*parts)
        seen = torch.zeros_like(u.log_gain).index_fill_(0, sample, 1.0)
        points = torch.zeros_like(u.deviation[:, 0]).index_add_(0, u.point, seen) > 0
        bare, prior = diagonal.deviation - own.deviation, own.deviation
        # Points and frames outside the sample are taken to be like those in it.
        bare = torch.where(points[:, None], bare, bare[points].mean(0)) * (len(sample) / count)
        gain = torch.where(seen > 0, diagonal.log_gain, diagonal.log_gain[sample].mean()) * (len(sample) / count)
        diagonal = replace(diagonal, deviation=bare + prior, log_gain=gain)
        real = [t.real if t.is_complex() else t for t in diagonal.parts()]
        scales = Direction(*(t + FLOOR * t.max() for t in real))
        space = scaled(nearly_gauges(curvature), scales)
        gram = curvature.gram(space)
        team.add([gram])
        inverted = Direction(*(1 / t.clamp_min(1e-30) for t in scales.parts()))
        weights = [t.to(p.dtype) for t, p in zip(inverted.parts(), u.searched(), strict=True)]
        # Real and imaginary part of a pixel have one scale.
        diagonal_flat = packed([torch.complex(w.real, w.real) if w.is_complex() else w for w in weights])
        rows = torch.stack([packed(v.parts()) for v in space])
        coarse = torch.from_numpy(inverse(gram)).to(rows)
        self.sigma = self._deviations(scales, coarse, rows)
        return diagonal_flat, rows, coarse

    def _deviations(self, scales: Direction, coarse: Tensor, rows: Tensor) -> Tensor:
        """(4,) standard deviations of distance and affine map within the coarse space, and (5th) of a position, px."""
        u = self.fit.unknowns
        start = sum(2 * t.numel() if t.is_complex() else t.numel() for t in (u.object, u.probe))
        few = rows[:, start : start + 4]
        found = torch.einsum("ri,rs,si->i", few, coarse, few).clamp_min(0).sqrt()
        return torch.cat((found, scales.deviation[u.lit].pow(-0.5).mean()[None] if bool(u.lit.any()) else found[:1]))

    def _move(self, direction: Tensor) -> None:
        """Everything along a direction of L-BFGS, which knows the fields before `reach`; frame's blind spots stay."""
        tensors = self.fit.unknowns.searched()
        sizes = [2 * t.numel() if t.is_complex() else t.numel() for t in tensors]
        for tensor, part in zip(tensors, direction.split(sizes), strict=True):
            if tensor.is_complex():
                step = torch.view_as_complex(part.view(*tensor.shape, 2))
                tensor.add_(step if self.reach is None else self.reach.seen(step))
            else:
                tensor.add_(part.view(tensor.shape))

    def _scaled(self, vector: Tensor) -> Tensor:
        return self._inverse * vector + self._space.T @ (self._coarse @ (self._space @ vector))

    def _downhill(self, gradient: Tensor) -> Tensor:
        """The L-BFGS direction, two loops over the memory."""
        vector, shares = gradient.clone(), []
        pairs = list(zip(self._steps, self._changes, strict=True))
        for step, change in reversed(pairs):
            share = inner(step, vector) / inner(step, change)
            shares.append(share)
            vector = vector - share * change
        vector = self._scaled(vector)
        if pairs:
            step, change = pairs[-1]
            vector = vector * (inner(step, change) / inner(change, self._scaled(change)))
        else:
            vector = vector * 0.3
        for (step, change), share in zip(pairs, reversed(shares), strict=True):
            vector = vector + step * (share - inner(change, vector) / inner(step, change))
        return -vector

    def _look(self, stop: Callable[[], bool]) -> tuple[float, Tensor] | None:
        found = self.fit.everything(stop)
        if found is None:
            return None
        value, gradients = found
        obj, probe, offset, affine, deviation, gain, background = gradients
        if self.reach is not None:
            obj, probe = self.reach.seen(obj), self.reach.seen(probe)
        if not self.free.distance:
            offset = torch.zeros_like(offset)
        if not self.free.positions:
            affine, deviation = torch.zeros_like(affine), torch.zeros_like(deviation)
        return value, packed([obj, probe, offset, affine, deviation, gain, background])

    def step(self, stop: Callable[[], bool] = lambda: False) -> float | None:
        """One step downhill; the mean loss per pixel and frame after it. None when `stop` ended it: nothing has moved.

        Raises:
            DatasetError: a frame cannot be read.
            TeamError: another process has ended.
        """
        unknowns = self.fit.unknowns
        if self._here is None:
            self._here = self._look(stop)
            if self._here is None:
                return None
        value, gradient = self._here
        direction = self._downhill(gradient)
        kept = [t.clone() for t in unknowns.searched()]
        before = unknowns.positions_px()
        slope = float(inner(gradient, direction))
        self._move(direction)
        reach = float((unknowns.positions_px() - before).abs().max())
        share = min(1.0, MOVES_PX / max(reach, 1e-30))
        for _ in range(HALVINGS):
            _restore(unknowns.searched(), kept)
            self._move(share * direction)
            there = self._look(stop)
            if there is None:
                _restore(unknowns.searched(), kept)
                return None
            if there[0] <= value + ENOUGH * share * slope:
                break
            share /= 2
        else:
            _restore(unknowns.searched(), kept)
            # From a memory that misleads there is a way back: the first guess.
            self._stuck = not self._steps
            self._steps, self._changes = [], []
            return value / self.fit.pixels
        moved, change = share * direction, there[1] - gradient
        if float(inner(moved, change)) > 1e-10 * float((inner(moved, moved) * inner(change, change)).sqrt()):
            self._steps = [*self._steps, moved][-MEMORY:]
            self._changes = [*self._changes, change][-MEMORY:]
        self._here = there
        self._watch(kept, before)
        return there[0] / self.fit.pixels

    def _watch(self, kept: list[Tensor], before: Tensor) -> None:
        u = self.fit.unknowns
        named = dict(zip(GROUPS, kept, strict=True))
        few = torch.cat(((u.offset_m - named["offset_m"])[None], u.affine - named["affine"])).abs()
        shift = (u.positions_px() - before)[u.lit].square().mean().sqrt()[None]
        moved = (torch.cat((few, shift)) / self.sigma.clamp_min(1e-30)).cpu()
        free = self.free.distance or self.free.positions
        self._calm = self._calm + 1 if free and bool((moved < STILL).all()) else 0

    @property
    def settled(self) -> bool:
        """Whether distance and positions have come to rest, or no step leads downhill any more."""
        return self._stuck or self._calm >= CALM


def packed(tensors: list[Tensor]) -> Tensor:
    """(n,) real: all of them behind each other."""
    return torch.cat([(torch.view_as_real(t) if t.is_complex() else t).flatten() for t in tensors])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """() double: added up in double precision, on the device."""
    return torch.dot(a.double(), b.double())


def _restore(tensors: list[Tensor], kept: list[Tensor]) -> None:
    for tensor, old in zip(tensors, kept, strict=True):
        tensor.copy_(old)
