"""A window's reconstruction without a window: what it believes, keeps and lets go."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.acquire.observer import Enough, RunState
from app.acquire.scan import Scan
from app.live.journal import Journal
from app.profile import load_profile
from app.worker.enough import Target
from app.worker.follow import RunningSource
from app.worker.link import LinkState
from app.worker.live import Live
from app.worker.message import Choose, Estimate
from app.worker.place import OwnWorker
from app.worker.session import Session
from app.worker.source import RecordedSource
from drivers.base import SystemClock
from recon.files.results import load_result
from tests.worker.fakes import COMMAND, FakeEngine
from tests.worker.test_link import PATIENCE_S, Listener
from tests.worker.test_session import converse, work

SHORT, LONG = load_profile("tiny").scan.evaluation_exposures_s


def until(condition: Callable[[], bool]) -> None:
    """For what nobody tells of."""
    never, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        never.wait(0.01)


class Waiting(Listener):
    """Wakes at everything that a reconstruction does."""

    def watch(self, live: Live) -> None:
        hear, idle = live.link._heard, live.link._idle

        def heard(message) -> None:
            hear(message)
            self(message)

        def idled() -> None:
            idle()
            self(None)

        live.link._heard, live.link._idle = heard, idled


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live(OwnWorker((sys.executable, *COMMAND)))
    made.listener = Waiting()
    made.listener.watch(made)
    made.begin(Journal(SystemClock()))
    yield made
    made.end(20.0)
    assert not made.link.alive


def scanned(live: Live, path: Path, **options) -> RunningSource:
    scan = Scan.new(load_profile("tiny"), path, 0, **options)
    with scan.devices:
        source = live.follower.run_begins(scan)
        assert scan.runner(source).run() is RunState.COMPLETED
    return source


def test_a_worker_that_nobody_wants_any_more_ends_when_its_run_is_done(live, tmp_path):
    path = tmp_path / "run.h5"
    scanned(live, path)
    live.follow(False)
    # Not before its images are stored.
    until(lambda: live.worker.process is None)
    for entry in (2, 3):
        assert load_result(path, entry, "reconstruction_latent") is not None
    # Other settings for what is shown want it again, until that is done.
    live.choose("mnist-4", "free")
    until(lambda: live.worker.process is not None)
    until(lambda: live.worker.process is None)
    _, settings = load_result(path, 3, "reconstruction_latent")
    assert settings["reason"].endswith("mnist-4")


def test_what_has_come_is_stored_when_the_window_closes(live, tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    store, waiting = live._keeper.idle, [True]
    monkeypatch.setattr(live._keeper, "idle", lambda: None if waiting[0] else store())
    scanned(live, path)
    live.listener.until(lambda: len(live.listener.finals()) == 2)
    # Not a turn of the link is left in which it might store.
    monkeypatch.setattr("app.worker.link.PING_S", 1e9)
    waiting[0] = False
    live.end(20.0)
    for entry in (2, 3):
        assert load_result(path, entry, "reconstruction_latent") is not None


@pytest.fixture
def followed(tmp_path) -> tuple[Live, RecordedSource, Callable[..., Estimate]]:
    """A reconstruction that watches a run, without a line, and an image of it."""
    path = tmp_path / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    source, told = RecordedSource(path), []
    session = Session(FakeEngine(), told.append)
    converse(source, session, Choose(source.begin.run, conventional=False))
    work(session)
    image = next(m for m in told if isinstance(m, Estimate) and m.exposure_s == LONG)
    made = Live(OwnWorker((sys.executable, *COMMAND)))
    made._follow(source, path)
    made.gather()
    return made, source, lambda **changes: replace(image, **changes)


def test_an_image_made_with_other_settings_is_neither_shown_nor_kept_nor_judged(followed):
    live, source, image = followed
    live.target = Target(0.3)
    assert (image().decoder, image().pose_prior) == ("mnist", "free")
    live.choose("", "known")
    for late in (image(), image(pose_prior="known", decoder="mnist-4"), image(run="another", pose_prior="known")):
        live._hear(late)
        assert not live.shown.take(late)
    assert live._judge(source.begin.run) is None
    assert not live._keeper._run.waiting
    asked = image(pose_prior="known")
    live._hear(asked)
    assert live.shown.take(asked)
    assert live._judge(source.begin.run) is not None
    assert list(live._keeper._run.waiting) == [LONG]
    # What waits to be stored is forgotten with the settings.
    live.choose("", "free")
    assert not live._keeper._run.waiting
    assert live.shown.images == {}


def test_the_shortest_exposure_that_is_sharp_decides_for_the_longer_ones(followed):
    live, source, image = followed
    live.target = Target(0.3)
    live._hear(image())
    assert live._judge(source.begin.run).from_s == LONG
    live._hear(image(exposure_s=SHORT, numbers='{"verdict": "ambiguous", "sigma_mean": 0.1}'))
    assert live._judge(source.begin.run).from_s == LONG
    live._hear(image(exposure_s=SHORT))
    found = live._judge(source.begin.run)
    assert isinstance(found, Enough)
    assert found == Enough(SHORT, "0.0003 s is enough, recovered from 3 frames, mean deviation 0.250 of at most 0.3")
    live.target = Target(0.2)
    assert live._judge(source.begin.run) is None


def test_switched_off_at_once_it_never_had_a_worker():
    live = Live(OwnWorker((sys.executable, *COMMAND)), wanted=False)
    live.begin(Journal(SystemClock()))
    assert live.status.state is LinkState.OFF
    live.end(20.0)
    assert live.worker.process is None
