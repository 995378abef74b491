"""The latent estimator on a run: one exposure's posterior, what is stored of it, and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.calibration import software
from app.errors import UsageError
from app.figures import PosteriorPicture, Seen, posterior_figure
from recon.complexlatent import ComplexEstimator, ComplexPosterior
from recon.dataset import Ptychogram
from recon.decoders.companion import Companion, companion_path, load_companion, plain_companion
from recon.decoders.direct import rehearse
from recon.decoders.package import DecoderPackage, find_package, load_package
from recon.estimator import LatentEstimator
from recon.files.results import store_result
from recon.illumination import Illumination
from recon.operator import Drawing
from recon.posterior import Posterior
from recon.scene import FREE_POSE, Nuisances

POSES = ("free", "known")
FREE = replace(FREE_POSE, flux=0.0)
"""A sample put in by hand, about the middle of the decoder's square, under the calibration's own light."""
SAMPLES_STORED = 64


@dataclass(frozen=True)
class Decoder:
    """A decoder with its prior.

    Attributes:
        package: the decoder.
        companion: its prior, sketch and misfit; plain where none has been made.
    """

    package: DecoderPackage
    companion: Companion

    @classmethod
    def load(cls, name: str, channels: int | None = 1, asker: str = "what was asked for") -> Decoder:
        """A shipped decoder by name or any package by path; `channels` and `asker` as of `load_package`.

        Without a prior beside it a unit normal one is taken and the decoder draws for itself, slowly; `note` tells.

        Raises:
            DecoderError: the package or its prior is missing a part, foreign, or broken, or draws other channels.
        """
        package = load_package(name, channels, asker)
        prior = companion_path(find_package(name))
        return cls(package, load_companion(prior, package) if prior.exists() else plain_companion(package))

    def rehearse(self) -> None:
        """Have everything loaded that the first image will need of the decoder."""
        rehearse(self.package)

    @property
    def note(self) -> str:
        """What a user should know of its prior; empty for a full one."""
        if not self.companion.plain:
            return ""
        name = self.package.name
        return f"decoder {name!r} has no prior yet: a plain normal one is taken (ptychoscope train --prior {name})"


def estimator(
    decoder: Decoder, light: Illumination, field_m: float, pose: str = "free", device: str = "cpu"
) -> LatentEstimator:
    """The estimator of a calibrated bench, of the kind that the decoder's images take.

    Raises:
        UsageError: `pose` is neither "free" nor "known".
    """
    if pose not in POSES:
        raise UsageError(f"pose {pose!r}: known are {', '.join(POSES)}")
    nuisances = FREE if pose == "free" else Nuisances()
    kind = LatentEstimator if decoder.package.channels == 1 else ComplexEstimator
    return kind.build(decoder.package, decoder.companion, light, field_m, nuisances=nuisances, device=device)


def on_object_grid(image: NDArray, field_m: float, size: int, pixel_m: float) -> NDArray:
    """(size, size) amplitude or transmission on the object's grid, index size//2 at the origin, of one (s, s)."""
    axis = (np.arange(size, dtype=np.float64) - size // 2) * pixel_m
    weights = Drawing(len(image), field_m).weights(axis, 0)
    drawn: NDArray = weights @ image @ weights.T
    return drawn.astype(np.complex64 if np.iscomplexobj(image) else np.float32)


def arrays_of(found: Posterior) -> dict[str, NDArray]:
    """What a run keeps of a posterior, besides its numbers."""
    phase: dict[str, NDArray] = {}
    if isinstance(found, ComplexPosterior):
        phase = {
            "phase": found.phase,
            "phase_deviation": found.phase_deviation,
            "phase_spread": found.phase_spread,
            "phase_samples": found.phases[:SAMPLES_STORED],
        }
    return phase | {
        "image": found.mean,
        "deviation": found.deviation,
        "spread": found.spread,
        "decoder_mean": found.decoder_mean,
        "mode": found.mode,
        "modes": found.mode_images,
        "samples": found.samples[:SAMPLES_STORED],
        "parameters": found.theta[:SAMPLES_STORED],
        "latent": found.latent,
        "frame_scores": found.frame_scores,
        "pose": found.pose,
        "pose_sigma": found.pose_sigma,
    }


def settings_of(found: Posterior, decoder: Decoder) -> dict[str, Any]:
    """A posterior's numbers and what made it, as a run keeps them."""
    return numbers(found) | {
        "method": "latent",
        "decoder": decoder.package.name,
        "decoder_sha256": decoder.package.sha256,
        "prior": decoder.companion.described(),
        "software": software(),
    }


def store_posterior(
    path: Path,
    entry: int,
    found: Posterior,
    decoder: Decoder,
    psnr: float | None,
    name: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Put a posterior into the run, beside the exposure it belongs to; `more` joins its numbers."""
    settings = settings_of(found, decoder) | {"psnr_db": psnr} | dict(more or {})
    store_result(path, entry, arrays_of(found), settings, name=f"reconstruction_{name}")


def numbers(found: Posterior) -> dict[str, Any]:
    """A posterior's numbers for files, reports and the command's JSON line; all finite."""
    verdict = found.verdict
    phase = {}
    if isinstance(found, ComplexPosterior):
        phase = {"expected_phase_error_rad": found.phase_error_rad}
    return phase | {
        "verdict": verdict.word.value,
        "reason": verdict.reason,
        "probability_of_success": verdict.success,
        "expected_psnr_db": verdict.expected_db,
        "converged": found.converged,
        "photons_counted": found.electrons,
        "sigma_mean": float(found.deviation.mean()),
        "missed": found.missed,
        "classes": {str(label): share for label, share in found.classes.items()},
        "log_evidence": found.log_evidence,
        "foreign_log_odds": found.foreign.log_odds,
        "modes": found.modes,
        "mode_log_evidence": list(found.mode_log_evidence),
        "iterations": found.iterations,
        "efficiency": found.efficiency,
        "accepted": found.accepted,
        "counting": found.counting,
        "flux": list(found.flux),
        "pose": [float(v) for v in found.pose],
        "pose_sigma": [float(v) for v in found.pose_sigma],
    }


def draw_posterior(
    found: Posterior, data: Ptychogram, expected: NDArray, field_m: float, lit: NDArray | None, heading: str, path: Path
) -> Path:
    """The figure of a posterior whose images are `field_m` wide; returns its path."""
    picture = PosteriorPicture(
        mean=found.mean,
        deviation=found.deviation,
        samples=found.samples[:: max(1, len(found.samples) // 4)][:4].astype(np.float32),
        classes=found.classes,
        seen=Seen(data.frames.sum(0), expected, data.geometry.pixel_size_m, field_m / len(found.mean)),
        lit=lit,
        verdict=f"{found.verdict.word.value}: {found.verdict.reason}",
        phase=(found.phase, found.phase_deviation) if isinstance(found, ComplexPosterior) else None,
    )
    return posterior_figure(picture, heading, path)
