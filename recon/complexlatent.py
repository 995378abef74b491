"""The latent estimator for complex objects: amplitude and phase from one latent (the outlook of the paper).

A decoder of two channels draws amplitude a and phase phi; the transmission t = a exp(i phi) meets the light as real and
imaginary part (`recon.complexoperator`). Bank, Gauss-Newton, Laplace approximation and chains are those of amplitudes.

No camera sees an object's global phase: the phases here are those that the decoder draws, and a comparison with another
estimate is one modulo a constant. Where the amplitude is dark the phase is what the class has there, not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.bins import Bins
from recon.complexoperator import ComplexOperator
from recon.dataset import Ptychogram
from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import DecoderPackage
from recon.decoders.sketch import Drawer
from recon.illumination import Illumination
from recon.latent import Bank, LatentSettings
from recon.observation import Observation
from recon.posterior import BANK, KNOWN, USUAL, Found, LatentEstimator
from recon.scene import Nuisances, Scene


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
class ComplexPosterior:
    """What the frames say about a complex object.

    Attributes:
        amplitude: (s, s) float32 posterior mean on the decoder's grid, in its pose.
        amplitude_deviation: (s, s) standard deviation per pixel, the decoder's misfit counted.
        amplitude_spread: (s, s) that of the samples alone.
        phase: (s, s) rad, the direction of the mean transmission.
        phase_deviation: (s, s) rad, the decoder's misfit counted.
        phase_spread: (s, s) rad, that of the samples alone.
        mode: (s, s) complex64 transmission of the highest mode.
        samples: (n, 2, s, s) float16 draws of real and imaginary part, equally weighted.
        theta: (n, size) their parameters: whitened latents, then flux and pose.
        classes: probability of each class, by label.
        log_evidence: nats, against an empty field of view.
        frame_scores: (N,) electrons seen less expected, in standard deviations.
        flux: mean and standard deviation of the light over the calibrated one; (1, 0) where it was held.
        pose: (4,) mean shift y, x (m), rotation (rad), logarithm of the magnification.
        pose_sigma: (4,) their standard deviations.
        modes: number of distinct modes.
        converged: whether the highest mode is one.
        iterations: Gauss-Newton steps.
        efficiency: see `recon.chains.Sample`.
        accepted: see `recon.chains.Sample`.
        electrons: counted where light is expected.
        counting: "events" or "bins".
    """

    amplitude: NDArray[np.float32]
    amplitude_deviation: NDArray[np.float32]
    amplitude_spread: NDArray[np.float32]
    phase: NDArray[np.float32]
    phase_deviation: NDArray[np.float32]
    phase_spread: NDArray[np.float32]
    mode: NDArray[np.complex64]
    samples: NDArray[np.float16]
    theta: NDArray[np.float32]
    classes: dict[int, float]
    log_evidence: float
    frame_scores: NDArray[np.float32]
    flux: tuple[float, float]
    pose: NDArray[np.float32]
    pose_sigma: NDArray[np.float32]
    modes: int
    converged: bool
    iterations: int
    efficiency: float
    accepted: float
    electrons: float
    counting: str

    @property
    def transmission(self) -> NDArray[np.complex64]:
        """(s, s) mean amplitude and phase as one complex image."""
        result: NDArray[np.complex64] = (self.amplitude * np.exp(1j * self.phase)).astype(np.complex64)
        return result


@dataclass(frozen=True)
class ComplexEstimator:
    """Search and posterior under one calibration, with one decoder of amplitude and phase.

    Attributes:
        search: bank, what `prepare` keeps, search and chains, on real and imaginary parts.
    """

    search: LatentEstimator

    @classmethod
    def build(
        cls,
        package: DecoderPackage,
        companion: Companion,
        light: Illumination,
        field_m: float,
        *,
        nuisances: Nuisances = KNOWN,
        settings: LatentSettings = USUAL,
        bank: int = BANK,
        device: str = "cpu",
    ) -> ComplexEstimator:
        """Draws the bank; some seconds.

        Raises:
            DecoderError: the decoder draws no phase.
        """
        package, companion = package.to(device), companion.to(device)
        scene = Scene(ComplexDrawer(companion.sketch, package.phase_rad), companion.prior, nuisances, field_m)
        exact = replace(scene, drawer=ComplexDrawer(DirectDrawer.of(package), package.phase_rad))
        drawn = Bank.draw(scene, bank)
        return cls(
            LatentEstimator(package, companion, light, field_m, scene, exact, drawn, settings, device, ComplexOperator)
        )

    def observe(self, data: Ptychogram) -> Observation:
        """The frames as a likelihood of real and imaginary parts (S, 2, s, s)."""
        return self.search.observe(data)

    def estimate(self, data: Ptychogram, starts: NDArray | None = None) -> ComplexPosterior:
        """The posterior of all frames together; `starts` (n, size) join the bank's best."""
        prepared = self.search.prepare(data)
        observation = self.search.observe(data, prepared)
        more = None if starts is None else torch.from_numpy(starts).to(self.search.device)
        return self.pictured(
            observation, self.search.found(observation, more, self.search.scores(observation, prepared))
        )

    def expected(self, data: Ptychogram, transmission: NDArray) -> NDArray[np.float32]:
        """(H, W) electrons, all frames together, that a transmission (s, s) predicts."""
        return self.search.expected(data, np.stack((transmission.real, transmission.imag)))

    def pictured(self, observation: Observation, found: Found) -> ComplexPosterior:
        """Pictures and numbers of what was found in an observation."""
        search, scene = self.search, self.search.scene
        modes, theta = found.modes, found.drawn.theta
        images = scene.transmitted(found.drawn.images, theta)
        sizes = images.square().sum(1).sqrt()
        mean = images.mean(0)
        amplitude, phase = sizes.mean(0), torch.atan2(mean[1], mean[0])
        # Turned back by the mean phase: what is left has its phase around zero, where nothing wraps.
        cos, sin = phase.cos(), phase.sin()
        apart = torch.atan2(images[:, 1] * cos - images[:, 0] * sin, images[:, 0] * cos + images[:, 1] * sin)
        companion = search.companion
        assert companion.phase_misfit is not None
        misfit = companion.misfit.of(amplitude)
        phase_misfit = companion.phase_misfit.of(amplitude) * search.package.phase_rad**2
        variance, phase_variance = sizes.var(0), apart.square().mean(0)
        joint = scene.prior.joint(scene.zeta(theta)).softmax(1).mean(0)
        labels = scene.prior.labels
        best = int(modes.log_posterior.argmax())
        top = modes.theta[best : best + 1]
        lit = replace(search.exact, drawer=found.chord).images(top)[0]
        mode = lit / scene.flux(top).sqrt()
        flux, pose = scene.flux(theta), scene.pose(theta)

        def out(values: Tensor) -> NDArray[np.float32]:
            return values.float().cpu().numpy()

        return ComplexPosterior(
            amplitude=out(amplitude),
            amplitude_deviation=out((variance + misfit).sqrt()),
            amplitude_spread=out(variance.sqrt()),
            phase=out(phase),
            phase_deviation=out((phase_variance + phase_misfit).sqrt()),
            phase_spread=out(phase_variance.sqrt()),
            mode=torch.complex(mode[0].contiguous(), mode[1].contiguous()).cpu().numpy(),
            samples=images.half().cpu().numpy(),
            theta=out(theta),
            classes={label: float(joint[labels == label].sum()) for label in scene.prior.classes},
            log_evidence=found.drawn.log_evidence,
            frame_scores=out(observation.frame_scores(lit)),
            flux=(float(flux.mean()), float(flux.std())),
            pose=out(pose.mean(0)),
            pose_sigma=out(pose.std(0)),
            modes=len(modes.theta),
            converged=bool(modes.converged[best]),
            iterations=found.iterations,
            efficiency=found.drawn.efficiency,
            accepted=found.drawn.accepted,
            electrons=observation.counted(lit),
            counting="bins" if isinstance(observation, Bins) else "events",
        )
