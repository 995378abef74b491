"""What the thread that owns the devices is told, and what it tells."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from app.acquire.frame import Frame
from app.acquire.observer import Observer
from app.acquire.scan import Scan
from app.errors import known_message
from app.live.state import Doing
from drivers.base import CameraInfo, ConnectionLost, DeviceTimeout, Exposure, InstrumentError

if TYPE_CHECKING:
    from app.live.owner import DeviceOwner

DEVICES = ("camera", "stage", "light")


@dataclass(frozen=True)
class Look:
    """A frame to be shown.

    Attributes:
        exposure: the image with its exposure and time.
        info: the camera that took it.
        frame: with step and positions, when a run took it.
        number: of a replayed frame, from 0.
    """

    exposure: Exposure
    info: CameraInfo
    frame: Frame | None = None
    number: int | None = None


@dataclass(frozen=True)
class Order:
    """Something that the devices' thread is to do.

    Attributes:
        name: for messages: "move", "home".
        act: what; raises what failed.
        key: an order that waits is replaced by a newer one with the same key; "" waits its turn.
        doing: what it is; anything but NOTHING is refused while something else is under way.
    """

    name: str
    act: Callable[[DeviceOwner], None]
    key: str = ""
    doing: Doing = Doing.NOTHING


@dataclass(frozen=True)
class Given:
    """An order, and how often STOP and Abort had been pressed when it was given."""

    order: Order
    stops: int
    aborts: int


class RunListener(Protocol):
    """Somebody who wants to follow runs, as a live reconstruction does."""

    def run_begins(self, scan: Scan) -> Observer | None:
        """A run is about to start; what is returned watches it. Called in the devices' thread; be quick."""
        ...


def lost(error: InstrumentError) -> bool:
    """Whether the device is not to be used until it is reconnected."""
    return isinstance(error, ConnectionLost | DeviceTimeout) and device_of(error) in DEVICES


def device_of(error: InstrumentError) -> str:
    """Drivers name an axis behind the device."""
    return error.device.split()[0]


def line_of(error: BaseException) -> str:
    """One line for people; of a bug also where it is."""
    known = known_message(error)
    if known is not None:
        return known
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({place[-1].filename.rsplit('/', 1)[-1]}:{place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}; please report this"
