"""Several sets of frames in one likelihood: exposures of one object, each with its own sensor noise and mask.

All sets are looked at in the same blocks of the camera and in one manner (`recon.manner`): photon by photon where every
one of them is dark enough for it, pixel by pixel, or in bins. What is looked at depends on the light that the prior
expects and on the readings, not on the operator that is asked: the same pixels can be seen through several operators,
and their evidences compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from recon.bins import Bins
from recon.dataset import Ptychogram
from recon.estimator import LatentEstimator
from recon.events import Events, Watch
from recon.manner import Manner, read_noise_e
from recon.noise import Likelihood
from recon.observation import LightMap
from recon.operator import CameraOperator, Drawing
from recon.posterior import Posterior
from recon.prepared import MAPPED


@dataclass(frozen=True)
class Sets:
    """Sets of frames, one after another.

    Attributes:
        parts: the sets.
        light: where the prior expects light in all of their frames.
        in_bins: whether they are looked at in bins, and not photon by photon.
        likelihood: of a bin, or of each of its pixels; see `Bins.build`.
        device: of all tensors.
    """

    parts: tuple[Ptychogram, ...]
    light: LightMap
    in_bins: bool
    likelihood: Likelihood
    device: str

    @classmethod
    def of(cls, estimator: LatentEstimator, parts: Sequence[Ptychogram]) -> Sets:
        """As an estimator looks at them.

        Raises:
            ValueError: no frames, or frames of different shapes.
        """
        if not parts:
            raise ValueError("no frames to look at; give at least one set")
        shapes = {part.geometry.shape for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"frames of {' and '.join(map(str, sorted(shapes)))} pixels cannot be combined; crop them")
        pixel = parts[0].geometry.pixel_size_m
        light = LightMap.build(_operator(estimator, parts), estimator.bank.images[:MAPPED].float(), pixel)
        sigma = max(read_noise_e(part.dark_variance, part.mask) for part in parts)
        manner = Manner.planned(sigma, float(light.mean.max()))
        for part in parts:
            manner = manner.met(part)
        in_bins, likelihood = manner is not Manner.EVENTS, manner.summed(sigma)
        return cls(tuple(parts), light, in_bins, likelihood, estimator.device)

    def __len__(self) -> int:
        """Frames in all."""
        return sum(len(part) for part in self.parts)

    @property
    def indices(self) -> NDArray[np.int64]:
        """(N,) points of all frames."""
        return np.concatenate([part.indices for part in self.parts])

    @property
    def exposures_s(self) -> NDArray[np.float64]:
        """(N,) of all frames."""
        return np.concatenate([part.exposures_s for part in self.parts])

    def operator(self, estimator: LatentEstimator) -> CameraOperator:
        """That of all frames, at the positions of the estimator's illumination."""
        return _operator(estimator, self.parts)

    def through(
        self, operator: CameraOperator, others: Sequence[Sequence[CameraOperator]] = (), stride: int = 1
    ) -> tuple[Events | Bins, list[Events | Bins]]:
        """All frames seen through an operator of all of them, and the same pixels through others.

        Of each of `others` the fields of its operators are added; of what is seen through them the `rows` alone mean
        anything. `stride`: see `Watch.build`.
        """
        found: list[list[Events | Bins]] = [[] for _ in range(1 + len(others))]
        first = 0
        for part in self.parts:
            frames = list(range(first, first + len(part)))
            first += len(part)
            light = self.light.select(frames)
            watch = None
            if not self.in_bins:
                variance, mask = (torch.from_numpy(v).to(self.device) for v in (part.dark_variance, part.mask))
                watch = Watch.build(operator.select(frames), light, variance, mask, stride)
            for kept, group in zip(found, ((operator,), *others), strict=True):
                kept.append(self._seen(part, watch, light, [o.select(frames) for o in group]))
        whole = [_joined(parts) for parts in found]
        return whole[0], whole[1:]

    def _seen(
        self, part: Ptychogram, watch: Watch | None, light: LightMap, group: Sequence[CameraOperator]
    ) -> Events | Bins:
        if watch is None:
            seen: list[Events | Bins] = [
                Bins.build(part, operator, light, self.likelihood, len(self)) for operator in group
            ]
        else:
            seen = [replace(watch, operator=operator).count(part) for operator in group]
        rows = torch.stack([each.rows for each in seen]).sum(0)
        return replace(seen[0], rows=rows)


def stops(parts: Sequence[Ptychogram]) -> NDArray[np.int64]:
    """(N,) at which stop each frame was taken: a point's k-th frames of all sets are those of its k-th visit."""
    count, found = sum(len(part) for part in parts), []
    for part in parts:
        visits = [int((part.indices[:j] == point).sum()) for j, point in enumerate(part.indices)]
        found.append(part.indices * (1 + count) + np.array(visits, np.int64))
    return np.unique(np.concatenate(found), return_inverse=True)[1].astype(np.int64)


def together(parts: Sequence[Ptychogram]) -> Ptychogram:
    """All frames as one set, for pictures: masks and dark variance are those of the first."""
    if len(parts) == 1:
        return parts[0]
    clipped = None
    if any(part.saturated is not None for part in parts):
        clipped = np.concatenate(
            [np.zeros(p.frames.shape, bool) if p.saturated is None else p.saturated for p in parts]
        )
    return replace(
        parts[0],
        frames=np.concatenate([part.frames for part in parts]),
        positions_m=np.concatenate([part.positions_m for part in parts]),
        exposures_s=np.concatenate([part.exposures_s for part in parts]),
        indices=np.concatenate([part.indices for part in parts]),
        saturated=clipped,
    )


def _operator(estimator: LatentEstimator, parts: Sequence[Ptychogram]) -> CameraOperator:
    shape = parts[0].geometry.shape
    geometry = replace(estimator.light.geometry, shape=shape)
    return estimator.kind.build(
        replace(estimator.light, geometry=geometry),
        np.concatenate([estimator.light.positions_of(part.indices) for part in parts]),
        np.concatenate([part.exposures_s for part in parts]),
        shape,
        Drawing(estimator.samples, estimator.field_m),
        estimator.device,
    )


def _joined(parts: Sequence[Events | Bins]) -> Events | Bins:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)  # type: ignore[arg-type]
    return whole


def combined(estimator: LatentEstimator, parts: Sequence[Ptychogram]) -> Posterior:
    """The posterior of all sets of frames together; of one set, `LatentEstimator.estimate`, to the last bit.

    Raises:
        ValueError: no frames, or frames of different shapes.
    """
    if len(parts) == 1:
        return estimator.estimate(parts[0])
    sets = Sets.of(estimator, parts)
    observation, _ = sets.through(sets.operator(estimator))
    scores = estimator.bank.scores(observation.quick())
    return estimator.pictured(observation, estimator.found(observation, None, scores))
