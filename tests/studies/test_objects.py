"""Objects of a study: stacks, folders and their errors; masks, poses and the scores' two grids."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import center_of_mass, gaussian_filter

from app.errors import UsageError
from app.studies.objects import Pose, StudyObject, load_objects, make_truth
from app.studies.scene import FIELD_M, StudyScene
from app.studies.scores import LEAST_DICE, Reference, References, Scores, reference_key

SCENE = StudyScene.small()


def blob(side: int = 32) -> np.ndarray:
    """A lopsided smooth shape that a decoder could draw."""
    image = np.zeros((32, 32))
    image[8:24, 12:16] = 1
    image[8:12, 12:22] = 1
    smooth = np.clip(gaussian_filter(image, 0.8), 0, 1)
    return np.kron(smooth, np.ones((side // 32, side // 32))).astype(np.float32)


def test_stacks_and_folders_are_read(tmp_path):
    stack = np.stack([blob(), blob()[::-1]])
    np.save(tmp_path / "a.npy", stack)
    np.savez(tmp_path / "b.npz", images=stack, labels=np.arange(2))
    for name in ("a.npy", "b.npz"):
        found = load_objects(str(tmp_path / name), None)
        assert [o.name for o in found] == [f"{name}:0", f"{name}:1"]
        np.testing.assert_array_equal(found[1].image, stack[1])
    (tmp_path / "pictures").mkdir()
    Image.fromarray((255 * blob(128)).astype(np.uint8)).save(tmp_path / "pictures" / "one.png")
    (picture,) = load_objects(str(tmp_path / "pictures"), 1)
    assert picture.image.shape == (128, 128)
    small = make_truth(picture, "matched", Pose.nominal(), SCENE).small
    np.testing.assert_allclose(small, blob(), atol=0.01)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: np.save(p, np.zeros((3, 28, 28))), r"shape \(3, 28, 28\)"),
        (lambda p: np.save(p, np.zeros((0, 32, 32))), "holds no image"),
        (lambda p: np.save(p, np.full((1, 32, 32), 7.0)), "leave 0..1"),
        (lambda p: np.save(p, np.full((1, 32, 32), np.nan)), "leave 0..1"),
        (lambda p: np.save(p, np.zeros((1, 32, 32), np.uint8)), "needs floats"),
        (lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read"),
        (lambda p: p.write_bytes(b"nonsense"), "cannot be read"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: None, "cannot be read"),
    ],
)
def test_a_broken_stack_is_one_line(tmp_path, make, says):
    path = tmp_path / "stack.npy"
    make(path)
    with pytest.raises(UsageError, match=says) as caught:
        load_objects(str(path), None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_must_say_which_array_it_means(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros((1, 32, 32)), b=np.zeros((1, 32, 32)))
    with pytest.raises(UsageError, match="holds a, b"):
        load_objects(str(tmp_path / "two.npz"), None)


def test_too_few_and_unknown_sources_are_named(tmp_path):
    np.save(tmp_path / "a.npy", blob()[None])
    with pytest.raises(UsageError, match="holds 1 images, --count asks for 2"):
        load_objects(str(tmp_path / "a.npy"), 2)
    with pytest.raises(UsageError, match="neither mnist:test"):
        load_objects("mnist:train", 2)


def test_a_mask_is_binary_with_edges_one_pixel_soft():
    amplitude = make_truth(StudyObject("x", blob()), "mask", Pose.nominal(), SCENE).amplitude
    soft = (amplitude > 0) & (amplitude < 1)
    assert 0 < soft.mean() < 0.03
    # A soft pixel has an open and an opaque one next to it.
    grown = [np.roll(amplitude, s, a) for s in (-1, 1) for a in (0, 1)]
    assert (np.max(grown, 0)[soft] == 1).mean() > 0.9
    area = amplitude.sum() * SCENE.pixel_m**2
    assert area == pytest.approx((blob() > 0.5).sum() * (FIELD_M / 32) ** 2, rel=0.1)


@pytest.mark.parametrize("values", [(40e-6, -70e-6, 0, 0), (0, 0, 0.3, 0), (0, 0, 0, 0.15), (50e-6, 30e-6, -0.2, -0.1)])
def test_a_mask_and_a_grey_truth_share_one_pose(values):
    obj, pose = StudyObject("x", blob()), Pose(np.array(values, float), 1.0)
    mask, grey = (make_truth(obj, kind, pose, SCENE) for kind in ("mask", "matched"))
    for here, there in zip(center_of_mass(mask.amplitude), center_of_mass(grey.amplitude), strict=True):
        assert here == pytest.approx(there, abs=1.0)
    agree = np.corrcoef(mask.small.ravel(), grey.small.ravel())[0, 1]
    wrong = make_truth(obj, "mask", Pose(-pose.values, 1.0), SCENE)
    assert agree > 0.93
    assert agree > np.corrcoef(wrong.small.ravel(), grey.small.ravel())[0, 1] + 0.03


def test_a_random_pose_belongs_to_its_seed():
    first, again, other = Pose.random([1, 2, 3]), Pose.random([1, 2, 3]), Pose.random([2, 2, 3])
    np.testing.assert_array_equal(first.values, again.values)
    assert first.flux == again.flux
    assert (first.values != other.values).all()


def test_scores_are_what_their_definitions_say():
    rng = np.random.default_rng(0)
    truth = make_truth(StudyObject("x", blob()), "matched", Pose.nominal(), SCENE)
    obj = truth.amplitude + 0.2 * rng.normal(size=truth.amplitude.shape)
    small = truth.small + 0.1 * rng.normal(size=(32, 32))
    scores = Scores.of(obj, small, truth, SCENE)
    lit = np.zeros_like(SCENE.lit)
    bright = np.abs(SCENE.light.probe) ** 2 > 0.05 * (np.abs(SCENE.light.probe) ** 2).max()
    window, half = len(bright), len(lit) // 2 - len(bright) // 2
    for y, x in np.round(SCENE.positions_m / SCENE.pixel_m).astype(int):
        lit[half + y : half + y + window, half + x : half + x + window] |= bright
    a, b = np.clip(np.abs(obj), 0, 1), np.clip(truth.amplitude.clip(0), 0, 1)
    b = np.clip(np.abs(truth.amplitude), 0, 1)
    assert scores.psnr_db == pytest.approx(-10 * np.log10(((a - b)[lit] ** 2).mean()))
    mse = ((np.clip(np.abs(small), 0, 1) - np.clip(truth.small, 0, 1)) ** 2).mean()
    assert scores.psnr32_db == pytest.approx(-10 * np.log10(mse))
    inside = (np.abs(obj)[lit] > 0.5).astype(int), (truth.amplitude[lit] > 0.5).astype(int)
    assert scores.dice == pytest.approx(2 * (inside[0] * inside[1]).sum() / (inside[0].sum() + inside[1].sum()))


def test_success_needs_both_the_psnr_and_the_shape():
    reference = Reference(12.0, 26.0, 12.0, 26.0)
    assert Scores(19.0, 0.0, LEAST_DICE).success(reference)
    assert not Scores(18.99, 0.0, 0.9).success(reference)
    assert not Scores(25.0, 0.0, 0.79).success(reference)


def test_an_object_on_the_small_grid_keeps_its_mean():
    obj = np.ones((SCENE.size, SCENE.size))
    np.testing.assert_allclose(SCENE.scored(obj), 1.0, atol=2e-3)
    ramp = np.broadcast_to(np.arange(SCENE.size) - SCENE.size // 2, obj.shape) * SCENE.pixel_m
    centres = (np.arange(32) - 15.5) * FIELD_M / 32
    np.testing.assert_allclose((SCENE.to_scored @ ramp @ SCENE.to_scored.T)[0], centres, rtol=5e-3, atol=1e-6)


def test_references_are_kept_in_the_study_s_folder(tmp_path):
    obj = StudyObject("x", blob())
    key = reference_key(obj, "mask", SCENE, "f" * 64)
    References(tmp_path).add(key, Reference(1.0, 2.0, 3.0, 4.0), "x mask")
    assert References(tmp_path).get(key) == Reference(1.0, 2.0, 3.0, 4.0)
    assert References(tmp_path).get(key.replace("mask", "matched")) is None
