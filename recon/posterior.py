"""A posterior over objects, in pictures and numbers: what the latent estimator answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.foreign import Foreign
from recon.verdict import Verdict


@dataclass(frozen=True)
class Posterior:
    """What the frames say about the object.

    Attributes:
        mean: (s, s) float32 posterior mean of the amplitude on the decoder's grid, in its pose.
        deviation: (s, s) standard deviation per pixel, the decoder's misfit counted.
        spread: (s, s) that of the samples alone.
        decoder_mean: (s, s) of the mean what the decoder draws, without what it misses of the object.
        misfit: (s, s) standard deviation of objects of the class about what the decoder draws.
        missed: strength of what it misses of this object, over that variance; zero where the frames do not show it.
        mode: (s, s) amplitude of the highest mode.
        samples: (n, s, s) float16 draws of the amplitude, equally weighted.
        theta: (n, size) their parameters: whitened latents, then flux and pose.
        latent: (l,) mean of the decoder's latents.
        classes: probability of each class, by label.
        log_evidence: nats, against an empty field of view.
        foreign: evidence that the object is not of the decoder's class.
        pattern: how far the light in the frames lies elsewhere than the mode puts it, in standard deviations; at most
            about zero where frames and object belong together.
        typicality: mean log prior density of the samples, in standard deviations above that of draws from the prior.
        frame_scores: (N,) electrons seen less expected, in standard deviations.
        flux: mean and standard deviation of the light over the calibrated one; (1, 0) where it was held.
        pose: (4,) mean shift y, x (m), rotation (rad), logarithm of the magnification.
        pose_sigma: (4,) their standard deviations.
        modes: number of distinct modes.
        mode_images: (modes, s, s) float16 amplitude of each, the one with the most evidence first.
        mode_log_evidence: nats of each, by Laplace's approximation, against an empty field of view.
        converged: whether the highest mode is one, to a fraction of a nat.
        iterations: Gauss-Newton steps.
        efficiency: see `recon.chains.Sample`.
        accepted, moved: see `recon.chains.Sample`.
        electrons: counted where light is expected; see `Observation.counted`.
        verdict: in a word, with the numbers that decided.
        followed: frames that were added since the bank was last searched; 0 after a whole search.
        counting: "events", "pixels" or "bins"; see `recon.manner`.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    spread: NDArray[np.float32]
    decoder_mean: NDArray[np.float32]
    misfit: NDArray[np.float32]
    missed: float
    mode: NDArray[np.float32]
    samples: NDArray[np.float16]
    theta: NDArray[np.float32]
    latent: NDArray[np.float32]
    classes: dict[int, float]
    log_evidence: float
    foreign: Foreign
    typicality: float
    pattern: float
    frame_scores: NDArray[np.float32]
    flux: tuple[float, float]
    pose: NDArray[np.float32]
    pose_sigma: NDArray[np.float32]
    modes: int
    mode_images: NDArray[np.float16]
    mode_log_evidence: tuple[float, ...]
    converged: bool
    iterations: int
    efficiency: float
    accepted: float
    moved: float
    electrons: float
    verdict: Verdict
    followed: int
    counting: str

    @property
    def transmission(self) -> NDArray[Any]:
        """(s, s) the mean object as the light meets it: here the amplitude itself."""
        return self.mean
