"""The latent estimator for complex objects: amplitude and phase from one latent (the outlook of the paper).

A decoder of two channels draws amplitude a and phase phi; the transmission t = a exp(i phi) meets the light as real and
imaginary part (`recon.complexoperator`). Bank, Gauss-Newton, Laplace approximation and chains are those of amplitudes.

No camera sees an object's global phase: the phases here are those that the decoder draws, and a comparison with another
estimate is one modulo a constant. Where the amplitude is dark the phase is what the class has there, not a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.complexoperator import ComplexOperator
from recon.dataset import Ptychogram
from recon.decoders.package import DecoderPackage
from recon.decoders.sketch import Drawer
from recon.estimator import LatentEstimator
from recon.foreign import DARK, directions
from recon.found import Found
from recon.missed import Field
from recon.observation import Observation
from recon.operator import CameraOperator
from recon.posterior import Posterior


@dataclass(frozen=True)
class ComplexDrawer:
    """Real and imaginary part of what a drawer of amplitudes and phases draws.

    Attributes:
        pairs: draws images (n, 2, s, s) in 0..1, amplitude and phase.
        phase_rad: phase of a second channel of 1.
    """

    pairs: Drawer
    phase_rad: float

    def images(self, zeta: Tensor) -> Tensor:
        """(n, 2, s, s) of whitened latents (n, d); differentiable."""
        drawn = self.pairs.images(zeta)
        phase = self.phase_rad * drawn[:, 1]
        return torch.stack((drawn[:, 0] * phase.cos(), drawn[:, 0] * phase.sin()), 1)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and their Jacobians (n, 2 s^2, d)."""
        drawn, jacobian = self.pairs.drawn(zeta)
        amplitude, phase = drawn[:, 0], self.phase_rad * drawn[:, 1]
        real, imaginary = amplitude * phase.cos(), amplitude * phase.sin()
        along, turned = jacobian.chunk(2, 1)
        turned = self.phase_rad * turned
        cos, sin, re, im = (part.flatten(1)[:, :, None] for part in (phase.cos(), phase.sin(), real, imaginary))
        columns = torch.cat((cos * along - im * turned, sin * along + re * turned), 1)
        return torch.stack((real, imaginary), 1), columns


@dataclass(frozen=True)
class ComplexPosterior(Posterior):
    """What the frames say about a complex object: of its amplitude what `Posterior` says, and its phase.

    Success, in the verdict, is that of the amplitude; what is not of the class may be the phase alone.

    Attributes:
        phase: (s, s) rad, the direction of the mean transmission.
        phase_deviation: (s, s) rad, the decoder's misfit counted.
        phase_spread: (s, s) rad, that of the samples alone.
        phases: (n, s, s) float16 rad, those of the samples.
    """

    phase: NDArray[np.float32]
    phase_deviation: NDArray[np.float32]
    phase_spread: NDArray[np.float32]
    phases: NDArray[np.float16]

    @property
    def transmission(self) -> NDArray[np.complex64]:
        """(s, s) mean amplitude and phase as one complex image."""
        result: NDArray[np.complex64] = (self.mean * np.exp(1j * self.phase)).astype(np.complex64)
        return result

    @property
    def phase_error_rad(self) -> float:
        """Error that the phase is expected to have, rms, weighted by the light that the object lets through."""
        weight = np.square(self.mean, dtype=np.float64)
        return float(np.sqrt((weight * np.square(self.phase_deviation)).sum() / max(weight.sum(), 1e-30)))


class ComplexEstimator(LatentEstimator):
    """Search and posterior under one calibration, with one decoder of amplitude and phase.

    All that `LatentEstimator` does, on images (n, 2, s, s) of real and imaginary parts. Chains walk by the decoder
    itself: the likelihood of a complex image and its slope cost five times (dark) to twenty times (light) what it costs
    to draw it, and by a sketch of two channels, 28 dB, a move in four is accepted at 10,000 photons.
    """

    kind = ComplexOperator
    sketched = False

    @classmethod
    def drawer(cls, package: DecoderPackage, drawer: Drawer) -> Drawer:
        """Real and imaginary parts.

        Raises:
            DecoderError: the decoder draws no phase.
        """
        return ComplexDrawer(drawer, package.phase_rad)

    def amplitudes(self, images: Tensor) -> Tensor:
        """(n, s, s) of real and imaginary parts (n, 2, s, s)."""
        return images.square().sum(1).sqrt()

    def phase_misfit(self, amplitude: Tensor) -> Tensor:
        """(s, s) variance, rad^2, of real phases about what the decoder draws, by the amplitude (s, s) there."""
        assert self.companion.phase_misfit is not None
        return self.companion.phase_misfit.of(amplitude) * self.package.phase_rad**2

    def field(self, image: Tensor) -> Field:
        """Where the decoder may miss amplitude, and phase, beside one of the scene's images (2, s, s)."""
        amplitude = self.amplitudes(image[None])[0]
        misfit = torch.stack((self.companion.misfit.of(amplitude), amplitude.square() * self.phase_misfit(amplitude)))
        along = torch.stack(directions(image))
        return Field.of(misfit, torch.stack((along, torch.stack((-along[1], along[0])))))

    def predicted(self, operator: CameraOperator, image: NDArray) -> NDArray[np.float32]:
        """(H, W) electrons, all frames together, that a transmission (s, s) predicts."""
        return super().predicted(operator, np.stack((image.real, image.imag)))

    def estimate(self, data: Ptychogram, starts: NDArray | None = None) -> ComplexPosterior:
        """The posterior of all frames together; `starts` (n, size) join the bank's best."""
        found = super().estimate(data, starts)
        assert isinstance(found, ComplexPosterior)
        return found

    def pictured(self, observation: Observation, found: Found) -> ComplexPosterior:
        """Pictures and numbers of what was found in an observation."""
        known = super().pictured(observation, found)
        images = found.lit(self.scene)
        mean = images.mean(0)
        phase = torch.atan2(mean[1], mean[0])
        # Turned back by the mean phase: what is left has its phase around zero, where nothing wraps.
        cos, sin = phase.cos(), phase.sin()
        apart = torch.atan2(images[:, 1] * cos - images[:, 0] * sin, images[:, 0] * cos + images[:, 1] * sin)
        variance = apart.square().mean(0)
        amplitude = self.amplitudes(images).mean(0)
        misfit = self.phase_misfit(amplitude)
        if found.missed is not None:
            # A phase of which nothing is known has no more variance than an even one.
            misfit = (found.missed.left[1] / amplitude.square().clamp_min(DARK**2)).clamp_max(math.pi**2 / 3)

        def out(values: Tensor) -> NDArray[np.float32]:
            return values.float().cpu().numpy()

        return ComplexPosterior(
            **vars(known),
            phase=out(phase),
            phase_deviation=out((variance + misfit).sqrt()),
            phase_spread=out(variance.sqrt()),
            phases=(phase + apart).half().cpu().numpy(),
        )
