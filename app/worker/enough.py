"""When a low-dose scan has had enough light, and what that spares the sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.acquire.plan import Plan, Stream
from app.worker.message import Key


@dataclass(frozen=True)
class Target:
    """What an image has to be: recovered, with a mean standard deviation of at most this amplitude."""

    sigma: float

    def reached(self, numbers: Mapping[str, Any], frames: int) -> str:
        """In words, or "" while an estimate of so many frames, with these numbers, is not good enough."""
        sigma = numbers.get("sigma_mean")
        if numbers.get("verdict") != "recovered" or not isinstance(sigma, float | int) or not sigma <= self.sigma:
            return ""
        return f"recovered from {frames} frames, mean deviation {sigma:.3f} of at most {self.sigma:g}"


def gains_of(numbers: Mapping[str, Any]) -> dict[int, float]:
    """Nats that one more frame would tell, by point, by an estimate's numbers; none where they say nothing of it."""
    ahead = numbers.get("ahead")
    if not isinstance(ahead, dict):
        return {}
    points, nats = ahead.get("points"), ahead.get("information")
    if not (isinstance(points, list) and isinstance(nats, list) and len(points) == len(nats)):
        return {}
    known = zip(points, nats, strict=True)
    return {point: float(value) for point, value in known if type(point) is int and isinstance(value, float | int)}


@dataclass(frozen=True)
class Dose:
    """Photons in the illumination while the sample was exposed.

    Attributes:
        spent: up to now.
        planned: by the whole plan.
    """

    spent: float
    planned: float

    @classmethod
    def of(cls, plan: Plan, committed: Key, photons_per_second: float) -> Dose:
        """Of frames before `committed`, as (step, repeat)."""
        spent = planned = 0.0
        for step in plan.steps:
            if step.stream not in (Stream.CALIBRATION, Stream.EVALUATION):
                continue
            done = step.repeats if step.number < committed[0] else committed[1] if step.number == committed[0] else 0
            spent += done * step.exposure_s
            planned += step.repeats * step.exposure_s
        return cls(photons_per_second * spent, photons_per_second * planned)

    @property
    def saved(self) -> float:
        """Share of the planned dose that is not spent."""
        return 1 - self.spent / self.planned if self.planned > 0 else 0.0
