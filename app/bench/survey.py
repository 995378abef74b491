"""What is connected: every device opened, asked and closed by itself, so that one that fails does not hide the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.devices import Devices
from drivers.base import InstrumentError


@dataclass(frozen=True)
class Answer:
    """What one device says.

    Attributes:
        device: camera, stage or light.
        facts: name to value, for people and for JSON; empty when it failed.
        failure: one line, or "" when it answered.
    """

    device: str
    facts: dict[str, Any]
    failure: str = ""


def survey(devices: Devices) -> tuple[list[Answer], bool]:
    """Open every device and ask it what it is. Nothing moves; those that opened stay open.

    Returns:
        the answers of camera, stage and light, and whether all of them answered.
    """
    for wire in devices.wires:
        wire.open()
    answers = [
        _ask("camera", devices.camera.open, lambda: _camera(devices)),
        _ask("stage", devices.stage.open, lambda: _stage(devices)),
        _ask("light", devices.light.open, lambda: dict(devices.light.describe())),
    ]
    return answers, not any(answer.failure for answer in answers)


def lines(answer: Answer) -> list[str]:
    """An answer for people, one line for the device and one for each fact."""
    if answer.failure:
        return [f"error: {answer.failure}"]
    model = answer.facts.get("model", "")
    rest = [f"  {name}: {value}" for name, value in answer.facts.items() if name != "model"]
    return [f"{answer.device}: {model}", *rest]


def _ask(device: str, open_device: Callable[[], None], ask: Callable[[], dict[str, Any]]) -> Answer:
    try:
        open_device()
        return Answer(device, ask())
    except InstrumentError as error:
        return Answer(device, {}, " ".join(str(error).split()))
    except Exception as error:  # a driver's own error must not hide the other devices
        text = " ".join(str(error).split()) or "no reason given"
        return Answer(device, {}, f"{device}: {text} ({type(error).__name__}); look at its cable and power")


def _camera(devices: Devices) -> dict[str, Any]:
    info = devices.camera.info
    region = info.region
    facts: dict[str, Any] = {
        "model": info.model,
        "serial": info.serial,
        "sensor": f"{info.sensor_shape[0]} x {info.sensor_shape[1]} pixels of {info.pixel_size_m * 1e6:.4g} um",
        "region": f"{region.rows} x {region.columns} at row {region.top}, column {region.left}",
        "bits": str(info.bit_depth),
        "gain": f"{info.gain_db:g} dB",
        "exposure range": f"{info.exposure_s.low:.6g} .. {info.exposure_s.high:.6g} s",
    }
    return facts | {k: v for k, v in devices.camera.describe().items() if k not in facts}


def _stage(devices: Devices) -> dict[str, Any]:
    info, homed = devices.stage.info, devices.stage.homed
    here = devices.stage.position()
    place = f"y {here.y * 1e3:.4f}, x {here.x * 1e3:.4f} mm"
    facts: dict[str, Any] = {
        "model": info.model,
        "serial": info.serial,
        "limits": f"y {info.y_m.low * 1e3:g} .. {info.y_m.high * 1e3:g}, x {info.x_m.low * 1e3:g} .. "
        f"{info.x_m.high * 1e3:g} mm",
        "velocity": f"{info.velocity_m_s * 1e3:g} mm/s",
        "homed": "yes" if homed else "no",
        "position": place if homed else f"{place} (not homed: means nothing)",
    }
    return facts | {k: v for k, v in devices.stage.describe().items() if k not in facts}
