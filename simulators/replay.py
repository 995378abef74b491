"""A recorded run served again as camera, stage and light: nothing in here can reach a device, let alone move one.

Two ways to use it. A runner executes the recorded plan: `ReplayCamera.seed_next` names the frame that comes, the stage
"arrives" where it was, and the frames are the recorded ones. A viewer plays, steps or scrubs a `Playhead`: the live
view shows the frame under it, and stage and light are what they were then.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.base import (
    AcquisitionError,
    CameraInfo,
    Cancel,
    Cancelled,
    Exposure,
    Facts,
    LightState,
    NotReadyError,
    Region,
    StageInfo,
    StagePosition,
    never,
)
from drivers.clock import Clock

SLICE_S = 0.02
"""Longest sleep between two frames: how soon a cancel is seen."""
LONGEST_GAP_S = 30.0
"""Pauses in a recording are played no longer than this."""


@dataclass(frozen=True)
class Moment:
    """One recorded frame without its image.

    Attributes:
        key: (stream code, index) as a runner numbers its frames.
        exposure_s: that took place.
        asked_s: that was asked for.
        time: seconds since the epoch at its end.
        commanded, readback: where the stage was sent and where it said it was; None where nobody knew.
        lit: whether the beam was on the sample.
        visit: number of the visit to the place.
        step: number of its step.
    """

    key: tuple[int, int]
    exposure_s: float
    asked_s: float
    time: float
    commanded: StagePosition | None
    readback: StagePosition | None
    lit: bool
    visit: int = 0
    step: int = 0


class Recording(Protocol):
    """What is replayed."""

    @property
    def camera(self) -> CameraInfo: ...

    @property
    def stage(self) -> StageInfo: ...

    @property
    def moments(self) -> Sequence[Moment]:
        """Every frame, in the order in which they were taken."""
        ...

    def image(self, number: int) -> NDArray[np.uint16]:
        """(rows, columns) raw digital numbers of the frame with this number, from 0."""
        ...

    def close(self) -> None: ...


class Playhead:
    """Where a replay is: a number of a frame that time carries on. Any thread may ask and move it.

    Args:
        times: (N,) seconds since the epoch of the frames, as they were taken.
        clock: real time.
    """

    def __init__(self, times: Sequence[float], clock: Clock):
        # Time that never stands still for longer than a pause, whatever the recording's clock did.
        gaps = np.clip(np.diff(np.asarray(times, np.float64)), 1e-3, LONGEST_GAP_S)
        self._times = [0.0, *np.cumsum(gaps).tolist()] if len(times) else []
        self._clock = clock
        self._lock = threading.Lock()
        self._speed = 1.0
        self._playing = False
        self._at = 0.0
        self._since = clock.monotonic()

    @property
    def count(self) -> int:
        return len(self._times)

    @property
    def duration_s(self) -> float:
        """Of the whole recording at speed 1."""
        return self._times[-1] if self._times else 0.0

    @property
    def speed(self) -> float:
        return self._speed

    @property
    def playing(self) -> bool:
        """Whether time carries it on; it stops at the end."""
        with self._lock:
            return self._playing and self._now() < self.duration_s

    @property
    def time_s(self) -> float:
        """Since the first frame, at speed 1."""
        with self._lock:
            return self._now()

    @property
    def number(self) -> int:
        """The frame that is shown: the last one taken by now."""
        with self._lock:
            return max(0, bisect.bisect_right(self._times, self._now() + 1e-9) - 1)

    def play(self) -> None:
        """Let time run; from the end, begin again."""
        with self._lock:
            self._set(0.0 if self._now() >= self.duration_s else self._now())
            self._playing = True

    def pause(self) -> None:
        with self._lock:
            self._set(self._now())
            self._playing = False

    def set_speed(self, speed: float) -> None:
        """Recorded seconds a second, finite and above 0."""
        if not 0 < speed < np.inf:
            raise ValueError(f"speed {speed} is not a finite number above 0")
        with self._lock:
            self._set(self._now())
            self._speed = speed

    def seek(self, number: int) -> None:
        """To a frame; numbers beyond the recording go to its ends. What plays goes on from there, until the end."""
        with self._lock:
            self._playing = self._playing and self._now() < self.duration_s
            if self._times:
                self._set(self._times[min(max(number, 0), len(self._times) - 1)])

    def step(self, by: int) -> None:
        """Pause, and go so many frames on or back."""
        self.pause()
        self.seek(self.number + by)

    def _now(self) -> float:
        if not self._playing:
            return self._at
        return min(self._at + (self._clock.monotonic() - self._since) * self._speed, self.duration_s)

    def _set(self, at: float) -> None:
        self._at, self._since = at, self._clock.monotonic()


class ReplayCamera:
    """Recorded frames, one after the other or those under a playhead. Implements `drivers.base.Camera`.

    Exposure and region cannot be chosen: what was not recorded is refused.

    Args:
        recording: what is replayed.
        playhead: where its viewer is; a triggered frame takes it along.
        clock: time that passes between two triggered frames as it did between the recorded ones.
    """

    def __init__(self, recording: Recording, playhead: Playhead, clock: Clock, name: str = "camera"):
        self._recording = recording
        self._playhead = playhead
        self._clock = clock
        self._name = name
        self._places = {moment.key: number for number, moment in enumerate(recording.moments)}
        self._opened = False
        self._live = False
        self._shown: int | None = None
        self._next: int | None = None
        self._exposure_s: float | None = None

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self._opened = self._live = False

    @property
    def info(self) -> CameraInfo:
        self._require_open()
        return self._recording.camera

    def set_exposure(self, seconds: float) -> float:
        """Remember what the next frames have to have been asked for. Raises `LimitError`, `NotReadyError`."""
        self._require_open()
        self.info.exposure_s.require(seconds, self._name, "exposure")
        self._exposure_s = float(seconds)
        return self._exposure_s

    def set_region(self, region: Region) -> Region:
        """Refused unless it is the recorded one. Raises `NotReadyError`."""
        self._require_open()
        if region != self.info.region:
            raise NotReadyError(self._name, f"replays frames of {self.info.region} and cannot read out {region}")
        return region

    def seed_next(self, stream_code: int, index: int) -> None:
        """The frame that comes next, as a runner numbers them. Raises `AcquisitionError` when it was not recorded."""
        try:
            self._next = self._places[stream_code, index]
        except KeyError:
            raise AcquisitionError(
                self._name, f"frame {index} of stream {stream_code} is not in the recording; replay its own plan"
            ) from None

    def acquire(self, cancel: Cancel = never) -> Exposure:
        """The frame that `seed_next` named, or the one after the last.

        Raises: `AcquisitionError` beyond the recording or at another exposure, `NotReadyError`, `Cancelled`.
        """
        self._require_open()
        if self._live:
            raise NotReadyError(self._name, "shows live frames; stop them first")
        number = 0 if self._next is None else self._next
        if number >= len(self._recording.moments):
            raise AcquisitionError(self._name, f"the recording ends after {number} frames")
        moment = self._recording.moments[number]
        if self._exposure_s is not None and abs(moment.asked_s - self._exposure_s) > 1e-9 * self._exposure_s:
            raise AcquisitionError(
                self._name,
                f"frame {number} was recorded at {moment.asked_s:g} s, not {self._exposure_s:g} s; replay its own plan",
            )
        before = self._recording.moments[max(number - 1, 0)].time
        self._wait(min(max(moment.time - before, 0.0), LONGEST_GAP_S), cancel)
        self._next = number + 1
        self._playhead.seek(number)
        return self._exposure(number)

    def start_live(self) -> None:
        """Show the frame under the playhead from now on."""
        self._require_open()
        self._live, self._shown = True, None

    def newest(self, timeout_s: float) -> Exposure | None:
        """The frame under the playhead when it is another than the last one shown; never waits."""
        self._require_open()
        if not self._live:
            raise NotReadyError(self._name, "shows no live frames; start them first")
        number = self._playhead.number
        if number == self._shown or not self._playhead.count:
            return None
        self._shown = number
        return self._exposure(number)

    def stop_live(self) -> None:
        self._live = False

    def describe(self) -> Facts:
        info = self.info
        return {"model": info.model, "serial": info.serial, "replays": f"{len(self._recording.moments)} frames"}

    def _exposure(self, number: int) -> Exposure:
        moment = self._recording.moments[number]
        return Exposure(self._recording.image(number), moment.exposure_s, moment.time)

    def _wait(self, duration: float, cancel: Cancel) -> None:
        begin = self._clock.monotonic()
        while True:
            if cancel():
                raise Cancelled(self._name, "the replay was cancelled; start it again")
            left = duration - (self._clock.monotonic() - begin)
            if left <= 0:
                return
            # At least a nanosecond: a slice that rounding swallows would never end a wait in virtual time.
            self._clock.sleep(max(min(SLICE_S, left), 1e-9))

    def _require_open(self) -> None:
        if not self._opened:
            raise NotReadyError(self._name, "is closed; open it first")


class ReplayStage:
    """Where the stage was. Implements `drivers.base.Stage`; a move is to a recorded place or refused."""

    def __init__(self, recording: Recording, playhead: Playhead, name: str = "stage"):
        self._recording = recording
        self._playhead = playhead
        self._name = name
        self._opened = False
        self._visit = 0
        # What was read back at each step of a visit to a place, in their order.
        self._places: dict[tuple[int, StagePosition], list[StagePosition]] = {}
        steps: set[int] = set()
        for moment in recording.moments:
            if moment.commanded is not None and moment.step not in steps:
                steps.add(moment.step)
                known = self._places.setdefault((moment.visit, moment.commanded), [])
                known.append(moment.readback or moment.commanded)
        self._here: list[StagePosition] = []

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self._opened = False

    @property
    def info(self) -> StageInfo:
        self._require_open()
        return self._recording.stage

    @property
    def homed(self) -> bool:
        """Recorded positions are referenced."""
        return True

    def position(self) -> StagePosition:
        """After a move what was read back at each step of that visit, one a call; else where the playhead is."""
        self._require_open()
        if self._here:
            return self._here.pop(0) if len(self._here) > 1 else self._here[0]
        moments = self._recording.moments
        for number in range(min(self._playhead.number, len(moments) - 1), -1, -1):
            place = moments[number].readback or moments[number].commanded
            if place is not None:
                return place
        first = next((m.readback or m.commanded for m in moments if m.readback or m.commanded), None)
        return first or StagePosition(self.info.y_m.low, self.info.x_m.low)

    def home(self, cancel: Cancel = never) -> None:
        """Refused. Raises `NotReadyError`."""
        raise NotReadyError(self._name, "is a recording and cannot be homed; connect a bench to move one")

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        """The position that was read back there. Raises `NotReadyError` for a place where the stage never was sent."""
        self._require_open()
        if cancel():
            raise Cancelled(self._name, "the replay was cancelled; start it again")
        known = self._places.get((self._visit, target))
        if known is None:
            raise NotReadyError(
                self._name,
                f"is a recording and was never sent to y {target.y:.6g} m, x {target.x:.6g} m; connect a bench to "
                "move one",
            )
        self._here = list(known)
        return self.position()

    def seed_visit(self, visit: int) -> None:
        """The next move belongs to this visit."""
        self._visit = visit

    def stop(self) -> None:
        """Nothing moves."""

    def describe(self) -> Facts:
        info = self.info
        return {"model": info.model, "serial": info.serial, "replays": f"{len(self._places)} places"}

    def _require_open(self) -> None:
        if not self._opened:
            raise NotReadyError(self._name, "is closed; open it first")


class ReplayLight:
    """Whether the beam was on. Implements `drivers.base.Light`; a runner may ask for what was recorded."""

    def __init__(self, recording: Recording, playhead: Playhead):
        self._recording = recording
        self._playhead = playhead
        self._wanted: LightState | None = None

    def open(self) -> None:
        pass

    def close(self) -> None:
        self._wanted = None

    @property
    def state(self) -> LightState:
        if self._wanted is not None:
            return self._wanted
        if not self._recording.moments:
            return LightState.UNKNOWN
        lit = self._recording.moments[self._playhead.number].lit
        return LightState.OPEN if lit else LightState.BLOCKED

    def block(self) -> None:
        self._wanted = LightState.BLOCKED

    def unblock(self) -> None:
        self._wanted = LightState.OPEN

    def describe(self) -> Facts:
        return {"model": "a recorded beam", "state": self.state.value}
