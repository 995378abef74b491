"""Time estimates: none before they mean anything, then near the truth and calm."""

import io
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from app.acquire.command import ConsoleProgress
from app.acquire.observer import Progress
from app.acquire.plan import Stream
from app.progress import Course, LeftColumn
from app.timeleft import LEAST_S, TimeLeft, rough


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def told(durations, first_s=0.0, shares=None):
    """After each step: what is told and what is true."""
    clock = Clock()
    left = TimeLeft(clock)
    left.step(0.0)
    clock.now += first_s
    shares = np.cumsum(np.ones(len(durations))) / len(durations) if shares is None else shares
    ends = np.cumsum(durations)
    said = []
    for k, duration in enumerate(durations):
        clock.now += duration
        left.step(float(shares[k]))
        said.append((left.seconds(), float(ends[-1] - ends[k])))
    return said


def test_the_first_step_is_not_taken_for_the_pace():
    said = told([1.0] * 100, first_s=60.0)
    assert all(seconds is None for seconds, _ in said[:3])
    for seconds, true in said[4:]:
        assert seconds == pytest.approx(true, rel=0.05, abs=0.5)


def test_nothing_is_told_of_work_that_is_soon_over_or_of_few_steps():
    assert all(seconds is None for seconds, _ in told([LEAST_S / 100] * 20)[:-1])
    assert all(seconds is None for seconds, _ in told([30.0, 30.0, 30.0])[:-1])


def test_steps_that_vary_do_not_shake_it():
    rng = np.random.default_rng(0)
    said = [pair for pair in told(rng.gamma(2.0, 0.5, 300)) if pair[0] is not None]
    values = np.array([seconds for seconds, _ in said])
    true = np.array([seconds for _, seconds in said])
    assert np.abs(values - true)[30:].max() < 0.25 * true.max()
    # From one step to the next it never goes up by more than a few per cent of the whole.
    assert np.diff(values)[30:].max() < 0.06 * true.max()


def test_a_finer_stage_is_more_work():
    durations = np.array([0.13] * 36 + [0.37] * 8 + [1.15] * 10)
    pixels = np.array([0.1] * 36 + [0.4] * 8 + [1.0] * 10)
    weighted = told(durations, shares=np.cumsum(pixels) / pixels.sum())
    plain = told(durations)
    seconds, true = weighted[30]
    assert seconds == pytest.approx(true, rel=0.4)
    assert plain[30][0] < 0.5 * true


def test_it_counts_down_between_steps_and_goes_on_where_work_had_stopped():
    clock = Clock()
    left = TimeLeft(clock)
    left.step(0.5)
    for k in range(1, 21):
        clock.now += 1.0
        left.step(0.5 + k / 100)
    before = left.seconds()
    assert before == pytest.approx(30.0)
    clock.now += 4.0
    assert left.seconds() == pytest.approx(before - 4.0)
    clock.now += 400.0
    assert left.seconds() == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 s"), (0.2, "1 s"), (7.4, "8 s"), (31.0, "35 s"), (58.0, "1 min"), (200.0, "4 min"),
     (3600.0, "1 h 00 min"), (5000.0, "1 h 25 min")],
)  # fmt: skip
def test_words_are_no_finer_than_anybody_knows(seconds, words):
    assert rough(seconds) == words


def test_the_bar_is_silent_until_it_knows():
    clock = Clock()
    with Course(quiet=True, clock=clock) as course:
        course.begin("calibrating", 50)
        [task] = course._bar.tasks
        column = LeftColumn()
        shown = []
        for done in range(1, 51):
            clock.now += 40.0 if done == 1 else 2.0
            course.advance(done)
            shown.append(str(column.render(task)))
    assert shown[:3] == ["", "", ""]
    assert shown[9] == "about 2 min left"
    assert shown[-2] == "about 3 s left"
    assert shown[-1] == ""


def test_a_simulated_scan_tells_nothing_at_its_first_frame():
    clock, stream = Clock(), io.StringIO()
    progress = ConsoleProgress(stream, simulated=True, clock=clock)

    frame = SimpleNamespace(step=SimpleNamespace(stream=Stream.DARK))
    for done in range(1, 101):
        clock.now += 30.0 if done == 1 else 0.5
        progress.frame_committed(frame, Progress(done, 100, 0.0))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "dark: frame 1 of 100"
    assert lines[1] == "dark: frame 10 of 100, about 45 s left"
    assert lines[-1] == "dark: frame 100 of 100"
