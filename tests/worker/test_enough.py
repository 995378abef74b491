"""Enough light: what is asked of an image, and what is spared."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from app.acquire.planning import make_low_dose_plan
from app.profile import load_profile
from app.worker.enough import Dose, Target
from app.worker.source import exposed_s


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"verdict": "recovered", "sigma_mean": 0.1}, "recovered from 7 frames, mean deviation 0.100 of at most 0.1"),
        ({"verdict": "recovered", "sigma_mean": 0.11}, ""),
        ({"verdict": "ambiguous", "sigma_mean": 0.05}, ""),
        ({"verdict": "recovered", "sigma_mean": None}, ""),
        ({}, ""),
    ],
)
def test_an_image_is_good_enough_when_it_is_recovered_and_sharp(numbers, words):
    assert Target(0.1).reached(numbers, 7) == words


@dataclass(frozen=True)
class Exposed:
    """What `Dose.of` asks of a run."""

    exposed_s: float
    left_out: tuple[int, ...] = ()


def test_the_dose_is_what_the_sample_saw_of_what_was_planned():
    plan = make_low_dose_plan(load_profile("tiny"), passes=2)
    first = next(step.number for step in plan.steps if step.stream == "evaluation")
    total = 2 * 3 * (3e-4 + 3e-2)
    assert exposed_s(plan, (first, 0)) == 0.0
    assert exposed_s(plan, (first + 1, 0)) == pytest.approx(3e-4)
    assert exposed_s(plan, (first + 4, 0), {first + 1}) == pytest.approx(2 * 3e-4 + 3e-2)
    assert exposed_s(plan, (len(plan.steps), 0)) == pytest.approx(total)
    half = Dose.of(plan, Exposed(total / 2, (first + 1, first + 3)), 10.0)
    assert (half.spent, half.planned) == (pytest.approx(5 * total), pytest.approx(10 * total))
    assert half.saved == pytest.approx(0.5)
    assert half.left_out == {3e-2: 2}
    # Visits that were interrupted have cost more than is saved.
    assert Dose.of(plan, Exposed(2 * total), 10.0).saved == 0.0
