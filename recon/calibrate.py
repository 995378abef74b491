"""Calibration: probe, object, distance and positions together, from the gradients of one forward model.

What is free, and what pins it (`gauge freedoms` of the design): the object's pixels; the probe, whose energy the empty
beam fixes where there is one; the distance; rotation, shear and anisotropy of the positions, plus a small deviation
each under the stage's prior. The positions' mean and isotropic scale stay with the stage, because distance and scale
together change nothing that a camera sees.

The work runs in stages on one set of unknowns: a warm start with the variance-stabilised amplitude loss on the window
that holds the light, then everything with the likelihood, then a few epochs on the full frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.fit import Fit, Priors
from recon.illumination import lit_points, Illumination, illuminated, lit_window, remove_ramp, soft_disc
from recon.levels import binned, finer
from recon.model import object_size
from recon.noise import MixedGaussian, StabilisedAmplitude
from recon.propagators import NearField
from recon.unknowns import Unknowns


@dataclass(frozen=True)
class CalibrationSettings:
    probe_diameter_m: float | None = None
    position_prior_m: float = 5e-6
    flux_prior: float | None = None
    background_prior: float | None = None
    warm_epochs: int = 10
    joint_epochs: int = 30
    full_epochs: int = 4
    batch: int = 4
    refine_distance: bool = True
    refine_positions: bool = True
    lit_energy: float = 0.99
    object_rate: float = 0.03
    probe_rate: float = 0.01
    distance_rate_m: float = 4e-5
    position_rate_px: float = 0.05
    seed: int = 0
    joint_loss: str = "mixed"
    pad_joint: bool = False
    pad_full: bool = True
    empty_every: int = 4
    window: float = 1.7
    plan: tuple = ()

    @property
    def epochs(self) -> int:
        return sum(st[2] for st in self.plan)


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        illumination: probe, distance, positions.
        object: (M, M) complex64 on the camera's pitch, index M//2 at the origin; ramp and scalar gauge removed.
        loss: (epochs,) mean loss per pixel and frame of each epoch; comparable within a stage only.
        distance_m: (epochs,) distance after each epoch.
        stages: name of the stage of each epoch.
        window: side of the lit window in pixels; energy: share of the light that it holds.
        settings: as asked.
    """

    illumination: Illumination
    object: NDArray[np.complex64]
    loss: NDArray[np.float64]
    distance_m: NDArray[np.float64]
    stages: tuple[str, ...]
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
            "electrons_per_second": self.illumination.electrons_per_second,
            "interrupted": self.interrupted,
            "settings": asdict(self.settings),
        }


@dataclass(frozen=True)
class EpochReport:
    """Progress: which epoch of how many, in which stage, with which loss and distance."""

    epoch: int
    epochs: int
    stage: str
    loss: float
    distance_m: float
    unknowns: Unknowns | None = None
    scale: float = 1.0


def _start(data: Ptychogram, settings: CalibrationSettings, window: int, size: int) -> tuple[Tensor, Tensor, float]:
    """Probe and object to begin with, both of about unit maximum, and the flux scale (electrons per pixel second)."""
    pixel = data.geometry.pixel_size_m
    seconds = float(np.median(data.exposures_s))
    good = data.mask if data.saturated is None else data.mask & ~data.saturated
    brightest = float(np.where(good, data.frames, 0).sum((1, 2)).max())
    if not brightest > 0:
        raise DatasetError(f"{data.name}: the calibration frames hold no light above the dark; is the beam blocked?")
    if settings.probe_diameter_m is None:
        from recon.model import ForwardModel
        mean = np.sqrt(np.maximum(np.where(data.mask, data.frames, 0).mean(0), 0))
        field_at_camera = torch.from_numpy(mean.astype(np.complex64))
        model = ForwardModel.build(data.geometry, min(data.geometry.shape))
        back = torch.fft.ifft2(torch.fft.fft2(field_at_camera) * model.propagator.transfer.conj())
        top, left = (n // 2 - window // 2 for n in data.geometry.shape)
        probe = back[top : top + window, left : left + window].numpy()
    else:
        probe = soft_disc(window, settings.probe_diameter_m / pixel)
    if data.empty is not None and data.empty_exposure_s is not None:
        flux = float(np.where(data.mask, data.empty, 0).sum()) / data.empty_exposure_s
    else:
        # Without an empty beam the flux is relative: the brightest frame counts as full transmission.
        flux = brightest / seconds
    peak = float(np.percentile(np.abs(probe), 99.5))
    probe = probe / peak
    scale = flux / float((np.abs(probe) ** 2).sum())
    obj = np.full((size, size), 0.5 if data.empty is not None else 1.0, np.complex64)
    return torch.from_numpy(probe), torch.from_numpy(obj), scale


def calibrate(
    data: Ptychogram,
    settings: CalibrationSettings,
    *,
    device: str = "cpu",
    report: Callable[[EpochReport], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Calibration:
    pixel = data.geometry.pixel_size_m
    smallest = min(data.geometry.shape)
    crop, energy = lit_window(data, settings.lit_energy)
    unknowns, scale, level = None, 1.0, None
    course = _Course()
    interrupted = False
    total = sum(st[2] for st in settings.plan)
    for stage, factor, epochs, side, loss, padded, speed, anneal in settings.plan:
        if epochs == 0 or interrupted:
            continue
        side = crop if side == "lit" else smallest
        if factor > 1:
            step = 2 * factor
            side = side // step * step
        coarse_pixel = factor * pixel
        if settings.probe_diameter_m is None:
            window = side // factor
        else:
            window = min(side // factor, 8 * math.ceil(settings.window * settings.probe_diameter_m / coarse_pixel / 8))
        part = data if (side, side) == data.geometry.shape else data.crop((side, side))
        part = binned(part, factor)
        if unknowns is None:
            _, first, point = np.unique(data.indices, return_index=True, return_inverse=True)
            nominal = torch.from_numpy(data.positions_m[first] / coarse_pixel).float()
            probe, obj, scale = _start(part, settings, window, object_size(nominal, window, 16))
            unknowns = Unknowns(obj, probe[None], nominal, torch.from_numpy(point), torch.from_numpy(lit_points(data))).to(device)
        elif factor != level:
            unknowns, ratio = finer(unknowns, level // factor, window, 16)
            scale *= ratio
        level = factor; unknowns.lev = factor
        optics = NearField.build(part.geometry, window, padded=padded, device=device)
        fit = Fit(part, unknowns, optics, MixedGaussian() if loss == "mixed" else StabilisedAmplitude(), scale, Priors(settings.position_prior_m / coarse_pixel, settings.flux_prior, settings.background_prior),
            batch=settings.batch, seed=settings.seed, empty_every=settings.empty_every)
        for epoch in range(epochs):
            fit.rates(_rates(settings, stage, epoch, epochs, coarse_pixel, len(data), speed, anneal))
            value = fit.epoch(epoch)
            distance = data.geometry.distance_m + float(unknowns.offset_m.detach())
            course.add(stage, value, distance)
            report(EpochReport(len(course.loss), total, stage, value, distance, unknowns, scale))
            if stop():
                interrupted = True
                break
    result = _finish(data, unknowns, scale, course, crop, energy, interrupted)
    return replace(result, settings=settings)

def _rates(s, stage, epoch, epochs, pixel, count, speed, anneal):
    factor = speed
    t = epoch / max(1.0, epochs)
    if anneal == 1: factor *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * t))
    elif anneal: factor *= anneal ** t
    values = {"object": factor * s.object_rate, "probe": factor * s.probe_rate}
    if stage == "warm":
        return values
    if s.refine_distance:
        values["offset_m"] = factor * s.distance_rate_m
    if s.refine_positions and count > 2:
        values["affine"] = factor * 2 * s.position_rate_px
        values["deviation"] = min(factor * s.position_rate_px, s.position_prior_m / pixel)
    if s.flux_prior is not None:
        values["log_gain"] = factor * 0.1 * s.flux_prior
    if s.background_prior is not None:
        values["background"] = factor * 0.02 * s.background_prior
    return values


@dataclass
class _Course:
    """What every epoch has shown."""

    stages: list[str] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    distance_m: list[float] = field(default_factory=list)

    def add(self, stage: str, loss: float, distance_m: float) -> None:
        self.stages.append(stage)
        self.loss.append(loss)
        self.distance_m.append(distance_m)


def _finish(
    data: Ptychogram, unknowns: Unknowns, scale: float, course: _Course, crop: int, energy: float, interrupted: bool
) -> Calibration:
    probe = unknowns.probe[0].detach().cpu().numpy().astype(np.complex128) * math.sqrt(scale)
    obj = unknowns.object.detach().cpu().numpy().astype(np.complex128)
    assert obj.shape
    positions = unknowns.positions_px()[unknowns.point].detach().cpu().numpy().astype(np.float64)
    weight = illuminated(probe, positions, len(obj)).astype(float)
    obj, probe = remove_ramp(obj, probe, weight)
    if data.empty is None:
        # Relative flux: the object's brightest lit amplitude counts as one.
        top = float(np.percentile(np.abs(obj)[weight > 0], 99))
        obj, probe = obj / top, probe * top
    pixel = data.geometry.pixel_size_m
    geometry = replace(data.geometry, distance_m=course.distance_m[-1])
    illumination = Illumination(probe.astype(np.complex64), geometry, positions * pixel, data.indices.copy())
    return Calibration(
        illumination,
        obj.astype(np.complex64),
        np.array(course.loss),
        np.array(course.distance_m),
        tuple(course.stages),
        crop,
        energy,
        CalibrationSettings(),
        interrupted,
    )
