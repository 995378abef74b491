"""A bench at the window as the operator's commands use it."""

from __future__ import annotations

from app.bench.prompt import Terminal
from app.bench.session import ALIGN_STREAM, Session
from app.live.owner import DeviceOwner
from app.progress import Course
from app.stopping import Interrupt


class WindowCourse(Course):
    """Progress of a measurement, told to the window instead of a terminal."""

    def __init__(self, owner: DeviceOwner):
        super().__init__(quiet=True)
        self._owner = owner
        self._name, self._total = "", 0

    def __enter__(self) -> WindowCourse:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._owner.tell(name, 0, total)

    def advance(self, done: int, note: str = "", share: float | None = None) -> None:
        self._owner.tell(self._name, done, self._total)

    def say(self, text: str) -> None:
        self._owner.journal.info(text)


class _Stopped(Interrupt):
    """STOP of the window as the wish that an operator's commands heed."""

    def __init__(self, owner: DeviceOwner):
        super().__init__()
        self._owner = owner

    def __call__(self) -> bool:
        return self.wanted or self._owner.stopped()


def session_of(owner: DeviceOwner) -> Session:
    """The bench as the operator's commands use it; moves have been confirmed in the window."""
    setup = owner.setup
    return Session(
        profile=setup.profile,
        known=setup.known,
        measured=setup.measured,
        devices=setup.devices,
        terminal=Terminal(),
        course=WindowCourse(owner),
        interrupt=_Stopped(owner),
        stream=ALIGN_STREAM,
        assume_yes=True,
    )
