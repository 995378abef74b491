"""The priors of the shipped decoders, from MNIST, on a GPU; needs `recon`, torch, numpy and safetensors only.

    python -m benchmarks.make_priors MNIST_FOLDER OUT_FOLDER [NAME ...] [--device cuda] [--pairs N] [--epochs N]
        [--width N] [--depth N] [--batch N] [--study]

What each decoder was trained on (all digits or one; grey or redrawn in binary, for which scipy is needed too) is read
from its record. MNIST_FOLDER holds the four IDX files under their published names. OUT_FOLDER gets
NAME.prior.safetensors, to be put beside the packages, and stdout a line of JSON for each. `ptychoscope train --prior
NAME` does the same for one decoder with progress. On a GPU a large batch costs no more time than a small one and a
wider sketch hardly any; on a CPU, where the search runs, its time grows with the width's square. `--study` measures
what docs/decoders.md tells instead, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon.decoders.companion import (
    CompanionSettings,
    companion_path,
    make_companion,
    whitened_latents,
    write_companion,
)
from recon.decoders.direct import DirectDrawer
from recon.decoders.images import MNIST_FILES, ImageSourceError, read_idx, spline_matrix
from recon.decoders.mixture import Mixture, fit_mixture
from recon.decoders.package import DecoderError, DecoderPackage, installed_packages, load_package
from recon.decoders.training import psnr_per_image
from recon.decoders.whitening import Whitening
from recon.device import DeviceError, pick_device

GREY_SIDE, OVERSAMPLING, STROKES_AT_ONCE = 32, 4, 500


def digits(folder: Path, part: str, package: DecoderPackage, device: str) -> tuple[Tensor, Tensor]:
    """Images (n, s, s) and labels (n,) of MNIST's "train" or "t10k" part, as the package's record says, on `device`."""
    image_file, label_file = sorted(name for name in MNIST_FILES if name.startswith(part))
    grey, marks = (read_idx(found(folder, name)) for name in (image_file, label_file))
    labels = torch.from_numpy(marks.astype(np.int64))
    label = re.search(r"label (\d+)", package.training["source"])
    if label:
        keep = labels == int(label[1])
        grey, labels = grey[keep.numpy()], labels[keep]
    images = torch.from_numpy(grey / np.float32(255)).to(device)
    side = package.architecture.image_size
    binary = "redrawn in binary" in package.training["source"]
    padded = min(side, GREY_SIDE) if binary else side
    margin = (padded - images.shape[-1]) // 2
    if margin < 0:
        raise ValueError(f"{package.name}: draws {side} pixels a side, MNIST's digits have {images.shape[-1]}")
    images = functional.pad(images, (margin,) * 4)
    if binary:
        axis = torch.from_numpy(spline_matrix(padded, side * OVERSAMPLING)).to(device)
        strokes = []
        for some in images.split(STROKES_AT_ONCE):
            inked = (axis @ some @ axis.T > 0.5).float()
            strokes.append(functional.avg_pool2d(inked[:, None], OVERSAMPLING)[:, 0])
        images = torch.cat(strokes)
    return images, labels.to(device)


def found(folder: Path, name: str) -> Path:
    """The file of that name, gzipped or not."""
    plain = folder / name.removesuffix(".gz")
    return plain if plain.is_file() else folder / name


def settings_of(package: DecoderPackage, options: argparse.Namespace) -> CompanionSettings:
    """The defaults for the package's size, with what the command line says."""
    settings = CompanionSettings.of_size(package.architecture.image_size, options.pairs, options.epochs)
    sketch = settings.sketch
    given = {key: getattr(options, key) for key in ("width", "depth", "batch")}
    sketch = replace(sketch, **{key: value for key, value in given.items() if value is not None})
    return replace(settings, sketch=sketch)


def make(name: str, options: argparse.Namespace, device: str) -> dict[str, object]:
    """Make and store one prior; the line that is printed."""
    started = time.monotonic()
    package = load_package(name).to(device)
    images, labels = digits(options.mnist, "train", package, device)
    unseen = digits(options.mnist, "t10k", package, device)
    source = package.training["source"]
    settings = settings_of(package, options)

    def report(piece: str, done: int, total: int, note: str) -> None:
        if piece == "sketch":
            print(f"{name}: sketch {done}/{total} {note}, {time.monotonic() - started:.0f} s", file=sys.stderr)

    companion = make_companion(package, images, labels, source, settings=settings, unseen=unseen, report=report)
    target = companion_path(options.out / f"{package.name}.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_companion(target, companion)
    seconds = round(time.monotonic() - started, 1)
    return {
        "decoder": package.name,
        "file": target.name,
        "bytes": target.stat().st_size,
        "seconds": seconds,
        **companion.made,
    }


@torch.no_grad()
def study(name: str, options: argparse.Namespace, device: str) -> dict[str, object]:
    """What docs/decoders.md tells about the prior of one decoder, on MNIST's test digits."""
    package = load_package(name).to(device)
    images, labels = digits(options.mnist, "train", package, device)
    unseen, marks = digits(options.mnist, "t10k", package, device)
    result: dict[str, object] = {"decoder": name, "decoder_psnr_db": package.training["validation_psnr_db"]}
    for threshold in (1e-3, 3e-4, 1e-4):
        whitening = Whitening.of(package, threshold)
        direct = DirectDrawer(package, whitening)
        drawn = direct.images(whitened_latents(package, unseen, whitening=whitening))
        result[f"axes above {threshold:g}"] = [whitening.size, round(float(psnr_per_image(drawn, unseen).mean()), 3)]
    zeta, held = whitened_latents(package, images), whitened_latents(package, unseen)
    result["unit normal"] = {"nats": round(float(Mixture.normal(zeta.shape[1]).to(device).log_density(held).mean()), 2)}
    same = torch.zeros_like(labels)
    count = len(labels.unique())
    for components, names in ((1, labels), (4, labels), (8, labels), (16, labels), (8 * count, same)):
        started = time.monotonic()
        prior = fit_mixture(zeta, names, components)
        row = {"nats": round(float(prior.log_density(held).mean()), 2), "seconds": round(time.monotonic() - started, 1)}
        if names is labels:
            right = torch.tensor(prior.classes, device=held.device)[prior.classified(held).argmax(1)] == marks
            row["accuracy"] = round(float(right.float().mean()), 4)
        result[f"{components} per class" if names is labels else f"{components} unlabelled"] = row
    result["classified"] = len(held)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (or `arguments`); the exit status."""
    parser = argparse.ArgumentParser(description="Priors of the shipped decoders from MNIST.")
    parser.add_argument("mnist", type=Path, help="folder of MNIST's IDX files")
    parser.add_argument("out", type=Path, help="folder for the priors")
    parser.add_argument("names", nargs="*", help="shipped decoders; all without")
    parser.add_argument("--device", default="auto")
    for option in ("pairs", "epochs", "width", "depth", "batch"):
        parser.add_argument(f"--{option}", type=int, help="of the sketch; default by the decoder's size")
    parser.add_argument("--study", action="store_true", help="measure mixtures and axes, write nothing")
    options = parser.parse_args(arguments)
    try:
        device = pick_device(options.device)
        for name in options.names or installed_packages():
            print(json.dumps((study if options.study else make)(name, options, device)), flush=True)
    except (DecoderError, DeviceError, ImageSourceError, OSError, ValueError) as error:
        print(f"make_priors: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
