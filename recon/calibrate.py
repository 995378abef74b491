"""Calibration: probe, object, distance and positions together, from the gradients of one forward model.

What is free, and what pins it (`gauge freedoms` of the design): the object's pixels; the probe, whose energy the empty
beam fixes where there is one; the distance; rotation, shear and anisotropy of the positions, plus a small deviation
each under the stage's prior. The positions' mean and isotropic scale stay with the stage, because distance and scale
together change nothing that a camera sees.

The work runs in stages on one set of unknowns: the variance-stabilised amplitude loss on binned pixels of the window
that holds the light, first probe and object, then everything; the same on ever finer pixels; then the likelihood on the
full frame, propagated on a window as wide as the geometry demands. Frequencies that cannot reach the frame are left out
before and after that (`recon.reach`). Steps on few frames find the way (`recon.fit`); where all frames together cost a
tenth of a second or less, full passes downhill end it (`recon.polish`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.course import SETTLING, Course, CourseTable, fingerprint, load_checkpoint, save_checkpoint
from recon.dataset import DatasetError, Geometry, Scan
from recon.fit import Fit, Priors
from recon.illumination import Illumination, illuminated, lit_points, lit_window, remove_ramp, soft_disc
from recon.levels import binned, finer
from recon.model import object_size
from recon.noise import MixedGaussian, SlopedLoss, StabilisedAmplitude
from recon.polish import Polish
from recon.propagators import FarField, NearField, Optics
from recon.reach import Reach
from recon.refocus import refocus
from recon.stages import CalibrationSettings, Stage, rates_of, stages_of, with_epochs
from recon.streaming import Streamed, Sums, frame_budget
from recon.team import ALONE, Team, share_of, team_sums
from recon.unknowns import Unknowns

__all__ = [
    "Calibration",
    "CalibrationSettings",
    "EpochReport",
    "Illumination",
    "Stage",
    "calibrate",
    "illuminated",
    "lit_window",
    "remove_ramp",
    "soft_disc",
    "stages_of",
    "with_epochs",
]

MARGIN = 16
"""Pixels around the outermost probe window on the object's grid: room for positions to move."""
BATCH, STEPS = 4, 24
"""Frames per step, fewer where an epoch would have less than this many steps: progress is made by steps."""
REFOCUSED = 8
"""Epochs of the joint stage that begin with a look along the distance, once there is an object and while steps are
large."""
WITH_LEVELS = 1.5
"""Memory of all frames and their binned levels over that of the frames."""


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        illumination: probe, distance, positions.
        object: (M, M) complex64 on the object's pitch, index M//2 at the origin; ramp and scalar gauge removed.
        modes: (m, K, K) complex64 mutually orthogonal modes of the probe, the first is the illumination's.
        flux: (N,) each frame's flux over the common one; background: electrons a pixel and second.
        loss: (epochs,) mean loss per pixel and frame of each epoch; comparable within a stage only.
        distance_m: (epochs,) distance after each epoch.
        position_change_px: (epochs,) rms change of the positions in each epoch, camera pixels.
        stages: name of the stage of each epoch.
        plan: what the stages were, with the propagation that the geometry led to.
        window: side of the lit window in pixels; energy: share of the light that it holds.
        settings: as asked.
        interrupted: ended early; what is kept is the best of the stage that was interrupted.
    """

    illumination: Illumination
    object: NDArray[np.complex64]
    modes: NDArray[np.complex64]
    flux: NDArray[np.float64]
    background: float
    loss: NDArray[np.float64]
    distance_m: NDArray[np.float64]
    position_change_px: NDArray[np.float64]
    stages: tuple[str, ...]
    plan: tuple[str, ...]
    window: int
    energy: float
    settings: CalibrationSettings
    interrupted: bool = False

    def summary(self) -> dict[str, Any]:
        """Numbers for files and reports."""
        return {
            "distance_m": self.illumination.geometry.distance_m,
            "loss": float(self.loss[-1]),
            "epochs": len(self.loss),
            "window_px": self.window,
            "window_energy": self.energy,
            "propagation": list(self.plan),
            "background_e_s": self.background,
            "electrons_per_second": self.illumination.electrons_per_second,
            "interrupted": self.interrupted,
            "settings": asdict(self.settings),
        }


@dataclass(frozen=True)
class EpochReport:
    """Progress: which epoch of at most how many, in which stage, and what it changed.

    `share` is that of the work of all epochs; one of a fine stage is more work than one of a coarse stage.
    `pictures` gives probe (K, K) and object (M, M) as they are by now, complex64 on this stage's pitch; for looking at.
    """

    epoch: int
    epochs: int
    share: float
    stage: str
    loss: float
    distance_m: float
    position_change_px: float
    pictures: Callable[[], tuple[NDArray[np.complex64], NDArray[np.complex64]]]


LOSSES: dict[str, type[SlopedLoss]] = {"amplitude": StabilisedAmplitude, "mixed": MixedGaussian}


def _optics(part: Scan, stage: Stage, device: str) -> Optics:
    if part.geometry.far_field:
        return FarField.build(part.geometry, device)
    return NearField.build(part.geometry, stage.window, padded=stage.padded, device=device)


def _level(share: Scan, stage: Stage, memory: int) -> Scan:
    """The frames of a process as a stage takes them: in memory where they fit, else read when they are needed."""
    part = share if stage.side == share.geometry.shape else share.crop(stage.side)
    part = binned(part, stage.binning)
    return part.load() if isinstance(part, Streamed) and part.nbytes <= memory else part


def _budget(memory_bytes: float | None, team: Team, device: str) -> int:
    """Bytes of frames to hold; unless asked for, no more than half of what is free on the device either."""
    budget = frame_budget(memory_bytes, team.local)
    if memory_bytes is None and torch.device(device).type == "cuda":
        budget = min(budget, torch.cuda.mem_get_info(device)[0] // 2)
    return budget


def _start(
    part: Scan,
    light: NDArray,
    mean: NDArray,
    optics: Optics,
    settings: CalibrationSettings,
    known: NDArray[np.complex64] | None,
) -> tuple[Tensor, float, float]:
    """Probe modes and object's value to begin with, of about unit maximum, and the flux scale (electrons per s).

    Args:
        light: (N,) electrons of each frame.
        mean: (H, W) mean frame of the level.
        known: (m, K, K) probe modes of any scale to begin with.
    """
    seconds = float(np.median(part.exposures_s))
    brightest = float(light.max())
    if not brightest > 0:
        raise DatasetError(f"{part.name}: the calibration frames hold no light above the dark; is the beam blocked?")
    if known is not None:
        if known.shape[-2:] != (optics.window, optics.window):
            raise DatasetError(
                f"{part.name}: a probe of {known.shape[-2]} x {known.shape[-1]} pixels to begin with, but the window "
                f"has {optics.window} x {optics.window}"
            )
        probe = known[0]
    elif settings.probe_diameter_m is None:
        mean = np.sqrt(np.maximum(np.where(part.mask, mean, 0), 0)).astype(np.complex64)
        at_camera = torch.from_numpy(mean)[None].to(optics.device)
        nothing = at_camera.new_zeros(1, optics.window, optics.window)
        trace = optics.forward(nothing, torch.zeros(1, 2, device=optics.device), torch.zeros((), device=optics.device))[
            1
        ]
        probe = optics.adjoint(at_camera, trace)[0][0].cpu().numpy()
        if part.geometry.far_field:
            probe = np.fft.fftshift(probe)
    else:
        pixel = part.geometry.object_pixel_m
        probe = soft_disc(optics.window, settings.probe_diameter_m / pixel)
    if part.empty is not None and part.empty_exposure_s is not None:
        flux = float(np.where(part.mask, part.empty, 0).sum()) / part.empty_exposure_s
    else:
        # Without an empty beam the flux is relative: the brightest frame counts as full transmission.
        flux = brightest / seconds
    top = float(np.percentile(np.abs(probe), 99.5))
    probe = probe / top
    scale = flux / float((np.abs(probe) ** 2).sum())
    axis = (np.arange(len(probe)) - len(probe) // 2) / max(1.0, len(probe) / 4)
    # Weak and of other symmetry: products of the probe with powers of y and x.
    given = [] if known is None else [mode / top for mode in known[1 : settings.modes]]
    others = range(1 + len(given), settings.modes)
    weak = (0.1 * probe * axis[:, None] ** ((k + 1) // 2) * axis[None, :] ** (k // 2) for k in others)
    modes = [probe, *given, *weak]
    level = 0.5 if part.empty is not None else 1.0
    return torch.from_numpy(np.stack(modes).astype(np.complex64)), level, scale


def calibrate(
    data: Scan,
    settings: CalibrationSettings,
    *,
    device: str = "cpu",
    report: Callable[[EpochReport], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint: Path | None = None,
    team: Team = ALONE,
    sums: Sums | None = None,
    memory_bytes: float | None = None,
    probe: NDArray[np.complex64] | None = None,
) -> Calibration:
    """Find probe, object, distance and positions from a bright scan.

    Args:
        data: the scan; its positions and distance are the nominal ones. An empty-beam frame pins the probe's energy.
            Frames with equal `indices` are exposures of one position: their likelihoods add up.
        settings: how.
        device: where torch works.
        report: called after every epoch.
        stop: asked between steps, from the second epoch on; true ends early with the best that the stage has found so
            far. In a team one process's wish is enough.
        checkpoint: a file that is written after every epoch and removed at the end; where it exists, the calibration
            that left it goes on, as if it had never stopped. In a team rank 0 writes and all must see it.
        team: the processes that do this together, each with its share of the frames; all get the same result.
        sums: of all frames (`team_sums`), for whoever has looked at them already.
        memory_bytes: of frames that a streamed scan may hold in each process; None takes half of what is free.
        probe: (m, K, K) modes of any scale to begin with on the object's pitch, of the whole frame's size; only without
            a diameter.

    Raises:
        DatasetError: the frames hold no light, the probe has another size, a position leaves the object's grid, the
            checkpoint is another's, or a frame cannot be read.
        TeamError: another process of the team has ended.
    """
    settings.check(data)
    memory = _budget(memory_bytes, team, device) if isinstance(data, Streamed) else 0
    share = share_of(data, team)
    if isinstance(share, Streamed) and WITH_LEVELS * share.nbytes <= memory:
        share = share.load()
    sums = sums or team_sums(share, len(data), team, device)
    mark = fingerprint(data, sums)
    smallest = min(data.geometry.shape)
    crop, energy = (smallest, 1.0) if data.geometry.far_field else lit_window(data, settings.lit_energy, sums)
    if settings.probe_diameter_m is None:
        crop, energy = smallest, 1.0
    plan = stages_of(data, settings, crop)
    course = Course(settings.loss_tolerance, settings.distance_tolerance_m, settings.position_tolerance_px)
    _, first, point = np.unique(data.indices, return_index=True, return_inverse=True)
    unknowns: Unknowns | None = None
    scale, pixel, described = 1.0, data.geometry.object_pixel_m, []
    saved = None if checkpoint is None else load_checkpoint(checkpoint, mark, settings)
    total = sum(stage.epochs for stage in plan)
    work = np.cumsum([0, *(stage.epochs * stage.pixels for stage in plan)])
    batch = batch_of(settings, len(data), team.size)
    for number, stage in enumerate(plan):
        if number == 0 or (stage.side, stage.binning) != (plan[number - 1].side, plan[number - 1].binning):
            part = binned(data if stage.side == data.geometry.shape else data.crop(stage.side), stage.binning)
            own, level_sums = None, sums.level(stage.side, stage.binning)
        optics = _optics(part, stage, device)
        pixel = optics.object_pixel_m
        described.append(f"{stage.name}: {optics.describe()}, binned {stage.binning} x, {stage.loss} loss")
        if unknowns is None:
            own = _level(share, stage, memory)
            light = sums.light
            if stage.side != data.geometry.shape and data.empty is None:
                light = team_sums(own, len(data), team, device).light
            modes, level, scale = _start(part, light, level_sums.mean, optics, settings, probe)
            nominal = torch.from_numpy(data.positions_m[first] / pixel).float()
            side = object_size(nominal, optics.window, MARGIN)
            obj = torch.full((side, side), level, dtype=torch.complex64)
            lit = torch.from_numpy(lit_points(data, sums))
            unknowns = Unknowns(obj, modes, nominal, torch.from_numpy(point), lit).to(device)
        elif stage.binning != plan[number - 1].binning or optics.window != unknowns.probe.shape[-1]:
            factor = plan[number - 1].binning // stage.binning
            unknowns, ratio = finer(unknowns, factor, optics.window, MARGIN)
            scale *= ratio
        if saved is not None and saved.stage > number:
            continue
        priors = Priors(settings.position_prior_m / pixel, settings.flux_prior, settings.background_prior)
        own = _level(share, stage, memory) if own is None else own
        if isinstance(own, Streamed):
            described[-1] += ", frames streamed"
        loss = LOSSES[stage.loss]()
        if saved is not None:
            unknowns, scale = saved.unknowns.to(device), saved.scale
        fit = Fit(
            part,
            unknowns,
            optics,
            loss,
            scale,
            priors,
            batch=batch,
            seed=settings.seed,
            pixels=not data.geometry.far_field,
            share=own,
            sums=level_sums,
            team=team,
            hold_bytes=memory,
        )
        course.begin(stage.name, stage.epochs)
        if saved is not None:
            saved.restore(fit, course)
            saved = None
        polish: Polish | None = None
        last = stage.name in ("full", "polish")
        within = last and Reach.applies(data.geometry, settings.probe_diameter_m)
        if last:
            # What is filtered, and what a polish does, follows from the same bits in every process.
            team.follow(unknowns.searched())
        if within and stage.name == "full" and course.epoch == 0:
            _reach(unknowns, part).keep_seen(unknowns)
        if stage.name == "polish":
            shifted = settings.refine_positions and len(data) > 2
            reach = _reach(unknowns, part) if within else None
            polish = Polish(fit, distance=settings.refine_distance, positions=shifted, reach=reach)
        while course.stage_goes_on():
            distant = settings.refine_distance and not data.geometry.far_field and stage.name == "joint"
            if distant and course.table.loss and course.epoch < REFOCUSED and course.share < SETTLING:
                refocus(fit, data.geometry.wavelength_m)
            before = unknowns.positions_px()
            wanted = stop if course.table.loss else lambda: False
            if polish is None:
                fit.rates(rates_of(settings, stage, course.speed(), pixel, len(data)))
                value = fit.epoch(course.epoch, wanted)
            else:
                value = polish.step(wanted)
            if value is None:
                course.interrupted = True
                course.restore_best(unknowns)
                break
            moved = float((unknowns.positions_px() - before).square().sum(1).mean().sqrt()) * stage.binning
            distance = data.geometry.distance_m + float(unknowns.offset_m)
            course.add(value, distance, moved, unknowns)
            if polish is not None:
                course.share = 1.0 if polish.settled else course.epoch / stage.epochs
            pictures = partial(_pictures, unknowns)
            behind = (work[number] + course.epoch * stage.pixels) / work[-1]
            report(EpochReport(len(course.table.loss), total, behind, stage.name, value, distance, moved, pictures))
            # A polish that is resumed begins anew: its steps follow from its start alone.
            if checkpoint is not None and team.rank == 0 and polish is None:
                save_checkpoint(checkpoint, mark, settings, number, unknowns, scale, fit, course)
            wish = torch.full_like(unknowns.offset_m, float(stop()))
            team.add([wish])
            if bool(wish > 0):
                course.interrupted = True
                course.restore_best(unknowns)
                break
        if within and stage.name == "full":
            team.follow(unknowns.searched())
            _reach(unknowns, part).keep_seen(unknowns)
        # The next level's frames need its memory.
        del fit, polish
        if course.interrupted:
            break
    assert unknowns is not None
    if checkpoint is not None and not course.interrupted and team.rank == 0:
        checkpoint.unlink(missing_ok=True)
    if course.interrupted and stage.binning > 1:
        window = (
            next(s.window for s in plan if s.name == "full") if settings.full_epochs else stage.window * stage.binning
        )
        unknowns, ratio = finer(unknowns, stage.binning, window, MARGIN)
        scale, pixel = scale * ratio, data.geometry.object_pixel_m
    return _finish(
        data, sums, settings, unknowns, scale, pixel, course.table, tuple(described), crop, energy, course.interrupted
    )


def _pictures(unknowns: Unknowns) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    return unknowns.probe[0].cpu().numpy().copy(), unknowns.object.cpu().numpy().copy()


def batch_of(settings: CalibrationSettings, count: int, processes: int = 1) -> int:
    """Frames per step: as asked, else few, but as many for each process.

    Raises:
        DatasetError: what was asked for cannot be shared equally, or there are more processes than frames.
    """
    if settings.batch is None:
        batch = processes * math.ceil(min(BATCH, max(1, count // STEPS)) / processes)
    else:
        batch = settings.batch
    if batch > count or batch % processes:
        raise DatasetError(
            f"{processes} processes cannot share steps of {batch} of {count} frames equally; start as many as divide it"
        )
    return batch


def _reach(unknowns: Unknowns, part: Scan) -> Reach:
    g = part.geometry
    return Reach(unknowns.probe, replace(g, distance_m=g.distance_m + float(unknowns.offset_m)))


def orthogonal(modes: NDArray) -> NDArray:
    """The same incoherent light as mutually orthogonal modes (m, K, K), the strongest first."""
    if len(modes) == 1:
        return modes
    _, singular, vectors = np.linalg.svd(modes.reshape(len(modes), -1), full_matrices=False)
    return (singular[:, None] * vectors).reshape(modes.shape)


def _finish(
    data: Scan,
    sums: Sums,
    settings: CalibrationSettings,
    unknowns: Unknowns,
    scale: float,
    pixel_m: float,
    table: CourseTable,
    plan: tuple[str, ...],
    crop: int,
    energy: float,
    interrupted: bool,
) -> Calibration:
    modes = orthogonal(unknowns.probe.cpu().numpy().astype(np.complex128)) * math.sqrt(scale)
    obj = unknowns.object.cpu().numpy().astype(np.complex128)
    positions = unknowns.positions_px()[unknowns.point].cpu().numpy().astype(np.float64)
    weight = illuminated(modes[0], positions, len(obj)).astype(float)
    obj, flat = remove_ramp(obj, modes[0], weight)
    # The same ramp and phase for every mode.
    turn = flat * modes[0].conj()
    modes = modes * np.where(np.abs(turn) > 0, turn / np.maximum(np.abs(turn), 1e-300), 1.0)
    if data.empty is None:
        # Relative flux: the object's brightest lit amplitude counts as one.
        top = float(np.percentile(np.abs(obj)[weight > 0], 99))
        obj, modes = obj / top, modes * top
    geometry: Geometry = replace(data.geometry, distance_m=data.geometry.distance_m + float(unknowns.offset_m))
    illumination = Illumination(modes[0].astype(np.complex64), geometry, positions * pixel_m, data.indices.copy())
    signal = float(sums.mean.mean() / data.exposures_s.mean())
    return Calibration(
        illumination,
        obj.astype(np.complex64),
        modes.astype(np.complex64),
        unknowns.log_gain.exp().cpu().numpy().astype(np.float64),
        float(unknowns.background) * signal,
        np.array(table.loss),
        np.array(table.distance_m),
        np.array(table.position_change_px),
        tuple(table.stages),
        plan,
        crop,
        energy,
        settings,
        interrupted,
    )
