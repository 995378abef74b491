"""What a latent search needs beside a decoder: prior, sketch, misfit and its scatter, in a file next to the package.

`mnist.prior.safetensors` belongs to the one `mnist.safetensors` whose digest it names. It is made from the same images
as the decoder, by `ptychoscope train`, and, like it, holds numbers only: loading executes nothing. For a decoder that
has none, `plain_companion` knows no more than the package itself; which of the two it is, `Companion.plain` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recon.decoders.direct import DirectDrawer
from recon.decoders.misfit import CONTRASTS, LEVELS, Misfit
from recon.decoders.mixture import Mixture, fit_mixture
from recon.decoders.package import COMPANION_SUFFIX, PRETRAINED, DecoderError, DecoderPackage
from recon.decoders.scatter import Scatter
from recon.decoders.sketch import Sketch, SketchSettings, StandIn, train_sketch
from recon.decoders.whitening import Whitening
from recon.files.whole import whole

FORMAT = "ptychoscope-prior-2"
COMPONENTS = 8
"""Components of the mixture for each class: twice as many gain 0.4 nats on unseen digits at twice the size."""
MISFIT_IMAGES = 10_000
"""Images whose misfit is measured, at most."""
SCATTER_IMAGES = 256
"""Of those, evenly among them, whose single misfits are kept: each takes a fit."""
ENCODED_AT_ONCE = 1000
FITTED_AT_ONCE = 32

Report = Callable[[str, int, int, str], None]
"""Told the piece of work, how much of it is done, how much there is, and a note."""


@dataclass(frozen=True)
class Companion:
    """Prior, drawing and misfit of one decoder.

    Attributes:
        decoder_sha256: digest of the package it belongs to.
        prior: of whitened latents.
        sketch: quick stand-in, or the decoder itself in a plain companion.
        misfit: of the decoder.
        scatter: of single images' misfits about that.
        made: record: source, number of images, settings, and what unseen images say where there were some.
        phase_misfit: of the phase that a decoder of two channels draws, in units of the range of its phase, by the
            amplitude that it draws there; None where it draws no phase.
    """

    decoder_sha256: str
    prior: Mixture
    sketch: StandIn
    misfit: Misfit
    scatter: Scatter
    made: dict[str, Any]
    phase_misfit: Misfit | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing but the package stands behind it: a unit normal prior, and no sketch."""
        return not isinstance(self.sketch, Sketch)

    def to(self, device: torch.device | str) -> Companion:
        """A copy on `device`."""
        return replace(
            self,
            prior=self.prior.to(device),
            sketch=self.sketch.to(device),
            misfit=self.misfit.to(device),
            scatter=self.scatter.to(device),
            phase_misfit=None if self.phase_misfit is None else self.phase_misfit.to(device),
        )

    def described(self) -> dict[str, Any]:
        """JSON-ready: what a result made with it says about it."""
        return {"plain": self.plain, "decoder_sha256": self.decoder_sha256, **self.made}


@dataclass(frozen=True)
class CompanionSettings:
    """How a companion is made: components of the prior for each class, and the sketch's training."""

    components: int = COMPONENTS
    sketch: SketchSettings = field(default_factory=SketchSettings)

    @classmethod
    def of_size(cls, image_size: int, pairs: int | None = None, epochs: int | None = None) -> CompanionSettings:
        """For images of a size; larger ones take a wider and deeper sketch, most of which is its last layer anyway."""
        sketch = SketchSettings() if image_size <= 32 else SketchSettings(width=1024, depth=3, pairs=120_000, epochs=40)
        return cls(sketch=replace(sketch, pairs=pairs or sketch.pairs, epochs=epochs or sketch.epochs))


@dataclass(frozen=True)
class Unseen:
    """What a companion says of images that it was not made from.

    Attributes:
        nats: mean log density of their whitened latents.
        accuracy: share of them whose class is the prior's most probable one; None where there is nothing to tell apart.
        misfit_z: root mean square of image minus drawn image, over the misfit's standard deviation, of the first
            tenth of them: ideally one.
        phase_rms: root mean square of phase minus drawn phase, weighted by the square of the amplitude, over the range
            of the phase; None without phases.
    """

    nats: float
    accuracy: float | None
    misfit_z: float
    phase_rms: float | None = None


def make_companion(
    package: DecoderPackage,
    images: Tensor | NDArray[np.float32],
    labels: Tensor | NDArray[np.int64],
    source: str,
    *,
    settings: CompanionSettings | None = None,
    unseen: tuple[Tensor | NDArray[np.float32], Tensor | NDArray[np.int64]] | None = None,
    report: Report = lambda *_: None,
) -> Companion:
    """The companion of a package, on the CPU, made where the package is.

    Args:
        images: (n, s, s), the training images of the decoder, on any device; (n, 2, s, s) with their phases.
        labels: (n,) their classes.
        source: where they come from, for the record.
        unseen: images and labels that are none of those. On all but the first tenth of them misfit and scatter are
            measured, since a decoder draws what it was trained on too well; without them, on the training images. The
            record tells what all of them say about the prior, and that tenth about the misfit.

    Raises:
        DecoderError: there are too few images, or they have another size than the decoder's.
    """
    images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    side = package.architecture.image_size
    shape = (side, side) if package.channels == 1 else (package.channels, side, side)
    if unseen is not None and len(unseen[0]) < 2:
        raise DecoderError(f"prior of {package.name!r}: {len(unseen[0])} unseen images are too few, needed are 2")
    if len(images) < 2 or tuple(images.shape[1:]) != shape or len(labels) != len(images):
        raise DecoderError(
            f"prior of {package.name!r}: {len(labels)} labels and images {tuple(images.shape)}, "
            f"needed are at least 2 images of {' x '.join(map(str, shape))} pixels with a label each"
        )
    settings = settings or CompanionSettings.of_size(side)
    whitening = Whitening.of(package)
    device = whitening.mean.device
    zeta = whitened_latents(package, images, lambda done: report("latents", done, len(images), ""))
    prior = fit_mixture(
        zeta, labels.to(device), settings.components, report=lambda done, total: report("prior", done, total, "")
    )
    direct = DirectDrawer(package, whitening)
    seen = None if unseen is None else (torch.as_tensor(unseen[0]), torch.as_tensor(unseen[1]))
    measured = images if seen is None else seen[0][_checked(len(seen[0])) :]
    misfit, phase_misfit = _measured_misfits(direct, measured[:MISFIT_IMAGES])
    scatter = measured_scatter(direct, misfit, measured, lambda done, total: report("nearest", done, total, ""))

    def trained(done: int, total: int, fidelity_db: float) -> None:
        if math.isnan(fidelity_db):
            report("pairs", done, total, "")
        else:
            report("sketch", done, total, f"{fidelity_db:.1f} dB")

    sketch = train_sketch(direct.images, prior, settings.sketch, trained)
    made: dict[str, Any] = {
        "source": source,
        "images": len(images),
        "components": len(prior.weights),
        "sketch_db": sketch.fidelity_db,
        "sketch_width": settings.sketch.width,
        "sketch_depth": settings.sketch.depth,
        "sketch_pairs": settings.sketch.pairs,
        "sketch_epochs": settings.sketch.epochs,
        "channels": package.channels,
    }
    stored = replace(prior, factors=prior.factors.half().float())
    companion = Companion(package.sha256, stored, sketch, misfit, scatter, made, phase_misfit)
    if seen is not None:
        found = measured_unseen(package, companion, *seen)
        made |= {"unseen_nats": found.nats, "unseen_accuracy": found.accuracy, "unseen_misfit_z": found.misfit_z}
        made |= {} if found.phase_rms is None else {"unseen_phase_rms": found.phase_rms}
    return companion.to("cpu")


@torch.no_grad()
def whitened_latents(
    package: DecoderPackage,
    images: Tensor,
    report: Callable[[int], None] = lambda _: None,
    whitening: Whitening | None = None,
) -> Tensor:
    """(n, d) whitened latents of images (n, s, s) or (n, 2, s, s), where the package is."""
    whitening = whitening or Whitening.of(package)
    parts = []
    for k, part in enumerate(images.split(ENCODED_AT_ONCE)):
        parts.append(whitening.whitened(package.encode(part.to(whitening.mean.device))))
        report(k * ENCODED_AT_ONCE + len(part))
    return torch.cat(parts)


def _checked(count: int) -> int:
    """How many of the unseen images do not measure the misfit, but check it."""
    return math.ceil(count / 10)


@torch.no_grad()
def _measured_misfits(direct: DirectDrawer, images: Tensor) -> tuple[Misfit, Misfit | None]:
    """Of the amplitude and, where there is one, of the phase."""
    images = images.to(direct.whitening.mean.device)
    drawn = direct.images(whitened_latents(direct.package, images))
    if images.ndim == 3:
        return Misfit.measured(images, drawn), None
    return Misfit.measured(images[:, 0], drawn[:, 0]), Misfit.measured(images[:, 1], drawn[:, 1], drawn[:, 0])


@torch.no_grad()
def measured_scatter(
    direct: DirectDrawer, misfit: Misfit, images: Tensor, report: Callable[[int, int], None] = lambda *_: None
) -> Scatter:
    """Over some of the images (n, s, s) or (n, 2, s, s), which the decoder must not have been trained on."""
    some = images[:: math.ceil(len(images) / SCATTER_IMAGES)].to(direct.whitening.mean.device)
    zeta = whitened_latents(direct.package, some)
    parts = []
    for k in range(0, len(some), FITTED_AT_ONCE):
        here = slice(k, k + FITTED_AT_ONCE)
        parts.append(Scatter.measured(direct, misfit, some[here], zeta[here]))
        report(min(k + FITTED_AT_ONCE, len(some)), len(some))
    return Scatter(torch.cat([part.drawn for part in parts]), torch.cat([part.nearest for part in parts]))


@torch.no_grad()
def measured_unseen(package: DecoderPackage, companion: Companion, images: Tensor, labels: Tensor) -> Unseen:
    """How well a companion, on the package's device, foretells images (n, s, s) of classes (n,)."""
    zeta = whitened_latents(package, images)
    direct = DirectDrawer.of(package)
    checked = images[: _checked(len(images))]
    square, phase, weight, count = 0.0, 0.0, 0.0, 0
    for part in checked.split(ENCODED_AT_ONCE):
        drawn, seen = direct.images(whitened_latents(package, part)), part.to(zeta.device)
        if package.channels == 2:
            phase += float(((seen - drawn)[:, 1] * seen[:, 0]).square().sum())
            weight += float(seen[:, 0].square().sum())
            drawn, seen = drawn[:, 0], seen[:, 0]
        square += float(((seen - drawn).square() / companion.misfit.of(drawn)).sum())
        count += seen.numel()
    prior = companion.prior
    accuracy: float | None = None
    # A source without labels has the one label 0.
    if len(prior.classes) > 1 and len(labels.unique()) > 1:
        names = torch.tensor(prior.classes, device=zeta.device)
        right = names[prior.classified(zeta).argmax(1)] == labels.to(zeta.device)
        accuracy = float(right.float().mean())
    return Unseen(
        nats=float(prior.log_density(zeta).mean()),
        accuracy=accuracy,
        misfit_z=math.sqrt(square / count),
        phase_rms=math.sqrt(phase / weight) if weight else None,
    )


def plain_companion(package: DecoderPackage) -> Companion:
    """What can be had without any images, where the package is: for a caller who chose to do without a companion.

    A unit normal prior over the free axes, the decoder itself for drawing (slow), and an even misfit from the PSNR in
    the package's record.

    Raises:
        DecoderError: the record has no PSNR.
    """
    psnr_db = package.training.get("validation_psnr_db")
    if not isinstance(psnr_db, int | float) or not math.isfinite(psnr_db):
        raise DecoderError(
            f"decoder {package.name!r}: its record has no PSNR of unseen images, so nothing is known of its misfit; "
            "make its prior with `ptychoscope train --prior`"
        )
    direct = DirectDrawer.of(package)
    device = direct.whitening.mean.device
    misfit = Misfit.even(10 ** (-psnr_db / 10)).to(device)
    phase_misfit = misfit if package.channels == 2 else None
    made = {"source": "none: unit normal prior, drawn by the decoder itself"}
    prior = Mixture.normal(direct.size).to(device)
    return Companion(package.sha256, prior, direct, misfit, Scatter.even().to(device), made, phase_misfit)


def companion_path(package_file: Path) -> Path:
    """Where the companion of a package lies."""
    return package_file.with_name(package_file.name.removesuffix(".safetensors") + COMPANION_SUFFIX)


def write_companion(path: Path, companion: Companion) -> None:
    """Store it; written to a temporary name, then renamed.

    Raises:
        ValueError: it is a plain one, of which there is nothing to store.
    """
    sketch = companion.sketch
    if not isinstance(sketch, Sketch):
        raise ValueError("a plain companion holds nothing that its decoder does not; it is not stored")
    tensors = {
        "prior.weights": companion.prior.weights,
        "prior.means": companion.prior.means,
        "prior.factors": companion.prior.factors.half(),
        "prior.labels": companion.prior.labels,
        "misfit.variance": companion.misfit.variance,
        "misfit.scatter": torch.stack((companion.scatter.drawn, companion.scatter.nearest)),
    }
    if companion.phase_misfit is not None:
        tensors["misfit.phase"] = companion.phase_misfit.variance
    for k, (weight, bias) in enumerate(zip(sketch.weights, sketch.biases, strict=True)):
        tensors[f"sketch.weight.{k}"] = weight.half()
        tensors[f"sketch.bias.{k}"] = bias.half()
    metadata = {"format": FORMAT, "decoder_sha256": companion.decoder_sha256, "made": json.dumps(companion.made)}
    with whole(path) as part:
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, part, metadata)


def load_companion(path: Path, package: DecoderPackage) -> Companion:
    """The companion of `package` in a file, on the CPU.

    Raises:
        DecoderError: one line: missing, foreign, incomplete, or another decoder's.
    """
    if not path.is_file():
        decoder = path.with_name(path.name.removesuffix(COMPANION_SUFFIX) + ".safetensors")
        named = package.name if decoder.parent == PRETRAINED else decoder
        raise DecoderError(
            f"{path}: decoder {package.name!r} has no prior; make it with `ptychoscope train --prior {named}`"
        )
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  (not a dict)
        if metadata.get("format") != FORMAT:
            raise DecoderError(
                f"{path}: format is {metadata.get('format')!r}, this program reads {FORMAT!r}; remove it and "
                "make it anew with `ptychoscope train --prior`"
            )
        if metadata["decoder_sha256"] != package.sha256:
            raise DecoderError(f"{path}: belongs to another decoder than {package.name!r}; make it anew")
        made = json.loads(metadata["made"])
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{key} holds numbers that are not finite")
        phase = _misfit(tensors, "misfit.phase") if package.channels == 2 else None
        sketch = _sketch(tensors, made, package.channels)
        companion = Companion(package.sha256, _prior(tensors), sketch, _misfit(tensors), _scatter(tensors), made, phase)
    except KeyError as error:
        raise DecoderError(f"{path}: incomplete prior: {error} is missing") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DecoderError(f"{path}: not a readable prior ({' '.join(str(error).split())})") from None
    size = Whitening.of(package).size
    assert isinstance(companion.sketch, Sketch)
    if companion.prior.size != size or companion.sketch.size != size:
        raise DecoderError(
            f"{path}: prior of {companion.prior.size} dimensions and sketch of {companion.sketch.size}, "
            f"the decoder has {size} free axes; make it anew"
        )
    if companion.sketch.samples != package.architecture.image_size:
        raise DecoderError(
            f"{path}: draws {companion.sketch.samples} pixels a side, the decoder {package.architecture.image_size}; "
            "make it anew"
        )
    return companion


def _prior(tensors: dict[str, Tensor]) -> Mixture:
    weights, means, factors = (tensors[f"prior.{key}"].float() for key in ("weights", "means", "factors"))
    labels = tensors["prior.labels"]
    count, size = means.shape if means.ndim == 2 else (0, 0)
    shapes = (weights.shape, factors.shape, labels.shape)
    if count < 1 or shapes != ((count,), (count, size, size), (count,)) or labels.dtype != torch.int64:
        raise ValueError(f"the prior's means {tuple(means.shape)} do not fit its {[tuple(s) for s in shapes]}")
    if not (weights > 0).all() or not (factors.diagonal(dim1=1, dim2=2) > 0).all():
        raise ValueError("the prior holds a weight or a standard deviation that is not positive")
    return Mixture(weights, means, factors, labels)


def _sketch(tensors: dict[str, Tensor], made: dict[str, Any], channels: int) -> Sketch:
    layers = max(2, sum(key.startswith("sketch.weight.") for key in tensors))
    weights = tuple(tensors[f"sketch.weight.{k}"].float() for k in range(layers))
    biases = tuple(tensors[f"sketch.bias.{k}"].float() for k in range(layers))
    return Sketch(weights, biases, float(made["sketch_db"]), channels)


def _misfit(tensors: dict[str, Tensor], key: str = "misfit.variance") -> Misfit:
    variance = tensors[key].float()
    if variance.shape != (LEVELS, CONTRASTS) or not (variance > 0).all():
        raise ValueError(f"the misfit's table {tuple(variance.shape)} is not {LEVELS} x {CONTRASTS} positive numbers")
    return Misfit(variance)


def _scatter(tensors: dict[str, Tensor]) -> Scatter:
    both = tensors["misfit.scatter"].float()
    if both.ndim != 2 or len(both) != 2 or both.shape[1] < 1 or not (both > 0).all():
        raise ValueError(f"the misfit's scatter {tuple(both.shape)} is not two rows of positive numbers")
    return Scatter(both[0], both[1])
