"""Which likelihood a camera calls for, and all of them by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from recon.codenoise import CodeMixed
from recon.exactnoise import ExactMixed
from recon.noise import (
    Likelihood,
    MixedGaussian,
    PaperPoisson,
    ShiftedPoisson,
    StabilisedAmplitude,
    TruePoisson,
)
from recon.readkernel import ReadKernel, gaussian_kernel

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "mixed": MixedGaussian,
    "poisson": PaperPoisson,
    "amplitude": StabilisedAmplitude,
    "true-poisson": TruePoisson,
    "shifted-poisson": ShiftedPoisson,
    "exact": ExactMixed,
}

PURE_E = 0.1
"""Read noise below which readings are whole electrons: one in 10^6 would round to a wrong number."""
RESOLVING_E = 1.5
"""Read noise above which Eq. 1 loses at most 3 % of the information at any brightness."""
COARSE_STEP = 2.0
"""Digital step over read noise above which rounding is not a bit more of normal noise."""


@dataclass(frozen=True)
class Choice:
    """A likelihood and why it was taken.

    Attributes:
        likelihood: ready to use.
        reason: one sentence with the numbers that decided.
    """

    likelihood: Likelihood
    reason: str


def choose(
    read_noise_e: float,
    electrons_per_adu: float,
    brightest_e: float,
    kernel: ReadKernel | None = None,
    device: torch.device | str = "cpu",
) -> Choice:
    """The likelihood for a camera.

    Args:
        read_noise_e: electrons rms of a pixel in the dark, rounding included.
        electrons_per_adu: conversion gain; nan where it is not known, and rounding is then taken for fine.
        brightest_e: electrons that the brightest pixel is expected to hold.
        kernel: measured from darks, where there is one; taken where the noise resolves photons or codes are coarse.
        device: where tables lie.

    Raises:
        ValueError: numbers that no camera has.
    """
    if not (read_noise_e >= 0 and math.isfinite(read_noise_e)):
        raise ValueError(f"read noise: {read_noise_e} e- rms; it must be zero or more, and finite: record darks")
    if electrons_per_adu <= 0:
        raise ValueError(f"gain: {electrons_per_adu} electrons per digital number; it must be positive")
    if not brightest_e >= 0:
        raise ValueError(f"brightest pixel: {brightest_e} electrons; it must be zero or more")
    noise = f"read noise {read_noise_e:.3g} e-"
    rounding_e = 0.0 if math.isnan(electrons_per_adu) else electrons_per_adu / math.sqrt(12)
    normal_e = math.sqrt(max(read_noise_e**2 - rounding_e**2, 0.0))
    if rounding_e > 0 and electrons_per_adu > COARSE_STEP * max(normal_e, PURE_E):
        step = f"a digital number is {electrons_per_adu:.3g} e- and the read noise before rounding {normal_e:.3g} e-"
        own = kernel if kernel is not None else gaussian_kernel(max(read_noise_e, 1.01 * rounding_e), electrons_per_adu)
        return Choice(CodeMixed(own, device), f"codes: {step}, so rounding is no normal noise")
    if read_noise_e < PURE_E:
        return Choice(TruePoisson(), f"true-poisson: {noise} is below {PURE_E:g} e-, readings are whole electrons")
    if read_noise_e > RESOLVING_E:
        reason = f"mixed: {noise} is above {RESOLVING_E:g} e-, where the exact likelihood gains at most 3 % over Eq. 1"
        return Choice(MixedGaussian(), reason)
    gain = f"{noise} leaves photons apart"
    if kernel is not None:
        return Choice(CodeMixed(kernel, device), f"codes: {gain}, and darks say what the noise is like")
    # A scan has dark places whatever its brightest pixel holds, so brightness alone never speaks for Eq. 1.
    seen = f"the brightest pixel holds {brightest_e:.3g} e-"
    return Choice(ExactMixed(), f"exact: {gain}, {seen}; Eq. 1 would lose information wherever there are few electrons")


def likelihood_named(name: str) -> Likelihood:
    """The likelihood of that name with its defaults; raises ValueError naming the known ones."""
    if name not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {name!r}; known: {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[name]()
