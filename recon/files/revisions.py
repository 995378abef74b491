"""Points that were taken again: frames beside the ones that they supersede, and which to read.

A stage does not come back to the very same place, so a point whose visit was interrupted is taken again from its first
frame. The frames that were there already stay where they are, and the new ones of the same steps go into a pool of
fixed size: nothing is rewritten and no metadata changes. A revision counts with one write, when it is complete; before,
its frames are to be discarded, as all that lies beyond a commit counter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from . import schema
from .layout import FrameRecord, RunDescription, StageRecord

ROOM = 4
"""So many visits may be interrupted just before their last frame."""
REASON_BYTES = 200
_FRAMES, _REVISIONS = range(2)
Write = Callable[[h5py.Dataset, Any, Any], None]


@dataclass(frozen=True)
class FrameKey:
    """A frame that is to be superseded.

    Attributes:
        step, repeat: its place in the plan.
        stream, asked_exposure_s: they choose its entry.
    """

    step: int
    repeat: int
    stream: str
    asked_exposure_s: float


@dataclass(frozen=True)
class Revision:
    """A point that was taken again.

    Attributes:
        time: seconds since the epoch when it was complete.
        point: index of the scan point.
        reason: why, for people.
        superseded: (entry, frame in it) of every frame that is not to be used any more.
    """

    time: float
    point: int
    reason: str
    superseded: tuple[tuple[int, int], ...]


def room(run: RunDescription) -> int:
    """Frames that the pool of a run holds."""
    bracket = len(run.calibration_exposures_s) or 1
    visit = bracket + len(run.evaluation_exposures_s) if run.visit_frames is None else run.visit_frames
    return (ROOM + run.spare_visits) * max(visit - 1, 0)


class Pool:
    """The pool as a reader sees it; of a file without one, nothing was ever taken again."""

    def __init__(self, first: h5py.Group):
        self._group = first.get(schema.REVISIONS)
        committed = (0, 0) if self._group is None else self._group[schema.COMMITTED][...]
        self._frames, self._revisions = int(committed[_FRAMES]), int(committed[_REVISIONS])

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """All complete ones, in the order in which they were made."""
        if not self._revisions:
            return ()
        number, entry, frame = (
            self._group[name][: self._frames]
            for name in (schema.REVISION_NUMBER, schema.REVISION_ENTRY, schema.REVISION_FRAME)
        )
        return tuple(
            Revision(
                time=float(self._group[schema.REVISION_TIME][k]),
                point=int(self._group[schema.REVISION_POINT][k]),
                reason=bytes(self._group[schema.REVISION_REASON][k]).decode(errors="replace"),
                superseded=tuple((int(e), int(f)) for e, f in zip(entry[number == k], frame[number == k], strict=True)),
            )
            for k in range(self._revisions)
        )

    def newest(self, entry: int, name: str, values: NDArray) -> NDArray:
        """The values of an entry's frames, those of superseded ones replaced; changes `values`."""
        for row, index in self._of(entry):
            if index < len(values):
                values[index] = self._group[name][row]
        return values

    def visits(self, entry: int, count: int) -> NDArray[np.int64]:
        """(count,) from which visit the frames of an entry are: number of the revision, from 1, or 0 for the first."""
        found = np.zeros(count, np.int64)
        for row, index in self._of(entry):
            if index < count:
                found[index] = 1 + int(self._group[schema.REVISION_NUMBER][row])
        return found

    def replaced(self, entry: int) -> dict[int, int]:
        """Frame of an entry to row of the pool, for those that are superseded; of several the last."""
        return {frame: row for row, frame in self._of(entry)}

    @property
    def frames(self) -> h5py.Dataset | None:
        """(R, H, W) raw frames of the pool."""
        return None if self._group is None else self._group[schema.DATA]

    def newest_truth(self, positions_m: NDArray) -> NDArray:
        """(P, 2) true positions of the points, replaced likewise."""
        for row, _ in self._of(1):
            true = self._group[schema.TRUE_POSITION][row]
            if np.isfinite(true).all():
                positions_m[int(self._group[schema.POSITION_INDEX][row])] = true
        return positions_m

    def _of(self, entry: int) -> list[tuple[int, int]]:
        """(row, superseded frame) of an entry, later revisions last."""
        if not self._frames:
            return []
        entries = self._group[schema.REVISION_ENTRY][: self._frames]
        frames = self._group[schema.REVISION_FRAME][: self._frames]
        return [(int(row), int(frames[row])) for row in np.flatnonzero(entries == entry)]


class Retake:
    """A revision that is being made.

    Args:
        group: the pool.
        point: index of the scan point.
        superseded: key of every frame that is taken again, in the order in which they come, with its (entry, frame).
        reason: why.
    """

    def __init__(
        self,
        group: h5py.Group,
        point: int,
        superseded: Sequence[tuple[FrameKey, tuple[int, int]]],
        reason: str,
    ):
        self._group = group
        self._point = point
        self._superseded = superseded
        self._reason = reason
        self._committed = group[schema.COMMITTED][...]
        self._done = 0

    @property
    def expected(self) -> FrameKey:
        """What comes next."""
        return self._superseded[self._done][0]

    @property
    def complete(self) -> bool:
        return self._done == len(self._superseded)

    @staticmethod
    def free(group: h5py.Group) -> int:
        """Frames that a pool can still take."""
        return len(group[schema.DATA]) - int(group[schema.COMMITTED][_FRAMES])

    def put(self, frame: FrameRecord, stage: StageRecord, write: Write, flush: Callable[[], None], now: float) -> None:
        """Write one frame; with the last one the revision counts."""
        row, number = int(self._committed[_FRAMES]) + self._done, int(self._committed[_REVISIONS])
        entry, index = self._superseded[self._done][1]
        y, x = stage.object_position(frame.readback_m)
        values: dict[str, Any] = {
            schema.DATA: frame.image,
            schema.COUNT_TIME: frame.exposure_s,
            schema.ASKED_TIME: frame.asked_exposure_s,
            schema.TIMESTAMPS: frame.time,
            schema.POSITION_INDEX: frame.position_index,
            schema.COMMANDED: np.array(frame.commanded_m),
            schema.READBACK: np.array(frame.readback_m),
            schema.TRANSLATION: np.array([x, y, 0.0]),
            schema.TRUE_POSITION: np.array(frame.true_position_m or (math.nan, math.nan)),
            schema.REVISION_ENTRY: entry,
            schema.REVISION_FRAME: index,
            schema.REVISION_NUMBER: number,
        }
        for name, value in values.items():
            write(self._group[name], row, value)
        self._done += 1
        if self.complete:
            write(self._group[schema.REVISION_TIME], number, now)
            write(self._group[schema.REVISION_POINT], number, self._point)
            write(self._group[schema.REVISION_REASON], number, self._reason.encode()[:REASON_BYTES])
            flush()
            self._committed += [self._done, 1]
            write(self._group[schema.COMMITTED], ..., self._committed)
        flush()
