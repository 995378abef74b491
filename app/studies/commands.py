"""`ptychoscope study ...`: options of the studies; what they do is loaded when one is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.errors import Interrupted
from app.options import DeviceOption, JsonOption, above_zero, finite_number, refuse_given
from recon.limits import MOST_SEED

MOST_PROCESSES = 1024
"""Of one machine."""

study = typer.Typer(help="Simulate and reconstruct, many times: what a method needs, in figures.", no_args_is_help=True)


def _tell(run: Callable[[], dict[str, Any]], as_json: bool, *names: str) -> None:
    """The result of a study on stdout, also what is finished of one that somebody stopped.

    Args:
        run: the study.
        as_json: one line, with `interrupted`; else the table and the values of these names.
    """
    from app.reporting import report

    stopped: Interrupted | None = None
    try:
        values = run()
    except Interrupted as error:
        stopped, values = error, error.values
    if as_json:
        told = {key: value for key, value in values.items() if key != "table"}
        report(told | {"interrupted": stopped is not None}, True)
    elif "table" in values:
        typer.echo(values["table"])
        report({key: values[key] for key in names if key in values}, False)
    if stopped is not None:
        raise stopped


@study.command()
def dose(
    objects: Annotated[
        str, typer.Option(help="mnist:test, a .npy or .npz stack (N, 32, 32) in 0..1, or a folder of images.")
    ] = "mnist:test",
    photons: Annotated[
        str, typer.Option(help="Photons per exposure, in the illumination.")
    ] = "10,30,100,300,1000,3000,1e4,1e5,1e6",
    read_noise: Annotated[str, typer.Option(help="Electrons a pixel.")] = "0.3,2.3",
    positions: Annotated[int, typer.Option(help="16 or 96 of the spiral's points.")] = 16,
    pose: Annotated[str, typer.Option(help="known, or free: shift, turn, size and flux at random.")] = "known",
    truth: Annotated[str, typer.Option(help="matched (grey, the decoder's own resize) or mask (binary).")] = "matched",
    methods: Annotated[str, typer.Option(help="Of latent, hybrid, paper and pixel (conventional).")] = "latent,paper",
    decoder: Annotated[list[str] | None, typer.Option(help="A decoder; may be given again. Default mnist.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Exposures of each object, with their own noise and pose.")
    ] = 1,
    count: Annotated[int | None, typer.Option(min=1, help="Objects, the first ones; default 24, or all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of finished cases, table and figure; go on in it.")] = Path("dose"),
    device: DeviceOption = "auto",
    processes: Annotated[
        int | None, typer.Option(min=1, max=MOST_PROCESSES, help="On a CPU; default one a core.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, tcp://HOST:8786.")] = None,
    as_json: JsonOption = False,
) -> None:
    """PSNR, success and the doses they need against photons per exposure (the paper's Fig. 5).

    Starts again where it stopped: finished cases are kept in the folder. Ctrl-C keeps and draws what is there; the
    exit code is then 130.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from app.studies.dose import run_dose_study
    from app.studies.grid import DoseStudy, numbers
    from app.studies.objects import MNIST

    asked = DoseStudy(
        objects=objects,
        photons=numbers("--photons", photons),
        read_noise=numbers("--read-noise", read_noise),
        positions=positions,
        pose=pose,
        truth=truth,
        methods=tuple(methods.split(",")),
        decoders=tuple(decoder or ("mnist",)),
        seeds=seeds,
        count=24 if count is None and objects == MNIST else count,
    )
    _tell(
        lambda: run_dose_study(asked, out, device=device, scheduler=scheduler, process_count=processes),
        as_json,
        "out",
        "figure",
        "cases",
        "seconds",
    )


@study.command(name="next")
def next_frame(
    objects: Annotated[
        str, typer.Option(help="mnist:test, a .npy or .npz stack (N, 32, 32) in 0..1, or a folder of images.")
    ] = "mnist:test",
    count: Annotated[int | None, typer.Option(min=1, help="Objects, the first ones; default 8, or all.")] = None,
    photons: Annotated[
        float, typer.Option(callback=above_zero, help="Photons in one frame, in the illumination.")
    ] = 300.0,
    frames: Annotated[int, typer.Option(min=1, max=96, help="Frames of each scan.")] = 16,
    candidates: Annotated[int, typer.Option(help="16, 48 or 96 of the spiral's points to choose from.")] = 48,
    read_noise: Annotated[float, typer.Option(min=0, callback=finite_number, help="Electrons a pixel.")] = 0.3,
    truth: Annotated[str, typer.Option(help="matched (grey, the decoder's own resize) or mask (binary).")] = "matched",
    orders: Annotated[
        str, typer.Option(help="Of spiral (every 6th point), random, prior, posterior and deviation.")
    ] = "spiral,random,prior,posterior",
    sigma: Annotated[
        float, typer.Option(callback=above_zero, help="The target: recovered, with at most this mean deviation.")
    ] = 0.1,
    decoder: Annotated[str, typer.Option(help="The decoder.")] = "mnist",
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Scans of each object, with their own noise.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of finished scans, table and figure; go on in it.")] = Path("next"),
    device: DeviceOption = "auto",
    processes: Annotated[
        int | None, typer.Option(min=1, max=MOST_PROCESSES, help="On a CPU; default one a core.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What it saves to take the next frame where the posterior says that it will tell most.

    Starts again where it stopped: finished scans are kept in the folder. Ctrl-C keeps and draws what is there; the
    exit code is then 130.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from app.studies.nextframe import NextStudy
    from app.studies.nextframe_study import run_next_study
    from app.studies.objects import MNIST

    asked = NextStudy(
        objects=objects,
        count=8 if count is None and objects == MNIST else count,
        photons=photons,
        frames=frames,
        candidates=candidates,
        read_noise=read_noise,
        truth=truth,
        orders=tuple(orders.split(",")),
        sigma=sigma,
        decoder=decoder,
        seeds=seeds,
    )
    _tell(
        lambda: run_next_study(asked, out, device=device, process_count=processes),
        as_json,
        "out",
        "figure",
        "cases",
        "seconds",
    )


@study.command()
def landscape(
    context: typer.Context,
    objects: Annotated[
        str, typer.Option(help="Simulated: mnist:test, a .npy or .npz stack (N, 32, 32) in 0..1, or a folder.")
    ] = "mnist:test",
    index: Annotated[int, typer.Option(min=0, help="Simulated: which of them; MNIST's fifth test digit is a 4.")] = 4,
    truth: Annotated[str, typer.Option(help="Simulated: matched (grey) or mask (binary).")] = "matched",
    photons: Annotated[str, typer.Option(help="Simulated: photons per exposure.")] = "300,1e6",
    read_noise: Annotated[
        float, typer.Option(min=0, callback=finite_number, help="Simulated: electrons a pixel.")
    ] = 0.3,
    positions: Annotated[int, typer.Option(help="Simulated: 16 or 96 of the spiral's points.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Simulated: of the noise.")] = 0,
    run: Annotated[Path | None, typer.Option(help="A calibrated run instead of the simulated scene.")] = None,
    exposure: Annotated[
        list[float] | None,
        typer.Option(callback=above_zero, help="With --run: s; may be given again. Default longest and shortest."),
    ] = None,
    pose: Annotated[str, typer.Option(help="With --run: free (found at the brightest exposure) or known.")] = "free",
    decoder: Annotated[
        list[str] | None, typer.Option(help="A decoder, the general one first; default mnist and mnist-4.")
    ] = None,
    losses: Annotated[
        str, typer.Option(help="mixed (Eq. 1), poisson, exact, ... with commas.")
    ] = "mixed,poisson,exact",
    centre: Annotated[
        str, typer.Option(help="shared: Eq. 1's optimum at the brightest exposure; own: each landscape's own.")
    ] = "shared",
    units: Annotated[
        str, typer.Option(help="Where the window is a square: whitened, or paper (latents as they are).")
    ] = "whitened",
    reach: Annotated[float, typer.Option(callback=above_zero, help="Half of the window, standard deviations.")] = 3.0,
    points: Annotated[int, typer.Option(help="Each way.")] = 101,
    out: Annotated[Path, typer.Option(help="Folder for figures, table and grids.")] = Path("landscape"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Loss over the two leading principal components of the latents around an optimum (the paper's Fig. 6).

    Ctrl-C keeps and draws the planes that are complete; the exit code is then 130.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from app.studies.grid import numbers
    from app.studies.landscape import LandscapeStudy, run_landscape_study

    if run is not None:
        simulated = ("objects", "index", "truth", "photons", "read_noise", "positions", "seed")
        refuse_given(context, simulated, f"for the simulated scene, but --run {run} is given")
    else:
        refuse_given(context, ("exposure", "pose"), "for --run FILE, the simulated scene has --photons")
    asked = LandscapeStudy(
        objects=objects,
        index=index,
        truth=truth,
        photons=numbers("--photons", photons),
        read_noise=read_noise,
        positions=positions,
        seed=seed,
        run=run,
        exposures_s=tuple(exposure or ()),
        pose=pose,
        decoders=tuple(decoder or ("mnist", "mnist-4")),
        losses=tuple(losses.split(",")),
        centre=centre,
        units=units,
        reach=reach,
        points=points,
    )
    _tell(lambda: run_landscape_study(asked, out, device=device), as_json, "out", "figure", "maps", "grids", "seconds")


@study.command()
def decoder(
    decoder: Annotated[
        list[str] | None, typer.Option(help="A decoder; may be given again. Default: those of the paper's Fig. 3.")
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite_number,
            help="An axis of the latents counts if its variance exceeds this share of the largest.",
        ),
    ] = 0.01,
    digits: Annotated[str, typer.Option(help="The two digits to interpolate between.")] = "9,0",
    count: Annotated[int, typer.Option(min=2, help="Validation images, at most.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the draws.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for figure and table.")] = Path("decoder"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Ranks, interpolations and samples of decoders, on digits that they were not trained on (the paper's Fig. 3)."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from app.errors import UsageError
    from app.studies.decoder import SHIPPED, DecoderStudy, run_decoder_study

    words = [word.strip() for word in digits.split(",")]
    if len(words) != 2 or not all(len(word) == 1 and word.isdecimal() for word in words):
        raise UsageError(f"--digits {digits!r}: give two digits from 0 to 9, such as 9,0")
    asked = DecoderStudy(
        decoders=tuple(decoder or SHIPPED),
        threshold=threshold,
        digits=(int(words[0]), int(words[1])),
        count=count,
        seed=seed,
    )
    _tell(lambda: run_decoder_study(asked, out, device=device), as_json, "out", "figure", "seconds")
