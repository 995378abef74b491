"""The whole chain on the `tiny` bench: scan, calibrate, reconstruct, demo, and what each says when it cannot."""

import errno
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.acquire.command import run_scan
from app.cli import app
from app.errors import UsageError, run_guarded
from recon.device import DeviceError, pick_device
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result, store_calibration
from recon.metrics import fit_positions


def call(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program."""
    code = run_guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last_json(out: str) -> dict:
    """The JSON object on the last line."""
    return json.loads(out.splitlines()[-1], parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def one_line(err: str) -> str:
    """The single line of a user's mistake."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict:
    """One demo on the tiny bench: its JSON values."""
    folder = tmp_path_factory.mktemp("demo")
    from app.demo import run_demo

    return run_demo("tiny", 0, None, folder, "cpu", None)


@pytest.fixture
def run_path(demo, tmp_path):
    """A copy of the demo's run that a test may change."""
    return Path(shutil.copy(demo["run"], tmp_path / "run.h5"))


def test_a_demo_replaces_a_demos_run_and_no_other(demo, tmp_path):
    from app.demo import MARK, run_demo

    assert load_result(Path(demo["run"]), 1, MARK) is not None
    other = tmp_path / "run.h5"
    run_scan("tiny", 1, None, other, None, None)
    before = other.read_bytes()
    with pytest.raises(UsageError, match=r"run\.h5 is not a demo's run; choose another --out"):
        run_demo("tiny", 0, None, tmp_path, "cpu", None)
    assert other.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_a_calibration_of_a_part_of_a_run_is_not_taken_for_the_whole(run_path, tmp_path, capsys):
    whole = load_calibration(run_path)
    assert whole is not None
    store_calibration(run_path, replace(whole, positions_m=whole.positions_m[:3]))
    line = r"its calibration is of 3 frames, the bright scan has 9 by now; run `ptychoscope calibrate"
    for command in (
        ("reconstruct", run_path, "--pose", "known"),
        ("reconstruct", run_path, "--calibration", shutil.copy(run_path, tmp_path / "other.h5")),
        ("export", run_path, "--out", tmp_path / "out.cxi"),
    ):
        code, _, err = call(capsys, *command)
        assert code == 2
        assert re.search(line, " ".join(err.split()))


def test_a_calibration_that_cannot_be_drawn_is_kept(run_path, tmp_path, capsys, monkeypatch):
    def full(calibration, data, left, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("app.calibration.draw", full)
    before = load_calibration(run_path)
    code, _, err = call(capsys, "calibrate", run_path, "--epochs", 3, "--no-uncertainty", "--out", tmp_path / "c")
    assert code == 2
    assert "make room" in err
    after = load_calibration(run_path)
    assert before is not None
    assert after is not None
    assert len(after.loss) == 3
    assert len(before.loss) != 3


def test_demo_reports_what_scripts_rely_on(demo):
    assert {"seconds", "run", "figure", "calibration", "exposures"} <= set(demo)
    assert {"distance_error_m", "position_rms_px", "probe_error"} <= set(demo["calibration"])
    assert len(demo["exposures"]) == 2
    for line in demo["exposures"]:
        assert {"exposure_s", "photons_per_exposure", "psnr_latent_db", "psnr_conventional_db"} <= set(line)
    assert demo["exposures"][0]["photons_per_exposure"] == pytest.approx(1e3, rel=1e-3)
    with Image.open(demo["figure"]) as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_demo_beats_its_own_baselines_in_the_dark(demo):
    darkest = demo["exposures"][0]
    assert darkest["recognisable"]
    assert 0 < darkest["sigma_mean"] < 0.5
    assert darkest["psnr_latent_db"] > demo["prior_mean_db"] + 2
    # The opponent has positivity and a strength that suits the noise: 12.9 dB here, where a constant one gave 10.9.
    assert darkest["psnr_latent_db"] > darkest["psnr_conventional_db"] + 1
    assert max(line["psnr_latent_db"] for line in demo["exposures"]) < demo["decoder_ceiling_db"] + 0.5


def test_demo_numbers_can_be_recomputed_from_its_run(demo):
    with open_run(demo["run"]) as run:
        truth, pixel, indices = run.truth(), run.geometry().pixel_size_m, run.ptychogram(1).indices
    stored = load_calibration(demo["run"])
    fit = fit_positions(stored.positions_m, truth.positions_m[indices])
    assert fit.rms_m / pixel == pytest.approx(demo["calibration"]["position_rms_px"], rel=1e-6)
    assert fit.rms_m / pixel < 0.5
    error = stored.distance_m / fit.scale - truth.distance_m
    assert error == pytest.approx(demo["calibration"]["distance_error_m"], rel=1e-6)
    assert demo["calibration"]["probe_error"] < 0.2
    arrays, settings = load_result(demo["run"], 2, "reconstruction_latent")
    assert arrays["image"].shape == (32, 32)
    assert settings["decoder_sha256"]
    assert settings["psnr_db"] == pytest.approx(demo["exposures"][0]["psnr_latent_db"])


def test_calibrate_command(run_path, tmp_path, capsys):
    code, out, _ = call(capsys, "calibrate", run_path, "--out", tmp_path / "c", "--epochs", "16", "--json")
    assert code == 0
    values = last_json(out)
    assert {"distance_m", "loss", "epochs", "seconds", "figure"} <= set(values)
    assert values["epochs"] == 16
    assert values["distance_m"] == pytest.approx(20e-3, rel=0.05)
    assert (tmp_path / "c" / "calibration.png").stat().st_size > 10_000


@pytest.mark.parametrize("method", ["latent", "hybrid", "paper", "conventional"])
def test_reconstruct_command(run_path, tmp_path, capsys, method):
    brief = ("--pose", "known") if method in ("latent", "hybrid") else ("--epochs", 4)
    brief += ("--rehearsals", 1) if method == "hybrid" else ()
    code, out, _ = call(capsys, "reconstruct", run_path, "--method", method, *brief, "--out", tmp_path / "r", "--json")
    assert code == 0
    values = last_json(out)
    assert {"method", "decoder", "exposure_s", "psnr_db", "seconds", "figure"} <= set(values)
    assert values["exposure_s"] == pytest.approx(3e-4)
    assert values["decoder"] == (None if method == "conventional" else "mnist")
    assert np.isfinite(values["psnr_db"])
    stored = load_result(run_path, 2, f"reconstruction_{method}")
    assert stored is not None
    if method == "latent":
        assert {"verdict", "converged", "photons_counted", "sigma_mean"} <= set(values)
        assert values["verdict"] in ("recovered", "ambiguous", "not enough light", "not of this class")
        arrays, settings = stored
        assert arrays["deviation"].mean() == pytest.approx(values["sigma_mean"])
        assert settings["prior"]["plain"] is False
    if method == "hybrid":
        arrays, settings = stored
        assert {"verdict", "residual", "strength", "psnr_latent_db"} <= set(values)
        assert settings["residual"] == values["residual"] > 0
        assert settings["psnr_db"] == values["psnr_db"]
        assert arrays["object"].shape[0] == arrays["object"].shape[1]
        assert arrays["deviation"].shape == arrays["object"].shape
        assert arrays["deviation"].mean() == pytest.approx(values["deviation_mean"], rel=1e-5)
        assert settings["rehearsals"] == values["rehearsals"] == 1


def test_the_decoder_with_the_most_evidence_is_taken(run_path, tmp_path, capsys):
    arguments = ("--pose", "known", "--decoder", "auto:mnist-3,mnist-4", "--out", tmp_path / "r", "--json")
    code, out, err = call(capsys, "reconstruct", run_path, *arguments)
    assert code == 0
    values = last_json(out)
    ranking = values["ranking"]
    assert sorted(place["decoder"] for place in ranking) == ["mnist-3", "mnist-4"]
    assert ranking[0]["log_evidence"] >= ranking[1]["log_evidence"]
    assert sum(place["probability"] for place in ranking) == pytest.approx(1)
    assert values["decoder"] == ranking[0]["decoder"]
    assert values["log_evidence"] == ranking[0]["log_evidence"]
    # The table for people.
    assert [line.split()[0] for line in err.splitlines() if "nats" in line] == [place["decoder"] for place in ranking]
    _, settings = load_result(run_path, 2, "reconstruction_latent")
    assert settings["decoder"] == values["decoder"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--decoder", "auto:"), "names after the colon"),
        (("--decoder", "auto:nothing"), "decoder 'nothing' not found"),
        (("--decoder", "auto", "--method", "paper"), "evidence is the latent method's"),
    ],
)
def test_auto_refuses_in_one_line(run_path, capsys, arguments, said):
    code, _, err = call(capsys, "reconstruct", run_path, *arguments)
    assert code == 2
    assert said in err.splitlines()[-1]


def test_the_landscape_of_a_run(run_path, tmp_path, capsys):
    arguments = ("--points", "11", "--decoder", "mnist-4", "--losses", "mixed,exact", "--out", tmp_path / "l", "--json")
    code, out, _ = call(capsys, "study", "landscape", "--run", run_path, *arguments)
    assert code == 0
    found = last_json(out)["landscapes"]
    with open_run(run_path) as run:
        exposures = sorted((run.exposure_s(k) for k in range(2, run.entries + 1)), reverse=True)
    labels = [f"{seconds * 1e3:.4g} ms" for seconds in (exposures[0], exposures[-1])]
    assert [(one["exposure"], one["loss"]) for one in found] == [
        (label, loss) for label in labels for loss in ("mixed", "exact")
    ]
    assert found[0]["whitened"]["optimum"] == [pytest.approx(0), pytest.approx(0)]
    assert (tmp_path / "l" / "landscape.png").stat().st_size > 10_000
    code, _, err = call(capsys, "study", "landscape", "--run", run_path, "--exposure", "7", "--out", tmp_path / "l")
    assert code == 2
    assert "no exposure of 7 s" in err.splitlines()[-1]


def test_a_scan_must_be_calibrated_before_its_object_is_sought(tmp_path, capsys):
    path = tmp_path / "bare.h5"
    assert call(capsys, "scan", "--profile", "tiny", "--out", path)[0] == 0
    code, _, err = call(capsys, "reconstruct", path)
    assert code == 2
    assert "bare.h5" in one_line(err)
    assert "calibrate" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--decoder", "nobody"], "nobody"),
        (["--method", "magic"], "magic"),
        (["--loss", "hinge"], "hinge"),
        (["--pose", "loose"], "loose"),
        (["--epochs", "4"], "--epochs"),
        (["--method", "paper", "--pose", "free"], "--pose"),
        (["--method", "hybrid", "--epochs", "4"], "--epochs"),
        (["--method", "latent", "--rehearsals", "4"], "--rehearsals"),
        (["--start", "nowhere"], "nowhere"),
        (["--exposure", "7"], "7"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_reconstruct_refuses_in_one_line_and_leaves_the_run_alone(run_path, capsys, arguments, said):
    before = hashlib.sha256(run_path.read_bytes()).hexdigest()
    code, out, err = call(capsys, "reconstruct", run_path, *arguments)
    assert code == 2
    assert out == ""
    assert said in one_line(err)
    assert hashlib.sha256(run_path.read_bytes()).hexdigest() == before


def test_demo_refuses_an_unknown_decoder_before_anything_is_written(tmp_path, capsys):
    code, _, err = call(capsys, "demo", "--profile", "tiny", "--decoder", "nobody", "--out", tmp_path / "d")
    assert code == 2
    assert "nobody" in one_line(err)
    assert not (tmp_path / "d").exists()


def test_calibrate_names_a_missing_and_a_foreign_file(tmp_path, capsys):
    code, _, err = call(capsys, "calibrate", tmp_path / "none.h5")
    assert code == 2
    assert "none.h5" in one_line(err)
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"not HDF5 at all")
    code, _, err = call(capsys, "calibrate", broken)
    assert code == 2
    assert "broken.h5" in one_line(err)


def test_a_gpu_that_is_not_there_is_named():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert pick_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="cuda:3"):
        pick_device("cuda:3")


def test_somebody_elses_near_field_data_calibrates(shared_data, tmp_path, capsys):
    path = shared_data / "ptychography" / "PETRAIII_P25_Near_Field_Ptycho.cxi"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    out = tmp_path / "petra"
    code, text, _ = call(
        capsys, "calibrate", path, "--focus-to-sample", "3.65e-3", "--epochs", "43", "--out", out, "--json"
    )
    assert code == 0
    values = last_json(text)
    assert values["distance_m"] == pytest.approx(3.63814e-3, rel=1e-4)
    with np.load(out / "calibration.npz") as result:
        loss, pixel = result["loss"], float(result["pixel_size_m"])
    assert pixel == pytest.approx(178.66e-9, rel=1e-3)
    assert loss[39] < 0.6 * loss[0]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_what_a_foreign_file_lacks_is_named_with_the_option_that_gives_it(tmp_path, capsys):
    path = tmp_path / "bare.npz"
    rng = np.random.default_rng(0)
    positions = 4e-5 * rng.standard_normal((5, 2))
    np.savez(path, data=rng.poisson(40, (5, 64, 64)).astype(np.float32), positions=positions)
    code, _, err = call(capsys, "calibrate", path)
    assert code == 2
    assert "--wavelength" in one_line(err)
    given = ["--wavelength", "5e-7", "--distance", "0.02", "--pixel-size", "1e-5", "--epochs", "41"]
    code, out, _ = call(capsys, "calibrate", path, *given, "--out", tmp_path / "o", "--json")
    assert code == 0
    assert last_json(out)["distance_m"] == pytest.approx(0.02)
