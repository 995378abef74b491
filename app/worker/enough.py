"""When there has been enough light, and what that spares the sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.acquire.plan import Plan
from app.worker.source import Source, exposed_s


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


@dataclass(frozen=True)
class Dose:
    """Photons in the illumination while the sample was exposed.

    Attributes:
        spent: up to now, every frame that the sample saw.
        planned: by the whole plan, each frame once.
        left_out: exposures of which frames were left out, to how many.
    """

    spent: float
    planned: float
    left_out: Mapping[float, int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, source: Source, photons_per_second: float) -> Dose:
        """Of a run, as far as it has come."""
        gone: dict[float, int] = {}
        for number in source.left_out:
            step = plan.steps[number]
            gone[step.exposure_s] = gone.get(step.exposure_s, 0) + step.repeats
        planned = exposed_s(plan, (len(plan.steps), 0))
        return cls(photons_per_second * source.exposed_s, photons_per_second * planned, gone)

    @property
    def saved(self) -> float:
        """Share of the planned dose that is not spent; 0 where points taken again have cost more."""
        return max(0.0, 1 - self.spent / self.planned) if self.planned > 0 else 0.0
