"""A run in progress as its worker hears of it: a bounded memory, the file for the rest, never an error for the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.scan import Scan
from app.profile import load_profile
from app.worker.book import RunBook
from app.worker.follow import Follower, RunningSource
from app.worker.message import Choose
from app.worker.source import RecordedSource


def followed(path: Path, **options) -> RunningSource:
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        source = RunningSource(scan, **options)
        assert scan.runner(source).run() is RunState.COMPLETED
    return source


def test_what_is_heard_is_what_the_file_holds(tmp_path):
    path = tmp_path / "run.h5"
    source, file = followed(path), RecordedSource(path)
    fresh, committed = source.fresh()
    assert [(frame.step, frame.repeat) for frame in fresh] == list(file.order)
    assert (committed, source.ended) == (file.committed, "completed")
    assert replace(source.begin, run="", known=file.begin.known) == replace(file.begin, run="")
    for mine, theirs in zip(fresh, file.frames(file.order), strict=True):
        np.testing.assert_array_equal(mine.image, theirs.image)
        names = ("stream", "position_index", "asked_exposure_s", "exposure_s", "time", "readback_m")
        # Of the empty beam the file keeps no place.
        names = names[: len(names) - (mine.stream == "empty")]
        assert [getattr(mine, name) for name in names] == [getattr(theirs, name) for name in names]
    for exposure in (3e-4, 3e-2, 0.3):
        mine, theirs = source.darks(exposure), file.darks(exposure)
        assert mine.count == theirs.count == 4
        np.testing.assert_array_equal(mine.mean, theirs.mean)
        np.testing.assert_array_equal(mine.variance, theirs.variance)


def test_what_has_left_the_memory_comes_from_the_file_once_the_run_is_over(tmp_path):
    source = followed(tmp_path / "run.h5", memory_bytes=3 * 2 * 128 * 128)
    assert len(source._held) == 3
    fresh, _ = source.fresh()
    assert len(fresh) == 3
    everything = source.frames(RecordedSource(tmp_path / "run.h5").order)
    assert len(everything) == 16
    source._ended = ""
    # While the recorder has the file only what is held can be had.
    assert len(source.frames([(frame.step, frame.repeat) for frame in everything])) == 3
    book = RunBook(source.begin)
    assert all(book.add(frame) for frame in everything)


def test_a_run_that_cannot_be_followed_goes_on(tmp_path, monkeypatch):
    said: list[str] = []
    follower = Follower(lambda *_: None, lambda: Choose(""), said.append)
    scan = replace(Scan.new(load_profile("tiny"), tmp_path / "run.h5", 0), resume=True)
    with scan.devices:
        # It is to be completed, but there is no such file.
        assert follower.run_begins(scan) is None
    assert "cannot follow this run" in said[0]
    monkeypatch.setattr(RunningSource, "_keep", lambda *_: 1 / 0)
    source = followed(tmp_path / "run.h5", say=said.append)
    assert source.ended == "completed"
    assert said[1:] == ["reconstruction: a frame cannot be passed on: division by zero"]


def test_nobody_follows_when_nobody_wants_to(tmp_path):
    follower = Follower(lambda *_: pytest.fail("followed"), lambda: None, pytest.fail)
    scan = Scan.new(load_profile("tiny"), tmp_path / "run.h5", 0)
    assert follower.run_begins(scan) is None


def test_a_judgement_that_fails_takes_no_light_away_and_is_told_once(tmp_path):
    said: list[str] = []

    def judge(run: str) -> None:
        raise ValueError("no such verdict")

    scan = Scan.new(load_profile("tiny"), tmp_path / "run.h5", 0)
    with scan.devices:
        source = RunningSource(scan, judge=judge, say=said.append)
        assert scan.runner(source, enough=source.enough).run() is RunState.COMPLETED
    assert said == ["scan: nobody can say when it is enough: no such verdict"]
    assert source.left_out == ()
