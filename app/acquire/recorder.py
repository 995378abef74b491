"""The recorder: one thread that alone touches the run file, fed through a bounded queue."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence

from app.acquire.frame import Frame
from app.acquire.plan import Step
from app.stopping import RECORDER_THREAD
from drivers.base import Cancel, Cancelled, never
from recon.dataset import DatasetError
from recon.files.write import RunWriter

QUEUE_FRAMES = 8
"""Frames that may wait; then the scan waits for the disk instead of filling the memory."""
SLICE_S = 0.05
"""How soon somebody who waits for the disk hears that they need not."""
PATIENCE_S = 10.0
"""After an abort a disk that takes nothing is waited for so long."""


class Recorder:
    """Writes frames in the order in which they were put, then the outcome.

    Args:
        writer: the open file; the recorder owns it from here on and closes it in `finish`.
        committed: called in the recorder's thread after each frame that is in the file.

    An error of the writer or of `committed` is raised by the next `put` and by `finish`; frames put after it are
    dropped, so that nobody waits for a dead recorder.
    """

    def __init__(self, writer: RunWriter, committed: Callable[[Frame], None]):
        self._writer = writer
        self._committed = committed
        self._queue: queue.Queue[Frame | Step | str | None] = queue.Queue(QUEUE_FRAMES)
        self._error: Exception | None = None
        self._finished = False
        self._given_up = False
        self._ending: tuple[str, tuple[str, ...]] = ("failed", ())
        self._written = 0
        self._thread = threading.Thread(target=self._run, name=RECORDER_THREAD, daemon=True)
        self._thread.start()

    def put(self, frame: Frame, cancel: Cancel = never) -> None:
        """Hand over a frame; waits while the queue is full.

        Raises: what the recorder failed with; `Cancelled` when `cancel` says so while there is no room.
        """
        self._put(frame, cancel)

    def leave_out(self, step: Step, cancel: Cancel = never) -> None:
        """Go past a step of the series without a frame. Waits and raises as `put` does."""
        self._put(step, cancel)

    def note(self, line: str, cancel: Cancel = never) -> None:
        """Add a line to the run's log. Waits and raises as `put` does."""
        self._put(line, cancel)

    def _put(self, item: Frame | Step | str, cancel: Cancel) -> None:
        while True:
            if self._error is not None:
                raise self._error
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(item)
                return
            if cancel():
                raise Cancelled("disk", "a frame was dropped while the disk was waited for; resume the run")
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=SLICE_S)
                return

    def finish(
        self, outcome: str, lines: Sequence[str] = (), hurried: Cancel = never, patience_s: float = PATIENCE_S
    ) -> None:
        """Write what is queued, log the lines, record the outcome ("failed" if the recorder failed), close the file.

        A second call does nothing.

        Args:
            outcome, lines: the last that goes into the file.
            hurried: asked again and again; once it is true, a disk that takes nothing is given up.
            patience_s: after so long.

        Raises:
            what the recorder failed with.
            DatasetError: the disk hangs; the thread is left to it.
        """
        if self._finished:
            return
        self._finished = True
        self._ending = (outcome, tuple(lines))
        told, seen, since = False, -1, time.monotonic()
        while True:
            if told:
                self._thread.join(SLICE_S)
            else:
                with contextlib.suppress(queue.Full):
                    self._queue.put(None, timeout=SLICE_S)
                    told = True
            if not self._thread.is_alive():
                break
            if not hurried() or self._written != seen:
                seen, since = self._written, time.monotonic()
            elif time.monotonic() - since >= patience_s:
                self._given_up = True
                raise DatasetError(
                    f"{self._writer.path}: the disk has taken nothing for {patience_s:g} s; what was committed is in "
                    "the file, look at the disk, then resume the run"
                )
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        # Where there was no place for the None of an end, the end is when all is written.
        while not (self._given_up and self._queue.empty()):
            item = self._queue.get()
            if item is None:
                break
            if self._error is not None:
                continue
            try:
                if isinstance(item, str):
                    self._writer.log(item)
                elif isinstance(item, Step):
                    self._writer.leave_out(item.number)
                else:
                    self._writer.append(item.record())
                    self._committed(item)
                self._written += 1
            except Exception as error:
                self._error = error
        self._end()

    def _end(self) -> None:
        """Here, not where it was asked for: the outcome and the closing may hang as every write may."""
        outcome, lines = self._ending
        if self._error is None:
            try:
                for line in lines:
                    self._writer.log(line)
                self._writer.set_outcome(outcome)
            except Exception as error:
                self._error = error
        if self._error is not None:
            # A full or vanished disk: the first error says so already, and everything committed is in the file.
            with contextlib.suppress(Exception):
                self._writer.set_outcome("failed")
                for line in lines:
                    self._writer.log(line)
        try:
            self._writer.close()
        except Exception as error:
            self._error = self._error or error
