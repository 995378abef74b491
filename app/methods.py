"""The iterative methods with their progress: the paper's estimator at several rates, free pixels, hybrid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.progress import Course
from app.request import BOTH, STARTS, Request
from recon.calibrate import Illumination
from recon.dataset import Ptychogram
from recon.decoders.package import DecoderPackage
from recon.hybrid import HYBRID, reconstruct_hybrid
from recon.posterior import Posterior
from recon.reconstruct import (
    PixelSettings,
    Reconstruction,
    ReconstructionSettings,
    reconstruct_latent,
    reconstruct_pixels,
)

PAPER = ReconstructionSettings(epochs=40, batch=1)
"""The paper's estimator, one pattern a step; on simulated runs the loss has settled after 40 of its 100 epochs."""
PAPER_RATES = (0.3, 1.0)
"""Learning rates tried for the paper's estimator; the lower loss wins. Its range is 0.1 to 1."""


def papers_trials(request: Request) -> list[ReconstructionSettings]:
    """What the paper's estimator is to try: every start at every learning rate."""
    base = replace(PAPER, seed=request.seed or 0, loss=request.loss or PAPER.loss)
    base = replace(base, epochs=request.epochs or PAPER.epochs)
    starts = STARTS if request.start == BOTH else (request.start or PAPER.start,)
    rates = dict.fromkeys(request.learning_rates or PAPER_RATES)
    return [replace(base, learning_rate=rate, start=start) for start in starts for rate in rates]


def papers_best(
    data: Ptychogram,
    light: Illumination,
    package: DecoderPackage,
    field_m: float,
    settings: Sequence[ReconstructionSettings],
    device: str,
    course: Course,
    name: str,
) -> Reconstruction:
    """The paper's estimator: several learning rates or starts, the one with the lowest final loss kept."""
    course.begin(name, sum(s.epochs for s in settings))
    results: list[Reconstruction] = []
    done = 0
    for setting in settings:

        def shown(epoch: int, _: int, loss: float, before: int = done) -> None:
            course.advance(before + epoch, f"loss {loss:.5f}")

        results.append(
            reconstruct_latent(
                data,
                light,
                package,
                field_m,
                setting,
                device=device,
                report=shown,
                stop=course.stopped,
            )
        )
        done += setting.epochs
        if course.stopped():
            break
    best = min(results, key=lambda r: float(r.loss[-1]))
    # What was not tried to its end might have been better.
    tried = len(results) == len(settings) and not any(result.interrupted for result in results)
    return replace(best, interrupted=not tried)


def conventional(
    data: Ptychogram,
    light: Illumination,
    settings: PixelSettings,
    device: str,
    course: Course,
    name: str,
) -> Reconstruction:
    """The conventional reconstruction with progress."""
    course.begin(name, 2 * settings.steps)
    return reconstruct_pixels(
        data,
        light,
        settings,
        device=device,
        report=lambda epoch, _, loss: course.advance(epoch, f"loss {loss:.5f}"),
        stop=course.stopped,
    )


def hybrid(
    data: Ptychogram, light: Illumination, found: Posterior, field_m: float, device: str, course: Course, name: str
) -> Reconstruction:
    """Decoder and free pixels, with progress."""
    course.begin(name, 2 * HYBRID.steps)
    return reconstruct_hybrid(
        data,
        light,
        found,
        field_m,
        device=device,
        report=lambda epoch, _, loss: course.advance(epoch, f"loss {loss:.5f}"),
        stop=course.stopped,
    )
