"""A poor sketch, made exact at anchors to first order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.anchored import Anchored
from tests.recon import latentscene as bench

ANCHORS = torch.tensor([[0.5, -0.4, 0.2, 0.0, 0.3], [-1.0, 0.8, -0.5, 0.6, 0.0]])
ALONG = torch.tensor([[0.3, -0.2, 0.5, 0.1, -0.4]])


class Poor:
    """Bars that are too dim and lie elsewhere."""

    def images(self, zeta: Tensor) -> Tensor:
        return 0.8 * bench.bar(1.1 * zeta + 0.2)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        images, jacobian = bench.BarDrawer().drawn(1.1 * zeta + 0.2)
        return 0.8 * images, 0.88 * jacobian


def _anchored(anchors: Tensor = ANCHORS) -> Anchored:
    precision = torch.eye(5).repeat(len(anchors), 1, 1)
    return Anchored.at(Poor(), bench.BarDrawer(), anchors, precision)  # type: ignore[arg-type]


def test_exact_at_the_anchors() -> None:
    images, jacobian = _anchored().drawn(ANCHORS)
    true, slope = bench.BarDrawer().drawn(ANCHORS)
    assert torch.allclose(images, true, atol=1e-5)
    assert torch.allclose(jacobian, slope, atol=1e-5)
    assert float((Poor().images(ANCHORS) - true).abs().max()) > 0.2


@pytest.mark.parametrize("anchor", [0, 1])
def test_the_error_grows_with_the_square_of_the_distance(anchor: int) -> None:
    anchored = _anchored()
    errors = []
    for length in (0.1, 0.05, 0.025):
        zeta = ANCHORS[anchor : anchor + 1] + length * ALONG
        errors.append(float((anchored.images(zeta) - bench.bar(zeta)).square().mean().sqrt()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.25)


def test_the_jacobian_is_the_slope_of_the_images() -> None:
    anchored = _anchored()
    zeta = ANCHORS[:1] + 0.3 * ALONG
    images, jacobian = anchored.drawn(zeta)
    assert torch.equal(images, anchored.images(zeta))
    slope = (anchored.images(zeta + 0.01 * ALONG) - anchored.images(zeta - 0.01 * ALONG)).flatten() / 0.02
    assert torch.allclose(jacobian[0] @ ALONG[0], slope, atol=2e-3)


def test_each_latent_goes_to_its_nearest_anchor_by_the_anchor_s_precision() -> None:
    precision = torch.stack((torch.eye(5), 100 * torch.eye(5)))
    anchored = Anchored.at(Poor(), bench.BarDrawer(), ANCHORS, precision)  # type: ignore[arg-type]
    # Nearer to the second in latents, but far from it in its narrow posterior.
    between = ANCHORS[1:] + 0.4 * (ANCHORS[:1] - ANCHORS[1:])
    alone = _anchored(ANCHORS[:1])
    assert torch.allclose(anchored.images(between), alone.images(between), atol=1e-6)


def test_a_batch_is_drawn_as_one_by_one() -> None:
    anchored = _anchored()
    zeta = torch.cat((ANCHORS, torch.randn(6, 5, generator=torch.Generator().manual_seed(0))))
    one = torch.cat([anchored.images(z[None]) for z in zeta])
    assert torch.allclose(anchored.images(zeta), one, atol=1e-6)
