"""A visit that was interrupted is taken again; nothing is rewritten, and readers use the newest frames."""

import h5py
import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.plan import Stream
from app.acquire.preflight import PreflightError
from app.acquire.scan import Scan
from app.bench.darks import NotDarkError
from app.profile import load_profile
from drivers.base import LightState
from recon.dataset import DatasetError
from recon.files import schema
from recon.files.read import open_run
from recon.files.write import RunWriter
from tests.acquire.fakes import FakeBench
from tests.bench.rigs import changed
from tests.files.compare import assert_same_measurement, measurement

TINY = load_profile("tiny")
BRIGHT = f"entry_1/{schema.DETECTOR}/{schema.DATA}"


def middle_of_a_series(plan) -> int:
    """The second step of the first evaluation series: two frames of that visit are in the file by then."""
    return next(s.number for s in plan.steps if s.stream is Stream.EVALUATION) + 1


def aborted_before(path, step: int, scan: Scan | None = None) -> None:
    """A scan, or the rest of one, that was stopped before it exposed in this step."""
    scan = scan or Scan.new(TINY, path, seed=3)
    runner = scan.runner()
    seed = scan.devices.seed_frame

    def seed_frame(code: int, index: int) -> None:
        seed(code, index)
        if index // 2**20 == step:
            runner.abort()

    object.__setattr__(scan.devices, "seed_frame", seed_frame)
    with scan.devices:
        assert runner.run() is RunState.ABORTED


def completed(path) -> None:
    scan = Scan.interrupted(path)
    with scan.devices:
        assert scan.runner().run() is RunState.COMPLETED


def test_a_visit_that_was_interrupted_is_taken_again_from_its_bright_frame(tmp_path):
    path = tmp_path / "run.h5"
    whole = Scan.new(TINY, tmp_path / "whole.h5", seed=3)
    with whole.devices:
        whole.runner().run()
    step = middle_of_a_series(whole.plan)
    aborted_before(path, step)
    point = whole.plan.steps[step].position_index
    before = measurement(path)
    with open_run(path) as run:
        bright, first = run.ptychogram(1), run.ptychogram(2)
        assert run.revisions == ()
    completed(path)
    # Nothing that was in the file is written over, and all other points are those of an undisturbed run.
    after = measurement(path)
    taken = len(bright)
    np.testing.assert_array_equal(after[BRIGHT][:taken], before[BRIGHT][:taken])
    assert_same_measurement(path, whole.path, other_visits=True)
    with open_run(path) as run, open_run(whole.path) as undisturbed:
        (revision,) = run.revisions
        assert revision.point == point
        assert revision.superseded == ((1, taken - 1), (2, 0))
        assert f"before step {step}" in revision.reason
        assert any(f"point {point} is taken again" in line for line in run.log)
        newest = [run.ptychogram(entry) for entry in range(1, run.entries + 1)]
        # The second visit found another place, and the whole series shares it.
        place = int(np.flatnonzero(newest[0].indices == point)[0])
        assert (newest[0].frames[place] != bright.frames[taken - 1]).mean() > 0.3
        assert (newest[1].frames[0] != first.frames[0]).any()
        other = undisturbed.truth().positions_m
        moved = run.truth().positions_m - other
        assert np.abs(moved[point]).max() > 1e-7
        assert not np.delete(moved, point, axis=0).any()
        assert all(point in data.indices for data in newest)
        np.testing.assert_array_equal(run.raw(1)[place], newest_raw(path, 0))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            file[f"entry_1/{schema.REVISIONS}/{schema.COMMITTED}"][...], [len(revision.superseded), 1]
        )


def newest_raw(path, row: int) -> np.ndarray:
    with h5py.File(path) as file:
        return file[f"entry_1/{schema.REVISIONS}/{schema.DATA}"][row]


def test_interrupted_again_it_is_taken_once_more_and_half_a_revision_does_not_count(tmp_path):
    path = tmp_path / "run.h5"
    scan = Scan.new(changed("tiny", scan__evaluation_exposures_s=(3e-4, 3e-3, 3e-2)), path, seed=3)
    plan = scan.plan
    step = middle_of_a_series(plan)
    aborted_before(path, step, scan)
    with open_run(path) as run:
        first_visit = run.raw(1)
    # In the middle of the second visit: what the first one brought still counts.
    aborted_before(path, step - 1, Scan.interrupted(path))
    with open_run(path) as run:
        assert run.revisions == ()
        np.testing.assert_array_equal(run.raw(1), first_visit)
    aborted_before(path, step + 1, Scan.interrupted(path))
    completed(path)
    with open_run(path) as run:
        assert run.outcome == "completed"
        assert [len(revision.superseded) for revision in run.revisions] == [2, 3]
        assert len({revision.point for revision in run.revisions}) == 1
        assert len(run.ptychogram(1)) == len(plan.positions_m)


def test_between_two_points_nothing_is_taken_again(tmp_path):
    path = tmp_path / "run.h5"
    plan = Scan.new(TINY, path, seed=3).plan
    whole = Scan.new(TINY, tmp_path / "whole.h5", seed=3)
    with whole.devices:
        whole.runner().run()
    step = next(s.number for s in plan.steps if s.stream is Stream.EVALUATION) - 1
    aborted_before(path, step)
    completed(path)
    with open_run(path) as run:
        assert run.revisions == ()
    assert_same_measurement(path, whole.path)


def test_without_room_nothing_moves(tmp_path):
    bench = FakeBench()
    path = tmp_path / "run.h5"
    step = middle_of_a_series(bench.plan)
    for interruption in range(6):
        bench = FakeBench()
        runner = bench.runner(
            (lambda bench=bench: bench.create(path))
            if interruption == 0
            else (lambda bench=bench: RunWriter.resume(path, bench.clock))
        )
        seed = bench.camera.seed_next

        def stop_there(code, index, seed=seed, runner=runner):
            seed(code, index)
            if index // 2**20 == step:
                runner.abort()

        object.__setattr__(runner._devices, "seed_frame", stop_there)
        if interruption <= 4:
            assert runner.run() is RunState.ABORTED
            continue
        with pytest.raises(DatasetError, match=r"2 frames, and the room .* has 0 left; .* begin a new scan"):
            runner.run()
        assert runner.state is RunState.FAILED
        assert bench.log == []
    with open_run(path) as run:
        assert len(run.revisions) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"serial": "other"}, ("camera simulated camera sim-3", "connected is simulated camera other")),
        ({"gain_db": 6.0}, ("gain of 0 dB", "6 dB")),
        ({"black_level_adu": 220.0}, ("black level of 200 adu, the camera has 220 adu",)),
        ({"bit_depth": 12}, ("begun with 16 bits, the camera has 12",)),
    ],
)
def test_another_camera_is_refused_by_name(tmp_path, change, words):
    from dataclasses import replace

    path = tmp_path / "run.h5"
    aborted_before(path, 5)
    before = path.read_bytes()
    scan = Scan.interrupted(path)
    camera = scan.devices.camera

    class Other(type(camera)):
        @property
        def info(self):
            return replace(super().info, **change)

    camera.__class__ = Other
    with scan.devices:
        with pytest.raises(PreflightError, match="begin a new scan") as error:
            scan.runner().run()
        assert not scan.devices.stage.homed
    assert all(word in str(error.value) for word in words)
    assert path.read_bytes() == before


def test_another_stage_is_refused_by_name(tmp_path):
    path = tmp_path / "run.h5"
    aborted_before(path, 5)
    scan = Scan.interrupted(path)
    scan.devices.stage.carriage.seed = 8
    with scan.devices, pytest.raises(PreflightError, match=r"stage simulated stage sim-3, connected .* sim-8"):
        scan.runner().run()


def test_a_scan_whose_darks_are_not_dark_is_refused_with_the_numbers(tmp_path):
    path = tmp_path / "run.h5"
    scan = Scan.new(TINY, path)
    light = scan.devices.light
    # Somebody says that the beam is blocked, and it is not.
    light.block = lambda: None
    with scan.devices:
        light._state = LightState.OPEN
        with pytest.raises(NotDarkError, match=r"not dark: .* electrons"):
            scan.runner().run()
        assert scan.devices.stage.position().as_tuple() == pytest.approx((0.0, 0.0))
    with open_run(path) as run:
        assert run.outcome == "failed"
        assert run.steps_committed == 0
    completed(path)


def test_warnings_of_the_preflight_are_told(tmp_path):
    from dataclasses import replace

    lines = []
    scan = Scan.new(changed("tiny", light__photons_per_second=2e7), tmp_path / "run.h5")
    with scan.devices:
        replace(scan, say=lines.append)._preflight()
    assert any("clipped" in line for line in lines)
    assert all(line.startswith("warning: ") for line in lines)
