"""Darks: recorded with the beam blocked, believed only when they are dark, and judged by a fit over the exposures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.bench.characterisation import Measured, electrons_per_adu
from app.bench.session import Session, region_of
from app.profile import CameraProfile
from drivers.base import CameraInfo, Cancelled, InstrumentError, LightState
from recon.files.corrections import QUANTISATION_ADU2, summarise_darks
from recon.files.dark_sets import DarkSet, now_text
from recon.files.darks import DarkAccumulator, DarkSummary

BLOCKS = 32
"""The frame's shorter side holds so many blocks; a block's mean is looked at, its extremes left out."""
TRIM = 0.1
SIGMAS = 6.0
EXCESS_ADU = 1.0
"""Structure of a real offset that is not taken for light, digital numbers."""
LEVEL_ADU = 10.0
"""Error of the nominal black level that is not taken for light, digital numbers."""
CHECK_FRAMES = 2


class NotDarkError(InstrumentError):
    """Light reaches the camera although it should not."""

    def __init__(self, message: str):
        super().__init__("darks", message)


@dataclass(frozen=True)
class SensorGuess:
    """What is known of the sensor before it is measured: black level, gain, read noise and dark current."""

    black_level_adu: float
    electrons_per_adu: float
    read_noise_e: float
    dark_current_e_s: float


@dataclass(frozen=True)
class DarkLine:
    """What one exposure's darks say.

    Attributes:
        exposure_s, frames: of what.
        offset_adu, offset_error_adu: mean of the good pixels and its standard error.
        noise_e: rms of a pixel from frame to frame, electrons, quantisation taken off.
        hot_pixels: pixels that are hot, noisy or dead.
    """

    exposure_s: float
    frames: int
    offset_adu: float
    offset_error_adu: float
    noise_e: float
    hot_pixels: int


@dataclass(frozen=True)
class DarkReport:
    """All exposures together.

    Attributes:
        lines: by ascending exposure.
        dark_current_e_s, dark_current_error_e_s: slope of the offset over the exposure; None for a single exposure.
        bias_adu: its intercept.
        read_noise_e: noise at the shortest exposure.
        interrupted: whether exposures are missing because somebody stopped.
    """

    lines: tuple[DarkLine, ...]
    dark_current_e_s: float | None
    dark_current_error_e_s: float | None
    bias_adu: float
    read_noise_e: float
    interrupted: bool


def record_darks(
    session: Session, exposures_s: Sequence[float], frames: int, keep: int, now: float
) -> tuple[DarkSet, DarkReport]:
    """Block the beam, make sure that it is dark, and record `frames` darks of every exposure.

    Ctrl-C ends after the exposures that are complete, and keeps them.

    Args:
        session: an open bench.
        exposures_s: exposures, s.
        frames: darks of each, at least 2.
        keep: raw frames kept of each.
        now: seconds since the epoch, for the record.

    Raises:
        NotDarkError: light reaches the camera.
        LimitError: an exposure that the camera cannot take; checked before the first frame.
        Cancelled: stopped before the first exposure was complete.
    """
    camera = session.devices.camera
    info = camera.info
    guess = sensor_guess(session)
    ordered = sorted(set(exposures_s))
    for exposure in ordered:
        info.exposure_s.require(exposure, "camera", "exposure")
    session.light(LightState.BLOCKED)
    means = {e: session.mean_frame(e, CHECK_FRAMES, 0) for e in {ordered[0], ordered[-1]}}
    require_dark(means, CHECK_FRAMES, guess)
    darks: dict[float, DarkSummary] = {}
    interrupted = False
    number = CHECK_FRAMES
    for exposure in ordered:
        session.course.begin(f"darks of {exposure:g} s", frames)
        accumulator = DarkAccumulator(info.shape, keep)
        try:
            for frame in session.frames(exposure, frames, number):
                accumulator.add(frame.image)
                session.course.advance(accumulator.count)
        except Cancelled:
            if not darks:
                raise
            interrupted = True
            break
        number += frames
        summary = accumulator.summary()
        require_dark({exposure: summary.mean.astype(np.float64)}, frames, guess)
        darks[exposure] = summary
    dark_set = DarkSet(
        model=info.model,
        serial=info.serial,
        gain_db=info.gain_db,
        region=region_of(session.devices),
        electrons_per_adu=guess.electrons_per_adu,
        simulated=session.profile.simulated,
        recorded=now_text(now),
        darks=darks,
        black_level_adu=info.black_level_adu,
        bit_depth=info.bit_depth,
    )
    return dark_set, judge(darks, guess.electrons_per_adu, interrupted)


def sensor_guess(session: Session) -> SensorGuess:
    """From the camera where it knows, else from profile and characterisation."""
    return guess_of(session.devices.camera.info, session.known.camera, session.measured)


def guess_of(info: CameraInfo, camera: CameraProfile, measured: Measured | None) -> SensorGuess:
    """The same for an open camera, what is known of it, and the characterisation where that comes from."""
    gain = electrons_per_adu(measured, info)
    return SensorGuess(info.black_level_adu, gain, camera.read_noise_e, camera.dark_current_e_s)


def require_dark(means_adu: Mapping[float, NDArray[np.float64]], count: int, guess: SensorGuess) -> None:
    """Raise `NotDarkError` unless frames that should be dark are.

    Two tests: no part of the frame is brighter than the rest (a leaking beam is smaller than the frame), and the
    whole frame grows with the exposure no faster than dark current does (a lit room is not).

    Args:
        means_adu: (rows, columns) mean frame by exposure, s.
        count: frames in each mean.
        guess: what the sensor should be like.
    """
    gain = guess.electrons_per_adu
    levels = {}
    for exposure, mean in means_adu.items():
        blocks, pixels = _blocks(mean)
        levels[exposure] = float(np.median(blocks))
        excess = float(blocks.max() - levels[exposure]) * gain
        noise = np.sqrt((guess.read_noise_e**2 + guess.dark_current_e_s * exposure) / (pixels * count))
        allowed = SIGMAS * noise + 2 * guess.dark_current_e_s * exposure + EXCESS_ADU * gain
        if excess > allowed:
            raise NotDarkError(
                f"not dark: at {exposure:g} s the brightest part of the frame is {excess:.3g} electrons a pixel above "
                f"the rest ({excess / exposure:.3g} per second), {allowed:.3g} would be dark; block the beam and repeat"
            )
    longest = max(levels)
    rate = guess.dark_current_e_s * 5
    if len(levels) > 1:
        shortest = min(levels)
        grown = (levels[longest] - levels[shortest]) * gain
        allowed = rate * (longest - shortest) + EXCESS_ADU * gain
        words = f"from {shortest:g} to {longest:g} s a pixel gains {grown:.3g} electrons"
    else:
        grown = (levels[longest] - guess.black_level_adu) * gain
        allowed = rate * longest + max(LEVEL_ADU, 0.25 * guess.black_level_adu) * gain
        words = f"at {longest:g} s a pixel holds {grown:.3g} electrons above the black level"
    if grown > allowed:
        raise NotDarkError(
            f"not dark: {words}, {allowed:.3g} would be dark; block the beam, darken the room, and repeat"
        )


def judge(darks: Mapping[float, DarkSummary], electrons_per_adu: float, interrupted: bool = False) -> DarkReport:
    """Offset, noise and bad pixels of every exposure, and the dark current by a straight line through the offsets."""
    lines = []
    for exposure in sorted(darks):
        dark = darks[exposure]
        _, _, good = summarise_darks(dark.mean, dark.variance, dark.count, electrons_per_adu)
        variance = float(dark.variance[good].mean(dtype=np.float64))
        lines.append(
            DarkLine(
                exposure_s=exposure,
                frames=dark.count,
                offset_adu=float(dark.mean[good].mean(dtype=np.float64)),
                offset_error_adu=float(np.sqrt(max(variance, QUANTISATION_ADU2) / (dark.count * good.sum()))),
                noise_e=float(np.sqrt(max(variance - QUANTISATION_ADU2, 0.0))) * electrons_per_adu,
                hot_pixels=int((~good).sum()),
            )
        )
    current = error = None
    bias = lines[0].offset_adu
    if len(lines) > 1:
        bias, slope, error_adu = straight_line(
            np.array([line.exposure_s for line in lines]),
            np.array([line.offset_adu for line in lines]),
            np.array([line.offset_error_adu for line in lines]),
        )
        current, error = slope * electrons_per_adu, error_adu * electrons_per_adu
    return DarkReport(tuple(lines), current, error, bias, lines[0].noise_e, interrupted)


def straight_line(
    x: NDArray[np.float64], y: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Weighted least squares: intercept, slope, and the slope's standard error, enlarged where the line fits badly."""
    design = np.stack([np.ones_like(x), x], axis=1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    intercept, slope = covariance @ design.T @ (y / error)
    stretch = 1.0
    if len(x) > 2:
        chi2 = float(np.sum(((y - intercept - slope * x) / error) ** 2))
        stretch = max(1.0, float(np.sqrt(chi2 / (len(x) - 2))))
    return float(intercept), float(slope), float(np.sqrt(covariance[1, 1])) * stretch


def _blocks(frame: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Trimmed means of square blocks, and the pixels in each: hot pixels do not count."""
    side = max(2, min(frame.shape) // BLOCKS)
    rows, columns = (n // side for n in frame.shape)
    parts = frame[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
    ordered = np.sort(parts.reshape(rows * columns, side * side), axis=1)
    cut = int(np.ceil(TRIM * side * side))
    kept = ordered[:, cut:-cut] if 2 * cut < side * side else ordered
    return kept.mean(axis=1), kept.shape[1]
