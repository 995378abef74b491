"""Two processes at one calibration: the result of one, an end for all, one line for a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.calibrate import batch_of, calibrate
from recon.dataset import DatasetError
from recon.device import DeviceError
from recon.team import ALONE, TeamError, join, share_of
from tests.recon.scans import bright_scan
from tests.recon.team_process import COUNT, SETTINGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """What two processes found: arrays and notes of each rank."""
    folder = tmp_path_factory.mktemp("team")
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.recon.team_process", str(folder), str(rank)],
            cwd=ROOT,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    arrays = [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(2)]
    notes = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    return arrays, notes, folder


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return calibrate(bright_scan(count=COUNT).data, SETTINGS)


def test_two_processes_find_what_one_finds(team, alone):
    (first, second), _, _ = team
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    np.testing.assert_allclose(first["loss"], alone.loss, rtol=1e-5)
    np.testing.assert_allclose(first["streamed"], alone.loss, rtol=1e-5)
    # A parabola through losses that differ by rounding; a fiftieth of what counts as converged.
    np.testing.assert_allclose(first["distance"], alone.distance_m, rtol=0, atol=2e-8)
    np.testing.assert_allclose(first["positions"], alone.illumination.positions_m, atol=2e-9)
    np.testing.assert_allclose(first["flux"], alone.flux, rtol=1e-5)
    for name, values in (("object", alone.object), ("probe", alone.illumination.probe)):
        # Not pixel by pixel: where a gradient is nothing but rounding, Adam makes a step of it, and a polish another
        # one from the differences of such gradients (2e-5 without).
        assert np.linalg.norm(first[name] - values) < 3e-4 * np.linalg.norm(values), name


def test_the_wish_of_one_ends_all_with_the_best_so_far(team, alone):
    _, notes, folder = team
    assert notes[0]["interrupted"]
    assert notes[1]["interrupted"]
    assert notes[0]["epochs"] == notes[1]["epochs"] == 2
    np.testing.assert_allclose(notes[0]["loss"], alone.loss[:2], rtol=1e-5)
    # Kept for who wants to go on; that of the calibration that ended by itself is gone.
    assert (folder / "state.checkpoint").exists()


def test_a_failing_process_ends_the_others_with_one_line(team):
    _, notes, _ = team
    assert notes[1]["error"].startswith("DatasetError: frame ")
    assert notes[0]["error"].startswith("TeamError: process 0 of 2: another process of this calibration has ended")
    assert "\n" not in notes[0]["error"]


def test_steps_must_share_out_equally():
    assert batch_of(SETTINGS, 17, 2) == 4
    with pytest.raises(DatasetError, match="3 processes cannot share steps of 4 of 17 frames equally"):
        batch_of(SETTINGS, 17, 3)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    data = bright_scan(count=3).data
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join("cpu") as (team, device):
        assert (team.rank, team.size, device) == (0, 1, "cpu")
        assert team is ALONE
        assert share_of(data, team) is data
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DeviceError, match="nonsense"), join("nonsense"):
        pass
    # Nothing says where the others are.
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TeamError, match="the 2 processes do not find each other"), join("cpu"):
        pass
