"""Jog and watch: small moves typed one by one, each followed by a picture and what it shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.bench.characterisation import electrons_per_adu
from app.bench.exposing import CLIPPING, LightError, brightest, find_exposure
from app.bench.motion import UNITS, words
from app.bench.session import Session
from app.errors import UsageError
from drivers.base import LightState, LimitError, NotReadyError, StagePosition

TOP = 0.7
LONGEST_JOG_M = 1.0e-3
"""Longer moves are for `move`."""
HELP = "y 50um or x -0.1mm moves by so much, Enter looks again, q ends"


@dataclass(frozen=True)
class View:
    """What is seen at one place.

    Attributes:
        place: displacement read back.
        picture: (rows, columns) digital numbers above the black level.
        exposure_s: of it.
        brightest: of the range.
        light: electrons per second on the whole frame.
        changed: share of the light that is elsewhere than in the view before; None for the first.
    """

    place: StagePosition
    picture: NDArray[np.float64]
    exposure_s: float
    brightest: float
    light: float
    changed: float | None

    def line(self) -> str:
        """For people."""
        moved = "" if self.changed is None else f", {100 * self.changed:.1f} % of it moved"
        return (
            f"{words(self.place)}: {self.light:.3g} e-/s{moved}, brightest {100 * self.brightest:.0f} % "
            f"at {self.exposure_s:.3g} s"
        )


def parse_jog(text: str) -> tuple[float, float]:
    """ "y 50um" as (y, x) metres. Raises `UsageError`."""
    found = re.fullmatch(r"\s*([yx])\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*(um|mm|m)\s*", text)
    if found is None:
        raise UsageError(f"jog {text.strip()!r}: {HELP}")
    try:
        way = float(found[2]) * UNITS[found[3]]
    except ValueError:
        raise UsageError(f"jog {text.strip()!r}: {found[2]} is not a number; {HELP}") from None
    if abs(way) > LONGEST_JOG_M:
        raise UsageError(f"jog {text.strip()!r}: longer than {LONGEST_JOG_M * 1e3:g} mm; use move for that")
    return (way, 0.0) if found[1] == "y" else (0.0, way)


def jog(
    session: Session, orders: Iterable[str], show: Callable[[View], None], complain: Callable[[str], None]
) -> StagePosition:
    """Obey orders until they end or one is q; the stage moves for typed orders only. Returns where it ended.

    Args:
        session: an open bench.
        orders: lines as they are typed; see `HELP`.
        show: called with every view.
        complain: called with a line about an order that cannot be obeyed.

    Raises:
        NotReadyError: the stage is not homed; nothing has moved.
        Cancelled: Ctrl-C; the stage has been stopped.
    """
    stage = session.devices.stage
    if not stage.homed:
        raise NotReadyError("stage", "is not homed, positions mean nothing; home it first (move home, or --home)")
    session.light(LightState.OPEN)
    view, number = _look(session, None, 0)
    show(view)
    for order in orders:
        if order.strip() == "q":
            break
        try:
            if order.strip():
                y, x = parse_jog(order)
                here = stage.position()
                _require_inside(session, here)
                stage.move_to(StagePosition(here.y + y, here.x + x), session.interrupt)
        except (UsageError, LimitError) as error:
            complain(str(error))
            continue
        view, number = _look(session, view, number)
        show(view)
    return stage.position()


def _require_inside(session: Session, here: StagePosition) -> None:
    """A stage that stands outside its limits, as after homing, cannot be brought back along one axis at a time."""
    info = session.devices.stage.info
    for axis, place, limit in info.axes(here):
        if not info.within(place, limit):
            raise LimitError(
                "stage",
                f"{axis} stands at {place:.6g} m, outside {limit.low:.6g} .. {limit.high:.6g} m; leave with q and go "
                "inside with move Y,X",
            )


def _look(session: Session, before: View | None, number: int) -> tuple[View, int]:
    info = session.devices.camera.info
    scale = info.saturation_adu - info.black_level_adu
    exposure_s = None if before is None else before.exposure_s
    picture = np.zeros(info.shape)
    if exposure_s is not None:
        picture = session.mean_frame(exposure_s, 1, number) - info.black_level_adu
        number += 1
    if exposure_s is None or not 0.1 * TOP < brightest(picture) / scale < CLIPPING:
        try:
            exposure_s, number = find_exposure(session, info.black_level_adu, TOP, number)
        except LightError:  # darkness is worth showing too
            exposure_s = exposure_s or min(0.1, info.exposure_s.high)
        picture = session.mean_frame(exposure_s, 1, number) - info.black_level_adu
        number += 1
    changed = None
    if before is not None and before.picture.sum() > 0 and picture.sum() > 0:
        a, b = (ndimage.gaussian_filter(p / p.sum(), 2.0) for p in (before.picture, picture))
        changed = float(np.abs(a - b).sum() / 2)
    light = float(picture.sum()) * electrons_per_adu(session.measured, info) / exposure_s
    return View(
        session.devices.stage.position(), picture, exposure_s, brightest(picture) / scale, light, changed
    ), number
