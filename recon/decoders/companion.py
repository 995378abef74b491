"""What a latent search needs beside a decoder: its prior, its sketch and its misfit, in a file next to the package.

`mnist.prior.safetensors` belongs to the one `mnist.safetensors` whose digest it names. It is made from the same images
as the decoder, by `ptychoscope train`, and, like it, holds numbers only: loading executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recon.decoders.mixture import Mixture, fit_mixture
from recon.decoders.package import DecoderError, DecoderPackage
from recon.decoders.sketch import Sketch, train_sketch

FORMAT = "ptychoscope-prior-1"
SUFFIX = ".prior.safetensors"
FREE = 1e-3
"""Axes whose variance exceeds this share of the largest are searched: the effective rank; others stay at the mean."""
COMPONENTS = 8
"""Components of the mixture for each class: twice as many gain 0.4 nats on unseen digits and twice the size."""
LEVELS, CONTRASTS = 12, 8
"""Bins of the misfit's table: drawn amplitude, and its range over the neighbours."""
ENCODED_AT_ONCE = 1000


@dataclass(frozen=True)
class Whitening:
    """Between a decoder's latents h and whitened ones: h = mean + axes zeta.

    Attributes:
        mean: (l,).
        axes: (l, d) principal axes times their standard deviations, the free ones only.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, package: DecoderPackage, threshold: float = FREE) -> Whitening:
        """The free axes of a package."""
        values = package.latent_eigenvalues
        free = values > threshold * values[0]
        return cls(package.latent_mean, package.latent_eigenvectors[:, free] * values[free].sqrt())

    @property
    def size(self) -> int:
        """Number of free axes d."""
        return self.axes.shape[1]

    def latents(self, zeta: Tensor) -> Tensor:
        """(n, l) of (n, d)."""
        return self.mean + zeta @ self.axes.T

    def whitened(self, latents: Tensor) -> Tensor:
        """(n, d) of (n, l); what lies along the other axes is dropped."""
        return (latents - self.mean) @ (self.axes / self.axes.square().sum(0))


@dataclass(frozen=True)
class Misfit:
    """How far real images lie from what the decoder draws, in the mean square.

    Attributes:
        variance: (levels, contrasts) of (image - drawn)^2 over the training images, by the drawn amplitude and by its
            range over a pixel's 3 x 3 neighbourhood, both from 0 to 1 in equal bins.
    """

    variance: Tensor

    @classmethod
    def measured(cls, images: Tensor, drawn: Tensor) -> Misfit:
        """From images (n, s, s) and what the decoder draws for them; empty bins take their neighbours' mean."""
        bins = _bins(drawn)
        square = (images - drawn).square().flatten().double()
        count = torch.zeros(LEVELS * CONTRASTS, dtype=torch.float64)
        total = torch.zeros_like(count)
        count.index_add_(0, bins.flatten(), torch.ones_like(square))
        total.index_add_(0, bins.flatten(), square)
        # A bin of few pixels leans on the mean of all.
        return cls(((total + 20 * square.mean()) / (count + 20)).float().view(LEVELS, CONTRASTS))

    def of(self, drawn: Tensor) -> Tensor:
        """(..., s, s) variance for drawn images (..., s, s)."""
        return self.variance.flatten()[_bins(drawn)]


def _bins(drawn: Tensor) -> Tensor:
    flat = drawn.reshape(-1, 1, *drawn.shape[-2:])
    highest = torch.nn.functional.max_pool2d(flat, 3, 1, 1)
    lowest = -torch.nn.functional.max_pool2d(-flat, 3, 1, 1)
    contrast = ((highest - lowest) * CONTRASTS).long().clamp(0, CONTRASTS - 1)
    level = (flat * LEVELS).long().clamp(0, LEVELS - 1)
    return (level * CONTRASTS + contrast).view(drawn.shape)


@dataclass(frozen=True)
class Companion:
    """Prior, sketch and misfit of one decoder.

    Attributes:
        decoder_sha256: digest of the package it belongs to.
        prior: of whitened latents.
        sketch: quick stand-in.
        misfit: of the decoder.
        made: record: source, number of images, nats on unseen images where there were some.
    """

    decoder_sha256: str
    prior: Mixture
    sketch: Sketch
    misfit: Misfit
    made: dict[str, Any]

    def to(self, device: torch.device | str) -> Companion:
        """A copy on `device`."""
        misfit = Misfit(self.misfit.variance.to(device))
        return Companion(self.decoder_sha256, self.prior.to(device), self.sketch.to(device), misfit, self.made)


def make_companion(
    package: DecoderPackage,
    images: Tensor,
    labels: Tensor,
    source: str,
    *,
    components: int = COMPONENTS,
    pairs: int = 150_000,
    epochs: int = 25,
    report: Callable[[int, int, float], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Companion | None:
    """The companion of a package from its training images (n, s, s) and their labels (n,); None when stopped."""
    whitening = Whitening.of(package)
    latents, misfits = [], []
    with torch.no_grad():
        for k, part in enumerate(images.split(ENCODED_AT_ONCE)):
            latents.append(package.encode(part))
            if k < 10:
                misfits.append(package.decode(whitening.latents(whitening.whitened(latents[-1]))))
            if stop():
                return None
    zeta = whitening.whitened(torch.cat(latents))
    prior = fit_mixture(zeta.cpu(), labels, components).to(zeta.device)
    drawn = torch.cat(misfits)
    misfit = Misfit.measured(images[: len(drawn)].cpu(), drawn.cpu())
    sketch = train_sketch(
        lambda z: package.decode(whitening.latents(z)), prior, pairs=pairs, epochs=epochs, report=report, stop=stop
    )
    if sketch is None:
        return None
    made = {"source": source, "images": len(images), "components": components, "sketch_db": sketch.fidelity_db}
    return Companion(package.sha256, prior.to("cpu"), sketch.to("cpu"), misfit, made)


def companion_path(package_file: Path) -> Path:
    """Where the companion of a package lies."""
    return package_file.with_name(package_file.name.removesuffix(".safetensors") + SUFFIX)


def write_companion(path: Path, companion: Companion) -> None:
    """Store it; written to a temporary name, then renamed."""
    tensors = {
        "prior.weights": companion.prior.weights,
        "prior.means": companion.prior.means,
        "prior.factors": companion.prior.factors.half(),
        "prior.labels": companion.prior.labels,
        "misfit.variance": companion.misfit.variance,
    }
    for k in range(3):
        tensors[f"sketch.weight.{k}"] = companion.sketch.weights[k].half()
        tensors[f"sketch.bias.{k}"] = companion.sketch.biases[k].half()
    metadata = {"format": FORMAT, "decoder_sha256": companion.decoder_sha256, "made": json.dumps(companion.made)}
    part = path.with_name(path.name + ".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, metadata)
    part.replace(path)


def load_companion(path: Path, package: DecoderPackage) -> Companion:
    """The companion of `package` in a file, on the CPU.

    Raises:
        DecoderError: one line: missing, foreign, incomplete, or another decoder's.
    """
    if not path.is_file():
        raise DecoderError(f"{path}: decoder {package.name!r} has no prior; make it with `ptychoscope train --prior`")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  (not a dict)
        if metadata.get("format") != FORMAT:
            raise DecoderError(f"{path}: format is {metadata.get('format')!r}, this program reads {FORMAT!r}")
        if metadata["decoder_sha256"] != package.sha256:
            raise DecoderError(f"{path}: belongs to another decoder than {package.name!r}; make it anew")
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise DecoderError(f"{path}: {key} holds numbers that are not finite")
        made = json.loads(metadata["made"])
        floats = {key: value.float() for key, value in tensors.items() if key != "prior.labels"}
        prior = Mixture(
            floats["prior.weights"], floats["prior.means"], floats["prior.factors"], tensors["prior.labels"]
        )
        weights = [floats[f"sketch.weight.{k}"] for k in range(3)]
        biases = [floats[f"sketch.bias.{k}"] for k in range(3)]
        sketch = Sketch(
            (weights[0], weights[1], weights[2]), (biases[0], biases[1], biases[2]), float(made["sketch_db"])
        )
        companion = Companion(package.sha256, prior, sketch, Misfit(floats["misfit.variance"]), made)
    except (SafetensorError, OSError, ValueError) as error:
        raise DecoderError(f"{path}: not a readable prior ({' '.join(str(error).split())})") from None
    except KeyError as error:
        raise DecoderError(f"{path}: incomplete prior: {error} is missing") from None
    size = Whitening.of(package).size
    if prior.means.shape[1] != size or sketch.weights[0].shape[1] != size:
        raise DecoderError(f"{path}: prior of {prior.means.shape[1]} dimensions, the decoder has {size} free axes")
    if sketch.samples != package.architecture.image_size:
        raise DecoderError(f"{path}: draws {sketch.samples} pixels, the decoder {package.architecture.image_size}")
    return companion
