"""Which frame next: what one more would tell of the object, at each point and exposure that it could be taken at.

The draws x_s from a posterior (or from the prior) are a Gaussian cloud as far as the next frame is concerned. A pixel
with I electrons has the information 4 e about its amplitude sqrt(I), whatever I is, e <= 1 the share that read noise
leaves; so the amplitudes a_s of the draws on the camera, scaled by 2 sqrt(e) and less their mean, are a cloud A in
units of the frame's own noise. With its Gram matrix K = A^T A/(S - 1)

    information = ln det(1 + K)/2,    covariance of the image afterwards = X (1 + K)^-1 X^T/(S - 1),

X the draws less their mean (Lindley 1956; Chaloner & Verdinelli 1995): determinants of as many rows as there are
draws. Photons that several pixels tell twice are counted once, and frames add their K. A posterior of a few islands is
worth at most the logarithm of their number, where a Gaussian cloud of the same size promises more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.information import FisherTable, fisher_table
from recon.observation import LightMap
from recon.operator import CameraOperator
from recon.posterior import Posterior
from recon.scene import Scene

NODE_M = 45e-6
"""Spacing at which the light on the camera is looked at: half a speckle of light from 0.5 mm, 80 mm away."""
ENERGY = 0.99
"""Share of the light of each point, as the prior expects it, in the nodes that are looked at."""
DRAWS = 96
"""Draws that are looked at: the cloud has some twenty dimensions."""


class Wish(StrEnum):
    """What a frame is chosen for."""

    INFORMATION = "information"
    DEVIATION = "deviation"


def lit(posterior: Posterior, scene: Scene) -> Tensor:
    """(n, s, s) draws from a posterior as they meet the light: in their pose, times the square root of the flux."""
    flux = scene.flux(torch.from_numpy(posterior.theta))
    return torch.from_numpy(posterior.samples).float() * flux.sqrt()[:, None, None]


@dataclass(frozen=True)
class Worth:
    """What one more frame would tell.

    Attributes:
        information: (N, E) nats about the object, at N points with E exposures.
        deviation: (N, E) root mean square standard deviation of the image that is expected after it.
        present: that of now.
    """

    information: NDArray[np.float64]
    deviation: NDArray[np.float64]
    present: float

    def gain(self, wish: Wish) -> NDArray[np.float64]:
        """(N, E) nats: information, or the logarithm of the factor by which the deviation falls."""
        return self.information if wish is Wish.INFORMATION else np.log(self.present / self.deviation)

    def best(self, wish: Wish, cost: NDArray[np.float64]) -> tuple[int, int]:
        """Number of the point and of the exposure that tell most for their cost (N, E), photons or seconds.

        Of several as good, the first. A cost of infinity leaves one out.

        Raises:
            ValueError: costs that are not positive, or all of them infinite.
        """
        if not (cost > 0).all() or not np.isfinite(cost).any():
            raise ValueError("costs of the next frame: some are not positive, or none is finite")
        point, exposure = np.unravel_index(int(np.argmax(self.gain(wish) / cost)), cost.shape)
        return int(point), int(exposure)


@dataclass(frozen=True)
class Clouds:
    """What the camera would see of some draws, in units of its noise.

    Attributes:
        grams: (N, E, S, S) float64, K of N points and E exposures.
        covariance: (S, S) float64, X^T X/(S - 1) over the image's pixels.
    """

    grams: Tensor
    covariance: Tensor

    def worth(self, taken: Tensor | None = None) -> Worth:
        """Of each frame, after those whose K add up to `taken` (S, S)."""
        unit = torch.eye(self.grams.shape[2], dtype=self.grams.dtype, device=self.grams.device)
        before = unit if taken is None else unit + taken
        known, variance = self._after(before)
        after, left = self._after(before + self.grams)
        return Worth((after - known).cpu().numpy(), left.sqrt().cpu().numpy(), float(variance.sqrt()))

    def order(self, count: int, exposure: int = 0) -> list[int]:
        """Numbers of `count` points of which each tells most after those before it, repeats allowed.

        No frame is looked at: an order that suits the draws on the average, known before a scan begins.
        """
        taken = torch.zeros_like(self.covariance)
        chosen = []
        for _ in range(count):
            best = int(np.argmax(self.worth(taken).information[:, exposure]))
            taken = taken + self.grams[best, exposure]
            chosen.append(best)
        return chosen

    def _after(self, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Nats and mean variance of the image, of precisions 1 + K (..., S, S)."""
        factor = torch.linalg.cholesky(precision)
        variance = (torch.cholesky_inverse(factor) * self.covariance).sum((-1, -2))
        return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), variance


@dataclass(frozen=True)
class Candidates:
    """Where the next frame could be taken, and what the camera would see there.

    Attributes:
        operator: says what each frame sees.
        rows: for each of N points (2 m, L) float32, real then imaginary part of the field at m nodes of the camera
            after a second.
        pixels: for each point (m,) good pixels that each node stands for.
        table: Fisher information of one pixel.
        variance: read noise of one, electrons squared.
    """

    operator: CameraOperator
    rows: tuple[Tensor, ...]
    pixels: tuple[Tensor, ...]
    table: FisherTable
    variance: Tensor

    @classmethod
    def build(
        cls,
        operator: CameraOperator,
        light: LightMap,
        dark_variance: NDArray[np.float32],
        mask: NDArray[np.bool_],
        pixel_m: float,
        node_m: float = NODE_M,
    ) -> Candidates:
        """For the points of an operator, on a sensor (H, W), where the `light` of its frames is expected.

        Raises:
            ValueError: a read noise that `recon.information` has no table for.
        """
        step = max(1, round(node_m / pixel_m))
        count = light.mean.shape[1] * light.side // step
        device = operator.probe.device
        down, across = (torch.arange(count, device=device) * step + corner + step // 2 for corner in light.corner)
        top, left = light.corner
        good = torch.from_numpy(mask).to(device)[top : top + count * step, left : left + count * step]
        good = good.reshape(count, step, count, step).sum((1, 3), dtype=torch.float32)
        rows, pixels = [], []
        for j, mean in enumerate(light.mean):
            expected = mean[(down - top) // light.side][:, (across - left) // light.side].mul(good).flatten()
            bright, order = expected.sort(descending=True, stable=True)
            most = int((bright.cumsum(0) < ENERGY * bright.sum()).sum()) + 1
            chosen = order[:most].sort().values
            field = operator.on_grid(j, down, across)[chosen] / operator.seconds[j].sqrt()
            rows.append(torch.cat((field.real, field.imag)))
            pixels.append(good.flatten()[chosen])
        sigma = float(np.sqrt(np.median(dark_variance[mask])))
        table, variance = fisher_table(sigma, sigma), torch.tensor(sigma**2, device=device)
        return cls(operator, tuple(rows), tuple(pixels), table, variance)

    def clouds(self, images: Tensor | NDArray[np.float16], seconds: NDArray[np.float64]) -> Clouds:
        """What frames at each point with each exposure (E,) would see of draws (S, s, s), as they meet the light."""
        images = torch.as_tensor(images)[:: -(-len(images) // DRAWS)].to(self.variance.device, torch.float32)
        count = len(images)
        centred = (images - images.mean(0)).flatten(1)
        covariance = (centred @ centred.T).double() / (count - 1) / centred.shape[1]
        local = self.operator.local(images).flatten(2).transpose(1, 2)
        grams = images.new_empty(len(self.rows), len(seconds), count, count, dtype=torch.float64)
        for j, (rows, pixels) in enumerate(zip(self.rows, self.pixels, strict=True)):
            real, imaginary = (rows @ local[j]).chunk(2)
            amplitude = torch.hypot(real, imaginary)
            mean = amplitude.square().mean(1)
            amplitude -= amplitude.mean(1, keepdim=True)
            for e, exposure in enumerate(seconds.tolist()):
                light = mean * exposure
                share = light * self.table.look_up(light, self.variance)
                cloud = amplitude * (4 * exposure * pixels * share).sqrt()[:, None]
                grams[j, e] = (cloud.T @ cloud) / (count - 1)
        return Clouds(grams, covariance)

    def worth(self, images: Tensor | NDArray[np.float16], seconds: NDArray[np.float64]) -> Worth:
        """What a frame at each point with each exposure (E,) would tell, by draws (S, s, s) as they meet the light."""
        return self.clouds(images, seconds).worth()
