"""One stage of a calibration: its data on the device, and steps over batches of frames.

A step is device work only: the whole pixels of the positions are settled once an epoch, losses add up on the device and
are read once an epoch, and rates are tensors, so that a step can be captured as a CUDA graph and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.adam import Adam
from recon.dataset import DatasetError, Ptychogram
from recon.frameloss import Batch, FrameLoss
from recon.noise import SlopedLoss
from recon.propagators import Optics
from recon.unknowns import GROUPS, Unknowns


@dataclass(frozen=True)
class Priors:
    """Standard deviations of what is nearly known; None holds it fixed.

    Attributes:
        position_px: a point's deviation from the affine map, per axis.
        log_gain: a frame's flux over the common one.
        background: light that came another way, in units of the mean signal of a pixel.
    """

    position_px: float
    log_gain: float | None = None
    background: float | None = None


class Fit:
    """Steps over the frames of one stage.

    Args:
        data: the frames, cropped to what the stage uses.
        unknowns: what is searched, changed in place.
        optics, loss: the model.
        scale: flux of the illumination, electrons per second, per unit of |probe|^2.
        priors: of positions, flux and background.
        seed: of the frames' order.
        pixels: whether intensities are averaged over the camera's pixels.
        empty_every: steps between two looks at the empty beam, which then counts as often.
    """

    def __init__(
        self,
        data: Ptychogram,
        unknowns: Unknowns,
        optics: Optics,
        loss: SlopedLoss,
        scale: float,
        priors: Priors,
        *,
        batch: int,
        seed: int,
        pixels: bool = True,
        empty_every: int = 4,
    ):
        device, real = unknowns.probe.device, unknowns.offset_m.dtype
        self.unknowns, self.optics, self.priors = unknowns, optics, priors
        self.model = FrameLoss(optics, loss, pixels=pixels)
        self.count, self.batch, self.seed, self.empty_every = len(data), min(batch, len(data)), seed, empty_every
        self.frames = torch.from_numpy(data.frames).to(device)
        self.variance = torch.from_numpy(data.dark_variance).to(device)
        mask = torch.from_numpy(data.mask).to(device)
        self.mask = None if data.mask.all() else mask.to(real)
        self.saturated = None
        if data.saturated is not None and data.saturated.any():
            self.saturated, self.mask = torch.from_numpy(data.saturated).to(device), mask.to(real)
        self.gain = torch.from_numpy(scale * data.exposures_s).to(device=device, dtype=real)
        # The background is in units of the mean signal, per second as the flux is.
        signal = float(data.frames.mean(dtype=float) / data.exposures_s.mean())
        self.level = torch.from_numpy(max(signal, 1e-12) * data.exposures_s).to(device=device, dtype=real)
        self.empty: Batch | None = None
        if data.empty is not None and data.empty_exposure_s is not None:
            one = self.gain.new_full((1,), scale * data.empty_exposure_s)
            nowhere = self.gain.new_zeros(1, 2)
            empty = torch.from_numpy(data.empty).to(device)[None]
            self.empty = Batch(
                empty, self.variance, self.mask if self.mask is None else mask.to(real), [], nowhere, one, 0 * one
            )
        self.adam = Adam(unknowns.searched())
        self.total = unknowns.offset_m.new_zeros(())
        self._slot = torch.zeros(self.batch, dtype=torch.int64, device=device)
        self._graphs: dict[bool, tuple[int, torch.cuda.CUDAGraph | None]] = {}
        self.whole: Tensor = torch.zeros_like(unknowns.nominal_px)
        self.corners: list[tuple[int, int]] | Tensor = []
        self.settle()

    def settle(self) -> None:
        """Whole pixels of the positions, for the epoch to come. The one look at the positions from the host."""
        whole = self.unknowns.positions_px().round()
        window, side = self.optics.window, self.unknowns.object.shape[-1]
        corners = whole.long() + (side // 2 - window // 2)
        if bool((corners < 0).any()) or bool((corners + window > side).any()):
            raise DatasetError(
                f"calibration: a position has left the object's grid of {side} px; are the stage's positions and the "
                "pixel size right?"
            )
        if not corners.is_cuda:
            self.whole, self.corners = whole, [(int(r), int(c)) for r, c in corners.tolist()]
        elif isinstance(self.corners, Tensor):
            # In place: a captured step reads these.
            self.whole.copy_(whole)
            self.corners.copy_(corners)
        else:
            self.whole, self.corners = whole, corners

    def rates(self, values: dict[str, float]) -> None:
        """Step sizes by group; a group that is not named stays as it is."""
        for name, rate in zip(GROUPS, self.adam.rates, strict=True):
            rate.fill_(values.get(name, 0.0))

    def chosen(self, frames: Tensor) -> Batch:
        """The batch of these frames (B,) int64."""
        u = self.unknowns
        point = u.point[frames]
        weight = self.mask
        if self.saturated is not None and self.mask is not None:
            weight = self.mask * (~self.saturated[frames]).to(self.mask.dtype)
        corners = self.corners
        gain = self.gain[frames] * u.log_gain[frames].exp()
        return Batch(
            self.frames[frames],
            self.variance,
            weight,
            corners[point] if isinstance(corners, Tensor) else [corners[k] for k in point.tolist()],
            (u.positions_px() - self.whole)[point],
            gain,
            self.level[frames] * u.background,
        )

    def gradients(self, frames: Tensor, empty: bool) -> tuple[Tensor, list[Tensor]]:
        """Loss of a batch, its share of empty beam and priors, and the gradients in the order of `GROUPS`."""
        u, p = self.unknowns, self.priors
        found = self.model(u.probe, u.object, self.chosen(frames), u.offset_m)
        value, probe, offset = found.value, found.probe, found.offset_m
        share = len(frames) / self.count
        if empty and self.empty is not None:
            beam = self.model(u.probe, None, self.empty, u.offset_m)
            weight = share * self.empty_every
            value = value + weight * beam.value
            probe = probe + weight * beam.probe
            offset = offset + weight * beam.offset_m
        at = torch.zeros_like(u.deviation).index_add_(0, u.point[frames], found.shift_px)
        affine, deviation = u.pulled(at)
        own = u.own()
        deviation = deviation + (2 * share / p.position_px**2) * own
        value = value + (share / p.position_px**2) * own.square().sum()
        gain, background = torch.zeros_like(u.log_gain), torch.zeros_like(u.background)
        if p.log_gain is not None:
            gain = gain.index_copy(0, frames, found.gain) + (2 * share / p.log_gain**2) * u.log_gain
            value = value + (share / p.log_gain**2) * u.log_gain.square().sum()
        if p.background is not None:
            background = (found.background * self.level[frames]).sum() + (2 * share / p.background**2) * u.background
            value = value + (share / p.background**2) * u.background.square()
        return value, [found.object, probe, offset, affine, deviation, gain, background]

    def epoch(self, number: int) -> float:
        """One pass over the frames in an order that follows from seed and number; the mean loss per pixel and frame."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        order = torch.randperm(self.count, generator=generator).to(self.frames.device)
        self.settle()
        self.total.zero_()
        for step, frames in enumerate(order.split(self.batch)):
            look = self.empty is not None and step % self.empty_every == 0
            if order.is_cuda and len(frames) == self.batch:
                self._replay(frames, look)
            else:
                self._step(frames, look)
        return float(self.total) / self.frames.numel()

    def _step(self, frames: Tensor, look: bool) -> None:
        value, gradients = self.gradients(frames, look)
        self.adam.step(gradients)
        self.total.add_(value)

    def _replay(self, frames: Tensor, look: bool) -> None:
        """A step as a CUDA graph: a hundred small kernels, one launch. The first two steps of a kind run plainly."""
        self._slot.copy_(frames)
        runs, graph = self._graphs.get(look, (0, None))
        if graph is None and runs < 2:
            self._step(self._slot, look)
        elif graph is None:
            graph = torch.cuda.CUDAGraph()
            # Capturing records and does not run.
            with torch.cuda.graph(graph):
                self._step(self._slot, look)
            graph.replay()
        else:
            graph.replay()
        self._graphs[look] = (runs + 1, graph)
