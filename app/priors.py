"""The prior of a decoder, made after its training or for a package that is there: the end of `ptychoscope train`.

Torch is loaded by the work itself, not by this module.
"""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.outputs import require_folder
from app.training_images import TrainCommandError, training_images

if TYPE_CHECKING:
    from recon.decoders.images import LabelledImages

PIECES = {
    "latents": "encoding the images",
    "prior": "prior over latents, classes",
    "nearest": "nearest images",
    "pairs": "images for the sketch",
    "sketch": "training the sketch, epochs",
}
"""What each piece of `make_companion` is called on the screen."""


@dataclass(frozen=True)
class PriorResult:
    """What was made beside a package.

    Attributes:
        decoder: the package.
        file: the prior; not there when interrupted.
        images: that it was made from.
        seconds: wall time.
        sketch_db: fidelity of the sketch to the decoder.
        unseen_nats: mean log density of whitened latents of the validation images.
        unseen_accuracy: share of them that the prior puts into their class; not finite where there is one class only.
        misfit_z: their rms distance from what the decoder draws, in units of the foretold one.
        interrupted: stopped by Ctrl-C; nothing was written.
    """

    decoder: Path
    file: Path
    images: int
    seconds: float
    sketch_db: float = math.nan
    unseen_nats: float = math.nan
    unseen_accuracy: float = math.nan
    misfit_z: float = math.nan
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values, every number finite or null."""
        numbers = {key: getattr(self, key) for key in ("sketch_db", "unseen_nats", "unseen_accuracy", "misfit_z")}
        return {
            "decoder": self.decoder.stem,
            "file": str(self.decoder),
            "prior": None if self.interrupted else str(self.file),
            "images": self.images,
            "seconds": round(self.seconds, 3),
            **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        classes = f", {self.unseen_accuracy:.1%} of them in their class" if math.isfinite(self.unseen_accuracy) else ""
        return (
            f"{self.file}: {self.unseen_nats:.1f} nats on unseen images{classes}; sketch {self.sketch_db:.1f} dB, "
            f"{self.seconds:.0f} s"
        )


def prior_file(package_file: Path) -> Path:
    """Where the prior of a package lies."""
    from recon.decoders.companion import companion_path

    return companion_path(package_file)


def make_prior(
    package_file: Path,
    train_set: LabelledImages,
    test_set: LabelledImages,
    *,
    device: str = "auto",
    pairs: int | None = None,
    epochs: int | None = None,
) -> PriorResult:
    """Make and store the prior of a package from its images; progress, with the time left, goes to stderr.

    After Ctrl-C the result is marked `interrupted` and nothing is written.

    Raises:
        TrainCommandError: one line.
    """
    from app.progress import Course
    from recon.decoders.companion import CompanionSettings, companion_path, make_companion, write_companion
    from recon.decoders.package import DecoderError, load_package
    from recon.device import DeviceError, pick_device

    started = time.monotonic()
    target = companion_path(package_file)
    try:
        chosen = pick_device(device)
        package = load_package(str(package_file), None).to(chosen)
        settings = CompanionSettings.of_size(package.architecture.image_size, pairs, epochs)
        with Course() as course:
            course.say(
                f"prior of {package.name} on {chosen}: {len(train_set.images)} images from {train_set.source}, "
                f"{len(test_set.images)} to validate"
            )
            trained_on = package.training.get("source")
            if trained_on != train_set.source:
                course.say(f"note: the decoder was trained on {trained_on}; the prior will be that of these images")
            piece = ""

            def report(name: str, done: int, total: int, note: str) -> None:
                nonlocal piece
                if name != piece:
                    course.begin(PIECES[name], total)
                    piece = name
                course.advance(done, note)

            companion = make_companion(
                package,
                train_set.images,
                train_set.labels,
                train_set.source,
                settings=settings,
                unseen=(test_set.images, test_set.labels),
                report=report,
            )
            write_companion(target, companion)
    except KeyboardInterrupt:
        return PriorResult(package_file, target, len(train_set.images), time.monotonic() - started, interrupted=True)
    except (DecoderError, DeviceError, ValueError, OSError) as error:
        raise TrainCommandError(" ".join(str(error).split())) from None
    made = companion.made
    return PriorResult(
        decoder=package_file,
        file=target,
        images=len(train_set.images),
        seconds=time.monotonic() - started,
        sketch_db=made["sketch_db"],
        unseen_nats=made["unseen_nats"],
        unseen_accuracy=math.nan if made["unseen_accuracy"] is None else made["unseen_accuracy"],
        misfit_z=made["unseen_misfit_z"],
    )


def prior_of(
    decoder: str,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    only: int | None = None,
    seed: int = 0,
    device: str = "auto",
    validation: str | None = None,
    dark_ink: bool = False,
    binary: bool = False,
    pairs: int | None = None,
    epochs: int | None = None,
) -> PriorResult:
    """`train --prior`: the prior of a decoder by name or path, from images chosen as `train` does. The decoder stays.

    Raises:
        TrainCommandError: one line.
    """
    from app.progress import Course
    from recon.decoders.companion import companion_path
    from recon.decoders.images import ImageSourceError
    from recon.decoders.package import DecoderError, find_package, load_package

    try:
        path = find_package(decoder)
        package = load_package(decoder, None)
        target = companion_path(path)
        if target.exists():
            raise TrainCommandError(f"{target}: exists already; remove it to make it anew")
        require_folder("train", target.parent)
        size, phase = package.architecture.image_size, package.channels == 2
        train_set, test_set = training_images(images, labels, only, size, validation, dark_ink, seed, binary, phase)
    except (DecoderError, ImageSourceError, ValueError, OSError) as error:
        raise TrainCommandError(" ".join(str(error).split())) from None
    result = make_prior(path, train_set, test_set, device=device, pairs=pairs, epochs=epochs)
    if result.interrupted:
        with Course() as course:
            course.say("interrupted: nothing was written; the same command starts anew")
    return result


def command_for(
    package_file: Path,
    images: Path | None,
    labels: Path | None,
    only: int | None,
    validation: str | None,
    dark_ink: bool,
    binary: bool,
    seed: int,
) -> str:
    """The command that makes the prior of a package from the images that its training had."""
    words = ["ptychoscope", "train", "--prior", str(package_file)]
    valued = {"--images": images, "--labels": labels, "--only": only, "--validation": validation}
    for option, value in valued.items():
        words += [] if value is None else [option, str(value)]
    words += ["--dark-ink"] * dark_ink + ["--binary"] * binary
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(words)
