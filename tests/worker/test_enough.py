"""Enough light: what is asked of an image, and what is spared."""

from __future__ import annotations

import pytest

from app.acquire.planning import make_low_dose_plan
from app.profile import load_profile
from app.worker.enough import Dose, Target, gains_of


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


def test_dose_counts_the_frames_that_are_committed():
    plan = make_low_dose_plan(load_profile("tiny"), passes=2)
    first = next(step.number for step in plan.steps if step.stream == "evaluation")
    total = 2 * 3 * (3e-4 + 3e-2)
    assert Dose.of(plan, (first, 0), 10.0) == Dose(0.0, pytest.approx(10 * total))
    assert Dose.of(plan, (first + 1, 0), 10.0).spent == pytest.approx(10 * 3e-4)
    whole = Dose.of(plan, (len(plan.steps), 0), 10.0)
    assert whole.spent == pytest.approx(whole.planned)
    assert whole.saved == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("ahead", "gains"),
    [
        ({"points": [0, 3], "information": [1.5, 2]}, {0: 1.5, 3: 2.0}),
        ({"points": [0, 3], "information": [1.5, None]}, {0: 1.5}),
        ({"points": [0, "3"], "information": [1.5, 2.0]}, {0: 1.5}),
        ({"points": [0, 3], "information": [1.5]}, {}),
        ({"points": 0}, {}),
        ([1.5], {}),
        (None, {}),
    ],
)
def test_what_a_frame_would_tell_is_believed_where_it_makes_sense(ahead, gains):
    assert gains_of({"ahead": ahead}) == gains
