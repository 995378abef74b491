"""What an estimator keeps ready before frames come, and what a search of them has come to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recon.chains import Sample
from recon.chord import Chord
from recon.events import Watch
from recon.latent import Modes
from recon.manner import Manner
from recon.missed import Missed
from recon.observation import LightMap
from recon.operator import CameraOperator
from recon.scene import Scene


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

    def select(self, frames: list[int]) -> Prepared:
        """What some of the frames need."""
        points = tuple(self.points[j] for j in frames)
        light = self.light.select(frames)
        if self.watch is None or self.dark is None:
            return Prepared(points, self.operator.select(frames), light, self.manner, None, None)
        watch = self.watch.select(frames)
        return Prepared(points, watch.operator, light, self.manner, watch, self.dark[frames])


@dataclass(frozen=True)
class Found:
    """What a search has come to.

    Attributes:
        modes: of the decoder itself.
        chord: draws as it does, with its Jacobians there.
        drawn: the posterior's draws.
        iterations: Gauss-Newton steps.
        followed: frames that have come since the last search of the bank.
        missed: what the decoder misses of the object, where there is light enough to see it; the draws are then its.
        fields: (n, s, s) or (n, 2, s, s) of it, one for each draw; see `recon.missed.Missed.draws`.
    """

    modes: Modes
    chord: Chord
    drawn: Sample
    iterations: int
    followed: int = 0
    missed: Missed | None = None
    fields: Tensor | None = None

    def lit(self, scene: Scene) -> Tensor:
        """(n, s, s) draws as they meet the light, with what the decoder misses of them."""
        images = scene.lit(self.drawn.images, self.drawn.theta)
        return images if self.fields is None else images + self.fields
