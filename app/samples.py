"""What lies on the simulated stage, from a specification on the command line or in a profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from app.profile import Profile
from recon.decoders.images import ImageSourceError, load_mnist
from recon.decoders.pairs import RELIEF_RAD, relief
from simulators import objects

MNIST_INK = 20 / 28
"""Height of the digit in an MNIST image, of the image's side."""
RELIEF_INK = 20 / 32
"""The same in a decoder's image, whose side is the measure of a relief (`recon.decoders.pairs`)."""
RELIEF = "relief"


def make_sample(spec: str, profile: Profile) -> objects.Sample:
    """The simulated sample of a specification (see `open_devices`). Raises `ImageSourceError`, `SampleError`."""
    height, opaque = profile.sample.height_m, profile.sample.opaque_m
    kind, _, rest = spec.partition(":")
    if kind == RELIEF:
        if not rest or rest.startswith(RELIEF):
            raise ImageSourceError(f"object {spec!r}: {RELIEF}: stands once, before an amplitude; write relief:digit:4")
        return _with_relief(spec, make_sample(rest, profile), height / RELIEF_INK)
    if kind == "digit":
        digit, _, seed = rest.partition(":")
        return objects.Sample.from_drawing(
            objects.draw_digit(_number(digit, spec), _number(seed or "0", spec)), height, opaque
        )
    if kind == "mnist":
        images = load_mnist("test", 28).images
        index = _number(rest, spec)
        if index >= len(images):
            raise ImageSourceError(f"object {spec!r}: MNIST's test set holds images 0 .. {len(images) - 1}")
        return objects.Sample.from_image(images[index], height / MNIST_INK, opaque)
    if kind == "idx":
        path, _, index_text = rest.rpartition(":")
        image = objects.read_idx(path, _number(index_text, spec))
        return objects.Sample.from_image(image, height, opaque)
    if not Path(spec).is_file():
        raise ImageSourceError(
            f"object {spec!r}: is neither digit:4[:SEED], mnist:17, idx:FILE:17 nor a picture or .npy file that "
            "exists; relief: before one gives it a phase"
        )
    if Path(spec).suffix == ".npy":
        return objects.Sample.from_image(objects.read_array(spec), height, opaque)
    return objects.Sample.from_image(objects.read_picture(spec), height, opaque)


def _with_relief(spec: str, sample: objects.Sample, side_m: float) -> objects.Sample:
    """The same amplitude with its relief as phase, as decoders of both are trained on; `side_m` measures the relief."""
    if np.iscomplexobj(sample.image):
        raise objects.SampleError(f"object {spec!r}: has a phase of its own; leave {RELIEF}: out")
    amplitude = sample.image.astype(np.float32)
    phase = RELIEF_RAD * relief(amplitude[None], side_m / sample.pitch_m)[0]
    return replace(sample, image=(amplitude * np.exp(1j * phase)).astype(np.complex64))


def _number(text: str, spec: str) -> int:
    if not text.isdecimal():
        raise ImageSourceError(f"object {spec!r}: {text!r} is not a whole number from 0; write digit:4 or mnist:17")
    return int(text)
