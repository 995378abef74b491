"""Frames in bins, for light, or for read noise that hides single electrons: the likelihood of every lit bin.

What a decoder draws diffracts smoothly, so that camera pixels may be taken together over some 10 um without losing
detail; the light of a bin is that at its middle times its good pixels. Either their readings are summed, or, where sums
would hide electrons that readings half show, all of them keep their own exact likelihood (`recon.pixelbins`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.exactnoise import ExactMixed
from recon.noise import Likelihood
from recon.observation import FLUX_TOLERANCE, LightMap, Terms, alike, information, pattern_weight, trimmed
from recon.operator import CameraOperator
from recon.pixelbins import PixelTables, read_noise_range

BIN_M = 10.5e-6
"""Side of a bin: up to here the light at its middle is its mean within 0.3 % of the light."""
KEPT = 0.995
"""Share of the information about the light's strength, at the prior's mean, that the bins in use hold."""
MOST_ROWS = 48_000
"""Bins, of all frames together, that are used: the most telling ones."""
AMPLE_E = 5e5
"""Electrons above which what the decoder cannot draw limits the image, not the light: `AMPLE_ROWS` bins are enough."""
AMPLE_ROWS = 12_000
QUICK_ROWS = 6000
"""Bins, of all frames together, that tell where to search."""


@dataclass(frozen=True)
class Bins:
    """Sums over blocks of good pixels, and their likelihood.

    Attributes:
        operator: from images to the camera.
        likelihood: of one bin.
        rows: (N, 2 m, L) float32, real then imaginary part of the field of each bin, times the root of its pixels.
        counts: bins of each frame; what follows them is padding.
        measured: (N, m) electrons.
        variance: (N, m) dark variance, electrons squared; one in the padding.
        electrons: counted.
        tables: the exact likelihood of each bin's pixels; None where that of their sum is taken.
    """

    operator: CameraOperator
    likelihood: Likelihood
    rows: Tensor
    counts: list[int]
    measured: Tensor
    variance: Tensor
    electrons: float
    tables: PixelTables | None = None

    @property
    def counting(self) -> str:
        """How the light is looked at."""
        return "bins" if self.tables is None else "pixels"

    @classmethod
    def build(
        cls, data: Ptychogram, operator: CameraOperator, light: LightMap, likelihood: Likelihood, of: int | None = None
    ) -> Bins:
        """The bins of frames that were taken as the operator says; masked and clipped pixels do not count.

        `ExactMixed` is taken of every pixel by itself, any other likelihood of the bins' sums. `of` is the number of
        frames that these will be joined to, themselves among them; together they keep no more bins than are worth
        while.
        """
        share = 1.0 if of is None else min(1.0, len(data) / of)
        device = operator.probe.device
        pitch = data.geometry.pixel_size_m
        side = max(1, 2 * round((BIN_M / pitch - 1) / 2) + 1)
        reach = light.mean.shape[1] * light.side // side
        r, c = (edge + (light.mean.shape[1] * light.side - reach * side) // 2 for edge in light.corner)
        blocks = (reach, side, reach, side)

        def cut(values: Tensor) -> Tensor:
            return values[r : r + reach * side, c : c + reach * side].reshape(blocks)

        variance = torch.from_numpy(data.dark_variance).to(device)
        mask = torch.from_numpy(data.mask).to(device)
        middle = torch.arange(reach, device=device) * side + side // 2
        nearest = [(middle + edge - first) // light.side for edge, first in zip((r, c), light.corner, strict=True)]
        mean = light.mean[:, nearest[0]][:, :, nearest[1]].flatten(1)
        noise = torch.where(mask, variance, 0.0)
        typical = cut(noise).sum((1, 3)).flatten().clamp_min(1e-9)
        pixels = cut(mask.float()).sum((1, 3)).flatten()
        if isinstance(likelihood, ExactMixed):
            usual = noise.sum() / mask.sum().clamp_min(1)
            each = torch.where(pixels > 0, typical / pixels.clamp_min(1), usual)
            spread = read_noise_range(each)
            told = ExactMixed(read_noise_e=spread).fisher(mean, each.expand_as(mean))
            information_each = pixels * mean.square() * told
        else:
            information_each = torch.where(pixels > 0, (pixels * mean).square() / (pixels * mean + typical), 0.0)
        chosen = _fewest(information_each, KEPT, max(1, round(share * MOST_ROWS)))
        fields, sums, darks, apart = [], [], [], []
        electrons = 0.0
        for j in range(len(data)):
            good = mask
            if data.saturated is not None:
                good = mask & ~torch.from_numpy(np.ascontiguousarray(data.saturated[j])).to(device)
            frame = torch.from_numpy(np.ascontiguousarray(data.frames[j])).to(device)
            count = cut(good.float()).sum((1, 3)).flatten()
            index = (chosen[j] & (count > 0)).nonzero()[:, 0]
            total = cut(torch.where(good, frame, 0.0)).sum((1, 3)).flatten()[index]
            dark = cut(torch.where(good, variance, 0.0)).sum((1, 3)).flatten()[index]
            row, column = index // reach, index % reach
            field = operator.at_pixels(j, row * side + side // 2 + r, column * side + side // 2 + c)
            fields.append(field * count[index].sqrt()[:, None])
            sums.append(total)
            darks.append(dark)
            if isinstance(likelihood, ExactMixed):
                each_one = [cut(part).transpose(1, 2).flatten(2).flatten(0, 1) for part in (frame, variance, good)]
                apart.append((each_one[0][index], each_one[1][index], each_one[2][index]))
            electrons += float(total.sum())
        most = max(1, max(len(part) for part in fields))
        rows = torch.zeros(len(data), 2 * most, fields[0].shape[1], device=device)
        measured = torch.zeros(len(data), most, device=device)
        variances = torch.ones(len(data), most, device=device)
        for j, (field, total, dark) in enumerate(zip(fields, sums, darks, strict=True)):
            rows[j, : len(field)], rows[j, most : most + len(field)] = field.real, field.imag
            measured[j, : len(field)], variances[j, : len(field)] = total, dark
        tables = PixelTables.build(spread, apart, most) if isinstance(likelihood, ExactMixed) else None
        whole = cls(operator, likelihood, rows, [len(part) for part in fields], measured, variances, electrons, tables)
        return whole._thinned(max(1, round(share * AMPLE_ROWS))) if electrons > share * AMPLE_E else whole

    def quick(self) -> Bins:
        """Every k-th bin."""
        return self._thinned(QUICK_ROWS)

    def _thinned(self, most: int) -> Bins:
        step = max(1, sum(self.counts) // most)
        half = self.rows.shape[1] // 2
        rows = torch.cat((self.rows[:, :half:step], self.rows[:, half::step]), 1)
        counts = [-(-count // step) for count in self.counts]
        return replace(
            self,
            rows=rows,
            counts=counts,
            measured=self.measured[:, ::step],
            variance=self.variance[:, ::step],
            tables=None if self.tables is None else self.tables.every(step),
        )

    def _light(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Fields (N, 2 m, S) and intensities (N, m, S)."""
        fields = self.rows @ self.operator.local(images).flatten(2).transpose(1, 2)
        half = fields.shape[1] // 2
        return fields, fields[:, :half].square() + fields[:, half:].square()

    def _black(self) -> Tensor:
        """-ln p of a black object; of pixels one by one it is what all others are relative to."""
        if self.tables is not None:
            return self.measured.new_zeros(())
        return self.likelihood.value(torch.zeros_like(self.measured), self.measured, self.variance).sum()

    def value(self, images: Tensor) -> Tensor:
        """(S,) log-likelihood of images (S, s, s)."""
        _, intensity = self._light(images)
        if self.tables is not None:
            cost = self.tables.cost(intensity)
        else:
            cost = self.likelihood.value(intensity, self.measured[:, :, None], self.variance[:, :, None])
        return self._black() - cost.sum((0, 1))

    def photons(self, images: Tensor) -> Tensor:
        """(S,) the same: nothing of it is known before the frames come."""
        return self.value(images)

    def joined(self, more: Bins) -> Bins:
        """These frames and more, under the same likelihood.

        Raises:
            ValueError: pixels one by one, and sums of them.
        """
        if (self.tables is None) != (more.tables is None):
            raise ValueError(f"frames looked at as {self.counting} and as {more.counting} are not joined; take one")
        rows = alike(self.rows.unflatten(1, (2, -1)), more.rows.unflatten(1, (2, -1)), 2)
        return Bins(
            self.operator.joined(more.operator),
            self.likelihood,
            torch.cat(rows).flatten(1, 2),
            self.counts + more.counts,
            torch.cat(alike(self.measured, more.measured, 1)),
            torch.cat(alike(self.variance, more.variance, 1, 1.0)),
            self.electrons + more.electrons,
            None if self.tables is None or more.tables is None else self.tables.joined(more.tables),
        )

    def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (S,) of images (S, s, s) and its gradient (S, s, s) in them."""
        value, gradient, _, _ = self._sloped(images)
        return value, gradient

    def _sloped(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `slope`, with fields (N, 2 m, S) and intensities (N, m, S)."""
        fields, intensity = self._light(images)
        if self.tables is not None:
            cost, slope = self.tables.evaluate(intensity)
        else:
            cost, slope, _ = self.likelihood.evaluate(intensity, self.measured[:, :, None], self.variance[:, :, None])
        pull = -2 * fields * torch.cat((slope, slope), 1)
        parts = (self.rows.transpose(1, 2) @ pull).transpose(1, 2).unflatten(2, self.operator.seen)
        return self._black() - cost.sum((0, 1)), self.operator.whole(parts), fields, intensity

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        """Along the `jacobians` (S, s^2, d) of images (S, s, s)."""
        value, gradient, fields, intensity = self._sloped(images)
        if self.tables is not None:
            worth = self.tables.fisher(intensity, self.variance).sqrt()
        else:
            worth = self.likelihood.fisher(intensity, self.variance[:, :, None].expand_as(intensity)).sqrt()
        weighted = 2 * fields * torch.cat((worth, worth), 1)
        parts = (
            (j, trimmed(self.rows[j, None], m)[0], trimmed(weighted[j, None], m)[0]) for j, m in enumerate(self.counts)
        )
        found = information(self.operator, parts, jacobians)
        return Terms(value, (gradient.flatten(1)[:, None] @ jacobians)[:, 0], found)

    def counted(self, image: Tensor) -> float:
        """Electrons in the bins, whatever the image; zero where noise outweighs them."""
        return max(0.0, self.electrons)

    def frame_scores(self, image: Tensor) -> Tensor:
        """(N,) light of each frame less that expected of an image (s, s), in standard deviations."""
        _, intensity = self._light(image[None])
        used = torch.arange(self.measured.shape[1], device=self.measured.device) < torch.tensor(
            self.counts, device=self.measured.device
        ).unsqueeze(1)
        expected = intensity[:, :, 0].sum(1)
        noise = torch.where(used, self.variance, 0.0).sum(1)
        return (self.measured.sum(1) - expected) / (expected + noise + (FLUX_TOLERANCE * expected).square()).sqrt()

    def pattern_scores(self, image: Tensor) -> Tensor:
        """(N,) how much more of each frame's light lies where an image (s, s) is bright than it says, in deviations."""
        _, intensity = self._light(image[None])
        intensity = intensity[:, :, 0]
        used = torch.arange(self.measured.shape[1], device=self.measured.device) < torch.tensor(
            self.counts, device=self.measured.device
        ).unsqueeze(1)
        typical = intensity.square().sum(1, keepdim=True) / intensity.sum(1, keepdim=True).clamp_min(1e-12)
        weight = torch.where(used, pattern_weight(intensity, typical), 0.0)
        expected = (weight * intensity).sum(1)
        variance = (weight.square() * (intensity + self.variance)).sum(1) + (FLUX_TOLERANCE * expected).square()
        return ((weight * self.measured).sum(1) - expected) / variance.clamp_min(1e-12).sqrt()


def _fewest(values: Tensor, share: float, most: int) -> Tensor:
    """Mask of the largest values that together hold that share of the sum, of the `most` largest at most."""
    order = values.flatten().sort(descending=True)
    held = order.values.double().cumsum(0)
    count = int((held < share * held[-1]).sum()) + 1
    return values >= order.values[min(count, most, len(held)) - 1].clamp_min(1e-30)
