"""Every wrong orientation of a simulated scan is put right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.calibrate import CalibrationSettings
from recon.orient import AS_GIVEN, EVERY, Orientation, orient, oriented, turned
from tests.recon.scans import bright_scan

SETTINGS = CalibrationSettings(probe_diameter_m=280e-6, lit_energy=1.0, batch=4)


@pytest.fixture(scope="module")
def scan():
    torch.set_num_threads(1)
    return bright_scan(count=12).data


@pytest.fixture(scope="module")
def verdict(scan):
    return orient(scan, SETTINGS)


def undone(wrong: Orientation) -> tuple[Orientation, Orientation]:
    """What puts data right that were turned by `wrong`: found by trying, and its equal."""
    picture = np.arange(6).reshape(2, 3)
    way = next(k for k in range(8) if np.array_equal(turned(turned(picture, wrong.frames), k), picture))
    right = Orientation(way, wrong.sign)
    return right, right.same


def test_a_right_scan_is_left_alone(verdict):
    assert verdict.as_given
    assert verdict.best == AS_GIVEN
    assert verdict.clear
    assert {trial.orientation for trial in verdict.trials} == set(EVERY)
    assert all(a.loss == b.loss for a, b in zip(verdict.trials[::2], verdict.trials[1::2], strict=True))
    pairs = zip(verdict.trials[::2], verdict.trials[1::2], strict=True)
    assert all(a.orientation.same == b.orientation for a, b in pairs)


@pytest.mark.parametrize("wrong", EVERY, ids=lambda o: f"{o.frames}{'+' if o.sign > 0 else '-'}")
def test_every_wrong_orientation_is_put_right(scan, wrong):
    found = orient(oriented(scan, wrong), SETTINGS, epochs=(2, 2))
    assert found.best in undone(wrong)
    assert found.clear


def test_turning_back_gives_the_data_again(scan):
    for wrong in EVERY:
        right = undone(wrong)[0]
        back = oriented(oriented(scan, wrong), right)
        np.testing.assert_array_equal(back.frames, scan.frames)
        np.testing.assert_array_equal(back.positions_m, scan.positions_m)
