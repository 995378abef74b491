"""Types of a profile's numbers: what physics and instruments let them be, so that a slip is told where it was made."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from recon.limits import CONVERSION, DIAMETER, DISTANCE, PIXEL_SIZE, READ_NOISE, WAVELENGTH, Range


def within(limit: Range) -> AfterValidator:
    """A validator that refuses what lies outside, and NaN."""

    def check(value: float) -> float:
        if not limit.holds(value):
            raise ValueError(f"is outside what there can be: {limit.refusal(value)}")
        return value

    return AfterValidator(check)


def _number(value: object) -> object:
    """TOML knows numbers, texts and truth values apart; pydantic takes "3" and true for numbers."""
    if isinstance(value, str | bool):
        raise ValueError("is not a number; write it without quotes")
    return value


def _of(low: float, high: float, unit: str, why: str) -> tuple[BeforeValidator, AfterValidator]:
    return BeforeValidator(_number), within(Range(low, high, unit, why))


Wavelength = Annotated[float, BeforeValidator(_number), within(WAVELENGTH)]
Distance = Annotated[float, BeforeValidator(_number), within(DISTANCE)]
PixelSize = Annotated[float, BeforeValidator(_number), within(PIXEL_SIZE)]
Diameter = Annotated[float, BeforeValidator(_number), within(DIAMETER)]
Length = Annotated[float, *_of(1e-12, 100.0, "m", "lengths on a bench")]
LengthOrNone = Annotated[float, *_of(0.0, 100.0, "m", "lengths on a bench, or 0")]
Coordinate = Annotated[float, *_of(-100.0, 100.0, "m", "places on a bench")]
Exposure = Annotated[float, *_of(1e-9, 1e5, "s", "from nanoseconds to a day")]
Seconds = Annotated[float, *_of(0.0, 1e5, "s", "waits of at most a day")]
Velocity = Annotated[float, *_of(1e-9, 10.0, "m/s", "stages")]
Acceleration = Annotated[float, *_of(1e-9, 1e3, "m/s^2", "stages, up to a hundred times gravity")]
MicrostepsPerMetre = Annotated[float, *_of(1.0, 1e15, "1/m", "steps from a metre to less than an atom")]
Photons = Annotated[float, *_of(1e-6, 1e25, "1/s", "from a photon in days to megawatts")]
Gain = Annotated[float, *_of(0.0, 100.0, "dB", "analogue amplifiers of cameras")]
Conversion = Annotated[float, BeforeValidator(_number), within(CONVERSION)]
Adu = Annotated[float, *_of(0.0, 65535.0, "adu", "codes of 16 bits")]
Noise = Annotated[float, BeforeValidator(_number), within(READ_NOISE)]
DarkCurrent = Annotated[float, *_of(0.0, 1e9, "e-/s", "dark currents of cameras")]
Well = Annotated[float, *_of(1.0, 1e9, "e-", "full wells of cameras")]
Angle = Annotated[float, *_of(-math.pi, math.pi, "rad", "half a turn each way")]
Waves = Annotated[float, *_of(-1e3, 1e3, "waves", "aberrations under which there still is a beam")]
Ratio = Annotated[float, *_of(-0.9, 10.0, "", "relative errors of a scale")]
Entry = Annotated[float, *_of(-1e3, 1e3, "", "entries of a map between places on the bench")]
Drift = Annotated[float, *_of(-100.0, 100.0, "1/h", "relative drifts in an hour")]
Turning = Annotated[float, *_of(-1.0, 1.0, "rad/h", "drifts of a beam's angle")]
BeamOffset = Annotated[float, *_of(-1e5, 1e5, "pixels", "places on a sensor or beside it")]
Efficiency = Annotated[float, *_of(1e-6, 1.0, "", "shares of photons that are counted")]
Overlap = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Speed = Annotated[float, BeforeValidator(_number), Field(ge=1, le=100)]

Side = Annotated[int, *_of(4, 32768, "pixels", "sides of frames")]
Shape = tuple[Side, Side]
Corner = Annotated[int, *_of(0, 32768, "pixels", "corners of frames")]
Bits = Annotated[int, BeforeValidator(_number), Field(ge=8, le=16)]
Count = Annotated[int, *_of(0, 10_000, "", "frames of a kind")]
Points = Annotated[int, *_of(0, 100_000, "", "points of a scan")]
Pixels = Annotated[int, *_of(0, 1_000_000, "pixels", "bad pixels of a sensor")]
Channel = Annotated[int, *_of(1, 16, "", "channels of a controller")]
Step = Annotated[int, *_of(1, 4096, "pixels", "steps of a region")]


def _line(text: str) -> str:
    """Names, which stand in titles, files and messages."""
    if len(text) > LONGEST or any(not letter.isprintable() for letter in text):
        raise ValueError(f"has {len(text)} letters, or some that cannot be printed; one line of {LONGEST} at most")
    return text


LONGEST = 1000
Line = Annotated[str, AfterValidator(_line)]
"""One line of printable text."""
