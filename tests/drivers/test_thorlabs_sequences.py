"""Any sequence of moves, stops and homing against a model: never outside the limits, always where the model is.

PTYCHOSCOPE_STAGE_EXAMPLES sets the number of sequences on each kind of controller, some six steps each; with `-s` the
last test prints how many steps that were and how they ended.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.base import Cancelled, LimitError, NotReadyError, StagePosition
from simulators.carriage import Carriage
from tests.drivers.rig import BENCH, FASTER, LIMITS, MOVES, Rig, rig

STEP = 1 / BENCH.microsteps_per_m
EXAMPLES = int(os.environ.get("PTYCHOSCOPE_STAGE_EXAMPLES", "6"))
FAST = {"velocity_m_s": 15e-3, "acceleration_m_s2": 0.5, "homing_velocity_m_s": 15e-3, "actuator": FASTER}


class Trail(Carriage):
    """A carriage that remembers how far its counters have been."""

    low = np.zeros(2, np.int64)
    high = np.zeros(2, np.int64)

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.ended: Counter[str] = Counter()

    def turn(self, axis: int, counter: int) -> None:
        super().turn(axis, counter)
        self.low[axis] = min(self.low[axis], counter)
        self.high[axis] = max(self.high[axis], counter)

    def forget(self) -> None:
        self.low, self.high = self.counter, self.counter


@pytest.fixture(scope="module", params=["kst101", "bsc203"])
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(request.param, carriage=Trail(BENCH, 3), **FAST) as r:
        yield r


coordinate = st.one_of(st.floats(0, 25e-3), st.floats(12e-3, 12.2e-3))
patience = st.one_of(st.none(), st.integers(0, 12))
action = st.one_of(
    st.tuples(st.just("move"), coordinate, coordinate, patience),
    st.tuples(st.just("stop during"), coordinate, coordinate, st.integers(0, 8)),
    st.tuples(st.just("home"), st.just(0.0), st.just(0.0), patience),
    st.tuples(st.just("stop"), st.just(0.0), st.just(0.0), st.none()),
)


def perform(r: Rig, what: str, y: float, x: float, patience: int | None) -> str:
    """Do it; how it ended. `patience`: after so many questions it is cancelled, or stopped by somebody else."""
    asked = [0]

    def cancel() -> bool:
        asked[0] += 1
        over = patience is not None and asked[0] > patience
        if over and what == "stop during":
            r.stage.stop()
            return False
        return over

    try:
        if what == "home":
            r.stage.home(cancel)
        elif what == "stop":
            r.stage.stop()
        else:
            there = r.stage.move_to(StagePosition(y, x), cancel)
            assert there.as_tuple() == pytest.approx((y, x), abs=STEP)
    except (Cancelled, LimitError, NotReadyError) as error:
        return type(error).__name__
    return "done"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(action, min_size=1, max_size=12))
def test_any_sequence_agrees_with_a_model(bench, sequence):
    r, trail = bench, bench.carriage
    for what, y, x, patience in sequence:
        start, homed = trail.counter, r.stage.homed
        trail.forget()
        before = len(r.wire.messages(*MOVES))
        ended = perform(r, what, y, x, patience)
        trail.ended[f"{what}: {ended}"] += 1
        now = trail.counter
        assert not any(r.wire.motor(axis).moving for axis in (0, 1))
        assert r.stage.position() == StagePosition(*(float(c) * STEP for c in now))
        goal = np.rint(np.array([y, x]) / STEP).astype(np.int64)
        inside = all(LIMITS[0] <= value <= LIMITS[1] for value in (y, x))
        if what == "stop":
            assert ended == "done"
            assert now.tolist() == start.tolist()
        elif what == "home":
            assert ended in ("done", "Cancelled")
            # A cancel may come when both have just arrived.
            assert r.stage.homed == all(r.wire.motor(axis).homed for axis in (0, 1))
            assert r.stage.homed or ended == "Cancelled"
            if ended == "done":
                assert now.tolist() == [0, 0]
        elif not inside or not homed:
            assert ended == ("NotReadyError" if inside else "LimitError")
            assert len(r.wire.messages(*MOVES)) == before
            assert now.tolist() == start.tolist()
        else:
            assert ended in ("done", "Cancelled")
            # On the way between start and target at all times, hence inside the limits once it has been inside.
            assert (trail.low >= np.minimum(start, goal)).all()
            assert (trail.high <= np.maximum(start, goal)).all()
            if ended == "done":
                assert now.tolist() == goal.tolist()
        if len(r.wire.heard) > 3000:
            r.wire.heard.clear()


def test_the_sequences_have_moved_stopped_and_refused(bench):
    """An agreement over sequences that only bounce off the limits would be worth nothing."""
    ended = bench.carriage.ended
    told = ", ".join(f"{how} {count}" for how, count in sorted(ended.items()))
    print(f"\n{bench.stage.info.model}: {ended.total()} steps without leaving the limits ({told})")  # noqa: T201
    assert {"home: done", "move: LimitError", "stop: done"} <= set(ended)
    assert {"move: done", "stop during: done"} & set(ended)
