"""The recorder: one thread that alone touches the run file, fed through a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from app.acquire.frame import Frame
from recon.files.write import RunWriter

QUEUE_FRAMES = 8
"""Frames that may wait; then the scan waits for the disk instead of filling the memory."""


class Recorder:
    """Writes frames and log lines in the order in which they were put.

    Args:
        writer: the open file; the recorder owns it from here on and closes it in `finish`.
        committed: called in the recorder's thread after each frame that is in the file.

    An error of the writer or of `committed` is raised by the next `put` and by `finish`; frames put after it are
    dropped, so that nobody waits for a dead recorder.
    """

    def __init__(self, writer: RunWriter, committed: Callable[[Frame], None]):
        self._writer = writer
        self._committed = committed
        self._queue: queue.Queue[Frame | str | None] = queue.Queue(QUEUE_FRAMES)
        self._error: Exception | None = None
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, item: Frame | str) -> None:
        """Hand over a frame or a log line; waits while the queue is full. Raises what the recorder failed with."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def finish(self, outcome: str) -> None:
        """Write what is queued, record the outcome ("failed" if the recorder failed), close the file.

        Raises what the recorder failed with; a second call does nothing.
        """
        if self._finished:
            return
        self._finished = True
        self._queue.put(None)
        self._thread.join()
        try:
            if self._error is None:
                self._writer.set_outcome(outcome)
            else:
                self._try_to_record_failure()
        finally:
            try:
                self._writer.close()
            except (OSError, RuntimeError):  # h5py raises either
                # A full or vanished disk: the first error says so already, and everything committed is in the file.
                if self._error is None:
                    raise
        if self._error is not None:
            raise self._error

    def _try_to_record_failure(self) -> None:
        try:
            self._writer.set_outcome("failed")
        except (OSError, RuntimeError):
            return

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                if isinstance(item, str):
                    self._writer.log(item)
                else:
                    self._writer.append(item.record())
                    self._committed(item)
            except Exception as error:
                self._error = error
