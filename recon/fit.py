"""One stage of a calibration: its data on the device, and steps over batches of frames.

A step is device work only: the whole pixels of the positions are settled once an epoch, losses add up on the device and
are read once an epoch, and rates are tensors, so that a step can be captured as a CUDA graph and repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.adam import Adam
from recon.dataset import DatasetError, Ptychogram, Scan
from recon.frameloss import Batch, FrameLoss, gather, scatter
from recon.noise import SlopedLoss
from recon.propagators import Optics
from recon.streaming import Hold, Pixels, Sums, ahead, sums_of
from recon.team import ALONE, Team
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


TOGETHER, TOGETHER_ON_GPU = 4, 16
"""Frames that go through the optics together in a full pass: on a CPU their fields stay in its caches."""
LOOK_EVERY = 16
"""Steps on a GPU between two looks at whether somebody asked for an early end: a look waits for the device."""


def order_of(count: int, batch: int, seed: int, number: int) -> list[Tensor]:
    """(B,) int64 frames of each step of epoch `number`.

    The frames of a step differ in their number modulo `batch`. Processes that hold the frames of one remainder each
    then have equal shares of every step, and steps do not depend on how many processes there are.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + number)
    order = torch.randperm(count, generator=generator)
    lanes = [order[order % batch == lane] for lane in range(batch)]
    return [torch.stack([lane[k] for lane in lanes if k < len(lane)]) for k in range(len(lanes[0]))]


class Fit:
    """Steps over the frames of one stage.

    Args:
        data: the scan, cropped to what the stage uses; of its frames only those of `share` are read.
        share: those that this process holds, every `team.size`-th from `team.rank` on; None takes `data`. Frames of a
            `Ptychogram` are put on the device, of others batch by batch.
        sums: of all frames, cropped and binned as they are; None looks at them.
        team: the processes that work on the same steps.
        hold_bytes: frames of a streamed share that are kept in memory.
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
        data: Scan,
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
        share: Scan | None = None,
        sums: Sums | None = None,
        team: Team = ALONE,
        hold_bytes: int = 0,
    ):
        device, real = unknowns.probe.device, unknowns.offset_m.dtype
        self.unknowns, self.optics, self.priors = unknowns, optics, priors
        self.model = FrameLoss(optics, loss, pixels=pixels)
        self.count, self.batch, self.seed, self.empty_every = len(data), min(batch, len(data)), seed, empty_every
        self.team, self.share = team, data if share is None else share
        self.pixels = self.count * data.geometry.shape[0] * data.geometry.shape[1]
        self.pixels_averaged = pixels
        sums = sums_of(data) if sums is None else sums
        self.variance = torch.from_numpy(data.dark_variance).to(device)
        mask = torch.from_numpy(data.mask).to(device)
        self.mask = None if data.mask.all() and not sums.clipped else mask.to(real)
        # All frames of the share on the device, or those of one step that were read for it.
        self.frames: Tensor | None = None
        self.saturated: Tensor | None = None
        self._read: tuple[Tensor, Tensor | None] | None = None
        self._slots: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._hold: Hold | None = None
        if isinstance(self.share, Ptychogram):
            self.frames = torch.from_numpy(self.share.frames).to(device)
            if self.share.saturated is not None and self.share.saturated.any():
                self.saturated = torch.from_numpy(self.share.saturated).to(device)
        else:
            self._hold = Hold(self.share, hold_bytes)
        self.gain = torch.from_numpy(scale * data.exposures_s).to(device=device, dtype=real)
        # The background is in units of the mean signal, per second as the flux is.
        signal = float(sums.mean.mean() / data.exposures_s.mean())
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
        """The batch of these frames (B,) int64 of this process's share."""
        u = self.unknowns
        point = u.point[frames]
        measured, saturated = self._measured(frames)
        weight = self.mask
        if saturated is not None and self.mask is not None:
            weight = self.mask * (~saturated).to(self.mask.dtype)
        corners = self.corners
        gain = self.gain[frames] * u.log_gain[frames].exp()
        return Batch(
            measured,
            self.variance,
            weight,
            corners[point] if isinstance(corners, Tensor) else [corners[k] for k in point.tolist()],
            (u.positions_px() - self.whole)[point],
            gain,
            self.level[frames] * u.background,
        )

    def _measured(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.frames is not None:
            own = frames if self.team.size == 1 else torch.div(frames, self.team.size, rounding_mode="floor")
            return self.frames[own], None if self.saturated is None else self.saturated[own]
        if self._read is not None:
            return self._read
        # Outside an epoch nobody has read ahead.
        return self._put(self.share.read([int(k) // self.team.size for k in frames.tolist()]))

    def _put(self, pixels: Pixels) -> tuple[Tensor, Tensor | None]:
        """Frames that were read, onto the device: there always into the same memory, which a captured step reads."""
        measured = torch.from_numpy(pixels[0])
        saturated = None if pixels[1] is None else torch.from_numpy(pixels[1])
        device = self.variance.device
        if device.type == "cpu":
            return measured, saturated
        slot = self._slots.get(len(measured))
        if slot is None:
            clips = torch.zeros(measured.shape, dtype=torch.bool, device=device) if self.mask is not None else None
            slot = self._slots[len(measured)] = torch.empty_like(measured, device=device), clips
        slot[0].copy_(measured)
        if slot[1] is not None and saturated is None:
            slot[1].zero_()
        elif slot[1] is not None and saturated is not None:
            slot[1].copy_(saturated)
        return slot

    def loss_of(self, frames: Tensor, probe: Tensor, obj: Tensor, offset_m: Tensor) -> float:
        """Loss of these frames of all processes for another probe, object and distance, without priors."""
        total = torch.zeros((), dtype=torch.float64, device=self.total.device)
        # Frame by frame: the sum is the same however many processes share them.
        for frame in frames[frames % self.team.size == self.team.rank].to(total.device).split(1):
            if len(frame):
                batch = self.chosen(frame)
                # In double precision: what is looked for are small differences of large sums.
                expected = self.model.intensities(probe, obj, batch, offset_m).double()
                total += self.model.loss.sloped(expected, batch.frames, batch.variance, batch.weight)[0]
        self.team.add([total])
        return float(total)

    def gradients(self, frames: Tensor, empty: bool) -> tuple[Tensor, list[Tensor]]:
        """Loss of a batch, its share of empty beam and priors, and the gradients in the order of `GROUPS`."""
        value, gradients = self._own(frames, empty, len(frames))
        return self._with_priors(value, gradients, len(frames))

    def _own(self, frames: Tensor, empty: bool, together: int) -> tuple[Tensor, list[Tensor]]:
        """What these frames and the empty beam say, without priors; a step of the team has `together` frames."""
        u, p = self.unknowns, self.priors
        affine, deviation = torch.zeros_like(u.affine), torch.zeros_like(u.deviation)
        gain, background = torch.zeros_like(u.log_gain), torch.zeros_like(u.background)
        if len(frames):
            found = self.model(u.probe, u.object, self.chosen(frames), u.offset_m)
            value, obj, probe, offset = found.value, found.object, found.probe, found.offset_m
            affine, deviation = u.pulled(deviation.index_add_(0, u.point[frames], found.shift_px))
            if p.log_gain is not None:
                gain = gain.index_copy(0, frames, found.gain)
            if p.background is not None:
                background = (found.background * self.level[frames]).sum()
        else:
            value, obj, probe = torch.zeros_like(self.total), torch.zeros_like(u.object), torch.zeros_like(u.probe)
            offset = torch.zeros_like(u.offset_m)
        if empty and self.empty is not None:
            beam = self.model(u.probe, None, self.empty, u.offset_m)
            weight = together / self.count * self.empty_every
            value = value + weight * beam.value
            probe = probe + weight * beam.probe
            offset = offset + weight * beam.offset_m
        return value, [obj, probe, offset, affine, deviation, gain, background]

    def _with_priors(self, value: Tensor, gradients: list[Tensor], together: int) -> tuple[Tensor, list[Tensor]]:
        """The loss and gradients with the priors' share of a step of so many frames."""
        u, p, share = self.unknowns, self.priors, together / self.count
        obj, probe, offset, affine, deviation, gain, background = gradients
        own = u.own()
        deviation = deviation + (2 * share / p.position_px**2) * own
        value = value + (share / p.position_px**2) * own.square().sum()
        if p.log_gain is not None:
            gain = gain + (2 * share / p.log_gain**2) * u.log_gain
            value = value + (share / p.log_gain**2) * u.log_gain.square().sum()
        if p.background is not None:
            background = background + (2 * share / p.background**2) * u.background
            value = value + (share / p.background**2) * u.background.square()
        return value, [obj, probe, offset, affine, deviation, gain, background]

    def epoch(self, number: int, stop: Callable[[], bool] = lambda: False) -> float | None:
        """One pass over the frames in an order that follows from seed and number; the mean loss per pixel and frame.

        None when `stop`, asked between steps, ended it early; in a team anybody's wish ends it for all.

        Raises:
            DatasetError: a frame cannot be read, or a position has left the object's grid.
            TeamError: another process has ended.
        """
        device, size = self.variance.device, self.team.size
        whole = order_of(self.count, self.batch, self.seed, number)
        mine = [frames[frames % size == self.team.rank] for frames in whole]
        on_device = torch.cat(mine).to(device).split([len(frames) for frames in mine])
        # Rounding may have differed between processes; from here on they agree to the last bit.
        self.team.follow(self.unknowns.searched())
        self.settle()
        self.total.zero_()
        with closing(self._pixels(mine)) as ready:
            for step, (frames, _) in enumerate(zip(on_device, ready, strict=True)):
                look = self.empty is not None and step % self.empty_every == 0
                if size > 1:
                    # The empty beam is one frame more; they take turns.
                    turn = step // self.empty_every % size == self.team.rank
                    if self._step_together(frames, look and turn, step, stop):
                        return None
                elif stop():
                    return None
                elif device.type == "cuda" and len(frames) == self.batch:
                    self._replay(frames, look)
                else:
                    self._step(frames, look)
        return float(self.total) / self.pixels

    def everything(self, stop: Callable[[], bool] = lambda: False) -> tuple[float, list[Tensor]] | None:
        """The loss of all frames, the empty beam and the priors, and its gradients in the order of `GROUPS`.

        Whole pixels of the positions stay as they are. None when `stop`, asked between batches, ended it early; in a
        team anybody's wish ends it for all.

        Raises:
            DatasetError: a frame cannot be read.
            TeamError: another process has ended.
        """
        u, team = self.unknowns, self.team
        mine = list(torch.arange(team.rank, self.count, team.size).split(self._together()))
        total = [torch.zeros_like(t) for t in u.searched()]
        value, wish = torch.zeros((), dtype=torch.float64, device=u.probe.device), torch.zeros_like(self.total)
        with closing(self._pixels(mine)) as ready:
            for frames, _ in zip(mine, ready, strict=True):
                if stop():
                    wish.fill_(1.0)
                    break
                own, gradients = self._own(frames.to(u.probe.device), False, 0)
                value += own
                for sum_, gradient in zip(total, gradients, strict=True):
                    sum_.add_(gradient)
        if self.empty is not None and team.rank == 0:
            beam = self.model(u.probe, None, self.empty, u.offset_m)
            value += beam.value
            total[1].add_(beam.probe)
            total[2].add_(beam.offset_m)
        team.add([*total, value, wish])
        if bool(wish > 0):
            return None
        zero, priors = self._with_priors(torch.zeros_like(self.total), total, self.count)
        return float(value) + float(zero), priors

    def _together(self) -> int:
        """Frames of a batch where only their sum matters."""
        return max(self.batch // self.team.size, TOGETHER_ON_GPU if self.variance.is_cuda else TOGETHER)

    def light(self) -> tuple[Tensor, Tensor]:
        """What this process's frames say of each pixel of object and probe: twice the electrons on it per |change|^2.

        Complex of the shapes of object and probe. Frames' displacements within a pixel do not matter here.
        """
        u, window = self.unknowns, self.optics.window
        mine = torch.arange(self.team.rank, self.count, self.team.size, device=u.probe.device)
        on_object, on_probe = torch.zeros_like(u.object), torch.zeros_like(u.probe)
        beam = u.probe.abs().square().sum(0)
        seen = u.object.abs().square()
        for frames in mine.split(self._together()):
            gain = 2 * (self.gain * u.log_gain.exp())[frames][:, None, None]
            point = u.point[frames]
            corners = self.corners
            places = corners[point] if isinstance(corners, Tensor) else [corners[k] for k in point.tolist()]
            scatter((gain * beam).to(on_object), places, on_object)
            on_probe.add_((gain * gather(seen, places, window)).sum(0).to(on_probe))
        if self.empty is not None and self.team.rank == 0:
            on_probe.add_((2 * self.empty.gain[0]).to(on_probe))
        return on_object, on_probe

    def _pixels(self, mine: list[Tensor]) -> Generator[None, None, None]:
        """Before each step its frames, where they do not lie on the device already."""
        if self.frames is not None:
            for _ in mine:
                yield
            return
        batches = [[int(k) // self.team.size for k in frames.tolist()] for frames in mine]
        try:
            with closing(ahead(self.share, batches, self._hold)) as read:
                for pixels in read:
                    self._read = self._put(pixels)
                    yield
        finally:
            self._read = None

    def _step_together(self, frames: Tensor, look: bool, step: int, stop: Callable[[], bool]) -> bool:
        """A step of the team, each process with its frames; true when somebody wants to end."""
        # The last step of an epoch may have fewer.
        together = min(self.batch, self.count - step * self.batch)
        value, gradients = self._own(frames, look, together)
        wish = torch.full_like(self.total, float(stop()))
        self.team.add([*gradients, value, wish])
        if (wish.device.type == "cpu" or step % LOOK_EVERY == 0) and bool(wish > 0):
            return True
        value, gradients = self._with_priors(value, gradients, together)
        self._move(gradients, value)
        return False

    def _step(self, frames: Tensor, look: bool) -> None:
        value, gradients = self.gradients(frames, look)
        self._move(gradients, value)

    def _move(self, gradients: list[Tensor], value: Tensor) -> None:
        self.adam.step(gradients)
        # Less than no light cannot come: an expectation below nothing has no likelihood.
        self.unknowns.background.clamp_min_(0)
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
