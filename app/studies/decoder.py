"""`ptychoscope study decoder`: what latent spaces are like, after the paper's Fig. 3."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import Interrupted, UsageError
from app.latent import Decoder
from app.outputs import require_folder
from app.progress import Course
from app.studies.decoder_figure import decoder_figure
from app.studies.grid import label_of
from recon.decoders.images import LabelledImages, load_mnist
from recon.decoders.latentspace import (
    LINEAR_THRESHOLD,
    LatentSpace,
    effective_rank,
    knee,
    latent_space,
)
from recon.decoders.package import DecoderPackage
from recon.device import pick_device

SHIPPED = ("study/mnist-50", "mnist", "study/mnist-plain", "mnist-4", "study/mnist-4-test")
"""Rank-minimised, the same trained for less long, without the square layers, fours of the training file, and the 982
fours of the test file."""
PAPER_RANKS = {"minimised": 22, "plain": 86, "fours": 13}
THRESHOLDS = (0.1, 0.01, 1e-3, 1e-4)
GREY = 32


@dataclass(frozen=True)
class DecoderStudy:
    """What is asked for.

    Attributes:
        decoders: names or paths.
        threshold: share of the largest variance above which a latent axis counts.
        digits: labels of the two objects to go from and to.
        count: validation images, at most.
        seed: of the draws.
    """

    decoders: tuple[str, ...] = SHIPPED
    threshold: float = 0.01
    digits: tuple[int, int] = (9, 0)
    count: int = 10_000
    seed: int = 0

    def checked(self) -> DecoderStudy:
        """The same, without repetitions; raises `UsageError` naming the option, its value and what is allowed."""
        if not 0 < self.threshold < 1:
            raise UsageError(f"--threshold {self.threshold:g}: a share of the largest variance, between 0 and 1")
        if any(not 0 <= digit <= 9 for digit in self.digits):
            raise UsageError(f"--digits {self.digits[0]},{self.digits[1]}: two digits from 0 to 9, such as 9,0")
        if self.count < 2:
            raise UsageError(f"--count {self.count}: a covariance needs at least two images")
        return replace(self, decoders=tuple(dict.fromkeys(self.decoders)))


def square_layers(package: DecoderPackage) -> int:
    """How many square layers its training had; none in a decoder of another architecture."""
    return int(package.architecture.as_dict().get("linear_layers", 0))


def kind_of(package: DecoderPackage) -> str:
    """Which of the paper's three it corresponds to: "minimised", "plain", "fours", or "" for none of them."""
    label = label_of(package.training)
    if (
        not str(package.training.get("source", "")).startswith(("MNIST", "t10k"))
        or package.architecture.image_size != GREY
    ):
        return ""
    if label is not None:
        return "fours" if label == 4 else ""
    return "minimised" if square_layers(package) else "plain"


class Digits:
    """MNIST as each decoder needs it: digits that it has not been trained on, at its size, loaded once."""

    def __init__(self) -> None:
        self._parts: dict[str, LabelledImages] = {}

    def part(self, name: str) -> LabelledImages:
        """ "train" or "test"."""
        if name not in self._parts:
            self._parts[name] = load_mnist(name, GREY)
        return self._parts[name]

    def unseen(self, package: DecoderPackage, count: int) -> NDArray[np.float32]:
        """(n, s, s) of the decoder's class where it has one."""
        trained_on_test = str(package.training.get("source", "")).startswith("t10k")
        digits = self.part("train" if trained_on_test else "test")
        label = label_of(package.training)
        images = digits.images if label is None else digits.only(label).images
        return self._sized(images[:count], package)

    def ends(self, package: DecoderPackage, pair: tuple[int, int]) -> NDArray[np.float32]:
        """(2, s, s) the first test digits of two classes."""
        return self._sized(np.stack([self.part("test").only(digit).images[0] for digit in pair]), package)

    def _sized(self, images: NDArray[np.float32], package: DecoderPackage) -> NDArray[np.float32]:
        size = package.architecture.image_size
        if str(package.training.get("source", "")).endswith("redrawn in binary"):
            return LabelledImages(images, np.zeros(len(images), np.int64), "").as_strokes(size).images
        if size != GREY:
            raise UsageError(
                f"--decoder {package.name}: draws {size} x {size} grey pixels, MNIST has no more than {GREY}; "
                "leave it out"
            )
        return images


def run_decoder_study(
    study: DecoderStudy, out: Path, *, device: str = "auto", digits: Digits | None = None
) -> dict[str, Any]:
    """Spectra, interpolations and samples of decoders, as a table and a figure; `digits` replace MNIST, for tests.

    Raises:
        UsageError: one line: an option or a decoder.
        Interrupted: somebody stopped it; decoders that were done are drawn.
    """
    begin = time.monotonic()
    study = study.checked()
    require_folder("study", out)
    place = pick_device(device)
    decoders = [Decoder.load(name) for name in study.decoders]
    out.mkdir(parents=True, exist_ok=True)
    digits = digits or Digits()
    found: list[tuple[DecoderPackage, LatentSpace]] = []
    with Course() as course, course.interruptible():
        course.begin("decoders", len(decoders))
        for done, decoder in enumerate(decoders, start=1):
            if course.stopped():
                break
            package = decoder.package.to(place)
            companion = None if decoder.companion.plain else decoder.companion.to(place)
            images, ends = digits.unseen(package, study.count), digits.ends(package, study.digits)
            found.append((decoder.package, latent_space(package, companion, images, ends, seed=study.seed)))
            course.advance(done, package.name)
    values: dict[str, Any] = _report(study, found, out) if found else {"decoders": [], "out": str(out)}
    values |= {"seconds": time.monotonic() - begin}
    if len(found) < len(decoders):
        raise Interrupted(
            f"study: {len(found)} of {len(decoders)} decoders are drawn in {out}; the same command begins anew",
            values=values,
        )
    return values


def summary(package: DecoderPackage, space: LatentSpace, threshold: float) -> dict[str, Any]:
    """JSON-ready numbers of one decoder."""
    paper = PAPER_RANKS.get(kind_of(package))
    rank = effective_rank(space.variances, threshold)
    layers = square_layers(package)
    settings = package.training.get("settings", {})
    return {
        "decoder": space.name,
        "source": package.training.get("source"),
        "trained_images": package.training.get("images"),
        "epochs": settings.get("epochs"),
        "linear_layers": layers,
        "linear_start": settings.get("linear_start", "orthogonal") if layers else None,
        "validation_images": space.images,
        "validation_psnr_db": space.psnr_db,
        "rank": rank,
        "rank_linear": effective_rank(space.linear, LINEAR_THRESHOLD) if layers else None,
        "knee": knee(space.variances),
        "ranks": {f"{t:g}": effective_rank(space.variances, t) for t in THRESHOLDS},
        "paper_rank": paper,
        "over_paper": None if paper is None else rank / paper,
        "variances": space.variances.tolist(),
        "linear_singular_values": space.linear.tolist(),
    }


def text_table(rows: Sequence[dict[str, Any]], threshold: float) -> str:
    """The table that people read."""
    lines = [
        f"{'decoder':<14}{'images':>8}{'epochs':>8}{'layers':>8}{'PSNR':>9}{'rank':>6}{'of W':>6}{'paper':>7}"
        f"{'ratio':>7}{'knee':>6}   rank at {', '.join(f'{t:g}' for t in THRESHOLDS)}"
    ]
    for row in rows:
        of_w = "-" if row["rank_linear"] is None else row["rank_linear"]
        paper = "-" if row["paper_rank"] is None else row["paper_rank"]
        ratio = "-" if row["over_paper"] is None else f"{row['over_paper']:.2f}"
        ranks = ", ".join(str(rank) for rank in row["ranks"].values())
        lines.append(
            f"{row['decoder']:<14}{row['trained_images'] or '-':>8}{row['epochs'] or '-':>8}{row['linear_layers']:>8}"
            f"{row['validation_psnr_db']:>6.1f} dB{row['rank']:>6}{of_w:>6}{paper:>7}{ratio:>7}"
            f"{row['knee']:>6}   {ranks}"
        )
    lines.append(
        f"rank: variances of latents above {threshold:g} of the largest; of W: singular values of the folded square "
        f"layers above {LINEAR_THRESHOLD:g} of the largest; knee: where the variances fall most"
    )
    return "\n".join(lines) + "\n"


def _report(study: DecoderStudy, found: Sequence[tuple[DecoderPackage, LatentSpace]], out: Path) -> dict[str, Any]:
    rows = [summary(package, space, study.threshold) for package, space in found]
    table = text_table(rows, study.threshold)
    (out / "table.txt").write_text(table, encoding="utf-8")
    figure = decoder_figure([space for _, space in found], rows, study.threshold, study.digits, out / "decoder.png")
    return {"decoders": rows, "threshold": study.threshold, "table": table, "out": str(out), "figure": str(figure)}
