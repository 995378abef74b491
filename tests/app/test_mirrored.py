"""The warning of `calibrate` when a scan looks mirrored, and its silence when it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.calibration import LEAST_FRAMES_TO_ASK, looks_mirrored
from app.progress import Course
from recon.calibrate import CalibrationSettings
from recon.orient import Orientation, oriented
from tests.recon.scans import bright_scan

SETTINGS = CalibrationSettings(probe_diameter_m=280e-6, lit_energy=1.0)


@pytest.fixture(scope="module")
def scan():
    torch.set_num_threads(1)
    return bright_scan(count=LEAST_FRAMES_TO_ASK).data


@pytest.mark.parametrize(
    ("wrong", "right"), [(Orientation(1, 1), "columns flipped"), (Orientation(4, 1), "transposed")]
)
def test_a_mirrored_scan_is_named_with_what_puts_it_right(scan, wrong, right):
    with Course(quiet=True) as course:
        said = looks_mirrored(oriented(scan, wrong), SETTINGS, "cpu", course)
    assert said.startswith(f"looks mirrored: {right} explains the frames better by ")
    assert "ask ptychoscope orient" in said
    assert "\n" not in said


def test_a_right_scan_and_one_of_few_frames_are_not_warned_of(scan):
    with Course(quiet=True) as course:
        assert looks_mirrored(scan, SETTINGS, "cpu", course) == ""
        few = oriented(scan, Orientation(1, 1)).select(np.arange(LEAST_FRAMES_TO_ASK - 1))
        assert looks_mirrored(few, SETTINGS, "cpu", course) == ""
