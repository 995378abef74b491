"""What frames at some positions with some exposures need before they come; made once, kept for the next ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.events import Watch
from recon.illumination import Illumination
from recon.latent import CHUNK
from recon.manner import Manner, read_noise_e
from recon.observation import LightMap
from recon.operator import CameraOperator, Drawing

MAPPED = 64
"""Images of the prior whose mean light says which pixels to look at."""


@dataclass(frozen=True)
class Prepared:
    """What a set of positions, exposures and a sensor need before frames come; see `LatentEstimator.prepare`.

    Attributes:
        points: index of the position and exposure (s) of each frame.
        operator: from images to the camera.
        light: where the prior expects light.
        manner: of looking at frames, unless one is brighter than that allows.
        watch: what to look at, for events; None in any other manner.
        dark: (N, n) what the bank's images owe to pixels that stay dark; None without a watch.
    """

    points: tuple[tuple[int, float], ...]
    operator: CameraOperator
    light: LightMap
    manner: Manner
    watch: Watch | None
    dark: Tensor | None

    @classmethod
    def build(
        cls,
        kind: type[CameraOperator],
        illumination: Illumination,
        indices: NDArray[np.int64],
        exposures_s: NDArray[np.float64],
        dark_variance: NDArray[np.float32],
        mask: NDArray[np.bool_],
        drawing: Drawing,
        images: Tensor,
    ) -> Prepared:
        """For points (N,) by index, exposures (N,), and a sensor (H, W).

        Args:
            kind: of operator that the images take.
            images: (n, ...) the bank's; their device is that of all tensors.
        """
        device = str(images.device)
        geometry = replace(illumination.geometry, shape=mask.shape)
        operator = kind.build(
            replace(illumination, geometry=geometry),
            illumination.positions_of(indices),
            exposures_s,
            geometry.shape,
            drawing,
            device,
        )
        points = tuple((int(k), float(s)) for k, s in zip(indices, exposures_s, strict=True))
        light = LightMap.build(operator, images[:MAPPED].float(), geometry.pixel_size_m)
        manner = Manner.planned(read_noise_e(dark_variance, mask), float(light.mean.max()))
        if manner is not Manner.EVENTS:
            return cls(points, operator, light, manner, None, None)
        variance = torch.from_numpy(dark_variance).to(device)
        watch = Watch.build(operator, light, variance, torch.from_numpy(mask).to(device))
        dark = [watch.quadratic.by_frame(part.float()) for part in images.split(CHUNK)]
        return cls(points, operator, light, manner, watch, -torch.cat(dark, 1))

    def select(self, frames: list[int]) -> Prepared:
        """What some of the frames need."""
        points = tuple(self.points[j] for j in frames)
        light = self.light.select(frames)
        if self.watch is None or self.dark is None:
            return Prepared(points, self.operator.select(frames), light, self.manner, None, None)
        watch = self.watch.select(frames)
        return Prepared(points, watch.operator, light, self.manner, watch, self.dark[frames])
