"""What was measured of a bench: a dated TOML file beside the profile, and what it changes in one.

Two sections, each measured on its own day: `[camera]` by `ptychoscope characterise`, `[alignment]` by
`ptychoscope align --write`. Runs store the text of the file that they used.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.outputs import require_writable
from app.profile import PROFILES, Profile, ProfileError
from drivers.base import CameraInfo, StageInfo
from recon.files.layout import SAME_LEVEL_ADU
from recon.files.whole import whole

FILE_NAME = "characterisation.toml"
SAME_GAIN_DB = 0.01

Number = Annotated[float, Field(allow_inf_nan=False)]


class CharacterisationError(ProfileError):
    """A characterisation is missing, wrong, or of another device; the message names the file and the difference."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MeasuredCamera(_Section):
    """What `characterise` found; errors are one standard deviation."""

    date: datetime
    """When it was measured."""
    model: str
    """The camera."""
    serial: str
    """Its serial number."""
    gain_db: Number
    """Analogue gain at which all of this holds."""
    electrons_per_adu: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Conversion gain by photon transfer."""
    electrons_per_adu_error: Number
    read_noise_e: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Read noise without quantisation, electrons rms."""
    read_noise_e_error: Number
    offset_adu: Number
    """Mean of a dark frame."""
    exposure_offset_s: Number
    """Exposure that takes place minus the one that the camera reports, s."""
    exposure_offset_error_s: Number
    linearity: Number
    """Largest deviation of the signal from a straight line, relative to the signal."""
    dark_current_e_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Electrons per pixel and second; left out where it is below its error."""
    full_well_e: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Electrons at which pixels stop counting; left out where that was not reached."""
    black_level_adu: Number | None = None
    """Black level at which all of this holds; missing in files of older versions."""
    bit_depth: int | None = None
    """Bits of a digital number; missing in files of older versions."""


class MeasuredAlignment(_Section):
    """What `align` found; errors are one standard deviation."""

    date: datetime
    """When it was measured."""
    stage_serial: str
    """Serial number of the stage."""
    camera_serial: str
    """Serial number of the camera."""
    stage_to_object: tuple[tuple[Number, Number], tuple[Number, Number]]
    """Object position = this matrix times the displacement from the centre."""
    centre_m: tuple[Number, Number]
    """(y, x) displacement at which the beam hits the sample's middle, m; not measured but as it was known before."""
    origin: tuple[int, int]
    """Row and column of the sensor where the frame begins."""
    rotation_deg: Number
    """Turn of the stage against the camera beyond quarter turns and flips, degrees."""
    rotation_error_deg: Number
    scale: Number
    """Measured length on the camera over the stage's."""
    scale_error: Number
    mirrored: bool
    """Whether the stage's axes are a mirror image of the camera's."""


class Characterisation(_Section):
    """The content of a file."""

    format: Literal[1]
    """Of the file."""
    profile: str
    """Name of the profile that was measured with."""
    simulated: bool
    """Whether any device was simulated."""
    camera: MeasuredCamera | None = None
    alignment: MeasuredAlignment | None = None

    def applied_to(self, profile: Profile) -> Profile:
        """The profile with everything measured in place of what it assumed."""
        camera: dict[str, Any] = {}
        stage: dict[str, Any] = {}
        if self.camera is not None:
            camera |= {"electrons_per_adu": self.camera.electrons_per_adu, "read_noise_e": self.camera.read_noise_e}
            for name in ("dark_current_e_s", "full_well_e"):
                if getattr(self.camera, name) is not None:
                    camera[name] = getattr(self.camera, name)
        if self.alignment is not None:
            camera["origin"] = self.alignment.origin
            stage |= {"stage_to_object": self.alignment.stage_to_object, "centre_m": self.alignment.centre_m}
        return _changed(profile, camera, stage)

    def for_devices(self, profile: Profile) -> Profile:
        """The profile to open devices with: where to read out is theirs to know, the rest would change a simulation."""
        return profile if self.alignment is None else _changed(profile, {"origin": self.alignment.origin}, {})


@dataclass(frozen=True)
class Measured:
    """A characterisation as it lies on the disk.

    Attributes:
        source: its path, or the run that holds it.
        text: as written.
        content: as read.
    """

    source: str
    text: str
    content: Characterisation

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def differences(self, camera: CameraInfo, stage: StageInfo) -> list[str]:
        """Why it does not hold for these devices, one line each; empty when it does."""
        found = []
        measured, alignment = self.content.camera, self.content.alignment
        if measured is not None:
            if measured.serial != camera.serial:
                found.append(f"measured with camera {measured.serial}, connected is {camera.serial}; characterise it")
            else:
                found += _other_settings(measured, camera)
        if alignment is not None:
            for what, own, connected in (
                ("stage", alignment.stage_serial, stage.serial),
                ("camera", alignment.camera_serial, camera.serial),
            ):
                if own != connected:
                    found.append(f"aligned with {what} {own}, connected is {connected}; align again")
        return [f"characterisation {self.source}: {line}" for line in found]

    def ages_s(self, now: float) -> dict[str, float]:
        """Seconds since each section was measured."""
        sections = {"camera": self.content.camera, "alignment": self.content.alignment}
        return {name: now - section.date.timestamp() for name, section in sections.items() if section is not None}


def electrons_per_adu(measured: Measured | None, camera: CameraInfo) -> float:
    """Conversion gain at the camera's present analogue gain: as it was measured, else as the camera says of itself.

    The profile's is that of 0 dB and not asked.
    """
    content = None if measured is None else measured.content.camera
    return camera.electrons_per_adu if content is None else content.electrons_per_adu


def _other_settings(measured: MeasuredCamera, camera: CameraInfo) -> list[str]:
    """How the same camera is set otherwise than it was measured; what an older file does not say is not compared."""
    found = []
    if abs(measured.gain_db - camera.gain_db) > SAME_GAIN_DB:
        found.append(
            f"measured at a gain of {measured.gain_db:g} dB, the camera has {camera.gain_db:g} dB; "
            "characterise it at this gain"
        )
    level = measured.black_level_adu
    if level is not None and abs(level - camera.black_level_adu) > SAME_LEVEL_ADU:
        found.append(
            f"measured at a black level of {level:g} adu, the camera has {camera.black_level_adu:g} adu; "
            "characterise it at this black level"
        )
    if measured.bit_depth not in (None, camera.bit_depth):
        found.append(
            f"measured with {measured.bit_depth} bits, the camera has {camera.bit_depth}; characterise it with these"
        )
    return found


def parse(text: str, source: str) -> Measured:
    """A characterisation from TOML text; `source` stands in messages. Raises `CharacterisationError`."""
    try:
        return Measured(source, text, Characterisation.model_validate(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise CharacterisationError(f"characterisation {source}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise CharacterisationError(f"characterisation {source}: {key}: {first['msg']}; characterise anew") from None


def load(path: Path) -> Measured:
    """The characterisation in a file. Raises `CharacterisationError`."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CharacterisationError(
            f"characterisation {path}: cannot be read ({type(error).__name__}); give a file that `characterise` wrote"
        ) from None


def chosen(profile: Profile, path: Path | None) -> Measured | None:
    """The one asked for, else the profile's, else none. Raises `CharacterisationError`."""
    if path is not None:
        return load(path)
    return load(Path(profile.characterisation)) if profile.characterisation else None


def default_path(profile_name: str) -> Path:
    """Where the characterisation of a profile belongs: beside its file; of a shipped one, in the working folder."""
    own = Path(profile_name)
    return own.parent / FILE_NAME if own.suffix == ".toml" and own.parent != PROFILES else Path(FILE_NAME)


def require_replaceable(command: str, path: Path) -> None:
    """Raise `UsageError` or `CharacterisationError` unless `save` will be able to write there."""
    require_writable(command, path, (".toml",), new=False)
    if path.exists():
        load(path)


def save(path: Path, profile: Profile, **sections: MeasuredCamera | MeasuredAlignment) -> Measured:
    """Write sections into a file; those of an earlier one that are not given are kept, and so is the earlier file.

    An earlier file gets a name with its date once the new one is safely on the disk; until then all is as it was.

    Raises:
        CharacterisationError: an earlier file cannot be read, or nothing can be written there.
    """
    kept: dict[str, Any] = {}
    dated: Path | None = None
    try:
        if path.exists():
            before = load(path)
            kept = {name: getattr(before.content, name) for name in ("camera", "alignment")}
            days = [section.date for section in kept.values() if section is not None]
            stamp = max(days, default=datetime.fromtimestamp(path.stat().st_mtime, UTC)).strftime("%Y%m%d-%H%M%S")
            dated = _free(path.with_name(f"{path.stem}-{stamp}{path.suffix}"))
        content = Characterisation(format=1, profile=profile.name, simulated=profile.simulated, **(kept | sections))
        text = to_toml(content)
        with whole(path, keep=dated) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CharacterisationError(f"characterisation {path}: cannot be written ({error.strerror})") from None
    return Measured(str(path), text, content)


def to_toml(content: Characterisation) -> str:
    """The text of a file."""
    lines = ["# Measured on the bench by `ptychoscope characterise` and `align`; SI units, errors one sigma."]
    values = content.model_dump()
    lines += [f"{name} = {_value(value)}" for name, value in values.items() if not isinstance(value, dict | None)]
    for name, section in values.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {_value(value)}" for key, value in section.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, float):
        return f"{value:.7g}" if any(mark in f"{value:.7g}" for mark in ".en") else f"{value:.7g}.0"
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _free(path: Path) -> Path:
    """The name, or with a number behind it when it is taken."""
    found, number = path, 2
    while found.exists():
        found, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return found


def _changed(profile: Profile, camera: dict[str, Any], stage: dict[str, Any]) -> Profile:
    return profile.model_copy(
        update={
            "camera": profile.camera.model_copy(update=camera),
            "stage": profile.stage.model_copy(update=stage),
        }
    )
