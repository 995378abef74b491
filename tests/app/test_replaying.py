"""Replays: the runner with recorded devices gives the same frames and positions, and no driver is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.acquire.command import retake_points, run_scan
from app.acquire.observer import RunState
from app.acquire.plan import Plan
from app.acquire.scan import Label, Scan
from app.profile import Profile, load_profile
from app.replaying import Recorded, replay_run
from app.stopping import Interrupt
from recon.dataset import DatasetError
from recon.files.read import open_run
from tests.files.compare import measurement

CHANGED = ("committed", "darks_source", "plan", "title")
"""Of a replay the darks are those of the recording, so that it has fewer steps; and it says what it is."""


def recorded(folder: Path, retaken: tuple[int, ...] = (), **scan: object) -> Path:
    raw = load_profile("tiny").model_dump()
    raw["scan"] |= scan
    path = folder / "run.h5"
    made = Scan.new(Profile.model_validate(raw), path, 4, label=Label("slide 7", "by night"))
    with made.devices:
        assert made.runner().run() is RunState.COMPLETED
    if retaken:
        retake_points(path, retaken, Interrupt())
    return path


def same(first: Path, second: Path) -> None:
    a, b = measurement(first), measurement(second)
    assert a.keys() == b.keys()
    for name in a:
        if name.rsplit("/", 1)[-1] not in CHANGED:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
    "scan", [{}, {"empty_after": True, "empty_frames": 2}, {"calibration_exposures_s": (0.03, 0.3)}]
)
def test_a_replayed_run_is_the_run(tmp_path, scan):
    path = recorded(tmp_path, **scan)
    values = replay_run(path, tmp_path / "again.h5", None, Interrupt())
    assert values["outcome"] == "completed"
    same(path, tmp_path / "again.h5")
    with open_run(tmp_path / "again.h5") as run, open_run(path) as own:
        assert run.title == "Ptychoscope tiny (replay of run.h5)"
        assert run.simulated
        assert (run.sample_name, run.notes) == ("slide 7", "by night")
        for entry in range(1, own.entries + 1):
            first, second = own.ptychogram(entry), run.ptychogram(entry)
            np.testing.assert_array_equal(first.frames, second.frames)
            np.testing.assert_array_equal(first.positions_m, second.positions_m)
            np.testing.assert_array_equal(first.exposures_s, second.exposures_s)


def test_of_points_that_were_taken_again_the_last_visit_is_replayed(tmp_path):
    path = recorded(tmp_path, retaken=(5, 0))
    replay_run(path, tmp_path / "again.h5", None, Interrupt())
    with open_run(tmp_path / "again.h5") as run, open_run(path) as own:
        assert not run.revisions
        for entry in (1, 2, 3):
            np.testing.assert_array_equal(run.raw(entry), own.raw(entry))
            np.testing.assert_array_equal(run.commanded_m(entry), own.commanded_m(entry))
        np.testing.assert_array_equal(run.truth().positions_m, own.truth().positions_m)


def test_an_aborted_run_is_replayed_as_far_as_it_went(tmp_path):
    path = tmp_path / "run.h5"
    run_scan("tiny", 0, None, path, None, abort_after=20)
    replay_run(path, tmp_path / "again.h5", None, Interrupt())
    with open_run(tmp_path / "again.h5") as run, open_run(path) as own:
        done = Plan.from_json(own.plan_json).steps[: own.steps_committed]
        assert run.frames_committed == sum(step.repeats for step in done if step.stream != "dark")
        np.testing.assert_array_equal(run.raw(1), own.raw(1)[: len(run.raw(1))])


def test_a_run_without_a_frame_is_refused(tmp_path):
    path = tmp_path / "run.h5"
    run_scan("tiny", 0, None, path, None, abort_after=1)
    with pytest.raises(DatasetError, match="holds no frame"):
        Recorded.open(path)


def test_a_replay_of_a_replay_is_still_the_run(tmp_path):
    path = recorded(tmp_path)
    replay_run(path, tmp_path / "second.h5", None, Interrupt())
    replay_run(tmp_path / "second.h5", tmp_path / "third.h5", None, Interrupt())
    same(tmp_path / "second.h5", tmp_path / "third.h5")


def test_the_command_line_replays_and_opens_no_driver(tmp_path):
    path = recorded(tmp_path)
    script = (
        "import sys\n"
        "from drivers import basler, thorlabs\n"
        "from simulators import bench\n"
        "def no(*a, **k): raise AssertionError('a device was made')\n"
        "basler.BaslerCamera.__init__ = thorlabs.ThorlabsStage.__init__ = bench.Bench.__init__ = no\n"
        "from app.cli import main\n"
        f"sys.argv = ['ptychoscope', 'replay', {str(path)!r}, '--out', {str(tmp_path / 'again.h5')!r}, '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 16
    same(path, tmp_path / "again.h5")


def test_points_of_a_complete_run_are_taken_again(tmp_path):
    path = recorded(tmp_path)
    with open_run(path) as run:
        before = {entry: run.raw(entry) for entry in (1, 2, 3)}
        index = {e: run.ptychogram(e).indices for e in (1, 2, 3)}
    values = retake_points(path, [5], Interrupt())
    assert values["outcome"] == "completed"
    assert values["revisions"] == 1
    with open_run(path) as run:
        (revision,) = run.revisions
        assert revision.point == 5
        for entry in (1, 2, 3):
            changed = [k for k, frame in enumerate(run.raw(entry)) if not np.array_equal(frame, before[entry][k])]
            assert changed == np.flatnonzero(index[entry] == 5).tolist()


def test_points_that_cannot_be_taken_again_are_refused(tmp_path):
    path = tmp_path / "run.h5"
    # More frames before the end than may wait for the disk: the abort comes from the recorder.
    run_scan("tiny", 0, None, path, None, abort_after=14)
    with pytest.raises(DatasetError, match="is not complete; resume it"):
        retake_points(path, [5], Interrupt())
    run_scan("tiny", 0, None, None, path)
    # Darks and the empty beam have the index -1 in a plan, and are no point.
    for point in (99, -1):
        with pytest.raises(DatasetError, match=f"never visits point {point}; choose another"):
            retake_points(path, [point], Interrupt())
    with open_run(path) as run:
        assert run.outcome == "completed"
