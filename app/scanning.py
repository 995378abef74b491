"""`ptychoscope scan` and `replay`: the commands that put a run onto the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.errors import Interrupted, UsageError
from app.options import (
    CharacterisationOption,
    JsonOption,
    ObjectOption,
    ProfileOption,
    SeedOption,
    finite_number,
    refuse_given,
    within,
)
from app.reporting import report
from app.stopping import Interrupt
from recon.limits import DEVIATION


def scan_command(
    context: typer.Context,
    profile: ProfileOption = "quick",
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    out: Annotated[Path | None, typer.Option(help="The run file to write, .h5 or .hdf5.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Complete this interrupted run; it knows all the rest.")] = None,
    darks: Annotated[Path | None, typer.Option(help="Use the darks of this file or run instead of new ones.")] = None,
    characterisation: CharacterisationOption = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Low dose: no bright scan, the calibration of this earlier run holds.")
    ] = None,
    bright: Annotated[
        bool,
        typer.Option("--bright", help="With --calibration and --enough: the bright scan as well, a single trajectory."),
    ] = False,
    passes: Annotated[
        int, typer.Option(min=1, max=10_000, help="Low dose: how often the evaluation points are visited.")
    ] = 1,
    no_empty: Annotated[bool, typer.Option("--no-empty", help="Low dose: no empty beam either.")] = False,
    enough: Annotated[
        float | None,
        typer.Option(
            callback=within(DEVIATION),
            help="Spend no light beyond an image that is recovered with this mean deviation at most: a low-dose scan "
            "ends, one with --bright leaves out the exposures that it does not need.",
        ),
    ] = None,
    next_by: Annotated[
        str | None,
        typer.Option("--next", help="With --enough: posterior visits the points first that will tell most."),
    ] = None,
    server: Annotated[str | None, typer.Option(help="With --enough: HOST:PORT of a `serve`; default: here.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Folder with CURVE keys for --server.")] = None,
    sample_name: Annotated[str, typer.Option(help="What people call the sample; stored with the run.")] = "",
    notes: Annotated[str, typer.Option(help="Stored with the run.")] = "",
    retake: Annotated[Path | None, typer.Option(help="Take points of this complete run again (--point).")] = None,
    point: Annotated[list[int] | None, typer.Option(help="With --retake: a scan point; may be given again.")] = None,
    abort_after: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a scan into a file, or complete an interrupted one. It moves without asking; `check` shows the plan.

    Ctrl-C aborts and leaves a file that can be resumed, with the command that the last line says; the exit code is then
    130.
    """
    from app.acquire.command import retake_points, run_scan
    from app.acquire.scan import Label

    interrupt = Interrupt()
    if sum(path is not None for path in (out, resume, retake)) != 1:
        raise UsageError("scan: give one of --out FILE (new run), --resume FILE (interrupted), --retake FILE (points)")
    if (retake is None) != (not point):
        raise UsageError("scan: --retake FILE takes the points that --point names; give both")
    if out is None:
        # Profile, sample and all the rest are those of the file.
        known = {"out", "resume", "retake", "point", "abort_after", "as_json"}
        others = [parameter for parameter in context.params if parameter not in known]
        refuse_given(context, others, f"{resume or retake} knows the rest of its scan")
    if retake is not None and point:
        _end_scan(retake_points(retake, point, interrupt), interrupt, as_json)
        return
    if (calibration is None or bright) and (passes > 1 or no_empty):
        raise UsageError("scan: --passes and --no-empty are for low-dose scans; give --calibration OTHER.h5 alone")
    if calibration is None and (enough is not None or bright):
        raise UsageError(
            "scan: before its bright scan is complete a run has no calibration to judge images by; give --calibration "
            "OTHER.h5, for a low-dose scan alone, for a single trajectory with --bright, or leave both out"
        )
    if bright and enough is None:
        raise UsageError("scan: --bright with --calibration is for --enough SIGMA; give that, or leave both out")
    if enough is None and (server or keys):
        raise UsageError("scan: --server and --keys are for --enough SIGMA, which has somebody look at the image")
    if next_by is not None and (next_by != "posterior" or enough is None or bright):
        raise UsageError(
            f"scan: --next {next_by}: there is --next posterior, and it is for --enough SIGMA without --bright"
        )
    live = None
    if enough is not None:
        from app.worker.enough import Target
        from app.worker.serving import reconstruction

        live = reconstruction(server, keys)
        live.target = Target(enough)
        if next_by is not None:
            live.look_ahead()
    values = run_scan(
        profile,
        seed,
        sample,
        out,
        resume,
        abort_after,
        darks,
        characterisation,
        calibration,
        passes,
        not no_empty,
        interrupt,
        Label(sample_name, notes),
        live,
        bright,
    )
    _end_scan(values, interrupt, as_json)


def _end_scan(values: dict[str, Any], interrupt: Interrupt, as_json: bool) -> None:
    report(values if as_json else {name: value for name, value in values.items() if name != "go_on"}, as_json)
    if values["outcome"] == "aborted":
        how = (
            f"go on with `{values['go_on']}`"
            if "go_on" in values
            else "the same command with another --out begins anew"
        )
        taken = f"what was taken is kept in {values['run']}, {values['frames']} frames besides darks"
        raise Interrupted(f"{taken}; {how}", interrupt.exit_code)


def replay_command(
    path: Annotated[Path, typer.Argument(help="The run to replay.")],
    out: Annotated[Path, typer.Option(help="The run file to write, .h5: the same frames and positions.")],
    speed: Annotated[
        float | None,
        typer.Option(
            min=1e-3, max=1e6, callback=finite_number, help="Recorded seconds a second; default: as fast as it goes."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Execute a run's plan again with its recorded frames and positions as devices. No driver is opened, nothing moves.

    `gui --replay RUN.h5` plays it in the window.
    """
    from app.replaying import replay_run

    interrupt = Interrupt()
    _end_scan(replay_run(path, out, speed, interrupt), interrupt, as_json)
