"""Profiles: one TOML file names the devices, the geometry, the scan, the light and the limits.

Everything is in SI units and every field says which. Unknown keys are refused, and nothing is changed after loading.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROFILES = Path(__file__).parent / "profiles"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class ProfileError(Exception):
    """A profile is missing or wrong; the message names the file, the key, the value and the limit."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GeometryProfile(_Section):
    """Where the light goes."""

    wavelength_m: Positive
    """Vacuum wavelength, m."""
    distance_m: Positive
    """Object to camera as measured with a ruler, m; calibration refines it."""
    pinhole_diameter_m: Positive
    """Diameter of the illumination at the object, m."""


class CameraProfile(_Section):
    """The camera, real or simulated."""

    driver: Literal["simulated", "emulated", "basler"]
    """Which camera: "basler", "emulated" (Basler's own library on its emulator, fed with simulated frames) or
    "simulated"."""
    serial: str = ""
    """Serial number; "" takes the first camera found and is refused when there are several. The emulated camera has its
    own, and another one is refused."""
    shape: tuple[int, int]
    """Rows and columns of a frame, pixels."""
    origin: tuple[int, int] | None = None
    """Row and column of the sensor where the frame begins; without it the frame is the sensor's middle."""
    gain_db: NonNegative = 0.0
    """Analogue gain, dB."""
    pixel_size_m: Positive
    """Pixel pitch, m."""
    bit_depth: Annotated[int, Field(ge=8, le=16)]
    """Bits of a digital number."""
    electrons_per_adu: Positive
    """Conversion gain, electrons per digital number."""
    black_level_adu: NonNegative
    """Offset of a dark frame, digital numbers."""
    read_noise_e: NonNegative
    """Read noise, electrons rms."""
    quantum_efficiency: Fraction
    """Electrons per photon."""
    dark_current_e_s: NonNegative
    """Dark current, electrons per pixel and second."""
    full_well_e: Positive
    """Electrons at which a pixel saturates."""
    min_exposure_s: Positive
    """Shortest exposure that is allowed, s; a real camera's own limits hold besides."""
    max_exposure_s: Positive
    """Longest exposure that is allowed, s; likewise."""
    frame_overhead_s: NonNegative = 0.03
    """Read-out and trigger time per frame, s."""
    hot_pixels: Annotated[int, Field(ge=0)] = 0
    """Simulated: number of pixels with a large dark current."""

    @model_validator(mode="after")
    def _exposures(self) -> CameraProfile:
        if self.min_exposure_s > self.max_exposure_s:
            raise ValueError(
                f"min_exposure_s {self.min_exposure_s:.6g} s is above max_exposure_s {self.max_exposure_s:.6g} s; "
                "exchange them"
            )
        return self


class StageProfile(_Section):
    """The XY stage, real or simulated."""

    driver: Literal["simulated", "emulated", "thorlabs"]
    """Which stage: "thorlabs", "emulated" (Thorlabs' protocol spoken to an emulated controller) or "simulated"."""
    controller: Literal["kst101", "bsc203"] = "kst101"
    """One KST101 for each axis, or a BSC20x benchtop controller with two of its channels in use."""
    serials: tuple[str, ...] = ()
    """Serial numbers or ports: the KST101 of y and of x, or the one BSC20x."""
    channels: tuple[int, int] = (1, 2)
    """BSC20x: channels of y and of x."""
    travel_m: Positive = 0.025
    """Travel of each axis, m."""
    limits_y_m: tuple[Finite, Finite]
    """Soft limits of the y displacement, m, inside 0 .. travel."""
    limits_x_m: tuple[Finite, Finite]
    """Soft limits of the x displacement, m, inside 0 .. travel."""
    centre_m: tuple[Finite, Finite]
    """(y, x) displacement at which the beam hits the middle of the sample, m."""
    park_m: tuple[Finite, Finite]
    """(y, x) displacement at which the sample is out of the beam, m: the empty beam is taken there."""
    velocity_m_s: Positive = 1.5e-3
    """Velocity, m/s."""
    acceleration_m_s2: Positive = 1.0e-3
    """Acceleration, m/s^2."""
    homing_velocity_m_s: Positive = 5.0e-4
    """Velocity while homing, m/s."""
    homing_offset_m: NonNegative = 1.0e-4
    """Distance of the zero from the limit switch, m."""
    backlash_correction_m: NonNegative = 0.0
    """How far below its target the controller itself goes before it comes up; 0 leaves that to `approach_m`."""
    immediate_stop: bool = False
    """Stop without braking: at once, but an open-loop stepper loses its place and has to be homed."""
    settling_s: NonNegative = 0.1
    """Wait after arrival, s."""
    load_m: tuple[Finite, Finite] | None = None
    """(y, x) displacement at which the sample can be changed, m; without it the parking place serves."""
    microsteps_per_m: Positive = 2_184_533_333.0
    """Microsteps per metre of the controller."""
    backlash_m: NonNegative = 0.0
    """Simulated: lost motion on reversal, m."""
    repeatability_m: NonNegative = 0.0
    """Standard deviation of the true position about the commanded one, m per axis; also calibration's prior."""
    rotation_rad: Finite = 0.0
    """Simulated: rotation of the stage against the camera, rad."""
    scale_error: tuple[Finite, Finite] = (0.0, 0.0)
    """Simulated: relative error of the y and x scale."""
    shear: Finite = 0.0
    """Simulated: x error per y displacement."""
    stage_to_object: tuple[tuple[Finite, Finite], tuple[Finite, Finite]] = ((-1.0, 0.0), (0.0, -1.0))
    """Object position = this matrix times the displacement from the centre: the sample moves, hence minus one."""
    approach_m: NonNegative = 5.0e-5
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
        return self


class LightProfile(_Section):
    """The illumination."""

    driver: Literal["simulated", "manual"]
    """Who blocks the beam: "manual" (a person, asked to) or "simulated"."""
    photons_per_second: Positive
    """Photons in the illumination before the object, 1/s."""


class ScanProfile(_Section):
    """What is scanned and how long."""

    positions: Annotated[int, Field(ge=1)]
    """Points of the Fermat spiral."""
    overlap: Annotated[float, Field(ge=0, lt=1)]
    """Wanted linear overlap, 1 - mean nearest-neighbour distance / pinhole diameter."""
    evaluation_positions: Annotated[int, Field(ge=0)]
    """Points of the evaluation series: every k-th of the unordered spiral."""
    calibration_exposure_s: Positive
    """Exposure of the bright scan, s."""
    evaluation_exposures_s: tuple[Positive, ...]
    """Exposures of the evaluation series, s, ascending."""
    empty_exposure_s: Positive
    """Exposure of the empty beam, s."""
    empty_frames: Annotated[int, Field(ge=0)]
    """Frames of the empty beam."""
    empty_after: bool = False
    """Whether the empty beam is taken once more after the scan, to see drifts."""
    calibration_exposures_s: tuple[Positive, ...] = ()
    """Bracketed bright scan: all its exposures, s, ascending, calibration_exposure_s among them; () for that alone."""
    dark_frames: Annotated[int, Field(ge=2)]
    """Dark frames per exposure."""
    keep_darks: Annotated[int, Field(ge=0)] = 3
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

    object: str = "digit:4"
    """What is drawn: "digit:4", "mnist:17", "idx:FILE:17", a picture file, or an .npy file, of an amplitude or complex;
    "relief:" before any of an amplitude gives it a phase (docs/complex.md)."""
    height_m: Positive = 1.0e-3
    """Height of a drawn digit, m."""
    opaque_m: Positive = 8.0e-3
    """Side of the opaque field around the drawing, m; beyond it the beam passes freely."""


class SimulationProfile(_Section):
    """What the simulated bench does not tell: calibration has to find it."""

    distance_error_m: Finite
    """True minus nominal distance, m."""
    edge_m: Positive
    """Width of the pinhole image's soft edge (10-90 %), m."""
    defocus_waves: Finite = 0.0
    """Defocus over the pinhole, waves."""
    astigmatism_waves: Finite = 0.0
    """Astigmatism over the pinhole, waves."""
    coma_waves: Finite = 0.0
    """Coma over the pinhole, waves."""
    oversampling: Literal[1, 2] = 1
    """Fine pixels of the simulator's field per camera pixel."""
    padding: Literal[1, 2] = 2
    """Simulated window over the frame's width."""
    mounting: tuple[tuple[Finite, Finite], tuple[Finite, Finite]] | None = None
    """True map from stage displacement to object position; without it what stage.stage_to_object says is true."""
    sensor_shape: tuple[int, int] | None = None
    """Rows and columns of the whole sensor, of which camera.shape is read out; without it there is no more."""
    region_step: Annotated[int, Field(ge=1)] = 1
    """Regions of the sensor begin at multiples of so many pixels."""
    beam_offset_px: tuple[Finite, Finite] = (0.0, 0.0)
    """(row, column) of the beam's axis from the middle of the sensor, pixels."""
    exposure_offset_s: NonNegative = 0.0
    """The exposure that takes place minus the one asked for, s."""
    line_time_s: NonNegative = 0.0
    """Exposures are whole multiples of this, s; 0 for any."""
    flux_drift_per_h: Finite = 0.0
    """Relative change of the beam's power in an hour."""
    pointing_drift_rad_h: tuple[Finite, Finite] = (0.0, 0.0)
    """(y, x) angle by which the beam turns in an hour, rad."""


class EmulationProfile(_Section):
    """Emulated wires under the real libraries; POSIX systems only."""

    speed: Annotated[float, Field(ge=1, le=100)] = 1.0
    """How much faster than programmed the emulated motors turn."""
    longest_exposure_s: NonNegative = 10.0
    """Longer exposures of the emulated camera pass in this time, s; their light is that of the full exposure."""


class ReconstructionProfile(_Section):
    """Reconstruction of the object."""

    decoder: str = "mnist"
    """Decoder package: a shipped name or a path."""
    field_m: Positive
    """Side of the square that the decoder's image covers on the object, m."""


class Profile(_Section):
    """A whole bench and what to do with it."""

    name: str
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
    characterisation: str = ""
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
        return self


def shipped_profiles() -> list[str]:
    """Names of the profiles that ship with the program."""
    return sorted(p.stem for p in PROFILES.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A shipped profile by name or any by the path of its TOML file.

    Raises:
        ProfileError: one line for the first thing that is wrong, naming file, key and value.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"profile {name!r}: cannot be read ({type(error).__name__}); "
            f"shipped profiles: {', '.join(shipped_profiles())}; or give the path of a .toml file"
        ) from None
    profile = parse_profile(text, str(name))
    if not profile.characterisation:
        return profile
    return profile.model_copy(update={"characterisation": str(path.parent / profile.characterisation)})


def parse_profile(text: str, name: str) -> Profile:
    """A profile from TOML text; `name` stands in messages. Raises `ProfileError`."""
    try:
        return Profile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"profile {name!r}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole profile)"
        value = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        hint = "; remove it or correct its spelling" if first["type"] == "extra_forbidden" else ""
        raise ProfileError(f"profile {name!r}: {key}: {first['msg']}{value}{hint}") from None
