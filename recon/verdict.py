"""A posterior in a word: recovered, ambiguous, not enough light, or not of this class."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from recon.decoders.scatter import Scatter
from recon.foreign import Foreign

EMPTY_NATS = 12.0
"""Evidence over an empty field of view below which there is not enough light to speak of an object."""
FOREIGN_NATS = 4.0
"""Evidence for something the decoder cannot draw from which on the object is not of its class."""
SURE = 0.85
"""Probability of success from which on an object counts as recovered."""
DICE = 0.8
"""Overlap at amplitude 0.5 that a success needs, beside the PSNR."""
STRANGE = 2.0
"""Standard deviations by which the log prior density may lie below that of a draw from the prior."""
UNLIKE = 3.5
"""Standard deviations by which the mean square of the frames' pattern scores may exceed one."""
ODD_FRAME = 6.0
"""Standard deviations by which a frame's light may miss its expectation."""


class Word(StrEnum):
    """The four verdicts."""

    RECOVERED = "recovered"
    AMBIGUOUS = "ambiguous"
    DARK = "not enough light"
    FOREIGN = "not of this class"


@dataclass(frozen=True)
class Verdict:
    """A verdict and what it rests on.

    Attributes:
        word: the verdict.
        success: probability that the mean image is a success, by the posterior itself.
        expected_db: PSNR that the mean image is expected to have, what the decoder misses counted.
        needed_db: PSNR midway between the prior mean's and the noise-free fit's that is expected.
        reason: one sentence with the numbers that decided.
    """

    word: Word
    success: float
    expected_db: float
    needed_db: float
    reason: str


def judge(
    *,
    images: Tensor,
    prior_mean: Tensor,
    misfit: Tensor,
    scatter: Scatter,
    log_evidence: float,
    classes: dict[int, float],
    foreign: Foreign,
    frame_scores: Tensor,
    electrons: float,
    typicality: float = 0.0,
    pattern: float = 0.0,
    left: Tensor | None = None,
) -> Verdict:
    """The verdict over samples (n, s, s) from a posterior.

    Success is what docs/studies.md calls one, the truth unknown: each sample in turn plays the truth, and beside it
    each image of the decoder's `scatter` what is missed of it by the sample and by the noise-free fit, with the
    `misfit` (s, s) as their scale. Where what the decoder misses was looked for, the samples hold it, and what is
    `left` uncertain in each pixel (s, s) is all that comes on top. `typicality` is the mean log prior density of the
    samples, in standard deviations above the mean of draws from the prior: samples from the posterior of an object of
    the class are such draws. `pattern` is the mean square of the frames' pattern scores at the mode less one, in
    standard deviations of that.
    """
    mean = images.mean(0)
    beyond = misfit.mean() * scatter.drawn
    # A sample is farther from the mean than the truth's mean square says by its own spread; both are used as they are.
    error = (images - mean).square().flatten(1).mean(1)[:, None] + (beyond if left is None else left.mean())
    baseline = (images - prior_mean).square().flatten(1).mean(1)[:, None] + (beyond if left is None else 0.0)
    needed = (baseline * misfit.mean() * scatter.nearest).sqrt()
    overlap = _dice(images > 0.5, mean > 0.5)[:, None]
    success = float(((error <= needed) & (overlap >= DICE)).float().mean())
    expected, threshold = (-10 * float(v.log10().mean()) for v in (error, needed))
    best = max(classes, key=lambda label: classes[label])
    odd = float(frame_scores.abs().max())
    if log_evidence < EMPTY_NATS:
        word = Word.DARK
        reason = f"{electrons:.0f} electrons: evidence over an empty field {log_evidence:.1f} nats of {EMPTY_NATS:g}"
    elif foreign.log_odds > FOREIGN_NATS:
        word = Word.FOREIGN
        reason = (
            f"light that the decoder cannot draw: {foreign.log_odds:.1f} nats, {foreign.strength:g} times its misfit"
        )
    elif typicality < -STRANGE:
        word = Word.FOREIGN
        reason = f"its latents are unlike those of the class: {-typicality:.1f} standard deviations below their density"
    elif pattern > UNLIKE:
        word = Word.FOREIGN
        reason = f"the light in the frames lies elsewhere than the image puts it: {pattern:.1f} standard deviations"
    elif odd > ODD_FRAME:
        word = Word.FOREIGN
        reason = f"a frame's light misses its expectation by {odd:.1f} standard deviations"
    elif success >= SURE:
        word = Word.RECOVERED
        reason = f"expected PSNR {expected:.1f} dB, {threshold:.1f} needed, probability of success {success:.2f}"
    elif expected < threshold - 3:
        word = Word.DARK
        reason = f"expected PSNR {expected:.1f} dB, {threshold:.1f} needed"
    else:
        word = Word.AMBIGUOUS
        reason = (
            f"probability of success {success:.2f}, expected PSNR {expected:.1f} dB, {threshold:.1f} needed; "
            f"most likely class {best} with {classes[best]:.2f}"
        )
    return Verdict(word, success, expected, threshold, reason)


def _dice(a: Tensor, b: Tensor) -> Tensor:
    """(n,) overlap 2 |A and B|/(|A| + |B|) of masks (n, s, s) with one (s, s)."""
    both = (a & b).flatten(1).sum(1).float()
    total = a.flatten(1).sum(1).float() + b.sum().float()
    return torch.where(total > 0, 2 * both / total.clamp_min(1), 1.0)
