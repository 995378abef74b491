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
projected out of the probe's draws. Flux per frame and background are marginalised where they were searched.

Two things that no curvature knows are added. The covariance grows with the misfit where frames scatter more than their
noise. And what the search left undone goes in quadrature: the distance's is its rms way from where it ended, over the
second half of the polish or, where none was affordable, of all epochs; the positions' is how far the second half of the
polish moved them, or else what one Newton step would still change. (One Newton step says little of the distance: it was
0.2 um where the error was 32, and 77 where it was 21.) An error of the model that the residuals do not show is in
neither, nor is the bias of a likelihood whose every pixel of object and probe is free and hardly lit.

Where the calibration worked on binned pixels first, so does this, which loses what fine detail says: never too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from recon.calibrate import Calibration
from recon.curvature import Curvature, Direction, Free, looks_at
from recon.dataset import Ptychogram
from recon.errorbars import Uncertainty
from recon.frameloss import Batch, FrameLoss
from recon.gauges import inverse, nearly_gauges, scaled
from recon.illumination import lit_points
from recon.noise import MixedGaussian
from recon.propagators import FarField, NearField, Optics
from recon.stages import stages_of
from recon.unknowns import Unknowns

STEPS = 6
DISTANCE_STEPS, PATIENT_STEPS = 18, 40
"""Conjugate gradients of a solve, and of the distance's: with the coarse space within a fifth of the end, or a tenth
where a polish was affordable and so are more of them."""
DRAWS = 2
"""Draws of noise: 2 n deviations each, so that their common factor is known to a few per cent."""
FLOOR = 1e-2
"""Light on a pixel below this share of the brightest's is not waited for."""


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
    free = Free(
        settings.position_prior_m / pixel,
        distance=settings.refine_distance and not data.geometry.far_field,
        positions=settings.refine_positions and len(part) > 2,
        log_gain=settings.flux_prior,
        background=settings.background_prior,
    )
    looks = looks_at(part, unknowns, optics, 1.0)
    curvature = Curvature(looks, unknowns, optics, free, pixels=not data.geometry.far_field)
    try:
        polished = _polished(calibration) > 1
        found = _found(curvature, pixel, binning, _Counter(report, stop), seed, polished=polished)
        return _grown(found, *_residuals(data, calibration, device, stop), *_undone(calibration))
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


def _polished(c: Calibration) -> int:
    """Passes of the polish at the end."""
    return len(list(takewhile(lambda stage: stage == "polish", reversed(c.stages))))


def _undone(c: Calibration) -> tuple[float, float]:
    """What the search may have left undone, by its course: of the distance (m), and of positions per axis (m, rms)."""
    passes = _polished(c)
    late = max(1, (passes or len(c.stages)) // 2)
    distance = float(np.sqrt(np.square(c.distance_m[-late:] - c.distance_m[-1]).mean()))
    # Passes wander about as much as they go somewhere: their squares add up.
    path = float(np.sqrt(np.square(c.position_change_px[-late:]).sum())) if passes else 0.0
    return distance, path * c.illumination.geometry.object_pixel_m / math.sqrt(2)


def _grown(found: Uncertainty, squares: float, pixels: int, distance_m: float, position_m: float) -> Uncertainty:
    """With the full model's misfit (what the coarse one got wrong is no error), and what the search left undone."""
    misfit = squares / max(pixels - found.fitted, pixels / 2)
    factor = math.sqrt(max(1.0, misfit))
    return replace(
        found,
        misfit=misfit,
        distance_sigma_m=math.hypot(factor * found.distance_sigma_m, distance_m),
        distance_step_m=distance_m if found.distance_sigma_m > 0 else math.nan,
        affine_sigma=factor * found.affine_sigma,
        position_sigma_m=np.where(
            found.position_sigma_m > 0, np.hypot(factor * found.position_sigma_m, position_m), 0.0
        ),
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


class _Solver:
    """Conjugate gradients with a diagonal and a coarse space."""

    def __init__(self, curvature: Curvature, tick: Callable[[], None]):
        self.curvature, self.tick = curvature, tick
        scales = [t.real if t.is_complex() else t for t in curvature.diagonal().parts()]
        self.inverse = Direction(*(1 / (t + FLOOR * t.max()).clamp_min(1e-30) for t in scales))
        self.space = scaled(nearly_gauges(curvature), Direction(*scales))
        self.coarse = inverse(curvature.gram(self.space))

    def product(self, x: Direction) -> Direction:
        self.tick()
        return self.curvature.product(x)

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


def _found(
    curvature: Curvature, pixel: float, binning: int, tick: _Counter, seed: int, *, polished: bool
) -> Uncertainty:
    u = curvature.unknowns
    free = curvature.free
    for_distance = PATIENT_STEPS if polished else DISTANCE_STEPS
    tick.total = 3 * int(free.positions) * STEPS + int(free.distance) * for_distance + DRAWS * STEPS
    tick.total += int(free.positions and not polished) * STEPS
    solve = _Solver(curvature, tick)
    # Downhill from a polished end lie directions that are no quadratic; it has gone down all others.
    downhill = None if polished else curvature.downhill()
    generator = torch.Generator().manual_seed(seed)
    noise = [curvature.draw(generator) for _ in range(DRAWS)]
    draws = [solve(b) for b in noise]
    # A draw b of the slope takes b A^-1 b of the residuals away: as many as there are parameters that data determine.
    fitted = float(np.mean([b.dot(x) for b, x in zip(noise, draws, strict=True)]))

    # Columns of A^-1: distance first, then the affine map.
    columns: list[Direction] = []
    for k in range(4):
        if not (free.positions if k else free.distance):
            continue
        unit = curvature.zeros()
        if k == 0:
            unit.offset_m.fill_(1.0)
        else:
            unit.affine[k - 1] = 1.0
        columns.append(solve(unit, for_distance if k == 0 else STEPS))
    covariance = curvature.gram(columns, noise=True).cpu().numpy()
    if free.positions and downhill is not None:
        covariance[-3:, -3:] += np.diag([column.dot(downhill) ** 2 for column in columns[-3:]])
    distance = float(np.sqrt(covariance[0, 0])) if free.distance else math.nan
    affine = covariance[-3:, -3:] if free.positions else np.zeros((3, 3))

    position = np.zeros((len(u.nominal_px), 2))
    if free.positions:
        position = _positions(curvature, draws, None if downhill is None else solve(downhill), affine)
    modes, amplitudes, relative = _probe(curvature, draws)
    return Uncertainty(
        distance_sigma_m=distance,
        affine_sigma=np.sqrt(np.diag(affine)) / u.radius,
        position_sigma_m=position[u.point.cpu().numpy()] * pixel,
        probe_modes=modes,
        probe_sigma=amplitudes,
        probe_pixel_m=pixel,
        probe_relative=relative,
        distance_step_m=0.0 if free.distance else math.nan,
        misfit=1.0,
        fitted=fitted,
        binning=binning,
        products=tick.done,
    )


def _positions(
    curvature: Curvature, draws: list[Direction], left: Direction | None, affine: NDArray
) -> NDArray[np.float64]:
    """(n, 2) px standard deviations: affine map plus own deviation."""
    u = curvature.unknowns
    lit = u.lit.cpu().numpy()
    own = curvature.diagonal().deviation.double().cpu().numpy() ** -1
    shares = [u._projected(x.deviation).double().cpu().numpy() for x in draws]
    if int(lit.sum()) > 3:
        factor = float(np.mean([(s**2 / own)[lit].mean() for s in shares]))
        if left is not None:
            remaining = u._projected(left.deviation).double().cpu().numpy()
            factor += float((remaining**2 / own)[lit].mean())
        own = own * factor
    # A point without light follows the map; its own deviation is as large as the stage makes it.
    own[~lit] = curvature.free.position_px**2
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
