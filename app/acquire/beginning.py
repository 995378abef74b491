"""Where a run begins: with what its file lacks, with the visit that was interrupted, or with a point taken again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from app.acquire.plan import Plan, Step, Stream
from recon.dataset import DatasetError
from recon.files.revisions import FrameKey
from recon.files.write import RunWriter


@dataclass(frozen=True)
class Beginning:
    """What is to be executed.

    Attributes:
        first, end: steps of the plan, the end not included.
        first_repeat: frames of the first step that are there already.
        visited: how often the point that is taken again has been visited before, 0: none is taken again.
        visit: first step of its visit.
        gone: numbers of steps that are left out.
    """

    first: int
    end: int
    first_repeat: int = 0
    visited: int = 0
    visit: int = -1
    gone: frozenset[int] = frozenset()

    def steps(self, plan: Plan) -> tuple[Step, ...]:
        """All of them, those that are left out as well."""
        return plan.steps[self.first : self.end]

    def frames(self, plan: Plan) -> int:
        """To be taken."""
        return sum(s.repeats for s in self.steps(plan) if s.number not in self.gone) - self.first_repeat


def without(steps: Iterable[Step], from_s: float) -> frozenset[int]:
    """Numbers of the steps that expose the series for so long, or longer."""
    return frozenset(s.number for s in steps if s.stream is Stream.EVALUATION and s.exposure_s >= from_s)


def left_out(plan: Plan, writer: RunWriter) -> tuple[Step, ...]:
    """Steps that a run has gone past without exposing."""
    taken = {exposure: writer.frames_of("evaluation", exposure) for exposure in plan.evaluation_exposures_s}
    return plan.left_out(writer.steps_committed, taken)


def rest(plan: Plan, writer: RunWriter) -> Beginning:
    """What the file of a run lacks, or the visit that was interrupted; the file is told. Raises `DatasetError`.

    Exposures that were left out go on being left out.
    """
    step, repeat = writer.steps_committed, writer.repeats_committed
    resumed = writer.outcome != "running" or bool(step or repeat)
    if resumed:
        writer.set_outcome("running")
        writer.log(f"resumed at step {step}, frame {repeat}")
    steps = plan.steps
    from_s = min((own.exposure_s for own in left_out(plan, writer)), default=math.inf)
    visit = plan.start_of_visit(step)
    gone = without(steps[step if visit is None else visit :], from_s)
    of_visit = [s.number for s in steps[step:] if plan.start_of_visit(s.number) == visit]
    if visit is None or (visit, 0) == (step, repeat) or gone.issuperset(of_visit):
        return Beginning(step, len(steps), repeat, gone=gone)
    point = steps[step].position_index
    counts = [(s, s.repeats) for s in steps[visit:step] if s.number not in gone] + [(steps[step], repeat)]
    writer.retake(point, _keys(counts), f"its visit was interrupted before step {step}, frame {repeat}")
    writer.log(f"point {point} is taken again from step {visit}: the stage does not come back to the same place")
    return Beginning(visit, len(steps), 0, writer.revisions + 1, visit, gone)


def once_more(plan: Plan, writer: RunWriter, point: int, whole: bool) -> Beginning:
    """A point of a complete run is taken again; the file is told. Raises `DatasetError`.

    Args:
        whole: with the exposures that were left out there, whose frames come behind those that there are.
    """
    if writer.steps_committed < len(plan.steps):
        raise DatasetError(f"{writer.path}: is not complete; resume it before points are taken again")
    visit = plan.last_visit(point)
    if not visit:
        raise DatasetError(f"{writer.path}: its plan never visits point {point}; choose another")
    missing = left_out(plan, writer)
    if whole and missing and missing[0].position_index != point:
        first = missing[0].position_index
        raise DatasetError(f"{writer.path}: what was left out is taken in its order; take point {first} before {point}")
    gone = {step.number for step in missing}
    there = [(s, s.repeats) for s in visit if s.number not in gone]
    places = [plan.place_in_entry(s) + k for s, count in there for k in range(count)]
    added = [(s, s.repeats) for s in visit if s.number in gone and whole]
    reason = "what enough light left out is taken" if whole else "the operator wished it"
    writer.retake(point, _keys(there), reason, places, _keys(added))
    writer.set_outcome("running")
    writer.log(f"point {point} is taken again" + (f": {reason}" if whole else ""))
    return Beginning(
        first=visit[0].number,
        end=visit[-1].number + 1,
        visited=writer.revisions + 1,
        visit=visit[0].number,
        gone=frozenset() if whole else frozenset(gone),
    )


def _keys(counts: list[tuple[Step, int]]) -> list[FrameKey]:
    return [FrameKey(s.number, k, s.stream.value, s.exposure_s) for s, count in counts for k in range(count)]
