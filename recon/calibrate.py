"""Calibration: probe, object, distance and positions together, by automatic differentiation of one forward model.

What is free, and what pins it (`gauge freedoms` of the design): the object's pixels; the probe, whose energy the empty
beam fixes where there is one; the distance; rotation, shear and anisotropy of the positions, plus a small deviation
each under the stage's prior. The positions' mean and isotropic scale stay with the stage, because distance and scale
together change nothing that a camera sees.

The work runs in stages on one set of unknowns: a warm start with the variance-stabilised amplitude loss on the window
that holds the light, then everything with the likelihood, then a few epochs on the full frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.model import ForwardModel, object_size
from recon.noise import Loss, MixedGaussian, StabilisedAmplitude, pixel_weights


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        probe_diameter_m: expected diameter of the illumination; None starts from the frames' mean (full-frame probe).
        position_prior_m: standard deviation of a stage position about the fitted affine map, per axis.
        warm_epochs: amplitude loss, probe, object and empty beam only.
        joint_epochs: likelihood, everything, on the lit window.
        full_epochs: likelihood, everything, on the full frame.
        batch: frames per step.
        refine_distance, refine_positions: what is free beside probe and object.
        lit_energy: share of the measured light that the window of the first two stages must hold.
        object_rate, probe_rate, distance_rate_m, position_rate_px: Adam's step sizes at the start of the joint stage;
            fields are scaled to maximum one, so that the same steps suit every brightness.
        seed: order of the frames.
    """

    probe_diameter_m: float | None = None
    position_prior_m: float = 5e-6
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

    @property
    def epochs(self) -> int:
        return self.warm_epochs + self.joint_epochs + self.full_epochs


@dataclass(frozen=True)
class Illumination:
    """What a calibration hands to every later reconstruction. It holds no object: a latent method may never see one.

    Attributes:
        probe: (K, K) complex64, square root of electrons per pixel and second.
        geometry: with the calibrated distance.
        positions_m: (N, 2) corrected positions of the calibration scan's points, (y, x).
        indices: (N,) the points' indices in the plan.
    """

    probe: NDArray[np.complex64]
    geometry: Geometry
    positions_m: NDArray[np.float64]
    indices: NDArray[np.int64]

    @property
    def electrons_per_second(self) -> float:
        """Flux of the illumination in detected electrons: photons x quantum efficiency."""
        return float((np.abs(self.probe.astype(np.complex128)) ** 2).sum())

    def positions_of(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Corrected positions (n, 2) of some of the points; raises `DatasetError` for a point that was not scanned."""
        known = {int(index): k for k, index in enumerate(self.indices)}
        missing = [int(i) for i in indices if int(i) not in known]
        if missing:
            raise DatasetError(f"calibration: no corrected position for point {missing[0]}; calibrate all of the scan")
        return self.positions_m[[known[int(i)] for i in indices]]


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


class Unknowns(nn.Module):
    """Everything that calibration searches, in units in which one Adam step suits all.

    Probe and object are scaled to about one, the distance offset is in metres, positions in camera pixels.
    """

    def __init__(self, probe: Tensor, obj: Tensor, nominal_px: Tensor):
        super().__init__()
        self.probe_pairs = nn.Parameter(torch.view_as_real(probe.to(torch.complex64)).clone())
        self.object_pairs = nn.Parameter(torch.view_as_real(obj.to(torch.complex64)).clone())
        self.offset_m = nn.Parameter(torch.zeros((), dtype=torch.float32))
        # Rotation, shear and anisotropy as the position error (px) that they make at the scan's rms radius.
        self.affine = nn.Parameter(torch.zeros(3))
        self.deviation = nn.Parameter(torch.zeros_like(nominal_px))
        self.nominal_px: Tensor
        self.centred: Tensor
        self.register_buffer("nominal_px", nominal_px)
        centred = nominal_px - nominal_px.mean(0)
        self.radius = float(centred.square().sum(1).mean().sqrt().clamp_min(1.0))
        self.register_buffer("centred", centred / self.radius)

    @property
    def probe(self) -> Tensor:
        return torch.view_as_complex(self.probe_pairs)

    @property
    def object(self) -> Tensor:
        return torch.view_as_complex(self.object_pairs)

    def positions_px(self) -> Tensor:
        """(N, 2) positions: nominal, plus a traceless linear map, plus deviations without mean.

        Traceless keeps the isotropic scale with the stage, and the deviations' mean is a joint shift of object and
        positions; both are gauges.
        """
        rotation, shear, anisotropy = self.affine
        y, x = self.centred[:, 0], self.centred[:, 1]
        linear = torch.stack([anisotropy * y + (shear - rotation) * x, (shear + rotation) * y - anisotropy * x], dim=1)
        return self.nominal_px + linear + (self.deviation - self.deviation.mean(0))


def soft_disc(window: int, diameter_px: float, edge_px: float = 1.5) -> NDArray[np.complex64]:
    """A disc of amplitude one with a soft edge, centred at window//2: (window, window) complex64."""
    axis = np.arange(window) - window // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    return (0.5 * (1 - np.tanh((radius - diameter_px / 2) / edge_px))).astype(np.complex64)


def lit_window(data: Ptychogram, energy: float) -> tuple[int, float]:
    """Side of the smallest centred square (a multiple of 32 px) with that share of all light, and its share.

    Light is what stands above the dark: frames are summed first, so that read noise averages out.
    """
    total = np.where(data.mask, data.frames.sum(0, dtype=np.float64), 0.0)
    rows, columns = data.geometry.shape
    smallest = min(rows, columns)
    whole = max(float(total.sum()), 1e-30)
    for side in range(64, smallest + 1, 32):
        top, left = rows // 2 - side // 2, columns // 2 - side // 2
        share = float(total[top : top + side, left : left + side].sum()) / whole
        if share >= energy:
            return side, share
    return smallest, 1.0


def _start(data: Ptychogram, settings: CalibrationSettings, window: int, size: int) -> tuple[Tensor, Tensor, float]:
    """Probe and object to begin with, both of about unit maximum, and the flux scale (electrons per pixel second)."""
    pixel = data.geometry.pixel_size_m
    seconds = float(np.median(data.exposures_s))
    good = data.mask if data.saturated is None else data.mask & ~data.saturated
    brightest = float(np.where(good, data.frames, 0).sum((1, 2)).max())
    if not brightest > 0:
        raise DatasetError(f"{data.name}: the calibration frames hold no light above the dark; is the beam blocked?")
    if settings.probe_diameter_m is None:
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
    """Find probe, object, distance and positions from a bright scan.

    Args:
        data: the scan; its positions and distance are the nominal ones. An empty-beam frame pins the probe's energy.
        settings: how.
        device: where torch works.
        report: called after every epoch.
        stop: asked after every epoch; true ends early with what has been found so far.

    Raises:
        DatasetError: the frames hold no light.
    """
    pixel = data.geometry.pixel_size_m
    nominal = torch.from_numpy(data.positions_m / pixel).float()
    smallest = min(data.geometry.shape)
    if settings.probe_diameter_m is None:
        window = smallest
    else:
        window = min(smallest, 16 * math.ceil(1.7 * settings.probe_diameter_m / pixel / 16))
    crop, energy = lit_window(data, settings.lit_energy)
    crop = max(crop, window)
    probe, obj, scale = _start(data, settings, window, object_size(nominal, window))
    unknowns = Unknowns(probe, obj, nominal).to(device)
    course = _Course()
    schedule = (
        ("warm", settings.warm_epochs, crop, StabilisedAmplitude()),
        ("joint", settings.joint_epochs, crop, MixedGaussian()),
        ("full", settings.full_epochs, smallest, MixedGaussian()),
    )
    interrupted = False
    for stage, epochs, side, loss in schedule:
        if epochs == 0 or interrupted:
            continue
        part = data if (side, side) == data.geometry.shape else data.crop((side, side))
        fit = _Fit(part, unknowns, scale, window, settings, device)
        for value in fit.epochs(stage, epochs, loss):
            distance = data.geometry.distance_m + float(unknowns.offset_m.detach())
            course.add(stage, value, distance)
            report(EpochReport(len(course.loss), settings.epochs, stage, value, distance))
            if stop():
                interrupted = True
                break
    result = _finish(data, unknowns, scale, course, crop, energy, interrupted)
    return replace(result, settings=settings)


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


@dataclass
class _Fit:
    """One stage's data on the device, and the loop over it."""

    data: Ptychogram
    unknowns: Unknowns
    scale: float
    window: int
    settings: CalibrationSettings
    device: str
    frames: Tensor = field(init=False)

    def __post_init__(self) -> None:
        data = self.data
        self.model = ForwardModel.build(data.geometry, self.window, self.device)
        self.frames = torch.from_numpy(data.frames).to(self.device)
        self.variance = torch.from_numpy(data.dark_variance).to(self.device)
        self.mask = torch.from_numpy(data.mask).to(self.device)
        self.saturated = None if data.saturated is None else torch.from_numpy(data.saturated).to(self.device)
        self.brightness = torch.from_numpy(self.scale * data.exposures_s).float().to(self.device)
        self.empty = None
        if data.empty is not None and data.empty_exposure_s is not None:
            self.empty = torch.from_numpy(data.empty).to(self.device)
            self.empty_brightness = self.scale * data.empty_exposure_s

    def _groups(self, stage: str) -> list[dict[str, Any]]:
        s, u = self.settings, self.unknowns
        pixel = self.data.geometry.pixel_size_m
        # Later stages start closer to the solution: smaller steps keep what the earlier ones have found.
        factor = {"warm": 1.0, "joint": 1.0, "full": 0.25}[stage]
        groups = [
            {"params": [u.object_pairs], "lr": factor * s.object_rate * (2.0 if stage == "warm" else 1.0)},
            {"params": [u.probe_pairs], "lr": factor * s.probe_rate * (2.0 if stage == "warm" else 1.0)},
        ]
        if stage != "warm":
            if s.refine_distance:
                groups.append({"params": [u.offset_m], "lr": factor * s.distance_rate_m})
            if s.refine_positions and len(self.data) > 2:
                rate = factor * s.position_rate_px
                groups.append({"params": [u.affine], "lr": rate * 2})
                groups.append({"params": [u.deviation], "lr": min(rate, s.position_prior_m / pixel)})
        return groups

    def _batch_loss(self, batch: Tensor, loss: Loss) -> Tensor:
        u = self.unknowns
        chosen = batch.tolist()
        expected = self.model.intensities(u.probe, u.object, u.positions_px()[batch], u.offset_m)
        expected = expected * self.brightness[batch, None, None]
        saturated = None if self.saturated is None else self.saturated[chosen]
        value = loss(expected, self.frames[chosen], self.variance, pixel_weights(self.mask, saturated))
        share = len(chosen) / len(self.data)
        if self.empty is not None:
            beam = self.model.empty_intensity(u.probe, u.offset_m) * self.empty_brightness
            value = value + share * loss(beam, self.empty, self.variance, self.mask.float())
        prior_px = self.settings.position_prior_m / self.data.geometry.pixel_size_m
        return value + share * (u.deviation / prior_px).square().sum()

    def epochs(self, stage: str, count: int, loss: Loss) -> Iterator[float]:
        """Run epochs one by one, yielding each one's mean loss per pixel and frame."""
        groups = self._groups(stage)
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        start = [group["lr"] for group in groups]
        generator = torch.Generator().manual_seed(self.settings.seed)
        for epoch in range(count):
            # Cosine decay to 5 %: large steps find the solution, small ones average the noise of the batches.
            decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * epoch / max(1, count)))
            for group, rate in zip(optimiser.param_groups, start, strict=True):
                group["lr"] = rate * (decay if stage != "warm" else 1.0)
            total = 0.0
            for batch in torch.randperm(len(self.data), generator=generator).split(self.settings.batch):
                optimiser.zero_grad(set_to_none=True)
                value = self._batch_loss(batch, loss)
                value.backward()
                optimiser.step()
                total += float(value.detach())
            yield total / self.data.frames.size


def remove_ramp(obj: NDArray, probe: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Take the linear phase and the global phase off an object and give the probe the opposite ramp.

    The ramp is the weighted mean phase step between neighbouring pixels; `weight` (M, M) says where the object is
    known. Intensities change by nothing but a shift-dependent global phase, which no camera sees.
    """
    lit = obj * np.sqrt(weight)
    steps = [np.angle((lit[1:] * lit[:-1].conj()).sum()), np.angle((lit[:, 1:] * lit[:, :-1].conj()).sum())]
    m, k = np.arange(len(obj)) - len(obj) // 2, np.arange(len(probe)) - len(probe) // 2
    obj = obj * np.exp(-1j * (steps[0] * m[:, None] + steps[1] * m[None, :]))
    probe = probe * np.exp(1j * (steps[0] * k[:, None] + steps[1] * k[None, :]))
    phase = np.angle((obj * weight * np.abs(obj)).sum())
    return obj * np.exp(-1j * phase), probe * np.exp(1j * phase)


def illuminated(probe: NDArray, positions_px: NDArray, size: int, threshold: float = 0.05) -> NDArray[np.bool_]:
    """The lit mask (size, size): union over the positions of |P|^2 > `threshold` of its peak."""
    lit = np.abs(probe) ** 2 > threshold * (np.abs(probe) ** 2).max()
    mask = np.zeros((size, size), bool)
    window = len(probe)
    for y, x in np.round(positions_px).astype(int):
        top, left = y + size // 2 - window // 2, x + size // 2 - window // 2
        mask[top : top + window, left : left + window] |= lit
    return mask


def _finish(
    data: Ptychogram, unknowns: Unknowns, scale: float, course: _Course, crop: int, energy: float, interrupted: bool
) -> Calibration:
    probe = unknowns.probe.detach().cpu().numpy().astype(np.complex128) * math.sqrt(scale)
    obj = unknowns.object.detach().cpu().numpy().astype(np.complex128)
    positions = unknowns.positions_px().detach().cpu().numpy().astype(np.float64)
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
