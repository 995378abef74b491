"""The images that `ptychoscope train` is asked to work on: to train with, and to validate on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.errors import UsageError

if TYPE_CHECKING:
    from recon.decoders.images import LabelledImages

BINARY_FROM = 32
"""Side of the grey images that binary strokes are redrawn from: the finest that MNIST has, padded."""
DEFAULT_VALIDATION = 0.1
STACKS = (".npy", ".npz")
"""Endings of files that numpy has written."""


class TrainCommandError(UsageError):
    """A decoder cannot be trained as asked; the message is one line that names the value or file and the remedy."""


def _load(images: Path, labels: Path | None, size: int, dark_ink: bool) -> LabelledImages:
    from recon.decoders.images import load_folder, load_idx_images, load_stack

    if images.is_dir():
        if labels is not None:
            raise TrainCommandError(f"--labels {labels}: a folder's labels are its sub-folders; leave --labels out")
        return load_folder(images, size, dark_ink=dark_ink)
    if dark_ink:
        raise TrainCommandError(f"--dark-ink is for folders of pictures; {images} is not a folder")
    return (load_stack if images.suffix in STACKS else load_idx_images)(images, labels, size)


def _split(source: LabelledImages, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation parts, drawn without replacement."""
    from recon.decoders.images import LabelledImages

    held = round(fraction * len(source.images))
    if not 0 < held < len(source.images):
        raise TrainCommandError(
            f"--validation {fraction:g} of {len(source.images)} images leaves {held} to validate and "
            f"{len(source.images) - held} to train; both need at least one"
        )
    order = np.random.default_rng([seed, 0]).permutation(len(source.images))
    parts = [
        LabelledImages(source.images[part], source.labels[part], source.source)
        for part in (np.sort(order[held:]), np.sort(order[:held]))
    ]
    return parts[0], parts[1]


def training_images(
    images: Path | None,
    labels: Path | None,
    only: int | None,
    size: int,
    validation: str | None,
    dark_ink: bool,
    seed: int,
    binary: bool,
    phase: bool = False,
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images as the options ask for them; with `phase` as pairs of amplitude and phase."""
    if phase:
        alone = training_images(images, labels, only, size, validation, dark_ink, seed, binary)
        return alone[0].as_pairs(), alone[1].as_pairs()
    if binary:
        grey = training_images(images, labels, only, min(size, BINARY_FROM), validation, dark_ink, seed, False)
        return grey[0].as_strokes(size), grey[1].as_strokes(size)
    from recon.decoders.images import load_mnist

    fraction, held_out = None, None
    if validation is not None:
        try:
            fraction = float(validation)
        except ValueError:
            held_out = Path(validation)
    if fraction is not None and not 0 < fraction < 1:
        raise TrainCommandError(f"--validation {validation}: a fraction lies between 0 and 1; or give a file or folder")
    if images is None:
        if labels is not None or dark_ink:
            raise TrainCommandError("--labels and --dark-ink need --images; without it MNIST is taken")
        train_set = load_mnist("train", size)
        test_set = load_mnist("test", size) if validation is None else None
    else:
        train_set, test_set = _load(images, labels, size, dark_ink), None
    if only is not None:
        train_set = train_set.only(only)
        test_set = test_set.only(only) if test_set else None
    if test_set is not None:
        return train_set, test_set
    if held_out is not None:
        return train_set, _load(held_out, None, size, dark_ink and held_out.is_dir())
    return _split(train_set, fraction or DEFAULT_VALIDATION, seed)
