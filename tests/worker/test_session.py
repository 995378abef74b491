"""A session without sockets: what arrives in any order gives what `calibrate` and `reconstruct` make of the file."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.acquire.scan import Scan
from app.calibration import calibrate_file
from app.profile import load_profile
from app.reconstruction import Request, reconstruct_file
from app.worker.book import RunBook
from app.worker.engine import Engine
from app.worker.message import Calibrated, Choose, Epoch, Estimate, Ping, Pixels, Said
from app.worker.session import Session
from app.worker.source import RecordedSource
from recon.files.imports import Overrides
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> Path:
    """A run of the tiny bench."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    return path


def converse(source: RecordedSource, session: Session, choose: Choose | None = None, seed: int = 0) -> None:
    """Give a session what it asks for until it wants nothing more: shuffled, and every frame twice."""
    generator = random.Random(seed)
    for number in range(1000):
        pong = session.pong(Ping(number, source.begin.run, source.committed, source.ended), 0, 0)
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


def test_the_final_images_are_those_of_the_command_line(scanned, tmp_path):
    path = Path(shutil.copy(scanned, tmp_path / "run.h5"))
    told: list = []
    session = Session(Engine("cpu"), told.append)
    source = RecordedSource(path)
    converse(source, session)
    work(session)
    assert not [message for message in told if isinstance(message, Said)]
    epochs = [message for message in told if isinstance(message, Epoch)]
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert max(epochs[-1].object.shape) <= 160
    (calibrated,) = (message for message in told if isinstance(message, Calibrated))
    finals = {message.exposure_s: message for message in told if isinstance(message, Estimate) and message.final}
    calibrate_file(path, tmp_path, "cpu", None, None, 0, Overrides(), with_uncertainty=False)
    stored = load_calibration(path)
    np.testing.assert_array_equal(calibrated.probe, stored.probe)
    np.testing.assert_array_equal(calibrated.positions_m, stored.positions_m)
    assert calibrated.distance_m == stored.distance_m
    for entry, exposure in enumerate(load_profile("tiny").scan.evaluation_exposures_s, start=2):
        reconstruct_file(path, Request(exposure_s=exposure), tmp_path, "cpu")
        arrays, _ = load_result(path, entry, "reconstruction_latent")
        np.testing.assert_array_equal(finals[exposure].image, arrays["image"])
        np.testing.assert_array_equal(finals[exposure].samples, arrays["samples"])
    assert session.pong(Ping(1, source.begin.run, source.committed, source.ended), 0, 0).behind == 0


def test_frame_by_frame_and_again_with_other_settings(scanned, tmp_path):
    path = Path(shutil.copy(scanned, tmp_path / "run.h5"))
    calibrate_file(path, tmp_path, "cpu", None, None, 0, Overrides(), with_uncertainty=False)
    told: list = []
    session = Session(Engine("cpu"), told.append)
    source = RecordedSource(path)
    assert source.begin.known
    series = [key for key in source.order if source.plan.steps[key[0]].stream == "evaluation"]
    # The first three frames: two of the shorter exposure, then everything.
    for committed, ended in ((series[2], ""), (source.committed, source.ended)):
        source._committed, source._outcome = (committed[0], committed[1] + 1) if not ended else committed, ended
        converse(source, session)
        work(session)
    counts = [(message.exposure_s, message.frames, message.final) for message in told if isinstance(message, Estimate)]
    assert counts == [(3e-4, 2, False), (3e-2, 1, False), (3e-4, 3, True), (3e-2, 3, True)]
    told.clear()
    session.take(Choose(source.begin.run, decoder="mnist-4", pose="known"))
    work(session)
    kinds = [type(message) for message in told]
    assert kinds == [Estimate, Estimate, Pixels, Pixels]
    assert '"mnist-4"' in told[0].numbers
    assert told[2].image.max() <= 1.2


def test_a_run_that_ended_before_its_bright_scan_was_complete_says_so(scanned):
    told: list = []
    session = Session(Engine("cpu"), told.append)
    source = RecordedSource(scanned)
    source._committed, source._outcome = source.order[-4], "aborted"
    converse(source, session)
    work(session)
    assert [message.words for message in told if isinstance(message, Said)] == [
        "run.h5: its bright scan is not complete; resume it, then reconstruct"
    ]


def test_what_belongs_to_another_run_is_left_alone(scanned):
    source = RecordedSource(scanned)
    session = Session(Engine("cpu"), lambda _: None)
    session.take(source.begin)
    (frame,) = source.frames(source.order[:1])
    session.take(replace(frame, run="other", image=np.zeros((2, 2), np.uint16)))
    assert session.pong(Ping(0, "other"), 0, 0).needs == ("begin",)
