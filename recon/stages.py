"""What a calibration is asked for, and the stages that the geometry and the light make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from recon.dataset import DatasetError, Scan
from recon.limits import MOST_MODES
from recon.propagators import needed_window
from recon.streaming import available_memory

WINDOW_OVER_DIAMETER = 1.7
"""Side of the probe's array over the illumination's diameter: the edge's tail and what diffracts beside it."""
NYQUIST_SHARE = 0.8
"""Highest frequency of a binned grid over that of the light on the lit window's rim; what lies between is faint."""
PAD_FROM = 1.5
"""Needed window over the frame's from which on the early stages are padded too; below it the last stage is enough."""
POLISHED_PIXELS = 2_000_000
"""Pixels of all frames up to which full passes are cheap: a tenth of a second each."""
GRID_BYTES = 40
"""Of each pixel of the object: itself, its gradient and Adam's moments."""
SURE_BYTES = 2e9
"""Memory that is taken without asking whether there is as much."""
SMALLEST_SIDE = 128
"""Pixels of a binned frame below which binning saves nothing."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        probe_diameter_m: expected diameter of the illumination; None starts from the frames' mean (full-frame probe).
        position_prior_m: standard deviation of a stage position about the fitted affine map, per axis.
        flux_prior: standard deviation of a frame's flux over the common one, relative; None takes it as constant.
        background_prior: that of a uniform background, in units of the mean signal of a pixel; None takes it as zero.
        modes: mutually incoherent modes of the probe.
        warm_epochs: amplitude loss, probe, object and empty beam only.
        joint_epochs: amplitude loss, everything, on the coarsest pixels of the lit window.
        refine_epochs: the same on each finer level.
        full_epochs: likelihood, everything, on the full frame.
        polish_epochs: full passes downhill (`recon.polish`) at the end, at most; small scans in the near field only.
        batch: frames per step; None takes 4, or less for scans of less than 96 frames. On a GPU too: small batches need
            fewer epochs, and what larger ones would save in launches CUDA graphs do.
        refine_distance, refine_positions: what is free beside probe and object.
        coarsest: largest binning; 1 works on the camera's pixels from the start.
        lit_energy: share of the measured light that the window of all stages but the last must hold.
        object_rate, probe_rate, distance_rate_m, position_rate_px: Adam's step sizes at the start of the joint stage;
            fields are scaled to maximum one and positions counted in pixels of the level, so that the same steps suit
            every brightness, pitch and frame.
        loss_tolerance, distance_tolerance_m, position_tolerance_px: a stage has converged when an epoch changes less
            than that: loss relative, positions rms in camera pixels.
        seed: order of the frames.
    """

    probe_diameter_m: float | None = None
    position_prior_m: float = 5e-6
    flux_prior: float | None = None
    background_prior: float | None = None
    modes: int = 1
    warm_epochs: int = 4
    joint_epochs: int = 32
    refine_epochs: int = 8
    full_epochs: int = 10
    polish_epochs: int = 60
    batch: int | None = None
    refine_distance: bool = True
    refine_positions: bool = True
    coarsest: int = 4
    lit_energy: float = 0.99
    object_rate: float = 0.06
    probe_rate: float = 0.02
    distance_rate_m: float = 1e-4
    position_rate_px: float = 0.05
    loss_tolerance: float = 1e-3
    distance_tolerance_m: float = 1e-6
    position_tolerance_px: float = 2e-3
    seed: int = 0

    def check(self, data: Scan) -> None:
        """Raises `DatasetError` for what cannot be found in these frames, before anything is computed."""
        if not len(data):
            raise DatasetError(f"{data.name}: holds no frames to calibrate from; is the scan complete?")
        g = data.geometry
        pixel, field = g.object_pixel_m, min(g.shape) * g.object_pixel_m
        if self.probe_diameter_m is not None and not pixel < self.probe_diameter_m <= field:
            raise DatasetError(
                f"{data.name}: a probe of {self.probe_diameter_m:.6g} m is outside {pixel:.4g} .. {field:.4g} m, from "
                f"a pixel on the object to the whole frame of {min(g.shape)}; correct --probe-diameter or --pixel-size"
            )
        if not 1 <= self.modes <= MOST_MODES:
            raise DatasetError(f"{data.name}: {self.modes} modes of the probe; there can be 1 to {MOST_MODES}")
        if self.batch is not None and not 1 <= self.batch <= len(data):
            raise DatasetError(f"{data.name}: steps of {self.batch} frames; the scan has {len(data)}, lower --batch")
        span = data.positions_m.max(0) - data.positions_m.min(0)
        side = 2 * float(np.abs(data.positions_m).max()) / pixel + min(g.shape)
        needed = GRID_BYTES * side**2
        if needed > SURE_BYTES and needed > (free := available_memory()):
            raise DatasetError(
                f"{data.name}: positions over {span[0]:.4g} x {span[1]:.4g} m at {pixel:.4g} m a pixel make an object "
                f"of {side:.4g} x {side:.4g} pixels, {needed / 1e9:.3g} GB where {free / 1e9:.3g} GB are free; are the "
                "positions' unit and the pixel size right?"
            )


@dataclass(frozen=True)
class Stage:
    """One stretch of a calibration.

    Attributes:
        name: warm, joint, refine, full or polish.
        binning: camera pixels per pixel of this stage, each way.
        side: rows and columns of the frame's window, in camera pixels.
        window: side of the probe's array, in pixels of this stage.
        padded: whether the transformed window is made as wide as the geometry demands.
        loss: "amplitude" or "mixed".
        epochs: at most.
        speed: step sizes over those of the settings.
    """

    name: str
    binning: int
    side: tuple[int, int]
    window: int
    padded: bool
    loss: str
    epochs: int
    speed: float

    @property
    def pixels(self) -> int:
        """Of a frame as this stage takes it: what an epoch costs grows with them."""
        return self.side[0] * self.side[1] // self.binning**2


def stages_of(data: Scan, settings: CalibrationSettings, crop: int) -> list[Stage]:
    """The plan of a calibration: coarse before fine, as the geometry and the light's window `crop` allow."""
    g, s = data.geometry, settings
    whole = g.shape
    if g.far_field:
        everything = (whole, min(whole), False)
        plan = [("warm", 1, *everything, "amplitude", s.warm_epochs, 1.0)]
        plan += [("joint", 1, *everything, "amplitude", s.joint_epochs, 1.0)]
        plan += [("full", 1, *everything, "mixed", s.full_epochs, 0.1)]
        return [Stage(*stage) for stage in plan if stage[6]]

    def window(binning: int, side: int) -> int:
        if s.probe_diameter_m is None:
            return side // binning
        pixels = WINDOW_OVER_DIAMETER * s.probe_diameter_m / (binning * g.pixel_size_m)
        return min(side // binning, 8 * math.ceil(pixels / 8))

    levels = [1]
    if s.probe_diameter_m is not None:
        rim = (crop * g.pixel_size_m + s.probe_diameter_m) / (2 * g.wavelength_m * g.distance_m)
        for binning in (2, 4, 8):
            nyquist = 1 / (2 * binning * g.pixel_size_m)
            if binning <= s.coarsest and nyquist >= NYQUIST_SHARE * rim and crop // binning >= SMALLEST_SIDE:
                levels.insert(0, binning)
    plan = []
    for level in levels:
        side = crop // (2 * level) * (2 * level)
        source, pixel = window(level, side), level * g.pixel_size_m
        needed = needed_window(side // level, source, pixel, g.wavelength_m, g.distance_m)
        place = (level, (side, side), source, needed > PAD_FROM * (side // level), "amplitude")
        if level == levels[0]:
            plan += [("warm", *place, s.warm_epochs, 1.0), ("joint", *place, s.joint_epochs, 1.0)]
        else:
            plan += [("refine", *place, s.refine_epochs, 0.25)]
    last = (1, whole, window(1, min(whole)), True, "mixed")
    plan += [("full", *last, s.full_epochs, 0.2)]
    if s.full_epochs and len(data) * whole[0] * whole[1] <= POLISHED_PIXELS:
        plan += [("polish", *last, s.polish_epochs, 1.0)]
    return [Stage(*stage) for stage in plan if stage[6]]


def rates_of(s: CalibrationSettings, stage: Stage, decay: float, pixel_m: float, count: int) -> dict[str, float]:
    """Step sizes of an epoch by group; what is not named stays as it is."""
    factor = stage.speed * decay
    values = {"object": factor * s.object_rate, "probe": factor * s.probe_rate}
    if stage.name == "warm":
        return values
    if s.refine_distance:  # which has no gradient in the far field
        values["offset_m"] = factor * s.distance_rate_m
    if s.refine_positions and count > 2:
        rate = factor * s.position_rate_px
        values |= {"affine": 2 * rate, "deviation": min(rate, s.position_prior_m / pixel_m)}
    if s.flux_prior is not None:
        values["log_gain"] = 0.1 * factor * s.flux_prior
    if s.background_prior is not None:
        values["background"] = 0.1 * factor * s.background_prior
    return values


def with_epochs(data: Scan, settings: CalibrationSettings, crop: int, epochs: int) -> CalibrationSettings:
    """The settings with so many epochs in all, at most: the joint stage takes what is more, or all stages less.

    A plan that ends with the joint stage keeps the warm one as it is, up to half of all epochs.
    """
    stages = stages_of(data, settings, crop)
    others = sum(stage.epochs for stage in stages if stage.name != "joint")
    short = stages[-1].name == "joint" and epochs >= 2 * others
    if short or epochs >= others + settings.joint_epochs:
        return replace(settings, joint_epochs=epochs - others)
    share = epochs / (others + settings.joint_epochs)
    shorter = replace(
        settings,
        warm_epochs=int(share * settings.warm_epochs),
        refine_epochs=int(share * settings.refine_epochs),
        full_epochs=int(share * settings.full_epochs),
        polish_epochs=int(share * settings.polish_epochs),
    )
    rest = sum(stage.epochs for stage in stages_of(data, shorter, crop) if stage.name != "joint")
    return replace(shorter, joint_epochs=epochs - rest)
