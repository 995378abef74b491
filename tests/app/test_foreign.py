"""Other people's files through the commands: a cone beam, and the far field from import to calibration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from recon.files.exchange import ExchangeFormat, export
from recon.files.imports import read_any
from tests.files.foreign import far_field_npz
from tests.recon.scans import bright_scan


def command(*arguments: str) -> dict[str, Any]:
    """The JSON line of a command that must succeed."""
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory) -> Path:
    """A scan in a parallel beam, without an empty beam, as a CXI file."""
    path = tmp_path_factory.mktemp("parallel") / "parallel.cxi"
    data = replace(bright_scan(count=12, error_m=0.0).data, empty=None, empty_exposure_s=None)
    export(data, path, ExchangeFormat.CXI)
    return path


def test_a_cone_beam_is_its_parallel_equivalent(parallel, tmp_path):
    """The same frames, written down as four times magnified: Fresnel scaling gives the same calibration."""
    data = read_any(parallel)
    g = data.geometry
    cone = tmp_path / "cone.cxi"
    magnified = replace(g, pixel_size_m=4 * g.pixel_size_m, distance_m=4 * g.distance_m)
    export(replace(data, geometry=magnified), cone, ExchangeFormat.CXI)
    focus = str(4 * g.distance_m / 3)
    imported = command("import", str(cone), "--focus-to-sample", focus, "--out", str(tmp_path / "imported.cxi"))
    assert imported["distance_m"] == pytest.approx(g.distance_m)
    assert imported["pixel_size_m"] == pytest.approx(g.pixel_size_m)
    options = ("--probe-diameter", "280e-6", "--epochs", "6", "--no-uncertainty", "--modes", "2")
    found = command("calibrate", str(cone), "--focus-to-sample", focus, "--out", str(tmp_path / "a"), *options)
    other = command("calibrate", str(parallel), "--out", str(tmp_path / "b"), *options)
    assert found["distance_m"] == pytest.approx(g.distance_m)
    assert found["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_far_field_frames_go_from_import_to_calibration(tmp_path):
    rng = np.random.default_rng(1)
    scan = rng.normal(0, 4, (1, 20, 2))
    y, x = np.indices((32, 32)) - 16
    light = (np.exp(-(y**2 + x**2) / 40) * np.exp(0.04j * (y**2 + x**2))).astype(np.complex64)
    pattern = np.abs(np.fft.fft2(light)) ** 2
    frames = rng.poisson(np.broadcast_to(pattern, (1, 20, 32, 32))).astype(np.float32)
    source = far_field_npz(tmp_path / "star.npz", data=frames, scan=scan, probe=light[None, None])
    geometry = ("--wavelength", "1e-10", "--distance", "2", "--pixel-size", "1e-4")
    kind = ("--far-field", "--zero-in-corner")
    copy = tmp_path / "star.cxi"
    command("import", str(source), *kind, *geometry, "--out", str(copy))
    # The copy says that it is of the far field, and where zero frequency is.
    values = command("calibrate", str(copy), "--probe", str(source), "--epochs", "4", "--out", str(tmp_path))
    assert "far field" in values["propagation"][0]
    assert values["loss"] < 1.5
    with np.load(tmp_path / "calibration.npz") as found:
        assert bool(found["far_field"])
        assert float(found["object_pixel_m"]) == pytest.approx(1e-10 * 2 / (32 * 1e-4))
    verdict = command("orient", str(source), *kind, *geometry, "--probe", str(source), "--out", str(tmp_path / "o"))
    assert len(verdict["losses"]) == 16


def test_flux_and_background_are_searched_when_asked(parallel, tmp_path):
    """Half an electron a pixel of stray light is found only where it is looked for."""
    data = read_any(parallel)
    mean = float(data.frames.mean())
    stray = tmp_path / "stray.cxi"
    export(replace(data, frames=data.frames + 0.5 * mean), stray, ExchangeFormat.CXI)
    options = ("--probe-diameter", "280e-6", "--epochs", "16", "--no-uncertainty")
    plain = command("calibrate", str(stray), "--out", str(tmp_path / "a"), *options)
    free = ("--background-spread", "1", "--flux-spread", "0.1")
    asked = command("calibrate", str(stray), "--out", str(tmp_path / "b"), *options, *free)
    assert plain["background_e_s"] == 0
    assert asked["background_e_s"] > 0.1 * mean / float(data.exposures_s[0])
    assert asked["loss"] < plain["loss"]
