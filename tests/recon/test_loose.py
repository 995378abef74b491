"""Nuisances of frames: derivatives of the fields, and the likelihood with them integrated out, against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.bins import Bins
from recon.combined import Sets
from recon.directions import Directions
from recon.events import Events
from recon.exactnoise import ExactMixed
from recon.imperfections import FrameNuisances, Imperfections
from recon.loose import Loose
from recon.noise import MixedGaussian
from recon.operator import Drawing
from tests.recon import latentscene as bench
from tests.recon.test_estimator import DRAWS, _estimator

COUNT = len(bench.POSITIONS)
SHAPE = (bench.FRAME, bench.FRAME)
DRAWING = Drawing(bench.SIDE, bench.FIELD)
SECONDS = np.full(COUNT, bench.SECONDS)


def _loose(photons: float, given: Imperfections, values: np.ndarray | None = None, counting: str = "events") -> Loose:
    estimator = _estimator(photons)
    source = estimator.light
    data = bench.measured(bench.bar(DRAWS[:1])[0], source, 3)
    nuisances = FrameNuisances.numbered(given, source.positions_m, bench.DISTANCE)
    at = np.zeros(len(nuisances)) if values is None else values
    ways = Directions.at(nuisances, at, source, SECONDS, SHAPE, DRAWING)
    likelihood = ExactMixed() if counting == "pixels" else MixedGaussian()
    sets = replace(Sets.of(estimator, [data]), in_bins=counting != "events", likelihood=likelihood)
    base, others = sets.through(ways.operator, ways.others)
    return Loose(base, tuple(others), ways)


def _all(count: int = COUNT) -> Imperfections:
    return replace(
        Imperfections.of(count, position_m=8e-6, flux=0.1, distance_m=0.4e-3), affine=np.array([0.02, 0.0, 0.03])
    )


def test_directions_are_the_derivatives_of_the_fields() -> None:
    source = bench.light(1000)
    nuisances = FrameNuisances.numbered(_all(), source.positions_m, bench.DISTANCE)
    assert nuisances.kinds == ("y", "x", "flux", "distance", "rotation", "anisotropy")
    rng = np.random.default_rng(2)
    centre = rng.normal(size=len(nuisances))
    ways = Directions.at(nuisances, centre, source, SECONDS, SHAPE, DRAWING)
    image = bench.bar(DRAWS[:1])
    all_fields = [ways.operator.fields(image)[:, 0]]
    all_fields += [sum(each.fields(image)[:, 0] for each in group) for group in ways.others]  # type: ignore[misc]
    rest = all_fields[0]
    for number in (0, COUNT, 2 * COUNT, 3 * COUNT, 3 * COUNT + 1, 3 * COUNT + 2):
        step = np.zeros(len(nuisances))
        step[number] = 0.3
        ahead, behind = (
            Directions.at(nuisances, centre + sign * step, source, SECONDS, SHAPE, DRAWING).operator.fields(image)[:, 0]
            for sign in (1, -1)
        )
        moved = torch.zeros(1, len(nuisances))
        moved[0, number] = 0.3
        coefficients = ways.coefficients(moved)[:, :, 0].to(rest.dtype)
        said = sum(coefficients[:, r, None, None] * part for r, part in enumerate(all_fields)) - rest
        change = (ahead - behind) / 2
        # Secants over a deviation, of a bar whose edges are two pixels wide.
        assert float((said - change).norm() / change.norm()) < 0.08, nuisances.names[number]
        # The frames of other stops stay where they were.
        if number < 3 * COUNT:
            assert float(change[1:].norm()) < 1e-6 * float(change.norm()) + 1e-6


@pytest.mark.parametrize("counting", ["events", "pixels", "bins"])
def test_one_nuisance_is_integrated_out(counting: str) -> None:
    # The light of the first frame alone: a brute sum over its values against Laplace's integral.
    given = Imperfections.of(COUNT, flux=0.3, stops=np.zeros(COUNT, np.int64))
    loose = _loose(1500, given, counting=counting)
    images = bench.bar(DRAWS[:1] + 0.05 * torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))
    n = torch.linspace(-6, 6, 241)
    plain = torch.stack([loose.base.value(images * (1 + 0.15 * k)) for k in n]).double()
    density = plain - 0.5 * n[:, None].double() ** 2
    brute = torch.logsumexp(density, 0) + np.log(float(n[1] - n[0]) / np.sqrt(2 * np.pi))
    found = loose.value(images).double()
    assert loose.counting == counting
    assert type(loose.base) is (Events if counting == "events" else Bins)
    assert float((found - brute).abs().max()) < 0.1
    mean = (density.softmax(0) * n[:, None]).sum(0)
    beyond, covariance = loose.nuisances(images)
    assert float((beyond[:, 0] - mean).abs().max()) < 0.1
    spread = (density.softmax(0) * (n[:, None] - mean) ** 2).sum(0).sqrt()
    assert torch.allclose(covariance[:, 0, 0].sqrt().double(), spread, rtol=0.15)


def _gradient_of(loose: Loose, image: Tensor, along: Tensor, step: float = 2e-3) -> float:
    images = torch.stack([image + step * along, image - step * along])
    ahead, behind = loose.value(images).double()
    return float(ahead - behind) / (2 * step)


@pytest.mark.parametrize("counting", ["events", "pixels", "bins"])
def test_gradient_follows_the_value(counting: str) -> None:
    once = _loose(3000, _all(), counting=counting)
    loose = replace(once, steps=6)
    image = bench.bar(DRAWS[:1] + 0.1)[0]
    assert float(once.value(image[None])) == pytest.approx(float(loose.value(image[None])), abs=1.5)
    value, gradient = loose.slope(image[None])
    assert float(value) == pytest.approx(float(loose.value(image[None])), abs=1e-3)
    _, jacobian = bench.BarDrawer().drawn(DRAWS[:1] + 0.1)
    terms = loose.terms(image[None], jacobian)
    for k in range(5):
        along = jacobian[0, :, k].view_as(image)
        said = float((gradient[0] * along).sum())
        assert said == pytest.approx(float(terms.gradient[0, k]), rel=1e-3, abs=1e-2)
        # The determinant's own slope is left out.
        assert said == pytest.approx(_gradient_of(loose, image, along), abs=4)


def test_what_nuisances_could_do_tells_nothing_of_the_image() -> None:
    loose = _loose(3000, _all())
    image = bench.bar(DRAWS[:1])
    _, jacobian = bench.BarDrawer().drawn(DRAWS[:1])
    plain = loose.base.terms(image, jacobian).information[0]
    left = loose.terms(image, jacobian).information[0]
    assert float(torch.linalg.eigvalsh(plain - left).min()) > -1e-3 * float(plain.diagonal().max())
    assert float(torch.linalg.eigvalsh(left).min()) > 0
    assert float(left.diagonal().sum()) < 0.8 * float(plain.diagonal().sum())


def test_frames_at_the_nuisances_of_an_image_fit_it() -> None:
    truth = np.zeros(2 * COUNT)
    truth[:] = np.random.default_rng(5).normal(size=2 * COUNT)
    given = Imperfections.of(COUNT, position_m=8e-6)
    # Linearised a deviation off: the true places are the ones told.
    loose = _loose(3000, given, truth)
    image = bench.bar(DRAWS[:1])[0]
    at = loose.at(image)
    assert float(at.value(image[None])) > float(loose.base.value(image[None])) + 3
    assert float(at.pattern_scores(image).square().mean()) < 2.5
    # What dark pixels owe to the mixed fields is what an operator at those nuisances sends there.
    sent = (at.weights * at.light.of(at.operator, image)).sum((1, 2))
    assert torch.allclose(at.quadratic.by_frame(image[None])[:, 0], sent, rtol=0.1)
    assert torch.equal(loose.frame_scores(image), at.frame_scores(image))


def test_frames_are_looked_at_together() -> None:
    loose = _loose(1000, Imperfections.of(COUNT, position_m=8e-6))
    with pytest.raises(ValueError, match="look at all of them at once"):
        loose.joined(loose)
