"""What one more frame would tell, against mutual information by brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.illumination import Illumination
from recon.nextframe import Candidates, Wish, Worth
from recon.observation import LightMap
from tests.recon import latentscene as bench

PIXEL = 13.8e-6
FRAME = 64
NARROW = torch.tensor([0.35, 0.35, 0.5, 0.5, 0.5])
"""Standard deviations of the latents: as much as some frames leave open."""


def _light(photons: float) -> Illumination:
    return bench.light(photons, window=44, shape=(FRAME, FRAME), pixel_m=PIXEL)


def _images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return bench.bar(torch.tensor([0.4, -0.3, 0.5, 0.2, 0.3]) + NARROW * torch.randn(count, 5, generator=generator))


def _candidates(light: Illumination, read_noise: float = 0.3, mask: NDArray[np.bool_] | None = None) -> Candidates:
    operator = bench.operator(light)
    mask = np.ones((FRAME, FRAME), bool) if mask is None else mask
    variance = np.full((FRAME, FRAME), read_noise**2, np.float32)
    # Speckles of this bench are half as large as those of the paper's.
    pixel_m = light.geometry.pixel_size_m
    return Candidates.build(operator, LightMap.build(operator, _images(32, 1), pixel_m), variance, mask, pixel_m, 14e-6)


def _told(expected: Tensor, read_noise: float, tries: int, seed: int) -> tuple[float, float]:
    """Nats, and their standard error, that a frame tells of which of the draws it shows; expected (S, P) electrons.

    H(X) - H(X | s) by simulated frames, each with the likelihoods of all draws, summed over up to 7 electrons a pixel.
    """
    rng = np.random.default_rng(seed)
    found = []
    light = expected.float()
    for _ in range(tries):
        which = int(rng.integers(len(light)))
        reading = torch.from_numpy(rng.poisson(light[which]) + rng.normal(0, read_noise, light.shape[1]))
        terms = [torch.exp(-0.5 * ((reading - n) / read_noise) ** 2) / math.factorial(n) for n in range(6)]
        density = torch.zeros_like(light)
        for term in reversed(terms):
            density.mul_(light).add_(term.clamp_min(1e-30).float())
        log = (density.log_() - light).double().sum(1)
        found.append(float(log[which] - torch.logsumexp(log, 0) + math.log(len(log))))
    return float(np.mean(found)), float(np.std(found) / math.sqrt(tries))


@pytest.mark.parametrize(("read_noise", "photons", "frames"), [(0.3, 700.0, [0]), (0.45, 250.0, [0, 1, 2, 3, 4])])
def test_it_is_the_mutual_information_of_draws_and_frames(read_noise: float, photons: float, frames: list[int]) -> None:
    light = _light(photons)
    clouds = _candidates(light, read_noise).clouds(_images(96, 2), np.array([bench.SECONDS]))
    # Frames one after another: what each tells after those before it.
    total, taken = 0.0, torch.zeros_like(clouds.covariance)
    for frame in frames:
        total += float(clouds.worth(taken).information[frame, 0])
        taken = taken + clouds.grams[frame, 0]
    # So many draws that the frames cannot tell them apart stand for the continuum.
    seen = bench.operator(light).fields(_images(400, 3))[frames].abs().square()
    seen = seen.transpose(0, 1).flatten(1)
    told, error = _told(seen[:, seen.mean(0) > 1e-4], read_noise, 160, 4)
    assert 1.3 < told < 3.5
    assert error < 0.16
    assert total == pytest.approx(told, abs=2 * error)


def test_in_hardly_any_light_it_is_what_each_photon_tells_by_where_it_falls() -> None:
    light, seconds = _light(1.0), np.array([bench.SECONDS])
    images = bench.bar(torch.tensor([0.4, -0.3, 0.5, 0.2, 0.3]) + 0.05 * torch.randn(96, 5, generator=_generator()))
    worth = _candidates(light, 0.1).worth(images, seconds)
    expected = bench.operator(light).fields(images).abs().square().double()
    mean = expected.mean(1)
    sparse = (torch.special.xlogy(expected, expected).mean(1) - torch.special.xlogy(mean, mean)).sum((1, 2))
    assert worth.information[:, 0] == pytest.approx(sparse.numpy(), rel=0.05)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def test_more_light_tells_more_but_less_a_photon() -> None:
    seconds = bench.SECONDS * np.array([1.0, 10.0, 100.0])
    worth = _candidates(_light(100.0)).worth(_images(96, 2), seconds)
    assert (np.diff(worth.information) > 0).all()
    assert (np.diff(worth.deviation) < 0).all()
    assert (worth.deviation < worth.present).all()
    assert (np.diff(worth.information / seconds) < 0).all()
    assert worth.best(Wish.INFORMATION, np.broadcast_to(seconds, worth.information.shape))[1] == 0
    # By the second, with an overhead that dwarfs the exposure, the longest is the best.
    assert worth.best(Wish.INFORMATION, np.broadcast_to(1 + seconds, worth.information.shape))[1] == 2


def test_read_noise_hides_photons_and_a_masked_sensor_sees_none() -> None:
    images, seconds = _images(96, 2), np.array([bench.SECONDS])
    clear, noisy = (_candidates(_light(300.0), noise).worth(images, seconds) for noise in (0.3, 2.0))
    assert (noisy.information < 0.5 * clear.information).all()
    half = np.ones((FRAME, FRAME), bool)
    half[:, FRAME // 2 :] = False
    part = _candidates(_light(300.0), 0.3, half).worth(images, seconds)
    assert (part.information < clear.information).all()
    assert (part.information > 0.2 * clear.information).all()


def test_frames_add_up_in_any_order_and_what_is_known_tells_no_more() -> None:
    clouds = _candidates(_light(300.0)).clouds(_images(96, 2), np.array([bench.SECONDS]))
    first, grams = clouds.worth().information[:, 0], clouds.grams[:, 0]
    after = [clouds.worth(grams[point]).information[:, 0] for point in range(5)]
    assert first[0] + after[0][3] == pytest.approx(first[3] + after[3][0], rel=1e-9)
    assert all((after[point] < first).all() for point in range(5))
    order = clouds.order(4)
    assert order[0] == int(np.argmax(first))
    assert order[1] == int(np.argmax(after[order[0]]))
    assert order == clouds.order(4)


def test_the_deviation_is_that_of_a_gaussian_posterior() -> None:
    """Against Kalman's formula, in as many dimensions as there are latents."""
    light, seconds = _light(300.0), np.array([bench.SECONDS])
    candidates = _candidates(light, 0.1)
    latents = 1e-3 * torch.randn(96, 5, generator=_generator())
    middle = torch.tensor([[0.4, -0.3, 0.5, 0.2, 0.3]])
    worth = candidates.worth(bench.bar(middle + latents), 1e6 * seconds)
    image, jacobian = bench.BarDrawer().drawn(middle)
    fields = bench.operator(light).fields(torch.cat((image, jacobian[0].T.unflatten(1, image.shape[1:]))))[0]
    slope = (fields[1:] * fields[0].conj()).real / fields[0].abs().clamp_min(1e-12)
    slope = slope[:, fields[0].abs() > 1e-3].double()
    covariance = torch.cov(latents.T.double())
    precision = covariance.inverse() + 4e6 * slope @ slope.T
    drawn = jacobian[0].double()
    left = (drawn @ precision.inverse() * drawn).sum(1).mean().sqrt()
    assert worth.deviation[0, 0] == pytest.approx(float(left), rel=0.05)
    assert worth.deviation[0, 0] < 0.5 * worth.present


def test_the_dearest_are_left_out_and_impossible_costs_are_refused() -> None:
    worth = Worth(np.array([[1.0], [3.0], [3.0]]), np.array([[0.2], [0.1], [0.05]]), 0.4)
    assert worth.best(Wish.INFORMATION, np.ones((3, 1))) == (1, 0)
    assert worth.best(Wish.DEVIATION, np.ones((3, 1))) == (2, 0)
    assert worth.best(Wish.INFORMATION, np.array([[1.0], [np.inf], [4.0]])) == (0, 0)
    for cost in (np.full((3, 1), np.inf), np.array([[1.0], [0.0], [1.0]])):
        with pytest.raises(ValueError, match="costs of the next frame"):
            worth.best(Wish.INFORMATION, cost)


def test_it_is_the_same_twice_and_looks_at_no_more_draws_than_it_needs() -> None:
    candidates, images = _candidates(_light(100.0)), _images(192, 2)
    seconds = np.array([bench.SECONDS])
    once, again = candidates.worth(images, seconds), candidates.worth(images, seconds)
    assert np.array_equal(once.information, again.information)
    assert np.array_equal(once.information, candidates.worth(images[::2], seconds).information)
    assert candidates.clouds(images, seconds).grams.shape == (5, 1, 96, 96)
    assert replace(candidates, variance=4 * candidates.variance) != candidates
