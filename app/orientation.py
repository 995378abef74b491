"""`ptychoscope orient`: which way round the frames of any readable file are."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import Interrupted
from app.options import (
    CornerOption,
    DeviceOption,
    DistanceOption,
    FarFieldOption,
    FocusOption,
    JsonOption,
    OrderSeedOption,
    PixelSizeOption,
    ProbeDiameterOption,
    ProbeOption,
    WavelengthOption,
    require_one_start,
)

ALL = 16
"""Orientations."""

if TYPE_CHECKING:
    from recon.files.imports import Overrides
    from recon.orient import Verdict


def orient_file(
    path: Path,
    out: Path | None,
    device: str,
    probe_diameter_m: float | None,
    seed: int,
    overrides: Overrides,
    probe_file: Path | None = None,
) -> dict[str, Any]:
    """Rank the sixteen orientations of a file and draw them; the file is only read.

    Returns the values of the command's JSON line.

    Raises:
        DatasetError, UsageError: one line.
        Interrupted: somebody stopped it; the orientations that were tried are drawn.
    """
    from rich.table import Table

    from app.calibration import bright_scan
    from app.figures import orientation_figure
    from app.outputs import require_folder
    from app.progress import Course
    from recon.device import keep_memory, pick_device
    from recon.files.imports import read_probe
    from recon.orient import JOINT, WARM, orient

    begin = time.monotonic()
    folder = out or path.with_name(f"{path.stem}-orientation")
    require_folder("orient", folder)
    device = pick_device(device)
    data, settings, _ = bright_scan(path, probe_diameter_m, seed, overrides)
    probe = None if probe_file is None else read_probe(probe_file)
    keep_memory()
    with data, Course() as course:
        course.begin("orientations", 8 * (WARM + JOINT))
        with course.interruptible():
            verdict = orient(
                data,
                # A trial has few frames and takes few a step.
                replace(settings, batch=None),
                device=device,
                report=lambda done, _, name: course.advance(done, name),
                stop=course.stopped,
                probe=probe,
            )
        table = Table(title="orientations, two names for the same thing in a line")
        for column in ("frames and positions", "the same, turned by 180 degrees", "loss", "over the best"):
            table.add_column(column, justify="left" if column[0] in "ft" else "right")
        best = verdict.trials[0].loss
        for first, second in zip(verdict.trials[::2], verdict.trials[1::2], strict=True):
            table.add_row(
                first.orientation.name, second.orientation.name, f"{first.loss:.4g}", f"{first.loss / best - 1:+.1%}"
            )
        course.console.print(table)
    statement = conclusion(verdict)
    figure = orientation_figure(
        [(t.orientation.name, t.loss, t.object) for t in verdict.trials],
        data.geometry.object_pixel_m,
        f"{path.name}: {statement}",
        folder / "orientation.png",
    )
    values = {
        "best": verdict.best.name,
        "best_frames": verdict.best.frames,
        "best_sign": verdict.best.sign,
        "as_given": verdict.as_given,
        "margin": verdict.margin,
        "clear": verdict.clear,
        "statement": statement,
        "losses": [
            {"frames": t.orientation.frames, "sign": t.orientation.sign, "name": t.orientation.name, "loss": t.loss}
            for t in verdict.trials
        ],
        "interrupted": len(verdict.trials) < ALL,
        "seconds": time.monotonic() - begin,
        "figure": str(figure),
    }
    if course.stopped():
        tried = f"{len(verdict.trials)} of {ALL} orientations were tried, and drawn in {figure}"
        raise Interrupted(f"orient: {tried}; the same command begins anew", values=values)
    return values


def conclusion(verdict: Verdict) -> str:
    """One sentence: what is best, by how much, and what is the same."""
    best = verdict.best
    if not verdict.clear:
        second = verdict.trials[2].orientation.name if len(verdict.trials) > 2 else "nothing else tried"
        return f"undecided: {best.name} and {second} differ by {verdict.margin:.2%} only; take more frames or light"
    what = "right as it is" if verdict.as_given else f"best with {best.name}"
    return f"{what}, loss of the next {verdict.margin + 1:.3g} times as large; the same as {best.same.name}"


def orient_command(
    path: Annotated[Path, typer.Argument(help="A run, or a CXI, PtyLab or npz file of somebody else's.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the picture; default beside the file.")] = None,
    focus_to_sample: FocusOption = None,
    wavelength: WavelengthOption = None,
    distance: DistanceOption = None,
    pixel_size: PixelSizeOption = None,
    far_field: FarFieldOption = False,
    zero_in_corner: CornerOption = False,
    probe_diameter: ProbeDiameterOption = None,
    probe: ProbeOption = None,
    device: DeviceOption = "auto",
    seed: OrderSeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Which way round the frames are: flips, transposes and the positions' sign, ranked by loss. Nothing is changed.

    Ctrl-C draws what was tried; the exit code is then 130.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from app.reporting import report, told_when_stopped
    from recon.files.imports import Overrides

    require_one_start(probe, probe_diameter)
    overrides = Overrides(wavelength, distance, pixel_size, focus_to_sample, far_field, zero_in_corner)
    with told_when_stopped(as_json):
        values = orient_file(path, out, device, probe_diameter, seed, overrides, probe)
    report(values if as_json else {k: v for k, v in values.items() if k != "losses"}, as_json)
