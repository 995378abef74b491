"""Moves that a person asks for: named places and displacements, told beforehand, watched, and stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from app.acquire.planning import lowest_point
from app.bench.align import EMPTY_FRAMES, FRAMES, STEP_M, STEPS, TINY_M, places
from app.bench.session import Session
from app.devices import Devices
from app.errors import UsageError
from app.profile import StageProfile
from drivers.base import NotReadyError, StagePosition

UNITS = {"": 1.0, "m": 1.0, "mm": 1e-3, "um": 1e-6}
HOME = "home"
SLICES = 50
"""Progress of a move is shown in so many parts."""


def parse_place(text: str) -> StagePosition:
    """ "12.5mm,12.5mm" or "0.0125,0.0125": y, then x. Raises `UsageError`."""
    parts = [re.fullmatch(r"\s*([-+0-9.eE]+?)\s*(um|mm|m|)\s*", part) for part in text.split(",")]
    try:
        y, x = (float(part[1]) * UNITS[part[2]] for part in parts if part is not None)
    except (ValueError, TypeError):
        raise UsageError(
            f"place {text!r}: is neither park, load, unload, home nor Y,X such as 12.5mm,12.5mm or 0.0125,0.0125"
        ) from None
    return StagePosition(y, x)


def named_place(text: str, stage: StageProfile) -> StagePosition:
    """A place by its name in the profile, or Y,X; samples come and go at one place. Raises `UsageError`."""
    if text == "park":
        return StagePosition(*stage.park_m)
    if text in ("load", "unload"):
        return StagePosition(*(stage.load_m or stage.park_m))
    return parse_place(text)


def words(place: StagePosition) -> str:
    """(y, x) in millimetres, for people."""
    return f"y {place.y * 1e3:.4f} mm, x {place.x * 1e3:.4f} mm"


def planned_moves(session: Session, start: StagePosition) -> list[str]:
    """What `align` will do, a line each; everything lies within the limits.

    Raises: `LimitError` when it would not.
    """
    info = session.devices.stage.info
    parked = StagePosition(*session.profile.stage.park_m)
    way = session.profile.stage.approach_m
    for place in [*places(start), parked]:
        info.require(place)
        info.require(lowest_point(place, session.profile.stage))
    reach = STEPS * STEP_M * 1e6
    lines = [] if session.devices.stage.homed else ["moves: home both axes (positions mean nothing before)"]
    return [
        *lines,
        f"moves: to the start, {words(start)}, approached from {way * 1e6:.0f} um below like every place",
        f"moves: {TINY_M * 1e6:.0f} um along y, then along x, and back if nothing changes",
        f"moves: {2 * STEPS + 1} places each along y and x, {STEP_M * 1e6:.0f} um apart, up to {reach:.0f} um away",
        f"moves: to the parking place, {words(parked)}, for the empty beam, and back to the start",
        f"takes {FRAMES} frames at each place and {EMPTY_FRAMES} of the empty beam",
    ]


def move_stage(session: Session, target: str, home_first: bool) -> dict[str, Any]:
    """Home, or move to a place, after a confirmation; shows progress and returns where the stage ended.

    Raises:
        UsageError: no such place, or the move was declined.
        LimitError: outside the soft limits; nothing was asked or moved.
        NotReadyError: not homed and not asked to.
        Cancelled: Ctrl-C; the stage has been stopped.
    """
    stage = session.devices.stage
    if target == HOME:
        session.confirm_moves(["moves: home both axes, to the ends of their travel"])
        session.course.begin("homing", 1)
        stage.home(session.interrupt)
        session.course.advance(1)
        return _result(session, target)
    place = named_place(target, session.known.stage)
    stage.info.require(place)
    lines = []
    if not stage.homed:
        if not home_first:
            raise NotReadyError("stage", "is not homed, positions mean nothing; home it first (move home, or --home)")
        lines.append("moves: home both axes, to the ends of their travel")
        seconds = 0.0
    else:
        seconds = stage.info.move_duration_s(stage.position(), place)
        lines.append(f"from {words(stage.position())}")
    session.confirm_moves([*lines, f"moves: to {words(place)}" + (f", about {seconds:.1f} s" if seconds else "")])
    session.home_if_needed()
    _watched(session, place)
    return _result(session, target)


def stop_stage(devices: Devices) -> dict[str, Any]:
    """Stop both axes and say where they are; opens and closes the stage alone. Raises what opening it raises."""
    with contextlib.ExitStack() as stack:
        for device in (*devices.wires, devices.stage):
            device.open()
            stack.callback(device.close)
        devices.stage.stop()
        here = devices.stage.position()
        return {"stage": devices.stage.info.serial, "y_m": here.y, "x_m": here.x, "homed": devices.stage.homed}


def _watched(session: Session, place: StagePosition) -> None:
    """The move with its progress: the device asks often whether to go on, and is asked then where it is."""
    stage = session.devices.stage
    start = stage.position()
    whole = max(start.distance_to(place), 1e-12)
    session.course.begin(f"to {place.y * 1e3:.3f}, {place.x * 1e3:.3f} mm", SLICES)

    def cancel() -> bool:
        here = stage.position()
        session.course.advance(round(SLICES * (1 - here.distance_to(place) / whole)), words(here))
        return session.interrupt()

    stage.move_to(place, cancel)
    session.course.advance(SLICES)


def _result(session: Session, target: str) -> dict[str, Any]:
    here = session.devices.stage.position()
    return {"target": target, "y_m": here.y, "x_m": here.x, "homed": session.devices.stage.homed}
