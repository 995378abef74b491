"""A single-trajectory scan under a calibration that is lent to it until it has its own: what it need not expose."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.acquire.command import run_scan
from app.acquire.observer import Enough, RunState
from app.acquire.scan import Scan
from app.profile import load_profile
from app.runs import points_left
from app.worker.enough import Target
from app.worker.follow import RunningSource
from app.worker.live import Live
from app.worker.message import Calibrated, Choose, Epoch, Estimate
from app.worker.place import OwnWorker
from app.worker.session import Session
from app.worker.source import RecordedSource, carried
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result
from recon.files.write import RunWriter
from tests.worker.fakes import COMMAND, FakeEngine
from tests.worker.test_following import bright  # noqa: F401
from tests.worker.test_session import converse, work

SHORT, LONG = 3e-4, 3e-2


class Lending(RecordedSource):
    """A run as if another's calibration had been lent to it."""

    def __init__(self, path: Path, lender: Path):
        super().__init__(path)
        self._lender = lender
        self.begin = replace(self.begin, lent=True, known=False)

    def carried(self):
        return carried(self.begin.run, self._lender)


def test_images_come_from_the_first_frame_on_and_anew_under_its_own_light(bright, tmp_path):  # noqa: F811
    path = tmp_path / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    source, told, engine = Lending(path, bright), [], FakeEngine()
    session = Session(engine, told.append)
    series = [key for key in source.order if source.plan.steps[key[0]].stream == "evaluation"]
    whole = source._committed
    for key in series[1], series[-1]:
        source._committed, source._outcome = (key[0] + 1, 0), ""
        converse(source, session, Choose(source.begin.run, conventional=False))
        work(session)
    assert engine.prepared == []
    estimates = [message for message in told if isinstance(message, Estimate)]
    # A point of the series is not the last of the bright scan: nothing is calibrated, nothing final.
    assert [(e.exposure_s, e.frames, e.final, e.lent) for e in estimates] == [
        (SHORT, 1, False, True),
        (LONG, 1, False, True),
        (SHORT, 3, False, True),
        (LONG, 3, False, True),
    ]
    assert len(told) == len(estimates)
    told.clear()
    source._committed, source._outcome = whole, "completed"
    converse(source, session, Choose(source.begin.run, conventional=False))
    work(session)
    kinds = [message for message in told if not isinstance(message, Epoch)]
    assert isinstance(kinds[0], Calibrated)
    assert [(e.exposure_s, e.frames, e.final, e.lent) for e in kinds[1:]] == [
        (SHORT, 3, True, False),
        (LONG, 3, True, False),
    ]


def test_frames_that_were_left_out_are_not_waited_for(bright, tmp_path):  # noqa: F811
    path = tmp_path / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0, lent=bright)
    asked = []

    def enough(step: int) -> Enough | None:
        asked.append(step)
        return Enough(LONG, "why not") if len(asked) == 2 else None

    with scan.devices:
        running = RunningSource(scan)
        assert running.begin.lent
        assert scan.runner(running, enough=enough).run() is RunState.COMPLETED
    file = RecordedSource(path)
    gone = [s.number for s in scan.plan.steps if s.exposure_s == LONG and s.number > asked[1]]
    assert list(running.left_out) == list(file.left_out) == gone
    frames, _ = running.fresh()
    assert [(frame.step, frame.repeat) for frame in frames] == list(file.order)
    assert running.exposed_s == pytest.approx(file.exposed_s)
    assert file.exposed_s == pytest.approx(9 * 0.3 + 3 * SHORT + 2 * LONG)
    told: list = []
    session = Session(FakeEngine(), told.append)
    converse(file, session, Choose(file.begin.run, conventional=False))
    work(session)
    finals = [(e.exposure_s, e.frames, e.planned) for e in told if isinstance(e, Estimate) and e.final]
    assert finals == [(SHORT, 3, 3), (LONG, 2, 2)]


@pytest.mark.parametrize(("sigma", "taken"), [(0.3, [9, 2, 2]), (0.1, [9, 3, 3])])
def test_scan_enough_leaves_out_what_is_not_needed_and_resume_takes_it(bright, tmp_path, capsys, sigma, taken):  # noqa: F811
    # The fake worker calls an image under a lent light good, with a mean deviation of 0.25, from its second frame on.
    live = Live(OwnWorker((sys.executable, *COMMAND)))
    live.target = Target(sigma)
    path = tmp_path / "run.h5"
    values = run_scan("tiny", 0, None, path, None, calibration=bright, bright=True, live=live)
    assert values["outcome"] == "completed"
    with open_run(path) as run:
        assert [run.committed(entry) for entry in (1, 2, 3)] == taken
        left = points_left(run)
        assert any("without 0.0003 s, 0.03 s: 0.0003 s is enough" in line for line in run.log) == bool(left)
    assert len(left) == (sigma == 0.3)
    assert not live.link.alive
    _, stored = load_result(path, 1, "enough_light")
    assert stored["target_sigma"] == sigma
    assert bool(stored["reached"]) == bool(left)
    assert stored["left_out"] == ({"0.0003": 1, "0.03": 1} if left else {})
    planned = 9 * 0.3 + 3 * (SHORT + LONG)
    assert stored["share_saved"] == pytest.approx((SHORT + LONG) / planned if left else 0.0)
    # In the end the run has a calibration and images of its own.
    assert load_calibration(path).distance_m == 0.02
    for entry in (2, 3):
        assert load_result(path, entry, "reconstruction_latent") is not None
    assert ("enough light" in capsys.readouterr().err) == bool(left)
    if left:
        assert run_scan("tiny", 0, None, None, path)["outcome"] == "completed"
        with open_run(path) as run:
            assert [run.committed(entry) for entry in (1, 2, 3)] == [9, 3, 3]
            assert [revision.point for revision in run.revisions] == list(left)
        assert run_scan("tiny", 0, None, None, path)["frames"] == 9 + 6 + 1


def test_a_scan_that_may_leave_out_has_room_to_take_all_of_it_later(bright, tmp_path):  # noqa: F811
    paths = tmp_path / "lent.h5", tmp_path / "plain.h5"
    for path, lender in zip(paths, (bright, None), strict=True):
        scan = Scan.new(load_profile("tiny"), path, 0, lent=lender)
        with scan.devices:
            assert scan.runner(enough=lambda _: Enough(SHORT, "why not")).run() is RunState.COMPLETED
            with open_run(path) as run:
                points = points_left(run)
            assert len(points) == 2
            with RunWriter.resume(path, scan.devices.clock) as writer:
                assert len(writer._first["revisions/data"]) == (14 if lender else 8)


def test_another_bench_lends_nothing(bright, tmp_path):  # noqa: F811
    scan = Scan.new(load_profile("tiny"), tmp_path / "run.h5", 5, lent=bright)
    with scan.devices:
        errors = [f.message for f in scan.findings() if f.severity == "error"]
    assert any("calibrate this bench" in line for line in errors)
