"""`reconstruct` with several exposures, and with what is uncertain integrated out, on the `tiny` bench."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.combining import CERTAIN, Doubt, entries_of
from app.errors import UsageError
from recon.combined import stops
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result, store_calibration
from recon.illumination import Illumination
from tests.app.test_pipeline import call, last_json, one_line


@pytest.fixture(scope="module")
def run_path(tmp_path_factory) -> Path:
    """A calibrated run."""
    from app.cli import app
    from app.errors import run_guarded

    path = tmp_path_factory.mktemp("combining") / "run.h5"
    assert run_guarded(lambda: app(["scan", "--profile", "tiny", "--out", str(path)], standalone_mode=False)) == 0
    words = ["calibrate", str(path), "--epochs", "30", "--device", "cpu"]
    assert run_guarded(lambda: app(words, standalone_mode=False)) == 0
    return path


def test_all_exposures_together(run_path, tmp_path, capsys):
    brief = ("--pose", "known", "--device", "cpu", "--out", tmp_path, "--json")
    code, out, _ = call(capsys, "reconstruct", run_path, "--exposure", "all", *brief)
    assert code == 0
    both = last_json(out)
    with open_run(run_path) as run:
        recorded = [run.exposure_s(k) for k in range(2, run.entries + 1)]
    assert both["exposures_s"] == pytest.approx(recorded)
    assert both["exposure_s"] == both["exposures_s"][0]
    assert "marginalised" not in both
    code, out, _ = call(capsys, "reconstruct", run_path, "--exposure", f"{recorded[1]:g}", *brief)
    brightest = last_json(out)
    assert brightest["exposures_s"] == pytest.approx(recorded[1:2])
    assert both["photons_counted"] > brightest["photons_counted"]
    assert both["psnr_db"] > brightest["psnr_db"] - 1
    arrays, settings = load_result(run_path, 2, "reconstruction_latent_combined")
    assert settings["exposures_s"] == pytest.approx(recorded)
    assert arrays["deviation"].mean() == pytest.approx(both["sigma_mean"])
    assert Path(both["figure"]).stat().st_size > 10_000


def test_uncertain_positions_are_integrated_out(run_path, tmp_path, capsys):
    brief = ("--pose", "known", "--device", "cpu", "--out", tmp_path, "--json")
    code, out, _ = call(capsys, "reconstruct", run_path, "--position-sigma", "5e-6", "--flux-sigma", "0.05", *brief)
    assert code == 0
    values = last_json(out)
    beside = values["marginalised"]
    assert beside["position_sigma_m"] == pytest.approx(5e-6)
    assert 0 < beside["position_left_m"] < 7e-6
    assert beside["flux_sigma"] == 0.05
    assert beside["linearisations"] >= 2
    _, settings = load_result(run_path, 2, "reconstruction_latent")
    assert settings["marginalised"] == beside
    assert settings["verdict"] == values["verdict"]


def test_what_a_calibration_says_of_itself_is_what_is_uncertain(run_path):
    stored = load_calibration(run_path)
    with open_run(run_path) as run:
        data, repeats = run.ptychogram(2), run.profile["stage"]["repeatability_m"]
        indices = run.ptychogram(1).indices
    geometry = replace(data.geometry, distance_m=stored.distance_m)
    light = Illumination(stored.probe, geometry, stored.positions_m, indices)
    own = Doubt(True).of(run_path, None, light, [data], repeats)
    assert own.distance_m == pytest.approx(stored.uncertainty.distance_sigma_m)
    assert np.array_equal(own.affine, stored.uncertainty.affine_sigma)
    assert np.all(own.position_m <= stored.uncertainty.position_sigma_m.max())
    # Under another run's calibration nothing but the stage's repeatability is known of this scan's places.
    reused = Doubt(True).of(run_path, run_path, light, [data], repeats)
    assert np.array_equal(reused.position_m, np.full((len(data), 2), repeats))
    assert np.array_equal(reused.stops, stops([data]))
    given = Doubt(position_m=7e-6, distance_m=0.0).of(run_path, None, light, [data], repeats)
    assert given.position_m.tolist() == [[7e-6, 7e-6]] * len(data)
    assert given.distance_m == 0
    assert not given.affine.any()
    assert CERTAIN.of(run_path, None, light, [data], repeats) is None


def test_nothing_known_to_be_uncertain_is_said(run_path, tmp_path):
    path = tmp_path / "bare.h5"
    path.write_bytes(run_path.read_bytes())
    stored = load_calibration(path)
    store_calibration(path, replace(stored, uncertainty=None))
    with open_run(path) as run:
        data = run.ptychogram(2)
    light = Illumination(stored.probe, data.geometry, stored.positions_m, np.arange(len(stored.positions_m)))
    with pytest.raises(UsageError, match="give --position-sigma"):
        Doubt(True).of(path, None, light, [data], 0.0)


def test_exposures_are_named_once(run_path):
    with open_run(run_path) as run:
        seconds = [run.exposure_s(k) for k in range(2, run.entries + 1)]
        assert entries_of(run, None) == [2]
        assert entries_of(run, f"{seconds[1]:g},{seconds[0]:g}") == [2, 3]
        assert entries_of(run, "all") == list(range(2, run.entries + 1))
        with pytest.raises(UsageError, match="name each once"):
            entries_of(run, f"{seconds[0]:g},{seconds[0]:g}")
        with pytest.raises(UsageError, match="seconds above zero"):
            entries_of(run, "bright")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--exposure", "all", "--method", "paper"), "combined by the latent method"),
        (("--exposure", "all", "--decoder", "auto"), "with one decoder"),
        (("--marginalise", "--method", "conventional"), "as exact"),
        (("--marginalise", "--decoder", "auto"), "name a decoder"),
        (("--exposure", "-3"), "seconds above zero"),
        (("--position-sigma", "1e300"), "--position-sigma 1e+300 m"),
        (("--flux-sigma", "1e300"), "--flux-sigma 1e+300: "),
        (("--distance-sigma", "0.01"), "a tenth of the distance"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(run_path, capsys, arguments, said):
    code, _, err = call(capsys, "reconstruct", run_path, *arguments)
    assert code == 2
    assert said in one_line(err)
