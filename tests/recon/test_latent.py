"""Modes, evidence and samples of the latent estimator against grids, integrals and posteriors known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.chains import Walked, _sloped, _Walk, follow, log_posterior, sample
from recon.decoders.mixture import Mixture
from recon.events import Events, Watch
from recon.latent import Bank, LatentSettings, Modes, refine, search, settle
from recon.observation import Terms
from recon.operator import CameraOperator
from recon.scene import Nuisances, Scene
from tests.recon import latentscene as bench

MANY = LatentSettings(proposals=4000, chains=4000)
TRUE = torch.tensor([[0.6, -0.8]])


@dataclass(frozen=True)
class Hills:
    """An observation that is written down: the logarithm of normal hills over the latent, which is the image.

    Attributes:
        heights: (k,).
        tops: (k, d).
        width: of all of them.
    """

    heights: Tensor
    tops: Tensor
    width: float
    electrons: float = 100.0

    @property
    def operator(self) -> CameraOperator:
        raise NotImplementedError("there is no camera")

    def quick(self) -> Hills:
        return self

    def _each(self, images: Tensor) -> Tensor:
        apart = images - self.tops[None]
        return self.heights.log() - 0.5 * (apart / self.width).square().sum(2)

    def value(self, images: Tensor) -> Tensor:
        return torch.logsumexp(self._each(images), 1)

    def photons(self, images: Tensor) -> Tensor:
        return self.value(images)

    def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        share = self._each(images).softmax(1)
        along = -(share[:, :, None] * (images - self.tops[None])).sum(1) / self.width**2
        return self.value(images), along[:, None]

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        share = self._each(images).softmax(1)
        pull = -(share[:, :, None] * (images - self.tops[None])).sum(1) / self.width**2
        information = jacobians.transpose(1, 2) @ jacobians / self.width**2
        return Terms(self.value(images), (pull[:, None] @ jacobians)[:, 0], information)

    def frame_scores(self, image: Tensor) -> Tensor:
        return torch.zeros(1)

    def posterior(self) -> tuple[float, Tensor, Tensor, Tensor]:
        """Log evidence, weights (k,), means (k, d) and standard deviation under a unit normal prior."""
        size, spread = self.tops.shape[1], 1 + self.width**2
        log = self.heights.log() + 0.5 * size * math.log(self.width**2 / spread)
        log = log - 0.5 * self.tops.square().sum(1) / spread
        deviation = torch.tensor(self.width / spread**0.5)
        return float(torch.logsumexp(log, 0)), log.softmax(0), self.tops / spread, deviation


def _plain(size: int, slope: float = 1.0) -> Scene:
    return Scene(bench.Plain(slope), Mixture.normal(size))


ONE = Hills(torch.tensor([1.0]), torch.tensor([[1.2, -0.5]]), 0.4)
TWO = Hills(torch.tensor([0.4, 0.6]), torch.tensor([[-1.5, 0.2], [1.6, 0.5]]), 0.3)


@cache
def _events(photons: float, seed: int = 1, order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Events:
    source = bench.light(photons)
    data = bench.measured(bench.bar(TRUE)[0], source, seed).select(np.array(order))
    camera = bench.operator(replace(source, positions_m=source.positions_m[list(order)]))
    light = bench.light_map(camera)
    watch = Watch.build(camera, light, torch.from_numpy(data.dark_variance), torch.from_numpy(data.mask))
    return watch.count(data)


@cache
def _grid(photons: float, reach: float, centre: tuple[float, float]) -> tuple[Tensor, Tensor, float]:
    """Latents (n, 2) about a centre, their log posterior (n,), and the area of one."""
    axis = torch.linspace(-reach, reach, 41)
    nodes = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) + torch.tensor(centre)
    return nodes, log_posterior(_events(photons), bench.scene(2), nodes), float(axis[1] - axis[0]) ** 2


@cache
def _found(photons: float) -> Modes:
    scene = bench.scene(2)
    return search(_events(photons), scene, Bank.draw(scene, 256), LatentSettings())


def test_the_mode_is_the_highest_point_of_a_grid() -> None:
    nodes, value, area = _grid(300, 1.0, (0.6, -0.8))
    modes = _found(300)
    assert bool(modes.converged.all())
    best = int(value.argmax())
    assert float((modes.theta[0] - nodes[best]).abs().max()) < area**0.5
    # It stands between the nodes: above the highest of them, by no more than a parabola can rise in half a step.
    rise = float(modes.log_posterior[0] - value[best])
    assert -0.05 < rise < 0.3


def test_laplace_evidence_is_the_integral() -> None:
    modes = _found(300)
    _, value, area = _grid(300, 1.0, (0.6, -0.8))
    integral = float(torch.logsumexp(value, 0)) + math.log(area)
    assert float(modes.log_evidence[0]) == pytest.approx(integral, abs=0.25)


def test_sample_has_the_moments_of_the_grid() -> None:
    modes, scene = _found(300), bench.scene(2)
    nodes, value, area = _grid(300, 1.0, (0.6, -0.8))
    weights = value.softmax(0)
    mean = weights @ nodes
    deviation = (weights @ (nodes - mean).square()).sqrt()
    drawn = sample(_events(300), scene, scene, modes, LatentSettings(proposals=512, chains=512, decisions=2))
    assert float(((drawn.theta.mean(0) - mean) / deviation).abs().max()) < 0.15
    assert torch.allclose(drawn.theta.std(0), deviation, rtol=0.1)
    integral = float(torch.logsumexp(value, 0)) + math.log(area)
    assert drawn.log_evidence == pytest.approx(integral, abs=0.15)
    assert drawn.efficiency > 0.5


def test_the_truth_is_where_the_posterior_is() -> None:
    modes = _found(1000)
    apart = TRUE[0] - modes.theta[0]
    whitened = torch.linalg.solve_triangular(modes.factors[0], apart[:, None], upper=False)
    # Chi-square of two: beyond 13.8 once in a thousand.
    assert float(whitened.square().sum()) < 13.8
    assert float(apart.abs().max()) < 0.5


def test_random_starts_do_not_find_a_better_mode() -> None:
    scene = bench.scene(2)
    modes = refine(_events(1000), scene, scene.sample(100, 99), LatentSettings())
    assert float(modes.log_posterior[0] - _found(1000).log_posterior[0]) < 0.1


def test_starts_cannot_make_the_answer_worse() -> None:
    scene = bench.scene(2)
    bank = Bank.draw(scene, 256)
    bad = torch.tensor([[4.0, 4.0], [-4.0, 3.0], [0.0, -5.0]])
    with_bad = search(_events(300), scene, bank, LatentSettings(), starts=[bad])
    assert float(with_bad.log_posterior[0]) > float(_found(300).log_posterior[0]) - 0.05
    good = search(_events(300), scene, Bank.draw(scene, 2), LatentSettings(), starts=[TRUE])
    assert float(good.log_posterior[0]) == pytest.approx(float(_found(300).log_posterior[0]), abs=0.1)


def test_the_order_of_the_frames_does_not_matter() -> None:
    scene = bench.scene(2)
    turned = search(_events(300, order=(4, 2, 0, 3, 1)), scene, Bank.draw(scene, 256), LatentSettings())
    here = _found(300)
    deviation = here.factors[0].square().sum(1).sqrt()
    assert float(((turned.theta[0] - here.theta[0]) / deviation).abs().max()) < 0.1
    assert float(turned.log_posterior[0]) == pytest.approx(float(here.log_posterior[0]), abs=0.05)


def test_the_same_frames_give_the_same_answer() -> None:
    scene = _plain(2)

    def once() -> Tensor:
        modes = search(TWO, scene, Bank.draw(scene, 200), LatentSettings())
        return sample(TWO, scene, scene, modes, LatentSettings()).theta

    first = once()
    torch.manual_seed(12345)
    assert torch.equal(first, once())
    modes = search(TWO, scene, Bank.draw(scene, 200), LatentSettings())
    assert not torch.equal(first, sample(TWO, scene, scene, modes, LatentSettings(seed=1)).theta)


def test_both_modes_are_found_with_their_evidence() -> None:
    scene = _plain(2)
    modes = search(TWO, scene, Bank.draw(scene, 300), LatentSettings())
    _, weights, means, deviation = TWO.posterior()
    assert len(modes.theta) == 2
    order = modes.theta[:, 0].argsort()
    assert torch.allclose(modes.theta[order], means, atol=0.02)
    assert torch.allclose(modes.log_evidence[order].softmax(0), weights, atol=0.03)
    # Each covariance is that of its hill.
    assert torch.allclose(modes.factors, deviation * torch.eye(2).expand(2, 2, 2), rtol=0.02, atol=1e-3)
    assert bool((modes.log_posterior[:-1] >= modes.log_posterior[1:]).all())


def test_the_priors_own_draws_find_what_no_mode_stands_for() -> None:
    scene = _plain(2)
    modes = search(TWO, scene, Bank.draw(scene, 300), MANY).select(torch.tensor([0]))
    _, weights, means, _ = TWO.posterior()
    known = int((means - modes.theta[0]).square().sum(1).argmin())

    def lost(wide: float) -> float:
        theta = sample(TWO, scene, scene, modes, MANY, wide).theta
        return float(((theta[:, None] - means).square().sum(2).argmin(1) != known).float().mean())

    assert lost(0.0) < 0.05
    assert lost(0.75) == pytest.approx(1 - float(weights[known]), abs=0.08)


@pytest.mark.parametrize("wide", [0.0, 0.5])
@pytest.mark.parametrize("hills", [ONE, TWO])
def test_sample_is_the_posterior_in_closed_form(hills: Hills, wide: float) -> None:
    scene = _plain(2)
    modes = search(hills, scene, Bank.draw(scene, 300), MANY)
    drawn = sample(hills, scene, scene, modes, MANY, wide)
    evidence, weights, means, deviation = hills.posterior()
    assert drawn.log_evidence == pytest.approx(evidence, abs=0.08)
    left = drawn.theta[:, 0] < 0
    assert float((~left if len(weights) == 1 else left).float().mean()) == pytest.approx(float(weights[0]), abs=0.04)
    nearest = (drawn.theta[:, None] - means).square().sum(2).argmin(1)
    residual = (drawn.theta - means[nearest]) / deviation
    assert residual.mean(0).tolist() == pytest.approx([0, 0], abs=0.08)
    assert residual.std(0).tolist() == pytest.approx([1, 1], abs=0.05)
    assert torch.allclose(drawn.log_posterior, log_posterior(hills, scene, drawn.theta), atol=1e-4)
    assert drawn.accepted == pytest.approx(1.0)


def test_a_mode_that_laplace_underrates_keeps_its_share() -> None:
    # Proposals from one mode only, though tails reach the other: weights and chains do not lose what they have seen.
    scene = _plain(1)
    near = Hills(torch.tensor([0.5, 0.5]), torch.tensor([[-0.6], [0.6]]), 0.45)
    modes = search(near, scene, Bank.draw(scene, 100), MANY)
    drawn = sample(near, scene, scene, modes, MANY).theta[:, 0]
    _, weights, means, deviation = near.posterior()
    variance = float((weights * means[:, 0].square()).sum() + deviation**2)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.06)
    assert float(drawn.square().mean()) == pytest.approx(variance, rel=0.06)


def _poor() -> tuple[Scene, Scene, Modes]:
    """Stand-in, decoder, and the decoder's modes: the stand-in draws everything three tenths too dim."""
    poor, exact = _plain(2, 0.7), _plain(2)
    return poor, exact, search(ONE, exact, Bank.draw(exact, 200), MANY)


def test_delayed_acceptance_leaves_the_posterior_as_it_is() -> None:
    poor, exact, modes = _poor()
    _, _, means, deviation = ONE.posterior()
    generator = torch.Generator().manual_seed(8)
    start = means + deviation * torch.randn(6000, 2, generator=generator)
    walk = _Walk(ONE, poor, exact, modes, torch.zeros(6000, dtype=torch.int64), generator)
    settings = LatentSettings(decisions=25)
    (target, pull), true = _sloped(ONE, poor, start), log_posterior(ONE, exact, start)
    walked, accepted = walk.decide(Walked(start, target, pull, exact.drawer.images(start), true), 0.5, settings)
    after, said = walked.theta, walked.true
    assert torch.equal(walked.images, exact.drawer.images(after))
    residual = (after - means) / deviation
    assert residual.mean(0).tolist() == pytest.approx([0, 0], abs=0.05)
    assert residual.std(0).tolist() == pytest.approx([1, 1], abs=0.04)
    assert torch.allclose(said, log_posterior(ONE, exact, after), atol=1e-4)
    assert torch.allclose(walked.pull, _sloped(ONE, poor, after)[1], atol=1e-4)
    assert 0.2 < accepted < 0.9
    # The chains have moved on, and without the decoder's word they would have gone elsewhere.
    assert abs(float(torch.corrcoef(torch.stack((after[:, 0], start[:, 0])))[0, 1])) < 0.2
    for _ in range(20):
        start, target, pull, _ = walk.move(start, target, pull, 0.5, 3)
    assert float(((start.mean(0) - means[0]) / deviation).abs().max()) > 0.5


def test_a_move_leaves_the_stand_in_s_posterior_and_little_of_where_it_began() -> None:
    scene = _plain(2)
    _, _, means, deviation = ONE.posterior()
    modes = search(ONE, scene, Bank.draw(scene, 200), MANY)
    generator = torch.Generator().manual_seed(9)
    start = means + deviation * torch.randn(8000, 2, generator=generator)
    walk = _Walk(ONE, scene, scene, modes, torch.zeros(8000, dtype=torch.int64), generator)
    after, target, _, accepted = walk.move(start, *_sloped(ONE, scene, start), 0.5, 3)
    residual = (after - means) / deviation
    assert residual.mean(0).tolist() == pytest.approx([0, 0], abs=0.04)
    assert residual.std(0).tolist() == pytest.approx([1, 1], abs=0.03)
    assert float(accepted.float().mean()) > 0.95
    assert abs(float(torch.corrcoef(torch.stack((after[:, 0], start[:, 0])))[0, 1])) < 0.2
    assert torch.allclose(target, log_posterior(ONE, scene, after), atol=1e-4)


def test_slopes_of_the_log_posterior_against_differences() -> None:
    scene, events = bench.scene(2, Nuisances(flux=0.05, shift_m=30e-6, rotation_rad=0.1, scale=0.05)), _events(300)
    theta = torch.tensor([[0.5, -0.7, 0.3, 0.2, -0.4, 0.5, 0.1], [0.1, 0.2, 0.0, 0.0, 0.1, -0.2, 0.3]])
    _, found = _sloped(events, scene, theta)
    for axis in range(theta.shape[1]):
        step = torch.zeros(theta.shape[1])
        step[axis] = 0.02
        ahead, behind = (log_posterior(events, scene, theta + sign * step) for sign in (1, -1))
        assert found[:, axis].tolist() == pytest.approx(((ahead - behind) / 0.04).tolist(), rel=0.03, abs=0.1)


def test_draws_follow_more_data_to_its_posterior() -> None:
    """Two hills whose product is a hill: the first seen, the second comes."""

    @dataclass(frozen=True)
    class Both:
        one: Hills
        two: Hills

        def value(self, images: Tensor) -> Tensor:
            return self.one.value(images) + self.two.value(images)

        def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
            (a, along), (b, more) = self.one.slope(images), self.two.slope(images)
            return a + b, along + more

        def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
            parts = self.one.terms(images, jacobians), self.two.terms(images, jacobians)
            return Terms(*(getattr(parts[0], k) + getattr(parts[1], k) for k in ("value", "gradient", "information")))

    scene = _plain(2)
    second = Hills(torch.tensor([1.0]), torch.tensor([[0.9, -0.1]]), 0.6)
    before = sample(ONE, scene, scene, search(ONE, scene, Bank.draw(scene, 200), MANY), MANY)
    both = Both(ONE, second)
    modes = search(ONE, scene, Bank.draw(scene, 200), MANY)
    moved = settle(both, scene, modes, LatentSettings(iterations=3))  # type: ignore[arg-type]
    gained = second.value(before.images)
    after = follow(both, scene, scene, moved, before, gained, MANY)  # type: ignore[arg-type]
    assert after is not None
    precision = 1 + 1 / ONE.width**2 + 1 / second.width**2
    mean = (ONE.tops[0] / ONE.width**2 + second.tops[0] / second.width**2) / precision
    assert torch.allclose(moved.theta[0], mean, atol=1e-2)
    assert after.theta.mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.03)
    assert after.theta.std(0).tolist() == pytest.approx([precision**-0.5] * 2, abs=0.02)
    # The evidence of both, of normals in closed form.
    spread = torch.diag(torch.full((2,), 1.0)) + torch.diag(torch.tensor([ONE.width, second.width]) ** 2)
    spread[0, 1] = spread[1, 0] = 1.0
    tops = torch.stack((ONE.tops[0], second.tops[0]))
    exponent = -0.5 * (tops * torch.linalg.solve(spread, tops)).sum()
    scale = torch.tensor([ONE.width, second.width]).log().sum() * 2 - torch.logdet(spread)
    assert after.log_evidence == pytest.approx(float(exponent + scale), abs=0.15)


def test_draws_that_no_longer_stand_for_the_posterior_call_for_a_search() -> None:
    scene = _plain(2)
    modes = search(ONE, scene, Bank.draw(scene, 200), MANY)
    before = sample(ONE, scene, scene, modes, MANY)
    far = Hills(torch.tensor([1.0]), torch.tensor([[-3.0, 3.0]]), 0.2)
    assert follow(ONE, scene, scene, modes, before, far.value(before.images), MANY) is None


@dataclass(frozen=True)
class Wavy:
    """`bench.Plain`, wrong by waves that no straight line mends."""

    def images(self, zeta: Tensor) -> Tensor:
        return (zeta + 0.25 * (6 * zeta).sin())[:, None]

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return self.images(zeta), torch.diag_embed(1 + 1.5 * (6 * zeta).cos())


def test_a_poor_sketch_costs_samples_not_accuracy() -> None:
    _, exact, modes = _poor()
    drawn = sample(ONE, replace(exact, drawer=Wavy()), exact, modes, MANY)
    _, _, means, deviation = ONE.posterior()
    residual = (drawn.theta - means) / deviation
    assert residual.mean(0).tolist() == pytest.approx([0, 0], abs=0.1)
    assert residual.std(0).tolist() == pytest.approx([1, 1], abs=0.1)
    assert 0.3 < drawn.accepted < 0.9


def test_refinement_says_when_it_has_not_converged() -> None:
    scene = _plain(2)
    far = torch.tensor([[6.0, 6.0]])
    assert not bool(refine(ONE, scene, far, LatentSettings(iterations=1)).converged[0])
    there = refine(ONE, scene, far, LatentSettings())
    assert bool(there.converged[0])
    assert there.iterations < 15
    _, _, means, _ = ONE.posterior()
    assert torch.allclose(there.theta[0], means[0], atol=0.05)


def test_bank_scores_are_the_likelihoods_of_its_images() -> None:
    scene = bench.scene(2)
    bank = Bank.draw(scene, 40)
    scores = bank.scores(_events(300))
    assert torch.allclose(scores, _events(300).value(bench.bar(bank.theta)), rtol=2e-3, atol=0.3)
