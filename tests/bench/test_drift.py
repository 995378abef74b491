"""The empty beam before and after a scan, and bracketed calibration exposures."""

import json

import numpy as np
import pytest

from app.acquire.drift import beam_drift, record_drift, stored_drift
from app.acquire.plan import Plan, Stream
from app.acquire.planning import make_plan
from app.acquire.scan import Scan
from app.cli import app
from app.profile import Profile, ProfileError, load_profile, parse_profile
from recon.files.read import open_run
from tests.acquire.fakes import FakeBench, small_profile
from tests.bench.rigs import changed
from tests.files.compare import assert_same_measurement


def scanned(path, profile, seed=0):
    scan = Scan.new(profile, path, seed=seed)
    with scan.devices:
        scan.runner().run()
    return path


def test_the_second_empty_beam_comes_last_and_changes_nothing_before_it():
    plain, twice = make_plan(load_profile("quick")), make_plan(changed("quick", scan__empty_after=True))
    assert twice.steps[:-1] == plain.steps
    last = twice.steps[-1]
    assert (last.stream, last.target.as_tuple()) == (Stream.EMPTY, load_profile("quick").stage.park_m)
    assert load_profile("paper").scan.empty_after
    assert Plan.from_json(twice.to_json()) == twice


STEADY = {"scan__empty_after": True, "scan__empty_frames": 4, "light__photons_per_second": 1e7}


def test_a_steady_beam_is_called_steady(tmp_path):
    drift = record_drift(scanned(tmp_path / "run.h5", changed("tiny", **STEADY)))
    assert drift.warning() is None
    assert abs(drift.flux_change) < 4 * drift.flux_error
    for shift, error in zip(drift.shift_px, drift.shift_error_px, strict=True):
        assert abs(shift) < 4 * error < 0.1
    assert (drift.frames_before, drift.frames_after) == (4, 4)


def test_a_beam_that_moves_and_fades_is_measured_against_the_truth_and_stored(tmp_path):
    profile = changed(
        "tiny", **STEADY, simulation__flux_drift_per_h=-2.0, simulation__pointing_drift_rad_h=(0.02, -0.01)
    )
    path = scanned(tmp_path / "run.h5", profile)
    drift = record_drift(path)
    hours = drift.seconds / 3600
    # The simulated angle turns the picture about the object: angle times distance.
    distance = profile.geometry.distance_m + profile.simulation.distance_error_m
    expected = np.array([0.02, -0.01]) * hours * distance / profile.camera.pixel_size_m
    assert np.abs(expected).min() > 0.05
    assert drift.shift_px == pytest.approx(expected, abs=0.02)
    assert drift.flux_change == pytest.approx(-2.0 * hours, abs=0.003)
    assert "the beam was not steady" in drift.warning()
    assert "flux changed" in drift.warning()
    assert "centre moved" in drift.warning()
    assert stored_drift(path)["flux_change"] == drift.flux_change
    before = path.read_bytes()
    record_drift(path)
    assert path.read_bytes() == before


def test_without_a_second_empty_beam_there_is_nothing_to_compare(tmp_path):
    path = scanned(tmp_path / "run.h5", load_profile("tiny"))
    assert record_drift(path) is None
    assert stored_drift(path) is None
    with open_run(path) as run:
        beam = run.empty_beam()
    assert beam.before == 1
    assert beam_drift(beam) is None


def test_the_command_warns(capsys, tmp_path):
    from app.bench.characterisation import to_toml  # noqa: F401
    from app.profile import PROFILES

    text = (PROFILES / "tiny.toml").read_text()
    text = text.replace("empty_frames = 1", "empty_frames = 2\nempty_after = true")
    text = text.replace("[simulation]", "[simulation]\nflux_drift_per_h = 3.0")
    (tmp_path / "p.toml").write_text(text)
    app(
        ["scan", "--profile", str(tmp_path / "p.toml"), "--out", str(tmp_path / "r.h5"), "--json"],
        standalone_mode=False,
    )
    captured = capsys.readouterr()
    values = json.loads(captured.out.splitlines()[-1])
    assert values["drift"]["flux_change"] > 0.01
    assert "warning: the beam was not steady" in captured.err
    app(["scan", "--resume", str(tmp_path / "r.h5"), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["drift"] == values["drift"]


def test_bracketed_exposures_share_an_entry_each_with_its_own_darks(tmp_path):
    profile = changed("tiny", scan__calibration_exposures_s=(0.01, 0.1, 0.3), light__photons_per_second=6e6)
    path = scanned(tmp_path / "run.h5", profile)
    with open_run(path) as run:
        data, raw = run.ptychogram(), run.raw()
        dark = run.dark()
        truth = run.truth()
    assert len(data) == 27
    assert sorted(set(data.exposures_s)) == [0.01, 0.1, 0.3]
    assert data.exposures_s[:3].tolist() == [0.01, 0.1, 0.3]
    assert (np.bincount(data.indices) == 3).all()
    np.testing.assert_array_equal(data.positions_m[0], data.positions_m[2])
    assert np.isfinite(truth.positions_m).all()
    # Counts per second agree between the exposures where nothing is clipped.
    assert data.saturated is None or not data.saturated[data.exposures_s == 0.01].any()
    rates = data.frames[:3][:, data.mask].sum(axis=1) / data.exposures_s[:3]
    assert rates[1] == pytest.approx(rates[2], rel=0.01)
    np.testing.assert_allclose(data.frames[2], (raw[2] - dark.mean_adu) * 0.11, rtol=1e-3, atol=0.05)


def test_a_bracketed_run_with_both_empty_beams_resumes_to_the_same_file(tmp_path):
    profile = small_profile(calibration_exposures_s=(0.01, 0.3), empty_after=True)
    FakeBench(profile).run(tmp_path / "whole.h5")
    for stop in range(3, make_plan(profile).frames, 4):
        bench = FakeBench(profile)
        taken = []

        def die(taken=taken, stop=stop):
            taken.append(1)
            if len(taken) == stop:
                raise OSError("gone")

        bench.camera.on_acquire = die
        path = tmp_path / f"part{stop}.h5"
        with pytest.raises(OSError, match="gone"):
            bench.run(path)
        FakeBench(profile).resume(path)
        assert_same_measurement(path, tmp_path / "whole.h5")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("calibration_exposures_s = [0.3, 0.1]", "ascend"),
        ("calibration_exposures_s = [0.1]", "lacks calibration_exposure_s"),
        ("empty_after = true", "empty_frames"),
    ],
)
def test_brackets_that_make_no_sense_are_refused(line, word):
    from app.profile import PROFILES

    text = (PROFILES / "tiny.toml").read_text().replace("empty_frames = 1", "empty_frames = 0")
    with pytest.raises(ProfileError, match=word):
        parse_profile(text.replace("[scan]", f"[scan]\n{line}"), "p")


def test_profiles_of_earlier_runs_still_load():
    raw = load_profile("tiny").model_dump(mode="json")
    for section, keys in {
        "scan": ("empty_after", "calibration_exposures_s"),
        "simulation": ("mounting", "sensor_shape", "beam_offset_px", "exposure_offset_s", "flux_drift_per_h"),
    }.items():
        for key in keys:
            del raw[section][key]
    del raw["characterisation"]
    assert Profile.model_validate(raw) == load_profile("tiny")
