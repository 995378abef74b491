"""The runner: executes a plan, owns the devices while it does, and leaves nothing moving behind.

    IDLE --> PREFLIGHT --> RUNNING <--> PAUSED
                 |            |           |
                 |            +-----------+--> ABORTED     (abort; the file can be resumed)
                 |            +--> COMPLETED
                 +------------+--> FAILED                  (a device, the disk or a limit; the file can be resumed)

A runner runs once. `run` belongs to one thread; `pause`, `proceed` and `abort` may come from any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.acquire.beginning import Beginning, once_more, rest, without
from app.acquire.frame import Frame
from app.acquire.observer import DarkObserver, Enough, Observer, Progress, RunState, SilentObserver
from app.acquire.plan import Plan, Step, Stream
from app.acquire.planning import approach_point, step_durations
from app.acquire.recorder import PATIENCE_S, Recorder
from app.devices import Devices
from drivers.base import Cancelled, LightState, StagePosition
from recon.files.write import RunWriter

STREAM_CODES = {Stream.DARK: 1, Stream.EMPTY: 2, Stream.CALIBRATION: 3, Stream.EVALUATION: 4}
"""Noise streams of a simulated camera; never renumber them, or resumed runs change."""
REPEATS_PER_STEP = 2**20
FRAMES_PER_VISIT = 2**44
_RETAKE = 2**32
"""Number of visits that no plan reaches: a point that is taken again is yet another visit."""
LAST_PATIENCE_S = 1.0
"""A disk that takes nothing is waited for so long by somebody who has asked twice to leave."""
WATCH_S = 0.1
"""How often somebody who watches looks at a bench whose run is paused."""


def _believe(exposure_s: float, image: NDArray[np.uint16]) -> None:
    pass


def _never_enough(step: int) -> Enough | None:
    return None


class Runner:
    """Executes one plan once.

    A stage does not come back to the very same place. So the frames of one visit to a point belong together, and a run
    that is resumed in the middle of a visit takes that point again from its first frame on, as a revision of the file.

    Args:
        plan: what to do.
        devices: open devices.
        approach_m: length of the one-sided approach; 0 moves directly.
        preflight: checks everything and raises before anything moves or any file appears.
        open_writer: makes the file, or opens an interrupted one; called after the preflight.
        observer: who watches.
        overhead_s: read-out time per frame, for the estimate.
        inspect_dark: shown the exposure and image of every dark before it is recorded; raises when it is not dark.
        patience_s: after an abort a disk that takes nothing is waited for so long.
        watch: called several times a second in the thread of `run`, while a device works and while paused: somebody
            who shows the bench looks at it here. It must be quick and must not raise.
        retaken: a scan point of a complete run that is taken again, and nothing else; None executes the plan.
        whole: with `retaken`, what was left out there is taken as well.
        enough: asked before a visit that brings more of the series, with its first step: which exposures are not needed
            at any point to come. They are left out; a run of which nothing else is left is complete.
    """

    def __init__(
        self,
        plan: Plan,
        devices: Devices,
        approach_m: float,
        preflight: Callable[[], None],
        open_writer: Callable[[], RunWriter],
        observer: Observer | None = None,
        overhead_s: float = 0.0,
        inspect_dark: Callable[[float, NDArray[np.uint16]], None] = _believe,
        patience_s: float = PATIENCE_S,
        watch: Callable[[], None] | None = None,
        retaken: int | None = None,
        whole: bool = False,
        enough: Callable[[int], Enough | None] = _never_enough,
    ):
        self._plan = plan
        self._enough = enough
        self._points = Stream.EVALUATION if plan.low_dose else Stream.CALIBRATION
        self._devices = devices
        self._approach_m = approach_m
        self._preflight = preflight
        self._open_writer = open_writer
        self._observer = observer or SilentObserver()
        self._overhead_s = overhead_s
        self._inspect_dark = inspect_dark
        self._patience_s = patience_s
        self._watch = watch
        self._retaken, self._whole = retaken, whole
        self._begun = Beginning(0, len(plan.steps))
        self._state = RunState.IDLE
        self._wake = threading.Condition()
        self._pause_wanted = False
        self._abort_wanted = False
        self._commanded: StagePosition | None = None
        self._done, self._total = 0, plan.frames
        self._moved = False
        self._series = min((s.number for s in plan.steps if s.stream is Stream.EVALUATION), default=len(plan.steps))

    @property
    def state(self) -> RunState:
        return self._state

    @property
    def abort_wanted(self) -> bool:
        """Whether somebody wished its end."""
        return self._abort_wanted

    def pause(self) -> None:
        """Stop before the next step; the step in progress is finished."""
        with self._wake:
            self._pause_wanted = True

    def proceed(self) -> None:
        """Go on after a pause."""
        with self._wake:
            self._pause_wanted = False
            self._wake.notify_all()

    def abort(self) -> None:
        """End the run now: the exposure or move in progress is cancelled. The file can be resumed."""
        # Safe in a signal handler: the condition's lock is reentrant.
        with self._wake:
            self._abort_wanted = True
            self._wake.notify_all()

    def run(self) -> RunState:
        """Execute the plan from its first step that the file lacks.

        Returns:
            COMPLETED or ABORTED. A file that is complete already completes without touching a device.

        Raises:
            whatever failed, after everything has been stopped and the outcome recorded: `PreflightError`,
            `InstrumentError`, `DatasetError`, OSError.
        """
        if self._state is not RunState.IDLE:
            raise RuntimeError(f"this runner is {self._state}; make a new one")
        try:
            self._become(RunState.PREFLIGHT)
            self._preflight()
            writer = self._open_writer()
        except BaseException:
            self._become(RunState.FAILED)
            raise
        if self._retaken is None and writer.steps_committed >= len(self._plan.steps):
            with writer:
                if writer.outcome != RunState.COMPLETED:
                    writer.set_outcome(RunState.COMPLETED.value)
            self._become(RunState.COMPLETED)
            return self._state
        try:
            point = self._retaken
            plan = self._plan
            self._begun = rest(plan, writer) if point is None else once_more(plan, writer, point, self._whole)
        except BaseException:
            writer.close()
            self._become(RunState.FAILED)
            raise
        return self._record(writer)

    def _record(self, writer: RunWriter) -> RunState:
        self._prepare_estimate()
        self._done = self._total - self._begun.frames(self._plan)
        recorder = Recorder(writer, lambda frame: self._frame_committed(frame, writer))
        ended, words = RunState.FAILED, ""
        patience_s = self._patience_s
        try:
            self._become(RunState.RUNNING)
            reason = self._execute(recorder)
            ended, words = RunState.COMPLETED, f"enough light: {reason}" if reason else ""
        except Cancelled as error:
            if not self._abort_wanted:
                words = f"failed: {error}"
                raise
            ended, words = RunState.ABORTED, "aborted"
        except Exception as error:
            words = f"failed: {error}"
            raise
        except BaseException:
            # Somebody asked twice to leave.
            self._abort_wanted, patience_s, words = True, LAST_PATIENCE_S, "aborted"
            raise
        finally:
            self._leave(recorder, ended, words, patience_s)
        return self._state

    def _leave(self, recorder: Recorder, ended: RunState, words: str, patience_s: float) -> None:
        """Stop what moved before anything waits for the disk, close the file, and only then say how it ended."""
        failing = ended is RunState.FAILED
        lines = [words] if words else []
        try:
            self._stop_stage(lines, failing)
        finally:

            def finish() -> None:
                recorder.finish(ended.value, lines, self._aborting, patience_s)

            try:
                if failing:
                    # The first error is the one to raise, also when the recorder is the one that failed.
                    _quietly(finish)
                else:
                    finish()
            except BaseException:
                ended = RunState.FAILED
                raise
            finally:
                self._become(ended)

    def _stop_stage(self, lines: list[str], failing: bool) -> None:
        """Stop the stage if it has moved; after another failure, failing to is logged and the first one counts."""
        if not self._moved:
            return
        try:
            self._devices.stage.stop()
        except Exception as error:
            if not failing:
                raise
            lines.append(f"not stopped: {error}")

    def _execute(self, recorder: Recorder) -> str:
        """Carry the steps out; returns why the rest is not needed, or ""."""
        begun = self._begun
        steps = begun.steps(self._plan)
        if not self._devices.stage.homed and any(step.target for step in steps):
            self._checkpoint()
            self._moved = True
            self._devices.stage.home(self._aborting)
        for step in steps:
            self._checkpoint()
            if self._brings_more(step):
                found = self._enough(step.number)
                # Whoever judges may have waited long, and STOP come meanwhile: nothing moves after it.
                self._checkpoint()
                if found is not None and self._leave_out(found, step, recorder):
                    return found.reason
            if step.number in self._begun.gone:
                recorder.leave_out(step, self._aborting)
            else:
                self._execute_step(step, recorder, begun.first_repeat if step.number == begun.first else 0)
        return ""

    def _brings_more(self, step: Step) -> bool:
        """Whether a visit begins with this step that goes on with a series; points hold whole visits."""
        if self._retaken is not None or step.number <= self._series:
            return False

        def visit(own: Step) -> tuple[int, int]:
            return own.position_index, own.visit

        if visit(self._plan.steps[step.number - 1]) == visit(step):
            return False
        for own in self._plan.steps[step.number :]:
            if visit(own) != visit(step):
                return False
            if own.stream is Stream.EVALUATION and own.number not in self._begun.gone:
                return True
        return False

    def _leave_out(self, found: Enough, step: Step, recorder: Recorder) -> bool:
        """Leave these exposures out from this step on; true when nothing else is left."""
        to_come = self._plan.steps[step.number : self._begun.end]
        new = without(to_come, found.from_s) - self._begun.gone
        self._begun = replace(self._begun, gone=self._begun.gone | new)
        if all(own.number in self._begun.gone for own in to_come):
            return True
        if new:
            named = ", ".join(f"{e:g} s" for e in sorted({own.exposure_s for own in to_come if own.number in new}))
            recorder.note(f"enough light: from step {step.number} on without {named}: {found.reason}")
            self._prepare_estimate()
        return False

    def _execute_step(self, step: Step, recorder: Recorder, first_repeat: int) -> None:
        devices = self._devices
        self._set_light(step.light_on)
        readback = None if step.target is None else self._go(step, step.target)
        devices.camera.set_exposure(step.exposure_s)
        for repeat in range(first_repeat, step.repeats):
            if self._abort_wanted:
                raise Cancelled("run", "aborted by the operator; resume it from its file")
            if devices.seed_frame is not None:
                number = step.number * REPEATS_PER_STEP + repeat
                devices.seed_frame(STREAM_CODES[step.stream], step.visit * FRAMES_PER_VISIT + number)
            exposure = devices.camera.acquire(self._aborting)
            if step.stream is Stream.DARK:
                self._inspect_dark(step.exposure_s, exposure.image)
            truth = None
            if step.stream is self._points and devices.true_position is not None:
                truth = devices.true_position()
            recorder.put(Frame(step, repeat, exposure, self._commanded, readback, truth), self._aborting)

    def _set_light(self, wanted: bool) -> None:
        light = self._devices.light
        if wanted and light.state is not LightState.OPEN:
            light.unblock()
        elif not wanted and light.state is not LightState.BLOCKED:
            light.block()

    def _go(self, step: Step, target: StagePosition) -> StagePosition:
        """At the target, approached from below on both axes; stays when it is there already."""
        stage = self._devices.stage
        if target == self._commanded:
            return stage.position()
        if self._devices.seed_visit is not None:
            again = self._plan.start_of_visit(step.number) == self._begun.visit
            retakes = self._begun.visited if again else 0
            self._devices.seed_visit(step.visit + _RETAKE * retakes)
        self._moved = True
        if self._approach_m > 0:
            stage.move_to(approach_point(target, self._approach_m), self._aborting)
        # Until the move has ended well the stage is nowhere in particular.
        self._commanded = None
        readback = stage.move_to(target, self._aborting)
        self._commanded = target
        return readback

    def _aborting(self) -> bool:
        if self._watch is not None:
            self._watch()
        return self._abort_wanted

    def _checkpoint(self) -> None:
        """Between two steps: wait while paused, leave when aborted."""
        paused = False
        while True:
            with self._wake:
                if not self._pause_wanted or self._abort_wanted:
                    break
                if not paused:
                    paused = True
                    self._become(RunState.PAUSED)
                # Whoever heard of the pause may have ended it already.
                if self._pause_wanted and not self._abort_wanted:
                    self._wake.wait(None if self._watch is None else WATCH_S)
            # Not under the lock: whoever pauses or aborts must never wait for a device.
            if self._watch is not None:
                self._watch()
        if self._abort_wanted:
            raise Cancelled("run", "aborted by the operator; resume it from its file")
        if paused:
            self._become(RunState.RUNNING)

    def _prepare_estimate(self) -> None:
        """What is to come, without what is left out."""
        plan, begun = self._plan, self._begun
        self._total = plan.frames - sum(plan.steps[number].repeats for number in begun.gone)
        durations = step_durations(plan, self._devices.stage.info, self._approach_m, self._overhead_s)
        after = [0.0] * (len(durations) + 1)
        for step in reversed(plan.steps):
            own = 0.0 if step.number in begun.gone else durations[step.number]
            after[step.number] = after[step.number + 1] + own
        self._remaining_after = after

    def _frame_committed(self, frame: Frame, writer: RunWriter) -> None:
        self._done += 1
        step = frame.step
        per_frame = step.exposure_s + self._overhead_s
        remaining = self._remaining_after[step.number + 1] - self._remaining_after[self._begun.end]
        remaining += (step.repeats - 1 - frame.repeat) * per_frame
        self._observer.frame_committed(frame, Progress(self._done, self._total, remaining))
        if step.stream is Stream.DARK and frame.last and isinstance(self._observer, DarkObserver):
            assert writer.last_darks is not None
            self._observer.darks_committed(*writer.last_darks)

    def _become(self, state: RunState) -> None:
        self._state = state
        self._observer.state_changed(state)


def _quietly(action: Callable[[], None]) -> None:
    """Do it if possible: an earlier error is on its way and must not be hidden by this one."""
    try:
        action()
    except Exception:
        return
