"""The plan: an immutable list of steps, made from a profile, shown, checked, stored in the run and executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from drivers.base import StagePosition


class Stream(StrEnum):
    """What a frame is for."""

    DARK = "dark"
    EMPTY = "empty"
    CALIBRATION = "calibration"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Step:
    """One thing to do: be there, with that light, and expose so often.

    Attributes:
        number: place in the plan, from 0.
        stream: what the frames are for.
        position_index: index of the scan point on the *unordered* spiral, or -1 where none applies (darks, empty).
        target: where the stage has to be, or None when it may stay (darks).
        exposure_s: exposure asked for.
        light_on: whether the beam reaches the sample.
        repeats: how many frames.
        visit: number of the visit to the sample; a stage that returns in another one stands a little elsewhere.
    """

    number: int
    stream: Stream
    position_index: int
    target: StagePosition | None
    exposure_s: float
    light_on: bool
    repeats: int = 1
    visit: int = 0


def _same_visit(one: Step, other: Step) -> bool:
    """Whether the stage stands still between two neighbouring steps at a scan point."""
    return (one.position_index, one.target, one.visit) == (other.position_index, other.target, other.visit)


@dataclass(frozen=True)
class Plan:
    """All steps in the order in which they are executed.

    Attributes:
        steps: the steps; `steps[k].number == k`.
        positions_m: (y, x) of every scan point's illumination on the object, metres, in spiral order.
        evaluation_indices: the scan points of the evaluation series, in spiral order.
        evaluation_exposures_s: exposures of the evaluation series, ascending.
        calibration_exposure_s: exposure of the calibration scan, or of its main frames when it is bracketed.
        calibration_exposures_s: all exposures of the calibration scan, ascending; a low-dose plan has none.
        passes: how often the evaluation series is taken, each time in a visit of its own.
    """

    steps: tuple[Step, ...]
    positions_m: tuple[tuple[float, float], ...]
    evaluation_indices: tuple[int, ...]
    evaluation_exposures_s: tuple[float, ...]
    calibration_exposure_s: float
    calibration_exposures_s: tuple[float, ...] = ()
    passes: int = 1

    @property
    def low_dose(self) -> bool:
        """Whether it has no bright scan: the calibration is that of an earlier run."""
        return not any(step.stream is Stream.CALIBRATION for step in self.steps)

    @property
    def exposures_s(self) -> tuple[float, ...]:
        """Every distinct exposure with the light on, ascending: those that need darks."""
        return tuple(sorted({step.exposure_s for step in self.steps if step.stream is not Stream.DARK}))

    @property
    def frames(self) -> int:
        """Number of exposures, darks included."""
        return sum(step.repeats for step in self.steps)

    def start_of_visit(self, number: int) -> int | None:
        """The first step of the visit to a scan point that step `number` belongs to; None where it has no such point.

        During a visit the stage stands still. Darks and the empty beam do not care where exactly it stands.
        """
        step = self.steps[number]
        if step.position_index < 0:
            return None
        while number > 0:
            before = self.steps[number - 1]
            if not _same_visit(before, step):
                break
            number -= 1
        return number

    def visits_from(self, number: int) -> tuple[Step, ...]:
        """The first step of each visit to a scan point that begins at step `number` or later."""
        return tuple(step for step in self.steps[number:] if self.start_of_visit(step.number) == step.number)

    def brought_forward(self, number: int, first: int) -> tuple[Plan, tuple[int, ...]]:
        """With the visit that begins at step `first` carried out at step `number`, the visits between after it.

        Returns:
            the plan; and for each of its steps the number that it has here.

        Raises:
            ValueError: no visit begins at `first`, at or after step `number`.
        """
        if not number <= first < len(self.steps) or self.start_of_visit(first) != first:
            raise ValueError(f"plan: no visit begins at step {first}, at or after step {number}")
        end = first
        while end < len(self.steps) and _same_visit(self.steps[end], self.steps[first]):
            end += 1
        order = (*range(number), *range(first, end), *range(number, first), *range(end, len(self.steps)))
        steps = tuple(replace(self.steps[old], number=new) for new, old in enumerate(order))
        return replace(self, steps=steps), order

    def last_visit(self, point: int) -> tuple[Step, ...]:
        """The steps of the last visit to a scan point; none where it is never visited."""
        # Darks and the empty beam, which belong to no point, have a negative index.
        steps = [step for step in self.steps if step.position_index == point >= 0]
        if not steps:
            return ()
        start = self.start_of_visit(steps[-1].number)
        return self.steps[start : steps[-1].number + 1]

    def left_out(self, done: int, taken: Mapping[float, int]) -> tuple[Step, ...]:
        """Steps of the series before step `done` that were left out, `taken` frames of each exposure being there.

        An exposure that is not needed at one point is needed at none after it. So what is left out of an exposure is
        its end, and how many frames there are says which.
        """
        seen: dict[float, int] = {}
        found = []
        for step in self.steps[:done]:
            if step.stream is Stream.EVALUATION:
                before = seen.get(step.exposure_s, 0)
                seen[step.exposure_s] = before + step.repeats
                if before >= taken.get(step.exposure_s, 0):
                    found.append(step)
        return tuple(found)

    def entry(self, step: Step) -> int:
        """Number of the file's entry that has a step's frames; 0 for the empty beam. Darks have none."""
        if step.stream is Stream.EVALUATION:
            return 2 + self.evaluation_exposures_s.index(step.exposure_s)
        return {Stream.EMPTY: 0, Stream.CALIBRATION: 1}[step.stream]

    def places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Every frame but the darks, as (step, repeat), to its (entry, frame in it), in the plan's order."""
        done: dict[int, int] = {}
        found = {}
        for step in self.steps:
            if step.stream is Stream.DARK:
                continue
            entry = self.entry(step)
            for repeat in range(step.repeats):
                found[step.number, repeat] = (entry, done.get(entry, 0))
                done[entry] = done.get(entry, 0) + 1
        return found

    def place_in_entry(self, step: Step) -> int:
        """Index of a step's first frame among the frames of its entry; the bright scan's exposures share one."""
        return self.places()[step.number, 0][1]

    @property
    def longest_visit(self) -> int:
        """Most frames that are taken in one visit to a scan point."""
        frames: dict[int, int] = {}
        for step in self.steps:
            start = self.start_of_visit(step.number)
            if start is not None:
                frames[start] = frames.get(start, 0) + step.repeats
        return max(frames.values(), default=0)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` stored. Raises ValueError, KeyError or TypeError when it is not one."""
        raw = json.loads(text)
        steps = tuple(
            Step(
                number=s["number"],
                stream=Stream(s["stream"]),
                position_index=s["position_index"],
                target=None if s["target"] is None else StagePosition(**s["target"]),
                exposure_s=s["exposure_s"],
                light_on=s["light_on"],
                repeats=s["repeats"],
                visit=s.get("visit", 0),
            )
            for s in raw["steps"]
        )
        return cls(
            steps=steps,
            positions_m=tuple((float(y), float(x)) for y, x in raw["positions_m"]),
            evaluation_indices=tuple(raw["evaluation_indices"]),
            evaluation_exposures_s=tuple(raw["evaluation_exposures_s"]),
            calibration_exposure_s=raw["calibration_exposure_s"],
            calibration_exposures_s=tuple(raw.get("calibration_exposures_s", [raw["calibration_exposure_s"]])),
            passes=raw.get("passes", 1),
        )
