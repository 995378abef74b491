"""A poor sketch's Jacobians, mended at anchors, beside the decoder's images."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.chord import Chord
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


def _chord() -> Chord:
    return Chord.at(Poor(), bench.BarDrawer(), ANCHORS, torch.eye(5).repeat(2, 1, 1))


def test_exact_at_the_anchors() -> None:
    images, jacobian = _chord().drawn(ANCHORS)
    true, slope = bench.BarDrawer().drawn(ANCHORS)
    assert torch.equal(images, true)
    assert torch.allclose(jacobian, slope, atol=1e-5)
    assert float((Poor().drawn(ANCHORS)[1] - slope).abs().max()) > 0.2


def test_images_are_the_decoder_s_everywhere() -> None:
    zeta = torch.cat((ANCHORS + 0.4 * ALONG, 3 * ALONG))
    assert torch.equal(_chord().images(zeta), bench.bar(zeta))
    assert torch.equal(_chord().drawn(zeta)[0], bench.bar(zeta))


def test_near_an_anchor_jacobians_are_better_than_the_sketch_s_and_err_with_the_distance() -> None:
    errors, poor = [], []
    for length in (0.2, 0.1, 0.05):
        zeta = ANCHORS + length * ALONG
        _, true = bench.BarDrawer().drawn(zeta)
        errors.append(float((_chord().drawn(zeta)[1] - true).square().mean().sqrt()))
        poor.append(float((Poor().drawn(zeta)[1] - true).square().mean().sqrt()))
    assert errors[2] < 0.15 * poor[2]
    assert 1.6 < errors[0] / errors[1] < 2.4
    assert 1.6 < errors[1] / errors[2] < 2.4


def test_each_latent_goes_to_its_nearest_anchor_by_the_anchor_s_precision() -> None:
    narrow = torch.eye(5).repeat(2, 1, 1)
    narrow[0] *= 1e4
    wide = Chord.at(Poor(), bench.BarDrawer(), ANCHORS, narrow)
    close = ANCHORS[:1] + 0.2 * ALONG
    _, sketched = Poor().drawn(close)
    # Close to the first by plain distance, far by its precision: mended as at the second.
    assert torch.allclose(wide.drawn(close)[1], sketched + wide.slope[1], atol=1e-6)
    assert torch.allclose(_chord().drawn(close)[1], sketched + _chord().slope[0], atol=1e-6)
