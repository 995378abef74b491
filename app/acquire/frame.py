"""One frame with everything that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from app.acquire.plan import Step
from drivers.base import Exposure, StagePosition
from recon.files.layout import FrameRecord


@dataclass(frozen=True)
class Frame:
    """An exposure joined with its step and both positions; they never travel apart.

    Attributes:
        step: what was asked for.
        repeat: which of the step's frames, from 0.
        exposure: what the camera delivered.
        commanded: where the stage was last sent in this run, or None when it was not sent anywhere yet.
        readback: where its controller said it was, or None when it has no reference yet.
        true_position_m: true (y, x) of the illumination on the object; simulated benches only.
    """

    step: Step
    repeat: int
    exposure: Exposure
    commanded: StagePosition | None
    readback: StagePosition | None
    true_position_m: tuple[float, float] | None = None

    @property
    def last(self) -> bool:
        """Whether the step is complete with this frame."""
        return self.repeat == self.step.repeats - 1

    def record(self) -> FrameRecord:
        """The frame as the run file takes it."""
        return FrameRecord(
            stream=self.step.stream.value,
            step=self.step.number,
            repeat=self.repeat,
            last=self.last,
            position_index=self.step.position_index,
            asked_exposure_s=self.step.exposure_s,
            exposure_s=self.exposure.exposure_s,
            time=self.exposure.time,
            image=self.exposure.image,
            commanded_m=_pair(self.commanded),
            readback_m=_pair(self.readback),
            true_position_m=self.true_position_m,
        )


def _pair(position: StagePosition | None) -> tuple[float, float]:
    return (math.nan, math.nan) if position is None else position.as_tuple()
