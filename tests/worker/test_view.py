"""What a window shows: messages of its own run, in whatever order they come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from app.acquire.scan import Scan
from app.profile import load_profile
from app.worker.book import RunBook
from app.worker.light import Look
from app.worker.message import Epoch, Said
from app.worker.source import RecordedSource
from app.worker.view import Imaging, Shown, phase_picture
from tests.worker.fakes import FakeEngine

WAVE = np.ones((4, 4), np.complex64)


def epoch(number: int, run: str = "run") -> Epoch:
    return Epoch(run, number, 9, "joint", 1.0, 0.02, 0.1, WAVE, WAVE)


def test_only_messages_of_its_own_run_count():
    shown = Shown("run", (1e-3,))
    assert not shown.take(epoch(1, "other"))
    assert not shown.take(Said("other", "frames", "words", bad=True))
    assert shown.take(Said("run", "frames", "words", bad=True))
    assert (shown.count, shown.words) == (1, ("words", True))


def test_epochs_that_come_twice_count_once_and_a_new_beginning_is_one():
    shown = Shown("run", ())
    for number in (1, 2, 2, 3, 1, 2):
        shown.take(epoch(number))
    assert [one.epoch for one in shown.epochs] == [1, 2]
    assert shown.calibrating


def test_the_residual_is_in_standard_deviations(tmp_path):
    path = tmp_path / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    source = RecordedSource(path)
    book = RunBook(source.begin)
    for exposure in (3e-4, 3e-2, 0.3):
        book.add_darks(source.darks(exposure))
    for frame in source.frames(source.order):
        book.add(frame)
    data = book.ptychogram(book.evaluation(3e-2), "evaluation")
    made = FakeEngine().estimate(book, Look("none", "known", 1e-3), None, 3e-2, data, 3, True)
    dark = replace(made, predicted=np.zeros((2, 2), np.float32), measured=np.full((2, 2), 3.0, np.float32))
    dark = replace(dark, variance=np.full((2, 2), 8.5, np.float32))
    np.testing.assert_allclose(Imaging(dark).residual, 1.0)
    lit = replace(dark, predicted=np.full((2, 2), 16.0, np.float32), measured=np.full((2, 2), 6.0, np.float32))
    np.testing.assert_allclose(Imaging(lit).residual, -2.0)


def test_a_field_in_colours_has_its_amplitude_as_brightness():
    wave = np.array([[1.0, -1.0], [0.0, 0.5j]], np.complex64)
    picture = phase_picture(wave)
    assert picture.shape == (2, 2, 3)
    assert picture[1, 0].max() == 0
    assert picture[0, 0].max() > 250
    assert (picture[0, 0] != picture[0, 1]).any()
