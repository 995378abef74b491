"""Frames whose place, light and distance are known only so far: their likelihood with all of that integrated out.

Given the image, what is uncertain beside it is a handful of *nuisances* n with normal priors, and the fields are linear
in them (`recon.directions`). For every image n is taken to the maximum n* of its own posterior, by Gauss-Newton steps
from where it was linearised, and integrated out about it (Laplace):

    ln p(X | image) = ln p(X | image, n*) - |n* - m|^2/2 - ln det(1 + F)/2,

F the Fisher information about n in units of its prior, m the prior's mean. All images of a batch have nuisances of
their own, so that search, Laplace approximation and chains of the estimator see a likelihood that has none. The
gradient is that of ln p at n* held (which is its own maximum), the information what is left when the directions of n
are projected out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from recon.bins import Bins
from recon.directions import Directions
from recon.events import Events, polynomial
from recon.observation import Terms, trimmed
from recon.operator import CameraOperator
from recon.pixelbins import PixelTables
from recon.quadratics import Quadratics

STEPS = 1
"""Gauss-Newton steps of the nuisances for each image, from values that suit the likeliest one."""
FARTHEST = 4.0
"""Standard deviations of its prior within which each nuisance is looked for."""


@dataclass(frozen=True)
class _Frame:
    """One frame: its pixels through all R operators; see `Directions`.

    Attributes:
        rows: (R, 2 m, L), real then imaginary parts.
        first, second: of a bin its reading and variance (m,), of an event its ratios (m, T) and missed share (m,).
        events: which of the two.
        whole: bins that it belongs to; None for events.
        tables: of bins that are looked at pixel by pixel.
        forms: (P, L, L) symmetric: what dark pixels owe to pairs of fields r <= q; None for bins.
    """

    rows: Tensor
    first: Tensor
    second: Tensor
    whole: Bins | None
    tables: PixelTables | None
    forms: Tensor | None

    def fields(self, local: Tensor) -> Tensor:
        """(R, 2, m, S) of what the frame sees (L, S)."""
        kinds, double, _ = self.rows.shape
        return (self.rows.flatten(0, 1) @ local).view(kinds, 2, double // 2, local.shape[1])

    def looked(self, intensity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihood (S,) of intensities (m, S), its slope (m, S) and information (m, S) in them."""
        if self.tables is not None:
            costs, slopes = self.tables.evaluate(intensity[None])
            return -costs[0].sum(0), -slopes[0], self.tables.fisher(intensity[None], self.second[None])[0]
        if self.whole is not None:
            measured, variance = self.first[:, None], self.second[:, None].expand_as(intensity)
            cost, slope, _ = self.whole.likelihood.evaluate(intensity, measured, variance)
            return -cost.sum(0), -slope, self.whole.likelihood.fisher(intensity, variance)
        odds, slope = polynomial(self.first[None], intensity[None])
        odds, slope, missed = odds[0], slope[0], self.second[:, None]
        pull = slope / (1 + odds)
        value = (torch.log1p(odds) - missed * intensity).sum(0)
        # Events alone hold the information of all pixels; see `Events.terms`.
        return value, pull - missed, (pull * (pull - 1)).clamp_min(0)

    def owed(self, local: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of what the frame sees (L, S), the forms (P, S), and half their gradients (P, L, S)."""
        if self.forms is None:
            return None
        applied = (self.forms.flatten(0, 1) @ local).unflatten(0, (len(self.forms), -1))
        return (applied * local).sum(1), applied


@dataclass(frozen=True)
class _Settled:
    """Images with their nuisances.

    Attributes:
        value: (S,) log-likelihood, nuisances integrated out; relative to constants of the data for bins.
        beyond: (S, T) nuisances, from where they were linearised.
        factor: (S, T, T) Cholesky factor of their precision.
        coefficients: (N, R, S).
        local: (N, L, S) what each frame sees.
        fields: of each frame (R, 2, m, S).
        owed: of each frame, see `_Frame.owed`.
    """

    value: Tensor
    beyond: Tensor
    factor: Tensor
    coefficients: Tensor
    local: Tensor
    fields: list[Tensor]
    owed: list[tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class Loose:
    """Frames with nuisances; see above.

    Attributes:
        base: the frames at the values about which the nuisances were linearised.
        others: the same pixels through the operators of `ways`; their rows count.
        ways: directions of the fields.
        stride: of the blocks of dark pixels, as `base` has it; see `Watch.build`.
        steps: Gauss-Newton steps of the nuisances for each image.
    """

    base: Bins | Events
    others: tuple[Bins | Events, ...]
    ways: Directions
    stride: int = 1
    steps: int = STEPS

    @property
    def operator(self) -> CameraOperator:
        """At the values of linearisation."""
        return self.base.operator

    @property
    def electrons(self) -> float:
        """See `Observation.electrons`."""
        return self.base.electrons

    @property
    def counting(self) -> str:
        """See `Observation.counting`."""
        return self.base.counting

    @cached_property
    def _frames(self) -> list[_Frame]:
        base, kinds = self.base, (self.base, *self.others)
        frames = []
        forms = self._forms
        for j, m in enumerate(base.counts):
            rows = torch.stack([trimmed(each.rows[j, None], m)[0] for each in kinds])
            if isinstance(base, Bins):
                tables = None if base.tables is None else base.tables.of_frame(j, m)
                frames.append(_Frame(rows, base.measured[j, :m], base.variance[j, :m], base, tables, None))
            else:
                assert forms is not None
                frames.append(_Frame(rows, base.ratios[j, :m], base.missed[j, :m], None, None, forms[j]))
        return frames

    @property
    def _pairs(self) -> tuple[list[int], list[int]]:
        """(P,) r and (P,) q of the pairs r <= q of fields."""
        kinds = 1 + len(self.others)
        return [r for r in range(kinds) for _ in range(r, kinds)], [q for r in range(kinds) for q in range(r, kinds)]

    def _shares(self, coefficients: Tensor) -> Tensor:
        """(..., P, S) how often each pair counts at coefficients (..., R, S): those of two kinds twice."""
        r, q = self._pairs
        twice = torch.tensor([1.0 + (a != b) for a, b in zip(r, q, strict=True)], device=coefficients.device)
        return coefficients[..., r, :] * coefficients[..., q, :] * twice[:, None]

    def _owed_slope(self, c: Tensor, forms: Tensor) -> Tensor:
        """(R, S) slope of the sum of forms (P, S), by `_shares`, in the coefficients c (R, S)."""
        r, q = (torch.tensor(v, device=c.device) for v in self._pairs)
        doubled = forms * (1.0 + (r != q))[:, None]
        return torch.zeros_like(c).index_add(0, r, c[q] * doubled).index_add(0, q, c[r] * doubled)

    @cached_property
    def _forms(self) -> Tensor | None:
        """(N, P, L, L) of the dark pixels, of pairs as `_pairs` has them."""
        base = self.base
        if isinstance(base, Bins):
            return None
        light = base.light
        found = []
        for j in range(len(self.operator)):
            down, across, weight = light.sampled(base.weights[j], self.stride)
            lit = weight > 0
            root = weight[lit].sqrt().repeat(2)[:, None]
            stacked = []
            for group in ((self.operator,), *self.ways.others):
                grid = torch.stack([each.on_grid(j, down, across)[lit] for each in group]).sum(0)
                stacked.append(torch.cat((grid.real, grid.imag)) * root)
            products = [stacked[r].T @ stacked[q] for r, q in zip(*self._pairs, strict=True)]
            form = torch.stack([0.5 * (product + product.T) for product in products])
            found.append(form)
        return torch.stack(found)

    def quick(self) -> Loose:
        """Of a part of the pixels; see `Observation.quick`."""
        part = replace(self, base=self.base.quick(), others=tuple(each.quick() for each in self.others))
        part.__dict__["_forms"] = self._forms
        return part

    def joined(self, more: Self) -> Self:
        """Never: all frames share the distance.

        Raises:
            ValueError: always.
        """
        raise ValueError("frames that share what is uncertain cannot be joined later; look at all of them at once")

    def _settled(self, images: Tensor) -> _Settled:
        local = self.operator.local(images).flatten(2).transpose(1, 2)
        frames, ways = self._frames, self.ways
        fields = [frame.fields(part) for frame, part in zip(frames, local, strict=True)]
        owed = [frame.owed(part) for frame, part in zip(frames, local, strict=True)]
        beyond = local.new_zeros(len(images), len(ways.prior))
        factor = local.new_zeros(len(images), len(ways.prior), len(ways.prior))
        for _ in range(self.steps):
            coefficients = ways.coefficients(beyond)
            score, information = self._nuisances(fields, owed, coefficients)
            pull = score - (beyond - ways.prior)
            factor = torch.linalg.cholesky(information)
            moved = beyond + torch.cholesky_solve(pull[:, :, None], factor)[:, :, 0]
            beyond = torch.minimum(torch.maximum(moved, ways.prior - FARTHEST), ways.prior + FARTHEST)
        coefficients = ways.coefficients(beyond)
        value = -0.5 * (beyond - ways.prior).square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        for j, frame in enumerate(frames):
            c = coefficients[j]
            mixed = _mixed(fields[j], c)
            value = value + frame.looked(mixed[0].square() + mixed[1].square())[0]
            form = owed[j]
            if form is not None:
                value = value - (self._shares(c) * form[0]).sum(0)
        return _Settled(value, beyond, factor, coefficients, local, fields, owed)

    def _nuisances(
        self, fields: list[Tensor], owed: list[tuple[Tensor, Tensor] | None], coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score (S, T) and precision (S, T, T), the prior's unit one on top, at coefficients (N, R, S)."""
        ways = self.ways
        count = coefficients.shape[2]
        scores, informations = [], []
        for j, frame in enumerate(self._frames):
            c = coefficients[j]
            mixed = _mixed(fields[j], c)
            _, slope, worth = frame.looked(mixed[0].square() + mixed[1].square())
            along = 2 * (mixed[0] * fields[j][:, 0] + mixed[1] * fields[j][:, 1])
            score = (along * slope).sum(1)
            weighted = (along * worth.sqrt()).permute(2, 0, 1)
            form = owed[j]
            if form is not None:
                score = score - self._owed_slope(c, form[0])
            scores.append(score)
            informations.append(weighted @ weighted.transpose(1, 2))
        each = torch.einsum("nkr,nrs->snk", ways.mix, torch.stack(scores))
        score = each.new_zeros(count, len(ways.prior)).index_add_(1, ways.index.flatten(), each.flatten(1))
        return score, self._precision(torch.stack(informations))

    def _precision(self, informations: Tensor) -> Tensor:
        """(S, T, T) of the nuisances, from information (N, S, R, R) about each frame's coefficients and the prior."""
        ways, count, size = self.ways, informations.shape[1], len(self.ways.prior)
        square = torch.einsum("nkr,nsrq,nlq->snkl", ways.mix, informations, ways.mix)
        total = torch.eye(size, device=square.device).repeat(count, 1, 1)
        where = (ways.index[:, :, None] * size + ways.index[:, None, :]).flatten()
        total.view(count, -1).index_add_(1, where, square.flatten(1))
        return total

    def value(self, images: Tensor) -> Tensor:
        """(S,) log-likelihood of images (S, s, s), nuisances integrated out."""
        return self._settled(images).value + self._black_of_counted

    @cached_property
    def _black_of_counted(self) -> Tensor:
        """-ln p of a black object, of the pixels that count."""
        total = self.ways.prior.new_zeros(())
        for frame in self._frames:
            total = total - frame.looked(frame.rows.new_zeros(frame.rows.shape[1] // 2, 1))[0].sum()
        return total

    def photons(self, images: Tensor) -> Tensor:
        """(S,) the same: what is uncertain is settled by the frames."""
        return self.value(images)

    def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (S,) of images (S, s, s) and its gradient (S, s, s) in them."""
        settled = self._settled(images)
        return settled.value + self._black_of_counted, self._gradient(settled)

    def _gradient(self, settled: _Settled) -> Tensor:
        parts = []
        for j, frame in enumerate(self._frames):
            c = settled.coefficients[j]
            mixed = _mixed(settled.fields[j], c)
            _, slope, _ = frame.looked(mixed[0].square() + mixed[1].square())
            pulled = 2 * mixed * slope
            # All kinds at once: the rows' transpose on the pulled fields, each times its coefficient.
            spread = (c[:, None, None, :] * pulled[None]).flatten(0, 2)
            part = frame.rows.flatten(0, 1).T @ spread
            form = settled.owed[j]
            if form is not None:
                part = part - 2 * (self._shares(c)[:, None] * form[1]).sum(0)
            parts.append(part.T)
        return self.operator.whole(torch.stack(parts).unflatten(2, self.operator.seen))

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        """Along the `jacobians` (S, s^2, d) of images (S, s, s)."""
        settled, ways, operator = self._settled(images), self.ways, self.operator
        gradient = self._gradient(settled)
        size, dims = operator.drawing.samples, jacobians.shape[2]
        high, wide = operator.window
        padded = torch.nn.functional.pad(jacobians.unflatten(1, (-1, size, size)), (0, 0, 0, wide, 0, high))
        total = jacobians.new_zeros(len(images), dims, dims)
        crossed, informations = jacobians.new_zeros(len(images), len(ways.prior), dims), []
        for j, frame in enumerate(self._frames):
            c = settled.coefficients[j]
            mixed = _mixed(settled.fields[j], c)
            _, _, worth = frame.looked(mixed[0].square() + mixed[1].square())
            root = worth.sqrt()
            along = 2 * root * (mixed[0] * settled.fields[j][:, 0] + mixed[1] * settled.fields[j][:, 1])
            weights = 2 * root * mixed
            r, col = operator.corners[j]
            seen = padded[:, :, r : r + high, col : col + wide].flatten(1, 3)
            # How the moved field changes along the jacobians, to first order that of the field at rest.
            half = frame.rows.shape[1] // 2
            single = (frame.rows[0, :half] @ seen) * weights[0].T[:, :, None]
            single += (frame.rows[0, half:] @ seen) * weights[1].T[:, :, None]
            total += single.transpose(1, 2) @ single
            along = along.permute(2, 0, 1)
            informations.append(along @ along.transpose(1, 2))
            crossed.index_add_(1, ways.index[j], (ways.mix[j] @ along) @ single)
        # Of the same pixels at the same place, so that what is left is never negative.
        factor = torch.linalg.cholesky(self._precision(torch.stack(informations)))
        whitened = torch.linalg.solve_triangular(factor, crossed, upper=False)
        total -= whitened.transpose(1, 2) @ whitened
        value = settled.value + self._black_of_counted
        return Terms(value, (gradient.flatten(1)[:, None] @ jacobians)[:, 0], total)

    def nuisances(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Those of images (S, s, s): (S, T) from where they were linearised, and their covariance (S, T, T)."""
        settled = self._settled(images)
        return settled.beyond, torch.cholesky_inverse(settled.factor)

    def at(self, image: Tensor) -> Bins | Events:
        """The frames with the nuisances that suit an image (s, s) best, as if they were known."""
        coefficients = self._settled(image[None]).coefficients[:, :, 0]
        kinds = torch.stack([each.rows for each in (self.base, *self.others)], 1)
        rows = torch.einsum("nr,nrml->nml", coefficients, kinds)
        base = replace(self.base, operator=self.ways.moved(coefficients), rows=rows)
        if isinstance(base, Bins):
            return base
        assert self._forms is not None
        shares = self._shares(coefficients[:, :, None])[:, :, 0]
        each = torch.einsum("np,npkl->nkl", shares, self._forms)
        return replace(base, quadratic=Quadratics.of(base.operator, each))

    def counted(self, image: Tensor) -> float:
        """See `Observation.counted`; the nuisances as they suit the image best."""
        return self.at(image).counted(image)

    def frame_scores(self, image: Tensor) -> Tensor:
        """See `Observation.frame_scores`; the nuisances as they suit the image best."""
        return self.at(image).frame_scores(image)

    def pattern_scores(self, image: Tensor) -> Tensor:
        """See `Observation.pattern_scores`; the nuisances as they suit the image best."""
        return self.at(image).pattern_scores(image)


def _mixed(fields: Tensor, coefficients: Tensor) -> Tensor:
    """(2, m, S) sum of fields (R, 2, m, S) by coefficients (R, S)."""
    return (fields * coefficients[:, None, None, :]).sum(0)
