"""Complex objects through the commands on the `tiny` bench: scan, calibrate, reconstruct, compare, refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.errors import run_guarded
from recon.files.read import open_run
from recon.files.results import load_result


def command(*arguments: str) -> dict[str, Any]:
    """The JSON line of a command that must succeed."""
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> Path:
    """A calibrated run of a digit with a relief."""
    folder = tmp_path_factory.mktemp("complex")
    path = folder / "run.h5"
    command("scan", "--profile", "tiny", "--object", "relief:digit:4", "--out", str(path))
    command("calibrate", str(path), "--out", str(folder), "--epochs", "60", "--no-uncertainty")
    return path


@pytest.fixture
def run_path(calibrated, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copy(calibrated, tmp_path / "run.h5"))


def test_the_run_holds_the_true_phase(calibrated):
    with open_run(calibrated) as run:
        truth = run.truth()
    bright = np.abs(truth.object) > 0.9
    # Beyond the opaque field the beam passes; the digit's phases go over two rad.
    inner = np.angle(truth.object)[bright]
    assert inner.max() - inner.min() > 1.5
    assert np.abs(truth.object).max() < 1 + 1e-5


def test_latent_and_conventional_are_scored_in_amplitude_and_phase(run_path, tmp_path):
    common = (str(run_path), "--out", str(tmp_path / "r"))
    latent = command("reconstruct", *common, "--decoder", "mnist-complex", "--pose", "known")
    pixels = command("reconstruct", *common, "--method", "conventional", "--no-positivity", "--epochs", "4")
    for values in (latent, pixels):
        assert np.isfinite(values["psnr_db"])
        assert values["phase_psnr_db"] == pytest.approx(20 * np.log10(2 * np.pi / values["phase_error_rad"]))
        assert Path(values["figure"]).stat().st_size > 10_000
    # A phase nobody looked for would be wrong by 0.4 rad and more here.
    assert latent["phase_error_rad"] < 0.3
    assert latent["verdict"] in ("recovered", "ambiguous", "not enough light", "not of this class")
    assert 0 < latent["expected_phase_error_rad"] < 0.3
    assert latent["beam_tilt_rad"] == pixels["beam_tilt_rad"]
    assert np.abs(latent["beam_tilt_rad"]).max() > 1e-4, "the calibration took the relief's slope for the beam's"
    arrays, settings = load_result(run_path, 2, "reconstruction_latent")
    assert {"image", "deviation", "phase", "phase_deviation", "phase_spread", "phase_samples"} <= set(arrays)
    assert arrays["phase"].shape == arrays["image"].shape == (32, 32)
    assert settings["phase_error_rad"] == latent["phase_error_rad"]
    assert settings["decoder"] == "mnist-complex"
    _, settings = load_result(run_path, 2, "reconstruction_conventional")
    assert settings["phase_error_rad"] == pixels["phase_error_rad"]


def test_a_free_pose_in_the_dark(run_path, tmp_path):
    values = command("reconstruct", str(run_path), "--decoder", "mnist-complex", "--out", str(tmp_path / "r"))
    assert values["exposure_s"] == pytest.approx(3e-4)
    assert max(values["pose_sigma"]) > 0
    assert values["accepted"] == pytest.approx(1)
    assert np.isfinite(values["phase_error_rad"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "hybrid"), "the hybrid method"),
        (("--method", "paper"), "the paper's method"),
        (("--decoder", "auto:mnist-4,mnist-complex"), "--decoder auto"),
    ],
)
def test_what_takes_amplitudes_only_says_so_in_one_line(run_path, capsys, arguments, said):
    chosen = () if "--decoder" in arguments else ("--decoder", "mnist-complex")
    line = ["reconstruct", str(run_path), *arguments, *chosen]
    assert run_guarded(lambda: app(line, standalone_mode=False)) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert "mnist-complex" in message
    assert f"{said} takes a decoder that draws an amplitude; installed of those: mnist, " in message
    assert "reconstruct --method latent" in message


def test_a_demo_refuses_before_anything_is_written(tmp_path, capsys):
    line = ["demo", "--profile", "tiny", "--decoder", "mnist-complex", "--out", str(tmp_path / "d")]
    assert run_guarded(lambda: app(line, standalone_mode=False)) == 2
    assert "demo takes a decoder that draws an amplitude" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_without_an_empty_beam_a_phase_is_not_looked_for(tmp_path, capsys):
    text = (Path("app/profiles/tiny.toml").read_text()).replace("empty_frames = 1", "empty_frames = 0")
    profile = tmp_path / "bare.toml"
    profile.write_text(text)
    path = tmp_path / "bare.h5"
    command("scan", "--profile", str(profile), "--object", "relief:digit:4", "--out", str(path))
    command("calibrate", str(path), "--out", str(tmp_path), "--epochs", "8", "--no-uncertainty")
    line = ["reconstruct", str(path), "--decoder", "mnist-complex"]
    assert run_guarded(lambda: app(line, standalone_mode=False)) == 2
    assert "has no empty beam" in capsys.readouterr().err.strip().splitlines()[-1]
