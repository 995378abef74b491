"""What a window shows of a bench: snapshots, made by the thread that owns the devices and never changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.acquire.observer import RunState
from app.acquire.plan import Plan, Step
from app.profile import Profile
from drivers.base import CameraInfo, Interval, LightState, StageInfo, StagePosition

STALE_S = 3.0
"""A device that has not been heard of for longer is not to be believed any more."""


class Health(StrEnum):
    OFF = "off"
    CONNECTED = "connected"
    STALE = "stale"
    FAULT = "fault"


class Kind(StrEnum):
    """Where a bench's devices come from; shown in the title of the window."""

    REAL = ""
    SIMULATED = "SIMULATED"
    REPLAY = "REPLAY"


@dataclass(frozen=True)
class DeviceState:
    """How a device is.

    Attributes:
        health: as last heard; whether it is stale by now follows from the age of the snapshot.
        words: model and serial number, or what is wrong.
    """

    health: Health = Health.OFF
    words: str = "not connected"


@dataclass(frozen=True)
class CameraState:
    """The camera.

    Attributes:
        device: how it is.
        info: None unless connected.
        exposure_s: as it accepted it; None before it was asked.
        live: whether it shows live frames.
        lost: live frames that did not arrive intact.
    """

    device: DeviceState = DeviceState()
    info: CameraInfo | None = None
    exposure_s: float | None = None
    live: bool = False
    lost: int = 0


@dataclass(frozen=True)
class StageState:
    """The stage.

    Attributes:
        device: how it is.
        info, position, homed: None and false unless connected.
        limits_y_m, limits_x_m: soft limits.
    """

    device: DeviceState = DeviceState()
    info: StageInfo | None = None
    position: StagePosition | None = None
    homed: bool = False

    @property
    def limits(self) -> tuple[Interval, Interval] | None:
        """Soft limits of y and x."""
        return None if self.info is None else (self.info.y_m, self.info.x_m)


@dataclass(frozen=True)
class BeamState:
    """The light.

    Attributes:
        device: how it is.
        state: blocked or open.
        by_hand: whether a person blocks it.
    """

    device: DeviceState = DeviceState()
    state: LightState = LightState.UNKNOWN
    by_hand: bool = False


class Doing(StrEnum):
    """What the thread that owns the devices is about."""

    NOTHING = "idle"
    CONNECTING = "connecting"
    MOVING = "moving"
    MEASURING = "measuring"
    SCANNING = "scanning"


@dataclass(frozen=True)
class Activity:
    """What is being done.

    Attributes:
        doing: the kind of it.
        words: for people.
        done, total: progress; total 0 where nobody knows.
    """

    doing: Doing = Doing.NOTHING
    words: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class RunStatus:
    """A run in progress or the last one.

    Attributes:
        plan, profile, path: what is or was done.
        state: of the runner.
        step: of the newest committed frame, None before the first.
        done, total: frames, darks included.
        remaining_s: bench time.
        error: why it failed; "".
    """

    plan: Plan
    profile: Profile
    path: Path
    state: RunState
    step: Step | None = None
    done: int = 0
    total: int = 0
    remaining_s: float = 0.0
    error: str = ""

    @property
    def running(self) -> bool:
        """Whether it is not over yet."""
        return self.state in (RunState.PREFLIGHT, RunState.RUNNING, RunState.PAUSED)


@dataclass(frozen=True)
class BenchState:
    """Everything at one moment.

    Attributes:
        name: of the profile, or of the run that is replayed; "" without a bench.
        kind: simulated, replay or real.
        profile: as loaded; known: with everything measured in place of what it assumes.
        camera, stage, beam: the devices.
        activity: what is being done.
        run: the run in progress or the last one, None before the first; in a replay the recorded one.
    """

    name: str = ""
    kind: Kind = Kind.REAL
    profile: Profile | None = None
    known: Profile | None = None
    camera: CameraState = CameraState()
    stage: StageState = StageState()
    beam: BeamState = BeamState()
    activity: Activity = Activity()
    run: RunStatus | None = None

    @property
    def idle(self) -> bool:
        """Whether something may be begun."""
        return self.activity.doing is Doing.NOTHING

    @property
    def may_move(self) -> bool:
        """Whether the stage may be sent somewhere now."""
        return self.idle and self.kind is not Kind.REPLAY and self.stage.device.health is Health.CONNECTED

    def health(self, device: DeviceState, age_s: float) -> Health:
        """How a device is by now, the snapshot being so old."""
        return Health.STALE if device.health is Health.CONNECTED and age_s > STALE_S else device.health
