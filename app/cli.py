"""The command line. Each command imports what it needs when it is called: a scan never waits for torch."""

from __future__ import annotations

from app.stopping import hear_from_the_start  # isort: skip

# Before the rest is loaded.
if __name__ == "__main__":
    hear_from_the_start()

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.errors import UsageError, run_guarded
from app.group import StoppableGroup
from app.options import (
    MOST_EPOCHS,
    CornerOption,
    DeviceOption,
    DistanceOption,
    FarFieldOption,
    FocusOption,
    JsonOption,
    ObjectOption,
    OrderSeedOption,
    PixelSizeOption,
    ProbeDiameterOption,
    ProbeOption,
    ProfileOption,
    SeedOption,
    VersionOption,
    WavelengthOption,
    above_zero,
    finite_number,
    refuse_given,
    require_one_start,
)
from app.reporting import report, told_when_stopped
from app.scanning import replay_command, scan_command
from app.stopping import hear_at_the_end, leave, recorder_given_up
from app.streams import drain, spare_work
from recon.limits import MOST_MODES, MOST_RATE, MOST_SEED

app = typer.Typer(
    cls=StoppableGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """The `ptychoscope` program."""
    hear_from_the_start()
    spare_work()
    try:
        try:
            code = run_guarded(lambda: app(standalone_mode=False))
        finally:
            drain()
        hear_at_the_end(code)
    except KeyboardInterrupt:
        leave()
    if recorder_given_up():
        # A thread that hangs in its disk would hold the end of the program up as well.
        os._exit(code)
    sys.exit(code)


@app.callback()
def program(version: VersionOption = False) -> None:
    """Optical ptychography bench: scan, calibrate, and recover objects from a handful of photons."""


app.command("scan")(scan_command)
app.command("replay")(replay_command)


@app.command()
def gui(
    context: typer.Context,
    profile: Annotated[str | None, typer.Option(help="Connect this profile's bench; default: quick.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Show this run again instead; no device is opened.")] = None,
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    speed: Annotated[
        float, typer.Option(min=0.1, max=1000, callback=finite_number, help="How fast simulated time passes.")
    ] = 1.0,
    server: Annotated[
        str | None, typer.Option(help="HOST:PORT of a `serve` that reconstructs; default: a process of its own here.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="Folder with CURVE keys for --server.")] = None,
    no_live: Annotated[bool, typer.Option("--no-live", help="Begin without live reconstruction.")] = False,
) -> None:
    """The window: camera, stage, light, scan, live reconstruction and replay.

    Nothing moves when it opens; Esc stops the stage, always.
    """
    try:
        from app.gui.connect import Choice
        from app.gui.live import LivePanel
        from app.gui.program import run_window
    except ImportError as error:
        raise UsageError(
            f"gui: Qt cannot be loaded ({error}); pip install PyQt5 pyqtgraph, on Debian also the libraries that "
            "docs/window.md lists"
        ) from None
    if replay is not None and profile is not None:
        raise UsageError("gui: give either --profile or --replay, a replay has no bench")
    if replay is not None:
        refuse_given(context, ("seed", "sample", "speed"), "a replay has no bench")
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))):
        # Qt would end the whole program.
        raise UsageError("gui: no screen here (DISPLAY is not set); start it in a desktop session, or ssh with -X")
    if no_live:
        refuse_given(context, ("server", "keys"), "--no-live begins without a reconstruction")
    from app.worker.serving import reconstruction

    live = reconstruction(server, keys, not no_live)
    choice = None if replay is not None else Choice(profile or "quick", seed, sample, speed)
    code = run_window(choice, replay, lambda: (LivePanel(live),))
    if code:
        raise typer.Exit(code)


@app.command()
def calibrate(
    path: Annotated[Path, typer.Argument(help="A run, or a CXI, PtyLab or npz file of somebody else's.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the figure; default beside the file.")] = None,
    focus_to_sample: FocusOption = None,
    wavelength: WavelengthOption = None,
    distance: DistanceOption = None,
    pixel_size: PixelSizeOption = None,
    far_field: FarFieldOption = False,
    zero_in_corner: CornerOption = False,
    probe_diameter: ProbeDiameterOption = None,
    probe: ProbeOption = None,
    modes: Annotated[int, typer.Option(min=1, max=MOST_MODES, help="Mutually incoherent modes of the probe.")] = 1,
    flux_spread: Annotated[
        float | None,
        typer.Option(
            min=1e-6, max=10, callback=finite_number, help="Search each frame's flux; how far it may be off, relative."
        ),
    ] = None,
    background_spread: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1000,
            callback=finite_number,
            help="Search a uniform background; its size over a pixel's mean signal.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=MOST_EPOCHS, help="Epochs in all; default: by the kind of data.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to keep the state in; where it exists, go on from it.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Frames per step of all processes; default: few.")] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1e6,
            callback=finite_number,
            help="GB of frames to hold in each process, the rest is streamed; default: half of free.",
        ),
    ] = None,
    no_uncertainty: Annotated[
        bool, typer.Option("--no-uncertainty", help="Leave the standard deviations out.")
    ] = False,
    device: DeviceOption = "auto",
    seed: OrderSeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Find probe, object, distance and positions from a bright scan.

    Ctrl-C keeps the best so far, marked as interrupted, unless the run holds a complete calibration; the exit code is
    then 130. With --checkpoint the same command goes on.

    Several processes: torchrun --nproc-per-node N -m app.cli calibrate ...
    """
    _gentle_threads()
    from app.calibration import calibrate_file
    from recon.files.imports import Overrides

    require_one_start(probe, probe_diameter)
    overrides = Overrides(wavelength, distance, pixel_size, focus_to_sample, far_field, zero_in_corner)
    budget = None if memory is None else memory * 1e9
    with told_when_stopped(as_json):
        values = calibrate_file(
            path,
            out,
            device,
            probe_diameter,
            epochs,
            seed,
            overrides,
            checkpoint,
            budget,
            batch,
            with_uncertainty=not no_uncertainty,
            modes=modes,
            probe_file=probe,
            flux_prior=flux_spread,
            background_prior=background_spread,
        )
    if values:
        report(values, as_json)


@app.command()
def reconstruct(
    path: Annotated[Path, typer.Argument(help="A calibrated run.")],
    method: Annotated[
        str, typer.Option(help="latent, hybrid (decoder and free pixels), paper (its estimator), conventional.")
    ] = "latent",
    decoder: Annotated[
        str | None,
        typer.Option(
            help="mnist, mnist-3, mnist-4, mnist-64, mnist-complex, a path; auto ranks them by evidence (auto:A,B)."
        ),
    ] = None,
    exposure: Annotated[
        str | None,
        typer.Option(help="Exposure, s; default the shortest. latent: several together, A,B,... or all of them."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the figure; default beside the run.")] = None,
    pose: Annotated[
        str | None, typer.Option(help="latent: free (default; the sample was put in by hand) or known.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(
            callback=above_zero,
            max=MOST_RATE,
            help="paper: Adam's at the start; may be given again. Default 0.3 and 1.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_EPOCHS,
            help="paper: passes over the patterns, default 40 (in the paper 100); conventional: steps at most, 60.",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="paper: mean (of the training latents; default), random, or both in turn.")
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="paper: mixed (Eq. 1, default) or poisson; conventional: exact or mixed, default by noise."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Probe, distance and flux of this run; a low-dose run knows its own.")
    ] = None,
    marginalise: Annotated[
        bool,
        typer.Option(
            "--marginalise", help="latent: integrate out positions and distance by what calibration and stage know."
        ),
    ] = False,
    position_sigma: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite_number, help="latent, m: integrate out positions uncertain by this, each by itself."
        ),
    ] = None,
    flux_sigma: Annotated[
        float | None,
        typer.Option(min=0, callback=finite_number, help="latent, relative: the same of the light at each stop."),
    ] = None,
    distance_sigma: Annotated[
        float | None, typer.Option(min=0, callback=finite_number, help="latent, m: the same of the distance.")
    ] = None,
    rehearsals: Annotated[
        int | None, typer.Option(min=1, max=1000, help="hybrid: standard deviations from so many rehearsals; 8 do.")
    ] = None,
    positivity: Annotated[
        bool | None,
        typer.Option(
            "--positivity/--no-positivity",
            help="conventional: real amplitude in 0..1 (default), or free complex pixels.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_SEED,
            help="paper: order of the patterns, random start; conventional: held-out pixels. Default 0.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recover the object at one exposure of a calibrated run.

    Latent: a posterior over what the decoder can draw, with error bars and a verdict; hybrid: it and what the light
    adds; conventional: free pixels; paper: Adam on Eq. 1 without a prior, 40 epochs from the mean latent at two rates,
    the lowest loss is kept. The paper's full procedure, some six times as long: --epochs 100 --start both
    --learning-rate 0.1 --learning-rate 0.3 --learning-rate 1. Ctrl-C keeps what there is, marked as interrupted, unless
    the run holds a complete image; the exit code is then 130.
    """
    _gentle_threads()
    from app.combining import Doubt
    from app.reconstruction import reconstruct_file
    from app.request import Request

    request = Request(
        method=method,
        decoder=decoder,
        exposure=exposure,
        doubt=Doubt(marginalise, position_sigma, flux_sigma, distance_sigma),
        pose=pose,
        rehearsals=rehearsals,
        positivity=positivity,
        learning_rates=tuple(learning_rate or ()),
        epochs=epochs,
        start=start,
        loss=loss,
        seed=seed,
    )
    with told_when_stopped(as_json):
        values = reconstruct_file(path, request, out, device, calibration)
    report(values, as_json)


@app.command()
def demo(
    profile: ProfileOption = "quick",
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    out: Annotated[Path, typer.Option(help="Folder for run, report and figures.")] = Path("demo"),
    decoder: Annotated[str | None, typer.Option(help="mnist, mnist-3, mnist-4, mnist-64 or a package's path.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """The paper's experiment on the simulated bench: scan, calibrate, reconstruct at every exposure, draw."""
    _gentle_threads()
    from app.demo import run_demo

    with told_when_stopped(as_json):
        values = run_demo(profile, seed, sample, out, device, decoder)
    report(values if as_json else {k: values[k] for k in ("seconds", "run", "figure")}, as_json)


def _gentle_threads() -> None:
    """Threads that wait asleep: beside another busy program, spinning ones make torch ten times slower."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _register() -> None:
    """Commands that bring their own options; their modules load nothing heavy before they run."""
    from app.bench import commands
    from app.exchange import export_command, import_command
    from app.orientation import orient_command
    from app.studies.commands import study
    from app.training import train
    from app.worker.serving import serve

    app.command("import")(import_command)
    app.command("export")(export_command)
    app.command("orient")(orient_command)
    app.command()(train)
    app.command()(serve)
    app.add_typer(study, name="study")
    commands.register(app)


_register()


if __name__ == "__main__":
    main()
