"""What a search of frames has come to: modes, draws, and what the decoder misses of the object."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recon.chains import Sample
from recon.chord import Chord
from recon.latent import Modes
from recon.missed import Missed
from recon.scene import Scene


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
