"""In which manner frames are looked at: electron by electron, pixel by pixel, or in sums of pixels."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from recon import events, pixelbins
from recon.dataset import Ptychogram
from recon.exactnoise import ExactMixed
from recon.likelihoods import RESOLVING_E, choose
from recon.noise import Likelihood, MixedGaussian, ShiftedPoisson

DARK = 0.4
"""Electrons in the brightest pixel, expected of the prior, up to which it pays to look at bright pixels one by one."""
DIM = 4.0
"""The same up to which pixels keep their own exact likelihood: a third of where its tables end."""


class Manner(StrEnum):
    """Under which likelihood frames tell about the light."""

    EVENTS = "events"
    """Bright pixels one by one, dark ones by a quadratic form (`recon.events`)."""
    PIXELS = "pixels"
    """The exact likelihood of every pixel, tabulated bin by bin (`recon.pixelbins`)."""
    BINS = "bins"
    """Sums of pixels under a likelihood of their mean and variance (`recon.bins`)."""

    @classmethod
    def planned(cls, read_noise_e: float, brightest_e: float) -> Manner:
        """For a sensor's read noise, electrons rms, and the brightest pixel that the prior expects, electrons."""
        if read_noise_e <= events.RESOLVING_E and brightest_e <= DARK:
            return cls.EVENTS
        chosen = choose(read_noise_e, math.nan, brightest_e).likelihood
        return cls.PIXELS if isinstance(chosen, ExactMixed) and brightest_e <= DIM else cls.BINS

    def summed(self, read_noise_e: float) -> Likelihood:
        """For `Bins`, for a sensor's read noise: the exact one, pixel by pixel, or one of sums.

        Of a sum with little noise and less than an electron the score of Eq. 1 varies more than its information says,
        which passes for something foreign: the shifted Poisson's does not.
        """
        if self is Manner.PIXELS:
            return ExactMixed()
        return ShiftedPoisson() if read_noise_e <= RESOLVING_E else MixedGaussian()

    def met(self, data: Ptychogram) -> Manner:
        """This one, or bins where a good pixel of the frames holds more than it can look at."""
        if self is Manner.BINS:
            return self
        clipped = np.zeros(len(data), bool) if data.saturated is None else data.saturated
        counted = [data.mask & ~part for part in clipped]
        brightest = max(float(frame[good].max()) for frame, good in zip(data.frames, counted, strict=True))
        most = events.MOST_TERMS - 1 if self is Manner.EVENTS else pixelbins.MOST_E
        return self if brightest < most else Manner.BINS


def read_noise_e(dark_variance: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Of a typical good pixel, electrons rms, from dark variances (H, W) and the mask (H, W)."""
    return math.sqrt(float(np.median(dark_variance[mask])))
