"""Pose and flux of a drawn image, their slopes, and the prior of all that is unknown."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recon.decoders.mixture import Mixture
from recon.scene import FREE_POSE, Nuisances, Scene, moved
from tests.recon import latentscene as bench

SIZE, FIELD = 48, 0.96e-3
PITCH = FIELD / SIZE


def _blob(y: float = 0.0, x: float = 0.0, high: float = 6.0, wide: float = 3.0) -> Tensor:
    """(1, 1, SIZE, SIZE) Gaussian at (y, x) pixels from the middle, of rms `high` and `wide` pixels."""
    axis = torch.arange(SIZE) + 0.5 - SIZE / 2
    return torch.exp(-0.5 * (((axis[:, None] - y) / high) ** 2 + ((axis[None, :] - x) / wide) ** 2))[None, None]


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (2,) y, x and covariance (2, 2), pixels."""
    axis = torch.arange(SIZE, dtype=torch.float64) + 0.5 - SIZE / 2
    mass = image[0, 0].double() / image.sum().double()
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    centre = (grid * mass).sum((1, 2))
    away = grid - centre[:, None, None]
    return centre, torch.einsum("aij,bij,ij->ab", away, away, mass)


def _pose(y: float = 0.0, x: float = 0.0, turn: float = 0.0, scale: float = 0.0) -> Tensor:
    return torch.tensor([[y, x, turn, scale]])


def test_an_image_that_does_not_move_is_kept() -> None:
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(moved(image, torch.zeros(2, 4), FIELD), image, atol=1e-4)


def test_a_shift_of_whole_pixels_is_one() -> None:
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    there = moved(image, _pose(3 * PITCH, -2 * PITCH), FIELD)
    assert torch.allclose(there[..., 3:, :-2], image[..., :-3, 2:], atol=1e-4)
    assert float(there[..., :2, :].abs().max()) < 1e-4


def test_a_shift_moves_the_centroid() -> None:
    centre, spread = _moments(moved(_blob(1, -2), _pose(3.3 * PITCH, -1.6 * PITCH), FIELD))
    assert centre.tolist() == pytest.approx([4.3, -3.6], abs=0.05)
    assert spread.diagonal().tolist() == pytest.approx([36, 9], rel=0.02)


def test_a_rotation_turns_y_from_x_about_the_middle() -> None:
    turn = math.radians(30)
    centre, spread = _moments(moved(_blob(0, 5, 3.0, 2.0), _pose(turn=turn), FIELD))
    # From +x towards +y, clockwise as a picture is shown.
    assert centre.tolist() == pytest.approx([5 * math.sin(turn), 5 * math.cos(turn)], abs=0.02)
    along = torch.tensor([math.sin(turn), math.cos(turn)], dtype=torch.float64)
    assert float(along @ spread @ along) == pytest.approx(4, rel=0.03)


def test_a_magnification_scales_places_and_sizes() -> None:
    centre, spread = _moments(moved(_blob(4, -3, 3.0, 2.0), _pose(scale=math.log(1.25)), FIELD))
    assert centre.tolist() == pytest.approx([5.0, -3.75], abs=0.02)
    assert spread.diagonal().tolist() == pytest.approx([9 * 1.25**2, 4 * 1.25**2], rel=0.02)


def test_the_shift_is_applied_last() -> None:
    # Turned and magnified about the middle of the square, then shifted in metres on the object.
    centre, _ = _moments(moved(_blob(0, 5, 3.0, 3.0), _pose(2 * PITCH, 1 * PITCH, math.pi / 2, math.log(1.2)), FIELD))
    assert centre.tolist() == pytest.approx([6 + 2, 1], abs=0.03)


def _free(**sigmas: float) -> Scene:
    return bench.scene(5, Nuisances(**sigmas))


CASES = {
    "latents": {},
    "flux": {"flux": 0.2},
    "pose": {"shift_m": 30e-6, "rotation_rad": 0.15, "scale": 0.1},
    "all": {"flux": 0.2, "shift_m": 30e-6, "rotation_rad": 0.15, "scale": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_jacobians_are_the_slopes_of_the_images(case: str) -> None:
    scene = _free(**CASES[case])
    theta = 0.6 * torch.randn(3, scene.size, generator=torch.Generator().manual_seed(4))
    images, jacobian = scene.drawn(theta)
    assert torch.allclose(images, scene.images(theta), atol=1e-6)
    assert jacobian.shape == (3, bench.SIDE**2, scene.size)
    for axis in range(scene.size):
        shift = torch.zeros(scene.size)
        shift[axis] = 0.02
        slope = (scene.images(theta + shift) - scene.images(theta - shift)).flatten(1) / 0.04
        error = float((jacobian[:, :, axis] - slope).square().mean().sqrt())
        assert error < 0.02 * float(slope.square().mean().sqrt()) + 1e-5, axis


def test_flux_is_the_light_over_the_calibrated_one() -> None:
    scene = _free(flux=0.1)
    theta = torch.zeros(2, 6)
    theta[1, 5] = 2.0
    assert scene.flux(theta).tolist() == pytest.approx([1.0, math.exp(0.2)])
    power = scene.images(theta).square().sum((1, 2))
    assert float(power[1] / power[0]) == pytest.approx(math.exp(0.2), rel=1e-5)
    # The object itself does not brighten with the light.
    seen = scene.transmitted(scene.drawer.images(scene.zeta(theta)), theta)
    assert torch.allclose(seen[0], seen[1])


def test_pose_is_in_metres_and_radians() -> None:
    scene = bench.scene(5, FREE_POSE)
    theta = torch.zeros(1, scene.size)
    theta[0, -4:] = torch.tensor([1.0, -2.0, 0.5, 1.0])
    expected = [50e-6, -100e-6, 0.5 * math.radians(10), 0.1]
    assert scene.pose(theta)[0].tolist() == pytest.approx(expected)
    assert scene.size == 10


def test_without_nuisances_theta_is_the_latent() -> None:
    scene = bench.scene(5)
    theta = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    assert scene.size == 5
    assert scene.flux(theta).tolist() == [1.0, 1.0]
    assert torch.equal(scene.pose(theta), torch.zeros(2, 4))
    assert torch.equal(scene.images(theta), bench.bar(theta))


def _mixture() -> Mixture:
    means = torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    factors = torch.tensor([[[1.0, 0.0], [0.3, 0.8]], [[0.5, 0.0], [-0.2, 0.6]]])
    return Mixture(torch.tensor([0.3, 0.7]), means, factors, torch.tensor([0, 1]))


def test_log_prior_is_a_density() -> None:
    # A mixture over two latents times a unit normal for the flux integrates to one.
    scene = Scene(bench.BarDrawer(), _mixture(), Nuisances(flux=0.1), bench.FIELD)
    axis = torch.linspace(-6, 6, 61)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    assert float(scene.log_prior(grid).exp().sum()) * 0.2**3 == pytest.approx(1.0, abs=2e-3)


def test_prior_terms_are_the_slopes_of_the_log_prior() -> None:
    scene = Scene(bench.BarDrawer(), _mixture(), FREE_POSE, bench.FIELD)
    theta = torch.randn(4, scene.size, generator=torch.Generator().manual_seed(2))
    value, gradient, precision = scene.prior_terms(theta)
    assert torch.allclose(value, scene.log_prior(theta))
    for axis in range(scene.size):
        shift = torch.zeros(scene.size)
        shift[axis] = 0.01
        slope = (scene.log_prior(theta + shift) - scene.log_prior(theta - shift)) / 0.02
        assert torch.allclose(gradient[:, axis], slope, atol=5e-3)
    assert float(torch.linalg.eigvalsh(precision).min()) > 0
    rest = precision[:, 2:]
    assert torch.equal(rest[:, :, 2:], torch.eye(5).expand(4, 5, 5))
    assert float(rest[:, :, :2].abs().max()) == 0.0


def test_samples_follow_the_prior_and_the_seed() -> None:
    scene = Scene(bench.BarDrawer(), _mixture(), FREE_POSE, bench.FIELD)
    theta = scene.sample(4000, 3)
    assert torch.equal(theta, scene.sample(4000, 3))
    assert not torch.equal(theta, scene.sample(4000, 4))
    assert theta[:, :2].mean(0).tolist() == pytest.approx([1.4, -0.7], abs=0.07)
    assert theta[:, 2:].std(0).tolist() == pytest.approx([1.0] * 5, abs=0.05)
    # Latents and nuisances are independent of each other.
    assert float(torch.corrcoef(theta.T)[:2, 2:].abs().max()) < 0.06
