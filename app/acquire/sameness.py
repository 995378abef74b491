"""Whether the devices at hand are those, and set as those, that something was begun with."""

from __future__ import annotations

from app.bench.characterisation import SAME_GAIN_DB
from app.devices import Devices
from drivers.base import CameraInfo, InstrumentError, StageInfo
from recon.files.layout import SAME_LEVEL_ADU
from recon.files.read import RunFile


def asked(devices: Devices) -> tuple[CameraInfo, StageInfo] | None:
    """What camera and stage are; None where one of them does not answer, which the preflight tells."""
    try:
        return devices.camera.info, devices.stage.info
    except InstrumentError:
        return None


def other_devices(run: RunFile, camera: CameraInfo, stage: StageInfo) -> list[str]:
    """How the devices differ from those that an interrupted run was begun with, one line each."""
    own, region = run.camera, camera.region
    stage_model, stage_serial = run.stage
    found = []
    for what, recorded, connected in (
        ("camera", f"{own.model} {own.serial}", f"{camera.model} {camera.serial}"),
        ("stage", f"{stage_model} {stage_serial}", f"{stage.model} {stage.serial}"),
    ):
        if recorded != connected:
            found.append(f"was begun with {what} {recorded}, connected is {connected}; connect the former")
    if abs(own.gain_db - camera.gain_db) > SAME_GAIN_DB:
        found.append(f"was begun at a gain of {own.gain_db:g} dB, the camera has {camera.gain_db:g} dB; set it back")
    if abs(own.black_level_adu - camera.black_level_adu) > SAME_LEVEL_ADU:
        found.append(
            f"was begun at a black level of {own.black_level_adu:g} adu, the camera has {camera.black_level_adu:g} "
            "adu; set it back"
        )
    if own.bit_depth not in (None, camera.bit_depth):
        found.append(f"was begun with {own.bit_depth} bits, the camera has {camera.bit_depth}; set them back")
    present = (region.top, region.left, region.rows, region.columns)
    if own.region != present:
        found.append(
            f"was begun with region (top, left, rows, columns) {own.region}, the camera has {present}; set it back"
        )
    return [f"{run.path}: {line}, or begin a new scan" for line in found]
