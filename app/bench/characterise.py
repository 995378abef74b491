"""The measurement behind `ptychoscope characterise`: which frames are taken, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from app.bench import transfer
from app.bench.characterisation import MeasuredCamera
from app.bench.darks import CHECK_FRAMES, require_dark, sensor_guess
from app.bench.exposing import find_exposure
from app.bench.session import Session
from drivers.base import InstrumentError, LightState
from recon.files.corrections import summarise_darks
from recon.files.darks import DarkAccumulator

DARKS = 32
LONG_DARKS = 12
LONG_DARK_S = 0.5
TEMPLATE_FRAMES = 8
LADDER = 16
PASSES = 2
FRAMES = 4
SHORT_S = 1e-3
SHORT_FRAMES = 8
TOP = 0.8
"""Brightest pixels of the longest exposure, of the converter's range."""
OVER = (1.6, 2.8)
"""Overexposures that look for the full well."""
MIN_PIXELS = 200


class CharacteriseError(InstrumentError):
    """The camera cannot be characterised in this light."""

    def __init__(self, message: str):
        super().__init__("characterise", message)


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        measured: for the file.
        points: of the photon transfer.
        fit: the line through them.
        line: signal against exposure.
        frames: taken.
    """

    measured: MeasuredCamera
    points: list[transfer.Point]
    fit: transfer.Transfer
    line: transfer.Linearity
    frames: int


@dataclass(frozen=True)
class _Dark:
    bias: NDArray[np.float64]
    good: NDArray[np.bool_]
    noise_adu2: float
    noise_error_adu2: float
    current_adu_s: float
    current_error_adu_s: float


def characterise(session: Session, now: float) -> Result:
    """Darks, then the beam at a ladder of exposures, up and down, so that a slow drift of the source cancels.

    Nothing moves. The sample need not be out of the beam, but it must stand still.

    Raises:
        LightError: too little or too much light.
        CharacteriseError: too few lit pixels.
        NotDarkError: light reaches the camera although the beam should be blocked.
    """
    camera = session.devices.camera
    info, guess = camera.info, sensor_guess(session)
    limits = info.exposure_s
    dark, number = _darks(session, limits.low, min(LONG_DARK_S, limits.high))
    session.light(LightState.OPEN)
    scale = info.saturation_adu - float(np.median(dark.bias))
    top, number = find_exposure(session, dark.bias, TOP, number)
    session.course.begin("the beam's shape", TEMPLATE_FRAMES)
    mean = session.mean_frame(top, TEMPLATE_FRAMES, number)
    number += TEMPLATE_FRAMES
    shape = transfer.Template.build(
        mean - dark.current_adu_s * top, dark.bias, dark.good, dark.noise_adu2, guess.electrons_per_adu
    )
    if len(shape.signal) < MIN_PIXELS:
        raise CharacteriseError(
            f"only {len(shape.signal)} pixels are lit, at least {MIN_PIXELS} are needed; widen the beam or the region"
        )
    ladder = np.geomspace(limits.low, top, LADDER)
    order = [t for turn in range(PASSES) for t in (ladder if turn % 2 == 0 else ladder[::-1])]
    counts = [SHORT_FRAMES if t < SHORT_S else FRAMES for t in order]
    session.course.begin("exposures up and down", sum(counts))
    found: dict[tuple[float, int], list[transfer.Point]] = {}
    times, amplitudes = [], []
    done = 0
    for asked, count in zip(order, counts, strict=True):
        previous = None
        for exposure in session.frames(float(asked), count, number):
            reported = exposure.exposure_s
            amplitude = shape.amplitude(exposure.image) - dark.current_adu_s * reported * shape.dark_share
            times.append(reported)
            amplitudes.append(amplitude)
            if previous is None:
                previous = exposure.image
            else:
                pairs = transfer.pair_points(shape, reported, previous, exposure.image, guess.electrons_per_adu)
                for k, point in enumerate(pairs):
                    found.setdefault((reported, k), []).append(point)
                previous = None
            done += 1
            session.course.advance(done)
        number += count
    # The dark current stays in: its electrons count in mean and variance as the light's do.
    points = [transfer.pooled(members) for members in found.values()]
    try:
        fit = transfer.fit_transfer(points, dark.noise_adu2, scale)
    except ValueError as error:
        raise CharacteriseError(f"{error}; change the light's power") from None
    gain = fit.electrons_per_adu
    values = np.array(amplitudes)
    variances = np.array([shape.amplitude_variance(a, dark.noise_adu2, gain) for a in values])
    line = transfer.fit_exposures(np.array(times), values, variances)
    full_adu, number = _full_well(session, shape, line, scale, info.saturation_adu, number)
    read = np.sqrt(max(dark.noise_adu2 - transfer.QUANTISATION_ADU2, 0.0))
    read_error = dark.noise_error_adu2 / (2 * read) if read > 0 else np.sqrt(dark.noise_error_adu2)
    bias = float(np.median(dark.bias))
    relative = fit.electrons_per_adu_error / gain
    current = dark.current_adu_s * gain
    measured = MeasuredCamera(
        date=datetime.fromtimestamp(now, UTC).replace(microsecond=0),
        model=info.model,
        serial=info.serial,
        gain_db=info.gain_db,
        black_level_adu=info.black_level_adu,
        bit_depth=info.bit_depth,
        electrons_per_adu=gain,
        electrons_per_adu_error=fit.electrons_per_adu_error,
        read_noise_e=float(read * gain),
        read_noise_e_error=float(np.hypot(read_error * gain, read * gain * relative)),
        offset_adu=float(dark.bias[dark.good].mean()),
        exposure_offset_s=line.offset_s,
        exposure_offset_error_s=line.offset_error_s,
        linearity=0.0 if np.isnan(line.worst) else line.worst,
        dark_current_e_s=current if dark.current_adu_s > 3 * dark.current_error_adu_s else None,
        full_well_e=None if full_adu is None else (full_adu - bias) * gain,
    )
    return Result(measured, points, fit, line, number)


def _darks(session: Session, short_s: float, long_s: float) -> tuple[_Dark, int]:
    """Bias, noise and dark current from darks of two exposures, and the number of the next frame."""
    guess, shape = sensor_guess(session), session.devices.camera.info.shape
    session.light(LightState.BLOCKED)
    require_dark({t: session.mean_frame(t, CHECK_FRAMES, 0) for t in (short_s, long_s)}, CHECK_FRAMES, guess)
    number = CHECK_FRAMES
    summaries = []
    session.course.begin("darks", DARKS + LONG_DARKS)
    done = 0
    for exposure_s, count in ((short_s, DARKS), (long_s, LONG_DARKS)):
        accumulator = DarkAccumulator(shape, 0)
        for exposure in session.frames(exposure_s, count, number):
            accumulator.add(exposure.image)
            done += 1
            session.course.advance(done)
        number += count
        summaries.append(accumulator.summary())
    short, long = summaries
    bias, _, good = summarise_darks(short.mean, short.variance, short.count, 1.0)
    _, _, good_long = summarise_darks(long.mean, long.variance, long.count, 1.0)
    good &= good_long
    noise = float(short.variance[good].mean(dtype=np.float64))
    pixels = int(good.sum())
    difference = (long.mean[good] - short.mean[good].astype(np.float64)).mean()
    spread = np.sqrt(noise * (1 / short.count + 1 / long.count) / pixels)
    seconds = long_s - short_s
    return _Dark(
        bias=bias,
        good=good,
        noise_adu2=noise,
        noise_error_adu2=noise * float(np.sqrt(2 / ((short.count - 1) * pixels))),
        current_adu_s=float(difference) / seconds,
        current_error_adu_s=float(spread) / seconds,
    ), number


def _full_well(
    session: Session, shape: transfer.Template, line: transfer.Linearity, scale: float, end_adu: int, number: int
) -> tuple[float | None, int]:
    """Level of full pixels below the converter's end, None when they are not reached, and the next frame's number."""
    limits = session.devices.camera.info.exposure_s
    longest = float(line.exposures_s.max())
    for factor in OVER:
        exposure_s = longest * factor
        if not limits.contains(exposure_s):
            continue
        frame = session.mean_frame(exposure_s, 2, number)
        number += 2
        predicted = shape.signal * line.rate * (exposure_s + line.offset_s)
        level = transfer.plateau(frame, predicted, shape.pixels, scale)
        if level is not None:
            return (level if level < end_adu - 0.5 else None), number
    return None, number
