"""The operator's commands with their options; what they do is loaded when they are called."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.errors import UsageError

ProfileOption = Annotated[str, typer.Option(help="Name of a shipped profile, or a .toml file.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything simulated.")]
ObjectOption = Annotated[
    str | None, typer.Option("--object", help="Simulated: digit:4[:SEED], mnist:17, idx:FILE:17 or a picture file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line, the last on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Moves are confirmed: do not ask.")]
CharacterisationOption = Annotated[
    Path | None, typer.Option(help="What was measured of this bench; default: the profile's.")
]


def darks(
    out: Annotated[Path, typer.Option(help="The file of darks to write, .h5; its picture gets the same name, .png.")],
    profile: ProfileOption = "quick",
    exposure: Annotated[
        list[float] | None, typer.Option(help="Exposure, s; may be given again. Default: all of the profile's scan.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Darks of each exposure; default: the profile's.")] = None,
    seed: SeedOption = 0,
    characterisation: CharacterisationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record darks for later scans (scan --darks FILE): beam blocked and checked to be. Nothing moves.

    Ctrl-C keeps the exposures that are complete.
    """
    from app.acquire.planning import exposures_with_darks
    from app.bench.darks import record_darks
    from app.bench.figures import darks_figure
    from app.bench.session import DARK_STREAM, session
    from app.cli import report
    from recon.files.dark_sets import write_dark_set

    if out.exists():
        raise UsageError(f"darks: {out} exists already; choose another name")
    begin = time.monotonic()
    with session(profile, seed, None, DARK_STREAM, characterisation) as bench:
        scan = bench.profile.scan
        wanted = tuple(exposure) if exposure else exposures_with_darks(bench.profile)
        dark_set, found = record_darks(bench, wanted, frames or scan.dark_frames, scan.keep_darks, time.time())
    write_dark_set(out, dark_set, bench.profile.model_dump_json())
    longest = dark_set.darks[max(dark_set.darks)]
    heading = f"darks of {dark_set.model} {dark_set.serial}" + (" (simulated)" if dark_set.simulated else "")
    figure = darks_figure(longest, found, dark_set.electrons_per_adu, heading, out.with_suffix(".png"))
    values = {"file": str(out), "figure": str(figure), **asdict(found), "seconds": time.monotonic() - begin}
    if not as_json:
        for line in values.pop("lines"):
            typer.echo(
                f"{line['exposure_s']:g} s: offset {line['offset_adu']:.3f} adu, noise {line['noise_e']:.3f} e-, "
                f"{line['hot_pixels']} bad pixels, {line['frames']} frames"
            )
    report(values, as_json)


def register(app: typer.Typer) -> None:
    """Add the operator's commands to the command line."""
    for command in (darks,):
        app.command()(command)
