"""What lies on the simulated stage, from a specification on the command line or in a profile."""

from __future__ import annotations

from pathlib import Path

from app.profile import Profile
from recon.decoders.images import ImageSourceError, load_mnist
from simulators import objects

MNIST_INK = 20 / 28
"""Height of the digit in an MNIST image, of the image's side."""


def make_sample(spec: str, profile: Profile) -> objects.Sample:
    """The simulated sample of a specification (see `open_devices`). Raises `ImageSourceError`, `SampleError`."""
    height, opaque = profile.sample.height_m, profile.sample.opaque_m
    kind, _, rest = spec.partition(":")
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
            f"object {spec!r}: is neither digit:4[:SEED], mnist:17, idx:FILE:17 nor a picture file that exists"
        )
    return objects.Sample.from_image(objects.read_picture(spec), height, opaque)


def _number(text: str, spec: str) -> int:
    if not text.isdecimal():
        raise ImageSourceError(f"object {spec!r}: {text!r} is not a whole number from 0; write digit:4 or mnist:17")
    return int(text)
