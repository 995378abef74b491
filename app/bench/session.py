"""What the operator's commands share: devices with somebody to ask, frames with progress, Ctrl-C that stops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.acquire.planning import approach_point
from app.bench.characterisation import Measured, chosen
from app.bench.prompt import LightRequest, Terminal
from app.devices import Devices, open_devices
from app.errors import Interrupted, UsageError
from app.profile import Profile, load_profile
from app.progress import Course
from app.stopping import Interrupt
from drivers.base import Cancelled, Exposure, LightState, StagePosition

DARK_STREAM, TRANSFER_STREAM, ALIGN_STREAM = 11, 12, 13
"""Noise streams of a simulated camera, beyond those of a scan."""


@dataclass(frozen=True)
class Session:
    """An open bench and a person.

    Attributes:
        profile: as loaded.
        known: the same with everything measured in place of what it assumes.
        measured: what is known of this bench, or None.
        devices: open.
        terminal: whom to ask.
        course: progress on stderr.
        interrupt: Ctrl-C and its like.
        stream: noise stream of this command's frames.
        assume_yes: whether moves were confirmed on the command line.
    """

    profile: Profile
    known: Profile
    measured: Measured | None
    devices: Devices
    terminal: Terminal
    course: Course
    interrupt: Interrupt
    stream: int
    assume_yes: bool = False

    def frames(self, exposure_s: float, count: int, first: int) -> Iterator[Exposure]:
        """`count` frames; the first has number `first` in this command, which chooses a simulated frame's noise.

        Raises: what a camera raises; `Cancelled` after Ctrl-C.
        """
        camera, seed = self.devices.camera, self.devices.seed_frame
        camera.set_exposure(exposure_s)
        for number in range(first, first + count):
            if seed is not None:
                seed(self.stream, number)
            yield camera.acquire(self.interrupt)

    def mean_frame(self, exposure_s: float, count: int, first: int) -> NDArray[np.float64]:
        """(rows, columns) mean of `count` frames, digital numbers."""
        total = np.zeros(self.devices.camera.info.shape, np.float64)
        for exposure in self.frames(exposure_s, count, first):
            total += exposure.image
        return total / count

    def light(self, wanted: LightState) -> None:
        """The beam as wanted, asking somebody where it takes a person. Raises `OperatorNeeded`."""
        light = self.devices.light
        if light.state is not wanted:
            if wanted is LightState.OPEN:
                light.unblock()
            else:
                light.block()

    def confirm_moves(self, moves: list[str]) -> None:
        """List what will move and wait for a yes.

        Raises: `UsageError` when it is declined, `OperatorNeeded` when nobody can answer.
        """
        for line in moves:
            self.course.say(line)
        if self.assume_yes:
            return
        with self.course.paused():
            confirmed = self.terminal.confirm("stage", "may the stage move so?")
        if not confirmed:
            raise UsageError("stage: not confirmed, nothing was moved")

    def home_if_needed(self) -> None:
        """Home a stage that is not homed; to be confirmed before. Raises what `Stage.home` raises."""
        if not self.devices.stage.homed:
            self.course.begin("homing", 1)
            self.devices.stage.home(self.interrupt)
            self.course.advance(1)

    def go(self, target: StagePosition, approach_m: float | None = None) -> StagePosition:
        """There, approached from below on both axes as a scan does. Raises what `Stage.move_to` raises."""
        stage = self.devices.stage
        way = self.profile.stage.approach_m if approach_m is None else approach_m
        if way > 0:
            stage.info.require(target)
            stage.move_to(approach_point(target, way), self.interrupt)
        return stage.move_to(target, self.interrupt)


@contextmanager
def session(
    profile_name: str,
    seed: int,
    sample: str | None,
    stream: int,
    characterisation: Path | None = None,
    assume_yes: bool = False,
) -> Iterator[Session]:
    """A bench that is opened, watched over and closed; whatever moves on an error or Ctrl-C has been stopped.

    Raises: `ProfileError`, `InstrumentError`, what `open_devices` raises, and `Interrupted` after Ctrl-C.
    """
    profile = load_profile(profile_name)
    measured = chosen(profile, characterisation)
    bench = profile if measured is None else measured.content.for_devices(profile)
    known = profile if measured is None else measured.content.applied_to(profile)
    terminal, course, interrupt = Terminal(), Course(), Interrupt()
    devices = open_devices(bench, seed, sample, ask=LightRequest(terminal, course.paused))
    with devices, course, interrupt.listening():
        try:
            yield Session(profile, known, measured, devices, terminal, course, interrupt, stream, assume_yes)
        except BaseException as error:
            # A stage that is gone cannot be stopped either; what happened first counts.
            with contextlib.suppress(Exception):
                devices.stage.stop()
            if isinstance(error, Cancelled) and interrupt.wanted:
                raise Interrupted(str(error), interrupt.exit_code) from None
            raise


def region_of(devices: Devices) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) that the camera reads out."""
    region = devices.camera.info.region
    return (region.top, region.left, region.rows, region.columns)
