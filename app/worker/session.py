"""What a worker does with the messages of one window: a run's book, its calibration, its estimates. No sockets here.

`take` files a message away and is quick; `work` does the next piece of work and tells of it. They may belong to two
threads. What to do next follows from what is there: have the decoder ready, calibrate when the bright scan is complete,
have the operator ready before the first frame of a low-dose scan, then for each exposure an estimate of all frames that
have come by now, the exposure that has waited longest first; at last conventional images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.errors import known_message
from app.worker.book import RunBook
from app.worker.light import CarriedLight, Light, LightSource, Look, OwnLight
from app.worker.message import (
    Begin,
    Calibrated,
    Carried,
    Choose,
    Darks,
    Epoch,
    Estimate,
    Frame,
    Ping,
    Pixels,
    Pong,
    Said,
    ToWindow,
    ToWorker,
)
from recon.dataset import Ptychogram

ASKED_AT_ONCE = 8
"""Frames that one pong asks for: they come before the next ping."""
PIXELS = 64
"""Side of a conventional image on the decoder's square."""


class Engine(Protocol):
    """What computes; see `app.worker.engine.Engine`."""

    def load(self, look: Look) -> str: ...

    def begin_anew(self) -> None: ...

    def calibrate(self, book: RunBook, report: Callable[[Epoch], None], stop: Callable[[], bool]) -> Calibrated: ...

    def prepare(self, look: Look, light: Light, data: Ptychogram) -> None: ...

    def estimate(
        self, book: RunBook, look: Look, light: Light, exposure_s: float, data: Ptychogram, planned: int, final: bool
    ) -> Estimate: ...

    def pixels(
        self,
        book: RunBook,
        light: Light,
        exposure_s: float,
        data: Ptychogram,
        field_m: float,
        samples: int,
        stop: Callable[[], bool],
    ) -> Pixels: ...


@dataclass(frozen=True)
class _Task:
    """A piece of work: what kind it is, in words for people, and the work itself."""

    what: str
    words: str
    act: Callable[[], None]


class Session:
    """See above.

    Args:
        engine: what computes; used by the thread that calls `work` only.
        tell: is given every result, in that thread.
    """

    def __init__(self, engine: Engine, tell: Callable[[ToWindow], None]):
        self._engine, self._tell = engine, tell
        self._lock = threading.Lock()
        self._book: RunBook | None = None
        self._doing = ""
        self._generation = 0
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the run and nothing has been done."""
        self._choice: Choose | None = None
        self._source: LightSource | None = None
        # Serves until the run has a light of its own.
        self._lent: LightSource | None = None
        self._given: Calibrated | Carried | None = None
        self._loaded: Look | None = None
        self._calibrated = self._complained = False
        self._again()

    def _again(self) -> None:
        """Nothing has been estimated."""
        self._generation += 1
        self._prepared = False
        # By exposure: how much news was in the last estimate, of how many frames, whether it was final, and when.
        self._used: dict[float, int] = {}
        self._frames: dict[float, int] = {}
        self._final: set[float] = set()
        self._pixels: set[float] = set()
        self._turn: dict[float, int] = {}
        self._darkless: set[float] = set()

    # ---- From the thread of the sockets ------------------------------------------------------------------------------

    def take(self, message: ToWorker) -> None:
        """Raises `DatasetError`: it does not fit the run. Messages of other runs are left alone."""
        with self._lock:
            if isinstance(message, Begin):
                if self._book is None or self._book.begin != message:
                    self._book = RunBook(message)
                    self._forget()
                return
            book = self._book
            if book is None or getattr(message, "run", None) != book.begin.run:
                return
            if isinstance(message, Frame):
                book.add(message)
            elif isinstance(message, Darks):
                book.add_darks(message)
            elif isinstance(message, Carried):
                light = CarriedLight(message, book.begin.lent)
                self._given = message
                if book.begin.lent:
                    self._lent = light
                else:
                    self._source = light
            elif isinstance(message, Calibrated):
                self._given, self._source = message, OwnLight(book, message)
            elif isinstance(message, Choose) and message != self._choice:
                self._choice = message
                self._again()

    def pong(self, ping: Ping, received: int, refused: int) -> Pong:
        """The answer to a sign of life: how it stands, and what is missing."""
        with self._lock:
            book = self._book
            if book is None or book.begin.run != ping.run:
                needs = ("begin",) if ping.run else ()
                return Pong(ping.number, "", needs, (), (), received, refused, 0, self._doing)
            book.committed, book.ended = max(book.committed, ping.committed), ping.ended
            book.left_out = frozenset(ping.left_out)
            needs = ()
            if (book.begin.reuses or book.begin.lent) and self._given is None:
                needs = ("carried",)
            elif book.begin.known and self._given is None:
                needs = ("calibrated",)
            if self._choice is None:
                needs = (*needs, "choose")
            lacks, darks = book.lacks(), book.lacking_darks()
            if darks and book.whole:
                book.in_vain += 1
            # Another part each time: what cannot be had yet must not hold up the rest.
            first = ASKED_AT_ONCE * ping.number % max(1, len(lacks)) // ASKED_AT_ONCE * ASKED_AT_ONCE
            return Pong(
                number=ping.number,
                run=ping.run,
                needs=needs,
                darks=darks,
                lacks=lacks[first : first + ASKED_AT_ONCE],
                received=received,
                refused=refused,
                behind=sum(max(0, book.committed_frames(e) - self._frames.get(e, 0)) for e in book.exposures),
                doing=self._doing,
            )

    # ---- From the thread that computes -------------------------------------------------------------------------------

    def work(self) -> bool:
        """Do the next piece of work; false when there is none."""
        with self._lock:
            run = "" if self._book is None else self._book.begin.run
            try:
                task = self._next()
            except Exception as error:
                # A run that makes no sense is given up, not the worker.
                self._book = None
                self._forget()
                words = known_message(error) or f"{type(error).__name__}: {error}; please report this"
                task = _Task("frames", "", lambda: self._tell(Said(run, "frames", words, bad=True)))
            self._doing = "" if task is None else task.words
        if task is None:
            return False
        try:
            task.act()
        except Exception as error:
            words = known_message(error) or f"{type(error).__name__}: {error}; please report this"
            self._tell(Said(run, task.what, words, bad=True))
        finally:
            with self._lock:
                self._doing = ""
        return True

    def _next(self) -> _Task | None:
        book, choice = self._book, self._choice
        if book is None or choice is None:
            return None
        book = book.copy()
        look = Look(
            choice.decoder or book.profile.reconstruction.decoder, choice.pose, book.profile.reconstruction.field_m
        )
        if self._loaded != look:
            self._loaded = look
            return _Task("decoder", "loading the decoder", lambda: self._load(book, look))
        if self._source is None:
            task = self._to_calibrate(book)
            if task is not None or self._lent is None:
                return task
        source = self._source or self._lent
        assert source is not None
        if (book.begin.reuses or book.begin.lent) and not self._prepared:
            first = next((e for e in book.exposures if book.dark(e)), None)
            if first is not None and book.empties and not book.evaluation(first):
                self._prepared = True
                return _Task("estimate", "preparing", lambda: self._prepare(book, look, source, first))
        return self._to_estimate(book, look, source) or self._to_image(book, look, source)

    def _to_calibrate(self, book: RunBook) -> _Task | None:
        if book.begin.reuses or book.begin.known or self._calibrated:
            return None
        if book.bright and book.empties:
            self._calibrated = True
            return _Task("calibration", "calibrating", lambda: self._calibrate(book))
        if book.settled and not self._complained:
            self._complained = True
            words = f"{book.begin.name}: its bright scan is not complete; resume it, then reconstruct"
            return _Task("calibration", "", lambda: self._tell(Said(book.begin.run, "calibration", words, bad=True)))
        return None

    def _to_estimate(self, book: RunBook, look: Look, source: LightSource) -> _Task | None:
        lent = source is self._lent
        if not book.empties and not book.settled:
            # Every frame's flux is measured by the empty beam's, which were taken before.
            return None
        waiting = []
        for exposure in book.exposures:
            keys = book.evaluation(exposure)
            if not keys:
                continue
            if not book.dark(exposure):
                if book.settled and exposure not in self._darkless:
                    self._darkless.add(exposure)
                    words = f"{book.begin.name}: no darks of {exposure:g} s; record them, then reconstruct"
                    said = Said(book.begin.run, "estimate", words, bad=True)
                    return _Task("estimate", "", lambda said=said: self._tell(said))  # type: ignore[misc]
                continue
            # Under a light that is only lent nothing is final.
            final = not lent and len(keys) >= book.planned(exposure) and (book.whole or not book.ended)
            if book.news(exposure) > self._used.get(exposure, 0) or (final and exposure not in self._final):
                waiting.append((self._turn.get(exposure, 0), exposure, final))
        if not waiting:
            return None
        _, exposure, final = min(waiting)
        self._turn[exposure] = max(self._turn.values(), default=0) + 1
        # Whatever comes of it, these frames are not tried again.
        self._used[exposure] = book.news(exposure)
        if final:
            self._final.add(exposure)
        else:
            self._final.discard(exposure)
        self._pixels.discard(exposure)
        words = f"estimating {len(book.evaluation(exposure))} frames of {exposure:g} s"
        generation = self._generation
        return _Task("estimate", words, lambda: self._estimate(book, look, source, exposure, final, generation))

    def _to_image(self, book: RunBook, look: Look, source: LightSource) -> _Task | None:
        """A conventional image beside a final one."""
        if self._choice is None or not self._choice.conventional:
            return None
        exposure = next((e for e in book.exposures if e in self._final and e not in self._pixels), None)
        if exposure is None:
            return None
        self._pixels.add(exposure)
        generation = self._generation

        def act() -> None:
            data = book.ptychogram(book.evaluation(exposure), "evaluation")
            light = source.light(book, exposure, data)

            def stop() -> bool:
                with self._lock:
                    own = self._book
                    return (
                        self._generation != generation
                        or own is None
                        or any(own.news(e) > self._used.get(e, 0) for e in own.exposures)
                    )

            image = self._engine.pixels(book, light, exposure, data, look.field_m, PIXELS, stop)
            if stop():
                self._pixels.discard(exposure)
            else:
                self._tell(image)

        return _Task("conventional", f"conventional image of {exposure:g} s", act)

    def _load(self, book: RunBook, look: Look) -> None:
        self._engine.begin_anew()
        note = self._engine.load(look)
        if note:
            self._tell(Said(book.begin.run, "decoder", note))

    def _calibrate(self, book: RunBook) -> None:
        with self._lock:
            run = book.begin.run

        def stop() -> bool:
            return self._book is None or self._book.begin.run != run

        found = self._engine.calibrate(book, self._tell, stop)
        with self._lock:
            if stop():
                return
            # Before anybody is told: a run that begins meanwhile must not get this one's light.
            self._given, self._source = found, OwnLight(book, found)
            if self._lent is not None:
                # What was made under the lent light is made anew.
                self._again()
        self._tell(found)

    def _prepare(self, book: RunBook, look: Look, source: LightSource, exposure: float) -> None:
        self._engine.prepare(look, source.light(book, exposure, None), book.expected(exposure))

    def _estimate(
        self, book: RunBook, look: Look, source: LightSource, exposure: float, final: bool, generation: int
    ) -> None:
        data = book.ptychogram(book.evaluation(exposure), "evaluation")
        light = source.light(book, exposure, data if final else None)
        found = self._engine.estimate(book, look, light, exposure, data, book.planned(exposure), final)
        with self._lock:
            if self._generation != generation:
                return
            self._frames[exposure] = len(data)
        self._tell(found)
