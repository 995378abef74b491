"""Gauss-Newton products with the curvature of a calibration's likelihood, matrix-free.

J is the derivative of the expected electrons in everything that is searched, W the information of a pixel. A product
J^T W J x costs about what a gradient does: the exit waves' change goes to the camera through the same propagator, is
projected on the measured field, weighted, and comes back through the adjoint written by hand. What a frame's position
and the distance do to it are three images, computed once by central differences of the exact model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.frameloss import Batch, FrameLoss, gather, scatter, spread
from recon.noise import MixedGaussian, SlopedLoss
from recon.propagators import Optics, Trace
from recon.unknowns import GROUPS, Unknowns

SHIFT_PX, OFFSET_M = 0.02, 2e-6
"""Half widths of the central differences: small beside a speckle and the depth of focus, large beside rounding."""
NAMES = GROUPS
"""The parts of a direction: everything that is searched."""


@dataclass(frozen=True)
class Direction:
    """A change of the unknowns, or a gradient with respect to them; shapes as in `Unknowns`."""

    object: Tensor
    probe: Tensor
    offset_m: Tensor
    affine: Tensor
    deviation: Tensor
    log_gain: Tensor
    background: Tensor

    def parts(self) -> list[Tensor]:
        return [getattr(self, name) for name in NAMES]

    def dot(self, other: Direction) -> float:
        """Inner product of real and imaginary parts, added up in double precision."""
        total = 0.0
        for a, b in zip(self.parts(), other.parts(), strict=True):
            if a.is_complex():
                a, b = torch.view_as_real(a), torch.view_as_real(b)
            total += float(torch.dot(a.flatten().double(), b.flatten().double()))
        return total

    def plus(self, other: Direction, factor: float = 1.0) -> Direction:
        return Direction(*(a + factor * b for a, b in zip(self.parts(), other.parts(), strict=True)))

    def times(self, other: Direction) -> Direction:
        """Element by element."""
        return Direction(*(a * b for a, b in zip(self.parts(), other.parts(), strict=True)))


@dataclass(frozen=True)
class _Frames:
    """Frames that go through the optics together, at the solution."""

    batch: Batch
    numbers: Tensor
    point: Tensor
    level: Tensor
    light: Tensor
    fields: Tensor
    moved: Tensor
    patches: Tensor | None
    ramps: Tensor | None
    slopes: Tensor
    weight: Tensor
    noise: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Free:
    """What was searched beside object and probe, with the standard deviations of its priors; None or false is held.

    Attributes:
        position_px: of a point about the affine map.
        log_gain: of a frame's flux over the common one.
        background: of light that came another way, in units of the mean signal.
    """

    position_px: float
    distance: bool = True
    positions: bool = True
    log_gain: float | None = None
    background: float | None = None


@dataclass(frozen=True)
class Look:
    """A batch, its frames' numbers (B,) and levels of unit background (B,); no numbers for the empty beam."""

    batch: Batch
    numbers: Tensor
    level: Tensor


def looks_at(data: Ptychogram, unknowns: Unknowns, optics: Optics, scale: float, batch: int = 8) -> list[Look]:
    """All frames of a scan and its empty beam, `batch` at a time; `scale` is electrons a second per |probe|^2."""
    device, real = optics.device, unknowns.offset_m.dtype
    variance = torch.from_numpy(data.dark_variance).to(device)
    mask = torch.from_numpy(data.mask).to(device=device, dtype=real)
    whole = unknowns.positions_px().round()
    corners = whole.long() + (unknowns.object.shape[-1] // 2 - optics.window // 2)
    signal = max(float(data.frames.mean(dtype=float) / data.exposures_s.mean()), 1e-12)
    seconds = torch.from_numpy(data.exposures_s).to(device=device, dtype=real)
    looks = []
    for frames in torch.arange(len(data), device=device).split(batch):
        point, host = unknowns.point[frames], frames.cpu().numpy()
        weight = mask.expand(len(frames), *mask.shape)
        if data.saturated is not None:
            weight = weight * (~torch.from_numpy(data.saturated[host]).to(device)).to(real)
        chosen, level = corners[point], signal * seconds[frames]
        one = Batch(
            torch.from_numpy(data.frames[host]).to(device),
            variance,
            weight,
            chosen if chosen.is_cuda else [(int(r), int(c)) for r, c in chosen.tolist()],
            (unknowns.positions_px() - whole)[point],
            scale * seconds[frames] * unknowns.log_gain[frames].exp(),
            level * unknowns.background,
        )
        looks.append(Look(one, frames, level))
    if data.empty is not None and data.empty_exposure_s is not None:
        gain = unknowns.offset_m.new_full((1,), scale * data.empty_exposure_s)
        empty = torch.from_numpy(data.empty).to(device)[None]
        beam = Batch(empty, variance, mask[None], [], gain.new_zeros(1, 2), gain, 0 * gain)
        looks.append(Look(beam, unknowns.point[:0], 0 * gain))
    return looks


class Curvature:
    """The curvature of half the loss -2 ln L + priors at one point, as products.

    Args:
        looks: the frames.
        unknowns: the solution; not changed.
        optics: the model.
        free: what was searched, and its priors.
        pixels: whether intensities are averaged over the camera's pixels.
        loss: whose information weighs the pixels.
        share: of all frames that these are; the others are taken to be like them.

    The weight of a pixel in the curvature of Eq. 1 is W = 1/T + 1/(2 T^2) with T = I + s^2; the variance of its score
    under Poisson light and Gaussian read noise is V = W + I/T^3 + I/(4 T^4), larger where T is about one or less
    (Eq. 1 is consistent and not efficient). Both are kept: covariances are A^-1 (J^T V J + prior) A^-1.
    """

    def __init__(
        self,
        looks: Iterable[Look],
        unknowns: Unknowns,
        optics: Optics,
        free: Free,
        *,
        pixels: bool = True,
        loss: SlopedLoss | None = None,
        share: float = 1.0,
    ):
        self.unknowns, self.optics, self.free, self.pixels = unknowns, optics, free, pixels
        self._loss: SlopedLoss = loss or MixedGaussian()
        self._model = FrameLoss(optics, self._loss, pixels=pixels)
        self._share = share
        self._groups = [self._group(look) for look in looks]

    def _group(self, look: Look) -> _Frames:
        batch, u, model, modes = look.batch, self.unknowns, self._model, self.unknowns.probe.shape[0]
        obj = u.object if len(look.numbers) else None
        moved, patches, _, ramps = model._waves(u.probe, obj, batch)
        waves = (moved if patches is None else moved * patches).flatten(0, 1)
        fields, _ = self.optics.forward(waves, batch.shift_px.repeat_interleave(modes, 0), u.offset_m)
        fields = fields.view(-1, modes, *fields.shape[1:])

        def seen(shift: Tensor, offset: Tensor) -> Tensor:
            return model.intensities(u.probe, obj, replace(batch, shift_px=shift), offset)

        slopes = []
        step = u.offset_m.new_tensor(OFFSET_M)
        ahead, behind = (seen(batch.shift_px, u.offset_m + s * step) for s in (1, -1))
        slopes.append((ahead - behind) / (2 * OFFSET_M))
        if obj is not None:
            for axis in (0, 1):
                aside = torch.zeros_like(batch.shift_px)
                aside[:, axis] = SHIFT_PX
                ahead, behind = (seen(batch.shift_px + s * aside, u.offset_m) for s in (1, -1))
                slopes.append((ahead - behind) / (2 * SHIFT_PX))
        expected = seen(batch.shift_px, u.offset_m)
        total = expected + batch.variance
        good = torch.ones_like(total) if batch.weight is None else batch.weight.expand_as(total)
        weight = good * self._loss.information(expected, batch.variance)
        noise = weight + good * expected * (total.pow(-3) + 0.25 * total.pow(-4))
        ratio = (batch.frames - expected) / total
        # Half the slope of Eq. 1, downhill.
        residual = good * (ratio + 0.5 * ratio.square() - 0.5 / total)
        if obj is not None and self._share != 1:
            weight, noise, residual = weight / self._share, noise / self._share, residual / self._share
        light = expected - batch.background[:, None, None]
        return _Frames(
            batch, look.numbers, u.point[look.numbers], look.level, light, fields, moved, patches, ramps,
            torch.stack(slopes), weight, noise, residual,
        )  # fmt: skip

    def zeros(self) -> Direction:
        u = self.unknowns
        return Direction(*(torch.zeros_like(getattr(u, name)) for name in NAMES))

    def _forward(self, x: Direction, group: _Frames, shift: Tensor) -> tuple[Tensor, Trace | None]:
        """J x: the change (B, H, W) of the expected electrons, and what the adjoint needs."""
        batch, modes = group.batch, x.probe.shape[0]
        if group.patches is None or group.ramps is None:
            waves = x.probe
        else:
            turned = torch.fft.ifft2(torch.fft.fft2(x.probe)[None] * group.ramps[:, None])
            change = gather(x.object, batch.corners, self.optics.window)[:, None]
            waves = (turned * group.patches + group.moved * change).flatten(0, 1)
        fields, trace = self.optics.forward(waves, batch.shift_px.repeat_interleave(modes, 0), self.unknowns.offset_m)
        fields = fields.view(-1, modes, *fields.shape[1:])
        change_of = 2 * (fields.real * group.fields.real + fields.imag * group.fields.imag).sum(1)
        if self.pixels:
            change_of = spread(change_of)
        change_of = change_of * batch.gain[:, None, None]
        if self.free.distance:
            change_of += x.offset_m * group.slopes[0]
        if group.patches is None:
            return change_of, trace
        if self.free.positions:
            here = shift[group.point]
            change_of += here[:, 0, None, None] * group.slopes[1] + here[:, 1, None, None] * group.slopes[2]
        if self.free.log_gain is not None:
            change_of += x.log_gain[group.numbers][:, None, None] * group.light
        if self.free.background is not None:
            change_of += (x.background * group.level)[:, None, None]
        return change_of, trace

    def _backward(
        self, at_camera: Tensor, group: _Frames, trace: Trace | None, total: Direction, shift: Tensor
    ) -> None:
        """Add J^T of an image (B, H, W) to `total` and to `shift` (n, 2)."""
        batch, modes = group.batch, total.probe.shape[0]
        if self.free.distance:
            total.offset_m.add_((at_camera * group.slopes[0]).sum())
        if group.patches is not None:
            if self.free.positions:
                pulls = torch.stack([(at_camera * group.slopes[k]).sum((1, 2)) for k in (1, 2)], 1)
                shift.index_add_(0, group.point, pulls)
            if self.free.log_gain is not None:
                total.log_gain.index_add_(0, group.numbers, (at_camera * group.light).sum((1, 2)))
            if self.free.background is not None:
                total.background.add_((at_camera.sum((1, 2)) * group.level).sum())
        image = at_camera * (2 * batch.gain)[:, None, None]
        if self.pixels:
            image = spread(image)
        back, _ = self.optics.adjoint((image[:, None] * group.fields).flatten(0, 1), trace)
        back = back.view(-1, modes, *back.shape[1:])
        if group.patches is None or group.ramps is None:
            total.probe.add_(back.sum(0))
            return
        scatter((back * group.moved.conj()).sum(1), batch.corners, total.object)
        spectral = torch.fft.fft2(back * group.patches.conj(), norm="forward") * group.ramps.conj()[:, None]
        total.probe.add_(torch.fft.ifft2(spectral.sum(0), norm="forward"))

    def positions_px(self, x: Direction) -> Tensor:
        """(n, 2) px: what affine map and deviations do to the positions."""
        u = self.unknowns
        rotation, shear, anisotropy = x.affine
        y, v = u.centred[:, 0], u.centred[:, 1]
        linear = torch.stack([anisotropy * y + (shear - rotation) * v, (shear + rotation) * y - anisotropy * v], 1)
        return linear + u._projected(x.deviation)

    def _gathered(self, total: Direction, shift: Tensor) -> Direction:
        affine, deviation = self.unknowns.pulled(shift)
        return replace(total, affine=affine, deviation=deviation)

    def _priors(self, x: Direction) -> Direction:
        """The priors' curvature times x."""
        free = self.free
        return replace(
            self.zeros(),
            deviation=self.unknowns._projected(x.deviation) / free.position_px**2,
            log_gain=x.log_gain / free.log_gain**2 if free.log_gain is not None else 0 * x.log_gain,
            background=x.background / free.background**2 if free.background is not None else 0 * x.background,
        )

    def priors_diagonal(self) -> Direction:
        """The priors' part of `diagonal`."""
        ones = Direction(*(torch.ones_like(part) for part in self.zeros().parts()))
        return replace(self._priors(ones), deviation=0 * ones.deviation + 1 / self.free.position_px**2)

    def product(self, x: Direction, *, noise: bool = False) -> Direction:
        """(J^T W J + prior) x, with `noise` (J^T V J + prior) x."""
        total, shift, moved = self.zeros(), torch.zeros_like(self.unknowns.deviation), self.positions_px(x)
        for group in self._groups:
            image, trace = self._forward(x, group, moved)
            self._backward(image * (group.noise if noise else group.weight), group, trace, total, shift)
        return self._gathered(total, shift).plus(self._priors(x))

    def gram(self, vectors: list[Direction], *, noise: bool = False) -> Tensor:
        """(r, r) float64: inner products of some vectors through the curvature, at half the cost of products."""
        count = len(vectors)
        total = torch.zeros(count, count, dtype=torch.float64, device=self.unknowns.probe.device)
        moved = [self.positions_px(x) for x in vectors]
        for group in self._groups:
            root = (group.noise if noise else group.weight).sqrt()
            images = [self._forward(x, group, m)[0] * root for x, m in zip(vectors, moved, strict=True)]
            stacked = torch.stack([image.flatten() for image in images]) if images else total[:, :0].float()
            # The last axis is as long as a batch of frames: rounding of its sum does not matter to what this is for.
            total += (stacked @ stacked.T).double()
        priors = [self._priors(x) for x in vectors]
        total += total.new_tensor([[x.dot(p) for p in priors] for x in vectors]).reshape(count, count)
        return total

    def _pulled(self, images: list[Tensor]) -> Direction:
        total, shift, nothing = self.zeros(), torch.zeros_like(self.unknowns.deviation), self.zeros()
        for group, image in zip(self._groups, images, strict=True):
            _, trace = self._forward(nothing, group, shift * 0)
            self._backward(image, group, trace, total, shift)
        return self._gathered(total, shift)

    def downhill(self) -> Direction:
        """Minus the gradient of half the loss, J^T (half the scores) minus the prior's pull."""
        u = self.unknowns
        here = replace(self.zeros(), deviation=u.deviation, log_gain=u.log_gain, background=u.background)
        return self._pulled([group.residual for group in self._groups]).plus(self._priors(here), -1.0)

    def draw(self, generator: torch.Generator) -> Direction:
        """A draw of the gradient's noise: covariance J^T V J + prior."""

        def white(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

        found = self._pulled([white(group.noise) * group.noise.sqrt() for group in self._groups])
        u, free = self.unknowns, self.free
        return replace(
            found,
            deviation=found.deviation + u._projected(white(u.deviation)) / free.position_px,
            log_gain=found.log_gain + (white(u.log_gain) / free.log_gain if free.log_gain is not None else 0),
            background=found.background + (white(u.background) / free.background if free.background is not None else 0),
        )

    def diagonal(self) -> Direction:
        """About the curvature's diagonal, everything else held: for scaling, and each point's own information.

        A pixel of the camera sees a change of an exit wave in phase or in quadrature alike, so object and probe get
        half of 4 gain^2 |field|^2 W, which is gain for photon noise, times the light that falls on them.
        """
        total, shift = self.zeros(), torch.zeros_like(self.unknowns.deviation)
        for group in self._groups:
            gain = 2 * group.batch.gain[:, None, None, None]
            total.offset_m.add_((group.slopes[0].square() * group.weight).sum())
            if group.patches is None:
                total.probe.add_((gain[0, 0, 0, 0] + 0 * total.probe).to(total.probe))
                continue
            gain = gain / self._share
            light = (gain * group.moved.abs().square()).sum(1)
            scatter(light.to(total.object), group.batch.corners, total.object)
            total.probe.add_((gain * group.patches.abs().square()).sum(0).to(total.probe))
            own = torch.stack([(group.slopes[k].square() * group.weight).sum((1, 2)) for k in (1, 2)], 1)
            shift.index_add_(0, group.point, own)
            total.log_gain.index_add_(0, group.numbers, (group.light.square() * group.weight).sum((1, 2)))
            total.background.add_((group.level.square() * group.weight.sum((1, 2))).sum())
        radial = shift.sum() * self.unknowns.centred.square().mean()
        prior = self.priors_diagonal()
        return replace(
            total,
            affine=radial.expand_as(total.affine),
            deviation=shift + prior.deviation,
            log_gain=total.log_gain + prior.log_gain,
            background=total.background + prior.background,
        )
