"""Profiles: one TOML file names the devices, the geometry, the scan, the light and the limits.

Everything is in SI units and every field says which. Unknown keys are refused, and nothing is changed after loading.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.bounds import (
    Acceleration,
    Adu,
    Angle,
    BeamOffset,
    Bits,
    Channel,
    Conversion,
    Coordinate,
    Corner,
    Count,
    DarkCurrent,
    Diameter,
    Distance,
    Drift,
    Efficiency,
    Entry,
    Exposure,
    Gain,
    Length,
    LengthOrNone,
    Line,
    MicrostepsPerMetre,
    Noise,
    Overlap,
    Photons,
    Pixels,
    PixelSize,
    Points,
    Ratio,
    Seconds,
    Shape,
    Speed,
    Step,
    Turning,
    Velocity,
    Wavelength,
    Waves,
    Well,
)

SHOWN = 200
"""Letters of a wrong value that a message shows."""
PROFILES = Path(__file__).parent / "profiles"


class ProfileError(Exception):
    """A profile is missing or wrong; the message names the file, the key, the value and the limit."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GeometryProfile(_Section):
    """Where the light goes."""

    wavelength_m: Wavelength
    """Vacuum wavelength, m."""
    distance_m: Distance
    """Object to camera as measured with a ruler, m; calibration refines it."""
    pinhole_diameter_m: Diameter
    """Diameter of the illumination at the object, m."""


class CameraProfile(_Section):
    """The camera, real or simulated."""

    driver: Literal["simulated", "emulated", "basler"]
    """Which camera: "basler", "emulated" (Basler's own library on its emulator, fed with simulated frames) or
    "simulated"."""
    serial: Line = ""
    """Serial number; "" takes the first camera found and is refused when there are several. The emulated camera has its
    own, and another one is refused."""
    shape: Shape
    """Rows and columns of a frame, pixels."""
    origin: tuple[Corner, Corner] | None = None
    """Row and column of the sensor where the frame begins; without it the frame is the sensor's middle."""
    gain_db: Gain = 0.0
    """Analogue gain, dB."""
    pixel_size_m: PixelSize
    """Pixel pitch, m."""
    bit_depth: Bits
    """Bits of a digital number."""
    electrons_per_adu: Conversion
    """Conversion gain, electrons per digital number."""
    black_level_adu: Adu
    """Offset of a dark frame, digital numbers."""
    read_noise_e: Noise
    """Read noise, electrons rms."""
    quantum_efficiency: Efficiency
    """Electrons per photon."""
    dark_current_e_s: DarkCurrent
    """Dark current, electrons per pixel and second."""
    full_well_e: Well
    """Electrons at which a pixel saturates."""
    min_exposure_s: Exposure
    """Shortest exposure that is allowed, s; a real camera's own limits hold besides."""
    max_exposure_s: Exposure
    """Longest exposure that is allowed, s; likewise."""
    frame_overhead_s: Seconds = 0.03
    """Read-out and trigger time per frame, s."""
    hot_pixels: Pixels = 0
    """Simulated: number of pixels with a large dark current."""

    @model_validator(mode="after")
    def _exposures(self) -> CameraProfile:
        if self.min_exposure_s > self.max_exposure_s:
            raise ValueError(
                f"min_exposure_s {self.min_exposure_s:.6g} s is above max_exposure_s {self.max_exposure_s:.6g} s; "
                "exchange them"
            )
        if self.black_level_adu >= 2**self.bit_depth - 1:
            raise ValueError(
                f"black_level_adu {self.black_level_adu:.6g} leaves no code of {self.bit_depth} bits to light; lower it"
            )
        if self.hot_pixels > self.shape[0] * self.shape[1]:
            raise ValueError(f"hot_pixels {self.hot_pixels} are more than the frame {self.shape} has; lower it")
        return self


class StageProfile(_Section):
    """The XY stage, real or simulated."""

    driver: Literal["simulated", "emulated", "thorlabs"]
    """Which stage: "thorlabs", "emulated" (Thorlabs' protocol spoken to an emulated controller) or "simulated"."""
    controller: Literal["kst101", "bsc203"] = "kst101"
    """One KST101 for each axis, or a BSC20x benchtop controller with two of its channels in use."""
    serials: tuple[Line, ...] = ()
    """Serial numbers or ports: the KST101 of y and of x, or the one BSC20x."""
    channels: tuple[Channel, Channel] = (1, 2)
    """BSC20x: channels of y and of x."""
    travel_m: Length = 0.025
    """Travel of each axis, m."""
    limits_y_m: tuple[Coordinate, Coordinate]
    """Soft limits of the y displacement, m, inside 0 .. travel."""
    limits_x_m: tuple[Coordinate, Coordinate]
    """Soft limits of the x displacement, m, inside 0 .. travel."""
    centre_m: tuple[Coordinate, Coordinate]
    """(y, x) displacement at which the beam hits the middle of the sample, m."""
    park_m: tuple[Coordinate, Coordinate]
    """(y, x) displacement at which the sample is out of the beam, m: the empty beam is taken there."""
    velocity_m_s: Velocity = 1.5e-3
    """Velocity, m/s."""
    acceleration_m_s2: Acceleration = 1.0e-3
    """Acceleration, m/s^2."""
    homing_velocity_m_s: Velocity = 5.0e-4
    """Velocity while homing, m/s."""
    homing_offset_m: LengthOrNone = 1.0e-4
    """Distance of the zero from the limit switch, m."""
    backlash_correction_m: LengthOrNone = 0.0
    """How far below its target the controller itself goes before it comes up; 0 leaves that to `approach_m`."""
    immediate_stop: bool = False
    """Stop without braking: at once, but an open-loop stepper loses its place and has to be homed."""
    settling_s: Seconds = 0.1
    """Wait after arrival, s."""
    load_m: tuple[Coordinate, Coordinate] | None = None
    """(y, x) displacement at which the sample can be changed, m; without it the parking place serves."""
    microsteps_per_m: MicrostepsPerMetre = 2_184_533_333.0
    """Microsteps per metre of the controller."""
    backlash_m: LengthOrNone = 0.0
    """Simulated: lost motion on reversal, m."""
    repeatability_m: LengthOrNone = 0.0
    """Standard deviation of the true position about the commanded one, m per axis; also calibration's prior."""
    rotation_rad: Angle = 0.0
    """Simulated: rotation of the stage against the camera, rad."""
    scale_error: tuple[Ratio, Ratio] = (0.0, 0.0)
    """Simulated: relative error of the y and x scale."""
    shear: Entry = 0.0
    """Simulated: x error per y displacement."""
    stage_to_object: tuple[tuple[Entry, Entry], tuple[Entry, Entry]] = ((-1.0, 0.0), (0.0, -1.0))
    """Object position = this matrix times the displacement from the centre: the sample moves, hence minus one."""
    approach_m: LengthOrNone = 5.0e-5
    """Length of the one-sided approach against backlash, m; 0 moves directly."""

    @model_validator(mode="after")
    def _within(self) -> StageProfile:
        for axis, (low, high) in (("y", self.limits_y_m), ("x", self.limits_x_m)):
            if not low < high:
                raise ValueError(f"limits_{axis}_m {low:.6g} .. {high:.6g} m do not ascend; put the lower one first")
            if low < 0 or high > self.travel_m:
                raise ValueError(
                    f"limits_{axis}_m {low:.6g} .. {high:.6g} m leave the travel 0 .. {self.travel_m:.6g} m; "
                    "narrow them, or correct travel_m"
                )
        for name, place in (("centre_m", self.centre_m), ("park_m", self.park_m), ("load_m", self.load_m)):
            for axis, value, (low, high) in zip("yx", place or (), (self.limits_y_m, self.limits_x_m), strict=False):
                if not low <= value <= high:
                    raise ValueError(
                        f"{name} has {axis} {value:.6g} m, outside limits_{axis}_m {low:.6g} .. {high:.6g} m; "
                        "choose a place inside"
                    )
        if self.controller == "bsc203" and self.channels[0] == self.channels[1]:
            raise ValueError(f"channels {self.channels} name one channel for both axes; y and x have one each")
        return self


class LightProfile(_Section):
    """The illumination."""

    driver: Literal["simulated", "manual"]
    """Who blocks the beam: "manual" (a person, asked to) or "simulated"."""
    photons_per_second: Photons
    """Photons in the illumination before the object, 1/s."""


class ScanProfile(_Section):
    """What is scanned and how long."""

    positions: Annotated[Points, Field(ge=1)]
    """Points of the Fermat spiral."""
    overlap: Overlap
    """Wanted linear overlap, 1 - mean nearest-neighbour distance / pinhole diameter."""
    evaluation_positions: Points
    """Points of the evaluation series: every k-th of the unordered spiral."""
    calibration_exposure_s: Exposure
    """Exposure of the bright scan, s."""
    evaluation_exposures_s: tuple[Exposure, ...]
    """Exposures of the evaluation series, s, ascending."""
    empty_exposure_s: Exposure
    """Exposure of the empty beam, s."""
    empty_frames: Count
    """Frames of the empty beam."""
    empty_after: bool = False
    """Whether the empty beam is taken once more after the scan, to see drifts."""
    calibration_exposures_s: tuple[Exposure, ...] = ()
    """Bracketed bright scan: all its exposures, s, ascending, calibration_exposure_s among them; () for that alone."""
    dark_frames: Annotated[Count, Field(ge=2)]
    """Dark frames per exposure."""
    keep_darks: Count = 3
    """Raw dark frames kept per exposure; all darks count in mean, variance and histogram."""

    @model_validator(mode="after")
    def _consistent(self) -> ScanProfile:
        if list(self.evaluation_exposures_s) != sorted(set(self.evaluation_exposures_s)):
            raise ValueError("evaluation_exposures_s must ascend without repeats")
        if list(self.calibration_exposures_s) != sorted(set(self.calibration_exposures_s)):
            raise ValueError("calibration_exposures_s must ascend without repeats")
        if self.calibration_exposures_s and self.calibration_exposure_s not in self.calibration_exposures_s:
            raise ValueError(f"calibration_exposures_s lacks calibration_exposure_s, {self.calibration_exposure_s} s")
        if self.empty_after and not self.empty_frames:
            raise ValueError("empty_after needs empty_frames of at least 1")
        if self.evaluation_positions > self.positions:
            raise ValueError(f"evaluation_positions {self.evaluation_positions} exceeds positions {self.positions}")
        return self


class SampleProfile(_Section):
    """The simulated sample: a binary mask with a transmitting drawing in an opaque field."""

    object: Line = "digit:4"
    """What is drawn: "digit:4", "mnist:17", "idx:FILE:17", a picture file, or an .npy file, of an amplitude or complex;
    "relief:" before any of an amplitude gives it a phase (docs/complex.md)."""
    height_m: Length = 1.0e-3
    """Height of a drawn digit, m."""
    opaque_m: Length = 8.0e-3
    """Side of the opaque field around the drawing, m; beyond it the beam passes freely."""


class SimulationProfile(_Section):
    """What the simulated bench does not tell: calibration has to find it."""

    distance_error_m: Coordinate
    """True minus nominal distance, m."""
    edge_m: Length
    """Width of the pinhole image's soft edge (10-90 %), m."""
    defocus_waves: Waves = 0.0
    """Defocus over the pinhole, waves."""
    astigmatism_waves: Waves = 0.0
    """Astigmatism over the pinhole, waves."""
    coma_waves: Waves = 0.0
    """Coma over the pinhole, waves."""
    oversampling: Literal[1, 2] = 1
    """Fine pixels of the simulator's field per camera pixel."""
    padding: Literal[1, 2] = 2
    """Simulated window over the frame's width."""
    mounting: tuple[tuple[Entry, Entry], tuple[Entry, Entry]] | None = None
    """True map from stage displacement to object position; without it what stage.stage_to_object says is true."""
    sensor_shape: Shape | None = None
    """Rows and columns of the whole sensor, of which camera.shape is read out; without it there is no more."""
    region_step: Step = 1
    """Regions of the sensor begin at multiples of so many pixels."""
    beam_offset_px: tuple[BeamOffset, BeamOffset] = (0.0, 0.0)
    """(row, column) of the beam's axis from the middle of the sensor, pixels."""
    exposure_offset_s: Seconds = 0.0
    """The exposure that takes place minus the one asked for, s."""
    line_time_s: Seconds = 0.0
    """Exposures are whole multiples of this, s; 0 for any."""
    flux_drift_per_h: Drift = 0.0
    """Relative change of the beam's power in an hour."""
    pointing_drift_rad_h: tuple[Turning, Turning] = (0.0, 0.0)
    """(y, x) angle by which the beam turns in an hour, rad."""


class EmulationProfile(_Section):
    """Emulated wires under the real libraries; POSIX systems only."""

    speed: Speed = 1.0
    """How much faster than programmed the emulated motors turn."""
    longest_exposure_s: Seconds = 10.0
    """Longer exposures of the emulated camera pass in this time, s; their light is that of the full exposure."""


class ReconstructionProfile(_Section):
    """Reconstruction of the object."""

    decoder: Line = "mnist"
    """Decoder package: a shipped name or a path."""
    field_m: Length
    """Side of the square that the decoder's image covers on the object, m."""


class Profile(_Section):
    """A whole bench and what to do with it."""

    name: Line
    """Name in titles and files."""
    geometry: GeometryProfile
    camera: CameraProfile
    stage: StageProfile
    light: LightProfile
    scan: ScanProfile
    sample: SampleProfile = SampleProfile()
    simulation: SimulationProfile | None = None
    emulation: EmulationProfile = EmulationProfile()
    reconstruction: ReconstructionProfile
    characterisation: Line = ""
    """File with what `characterise` and `align` measured of this bench, relative to the profile's; "" for none."""

    @property
    def simulated(self) -> bool:
        """Whether any device is simulated or emulated."""
        return bool({"simulated", "emulated"} & {self.camera.driver, self.stage.driver, self.light.driver})

    @model_validator(mode="after")
    def _complete(self) -> Profile:
        if self.simulated and self.simulation is None:
            raise ValueError("a profile with simulated devices needs a [simulation] section")
        if np.linalg.matrix_rank(np.array(self.stage.stage_to_object)) < 2:
            raise ValueError("stage.stage_to_object must be invertible")
        if self.simulation is not None and self.camera.driver != "basler":
            self._simulable(self.simulation)
        return self

    def _simulable(self, simulation: SimulationProfile) -> None:
        """Raises `ValueError` for a simulated bench that cannot be."""
        true_m = self.geometry.distance_m + simulation.distance_error_m
        if true_m <= 0:
            raise ValueError(
                f"simulation.distance_error_m {simulation.distance_error_m:.6g} m puts the camera at {true_m:.6g} m "
                f"from the object; it must stay above -geometry.distance_m, {-self.geometry.distance_m:.6g} m"
            )
        sensor, (rows, columns) = simulation.sensor_shape, self.camera.shape
        if sensor is not None and (rows > sensor[0] or columns > sensor[1]):
            raise ValueError(f"camera.shape {self.camera.shape} exceeds simulation.sensor_shape {sensor}; narrow it")
        if self.camera.origin is not None:
            (top, left), (high, wide) = self.camera.origin, sensor or self.camera.shape
            if top + rows > high or left + columns > wide:
                raise ValueError(
                    f"camera.shape {self.camera.shape} at camera.origin {self.camera.origin} leaves the sensor of "
                    f"{high} x {wide} (simulation.sensor_shape); move or narrow it"
                )
        if simulation.mounting is not None and np.linalg.matrix_rank(np.array(simulation.mounting)) < 2:
            raise ValueError("simulation.mounting must be invertible")


def shipped_profiles() -> list[str]:
    """Names of the profiles that ship with the program."""
    return sorted(p.stem for p in PROFILES.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A shipped profile by name or any by the path of its TOML file.

    Raises:
        ProfileError: one line for the first thing that is wrong, naming file, key and value.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    remedy = f"shipped profiles: {', '.join(shipped_profiles())}; or give the path of a .toml file"
    try:
        if Path(name).is_dir() and not path.is_file():
            raise ProfileError(f"profile {_short(name)}: is a folder; {remedy}")
        if not path.is_file():
            here = "" if name.endswith(".toml") else " among those that are shipped"
            raise ProfileError(f"profile {_short(name)}: does not exist{here}; {remedy}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ProfileError(f"profile {_short(name)}: is not a text file in UTF-8; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProfileError(f"profile {_short(name)}: cannot be read ({reason}); {remedy}") from None
    profile = parse_profile(text, str(name))
    if not profile.characterisation:
        return profile
    return profile.model_copy(update={"characterisation": str(path.parent / profile.characterisation)})


def parse_profile(text: str, name: str) -> Profile:
    """A profile from TOML text; `name` stands in messages. Raises `ProfileError`."""
    try:
        return validated(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"profile {name!r}: not valid TOML: {error}") from None


def validated(values: Mapping[str, object], name: str) -> Profile:
    """A profile from its values; `name` stands in messages. Raises `ProfileError`."""
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole profile)"
        value = "" if isinstance(first["input"], dict) else f", got {_short(first['input'])}"
        hint = "; remove it or correct its spelling" if first["type"] == "extra_forbidden" else ""
        what = first["msg"].removeprefix("Value error, ")
        raise ProfileError(f"profile {name!r}: {key}: {what}{value}{hint}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
