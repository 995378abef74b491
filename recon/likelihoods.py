"""Which likelihood a camera calls for, and all of them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recon.exactnoise import ExactMixed
from recon.noise import (
    Likelihood,
    MixedGaussian,
    PaperPoisson,
    ShiftedPoisson,
    StabilisedAmplitude,
    TruePoisson,
)

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "mixed": MixedGaussian,
    "poisson": PaperPoisson,
    "amplitude": StabilisedAmplitude,
    "true-poisson": TruePoisson,
    "shifted-poisson": ShiftedPoisson,
    "exact": ExactMixed,
}

PURE_E = 0.1
"""Read noise below which readings are whole electrons: one in 10^6 would be rounded to a wrong number."""
RESOLVING_E = 1.0
"""Read noise above which Eq. 1 loses less than 7 % of the information at any brightness."""
DIM_E = 100.0
"""Electrons a pixel above which everywhere Eq. 1 loses nothing."""
COARSE = 0.4
"""Read noise over the digital step below which quantisation is not a bit of Gaussian noise."""


@dataclass(frozen=True)
class Choice:
    """A likelihood and why it was taken.

    Attributes:
        likelihood: ready to use.
        reason: one sentence with the numbers that decided.
    """

    likelihood: Likelihood
    reason: str


def likelihood_named(name: str) -> Likelihood:
    """The likelihood of that name with its defaults; raises ValueError naming the known ones."""
    if name not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {name!r}; known: {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[name]()
