"""The loss of a run around an optimum, along two principal components of a decoder's latents (the paper's Eq. 4).

    h(a, b) = h_opt + a sqrt(lambda_1) v_1 + b sqrt(lambda_2) v_2,

a and b in standard deviations of the training images' latents (whitened), alpha = a sqrt(lambda_1) and
beta = b sqrt(lambda_2) in the paper's units. The images of the whole grid go to the camera as one batch of small matrix
products; every likelihood and every exposure of the run is then read off the same light (`recon.nodeloss`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import DecoderPackage
from recon.decoders.sketch import Drawer
from recon.decoders.whitening import Whitening
from recon.illumination import Illumination
from recon.nodeloss import NodeLoss
from recon.operator import CameraOperator, Drawing
from recon.paper import LitBlocks, Placed

CHUNK = 256
"""Images of the grid that are drawn at a time."""
NODE_M = 31e-6
"""Distance of the nodes; what decoders draw diffracts smoothly over it."""
ENERGY = 0.98
"""Share of the light, expected from the decoders' images, that is looked at."""
MAPPED = 16
"""Images of each decoder's prior that say where it falls."""
STARTS = 256
"""Draws from the prior that are compared, beside the mean, as places to start from."""
REFINED, ROUGH_STEPS, KEPT, FINE_STEPS, LAST_STEPS = 12, 12, 3, 15, 60
"""Best of them that a quick stand-in descends from, its steps; best of those that the decoder descends from, its; and
those that the best of all goes on for: where the decoder cannot draw the object Gauss-Newton is slow."""
SPARSER = 6
"""Every so many-th node is enough for the rough descent."""
SETTLED = 0.05
"""Nats left to gain, by the quadratic model, at an optimum."""
GRAIN = 3e-7
"""Relative rounding of a loss, which is a sum of many terms in single precision."""


@dataclass(frozen=True)
class View:
    """A decoder looking at a run: where its image lies under the light, and how the light reaches the camera.

    Attributes:
        package: the decoder.
        drawer: the decoder's own images and Jacobians of whitened latents.
        stand_in: a quicker one for searches.
        placed: pose and flux of the object.
        lit: the camera operator at the nodes where light arrives, for one second.
        starts: (n, d) whitened latents to search from.
    """

    package: DecoderPackage
    drawer: DirectDrawer
    stand_in: Drawer
    placed: Placed
    lit: LitBlocks
    starts: Tensor

    @property
    def field_m(self) -> float:
        """Side of the decoder's square on the object."""
        return self.lit.operator.drawing.field_m

    @property
    def size(self) -> int:
        """Free axes d of the latents."""
        return self.drawer.size

    @property
    def spread(self) -> NDArray[np.float64]:
        """(d,) standard deviations of the latents along the axes, in the decoder's own units."""
        return self.drawer.whitening.axes.square().sum(0).sqrt().double().cpu().numpy()

    @torch.no_grad()
    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d), as they meet the light."""
        return self.placed(self.drawer.images(zeta), self.field_m)

    def drawn(self, drawer: Drawer, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) by one of the drawers, as they meet the light, and Jacobians (n, s^2, d)."""
        images, jacobian = drawer.drawn(zeta)
        count, side, field_m = len(images), images.shape[-1], self.field_m
        columns = jacobian.transpose(1, 2).reshape(-1, side, side)
        placed = self.placed(columns, field_m).view(count, -1, side * side)
        return self.placed(images, field_m), placed.transpose(1, 2)


@dataclass(frozen=True)
class Bench:
    """What decoders look at: known light, positions of the frames, and where the object lies.

    Attributes:
        light: the illumination; its geometry is that of the frames.
        positions_m: (N, 2) of the frames.
        field_m: side of a decoder's square on the object.
        pose: (4,) of that square: shift y, x (m), rotation, logarithm of the magnification.
        flux: light over the calibrated one.
    """

    light: Illumination
    positions_m: NDArray[np.float64]
    field_m: float
    pose: NDArray[np.float64]
    flux: float = 1.0


@torch.no_grad()
def views(
    bench: Bench, decoders: Sequence[tuple[DecoderPackage, Companion]], node_m: float = NODE_M, energy: float = ENERGY
) -> list[View]:
    """The decoders' views of a bench, where they are; those with images of one size look at the same nodes."""
    device = str(decoders[0][0].latent_mean.device)
    placed = Placed.build(bench.pose[None], np.array([bench.flux]), device)
    drawers = [DirectDrawer.of(package) for package, _ in decoders]
    starts = [companion.prior.sample(STARTS, 7) for _, companion in decoders]
    side = 2 * round((node_m / bench.light.geometry.pixel_size_m - 1) / 2) + 1
    nodes: dict[int, LitBlocks] = {}
    for size in {drawer.samples for drawer in drawers}:
        images = torch.cat([
            placed(drawer.images(zeta[:MAPPED]), bench.field_m)
            for drawer, zeta in zip(drawers, starts, strict=True)
            if drawer.samples == size
        ])  # fmt: skip
        operator = CameraOperator.build(
            bench.light,
            bench.positions_m,
            np.ones(len(bench.positions_m)),
            bench.light.geometry.shape,
            Drawing(size, bench.field_m),
            device,
        )
        nodes[size] = LitBlocks.build(operator, images, side=side, energy=energy)
    return [
        View(package, drawer, companion.sketch, placed, nodes[drawer.samples], torch.cat((zeta[:1] * 0, zeta)))
        for (package, companion), drawer, zeta in zip(decoders, drawers, starts, strict=True)
    ]


@dataclass(frozen=True)
class Optimum:
    """Where a loss is smallest.

    Attributes:
        zeta: (d,) whitened latents.
        value: nats.
        converged: whether less than `SETTLED` nats are left to gain.
        starts: descents of the decoder that were compared.
    """

    zeta: Tensor
    value: float
    converged: bool
    starts: int


@dataclass(frozen=True)
class Descent:
    """Loss (S,), its gradient (S, d) and Gauss-Newton matrix (S, d, d) in whitened latents."""

    value: Tensor
    gradient: Tensor
    information: Tensor


def descent_terms(lit: LitBlocks, loss: NodeLoss, images: Tensor, jacobians: Tensor) -> Descent:
    """For images (S, s, s) with Jacobians (S, s^2, d)."""
    count, dims = len(images), jacobians.shape[2]
    side = lit.operator.drawing.samples
    value = images.new_zeros(count, dtype=torch.float64)
    gradient = images.new_zeros(count, dims)
    information = images.new_zeros(count, dims, dims)
    maps = jacobians.transpose(1, 2).reshape(count * dims, side, side)
    for j in range(len(lit.rows)):
        fields, intensity = lit.fields(j, images)
        slopes, _ = lit.fields(j, maps)
        half = len(intensity)
        slopes = slopes.view(2 * half, count, dims)
        along = 2 * (fields[:half, :, None] * slopes[:half] + fields[half:, :, None] * slopes[half:])
        along = along.permute(1, 0, 2)
        value += loss.value(j, intensity).double()
        gradient += (loss.slope(j, intensity).T[:, None] @ along)[:, 0]
        information += along.transpose(1, 2) @ (along * loss.fisher(j, intensity).T[:, :, None])
    return Descent(value, gradient, information)


@torch.no_grad()
def find_optimum(view: View, loss: NodeLoss, more: Sequence[Tensor] = ()) -> Optimum:
    """The smallest loss over the decoder's free axes, without a prior as in the paper; `more` (d,) are starts too."""
    sparse = view.lit.every(SPARSER)
    thin = loss.every(SPARSER)
    starts = torch.cat((view.starts, *(z[None] for z in more)))
    scores = torch.cat([
        sum_over(sparse, [thin], view.placed(view.stand_in.images(part), view.field_m))[0]
        for part in starts.split(CHUNK)
    ])  # fmt: skip
    found = torch.cat((starts[scores.argsort()[:REFINED]], *(z[None] for z in more)))
    found, value, _ = _descended(view, sparse, thin, view.stand_in, found, ROUGH_STEPS)
    found, value, left = _descended(view, view.lit, loss, view.drawer, found[value.argsort()[:KEPT]], FINE_STEPS)
    best = int(value.argmin())
    if float(left[best]) >= SETTLED + GRAIN * abs(float(value[best])):
        found, value, left = _descended(view, view.lit, loss, view.drawer, found[best][None], LAST_STEPS)
        best = 0
    converged = float(left[best]) < SETTLED + GRAIN * abs(float(value[best]))
    return Optimum(found[best], float(value[best]) + loss.offset, converged, KEPT)


def _descended(
    view: View, lit: LitBlocks, loss: NodeLoss, drawer: Drawer, zeta: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt of all starts (S, d): where they end, their losses and what they may still gain (S,)."""

    def looked(at: Tensor) -> Descent:
        return descent_terms(lit, loss, *view.drawn(drawer, at))

    now = looked(zeta)
    value, gradient, information = now.value, now.gradient, now.information
    damping = torch.full_like(value, 0.1, dtype=torch.float32)
    left = torch.full_like(damping, torch.inf)
    for _ in range(steps):
        diagonal = information.diagonal(dim1=1, dim2=2).clamp_min(1e-12)
        damped = information + torch.diag_embed(damping[:, None] * diagonal + 1e-9 * diagonal.amax(1, keepdim=True))
        step = -torch.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        left = -0.5 * (step * gradient).sum(1)
        grain = GRAIN * value.abs()
        if bool((left < SETTLED + grain).all()):
            break
        tried = looked(zeta + step)
        better = tried.value <= value + grain
        damping = torch.where(better, damping * 0.2, damping * 5).clamp(1e-7, 1e8)
        zeta = torch.where(better[:, None], zeta + step, zeta)
        value = torch.where(better, tried.value, value)
        gradient = torch.where(better[:, None], tried.gradient, gradient)
        information = torch.where(better[:, None, None], tried.information, information)
    return zeta, value, left


def sum_over(lit: LitBlocks, losses: Sequence[NodeLoss], images: Tensor) -> Tensor:
    """(len(losses), S) double: the losses of images (S, s, s) over all frames, without offsets."""
    total = torch.zeros(len(losses), len(images), dtype=torch.float64, device=images.device)
    for j in range(len(lit.rows)):
        _, intensity = lit.fields(j, images)
        for k, loss in enumerate(losses):
            total[k] += loss.value(j, intensity).double()
    return total


@dataclass(frozen=True)
class Grid:
    """A plane through latent space, sampled.

    Attributes:
        centre: (d,) whitened latents at a = b = 0.
        first, second: (n,), (m,) values of a and b, in standard deviations.
    """

    centre: Tensor
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Points along a and b."""
        return len(self.first), len(self.second)

    def points(self) -> Tensor:
        """(n m, d) whitened latents, b varying fastest."""
        a, b = (torch.from_numpy(v).float() for v in (self.first, self.second))
        moved = self.centre.repeat(len(a) * len(b), 1)
        moved[:, 0] += a.repeat_interleave(len(b)).to(moved.device)
        moved[:, 1] += b.repeat(len(a)).to(moved.device)
        return moved


@torch.no_grad()
def landscapes(
    view: View,
    grid: Grid,
    losses: Sequence[NodeLoss],
    report: Callable[[int, int], None] = lambda _done, _total: None,
    stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float64] | None:
    """(len(losses), n, m) nats on a grid, all from the same images; None when stopped.

    `report` is told (images done, images) after each chunk.
    """
    points = grid.points()
    parts = []
    for done, part in enumerate(points.split(CHUNK), start=1):
        if stop():
            return None
        parts.append(sum_over(view.lit, losses, view.images(part)))
        report(min(done * CHUNK, len(points)), len(points))
    values = torch.cat(parts, 1).cpu().numpy() + np.array([loss.offset for loss in losses])[:, None]
    return values.reshape(len(losses), *grid.shape)


@torch.no_grad()
def curvature(view: View, loss: NodeLoss, zeta: Tensor) -> NDArray[np.float64]:
    """(d, d) Gauss-Newton matrix of a loss at whitened latents (d,): the information that its own model expects."""
    images, jacobian = view.drawn(view.drawer, zeta[None])
    return descent_terms(view.lit, loss, images, jacobian).information[0].double().cpu().numpy()


def free_axes(package: DecoderPackage) -> int:
    """Number of latent axes that are searched; a landscape needs two."""
    return Whitening.of(package).size
