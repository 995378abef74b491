"""Frames of a study: intensities against the camera operator and the simulator's optics, noise with its moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.studies.objects import Pose, StudyObject, make_truth
from app.studies.scene import FIELD_M, StudyScene
from recon.operator import CameraOperator, Drawing
from recon.simulated import exposed, intensities, posed

SCENE = StudyScene.small(3)


def image() -> np.ndarray:
    """A smooth stroke."""
    y, x = np.mgrid[:32, :32]
    return np.exp(-((x - 14.0) ** 2) / 8 - ((y - 17.0) ** 2) / 40).astype(np.float32)


def test_intensities_are_those_that_the_camera_operator_predicts():
    truth = make_truth(StudyObject("x", image()), "matched", Pose.nominal(), SCENE)
    found = intensities(SCENE.light, SCENE.positions_m, truth.amplitude)
    operator = CameraOperator.build(
        SCENE.light, SCENE.positions_m, np.ones(3), (SCENE.frame, SCENE.frame), Drawing(32, FIELD_M)
    )
    predicted = operator.fields(torch.from_numpy(image())[None])[:, 0].abs().square()
    assert float((found - predicted).abs().sum() / found.sum()) < 0.02
    # One photon is in the illumination, so less than one comes through.
    assert 0 < float(found[0].sum()) < 1


def test_a_window_that_leaves_the_object_is_refused():
    with pytest.raises(ValueError, match="enlarge the grid"):
        intensities(SCENE.light, SCENE.positions_m + 1e-3, np.ones((SCENE.size,) * 2, np.float32))


def test_noise_has_its_moments_and_belongs_to_its_seed():
    per_second = torch.full((1, 300, 300), 0.02)
    words = np.array([3, 1, 4], np.uint32)
    frames = exposed(per_second, 50.0, 0.3, words)
    assert float(frames.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(frames.var()) == pytest.approx(1.0 + 0.09, abs=0.03)
    torch.testing.assert_close(frames, exposed(per_second, 50.0, 0.3, words), rtol=0, atol=0)
    assert not torch.equal(frames, exposed(per_second, 50.0, 0.3, words + np.uint32(1)))


def test_an_image_moves_where_its_pose_says():
    moved = posed(image(), np.array([2 * FIELD_M / 32, -FIELD_M / 32, 0, 0]), FIELD_M)
    np.testing.assert_allclose(moved[4:-4, 4:-4], np.roll(image(), (2, -1), (0, 1))[4:-4, 4:-4], atol=1e-5)
