"""A calibration reused: low-dose scans of another object under it, other runs with it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from app.acquire.plan import Plan, Stream
from app.acquire.planning import make_low_dose_plan, plan_cost
from app.acquire.scan import Scan
from app.profile import ProfileError, load_profile
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result
from recon.files.reuse import Source, reused_illumination
from tests.acquire.fakes import small_profile
from tests.app.test_pipeline import call, last_json, one_line
from tests.files.compare import assert_same_measurement
from tests.files.test_kill import in_child, killed_at


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> Path:
    """A calibrated run of a four, in a folder where other runs may lie."""
    path = tmp_path_factory.mktemp("bench") / "bright.h5"
    from app.acquire.command import run_scan
    from app.calibration import calibrate_file
    from recon.files.imports import Overrides

    run_scan("tiny", 0, None, path, None)
    calibrate_file(path, None, "cpu", None, None, 0, Overrides())
    return path


@pytest.fixture(scope="module")
def low(bright) -> Path:
    """Three passes over a seven, at low dose."""
    from app.acquire.command import run_scan

    path = bright.with_name("low.h5")
    run_scan("tiny", 0, "digit:7", path, None, darks=bright, calibration=bright, passes=3)
    return path


def test_a_low_dose_plan_never_exposes_the_sample_brightly():
    profile = load_profile("quick")
    plan = make_low_dose_plan(profile, passes=2, visit=5)
    assert plan.low_dose
    streams = [step.stream for step in plan.steps]
    assert Stream.CALIBRATION not in streams
    assert streams.count(Stream.EVALUATION) == 2 * 16 * 6
    assert streams.count(Stream.EMPTY) == 1
    dark = {step.exposure_s for step in plan.steps if step.stream is Stream.DARK}
    assert dark == set(plan.exposures_s) == set(profile.scan.evaluation_exposures_s)
    visits = [step.visit for step in plan.steps if step.stream is Stream.EVALUATION]
    assert visits == sorted(visits)
    assert set(visits) == {5, 6}
    assert Plan.from_json(plan.to_json()) == plan
    spared = make_low_dose_plan(profile, darks=False, empty=False)
    assert {step.stream for step in spared.steps} == {Stream.EVALUATION}
    stage = Scan.new(profile, Path("nothing.h5")).devices
    with stage:
        cost = plan_cost(spared, stage.stage.info, profile)
    exposed = 16 * sum(profile.scan.evaluation_exposures_s)
    assert cost.sample_photons == pytest.approx(exposed * profile.light.photons_per_second)


def test_a_low_dose_plan_needs_evaluation_points():
    with pytest.raises(ProfileError, match="evaluation_positions"):
        make_low_dose_plan(small_profile(empty_frames=0, evaluation_positions=0))


def test_a_low_dose_run_says_what_it_relies_on(low, bright):
    with open_run(low) as run:
        assert Source.from_json(run.calibration_source) == Source.of(bright)
        assert run.committed(1) == 0
        assert [run.committed(entry) for entry in (2, 3)] == [9, 9]
        data, truth = run.ptychogram(2), run.truth()
    assert sorted(set(data.indices)) == [2, 5, 8]
    assert np.isfinite(truth.positions_m[[2, 5, 8]]).all()


def test_another_object_at_low_dose_is_recognised(low, bright, tmp_path, capsys):
    """1000 photons per exposure, three points, three passes; the stage stands elsewhere than in the calibration."""
    with open_run(low) as mine, open_run(bright) as other:
        assert not np.allclose(mine.truth().positions_m[0], other.truth().positions_m[0], atol=1e-9)
    run = Path(shutil.copy(low, tmp_path / "copy.h5"))
    code, out, _ = call(capsys, "reconstruct", run, "--out", tmp_path, "--json")
    assert code == 0
    values = last_json(out)
    assert Path(values["calibration"]) == bright.resolve()
    assert values["psnr_db"] > 16
    assert load_result(run, 2, "reconstruction_latent") is not None


def test_the_same_bench_is_found_through_the_affine_map_and_the_empty_beam(low, bright):
    light, window = reused_illumination(low, 2, bright)
    stored = load_calibration(bright)
    with open_run(bright) as run:
        nominal = run.ptychogram(1)
    with open_run(low) as run:
        truth = run.truth()
    assert light.geometry.distance_m == stored.distance_m
    assert window == stored.settings["window_px"]
    assert light.electrons_per_second == pytest.approx(float((np.abs(stored.probe) ** 2).sum()), rel=0.01)
    assert light.indices.tolist() == [2, 5, 8]
    # Better than the stage's own word: the bench's rotation is known, this visit's errors of 2 um are not.
    own = {int(i): p for i, p in zip(nominal.indices, nominal.positions_m, strict=True)}
    found = light.positions_m - truth.positions_m[light.indices]
    raw = np.array([own[int(i)] for i in light.indices]) - truth.positions_m[light.indices]
    assert np.sqrt((found - found.mean(0)) ** 2).mean() < 4e-6
    assert len(raw) == 3


def test_a_latent_image_does_not_see_the_calibrations_object(low, bright, tmp_path, capsys):
    """The object in the calibrated file is replaced by nonsense: nothing changes."""
    results = []
    for spoil in (False, True):
        other, run = tmp_path / f"other{spoil}.h5", tmp_path / f"low{spoil}.h5"
        shutil.copy(bright, other)
        shutil.copy(low, run)
        if spoil:
            with h5py.File(other, "r+") as file:
                file["entry_1/image_2/data"][...] = np.nan
                file["entry_1/truth/object"][...] = 0
        code, out, _ = call(
            capsys, "reconstruct", run, "--calibration", other, "--pose", "known", "--out", tmp_path, "--json"
        )
        assert code == 0
        results.append((load_result(run, 2, "reconstruction_latent")[0], last_json(out)["log_evidence"]))
    for name, image in results[0][0].items():
        np.testing.assert_array_equal(image, results[1][0][name])
    assert results[0][1] == results[1][1]


def test_what_does_not_belong_is_refused_in_one_line(low, bright, tmp_path, capsys):
    unwanted = tmp_path / "x.h5"
    arguments = ["--profile", "tiny", "--seed", 1, "--calibration", bright, "--out", unwanted]
    code, _, err = call(capsys, "scan", *arguments)
    assert code == 2
    assert "camera 'sim-0' instead of 'sim-1'" in err
    assert not unwanted.exists()
    code, _, err = call(capsys, "calibrate", low)
    assert code == 2
    assert "low-dose" in one_line(err)
    code, _, err = call(capsys, "scan", "--profile", "tiny", "--passes", 2, "--out", tmp_path / "y.h5")
    assert code == 2
    assert "--calibration" in one_line(err)
    code, _, err = call(capsys, "scan", "--profile", "tiny", "--calibration", low, "--out", tmp_path / "z.h5")
    assert code == 2
    assert "not calibrated" in one_line(err)
    stranger = tmp_path / "stranger.h5"
    shutil.copy(bright, stranger)
    with h5py.File(stranger, "r+") as file:
        del file["entry_1/stage_serial"]
        file["entry_1/stage_serial"] = np.bytes_("other")
    code, _, err = call(capsys, "reconstruct", low, "--calibration", stranger)
    assert code == 2
    assert "stage 'other' instead of 'sim-0'" in one_line(err)


def test_a_calibration_that_is_gone_or_new_is_named(low, bright, tmp_path, capsys):
    moved = tmp_path / "low.h5"
    shutil.copy(low, moved)
    hidden = bright.with_name("hidden.h5")
    bright.rename(hidden)
    try:
        code, _, err = call(capsys, "reconstruct", moved)
        assert code == 2
        assert "bright.h5 is not there; give it with --calibration" in one_line(err)
        # Beside the run it is found again, and a new calibration is not the old one.
        beside = tmp_path / "bright.h5"
        shutil.copy(hidden, beside)
        with h5py.File(beside, "r+") as file:
            file["entry_1/calibration/distance"][...] = 0.021
        code, _, err = call(capsys, "reconstruct", moved)
        assert code == 2
        assert "calibrated anew" in one_line(err)
    finally:
        hidden.rename(bright)


def test_a_killed_low_dose_scan_resumes_to_the_same_run(low, bright, tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for number in (20, 150, 300):
        path = tmp_path / f"killed{number}.h5"

        def run(path=path, number=number):
            scan = Scan.low_dose(load_profile("tiny"), path, bright, 0, "digit:7", darks=bright, passes=3)
            with scan.devices:
                runner = scan.runner()
                writer = runner._open_writer

                def open_writer():
                    opened = writer()
                    opened._fault = killed_at(number)
                    return opened

                runner._open_writer = open_writer
                runner.run()

        assert in_child(run) == 77
        rest = Scan.interrupted(path)
        with rest.devices:
            rest.runner().run()
        assert_same_measurement(path, low)
        with open_run(path) as file:
            assert json.loads(file.calibration_source)["sha256"] == Source.of(bright).sha256
