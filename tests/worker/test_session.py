"""A session without sockets: what arrives in any order gives what `calibrate` and `reconstruct` make of the file."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.acquire.command import run_scan
from app.acquire.observer import Enough
from app.acquire.scan import Scan
from app.calibration import calibrate_file
from app.live.orders import unfinished
from app.profile import load_profile
from app.reconstruction import reconstruct_file
from app.request import Request
from app.worker.book import RunBook
from app.worker.engine import Engine
from app.worker.message import Calibrated, Choose, Epoch, Estimate, Ping, Pixels, Said
from app.worker.session import Session
from app.worker.source import RecordedSource
from recon.dataset import DatasetError
from recon.files.imports import Overrides
from recon.files.read import open_run
from recon.files.results import StoredCalibration, load_calibration, load_result, store_calibration
from tests.worker.fakes import FakeEngine

EXPOSURES = (3e-6, 3e-2)
"""Ten photons, which take the least time to be thought about, and light."""


def quick_to_estimate(exposures=EXPOSURES):
    """The tiny bench in the dark, and the smallest decoder."""
    profile = load_profile("tiny")
    return profile.model_copy(
        update={
            "scan": profile.scan.model_copy(update={"evaluation_exposures_s": exposures}),
            "reconstruction": profile.reconstruction.model_copy(update={"decoder": "mnist-4"}),
        }
    )


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> Path:
    """A run of the tiny bench."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    scan = Scan.new(quick_to_estimate(), path, 0)
    with scan.devices:
        scan.runner().run()
    return path


def converse(source: RecordedSource, session: Session, choose: Choose | None = None, seed: int = 0) -> None:
    """Give a session what it asks for until it wants nothing more: shuffled, and every frame twice."""
    generator = random.Random(seed)
    for number in range(1000):
        pong = session.pong(Ping(number, source.begin.run, source.committed, source.ended, source.left_out), 0, 0)
        messages = []
        if "begin" in pong.needs:
            session.take(source.begin)
        if "choose" in pong.needs:
            messages.append(choose or Choose(source.begin.run, conventional=False))
        if "carried" in pong.needs:
            messages.append(source.carried())
        if "calibrated" in pong.needs:
            messages.append(source.calibrated())
        messages += [source.darks(exposure) for exposure in pong.darks]
        messages += 2 * source.frames(pong.lacks)
        generator.shuffle(messages)
        for message in messages:
            session.take(message)
        if not pong.needs and not messages:
            return
    raise AssertionError("it asks for ever")


def work(session: Session) -> None:
    while session.work():
        pass


def test_a_book_of_a_run_is_its_file_to_the_last_bit(scanned):
    source = RecordedSource(scanned)
    book = RunBook(source.begin)
    book.committed, book.ended = source.committed, source.ended
    for exposure in book.lacking_darks():
        book.add_darks(source.darks(exposure))
    for key in reversed(source.order):
        assert book.add(*source.frames([key]))
        assert not book.add(*source.frames([key]))
    assert book.whole
    assert book.bright
    with open_run(scanned) as run:
        for entry in range(1, run.entries + 1):
            exposure = run.exposure_s(entry)
            own = book.bright_scan() if entry == 1 else book.ptychogram(book.evaluation(exposure), "evaluation")
            theirs = run.ptychogram(entry)
            for name in ("frames", "positions_m", "exposures_s", "dark_variance", "mask", "indices", "empty"):
                np.testing.assert_array_equal(getattr(own, name), getattr(theirs, name), err_msg=name)
            assert own.geometry == theirs.geometry
            assert own.empty_exposure_s == theirs.empty_exposure_s
            assert (own.saturated is None) == (theirs.saturated is None)


def test_the_final_image_is_that_of_the_command_line(tmp_path):
    path = tmp_path / "run.h5"
    scan = Scan.new(quick_to_estimate((3e-6,)), path, 0)
    with scan.devices:
        scan.runner().run()
    told: list = []
    session = Session(Engine("cpu"), told.append)
    source = RecordedSource(path)
    converse(source, session, Choose(source.begin.run, pose="known", conventional=False))
    work(session)
    assert not [message for message in told if isinstance(message, Said)]
    epochs = [message for message in told if isinstance(message, Epoch)]
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert max(epochs[-1].object.shape) <= 160
    (calibrated,) = (message for message in told if isinstance(message, Calibrated))
    (final,) = (message for message in told if isinstance(message, Estimate))
    assert final.final
    assert session.pong(Ping(1, source.begin.run, source.committed, source.ended), 0, 0).behind == 0
    calibrate_file(path, tmp_path, "cpu", None, None, 0, Overrides(), with_uncertainty=False)
    stored = load_calibration(path)
    np.testing.assert_array_equal(calibrated.probe, stored.probe)
    np.testing.assert_array_equal(calibrated.positions_m, stored.positions_m)
    assert calibrated.distance_m == stored.distance_m
    reconstruct_file(path, Request(pose="known"), tmp_path, "cpu")
    arrays, settings = load_result(path, 2, "reconstruction_latent")
    np.testing.assert_array_equal(final.image, arrays["image"])
    np.testing.assert_array_equal(final.samples, arrays["samples"])
    assert json.loads(final.numbers)["log_evidence"] == settings["log_evidence"]


@pytest.fixture(scope="module")
def low_dose(scanned, tmp_path_factory) -> Path:
    """A low-dose run under a calibration that nobody has to wait for."""
    folder = tmp_path_factory.mktemp("low")
    bright = Path(shutil.copy(scanned, folder / "bright.h5"))
    with open_run(bright) as run:
        data = run.ptychogram(1)
    probe = np.full((32, 32), 30, np.complex64)
    pixel = data.geometry.pixel_size_m
    settings = {"window_px": 64}
    store_calibration(
        bright, StoredCalibration(probe, pixel, probe, pixel, 0.02, data.positions_m, np.ones(1), settings, {})
    )
    path = folder / "low.h5"
    scan = Scan.low_dose(quick_to_estimate(), path, bright, 0)
    with scan.devices:
        scan.runner().run()
    return path


def told_up_to(source: RecordedSource, session: Session, last: tuple[int, int] | None) -> None:
    """The run as far as this frame, or its end."""
    end = len(source.plan.steps)
    source._committed, source._outcome = ((end, 0), "completed") if last is None else ((last[0], last[1] + 1), "")
    converse(source, session, Choose(source.begin.run))
    work(session)


def test_frame_by_frame_the_oldest_image_first_and_the_last_ones_are_final(low_dose):
    told: list = []
    engine = FakeEngine()
    session = Session(engine, told.append)
    source = RecordedSource(low_dose)
    series = [key for key in source.order if source.plan.steps[key[0]].stream == "evaluation"]
    before = (series[0][0] - 1, 0)
    told_up_to(source, session, before)
    assert engine.loaded == ["mnist-4"]
    # All that the first frame needs has been made before it comes.
    assert engine.prepared == [3]
    assert told == []
    for key in series[:3]:
        told_up_to(source, session, key)
    assert engine.estimated == [(3e-6, 1, False), (3e-2, 1, False), (3e-6, 2, False)]
    told_up_to(source, session, None)
    assert engine.estimated[3:] == [(3e-2, 3, True), (3e-6, 3, True)] or engine.estimated[3:] == [
        (3e-6, 3, True),
        (3e-2, 3, True),
    ]
    assert [type(message) for message in told] == 5 * [Estimate] + 2 * [Pixels]
    assert engine.prepared == [3]


def test_the_real_images_follow_the_frames(low_dose, tmp_path):
    path = tmp_path / "low.h5"
    scan = Scan.low_dose(quick_to_estimate((3e-6,)), path, low_dose.with_name("bright.h5"), 0, passes=2)
    with scan.devices:
        scan.runner().run()
    told: list = []
    engine = Engine("cpu")
    session = Session(engine, told.append)
    source = RecordedSource(path)
    series = [key for key in source.order if source.plan.steps[key[0]].stream == "evaluation"]
    session.take(source.begin)
    session.take(Choose(source.begin.run, pose="known", conventional=False, ahead=True))
    for key in (series[0], series[1], series[4]):
        told_up_to(source, session, key)
    # A second visit to a point is followed by the same preparation.
    assert len(engine._tracks[3e-6].tracker.plan.points) == 3
    assert engine._tracks[3e-6].tracker.frames == 5
    told_up_to(source, session, None)
    # The final image needs none any more.
    assert 3e-6 not in engine._tracks
    images = [message for message in told if isinstance(message, Estimate)]
    assert [(image.frames, image.final) for image in images] == [(1, False), (2, False), (5, False), (6, True)]
    assert all(np.isfinite(image.image).all() for image in images)
    # Images on the way say what one more frame would tell at each point; the final one has nothing after it.
    ahead = [json.loads(image.numbers).get("ahead") for image in images]
    assert ahead[-1] is None
    for told_ahead in ahead[:-1]:
        assert sorted(told_ahead["points"]) == sorted(source.plan.evaluation_indices)
        assert all(0 < nats < 10 for nats in told_ahead["information"])


def test_other_settings_make_all_images_anew(low_dose):
    told: list = []
    engine = FakeEngine()
    session = Session(engine, told.append)
    source = RecordedSource(low_dose)
    told_up_to(source, session, None)
    engine.estimated.clear()
    session.take(Choose(source.begin.run, decoder="mnist-3", pose="known", conventional=False))
    work(session)
    assert engine.loaded == ["mnist-4", "mnist-3"]
    assert sorted(engine.estimated) == [(3e-6, 3, True), (3e-2, 3, True)]
    assert "mnist-3" in told[-1].numbers


def test_what_fails_is_said_and_is_not_tried_for_ever(low_dose):
    told: list = []
    engine = FakeEngine()

    def broken(*_):
        raise DatasetError("low.h5: no light at all")

    engine.estimate = broken
    session = Session(engine, told.append)
    told_up_to(RecordedSource(low_dose), session, None)
    words = [message.words for message in told if isinstance(message, Said)]
    assert words == 2 * ["low.h5: no light at all"]


def test_a_run_that_ended_before_its_bright_scan_was_complete_says_so(scanned):
    told: list = []
    session = Session(FakeEngine(), told.append)
    source = RecordedSource(scanned)
    source._committed, source._outcome = source.order[-4], "aborted"
    converse(source, session)
    work(session)
    assert [message.words for message in told if isinstance(message, Said)] == [
        "run.h5: its bright scan is not complete; resume it, then reconstruct"
    ]


def test_frames_without_darks_are_told_of(low_dose, monkeypatch):
    told: list = []
    session = Session(FakeEngine(), told.append)
    source = RecordedSource(low_dose)
    darks = source.darks
    monkeypatch.setattr(source, "darks", lambda exposure: None if exposure == 3e-6 else darks(exposure))
    session.take(source.begin)
    session.take(Choose(source.begin.run, conventional=False))
    session.take(source.carried())
    end = (len(source.plan.steps), 0)
    for number in range(20):
        pong = session.pong(Ping(number, source.begin.run, end, "completed"), 0, 0)
        given = [source.darks(exposure) for exposure in pong.darks] + source.frames(pong.lacks)
        for message in given:
            if message is not None:
                session.take(message)
    work(session)
    assert pong.darks == (3e-6,)
    assert [m.words for m in told if isinstance(m, Said)] == [
        "low.h5: no darks of 3e-06 s; record them, then reconstruct"
    ]
    assert {m.exposure_s for m in told if isinstance(m, Estimate)} == {3e-2}


def test_darks_that_come_after_the_last_frame_are_waited_for(scanned):
    told: list = []
    session = Session(FakeEngine(), told.append)
    source = RecordedSource(scanned)
    session.take(source.begin)
    session.take(Choose(source.begin.run, conventional=False))
    for frame in source.frames(source.order):
        session.take(frame)
    pong = session.pong(Ping(1, source.begin.run, source.committed, source.ended), 0, 0)
    work(session)
    assert told == []
    for exposure in pong.darks:
        session.take(source.darks(exposure))
    work(session)
    assert not [message for message in told if isinstance(message, Said)]
    assert {message.exposure_s for message in told if isinstance(message, Estimate) and message.final} == set(EXPOSURES)


def test_no_image_is_tried_before_the_empty_beam_is_known(low_dose):
    told: list = []
    session = Session(FakeEngine(), told.append)
    source = RecordedSource(low_dose)
    session.take(source.begin)
    session.take(Choose(source.begin.run, conventional=False))
    session.take(source.carried())
    for frame in source.frames(source.order):
        session.take(frame)
    for exposure in EXPOSURES:
        session.take(source.darks(exposure))
    # The empty beam's exposure has darks of its own, and they have not come.
    session.pong(Ping(1, source.begin.run, source.committed, source.ended), 0, 0)
    work(session)
    assert told == []
    session.take(source.darks(source.plan.steps[source.order[0][0]].exposure_s))
    work(session)
    assert {message.exposure_s for message in told if isinstance(message, Estimate)} == set(EXPOSURES)


def test_what_belongs_to_another_run_is_left_alone(scanned):
    source = RecordedSource(scanned)
    session = Session(FakeEngine(), lambda _: None)
    session.take(source.begin)
    (frame,) = source.frames(source.order[:1])
    session.take(replace(frame, run="other", image=np.zeros((2, 2), np.uint16)))
    assert session.pong(Ping(0, "other"), 0, 0).needs == ("begin",)


def test_a_plan_of_more_frames_than_any_run_has_is_refused(low_dose):
    begin = RecordedSource(low_dose).begin
    plan = json.loads(begin.plan)
    steps = plan["steps"]
    steps[-1]["repeats"] = 30_000_000
    with pytest.raises(DatasetError, match=r"a plan of 3000.* frames, 1000000 at most"):
        RunBook(replace(begin, plan=json.dumps(plan)))
    steps[-1]["repeats"] = 1
    steps[-1]["exposure_s"] = [1]
    with pytest.raises(DatasetError, match=r"step .* of its plan cannot be"):
        RunBook(replace(begin, plan=json.dumps(plan)))


def test_a_run_that_begins_while_the_one_before_is_calibrated_gets_no_light_of_it(scanned, low_dose):
    first, second = RecordedSource(scanned), RecordedSource(low_dose)
    told: list = []
    session = Session(FakeEngine(), told.append)

    def tell(message):
        told.append(message)
        if isinstance(message, Calibrated):
            session.take(second.begin)

    session._tell = tell
    session.take(first.begin)
    session.take(Choose(first.begin.run, conventional=False))
    told_up_to(first, session, None)
    assert any(isinstance(message, Calibrated) for message in told)
    assert session._source is None
    assert session._given is None


class Aborting:
    """Judges while somebody wishes the end."""

    def __init__(self):
        self.runner = None
        self.moves_before = None
        self.stage = None

    def state_changed(self, state):
        pass

    def frame_committed(self, frame, progress):
        pass

    def enough(self, step):
        self.runner.abort()
        self.moves_before = len(self.stage.moves)
        return ""


class CountedMoves:
    """A stage that writes down where it is sent."""

    def __init__(self, stage):
        self._stage = stage
        self.moves = []

    def __getattr__(self, name):
        return getattr(self._stage, name)

    def move_to(self, target, *rest, **more):
        self.moves.append(target)
        return self._stage.move_to(target, *rest, **more)


def test_nothing_moves_after_an_abort_during_the_judgement(low_dose, tmp_path):
    scan = Scan.low_dose(
        quick_to_estimate((3e-6,)), tmp_path / "aborted.h5", low_dose.with_name("bright.h5"), 0, passes=2
    )
    watcher = Aborting()
    with scan.devices:
        runner = scan.runner(watcher)
        watcher.runner = runner
        watcher.stage = CountedMoves(runner._devices.stage)
        runner._enough = watcher.enough
        runner._devices = replace(runner._devices, stage=watcher.stage)
        outcome = runner.run()
    assert watcher.moves_before is not None
    assert len(watcher.stage.moves) == watcher.moves_before
    assert outcome.value == "aborted"


def test_what_enough_light_left_out_is_taken_by_resume(low_dose, tmp_path):
    path = tmp_path / "enough.h5"
    scan = Scan.low_dose(quick_to_estimate((3e-6,)), path, low_dose.with_name("bright.h5"), 0, passes=2)
    with scan.devices:
        outcome = scan.runner(enough=lambda _: Enough(0.0, "good enough")).run()
    with open_run(path) as run:
        taken = run.frames_committed
    assert outcome.value == "completed"
    assert unfinished(path) is None
    values = run_scan("tiny", 0, None, None, path)
    assert values["outcome"] == "completed"
    with open_run(path) as run:
        assert run.frames_committed > taken
        assert run.steps_committed == len(scan.plan.steps)
    assert unfinished(path) == "it is complete"
