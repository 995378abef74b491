"""Orders of a guided alignment: what would move, and the measurement with its picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.bench import registration
from app.bench.align import Alignment, align
from app.bench.motion import planned_moves
from app.live.order import Order
from app.live.orders import Then
from app.live.owner import DeviceOwner
from app.live.session import session_of
from app.live.state import Doing
from drivers.base import StagePosition


def plan_alignment(start: StagePosition, then: Then[list[str]]) -> Order:
    """What `align` would do from there, a line each; nothing moves."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("camera", "stage", "light")
        then(planned_moves(session_of(owner), start))

    return Order("plan the alignment", act, key="plan")


@dataclass(frozen=True)
class Aligned:
    """What an alignment found.

    Attributes:
        found: the measurement.
        picture: (rows, columns) the sample's transmission, put together from all places.
    """

    found: Alignment
    picture: NDArray[np.float64]

    @classmethod
    def of(cls, found: Alignment) -> Aligned:
        places = found.positions_m / found.grid.pixel_m
        mask = registration.trusted(found.beam.wave)
        seen = [one.transmission for one in found.seen]
        picture, _, _ = registration.mosaic(seen, places - np.nanmean(places, axis=0), mask)
        return cls(found, picture)


def run_alignment(start: StagePosition, now: float, then: Then[Aligned]) -> Order:
    """Measure how stage, beam and camera lie together; the moves have been confirmed."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("camera", "stage", "light")
        session = session_of(owner)
        try:
            with owner.watched.still_camera():
                session.home_if_needed()
                then(Aligned.of(align(session, start, now)))
        except BaseException:
            # Whatever moves on an error has to stand.
            owner.setup.devices.stage.stop()
            raise

    return Order("align", act, doing=Doing.MEASURING)
