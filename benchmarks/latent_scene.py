"""What the benchmarks of the latent estimator look at: the study's scene, objects of several kinds, their references.

python -m benchmarks.latent_scene --data FOLDER --pack objects.npz

packs the objects into one small file, for a machine without the data sets. Frames are 768 x 768: the camera's middle,
which holds all blocks that the estimator looks at on the whole frame.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import zipfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from app.studies.objects import drawn_on
from app.studies.scene import FIELD_M, StudyScene
from recon.ceiling import prior_mean
from recon.dataset import Ptychogram
from recon.decoders.companion import Companion, companion_path, load_companion, whitened_latents
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import DecoderPackage, find_package, load_package
from recon.decoders.scatter import nearest
from recon.estimator import USUAL, LatentEstimator
from recon.latent import LatentSettings
from recon.metrics import dice, psnr_db, success_db
from recon.simulated import exposed, intensities

FRAME = 768
SIDE = 32
DIGITS, OTHERS = 1000, 400
"""Objects of each kind that a pack holds."""
CLASSES = ("kmnist", "omniglot")
PADDED = ((0, 0), (2, 2), (2, 2))


@dataclass(frozen=True)
class Objects:
    """Images (n, 32, 32) uint8 by kind, and the digits' labels."""

    images: dict[str, NDArray[np.uint8]]
    labels: NDArray[np.int64]

    @classmethod
    def load(cls, source: Path) -> Objects:
        """From a pack, or from the folder of the data sets."""
        if source.is_dir():
            return cls.gathered(source)
        if not source.is_file():
            raise SystemExit(f"objects {source}: no such file or folder; give a pack or the folder of the data sets")
        with np.load(source) as pack:
            return cls({name: pack[name] for name in pack.files if name != "labels"}, pack["labels"])

    @classmethod
    def gathered(cls, folder: Path) -> Objects:
        """From `mnist/*.gz`, `kmnist/kmnist-test-imgs.npz` and `omniglot/*.zip` in a folder."""
        digits = np.frombuffer(
            gzip.decompress((folder / "mnist/t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, -1, 16
        )
        labels = np.frombuffer(
            gzip.decompress((folder / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, -1, 8
        )
        with np.load(folder / "kmnist/kmnist-test-imgs.npz") as file:
            kana = file["arr_0"][:OTHERS]
        images = {
            "digit": np.pad(digits.reshape(-1, 28, 28)[:DIGITS], PADDED),
            "kmnist": np.pad(kana, PADDED),
            "omniglot": _omniglot(folder / "omniglot/images_background_small1.zip"),
        }
        return cls(images, labels[:DIGITS].astype(np.int64))

    def image(self, kind: str, index: int) -> NDArray[np.float32]:
        """(32, 32) in 0..1; raises `SystemExit` where there are too few."""
        if index >= len(self.images[kind]):
            raise SystemExit(f"objects: {kind} {index} asked for, there are {len(self.images[kind])}; lower --count")
        return self.images[kind][index].astype(np.float32) / 255


def _omniglot(archive: Path) -> NDArray[np.uint8]:
    """Characters as thick and as large as MNIST's digits: ink in a box of 20 pixels, strokes two pixels or so."""
    from PIL import Image

    found = []
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".png"))
        for name in np.random.default_rng(0).permutation(names)[:OTHERS]:
            with file.open(str(name)) as entry:
                ink = ~np.array(Image.open(entry).convert("1"))
            rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
            box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            scale = 20 / max(box.shape)
            blurred = ndimage.gaussian_filter(np.pad(box.astype(np.float32), 12), 0.7 / scale)
            small = ndimage.zoom(blurred, scale, order=1)
            small = np.clip(small / np.quantile(small[small > 0.05], 0.7), 0, 1)
            placed = np.zeros((SIDE, SIDE), np.float32)
            high, wide = (min(n, SIDE) for n in small.shape)
            top, left = (SIDE - high) // 2, (SIDE - wide) // 2
            placed[top : top + high, left : left + wide] = small[:high, :wide]
            found.append((placed * 255).round().astype(np.uint8))
    return np.stack(found)


@dataclass
class Bench:
    """One decoder, its estimator under the study's light, and how to expose an object there.

    Attributes:
        package, companion: on `device`.
        estimator: pose and flux known.
        scene: of the frames.
        device: of everything.
    """

    package: DecoderPackage
    companion: Companion
    estimator: LatentEstimator
    scene: StudyScene
    device: str
    _light: tuple[bytes, torch.Tensor] | None = field(default=None)

    @classmethod
    def build(
        cls, decoder: str, prior: Path | None, device: str, frame: int = FRAME, settings: LatentSettings = USUAL
    ) -> Bench:
        """From a decoder's name and its companion's file, by default the one beside it."""
        package = load_package(decoder)
        companion = load_companion(prior or companion_path(find_package(decoder)), package)
        scene = StudyScene("paper", 3.45e-6, frame, 16)
        estimator = LatentEstimator.build(package, companion, scene.light, FIELD_M, settings=settings, device=device)
        return cls(package.to(device), companion.to(device), estimator, scene, device)

    def per_second(self, image: NDArray[np.float32]) -> torch.Tensor:
        """(N, H, W) electrons at one photon an exposure, by the full model; the last object's are kept."""
        key = image.tobytes()
        if self._light is None or self._light[0] != key:
            amplitude = drawn_on(image, self.scene)
            self._light = key, intensities(self.scene.light, self.scene.positions_m, amplitude, self.device)
        return self._light[1]

    def exposed(self, image: NDArray[np.float32], photons: float, sigma: float, seed: list[int]) -> Ptychogram:
        """Frames of an object."""
        frames = exposed(self.per_second(image), photons, sigma, np.array(seed, np.uint32))
        return self.scene.ptychogram(frames.cpu().numpy(), photons, sigma, "benchmark")

    def psnr(self, image: NDArray[np.float32], truth: NDArray[np.float32]) -> tuple[float, float]:
        """PSNR over the lit mask, and Dice there."""
        drawn, true = (drawn_on(np.asarray(x, np.float32), self.scene) for x in (image, truth))
        return psnr_db(drawn, true, self.scene.lit), dice(drawn, true, self.scene.lit)

    @cached_property
    def prior_mean(self) -> NDArray[np.float32]:
        """(s, s) the best image before any light has come."""
        return prior_mean(self.companion, self.package)

    @torch.no_grad()
    def noise_free(self, truths: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, s, s) what the decoder draws nearest to truths (n, s, s).

        It approximates the fit to noise-free frames from above.
        """
        asked = torch.from_numpy(truths).to(self.device)
        drawer = DirectDrawer.of(self.package)
        found: NDArray[np.float32] = nearest(drawer, asked, whitened_latents(self.package, asked)).cpu().numpy()
        return found

    def thresholds(self, truths: NDArray[np.float32], kept: Path) -> list[float]:
        """PSNR from which each truth (n, s, s) is recovered; in the file `kept` for the next time."""
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
        if len(known) < len(truths):
            best = self.noise_free(truths[len(known) :])
            for fit, truth in zip(best, truths[len(known) :], strict=True):
                known.append(success_db(self.psnr(self.prior_mean, truth)[0], self.psnr(fit, truth)[0]))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known), encoding="utf-8")
        return known[: len(truths)]

    def drawn_prior(self, count: int, seed: int = 77) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """Latents (count, d) drawn from the prior and the decoder's images (count, s, s)."""
        zeta = self.companion.prior.sample(count, seed)
        images: NDArray[np.float32] = self.images(zeta).cpu().numpy()
        return zeta, images

    def images(self, zeta: torch.Tensor) -> torch.Tensor:
        """(n, s, s) the decoder's images of whitened latents."""
        return torch.cat([self.estimator.exact.drawer.images(part) for part in zeta.split(256)])


def psnr32(image: NDArray, truth: NDArray) -> float:
    """PSNR on the decoder's own grid, the whole of it."""
    return float(-10 * np.log10(np.square(np.clip(image, 0, 1) - np.clip(truth, 0, 1)).mean()))


def bench_options(parser: argparse.ArgumentParser) -> None:
    """Options that all of these benchmarks have."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--decoder", default="mnist")
    parser.add_argument("--prior", type=Path, help="companion of the decoder; default the one beside it")
    data = os.environ.get("PTYCHOSCOPE_DATA", "data")
    parser.add_argument("--objects", type=Path, default=Path(data), help="pack, or the folder of the data sets")
    parser.add_argument("--read-noise", type=float, default=0.3)
    parser.add_argument(
        "--set", default="", help="settings of the search, NAME=VALUE,... of recon.latent.LatentSettings"
    )
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")


def settings_of(words: str) -> LatentSettings:
    """The usual settings but for `words`, NAME=VALUE,...; raises `SystemExit` for a name that there is not."""
    usual = LatentSettings()
    changes: dict[str, float] = {}
    for word in filter(None, words.split(",")):
        name, _, value = word.partition("=")
        if name not in usual.__dataclass_fields__:
            raise SystemExit(f"--set {name}: one of {', '.join(usual.__dataclass_fields__)}")
        changes[name] = type(getattr(usual, name))(float(value))
    return replace(usual, **changes)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack the objects of the latent benchmarks into one file.")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PTYCHOSCOPE_DATA", "data")))
    parser.add_argument("--pack", type=Path, required=True)
    asked = parser.parse_args()
    objects = Objects.gathered(asked.data)
    np.savez_compressed(asked.pack, labels=objects.labels, **objects.images)
    print(f"{asked.pack}: {', '.join(f'{len(v)} {k}' for k, v in objects.images.items())}")


if __name__ == "__main__":
    main()
