"""`ptychoscope scan`: a scan with progress on stderr and Ctrl-C as its abort."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from app.acquire.drift import record_drift, stored_drift
from app.acquire.frame import Frame
from app.acquire.observer import Progress, RunState
from app.acquire.plan import Plan
from app.acquire.runner import Runner
from app.acquire.scan import Label, Scan
from app.bench.characterisation import chosen
from app.bench.prompt import LightRequest, Terminal
from app.profile import load_profile
from app.runs import points_left
from app.stopping import Interrupt
from app.streams import resilient
from app.timeleft import TimeLeft, rough
from recon.files.read import open_run

if TYPE_CHECKING:
    from app.worker.live import Live

REFRESH_S = 0.2


class ConsoleProgress:
    """An observer that keeps one line on a terminal up to date, and writes a line per tenth to anything else.

    It is told by the thread that records: nothing that happens to the stream may fail the scan.

    Args:
        stream: where to write; once that fails, nothing more is written.
        simulated: simulated time says nothing about real time: the estimate follows from the speed so far.
        abort_after: abort once so many frames of this session are in the file.
        clock: seconds, monotonic.

    Attributes:
        begun: whether the run has: its file is there, and its devices are the right ones.
    """

    def __init__(
        self,
        stream: TextIO,
        simulated: bool,
        abort_after: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = resilient(stream)
        self._simulated = simulated
        self._abort_after = abort_after
        self._terminal = stream.isatty()
        self._clock = clock
        self._left = TimeLeft(clock)
        self._shown = -REFRESH_S
        self._tenth = -1
        self._frames = 0
        self.runner: Runner | None = None
        self.begun = False

    @property
    def aborted(self) -> bool:
        """Whether somebody wished the scan's end."""
        return self.runner is not None and self.runner.abort_wanted

    def state_changed(self, state: RunState) -> None:
        self.begun = self.begun or state is RunState.RUNNING
        self._stream.write(("\r" if self._terminal else "") + f"scan: {state.value}\n")
        self._stream.flush()

    def say(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        self._frames += 1
        if self._abort_after is not None and self._frames >= self._abort_after and self.runner is not None:
            self.runner.abort()
        now = self._clock()
        self._left.step(progress.done / progress.total)
        tenth = 10 * progress.done // progress.total
        due = now - self._shown >= REFRESH_S if self._terminal else tenth > self._tenth
        if not due and progress.done < progress.total:
            return
        self._shown, self._tenth = now, tenth
        text = f"{frame.step.stream.value}: frame {progress.done} of {progress.total}"
        left = self._left.words() if self._simulated else f"about {rough(progress.remaining_s)} left"
        if left and progress.done < progress.total:
            text += f", {left}"
        self._stream.write(f"\r{text:<70}" if self._terminal and progress.done < progress.total else f"{text}\n")
        self._stream.flush()


def run_scan(
    profile: str,
    seed: int,
    sample: str | None,
    out: Path | None,
    resume: Path | None,
    abort_after: int | None = None,
    darks: Path | None = None,
    characterisation: Path | None = None,
    calibration: Path | None = None,
    passes: int = 1,
    empty: bool = True,
    interrupt: Interrupt | None = None,
    label: Label | None = None,
    live: Live | None = None,
    bright: bool = False,
) -> dict[str, Any]:
    """A scan into `out`, or the rest of `resume` (exactly one of them), as numbers for the command line.

    Ctrl-C, SIGTERM and SIGHUP abort it; `interrupt` knows afterwards which of them did. With `live` a worker follows
    the scan: a low-dose one ends when its image is good enough; one that takes the `bright` frames as well, of whose
    images `calibration` lets judge, leaves out the exposures that are not needed any more.

    Raises what `Scan` and `Runner.run` raise.
    """
    begin = time.monotonic()
    ask = LightRequest(Terminal())
    interrupt = interrupt or Interrupt()
    if resume is not None:
        with open_run(resume) as run:
            # One that had enough light is complete, and the rest of its plan can still be taken.
            left = points_left(run)
            done = run.steps_committed >= len(Plan.from_json(run.plan_json).steps)
            if run.outcome == RunState.COMPLETED and done and not left:
                return _result(resume, run.outcome, run.frames_committed, begin, stored_drift(resume))
        if left:
            return retake_points(resume, left, interrupt, whole=True)
        scan = Scan.interrupted(resume, ask)
    elif out is not None:
        loaded = load_profile(profile)
        measured = chosen(loaded, characterisation)
        if calibration is None or bright:
            label = label or Label()
            scan = Scan.new(loaded, out, seed, sample, measured, darks, ask, label=label, lent=calibration)
        else:
            scan = Scan.low_dose(
                loaded,
                out,
                calibration,
                seed,
                sample,
                measured,
                darks,
                ask,
                empty=empty,
                passes=passes,
                label=label or Label(),
            )
    else:
        raise ValueError("neither a new file nor one to resume")
    observer = ConsoleProgress(sys.stderr, scan.profile.simulated, abort_after)
    if live is None:
        with scan.devices:
            outcome = _run(scan.runner(observer), observer, interrupt, resuming(scan.path))
    else:
        from app.worker.following import followed

        with scan.devices, followed(scan, live, observer, interrupt) as both:
            runner = scan.runner(both, enough=both.enough, next_point=both.next_point)
            outcome = _run(runner, observer, interrupt, resuming(scan.path))
    with open_run(scan.path) as run:
        frames = run.frames_committed
    drift = record_drift(scan.path) if outcome is RunState.COMPLETED else None
    warning = None if drift is None else drift.warning()
    if warning is not None:
        observer.say(f"warning: {warning}")
    values = _result(scan.path, outcome.value, frames, begin, None if drift is None else asdict(drift))
    return values if outcome is RunState.COMPLETED else values | {"go_on": resuming(scan.path)}


def resuming(path: Path) -> str:
    """The command that goes on with a run, as it is typed."""
    return shlex.join(["ptychoscope", "scan", "--resume", str(path)])


def _run(runner: Runner, observer: ConsoleProgress, interrupt: Interrupt, go_on: str) -> RunState:
    """What `Runner.run` says; where it raises, people are told how to go on, `go_on`."""
    observer.runner = runner
    try:
        with interrupt.listening(runner.abort):
            return runner.run()
    except BaseException:
        if observer.begun:
            observer.say(f"scan: what was taken is kept; go on with `{go_on}`")
        raise


def retake_points(path: Path, points: Sequence[int], interrupt: Interrupt, whole: bool = False) -> dict[str, Any]:
    """Take points of a complete run again, each a revision of its file, as numbers for the command line.

    With `whole` what enough light left out there is taken as well.

    Raises what `Scan` and `Runner.run` raise.
    """
    begin = time.monotonic()
    first = Scan.interrupted(path, LightRequest(Terminal()))
    outcome = RunState.COMPLETED
    with first.devices:
        for done, point in enumerate(points):
            observer = ConsoleProgress(sys.stderr, first.profile.simulated)
            runner = replace(first, retaken=point, whole=whole).runner(observer)
            go_on = resuming(path) if whole else _retaking(path, points[done:])
            if interrupt():
                # Too late for the point before, which is complete.
                outcome = RunState.ABORTED
                break
            outcome = _run(runner, observer, interrupt, go_on)
            if outcome is not RunState.COMPLETED:
                break
    with open_run(path) as run:
        frames, revisions = run.frames_committed, len(run.revisions)
    values = _result(path, outcome.value, frames, begin, None) | {"revisions": revisions}
    return values if outcome is RunState.COMPLETED else values | {"go_on": go_on}


def _retaking(path: Path, points: Sequence[int]) -> str:
    named = [word for point in points for word in ("--point", str(point))]
    return shlex.join(["ptychoscope", "scan", "--retake", str(path), *named])


def _result(path: Path, outcome: str, frames: int, begin: float, drift: dict[str, Any] | None) -> dict[str, Any]:
    values = {"run": str(path), "outcome": outcome, "frames": frames, "seconds": time.monotonic() - begin}
    return values if drift is None else values | {"drift": drift}
