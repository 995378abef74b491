"""`ptychoscope train`: a decoder from MNIST, an IDX file or a folder of pictures, with progress and resumption.

Torch is loaded by the work itself, not by this module.
"""

from __future__ import annotations

import json as json_format
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.options import MOST_EPOCHS
from app.outputs import require_folder
from app.priors import PriorResult, command_for, make_prior, prior_file, prior_of
from app.training_images import TrainCommandError, training_images
from recon.limits import MOST_SEED

SUFFIX = ".safetensors"
DECODER_ONLY = ("epochs", "batch", "latent", "linear_layers", "linear_start", "image_size", "phase", "name", "out")
"""Options that have no meaning where the decoder is there already."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training has made.

    Attributes:
        file: the decoder package.
        epochs: passes over the images, those of an earlier, interrupted call included.
        seconds: wall time of this call.
        loss: of the last epoch, nats a pixel.
        validation_psnr_db: mean over the validation images, through the network before it is stored.
        effective_rank: of the latents' covariance, at a thousandth of its largest singular value.
        images: number of training images.
        interrupted: stopped by Ctrl-C; there is a checkpoint but no package, or a package but no prior.
        prior: what was made beside the package; None where it was not come to.
    """

    file: Path
    epochs: int
    seconds: float
    loss: float
    validation_psnr_db: float
    effective_rank: int | None
    images: int
    interrupted: bool = False
    prior: PriorResult | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values, every number finite or null."""

        def finite(value: float) -> float | None:
            return value if math.isfinite(value) else None

        prior = self.prior.as_json() if self.prior else {}
        return {
            "decoder": self.file.stem,
            "file": str(self.file),
            "images": self.images,
            "epochs": self.epochs,
            "seconds": round(self.seconds, 3),
            "loss": finite(self.loss),
            "validation_psnr_db": finite(self.validation_psnr_db),
            "effective_rank": self.effective_rank,
            "interrupted": self.interrupted,
            **{key: prior.get(key) for key in ("prior", "sketch_db", "unseen_nats", "unseen_accuracy", "misfit_z")},
        }


def _target(images: Path | None, only: int | None, phase: bool, name: str | None, out: Path | None) -> Path:
    """Where the package goes: --out as a file, or --name (or the source's name) in --out as a folder or here."""
    folder = Path()
    if out is not None and not out.is_dir():
        if out.suffix != SUFFIX:
            raise TrainCommandError(f"--out {out}: give a file that ends in {SUFFIX} or an existing folder")
        if name is not None:
            raise TrainCommandError(
                f"--name {name} and --out {out} both name the package; give one, or a folder as --out"
            )
        target = out
    else:
        folder = out or folder
        if name is None:
            # "letters-idx3-ubyte.gz" and the folder "letters" both train the decoder "letters".
            stem = "mnist" if images is None else images.resolve().name.split(".")[0].removesuffix("-idx3-ubyte")
            name = (stem if only is None else f"{stem}-{only}") + "-complex" * phase
        target = folder / f"{name.removesuffix(SUFFIX)}{SUFFIX}"
    if target.exists():
        raise TrainCommandError(f"{target}: exists already; give another --out or remove it")
    if prior_file(target).exists():
        raise TrainCommandError(f"{prior_file(target)}: is the prior of a decoder that is gone; remove it")
    return target


def _require_writable(target: Path) -> None:
    """Raise `TrainCommandError` unless a file can be written there, before hours are spent on it; makes its folder."""
    trial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise TrainCommandError(
            f"--out {target}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def train_decoder(
    *,
    images: Path | None = None,
    labels: Path | None = None,
    only: int | None = None,
    epochs: int = 16,
    batch: int = 128,
    seed: int = 0,
    device: str = "auto",
    latent: int = 128,
    linear_layers: int = 8,
    linear_start: str = "orthogonal",
    image_size: int = 32,
    validation: str | None = None,
    dark_ink: bool = False,
    binary: bool = False,
    phase: bool = False,
    name: str | None = None,
    out: Path | None = None,
    sketch_pairs: int | None = None,
    sketch_epochs: int | None = None,
) -> TrainingResult:
    """Train and store a decoder, then its prior; progress, with the time left, goes to stderr.

    The options are those of `train`. The state after every epoch is kept beside the output. After Ctrl-C the result is
    marked `interrupted`, and the same call goes on from there; once the decoder is stored, `make_prior` does.

    Raises:
        TrainCommandError: one line.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from app.progress import LeftColumn, stderr_console
    from app.timeleft import TimeLeft
    from recon.decoders.images import ImageSourceError

    started = time.monotonic()
    target = _target(images, only, phase, name, out)
    require_folder("train", target.parent)
    checkpoint = target.with_name(target.name + ".checkpoint")
    console = stderr_console()
    try:
        if image_size < 16 or image_size % 16:
            raise ValueError(f"--image-size {image_size}: is no positive multiple of 16; choose one")
        _require_writable(target)
        chosen_images = (images, labels, only, image_size, validation, dark_ink, seed, binary, phase)
        train_set, test_set = training_images(*chosen_images)
        if min(len(train_set.images), len(test_set.images)) < 2:
            raise ValueError(
                f"{len(train_set.images)} images to train and {len(test_set.images)} to validate are too few; "
                "both need at least two"
            )

        from recon.decoders.network import Architecture, ComplexArchitecture
        from recon.decoders.package import load_package, write_package
        from recon.decoders.training import EpochReport, TrainingError, TrainingSettings
        from recon.decoders.training import train as train_network
        from recon.device import DeviceError, pick_device
    except (ImageSourceError, ValueError, OSError) as error:
        raise TrainCommandError(" ".join(str(error).split())) from None

    reports: list[EpochReport] = []
    interrupted, rank = False, None
    try:
        chosen = pick_device(device)
        kind = ComplexArchitecture if phase else Architecture
        architecture = kind.of_size(image_size, latent, linear_layers)
        settings = TrainingSettings(epochs=epochs, batch=batch, seed=seed, linear_start=linear_start)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), LeftColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            left = TimeLeft()
            bar = progress.add_task(f"training {target.stem}", total=None, left=left)
            console.print(
                f"training {target.stem} on {chosen}: {len(train_set.images)} images from {train_set.source}, "
                f"{len(test_set.images)} to validate, {epochs} epochs",
                highlight=False,
                soft_wrap=True,
            )

            def step(done: int, total: int) -> None:
                if not reports and done and progress.tasks[0].total is None:
                    console.print(f"going on from {checkpoint}", highlight=False, soft_wrap=True)
                if progress.tasks[0].total is None:
                    progress.reset(bar, total=total, completed=done)
                left.step(done / total)
                progress.update(bar, completed=done)

            def report(epoch: EpochReport) -> None:
                reports.append(epoch)
                console.print(
                    f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f}, "
                    f"validation {epoch.validation_psnr_db:.2f} dB, {time.monotonic() - started:.0f} s",
                    highlight=False,
                    soft_wrap=True,
                )

            network, record = train_network(
                train_set.images,
                test_set.images,
                architecture,
                settings,
                source=train_set.source,
                device=chosen,
                checkpoint=checkpoint,
                report=report,
                step=step,
            )
        write_package(target, network, train_set.images, record)
        rank = load_package(str(target), None).effective_rank()
        history = record["history"]
        checkpoint.unlink(missing_ok=True)
    except KeyboardInterrupt:
        interrupted = True
        last = reports[-1] if reports else None
        history = [{"loss": last.loss, "validation_psnr_db": last.validation_psnr_db}] if last else []
        hint = f"kept in {checkpoint}; the same command goes on" if checkpoint.exists() else "no epoch was complete"
        console.print(f"interrupted: {hint}", highlight=False, soft_wrap=True)
    except (DeviceError, TrainingError, ValueError, OSError) as error:
        raise TrainCommandError(" ".join(str(error).split())) from None
    prior: PriorResult | None = None
    if not interrupted:
        try:
            prior = make_prior(target, train_set, test_set, device=device, pairs=sketch_pairs, epochs=sketch_epochs)
        except TrainCommandError as error:
            raise TrainCommandError(f"the decoder is in {target}, but has no prior: {error}") from None
        if prior.interrupted:
            command = command_for(target, images, labels, only, validation, dark_ink, binary, seed)
            console.print(
                f"interrupted: the decoder is complete in {target}; make its prior with `{command}`",
                highlight=False,
                soft_wrap=True,
            )
    epochs_done = (reports[-1].epoch if reports else 0) if interrupted else len(history)
    return TrainingResult(
        file=target,
        epochs=epochs_done,
        seconds=time.monotonic() - started,
        loss=history[-1]["loss"] if history else math.nan,
        validation_psnr_db=history[-1]["validation_psnr_db"] if history else math.nan,
        effective_rank=rank,
        images=len(train_set.images),
        interrupted=interrupted or (prior is not None and prior.interrupted),
        prior=prior,
    )


def train(
    context: typer.Context,
    images: Annotated[
        Path | None,
        typer.Option(help="IDX file, .npy or .npz stack, or folder (a sub-folder a class); default MNIST."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="IDX file or stack of labels that goes with --images.")] = None,
    only: Annotated[int | None, typer.Option(help="Train on this label only.")] = None,
    epochs: Annotated[int, typer.Option(min=1, max=MOST_EPOCHS, help="Passes over the images.")] = 16,
    batch: Annotated[int, typer.Option(min=1, max=65536, help="Images per step.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of initialisation, shuffling and the validation split.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    latent: Annotated[int, typer.Option(min=1, max=2048, help="Length of the latent vector.")] = 128,
    linear_layers: Annotated[
        int, typer.Option(min=0, max=32, help="Rank-minimising layers; 0 is a plain autoencoder.")
    ] = 8,
    linear_start: Annotated[
        str, typer.Option(help="How those layers start: orthogonal, or glorot (the paper's framework; lower rank).")
    ] = "orthogonal",
    image_size: Annotated[
        int, typer.Option(min=16, max=1024, help="Side of the images, pixels, a multiple of 16.")
    ] = 32,
    validation: Annotated[
        str | None,
        typer.Option(help="IDX file, folder, or fraction held out; default MNIST's test set, else 0.1."),
    ] = None,
    dark_ink: Annotated[bool, typer.Option("--dark-ink", help="Pictures in folders are dark on bright.")] = False,
    binary: Annotated[
        bool, typer.Option("--binary", help="Redraw the grey images as binary strokes with soft edges: photomasks.")
    ] = False,
    phase: Annotated[
        bool, typer.Option("--phase", help="Draw a phase too, the relief of each image: one latent for both.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the decoder, when --out does not give it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Package to write (.safetensors), or an existing folder; default here.")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(help="Make only the prior, for this decoder (a shipped one's name or a package), of its images."),
    ] = None,
    sketch_pairs: Annotated[
        int | None,
        typer.Option(
            min=2, max=10_000_000, help="Images that the decoder draws to train its sketch, part of the prior."
        ),
    ] = None,
    sketch_epochs: Annotated[
        int | None, typer.Option(min=1, max=MOST_EPOCHS, help="Passes of the sketch over them.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Train a decoder on a class of images, then its prior: what the latent search needs to know beside it.

    After Ctrl-C the same command goes on where it was.
    """
    if prior is not None:
        sources = {key: context.get_parameter_source(key) for key in DECODER_ONLY}
        given = [key for key, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise TrainCommandError(f"{option} is for training a decoder; --prior {prior} leaves its decoder as it is")
        made = prior_of(
            prior,
            images=images,
            labels=labels,
            only=only,
            seed=seed,
            device=device,
            validation=validation,
            dark_ink=dark_ink,
            binary=binary,
            pairs=sketch_pairs,
            epochs=sketch_epochs,
        )
        if json:
            typer.echo(json_format.dumps(made.as_json(), allow_nan=False))
        elif not made.interrupted:
            typer.echo(str(made))
        if made.interrupted:
            raise typer.Exit(130)
        return
    result = train_decoder(
        images=images,
        labels=labels,
        only=only,
        epochs=epochs,
        batch=batch,
        seed=seed,
        device=device,
        latent=latent,
        linear_layers=linear_layers,
        linear_start=linear_start,
        image_size=image_size,
        validation=validation,
        dark_ink=dark_ink,
        binary=binary,
        phase=phase,
        name=name,
        out=out,
        sketch_pairs=sketch_pairs,
        sketch_epochs=sketch_epochs,
    )
    if json:
        typer.echo(json_format.dumps(result.as_json(), allow_nan=False))
    elif not result.interrupted:
        typer.echo(
            f"{result.file}: {result.validation_psnr_db:.2f} dB after {result.epochs} epochs, "
            f"effective rank {result.effective_rank}, {result.seconds:.0f} s"
        )
        typer.echo(str(result.prior))
    if result.interrupted:
        raise typer.Exit(130)
