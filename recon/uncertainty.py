"""How well a calibration knows what it found: Laplace's approximation at its solution.

Near the solution the likelihood is a Gaussian with the Gauss-Newton (Fisher) matrix A of *all* unknowns together: the
object's pixels, the probe's pixels, distance, affine map and every point's deviation. The variance of the distance is
the element of A^-1 that belongs to it, which is its variance with object, probe and positions marginalised (the inverse
of its Schur complement), and likewise for the affine map. A is never formed: columns of A^-1 come from conjugate
gradients on products with it (`recon.curvature`).

- Distance, rotation, shear, anisotropy: one column each. A coarse space of what is nearly a gauge (the object stretched
  with the map, quadratic phases, the probe stretched) makes a dozen steps enough; what is left undone makes them too
  small by a few per cent.
- Deviations and probe: draws of noise through the same A^-1, so that they are marginalised too. A few draws give every
  point its own variance only badly, so each point's shape is that of its own information (all else held) and one common
  factor is taken from all points of all draws. The probe's covariance is what the draws span: their leading directions
  with amplitudes, unbiased in the total.
- Eq. 1 is not efficient where pixels hold about one electron; the covariance is A^-1 B A^-1, B the true covariance of
  its slope. Read noise, and the positions' prior as the truth's own distribution, are in B.

Gauges: the isotropic scale of the positions is pinned, so the distance's deviation is that with the scale known; joint
shift and the object's scalar are no directions of A's range; scalar, ramp and shift of the probe (with its tilt) are
projected out of the probe's draws. Flux per frame and background are held.

Two things that no curvature knows are added: the covariance grows with the misfit where frames scatter more than their
noise, and what one Newton step would still change (the optimiser stopped before it) is added in quadrature. An error of
the model that the residuals do not show is in neither.

Where the calibration worked on binned pixels first, so does this, which loses what fine detail says: never too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.calibrate import Calibration
from recon.curvature import Curvature, Direction
from recon.dataset import Ptychogram
from recon.errorbars import Uncertainty
from recon.frameloss import Batch, FrameLoss
from recon.illumination import lit_points
from recon.noise import MixedGaussian
from recon.propagators import FarField, NearField, Optics
from recon.stages import stages_of
from recon.unknowns import Unknowns

STEPS = 8
DISTANCE_STEPS = 16
"""Conjugate gradients of a solve, and of the distance's: with the coarse space within a few per cent of the end."""
DRAWS = 2
"""Draws of noise: 2 n deviations each, so that their common factor is known to a few per cent."""
FLOOR = 1e-2
"""Light on a pixel below this share of the brightest's is not waited for."""
MAPS = ((0, -1, 1, 0), (0, 1, 1, 0), (1, 0, 0, -1), (1, 0, 0, 1))
"""Rotation, shear, anisotropy and scale as matrices (yy, yx, xy, xx)."""


class Stopped(Exception):
    """The caller asked to stop; there is no uncertainty then."""


def uncertainty_of(
    data: Ptychogram,
    calibration: Calibration,
    *,
    device: str = "cpu",
    report: Callable[[int, int], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> Uncertainty | None:
    """Laplace's approximation at a calibration's solution.

    Args:
        data: what was calibrated, in full.
        calibration: the result.
        device: where torch works.
        report: called after every product with their number and how many there will be.
        stop: asked after every product; true gives up.
        seed: of the draws.

    Returns:
        None when `stop` ended it.
    """
    part, unknowns, optics, binning = _level(data, calibration, device)
    pixel = optics.object_pixel_m
    settings = calibration.settings
    curvature = Curvature(
        part,
        unknowns,
        optics,
        1.0,
        settings.position_prior_m / pixel,
        pixels=not data.geometry.far_field,
        free_distance=settings.refine_distance and not data.geometry.far_field,
        free_positions=settings.refine_positions and len(part) > 2,
    )
    try:
        found = _found(curvature, pixel, binning, _Counter(report, stop), seed)
        return _grown(found, *_residuals(data, calibration, device, stop))
    except Stopped:
        return None


class _Counter:
    def __init__(self, report: Callable[[int, int], None], stop: Callable[[], bool]):
        self.done, self.total, self._report, self._stop = 0, 0, report, stop

    def __call__(self) -> None:
        self.done += 1
        self._report(self.done, self.total)
        if self._stop():
            raise Stopped


def _residuals(data: Ptychogram, c: Calibration, device: str, stop: Callable[[], bool]) -> tuple[float, int]:
    """Squared residuals over their variance and pixels, in the lit window, of the model with which it ended."""
    light, settings = c.illumination, c.settings
    if data.geometry.far_field:
        optics: Optics = FarField.build(light.geometry, device)
        side = light.geometry.shape
    else:
        last = stages_of(data, settings, c.window)[-1]
        geometry = replace(light.geometry, shape=last.side)
        optics = NearField.build(geometry, len(light.probe), padded=last.padded, device=device)
        side = last.side
    part = data if side == data.geometry.shape else data.crop(side)
    model = FrameLoss(optics, MixedGaussian(), pixels=not data.geometry.far_field)
    modes, obj = torch.from_numpy(c.modes).to(device), torch.from_numpy(c.object).to(device)
    places = torch.from_numpy(light.positions_m / optics.object_pixel_m)
    corners = (places.round() + (len(obj) // 2 - optics.window // 2)).long()
    low = [(n - c.window) // 2 if n > c.window else 0 for n in side]
    window = (slice(None), *(slice(k, n - k) for k, n in zip(low, side, strict=True)))
    variance = part.dark_variance[window[1:]]
    total, pixels = 0.0, 0
    for frames in torch.arange(len(part)).split(4):
        if stop():
            raise Stopped
        chosen = frames.numpy()
        blank = torch.zeros(0, device=device)
        seconds = part.exposures_s[chosen]
        batch = Batch(
            blank,
            blank,
            None,
            [(int(r), int(k)) for r, k in corners[frames].tolist()],
            (places - places.round())[frames].float().to(device),
            torch.from_numpy(seconds * c.flux[chosen]).float().to(device),
            torch.from_numpy(c.background * seconds).float().to(device),
        )
        expected = model.intensities(modes, obj, batch, torch.zeros((), device=device)).cpu().numpy()[window]
        good = np.broadcast_to(part.mask[window[1:]], expected.shape)
        if part.saturated is not None:
            good = good & ~part.saturated[chosen][window]
        squares = (part.frames[chosen][window] - expected) ** 2 / (expected + variance)
        total += float(squares[good].sum(dtype=np.float64))
        pixels += int(good.sum())
    return total, pixels


def _grown(found: Uncertainty, squares: float, pixels: int) -> Uncertainty:
    """With the misfit of the full model: what the coarse one got wrong is no error of the calibration."""
    misfit = squares / max(pixels - found.fitted, pixels / 2)
    factor = math.sqrt(max(1.0, misfit))
    return replace(
        found,
        misfit=misfit,
        distance_sigma_m=math.hypot(factor * found.distance_sigma_m, found.distance_step_m),
        affine_sigma=factor * found.affine_sigma,
        position_sigma_m=factor * found.position_sigma_m,
        probe_sigma=factor * found.probe_sigma,
        probe_relative=factor * found.probe_relative,
    )


def _level(data: Ptychogram, c: Calibration, device: str) -> tuple[Ptychogram, Unknowns, Optics, int]:
    """Data, solution and optics on the pixels on which the calibration began."""
    light, settings = c.illumination, c.settings
    pixel = light.geometry.pixel_size_m
    _, first, point = np.unique(data.indices, return_index=True, return_inverse=True)
    modes, obj = c.modes.astype(np.complex64), c.object
    if data.geometry.far_field:
        part, binning = data, 1
        optics: Optics = FarField.build(light.geometry, device)
        pixel = optics.object_pixel_m
    else:
        stage = stages_of(data, settings, c.window)[0]
        binning, window = stage.binning, len(light.probe) // (2 * stage.binning) * (2 * stage.binning)
        part = data if stage.side == data.geometry.shape else data.crop(stage.side)
        part = part if binning == 1 else part.binned(binning)
        modes = _coarser(_middle(modes, window), binning)
        # Coarse pixels sum the intensity of binning^2 fine ones.
        modes = modes * binning
        side = -(-len(obj) // (2 * binning)) * (2 * binning)
        obj = _coarser(_middle(obj[None], side), binning)[0]
        geometry = part.geometry.__class__(
            part.geometry.wavelength_m, light.geometry.distance_m, part.geometry.pixel_size_m, part.geometry.shape
        )
        optics = NearField.build(geometry, window // binning, padded=stage.padded, device=device)
        pixel = geometry.pixel_size_m
    unknowns = Unknowns(
        torch.from_numpy(np.ascontiguousarray(obj)),
        torch.from_numpy(np.ascontiguousarray(modes)),
        torch.from_numpy(light.positions_m[first] / pixel).float(),
        torch.from_numpy(point),
        torch.from_numpy(lit_points(data)),
    )
    unknowns.log_gain.copy_(torch.from_numpy(np.log(c.flux)))
    signal = float(part.frames.mean(dtype=np.float64) / part.exposures_s.mean())
    unknowns.background.fill_(c.background * binning**2 / max(signal, 1e-12))
    return part, unknowns.to(device), optics, binning


def _middle(fields: NDArray, side: int) -> NDArray:
    """Stack (.., n, n) cut or zero-padded to (.., side, side), index n//2 to side//2; both even."""
    n = fields.shape[-1]
    if side <= n:
        low = n // 2 - side // 2
        return fields[..., low : low + side, low : low + side]
    margin = (side - n) // 2
    return np.pad(fields, [(0, 0)] * (fields.ndim - 2) + [(margin, margin)] * 2, mode="edge")


def _coarser(fields: NDArray, factor: int) -> NDArray:
    """Means of blocks of a stack (.., n, n)."""
    n = fields.shape[-1] // factor
    return fields.reshape(*fields.shape[:-2], n, factor, n, factor).mean((-3, -1)).astype(np.complex64)


def _stretched(field: Tensor, matrix: tuple[int, ...]) -> Tensor:
    """d/da of field((1 + a M)^-1 r) at a = 0, M = ((yy, yx), (xy, xx)), per unit of a."""
    axis = torch.arange(field.shape[-1], device=field.device, dtype=field.real.dtype) - field.shape[-1] // 2
    y, x = axis[:, None], axis[None, :]
    slope_y, slope_x = torch.zeros_like(field), torch.zeros_like(field)
    slope_y[..., 1:-1, :] = (field[..., 2:, :] - field[..., :-2, :]) / 2
    slope_x[..., :, 1:-1] = (field[..., :, 2:] - field[..., :, :-2]) / 2
    return -(slope_y * (matrix[0] * y + matrix[1] * x) + slope_x * (matrix[2] * y + matrix[3] * x))


def _bent(field: Tensor) -> list[Tensor]:
    """The field times i (y^2 - x^2), i 2xy and i (y^2 + x^2)."""
    axis = torch.arange(field.shape[-1], device=field.device, dtype=field.real.dtype) - field.shape[-1] // 2
    y, x = axis[:, None], axis[None, :]
    return [1j * form * field for form in (y * y - x * x, 2 * x * y, y * y + x * x)]


class _Solver:
    """Conjugate gradients with a diagonal and a coarse space."""

    def __init__(self, curvature: Curvature, tick: Callable[[], None]):
        self.curvature, self.tick = curvature, tick
        scales = [t.real if t.is_complex() else t for t in curvature.diagonal().parts()]
        self.inverse = Direction(*(1 / (t + FLOOR * t.max()).clamp_min(1e-30) for t in scales))
        self.space: list[Direction] = []
        for vector in self._nearly_gauges():
            norm = vector.dot(vector.times(Direction(*scales)))
            if norm > 0:
                self.space.append(vector.plus(vector, norm**-0.5 - 1))
        images = [self.product(vector) for vector in self.space]
        matrix = np.array([[a.dot(b) for b in images] for a in self.space])
        self.coarse = np.linalg.pinv((matrix + matrix.T) / 2, rcond=1e-5, hermitian=True)

    @staticmethod
    def vectors(curvature: Curvature) -> int:
        """Size of the coarse space."""
        return int(curvature.free[0]) + 3 * int(curvature.free[1]) + 11

    def _nearly_gauges(self) -> list[Direction]:
        c, u = self.curvature, self.curvature.unknowns
        vectors = []
        if c.free[0]:
            vectors.append(c.zeros())
            vectors[-1].offset_m.fill_(1.0)
        if c.free[1]:
            for k in range(3):
                vectors.append(c.zeros())
                vectors[-1].affine[k] = 1.0
                vectors[-1].object.copy_(_stretched(u.object, MAPS[k]) / u.radius)
        for matrix in MAPS:
            vectors.append(c.zeros())
            vectors[-1].probe.copy_(_stretched(u.probe, matrix))
        vectors.append(c.zeros())
        vectors[-1].object.copy_(_stretched(u.object, MAPS[3]))
        for bent in _bent(u.probe):
            vectors.append(c.zeros())
            vectors[-1].probe.copy_(bent)
        for bent in _bent(u.object):
            vectors.append(c.zeros())
            vectors[-1].object.copy_(bent)
        return vectors

    def product(self, x: Direction, *, noise: bool = False) -> Direction:
        self.tick()
        return self.curvature.product(x, noise=noise)

    def _preconditioned(self, r: Direction) -> Direction:
        z = r.times(self.inverse)
        for vector, share in zip(self.space, self.coarse @ np.array([v.dot(r) for v in self.space]), strict=True):
            z = z.plus(vector, float(share))
        return z

    def __call__(self, b: Direction, steps: int = STEPS) -> Direction:
        """About A^-1 b."""
        r, x = b, self.curvature.zeros()
        z = self._preconditioned(r)
        p, size = z, r.dot(z)
        for _ in range(steps):
            if size <= 0:
                break
            q = self.product(p)
            step = size / p.dot(q)
            x, r = x.plus(p, step), r.plus(q, -step)
            z = self._preconditioned(r)
            fresh = r.dot(z)
            p, size = z.plus(p, fresh / size), fresh
        return x


def _found(curvature: Curvature, pixel: float, binning: int, tick: _Counter, seed: int) -> Uncertainty:
    u = curvature.unknowns
    wanted = int(curvature.free[0]) + 3 * int(curvature.free[1])
    tick.total = _Solver.vectors(curvature) + wanted * (STEPS + 1) + (DRAWS + 1) * STEPS
    tick.total += int(curvature.free[0]) * (DISTANCE_STEPS - STEPS)
    solve = _Solver(curvature, tick)
    downhill = curvature.downhill()
    generator = torch.Generator().manual_seed(seed)
    noise = [curvature.draw(generator) for _ in range(DRAWS)]
    draws = [solve(b) for b in noise]
    # A draw b of the slope takes b A^-1 b of the residuals away: as many as there are parameters that data determine.
    fitted = float(np.mean([b.dot(x) for b, x in zip(noise, draws, strict=True)]))

    # Columns of A^-1: distance first, then the affine map.
    columns: list[Direction] = []
    for k in range(4):
        if not curvature.free[0 if k == 0 else 1]:
            continue
        unit = curvature.zeros()
        if k == 0:
            unit.offset_m.fill_(1.0)
        else:
            unit.affine[k - 1] = 1.0
        columns.append(solve(unit, DISTANCE_STEPS if k == 0 else STEPS))
    images = [solve.product(column, noise=True) for column in columns]
    covariance = np.array([[a.dot(b) for b in images] for a in columns]).reshape(len(columns), len(columns))
    steps = np.array([column.dot(downhill) for column in columns])
    if curvature.free[1]:
        covariance[-3:, -3:] += np.diag(steps[-3:] ** 2)
    distance = float(np.sqrt(covariance[0, 0])) if curvature.free[0] else math.nan
    affine = covariance[-3:, -3:] if curvature.free[1] else np.zeros((3, 3))

    left = solve(downhill)
    position = np.zeros((len(u.nominal_px), 2))
    if curvature.free[1]:
        position = _positions(curvature, draws, left, affine)
    modes, amplitudes, relative = _probe(curvature, draws)
    return Uncertainty(
        distance_sigma_m=distance,
        affine_sigma=np.sqrt(np.diag(affine)) / u.radius,
        position_sigma_m=position[u.point.cpu().numpy()] * pixel,
        probe_modes=modes,
        probe_sigma=amplitudes,
        probe_pixel_m=pixel,
        probe_relative=relative,
        distance_step_m=float(steps[0]) if curvature.free[0] else math.nan,
        misfit=1.0,
        fitted=fitted,
        binning=binning,
        products=tick.done,
    )


def _positions(curvature: Curvature, draws: list[Direction], left: Direction, affine: NDArray) -> NDArray[np.float64]:
    """(n, 2) px standard deviations: affine map plus own deviation."""
    u = curvature.unknowns
    lit = u.lit.cpu().numpy()
    own = curvature.diagonal().deviation.double().cpu().numpy() ** -1
    shares = [u._projected(x.deviation).double().cpu().numpy() for x in draws]
    if int(lit.sum()) > 3:
        factor = float(np.mean([(s**2 / own)[lit].mean() for s in shares]))
        remaining = u._projected(left.deviation).double().cpu().numpy()
        own = own * (factor + float((remaining**2 / own)[lit].mean()))
    # A point without light follows the map; its own deviation is as large as the stage makes it.
    own[~lit] = curvature.prior**2
    y, x = (u.centred[:, k].double().cpu().numpy() for k in (0, 1))
    rows = np.stack([np.stack([-x, x, y], 1), np.stack([y, y, -x], 1)], 1)
    return np.sqrt(own + np.einsum("nak,kl,nal->na", rows, affine, rows))


def _probe(curvature: Curvature, draws: list[Direction]) -> tuple[NDArray[np.complex64], NDArray[np.float64], float]:
    """Directions (r, K, K), standard deviations (r,) along them, and the rms of all over the probe's norm."""
    probe = curvature.unknowns.probe[0].cpu().numpy().astype(np.complex128)
    side = len(probe)
    axis = np.arange(side) - side // 2
    slopes = np.gradient(probe)
    gauges = [probe, 1j * probe, 1j * axis[:, None] * probe, 1j * axis[None, :] * probe, slopes[0], slopes[1]]

    def real(fields: list[NDArray]) -> NDArray:
        return np.stack([np.concatenate([f.real.ravel(), f.imag.ravel()]) for f in fields], 1)

    basis = np.linalg.qr(real(gauges))[0]
    found = real([x.probe[0].cpu().numpy().astype(np.complex128) for x in draws]) / math.sqrt(len(draws))
    found = found - basis @ (basis.T @ found)
    directions, amplitudes, _ = np.linalg.svd(found, full_matrices=False)
    fields = directions.T[:, : side * side] + 1j * directions.T[:, side * side :]
    relative = float(np.sqrt(np.square(amplitudes).sum()) / np.linalg.norm(probe))
    return fields.reshape(-1, side, side).astype(np.complex64), amplitudes, relative
