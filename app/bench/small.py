"""Two small things that an operator does: take one frame, block or unblock the beam."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.errors import UsageError
from app.options import CharacterisationOption, JsonOption, ObjectOption, ProfileOption, SeedOption, above_zero

FRAME_SUFFIXES = (".tiff", ".tif", ".png", ".npy")


def snap(
    out: Annotated[Path, typer.Option(help="The frame to write: 16-bit .tiff or .png, or .npy.")],
    profile: ProfileOption = "quick",
    exposure: Annotated[
        float | None, typer.Option(callback=above_zero, help="s; default: as bright as fits, found.")
    ] = None,
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    characterisation: CharacterisationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take one frame as everything stands, raw. Nothing moves and the light stays as it is."""
    from app.bench.exposing import find_exposure
    from app.bench.session import ALIGN_STREAM, session
    from app.live.orders import SUGGESTED
    from app.outputs import frame_file, require_writable
    from app.reporting import report

    require_writable("snap", out, FRAME_SUFFIXES)
    with session(profile, seed, sample, ALIGN_STREAM, characterisation) as bench:
        info, number = bench.devices.camera.info, 0
        if exposure is None:
            exposure, number = find_exposure(bench, info.black_level_adu, SUGGESTED, 0)
        (taken,) = bench.frames(exposure, 1, number)
    frame_file(out, taken.image)
    top = int(taken.image.max())
    report(
        {
            "file": str(out),
            "exposure_s": taken.exposure_s,
            "brightest_adu": top,
            "saturated": int((taken.image >= info.saturation_adu).sum()),
        },
        as_json,
    )


def light(
    wanted: Annotated[str, typer.Argument(help="block or unblock.")],
    profile: ProfileOption = "quick",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Block the beam or let it through; asks where a person does it. Nothing moves."""
    from app.bench.session import ALIGN_STREAM, session
    from app.reporting import report
    from drivers.base import LightState

    states = {"block": LightState.BLOCKED, "unblock": LightState.OPEN}
    if wanted not in states:
        raise UsageError(f"light {wanted!r}: is neither block nor unblock")
    with session(profile, seed, None, ALIGN_STREAM) as bench:
        bench.light(states[wanted])
        state = bench.devices.light.state
    report({"light": state.value}, as_json)
