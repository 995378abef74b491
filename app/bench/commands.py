"""The operator's commands with their options; what they do is loaded when they are called."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.errors import EXIT_KNOWN, Interrupted
from app.options import (
    CharacterisationOption,
    JsonOption,
    ObjectOption,
    ProfileOption,
    SeedOption,
    YesOption,
    above_zero,
    refuse_given,
)

SUFFIXES = (".h5", ".hdf5")
COMPLETED, ABORTED = "completed", "aborted"


@contextmanager
def _told_when_aborted(as_json: bool) -> Iterator[None]:
    """Scripts get their line also when somebody stopped the command."""
    from app.reporting import report

    try:
        yield
    except Interrupted:
        if as_json:
            report({"outcome": ABORTED}, as_json)
        raise


def check(
    profile: ProfileOption = "quick",
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    characterisation: CharacterisationOption = None,
    folder: Annotated[Path | None, typer.Option(help="Where runs will be written; default: here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What is connected, what a profile would do, and whether it can. Nothing moves.

    Devices (serial, firmware, ranges, position, homed or not), computer (udev, USB buffer, permissions, disk, GPU),
    characterisation and its age, and the whole plan. Exit code 2 when a device fails or the plan cannot be carried out.
    """
    from app.acquire.preflight import require
    from app.check import check_profile
    from app.profile import load_profile
    from app.reporting import report, say

    found = check_profile(load_profile(profile), seed, sample, characterisation, folder)
    failed = [answer for answer in found.values["devices"].values() if "error" in answer]
    if not as_json:
        for line in found.people:
            typer.echo(line)
    for finding in found.findings:
        if failed or finding not in found.errors:
            say(f"{finding.severity}: {finding.message}")
    if not failed:
        require(found.findings)
    values = (
        found.values
        if as_json
        else {k: v for k, v in found.values.items() if k not in ("devices", "gpus", "warnings", "characterisation")}
    )
    report(values, as_json)
    if failed:
        raise typer.Exit(EXIT_KNOWN)


def darks(
    out: Annotated[Path, typer.Option(help="The file of darks to write, .h5; its picture gets the same name, .png.")],
    profile: ProfileOption = "quick",
    exposure: Annotated[
        list[float] | None,
        typer.Option(callback=above_zero, help="Exposure, s; may be given again. Default: all of the profile's scan."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, max=10_000, help="Darks of each exposure; default: the profile's.")
    ] = None,
    seed: SeedOption = 0,
    characterisation: CharacterisationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record darks for later scans (scan --darks FILE): beam blocked and checked to be. Nothing moves.

    Ctrl-C keeps the exposures that are complete; the exit code is then 130.
    """
    from app.acquire.planning import exposures_with_darks
    from app.bench.darks import record_darks
    from app.bench.figures import darks_figure
    from app.bench.session import DARK_STREAM, session
    from app.outputs import require_writable
    from app.reporting import report
    from recon.files.dark_sets import write_dark_set

    require_writable("darks", out, SUFFIXES)
    begin = time.monotonic()
    with (
        _told_when_aborted(as_json),
        session(profile, seed, None, DARK_STREAM, characterisation) as bench,
    ):
        scan = bench.profile.scan
        wanted = tuple(exposure) if exposure else exposures_with_darks(bench.profile)
        dark_set, found = record_darks(bench, wanted, frames or scan.dark_frames, scan.keep_darks, time.time())
    write_dark_set(out, dark_set, bench.profile.model_dump_json())
    longest = dark_set.darks[max(dark_set.darks)]
    heading = f"darks of {dark_set.model} {dark_set.serial}" + (" (simulated)" if dark_set.simulated else "")
    figure = darks_figure(longest, found, dark_set.electrons_per_adu, heading, out.with_suffix(".png"))
    values = {
        "outcome": ABORTED if found.interrupted else COMPLETED,
        "file": str(out),
        "figure": str(figure),
        **asdict(found),
        "seconds": time.monotonic() - begin,
    }
    if not as_json:
        for line in values.pop("lines"):
            typer.echo(
                f"{line['exposure_s']:g} s: offset {line['offset_adu']:.3f} adu, noise {line['noise_e']:.3f} e-, "
                f"{line['hot_pixels']} bad pixels, {line['frames']} frames"
            )
    report(values, as_json)
    if found.interrupted:
        raise typer.Exit(bench.interrupt.exit_code)


def characterise(
    profile: ProfileOption = "quick",
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: characterisation.toml beside the profile's file.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="The picture, .png; default: beside the file.")] = None,
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the camera: gain, read noise, linearity, true exposures, full well; writes characterisation.toml.

    Beam blocked, then on; nothing moves, and the sample need not be out of the beam. An earlier file is kept under its
    date. Scans use it by --characterisation FILE or the profile's `characterisation` key.
    """
    from app.bench.characterisation import default_path, require_replaceable, save
    from app.bench.characterise import characterise as measure
    from app.bench.figures import characterise_figure
    from app.bench.session import TRANSFER_STREAM, session
    from app.outputs import require_writable
    from app.reporting import report

    target = out or default_path(profile)
    picture = figure or target.with_suffix(".png")
    require_replaceable("characterise", target)
    require_writable("characterise", picture, (".png",), new=False)
    begin = time.monotonic()
    with _told_when_aborted(as_json), session(profile, seed, sample, TRANSFER_STREAM) as bench:
        result = measure(bench, time.time())
    saved = save(target, bench.profile, camera=result.measured)
    heading = f"{result.measured.model} {result.measured.serial}" + (" (simulated)" if bench.profile.simulated else "")
    drawn = characterise_figure(result, heading, picture)
    values = {
        "outcome": COMPLETED,
        "file": str(target),
        "figure": str(drawn),
        "sha256": saved.sha256,
        **result.measured.model_dump(mode="json"),
        "exposure_jitter_s": result.line.jitter_s,
        "transfer_chi2": result.fit.chi2_per_point,
        "frames": result.frames,
        "seconds": time.monotonic() - begin,
    }
    report(values, as_json)


def align(
    context: typer.Context,
    profile: ProfileOption = "quick",
    start: Annotated[
        str | None,
        typer.Option(help="Y,X where an edge of the sample is in the beam, m or mm; default: the centre of scans."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the result into the characterisation file.")] = False,
    out: Annotated[Path | None, typer.Option(help="That file; default: beside the profile's.")] = None,
    figure: Annotated[Path, typer.Option(help="The picture, .png.")] = Path("align.png"),
    yes: YesOption = False,
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how stage, beam and camera lie together: map with sign, scale and rotation, beam centre, region.

    Moves the sample in steps of 20 and 50 um about the start and parks it once; lists the moves and asks first. Nothing
    is assumed about the mounting. The centre of scans stays as it was, wherever the start is. The distance in the
    profile sets the scale: 1 % there is 1 % here.
    """
    from app.bench.align import align as measure
    from app.bench.characterisation import default_path, require_replaceable, save
    from app.bench.figures import align_figure
    from app.bench.motion import parse_place, planned_moves
    from app.bench.session import ALIGN_STREAM, session
    from app.outputs import require_writable
    from app.reporting import report, say
    from drivers.base import StagePosition

    target = out or default_path(profile)
    if write:
        require_replaceable("align", target)
    else:
        refuse_given(context, ("out",), "the result goes there with --write only, which is missing")
    require_writable("align", figure, (".png",), new=False)
    begin = time.monotonic()
    with _told_when_aborted(as_json), session(profile, seed, sample, ALIGN_STREAM, assume_yes=yes) as bench:
        place = parse_place(start) if start is not None else StagePosition(*bench.known.stage.centre_m)
        bench.confirm_moves(planned_moves(bench, place))
        bench.home_if_needed()
        found = measure(bench, place, time.time())
    measured = found.measured
    heading = f"rotation {measured.rotation_deg:+.2f} ± {measured.rotation_error_deg:.2f}°, scale {measured.scale:.4f}"
    heading += f" ± {measured.scale_error:.3f}" + (", mirrored" if measured.mirrored else "")
    drawn = align_figure(found, heading + (" (simulated)" if bench.profile.simulated else ""), figure)
    (a, b), (c, d) = measured.stage_to_object
    lines = [
        "[camera]",
        f"origin = [{measured.origin[0]}, {measured.origin[1]}]",
        "[stage]",
        f"centre_m = [{measured.centre_m[0]:.7g}, {measured.centre_m[1]:.7g}]",
        f"stage_to_object = [[{a:.6g}, {b:.6g}], [{c:.6g}, {d:.6g}]]",
    ]
    saved = None
    if write:
        saved = save(target, bench.profile, alignment=measured)
    say("for the profile:")
    for line in lines:
        say(f"  {line}")
    values = {
        "outcome": COMPLETED,
        "figure": str(drawn),
        "file": None if saved is None else saved.source,
        **measured.model_dump(mode="json"),
        "scale_statistical_error": found.found.scale_error,
        "measured_map": [[float(v) for v in row] for row in found.found.matrix],
        "beam_px": list(found.beam_px),
        "beam_diameter_m": found.beam.diameter_m,
        "beam_defocus_waves": found.beam.defocus_waves,
        "beam_misfit": found.beam.misfit,
        "places": found.found.places,
        "residual_m": found.found.residual_m,
        "toml": lines,
        "seconds": time.monotonic() - begin,
    }
    report(values, as_json)


def jog(
    profile: ProfileOption = "quick",
    start: Annotated[
        str | None, typer.Option(help="Go to Y,X first, m or mm; default: stay, after homing the profile's centre.")
    ] = None,
    figure: Annotated[Path, typer.Option(help="The picture that is drawn anew after every move, .png.")] = Path(
        "jog.png"
    ),
    home_first: Annotated[bool, typer.Option("--home", help="Home first where the stage is not homed.")] = False,
    yes: YesOption = False,
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Jog and watch: type small moves, see after each what the camera sees; keep the picture open in a viewer.

    One order a line: y 50um or x -0.1mm moves by so much, Enter looks again, q ends. Ctrl-C stops the stage and ends.
    """
    from app.bench.figures import view_figure
    from app.bench.jog import HELP, View
    from app.bench.jog import jog as run_jog
    from app.bench.motion import move_stage
    from app.bench.session import ALIGN_STREAM, session
    from app.outputs import require_writable
    from app.reporting import report, say

    require_writable("jog", figure, (".png",), new=False)
    seen: list[View] = []

    def show(view: View) -> None:
        seen.append(view)
        view_figure(view, bench.devices.camera.info.pixel_size_m, profile, figure)
        say(view.line())

    with _told_when_aborted(as_json), session(profile, seed, sample, ALIGN_STREAM, assume_yes=yes) as bench:
        if start is not None:
            move_stage(bench, start, home_first)
        elif home_first and not bench.devices.stage.homed:
            # Home lies outside the soft limits, where a move along one axis is always refused.
            y, x = bench.known.stage.centre_m
            move_stage(bench, f"{y!r},{x!r}", home_first)
        say(HELP)
        with bench.course.paused():
            here = run_jog(bench, bench.terminal.lines("jog", bench.interrupt), show, say)
    report({"outcome": COMPLETED, "y_m": here.y, "x_m": here.x, "views": len(seen), "figure": str(figure)}, as_json)


def move(
    target: Annotated[str, typer.Argument(help="park, load, unload, home, or Y,X in m (or with mm, um behind).")],
    profile: ProfileOption = "quick",
    yes: YesOption = False,
    home_first: Annotated[bool, typer.Option("--home", help="Home first where the stage is not homed.")] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Move the stage: to a named place, to a displacement, or home. Says where it will go and asks first.

    Ctrl-C stops the stage.
    """
    from app.bench.motion import move_stage
    from app.bench.session import ALIGN_STREAM, session
    from app.reporting import report

    begin = time.monotonic()
    with _told_when_aborted(as_json), session(profile, seed, None, ALIGN_STREAM, assume_yes=yes) as bench:
        values = move_stage(bench, target, home_first)
    report({"outcome": COMPLETED} | values | {"seconds": time.monotonic() - begin}, as_json)


def stop(profile: ProfileOption = "quick", seed: SeedOption = 0, as_json: JsonOption = False) -> None:
    """Stop both axes of the profile's stage, whoever set them going. Moves nothing and needs no camera."""
    from app.bench.characterisation import chosen
    from app.bench.motion import stop_stage
    from app.devices import open_devices
    from app.profile import load_profile
    from app.reporting import report

    loaded = load_profile(profile)
    measured = chosen(loaded, None)
    devices = open_devices(loaded if measured is None else measured.content.for_devices(loaded), seed)
    report(stop_stage(devices), as_json)


def register(app: typer.Typer) -> None:
    """Add the operator's commands to the command line."""
    from app.bench.small import light, snap

    for command in (check, darks, characterise, align, jog, move, stop, snap, light):
        app.command()(command)
