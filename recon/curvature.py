"""Gauss-Newton products with the curvature of a calibration's likelihood, matrix-free.

J is the derivative of the expected electrons in everything that is searched, W the information of a pixel. A product
J^T W J x costs about what a gradient does: the exit waves' change goes to the camera through the same propagator, is
projected on the measured field, weighted, and comes back through the adjoint written by hand. What a frame's position
and the distance do to it are three images, computed once by central differences of the exact model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.frameloss import Batch, FrameLoss, gather, scatter, spread
from recon.propagators import Optics
from recon.unknowns import Unknowns

SHIFT_PX, OFFSET_M = 0.02, 2e-6
"""Half widths of the central differences: small beside a speckle and the depth of focus, large beside rounding."""
NAMES = ("object", "probe", "offset_m", "affine", "deviation")


@dataclass(frozen=True)
class Direction:
    """A change of the unknowns, or a gradient with respect to them; shapes as in `Unknowns`."""

    object: Tensor
    probe: Tensor
    offset_m: Tensor
    affine: Tensor
    deviation: Tensor

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
    point: Tensor
    fields: Tensor
    moved: Tensor
    patches: Tensor | None
    ramps: Tensor | None
    slopes: Tensor
    weight: Tensor
    noise: Tensor
    residual: Tensor


class Curvature:
    """The curvature of half the loss -2 ln L + priors at one point, as products.

    Args:
        data: the frames.
        unknowns: the solution; not changed.
        optics: the model.
        scale: electrons per second per unit of |probe|^2.
        position_prior_px: standard deviation of a point about the affine map, in pixels of the object's grid.
        pixels: whether intensities are averaged over the camera's pixels.
        free_distance, free_positions: whether these were searched.
        batch: frames that go through the optics together.

    The weight of a pixel in the curvature is that of Eq. 1, W = 1/T + 1/(2 T^2) with T = I + s^2; the variance of its
    score under Poisson light and Gaussian read noise is V = W + I/T^3 + I/(4 T^4), larger where T is about one or less
    (Eq. 1 is consistent and not efficient). Both are kept: covariances are A^-1 (J^T V J + prior) A^-1.
    """

    def __init__(
        self,
        data: Ptychogram,
        unknowns: Unknowns,
        optics: Optics,
        scale: float,
        position_prior_px: float,
        *,
        pixels: bool = True,
        free_distance: bool = True,
        free_positions: bool = True,
        batch: int = 8,
    ):
        self.unknowns, self.optics, self.prior = unknowns, optics, position_prior_px
        self.pixels = pixels
        self.free = (float(free_distance), float(free_positions))
        # The losses are not asked: only the model's intensities are.
        self._model = FrameLoss(optics, None, pixels=pixels)  # type: ignore[arg-type]
        device, real = optics.device, unknowns.offset_m.dtype
        variance = torch.from_numpy(data.dark_variance).to(device)
        mask = torch.from_numpy(data.mask).to(device=device, dtype=real)
        self._groups: list[_Frames] = []
        whole = unknowns.positions_px().round()
        corners = whole.long() + (unknowns.object.shape[-1] // 2 - optics.window // 2)
        order = torch.arange(len(data), device=device)
        signal = max(float(data.frames.mean(dtype=float) / data.exposures_s.mean()), 1e-12)
        seconds = torch.from_numpy(data.exposures_s).to(device=device, dtype=real)
        for frames in order.split(batch):
            point = unknowns.point[frames]
            weight = mask.expand(len(frames), *mask.shape)
            if data.saturated is not None:
                clipped = torch.from_numpy(data.saturated[frames.cpu().numpy()]).to(device)
                weight = weight * (~clipped).to(real)
            chosen = corners[point]
            self._add(
                Batch(
                    torch.from_numpy(data.frames[frames.cpu().numpy()]).to(device),
                    variance,
                    weight,
                    chosen if chosen.is_cuda else [(int(r), int(c)) for r, c in chosen.tolist()],
                    (unknowns.positions_px() - whole)[point],
                    scale * seconds[frames] * unknowns.log_gain[frames].exp(),
                    signal * seconds[frames] * unknowns.background,
                ),
                point,
                unknowns.object,
            )
        if data.empty is not None and data.empty_exposure_s is not None:
            one = unknowns.offset_m.new_full((1,), scale * data.empty_exposure_s)
            empty = torch.from_numpy(data.empty).to(device)[None]
            nowhere = one.new_zeros(1, 2)
            self._add(Batch(empty, variance, mask[None], [], nowhere, one, 0 * one), one[:0].long(), None)

    def _add(self, batch: Batch, point: Tensor, obj: Tensor | None) -> None:
        u, model, modes = self.unknowns, self._model, self.unknowns.probe.shape[0]
        if obj is None:
            moved, patches, ramps = u.probe[None], None, None
        else:
            ramps = model._ramps(batch.shift_px, u.probe)
            moved = torch.fft.ifft2(torch.fft.fft2(u.probe)[None] * ramps[:, None])
            patches = gather(obj, batch.corners, self.optics.window)[:, None]
        waves = (moved if patches is None else moved * patches).flatten(0, 1)
        shifts = batch.shift_px.repeat_interleave(modes, 0)
        fields, _ = self.optics.forward(waves, shifts, u.offset_m)
        fields = fields.view(-1, modes, *fields.shape[1:])

        def seen(shift: Tensor, offset: Tensor) -> Tensor:
            moved = Batch(batch.frames, batch.variance, None, batch.corners, shift, batch.gain, batch.background)
            return model.intensities(u.probe, obj, moved, offset)

        step = u.offset_m.new_tensor(OFFSET_M)
        slopes = [(seen(batch.shift_px, u.offset_m + step) - seen(batch.shift_px, u.offset_m - step)) / (2 * OFFSET_M)]
        if obj is not None:
            for axis in (0, 1):
                aside = torch.zeros_like(batch.shift_px)
                aside[:, axis] = SHIFT_PX
                ahead, behind = (seen(batch.shift_px + s * aside, u.offset_m) for s in (1, -1))
                slopes.append((ahead - behind) / (2 * SHIFT_PX))
        expected = seen(batch.shift_px, u.offset_m)
        total = expected + batch.variance
        good = torch.ones_like(total) if batch.weight is None else batch.weight
        weight = good * (1 / total + 0.5 / total.square())
        noise = weight + good * expected * (total.pow(-3) + 0.25 * total.pow(-4))
        ratio = (batch.frames - expected) / total
        # Half the slope of Eq. 1, downhill.
        residual = good * (ratio + 0.5 * ratio.square() - 0.5 / total)
        rates = torch.stack(slopes)
        self._groups.append(_Frames(batch, point, fields, moved, patches, ramps, rates, weight, noise, residual))

    def zeros(self) -> Direction:
        u = self.unknowns
        return Direction(*(torch.zeros_like(getattr(u, name)) for name in NAMES))

    def _forward(self, x: Direction, group: _Frames, shift: Tensor) -> tuple[Tensor, object]:
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
        change_of += self.free[0] * x.offset_m * group.slopes[0]
        if group.patches is not None:
            here = shift[group.point]
            change_of += here[:, 0, None, None] * group.slopes[1] + here[:, 1, None, None] * group.slopes[2]
        return change_of, trace

    def _backward(self, at_camera: Tensor, group: _Frames, trace: object, total: Direction, shift: Tensor) -> Tensor:
        """Add J^T of an image (B, H, W) to `total` and `shift` (n, 2); returns the part of the distance."""
        batch, modes = group.batch, total.probe.shape[0]
        offset = self.free[0] * (at_camera * group.slopes[0]).sum()
        if group.patches is not None:
            shift.index_add_(
                0, group.point, torch.stack([(at_camera * group.slopes[k]).sum((1, 2)) for k in (1, 2)], 1)
            )
        image = at_camera * (2 * batch.gain)[:, None, None]
        if self.pixels:
            image = spread(image)
        back, _ = self.optics.adjoint((image[:, None] * group.fields).flatten(0, 1), trace)  # type: ignore[arg-type]
        back = back.view(-1, modes, *back.shape[1:])
        if group.patches is None or group.ramps is None:
            total.probe.add_(back.sum(0))
            return offset
        scatter((back * group.moved.conj()).sum(1), batch.corners, total.object)
        spectral = torch.fft.fft2(back * group.patches.conj(), norm="forward") * group.ramps.conj()[:, None]
        total.probe.add_(torch.fft.ifft2(spectral.sum(0), norm="forward"))
        return offset

    def _shift(self, x: Direction) -> Tensor:
        """(n, 2) px: what affine map and deviations do to the positions."""
        u = self.unknowns
        rotation, shear, anisotropy = x.affine
        y, v = u.centred[:, 0], u.centred[:, 1]
        linear = torch.stack([anisotropy * y + (shear - rotation) * v, (shear + rotation) * y - anisotropy * v], 1)
        return self.free[1] * (linear + u._projected(x.deviation))

    def positions_px(self, x: Direction) -> Tensor:
        """(n, 2) px: the change of the positions."""
        return self._shift(x)

    def _gathered(self, total: Direction, shift: Tensor, offset: Tensor, x: Direction | None) -> Direction:
        u = self.unknowns
        affine, deviation = u.pulled(self.free[1] * shift)
        if x is not None:
            deviation = deviation + u._projected(x.deviation) / self.prior**2
        return Direction(total.object, total.probe, offset, affine, deviation)

    def product(self, x: Direction, *, noise: bool = False) -> Direction:
        """(J^T W J + prior) x, with `noise` (J^T V J + prior) x."""
        total, shift = self.zeros(), torch.zeros_like(self.unknowns.deviation)
        offset, moved = self.unknowns.offset_m.new_zeros(()), self._shift(x)
        for group in self._groups:
            image, trace = self._forward(x, group, moved)
            image = image * (group.noise if noise else group.weight)
            offset = offset + self._backward(image, group, trace, total, shift)
        return self._gathered(total, shift, offset, x)

    def _pulled(self, images: list[Tensor]) -> tuple[Direction, Tensor, Tensor]:
        total, shift = self.zeros(), torch.zeros_like(self.unknowns.deviation)
        offset, nothing = self.unknowns.offset_m.new_zeros(()), self.zeros()
        for group, image in zip(self._groups, images, strict=True):
            _, trace = self._forward(nothing, group, shift * 0)
            offset = offset + self._backward(image, group, trace, total, shift)
        return total, shift, offset

    def downhill(self) -> Direction:
        """Minus the gradient of half the loss, J^T (half the scores) minus the prior's pull."""
        total, shift, offset = self._pulled([group.residual for group in self._groups])
        found = self._gathered(total, shift, offset, None)
        own = self.unknowns.own()
        return Direction(found.object, found.probe, found.offset_m, found.affine, found.deviation - own / self.prior**2)

    def draw(self, generator: torch.Generator) -> Direction:
        """A draw of the gradient's noise: covariance J^T V J + prior."""
        images = []
        for group in self._groups:
            white = torch.randn(group.noise.shape, generator=generator, dtype=group.noise.dtype)
            images.append(white.to(group.noise.device) * group.noise.sqrt())
        total, shift, offset = self._pulled(images)
        found = self._gathered(total, shift, offset, None)
        white = torch.randn(found.deviation.shape, generator=generator, dtype=found.deviation.dtype)
        prior = self.unknowns._projected(white.to(found.deviation.device)) / self.prior
        return Direction(found.object, found.probe, found.offset_m, found.affine, found.deviation + prior)

    def diagonal(self) -> Direction:
        """About the curvature's diagonal, everything else held: for scaling, and each point's own information.

        A pixel of the camera sees a change of an exit wave in phase or in quadrature alike, so object and probe get
        half of 4 gain^2 |field|^2 W, which is gain for photon noise, times the light that falls on them.
        """
        total = self.zeros()
        offset, shift = self.unknowns.offset_m.new_zeros(()), torch.zeros_like(self.unknowns.deviation)
        for group in self._groups:
            gain = 2 * group.batch.gain[:, None, None, None]
            offset = offset + (group.slopes[0].square() * group.weight).sum()
            if group.patches is None:
                total.probe.add_((gain[0, 0, 0, 0] + 0 * total.probe).to(total.probe))
                continue
            light = (gain * group.moved.abs().square()).sum(1)
            scatter(light.to(total.object), group.batch.corners, total.object)
            total.probe.add_((gain * group.patches.abs().square()).sum(0).to(total.probe))
            own = torch.stack([(group.slopes[k].square() * group.weight).sum((1, 2)) for k in (1, 2)], 1)
            shift.index_add_(0, group.point, own)
        radial = shift.sum() * self.unknowns.centred.square().mean()
        affine = torch.full_like(total.affine, float(radial))
        return Direction(total.object, total.probe, offset, affine, shift + 1 / self.prior**2)
