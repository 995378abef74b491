"""A window's reconstruction without a window: what it believes, keeps and lets go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.acquire.observer import Enough, RunState
from app.acquire.scan import Scan
from app.live.journal import Journal, Severity
from app.live.owner import DeviceOwner
from app.profile import load_profile
from app.worker.enough import Target
from app.worker.follow import RunningSource
from app.worker.link import LinkState
from app.worker.live import Live
from app.worker.message import Choose, Estimate, Said
from app.worker.place import OwnWorker
from app.worker.session import Session
from app.worker.source import RecordedSource
from drivers.clock import SystemClock
from recon.files.results import load_result
from tests.worker.fakes import COMMAND, FakeEngine
from tests.worker.test_link import Listener, until
from tests.worker.test_session import converse, work

SHORT, LONG = load_profile("tiny").scan.evaluation_exposures_s


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


def complaints(live: Live) -> list[str]:
    return [message.text for message in live._journal.since(0) if message.severity is Severity.ERROR]


def recorded(path: Path) -> RecordedSource:
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    return RecordedSource(path)


def test_what_the_worker_cannot_do_is_said_once_of_each_run(followed, tmp_path):
    live, source, _ = followed
    live._journal = Journal(SystemClock())
    for words in ("cuda: out of memory", "cuda: out of memory", "another"):
        live._hear(Said(source.begin.run, "estimate", words, bad=True))
    live._hear(Said("of another run", "estimate", "bad", bad=True))
    live._hear(Said(source.begin.run, "decoder", "only a note"))
    assert complaints(live) == ["reconstruction: run.h5: estimate: cuda: out of memory"]
    assert live.failed == "estimate: another"
    # Other settings may fail again.
    live.choose("mnist-4", "free")
    live._hear(Said(source.begin.run, "estimate", "no such decoder", bad=True))
    assert complaints(live)[1:] == ["reconstruction: run.h5: estimate: no such decoder"]


def test_the_run_that_loses_its_images_to_the_next_one_is_named(followed, tmp_path):
    live, source, image = followed
    live._journal = Journal(SystemClock())
    path, other = tmp_path / "run.h5", tmp_path / "other.h5"
    # Points of it that are taken again: it is reconstructed anew.
    live._follow(source, path)
    assert complaints(live) == []
    live._follow(recorded(other), other)
    lost = f"run.h5: its images were not finished; `ptychoscope reconstruct {path}`"
    assert complaints(live) == [lost]
    # All images are there, and stored.
    live._follow(source, path)
    for exposure in (SHORT, LONG):
        live._hear(image(exposure_s=exposure, final=True))
    until(lambda: live._keeper.idle() is None and not live._keeper.waiting)
    before = complaints(live)
    live._follow(recorded(tmp_path / "third.h5"), tmp_path / "third.h5")
    assert complaints(live) == before
    assert before[1].startswith("other.h5: ")


def test_images_that_are_there_and_not_stored_are_lost_as_well(followed, tmp_path):
    live, _, image = followed
    live._journal = Journal(SystemClock())
    for exposure in (SHORT, LONG):
        live._hear(image(exposure_s=exposure, final=True))
    assert live._keeper.kept == (tmp_path / "run.h5", True)
    live._follow(recorded(tmp_path / "other.h5"), tmp_path / "other.h5")
    assert [text.split(":")[0] for text in complaints(live)] == ["run.h5"]


def test_a_run_that_nobody_follows_takes_the_place_of_the_one_before(followed, tmp_path):
    live, _, image = followed
    live._journal = Journal(SystemClock())
    live._hear(image())
    assert live.shown.name == "run.h5"
    live.follow(False)
    live.target = Target(0.1)
    scan = Scan.new(load_profile("tiny"), tmp_path / "dark.h5", 0)
    assert live.follower.run_begins(scan) is None
    assert live.gather()
    assert (live.shown.name, live.shown.followed, live.shown.images) == ("dark.h5", False, {})
    assert "Live was off" in live.shown.words[0]
    (told,) = [message.text for message in live._journal.since(0)]
    assert told.startswith("scan: enough light cannot be told of dark.h5, Live was off")
    # Other settings leave it as it is, and results of the one before do not come back.
    live.choose("", "known")
    live.link.results.put(image(pose_prior="known"))
    assert not live.gather()
    assert "Live was off" in live.shown.words[0]
    live.target = None
    live.follower.run_begins(replace(scan, path=tmp_path / "next.h5"))
    live.gather()
    assert live.shown.name == "next.h5"
    assert len(live._journal.since(0)) == 1


def test_a_run_that_cannot_be_followed_says_why_in_place_of_the_one_before(followed, tmp_path):
    live, _, _ = followed
    scan = replace(Scan.new(load_profile("tiny"), tmp_path / "none.h5", 0), resume=True)
    with scan.devices:
        assert live.follower.run_begins(scan) is None
    live.gather()
    assert live.shown.name == "none.h5"
    assert live.shown.words[0].startswith("it cannot be followed: ")


def test_on_another_bench_nothing_is_shown_of_the_one_before(followed):
    live, source, _ = followed
    owner = DeviceOwner(SystemClock(), Journal(SystemClock()))
    live.wanted = False
    live.join(owner)
    live._watch(source)
    for act in owner.at_connecting:
        act()
    assert live.gather()
    assert live.shown is None
    assert not live.gather()
    for act in owner.at_connecting:
        act()
    live._watch(source)
    assert live.gather()
    assert live.shown.run == source.begin.run
    live.end(20.0)


def test_without_a_window_results_do_not_pile_up(live, tmp_path):
    scanned(live, tmp_path / "run.h5")
    live.listener.until(lambda: len(live.listener.finals()) == 2)
    assert live.heard > 2
    assert live.link.results.empty()
