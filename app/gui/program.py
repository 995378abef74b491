"""The program around the window: high DPI, errors as messages, signals, and the end."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import pyqtgraph as pg
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QApplication

from app.gui import settings
from app.gui.connect import Choice
from app.gui.panels import GuestPanel
from app.gui.window import Window
from app.stopping import Interrupt
from drivers.clock import SystemClock


def make_application() -> QApplication:
    """The one Qt application of this process, sharp on every screen."""
    present = QApplication.instance()
    if isinstance(present, QApplication):
        return present
    QApplication.setAttribute(Qt.AA_EnableHighDpiScaling)
    QApplication.setAttribute(Qt.AA_UseHighDpiPixmaps)
    QApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
    app = QApplication(sys.argv[:1])
    app.setApplicationName("Ptychoscope")
    return app


def configure_plots() -> None:
    """How pyqtgraph draws, before the first plot is made."""
    pg.setConfigOptions(imageAxisOrder="row-major", antialias=True)


def settle() -> None:
    """Leave what is there by now out of all later garbage collections: looking through it takes a tenth of a second."""
    gc.collect()
    gc.freeze()


def run_window(
    choice: Choice | None, recording: Path | None, guests: Callable[[], Sequence[GuestPanel]] = tuple
) -> int:
    """Show the window until it is closed; returns the exit code.

    Args:
        choice: the bench to connect at once; None: none.
        recording: a run to show again instead.
        guests: makes panels from elsewhere, once there is an application.
    """
    app = make_application()
    configure_plots()
    window = Window(SystemClock(), settings.default_path(), guests())

    def unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Without this hook Qt ends the program at the first error in a slot, with the stage as it is.
        place = traceback.extract_tb(trace)[-1] if trace is not None else None
        where = f" ({Path(place.filename).name}:{place.lineno})" if place is not None else ""
        window.journal.error(f"{kind.__name__}: {error}{where}; please report this")
        sys.__excepthook__(kind, error, trace)

    def unforeseen_in_thread(args: threading.ExceptHookArgs) -> None:
        unforeseen(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)

    before, threads_before = sys.excepthook, threading.excepthook
    sys.excepthook, threading.excepthook = unforeseen, unforeseen_in_thread
    interrupt = Interrupt()
    try:
        with interrupt.listening(window.leave):
            window.show()
            settle()
            if recording is not None:
                window.open_recording(recording)
            elif choice is not None:
                window.connect_bench(choice)
            code = app.exec_()
    finally:
        sys.excepthook, threading.excepthook = before, threads_before
    return interrupt.exit_code if interrupt.wanted else int(code)
