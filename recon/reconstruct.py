"""The object from frames under a known illumination: conventionally (free pixels) or in a decoder's latent space.

The paper's reconstruction: Adam, a learning rate that decays as 0.97^epoch, patterns in random order, Eq. 1 or the
Poisson-only loss, everything but the object fixed. What may be known is an `Illumination`, which holds no object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recon.calibrate import Illumination
from recon.counting import PHOTON_RESOLVING_E, PREPARED
from recon.dataset import Ptychogram
from recon.decoders.package import DecoderPackage
from recon.knownlight import KnownLight
from recon.levels import resampled
from recon.model import ForwardModel, object_size
from recon.noise import StabilisedAmplitude, loss_named, pixel_weights
from recon.objects import DecoderObject
from recon.pixels import Anchor, as_channels, as_field, solve
from recon.strength import noise_scale, validated

WARM = StabilisedAmplitude()
DECAY = 0.97
"""Learning rate of epoch n over that of the first: DECAY**n (the paper, section 2.2)."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """How to reconstruct.

    Attributes:
        epochs: passes over the patterns (the paper: within 100).
        learning_rate: Adam's, at the start; the paper uses 0.1 to 1 for latents.
        batch: patterns per step.
        loss: "mixed" (Eq. 1), "poisson" (the paper's Poisson-only), "amplitude", or "exact" (Poisson-Gaussian).
        warm_epochs: first epochs with the variance-stabilised amplitude loss, nearly quadratic in the field: from a
            cold start Eq. 1 ends in local minima at high dose. 0 is the paper's procedure.
        start: "mean" (Eq. 2) or "random", a draw from the latents' Gaussian; latent only.
        seed: order of the patterns, random start.
    """

    epochs: int = 100
    learning_rate: float = 0.3
    batch: int = 4
    loss: str = "mixed"
    warm_epochs: int = 0
    start: str = "mean"
    seed: int = 0


@dataclass(frozen=True)
class PixelSettings:
    """How to reconstruct free pixels.

    Attributes:
        positivity: a real amplitude in 0..1, as a mask is; false takes free complex pixels.
        loss: "exact", "mixed" (Eq. 1) or "amplitude"; None takes the exact one where the sensor counts photons.
        kappa: strength of the total variation in units of the noise (`recon.strength`); None lets the data choose.
        steps: of the solver, at most, on each level.
        tolerance: rms step of amplitude at which it has converged.
        seed: which pixels are held out.
    """

    positivity: bool = True
    loss: str | None = None
    kappa: float | None = None
    steps: int = 60
    tolerance: float = 1e-3
    seed: int = 0


CONVENTIONAL = PixelSettings()


@dataclass(frozen=True)
class Reconstruction:
    """Result of a reconstruction.

    Attributes:
        method: "latent" or "conventional".
        object: (M, M) complex64 on the camera's pitch, index M//2 at the origin.
        image: (s, s) float32, the decoder's own image; None for conventional.
        latent: (d,) float32; None for conventional.
        expected: (N, H, W) float32 electrons that the result predicts.
        loss: (epochs,) mean loss per pixel and frame.
        settings: as asked.
        decoder: name and digest of the package, or None.
        interrupted: stopped before its last epoch.
        converged: whether the stopping criterion was met; None for searches of a fixed number of epochs.
        tried: (kappa, held-out loss) along the path of strengths; conventional only.
        residual: power of what lies beside the decoder's image, in variances of its misfit; hybrid only.
        level_steps: how many losses are of each level of pixels, the coarsest first; each level has a loss of its own.
    """

    method: str
    object: NDArray[np.complex64]
    image: NDArray[np.float32] | None
    latent: NDArray[np.float32] | None
    expected: NDArray[np.float32]
    loss: NDArray[np.float64]
    settings: ReconstructionSettings | PixelSettings
    decoder: tuple[str, str] | None = None
    interrupted: bool = False
    converged: bool | None = None
    tried: tuple[tuple[float, float], ...] = ()
    residual: float | None = None
    level_steps: tuple[int, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Numbers for files and reports."""
        return {
            "method": self.method,
            "decoder": None if self.decoder is None else self.decoder[0],
            "decoder_sha256": None if self.decoder is None else self.decoder[1],
            "loss": float(self.loss[-1]),
            "epochs": len(self.loss),
            "interrupted": self.interrupted,
            "converged": self.converged,
            "tried": [list(pair) for pair in self.tried],
            "residual": self.residual,
            "settings": asdict(self.settings),
        }


Report = Callable[[int, int, float], None]
"""Called after every epoch with its number, the number of epochs, and its loss."""


class _Search:
    """Patterns, illumination and forward model on the device, and the loop that the paper describes."""

    def __init__(self, data: Ptychogram, illumination: Illumination, settings: ReconstructionSettings, device: str):
        geometry = replace(illumination.geometry, shape=data.geometry.shape)
        self.data, self.settings, self.device = data, settings, device
        model = ForwardModel.build(geometry, len(illumination.probe), device)
        positions = illumination.positions_of(data.indices) / geometry.pixel_size_m
        self.illumination = model.fixed(
            torch.from_numpy(illumination.probe).to(device), torch.from_numpy(positions).float().to(device)
        )
        # Room for the whole field: all points of the scan, so that every exposure and subset has the same grid.
        everywhere = torch.from_numpy(illumination.positions_m / geometry.pixel_size_m)
        self.size = object_size(everywhere, len(illumination.probe))
        self.frames = torch.from_numpy(data.frames).to(device)
        self.variance = torch.from_numpy(data.dark_variance).to(device)
        mask = torch.from_numpy(data.mask).to(device)
        saturated = None if data.saturated is None else torch.from_numpy(data.saturated).to(device)
        self.weights = pixel_weights(mask, saturated).expand(self.frames.shape)
        self.seconds = torch.from_numpy(data.exposures_s).float().to(device)
        self.loss = loss_named(settings.loss)

    def expected(self, obj: Tensor, batch: Tensor) -> Tensor:
        return self.illumination.intensities(obj, batch) * self.seconds[batch, None, None]

    def run(self, target: nn.Module, report: Report, stop: Callable[[], bool]) -> tuple[list[float], bool]:
        s = self.settings
        optimiser = torch.optim.Adam(target.parameters(), lr=s.learning_rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, DECAY)
        generator = torch.Generator().manual_seed(s.seed)
        losses: list[float] = []
        for epoch in range(s.epochs):
            total = 0.0
            loss = WARM if epoch < s.warm_epochs else self.loss
            for batch in torch.randperm(len(self.data), generator=generator).split(s.batch):
                optimiser.zero_grad(set_to_none=True)
                obj = target()
                value = loss(self.expected(obj, batch), self.frames[batch], self.variance, self.weights[batch])
                value.backward()
                optimiser.step()
                total += float(value.detach())
            schedule.step()
            losses.append(total / self.data.frames.size)
            report(epoch + 1, s.epochs, losses[-1])
            if stop():
                return losses, True
        return losses, False

    @torch.no_grad()
    def finished(self, target: nn.Module) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        obj = target()
        order = torch.arange(len(self.data))
        expected = torch.cat([self.expected(obj, batch) for batch in order.split(self.settings.batch)])
        return obj.cpu().numpy(), expected.cpu().numpy()


def reconstruct_pixels(
    data: Ptychogram,
    illumination: Illumination,
    settings: PixelSettings = CONVENTIONAL,
    *,
    device: str = "cpu",
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Reconstruction:
    """The conventional reconstruction: pixels under total variation whose strength comes from the noise.

    On binned pixels first, where the strength is chosen, then on the camera's.

    Raises:
        ValueError: the loss is not known.
    """
    s = settings
    loss = pixel_loss(data, s)
    light = coarse_light(data, illumination, device)
    likelihood = PREPARED[loss](light.frames, light.variance)
    # A uniform start whose brightness explains the light that came through.
    sent = float((light.probes.abs().square()).sum())
    level = math.sqrt(min(1.0, max(float((light.frames * light.good).sum()) / sent, 1e-3)))
    flat = torch.full((light.size, light.size), level, dtype=torch.complex64, device=light.probes.device)
    start, kappa = as_channels(flat, s.positivity), s.kappa
    tried: tuple[tuple[float, float], ...] = ()
    # The stabilised amplitude loss is nearly quadratic in the field: from a cold start likelihoods end in local minima.
    warm = PREPARED["amplitude"](light.frames, light.variance)
    strength = 2.0 if kappa is None else kappa
    start = solve(
        light, warm, light.good, start, strength * noise_scale(light),
        bounded=s.positivity, tolerance=s.tolerance, steps=min(20, s.steps), told=lambda *_: stop(),
    ).channels  # fmt: skip
    if kappa is None:
        choice = validated(light, likelihood, start, bounded=s.positivity, seed=s.seed, stop=stop)
        start, kappa, tried = choice.object, choice.kappa, choice.tried
    chosen = replace(s, loss=loss, kappa=kappa)
    refined = refine_pixels(data, illumination, light, start, chosen, report=report, stop=stop)
    return Reconstruction(
        "conventional",
        refined.object,
        None,
        None,
        refined.expected,
        refined.losses,
        chosen,
        interrupted=refined.interrupted,
        converged=refined.converged,
        tried=tried,
        level_steps=refined.level_steps,
    )


@dataclass(frozen=True)
class Refined:
    """Where free pixels ended; see `Reconstruction`."""

    object: NDArray[np.complex64]
    expected: NDArray[np.float32]
    losses: NDArray[np.float64]
    interrupted: bool
    converged: bool
    level_steps: tuple[int, ...]


def refine_pixels(
    data: Ptychogram,
    illumination: Illumination,
    light: KnownLight,
    start: Tensor,
    settings: PixelSettings,
    anchored: Callable[[KnownLight], Anchor | None] = lambda _: None,
    *,
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Refined:
    """Free pixels from a start (c, M, M) on the grid of `light`, there and then on the camera's own pixels.

    Args:
        settings: with loss and kappa.
        anchored: what the pixels of a level are expected to be.
    """
    assert settings.loss is not None
    assert settings.kappa is not None
    device = str(light.frames.device)
    losses: list[float] = []
    levels = sorted({light.binning, 1}, reverse=True)

    def told(_: int, loss: float) -> bool:
        losses.append(loss / data.frames.size)
        report(len(losses), len(levels) * settings.steps, losses[-1])
        return stop()

    def carried(channels: Tensor, fine: KnownLight) -> Tensor:
        """Channels of `light` on a finer grid."""
        field = as_field(channels).cpu().numpy()
        moved = resampled(field, light.binning / fine.binning, fine.size, (light.binning - fine.binning) / 2)
        return as_channels(torch.from_numpy(moved).to(device), settings.positivity)

    channels, place = start, light
    level_steps: list[int] = []
    for binning in levels:
        if binning != place.binning:
            place = KnownLight.build(data, illumination, binning, device)
            channels = carried(channels, place)
        found = solve(
            place, PREPARED[settings.loss](place.frames, place.variance), place.good, channels,
            settings.kappa * noise_scale(place), bounded=settings.positivity, tolerance=settings.tolerance,
            steps=settings.steps, anchor=anchored(place), told=told,
        )  # fmt: skip
        channels = found.channels
        level_steps.append(len(losses) - sum(level_steps))
        if found.interrupted:
            break
    if place.binning != 1:
        place = KnownLight.build(data, illumination, 1, device)
        channels = carried(channels, place)
    obj = as_field(channels)
    return Refined(
        obj.cpu().numpy(),
        place.expected(obj).cpu().numpy(),
        np.array(losses),
        found.interrupted,
        found.converged,
        tuple(level_steps),
    )


def coarse_light(data: Ptychogram, illumination: Illumination, device: str) -> KnownLight:
    """The frames on the pixels that free pixels begin with: binned where the frames can be."""
    shape = data.geometry.shape
    binning = 2 if not any(n % 4 for n in shape) and min(shape) >= 128 else 1
    return KnownLight.build(data, illumination, binning, device)


def pixel_loss(data: Ptychogram, settings: PixelSettings) -> str:
    """The loss asked for, or the sensor's. Raises `ValueError`: it is not known."""
    resolving = float(np.sqrt(np.median(data.dark_variance[data.mask]))) < PHOTON_RESOLVING_E
    loss = settings.loss or ("exact" if resolving else "mixed")
    if loss not in PREPARED:
        raise ValueError(f"unknown loss {loss!r}; known: {', '.join(PREPARED)}")
    return loss


def random_latent(package: DecoderPackage, seed: int) -> Tensor:
    """A draw (d,) from the Gaussian with the training latents' mean and covariance."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(len(package.latent_mean), generator=generator)
    deviation = package.latent_eigenvalues.cpu().sqrt() * white
    return (package.latent_mean.cpu() + package.latent_eigenvectors.cpu() @ deviation).to(package.latent_mean.device)


def reconstruct_latent(
    data: Ptychogram,
    illumination: Illumination,
    package: DecoderPackage,
    field_m: float,
    settings: ReconstructionSettings = ReconstructionSettings(),
    *,
    start_latent: NDArray[np.float32] | None = None,
    device: str = "cpu",
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Reconstruction:
    """The paper's latent reconstruction: only the latent vector is searched, without a prior.

    Args:
        field_m: side of the square that the decoder's image covers on the object.
        start_latent: (d,) latent to begin with, such as that of a darker exposure; overrules `settings.start`.

    Raises:
        ValueError: `settings.start` is neither "mean" nor "random".
    """
    if settings.start not in ("mean", "random"):
        raise ValueError(f"unknown latent start {settings.start!r}; known: mean, random")
    search = _Search(data, illumination, settings, device)
    package = package.to(device)
    start = None if settings.start == "mean" else random_latent(package, settings.seed)
    if start_latent is not None:
        start = torch.from_numpy(start_latent).to(device)
    target = DecoderObject(package, search.size, illumination.geometry.pixel_size_m, field_m, start).to(device)
    losses, interrupted = search.run(target, report, stop)
    obj, expected = search.finished(target)
    with torch.no_grad():
        image = target.image().cpu().numpy()
    return Reconstruction(
        "latent",
        obj,
        image,
        target.latent.detach().cpu().numpy(),
        expected,
        np.array(losses),
        settings,
        (package.name, package.sha256),
        interrupted,
    )


def draw_latent(package: DecoderPackage, latent: NDArray | None, size: int, pixel_m: float, field_m: float) -> NDArray:
    """(size, size) float32 amplitude of a latent (None: the training mean) on the object's grid: a baseline."""
    start = None if latent is None else torch.from_numpy(latent)
    with torch.no_grad():
        return DecoderObject(package, size, pixel_m, field_m, start).amplitude().numpy()


def fit_image(package: DecoderPackage, amplitude: NDArray, pixel_m: float, field_m: float, steps: int = 300) -> NDArray:
    """The closest that the decoder can draw to a known (M, M) amplitude, least squares in image space: the ceiling.

    Returns (M, M) float32. For scores and studies only; it sees the truth.
    """
    truth = torch.from_numpy(np.asarray(amplitude, np.float32))
    size = package.architecture.image_size
    resize = resize_to_decoder(len(truth), pixel_m, field_m, size)
    start = package.encode((resize @ truth @ resize.T).clamp(0, 1)[None])[0]
    target = DecoderObject(package, len(truth), pixel_m, field_m, start)
    optimiser = torch.optim.Adam(target.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        (target.amplitude() - truth).square().mean().backward()
        optimiser.step()
    return target.amplitude().detach().numpy()


def resize_to_decoder(size: int, pixel_m: float, field_m: float, samples: int) -> Tensor:
    """(samples, size) matrix that averages an object grid over the decoder's pixels along one axis."""
    edges = -field_m / 2 + field_m / samples * np.arange(samples + 1)
    low = (np.arange(size) - size // 2 - 0.5) * pixel_m
    overlap = np.minimum(edges[1:, None], low[None] + pixel_m) - np.maximum(edges[:-1, None], low[None])
    weights = np.clip(overlap, 0, None)
    return torch.from_numpy((weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)).astype(np.float32))
