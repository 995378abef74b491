"""Who watches a run, what it is told, and what it may say: that light need not be spent any more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from app.acquire.frame import Frame
from recon.files.darks import DarkSummary


class RunState(StrEnum):
    IDLE = "idle"
    PREFLIGHT = "preflight"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done, total: frames, darks included.
        remaining_s: bench time that the rest of the plan takes.
    """

    done: int
    total: int
    remaining_s: float


class Observer(Protocol):
    """Who watches a run. An exception in here fails the run."""

    def state_changed(self, state: RunState) -> None:
        """Called in the thread that changed it."""
        ...

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        """The frame is in the file (a dark: in its step's statistics). Called in the recorder's thread; be quick."""
        ...


@runtime_checkable
class DarkObserver(Protocol):
    """An observer that wants the statistics of darks as well."""

    def darks_committed(self, exposure_s: float, darks: DarkSummary) -> None:
        """All darks of an exposure are in the file. Called in the recorder's thread after their last frame."""
        ...


@dataclass(frozen=True)
class Enough:
    """Light that need not be spent any more.

    Attributes:
        from_s: exposures of the series from this one on are not needed at any point to come. The bright scan always is.
        reason: why.
    """

    from_s: float
    reason: str


@runtime_checkable
class DoseJudge(Protocol):
    """An observer that can tell when there has been enough light."""

    def enough(self, step: int) -> Enough | None:
        """What is not needed any more, None: all of it is. Asked between two points, before this step, by `run`."""
        ...


class SilentObserver:
    """An observer that looks away."""

    def state_changed(self, state: RunState) -> None:
        pass

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        pass
