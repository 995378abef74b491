"""A poor sketch, mended by regression where a posterior lies."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.mended import Mended
from tests.recon import latentscene as bench

CENTRE = torch.tensor([0.5, -0.4, 0.2, 0.0, 0.3])


class Poor:
    """Bars that are too dim and lie elsewhere."""

    def images(self, zeta: Tensor) -> Tensor:
        return 0.8 * bench.bar(1.1 * zeta + 0.2)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        images, jacobian = bench.BarDrawer().drawn(1.1 * zeta + 0.2)
        return 0.8 * images, 0.88 * jacobian


def _draws(count: int, seed: int, spread: float = 0.3) -> Tensor:
    return CENTRE + spread * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def _mended() -> Mended:
    zeta = _draws(128, 1)
    return Mended.fitted(Poor(), zeta, bench.bar(zeta))


def _error(images: Tensor, zeta: Tensor) -> float:
    return float((images - bench.bar(zeta)).square().mean().sqrt())


def test_unseen_draws_of_the_posterior_are_drawn_much_better() -> None:
    unseen = _draws(200, 2)
    assert _error(_mended().images(unseen), unseen) < 0.4 * _error(Poor().images(unseen), unseen)


def test_what_a_sketch_misses_linearly_is_mended_all_of_it() -> None:
    slope = torch.randn(5, bench.SIDE**2, generator=torch.Generator().manual_seed(4))

    class Tilted:
        def images(self, zeta: Tensor) -> Tensor:
            return bench.bar(zeta) - 0.02 * (zeta @ slope).view(-1, bench.SIDE, bench.SIDE) - 0.1

        def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
            images, jacobian = bench.BarDrawer().drawn(zeta)
            return images, jacobian - 0.02 * slope.T

    zeta, unseen = _draws(400, 1), _draws(50, 2)
    mended = Mended.fitted(Tilted(), zeta, bench.bar(zeta))
    # The ridge leaves a tenth of the slope.
    assert _error(mended.images(unseen), unseen) < 0.12 * 0.02 * 0.3 * 5**0.5 + 1e-4
    assert torch.allclose(mended.images(zeta).mean(0), bench.bar(zeta).mean(0), atol=1e-4)


def test_the_jacobian_is_the_slope_of_the_images_and_so_is_automatic_differentiation() -> None:
    mended, zeta = _mended(), _draws(2, 3)
    along = torch.tensor([[0.3, -0.2, 0.5, 0.1, -0.4]])
    images, jacobian = mended.drawn(zeta)
    assert torch.equal(images, mended.images(zeta))
    slope = (mended.images(zeta + 0.01 * along) - mended.images(zeta - 0.01 * along)).flatten(1) / 0.02
    assert torch.allclose((jacobian @ along[0]), slope, atol=2e-3)
    at = zeta.clone().requires_grad_()
    (found,) = torch.autograd.grad(mended.images(at).sum(), at)
    assert torch.allclose(found, jacobian.sum(1), rtol=1e-2, atol=0.05)
