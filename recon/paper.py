"""The paper's estimator on the camera operator: Eq. 1, Adam, one pattern a step, many runs at once.

The diffraction of what a decoder draws is smooth over some camera pixels, and with it, for any one reading X, the loss
l(X, I) as a function of position. So the sum over pixels is one over the nodes b of a coarser grid,

    sum_p l(X_p, I_p) = sum_p sum_b w_b(p) l(X_p, I_b),

w the weights of cubic interpolation, and Eq. 1 needs of the readings around a node only their weighted number, mean and
spread. A step is then two small matrix products and the decoder, for all runs of all objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.adam import Adam
from recon.dataset import Ptychogram
from recon.decoders.package import DecoderPackage
from recon.illumination import Illumination
from recon.observation import BLOCK_M
from recon.operator import CameraOperator, Drawing
from recon.reconstruct import DECAY, random_latent
from recon.scene import moved

ENERGY = 0.995
"""Share of the light, expected from the decoder's images, that is looked at."""
MAPPED = 64
"""Images from the latents' Gaussian that say where light is expected."""
BETAS, TINY = (0.9, 0.999), 1e-8
"""Adam's, as published and as torch has them."""


@dataclass(frozen=True)
class Summed:
    """Frames as Eq. 1 sees them: per frame j, the m_j lit nodes of some objects O.

    Attributes:
        count: [(m_j, O)] good pixels, weighted.
        mean: [(m_j, O)] electrons, over those.
        spread: [(m_j, O)] their weighted squares about the mean, summed.
        variance: [(m_j, O)] dark variance.
    """

    count: list[Tensor]
    mean: list[Tensor]
    spread: list[Tensor]
    variance: list[Tensor]

    @classmethod
    def joined(cls, parts: Sequence[Summed]) -> Summed:
        """Several objects side by side."""
        fields = ("count", "mean", "spread", "variance")
        return cls(*(
            [torch.cat(columns, 1) for columns in zip(*(getattr(part, name) for part in parts), strict=True)]
            for name in fields
        ))  # fmt: skip


@dataclass(frozen=True)
class LitBlocks:
    """The camera operator at the nodes of a coarser grid, where light reaches.

    Attributes:
        operator: from images to the camera; its exposures are those of the frames.
        side: camera pixels from node to node, odd; 1 takes every pixel for itself.
        corner: (row, column) of the first pixel of the first node's block.
        grid: nodes each way.
        chosen: [(m_j,)] indices of the lit nodes of each frame, in the grid flattened.
        rows: [(2 m_j, L)] real, then imaginary part of the field there, per pixel of the local image.
    """

    operator: CameraOperator
    side: int
    corner: tuple[int, int]
    grid: tuple[int, int]
    chosen: list[Tensor]
    rows: list[Tensor]

    @classmethod
    def build(
        cls,
        operator: CameraOperator,
        images: Tensor,
        *,
        side: int,
        energy: float = ENERGY,
    ) -> LitBlocks:
        """Nodes with that share of the light that images (S, s, s) of the prior send, of all frames together."""
        shape = (operator.kernel_y.shape[0], operator.kernel_x.shape[0])
        grid = (shape[0] // side, shape[1] // side)
        corner = (shape[0] // 2 - grid[0] * side // 2, shape[1] // 2 - grid[1] * side // 2)
        device = operator.probe.device
        centres = [torch.arange(n, device=device) * side + c + side // 2 for n, c in zip(grid, corner, strict=True)]
        down, across = operator.kernel_y[centres[0]], operator.kernel_x[centres[1]]
        light = torch.zeros(len(operator), *grid, device=device)
        for image in images:
            waves = operator.exit_waves(image[None])[:, 0]
            for j, wave in enumerate(waves):
                light[j] += (down @ wave @ across.T).abs().square()
        ranked, _ = light.flatten().sort(descending=True)
        enough = ranked.double().cumsum(0) >= energy * light.double().sum()
        least = ranked[int(enough.float().argmax())]
        chosen, rows = [], []
        for j in range(len(operator)):
            index = (light[j].flatten() >= least).nonzero()[:, 0]
            field = operator.at_pixels(j, centres[0][index // grid[1]], centres[1][index % grid[1]])
            chosen.append(index)
            rows.append(torch.cat((field.real, field.imag)).contiguous())
        return cls(operator, side, corner, grid, chosen, rows)

    @classmethod
    def of_decoder(
        cls,
        package: DecoderPackage,
        light: Illumination,
        positions_m: NDArray[np.float64],
        field_m: float,
        node_m: float = BLOCK_M,
    ) -> LitBlocks:
        """Where a decoder's drawings send light, one second of exposure a frame, on the decoder's device."""
        device = str(package.latent_mean.device)
        drawing = Drawing(package.architecture.image_size, field_m)
        shape = light.geometry.shape
        operator = CameraOperator.build(light, positions_m, np.ones(len(positions_m)), shape, drawing, device)
        with torch.no_grad():
            images = package.decode(torch.stack([random_latent(package, seed) for seed in range(MAPPED)]))
        pixel = light.geometry.pixel_size_m
        return cls.build(operator, images, side=2 * round((node_m / pixel - 1) / 2) + 1)

    def with_seconds(self, exposure_s: float) -> LitBlocks:
        """The same frames exposed for so long."""
        o = self.operator
        seconds = torch.full_like(o.seconds, exposure_s)
        operator = CameraOperator(o.drawing, o.probe, o.kernel_y, o.kernel_x, o.rows, o.columns, o.corners, seconds)
        roots = (seconds / o.seconds).sqrt()
        rows = [part * root for part, root in zip(self.rows, roots, strict=True)]
        return LitBlocks(operator, self.side, self.corner, self.grid, self.chosen, rows)

    def every(self, step: int) -> LitBlocks:
        """Every `step`-th of the nodes: for a first search."""
        halves = [torch.stack(rows.chunk(2))[:, ::step].flatten(0, 1) for rows in self.rows]
        return LitBlocks(self.operator, self.side, self.corner, self.grid, [c[::step] for c in self.chosen], halves)

    @property
    def pixels(self) -> int:
        """Camera pixels that are looked at, over all frames."""
        return sum(len(c) for c in self.chosen) * self.side**2

    def weights(self, axis: int) -> Tensor:
        """(g, H) or (g, W) weights of the pixels of one axis around each node: Catmull-Rom, which sum to one."""
        length = (self.operator.kernel_y, self.operator.kernel_x)[axis].shape[0]
        device = self.operator.probe.device
        nodes = torch.arange(self.grid[axis], device=device) * self.side + self.corner[axis] + self.side // 2
        apart = (torch.arange(length, device=device) - nodes[:, None]).abs() / self.side
        inner = 1.5 * apart**3 - 2.5 * apart**2 + 1
        outer = -0.5 * apart**3 + 2.5 * apart**2 - 4 * apart + 2
        return torch.where(apart < 1, inner, torch.where(apart < 2, outer, 0.0))

    def summed(self, data: Ptychogram) -> Summed:
        """The frames of one object; masked and clipped pixels do not count."""
        device = self.operator.probe.device
        variance = torch.from_numpy(data.dark_variance).to(device)
        good = torch.from_numpy(data.mask).to(device)
        down, across = self.weights(0), self.weights(1).T
        columns: list[list[Tensor]] = [[], [], [], []]
        for j, index in enumerate(self.chosen):
            seen = good if data.saturated is None else good & ~torch.from_numpy(data.saturated[j]).to(device)
            reading = torch.where(seen, torch.from_numpy(data.frames[j]).to(device), 0.0)
            terms = torch.stack((seen.float(), reading, reading.square(), torch.where(seen, variance, 0.0)))
            count, first, second, dark = (down @ terms @ across).flatten(1)[:, index]
            # Where hardly a pixel is good there is nothing to divide by, and nothing to say.
            count = torch.where(count > 0.05 * self.side**2, count, 0.0)
            share = torch.where(count > 0, 1 / count, 0.0)
            mean = first * share
            spread = torch.where(count > 0, second - mean * first, 0.0)
            for column, values in zip(columns, (count, mean, spread, (dark * share).clamp_min(1e-6)), strict=True):
                column.append(values[:, None])
        return Summed(*columns)

    def at_nodes(self, frames: Tensor) -> list[Tensor]:
        """[(m_j,)] the pixels of frames (N, H, W) at the nodes themselves."""
        first = [corner + self.side // 2 for corner in self.corner]
        last = [f + self.side * (n - 1) + 1 for f, n in zip(first, self.grid, strict=True)]
        nodes = frames[:, first[0] : last[0] : self.side, first[1] : last[1] : self.side].flatten(1)
        return [values[index] for values, index in zip(nodes, self.chosen, strict=True)]

    def fields(self, frame: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """(2 m, S) fields of images (S, s, s) and (m, S) intensities in one frame."""
        field = self.rows[frame] @ self._local(frame, images).T
        half = len(field) // 2
        return field, field[:half].square() + field[half:].square()

    def _local(self, frame: int, images: Tensor) -> Tensor:
        high, wide = self.operator.window
        r, c = self.operator.corners[frame]
        padded = torch.nn.functional.pad(images, (0, wide, 0, high))
        return padded[:, r : r + high, c : c + wide].flatten(1)

    def back(self, frame: int, fields: Tensor, slope: Tensor) -> Tensor:
        """(S, s, s) gradient in the images of a loss with `slope` (m, S) in the intensities."""
        pull = (self.rows[frame].T @ (2 * fields * slope.repeat(2, 1))).T
        high, wide = self.operator.window
        r, c = self.operator.corners[frame]
        size = self.operator.drawing.samples
        total = pull.new_zeros(len(pull), size + high, size + wide)
        total[:, r : r + high, c : c + wide] = pull.view(-1, high, wide)
        return total[:, :size, :size]


def eq1(summed: Summed, frame: int, intensity: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1 of one frame, (O, K) for K runs an object, and its slope (m, O, K) in the intensity (m, O, K)."""
    count, mean, spread, variance = (
        values[frame][:, :, None] for values in (summed.count, summed.mean, summed.spread, summed.variance)
    )
    total = intensity + variance
    residual = mean - intensity
    squares = spread + count * residual.square()
    value = (count * total.log() + squares / total).sum(0)
    return value, (count - 2 * count * residual - squares / total) / total


@dataclass(frozen=True)
class PaperSettings:
    """The paper's procedure (section 2.2) as docs/studies.md pins it down.

    Attributes:
        epochs: passes over the patterns, in random order.
        rates: Adam's at the start, times 0.97^epoch; all are tried.
        starts: "mean" (Eq. 2) and "random", a draw from the latents' Gaussian; all are tried.
        seed: order of the patterns, the same for all runs; and the random start, an object's own.
    """

    epochs: int = 100
    rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    starts: tuple[str, ...] = ("mean", "random")
    seed: int = 0


@dataclass(frozen=True)
class PaperFit:
    """The run with the lowest loss of one object.

    Attributes:
        image: (s, s) float32, the decoder's.
        latent: (d,) float32.
        loss: Eq. 1 over all lit pixels.
        rate, start: of that run.
    """

    image: NDArray[np.float32]
    latent: NDArray[np.float32]
    loss: float
    rate: float
    start: str


@dataclass(frozen=True)
class Placed:
    """How each object's drawing meets the light, where that is known: pose (O, 4) as `recon.scene.moved`, flux (O,)."""

    pose: Tensor
    flux: Tensor

    @classmethod
    def build(cls, pose: NDArray[np.float64], flux: NDArray[np.float64], device: str) -> Placed:
        """From arrays."""
        return cls(*(torch.from_numpy(values).float().to(device) for values in (pose, flux)))

    def __call__(self, images: Tensor, field_m: float) -> Tensor:
        runs = len(images) // len(self.pose)
        turned = moved(images[:, None], self.pose.repeat_interleave(runs, 0), field_m)[:, 0]
        return turned * self.flux.sqrt().repeat_interleave(runs)[:, None, None]


def eq1_of(lit: LitBlocks, summed: Summed, images: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1 (R,) over all frames of images (R, s, s), R/O of each object in turn, and its gradient (R, s, s)."""
    objects = summed.mean[0].shape[1]
    total, pull = images.new_zeros(len(images)), torch.zeros_like(images)
    for j in range(len(lit.rows)):
        fields, intensity = lit.fields(j, images)
        value, slope = eq1(summed, j, intensity.unflatten(1, (objects, -1)))
        total += value.flatten()
        pull += lit.back(j, fields, slope.flatten(1))
    return total, pull


def paper_fits(
    lit: LitBlocks,
    package: DecoderPackage,
    summed: Summed,
    settings: PaperSettings = PaperSettings(),
    *,
    random_seeds: Sequence[int] | None = None,
    placed: Placed | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[PaperFit] | None:
    """The estimate of each object in `summed`, all rates and starts of all objects at once; None when stopped.

    Args:
        random_seeds: (O,) of each object's random start; default the settings' for all.
        placed: pose and flux of each object, where they are not nominal.

    Nothing in a step waits for the device.
    """
    s = settings
    objects = summed.mean[0].shape[1]
    device = package.latent_mean.device
    seeds = [s.seed] * objects if random_seeds is None else random_seeds
    begins = {"mean": lambda seed: package.latent_mean, "random": lambda seed: random_latent(package, seed)}
    latent = torch.stack([begins[start](seed) for seed in seeds for start in s.starts for _ in s.rates]).clone()
    adam = Adam([latent], BETAS, TINY)
    rates = torch.tensor(s.rates, device=device).repeat(objects * len(s.starts))[:, None]
    field_m = lit.operator.drawing.field_m
    generator = torch.Generator().manual_seed(s.seed)

    def drawn(at: Tensor) -> Tensor:
        images = package.decode(at)
        return images if placed is None else placed(images, field_m)

    for epoch in range(s.epochs):
        adam.rates = [rates * DECAY**epoch]
        for j in torch.randperm(len(lit.rows), generator=generator).tolist():
            at = latent.detach().requires_grad_()
            with torch.enable_grad():
                images = drawn(at)
            with torch.no_grad():
                fields, intensity = lit.fields(j, images)
                _, slope = eq1(summed, j, intensity.unflatten(1, (objects, -1)))
                pull = lit.back(j, fields, slope.flatten(1))
            (gradient,) = torch.autograd.grad(images, at, pull)
            adam.step([gradient])
        if stop():
            return None
    with torch.no_grad():
        loss, _ = eq1_of(lit, summed, drawn(latent))
        loss = loss.nan_to_num(nan=torch.inf).view(objects, -1)
        best = loss.argmin(1)
        kept = latent.view(objects, loss.shape[1], -1)[torch.arange(objects, device=device), best]
        drawings = package.decode(kept).cpu().numpy()
    runs = [(rate, start) for start in s.starts for rate in s.rates]
    return [
        PaperFit(drawings[k], kept[k].cpu().numpy(), float(loss[k, b]), *runs[b]) for k, b in enumerate(best.tolist())
    ]
