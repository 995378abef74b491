"""`--decoder auto`: the decoders that are installed, ranked by evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.errors import UsageError
from app.latent import Decoder, estimator
from app.progress import Course
from recon.choosing import Ranked, ranked
from recon.dataset import Ptychogram
from recon.decoders.package import installed_packages
from recon.estimator import LatentEstimator
from recon.illumination import Illumination

AUTO = "auto"


def candidates(word: str) -> list[str] | None:
    """Names after `auto` or `auto:A,B,FILE`; None where the word is a decoder's own name.

    Raises:
        UsageError: nothing follows the colon.
    """
    if word == AUTO:
        return installed_packages()
    if not word.startswith(f"{AUTO}:"):
        return None
    names = list(dict.fromkeys(name for name in word.partition(":")[2].split(",") if name))
    if not names:
        raise UsageError(f"--decoder {word}: names after the colon, such as auto:mnist,mnist-4")
    return names


def choose(
    names: Sequence[str], data: Ptychogram, light: Illumination, field_m: float, pose: str, device: str, course: Course
) -> tuple[Decoder, LatentEstimator, list[Ranked]]:
    """The decoder with the most evidence, its estimator, and the places of all of them."""
    decoders = [Decoder.load(name, asker="--decoder auto") for name in names]
    for decoder in decoders:
        if decoder.note:
            course.say(decoder.note)
    course.begin("decoders", len(decoders))
    estimators = [estimator(decoder, light, field_m, pose, device) for decoder in decoders]
    places = ranked(estimators, data, course.advance, course.stopped)
    best = next(k for k, decoder in enumerate(decoders) if decoder.package.name == places[0].name)
    for line in table(places):
        course.say(line)
    return decoders[best], estimators[best], places


def table(places: Sequence[Ranked]) -> list[str]:
    """Lines for people."""
    wide = max(len("decoder"), *(len(place.name) for place in places)) + 2
    lines = [f"{'decoder':<{wide}}{'evidence':>12}{'probability':>13}  verdict"]
    for place in places:
        verdict = place.posterior.verdict.word.value
        lines.append(f"{place.name:<{wide}}{place.log_evidence:>7.1f} nats{place.probability:>13.3f}  {verdict}")
    return lines


def ranking(places: Sequence[Ranked]) -> list[dict[str, Any]]:
    """JSON-ready, the best first."""
    return [
        {
            "decoder": place.name,
            "log_evidence": place.log_evidence,
            "probability": place.probability,
            "verdict": place.posterior.verdict.word.value,
        }
        for place in places
    ]
