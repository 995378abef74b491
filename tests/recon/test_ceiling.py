"""The noise-free fit: its terms, and that it finds what the decoder drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.studies.objects import Pose, StudyObject, make_truth
from app.studies.scene import FIELD_M, StudyScene
from recon import ceiling
from recon.ceiling import NODE_M, amplitude_terms, noise_free_fit, prior_mean
from recon.decoders.companion import plain_companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import DecoderPackage, load_package
from recon.decoders.whitening import Whitening
from recon.paper import LitBlocks
from recon.simulated import intensities

SCENE = StudyScene.small(6)


@pytest.fixture(scope="module")
def package() -> DecoderPackage:
    return load_package("mnist-4")


@pytest.fixture(scope="module")
def lit(package) -> LitBlocks:
    return LitBlocks.of_decoder(package, SCENE.light, SCENE.positions_m, FIELD_M, NODE_M).with_seconds(1e4)


def test_gradient_and_information_are_those_of_the_value(package, lit):
    whitening, drawing = Whitening.of(package), DirectDrawer.of(package)
    generator = torch.Generator().manual_seed(1)
    zeta, goal = torch.randn(2, 1, whitening.size, generator=generator)
    with torch.no_grad():
        wanted = package.decode(whitening.latents(goal))
    target = [lit.fields(j, wanted)[1][:, 0].sqrt() for j in range(len(lit.rows))]
    terms = amplitude_terms(lit, target, *drawing.drawn(zeta))
    for axis in (0, 5):
        step = torch.zeros_like(zeta)
        step[:, axis] = 2e-2
        ahead, behind = (amplitude_terms(lit, target, *drawing.drawn(zeta + s * step)) for s in (1, -1))
        # `gradient` is that of the log-likelihood: down in the value.
        assert float(terms.gradient[0, axis]) == pytest.approx(
            -float(ahead.value - behind.value) / 4e-2, rel=0.03, abs=0.02 * float(terms.gradient.abs().max())
        )
    at_goal = amplitude_terms(lit, target, *drawing.drawn(goal))
    assert float(at_goal.value) < 1e-6 * float(terms.value)
    assert (torch.linalg.eigvalsh(at_goal.information[0]) > -1e-3).all()


def test_it_finds_what_the_decoder_drew(package, lit, monkeypatch):
    monkeypatch.setattr(ceiling, "STARTS", 2)
    monkeypatch.setattr(ceiling, "COARSE", ((2, 2), (2, 2)))
    monkeypatch.setattr(ceiling, "KEPT", 1)
    monkeypatch.setattr(ceiling, "MEAN_OF", 32)
    whitening = Whitening.of(package)
    zeta = 0.7 * torch.randn(1, whitening.size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        image = package.decode(whitening.latents(zeta))[0].numpy()
    truth = make_truth(StudyObject("x", image), "matched", Pose.nominal(), SCENE)
    per_second = intensities(SCENE.light, SCENE.positions_m, truth.amplitude)
    companion = plain_companion(package)
    found = noise_free_fit(lit, per_second, package, companion, image)
    drawn, wanted = (
        make_truth(StudyObject("x", picture), "matched", Pose.nominal(), SCENE).amplitude[SCENE.lit]
        for picture in (found, image)
    )
    assert -10 * np.log10(((drawn - wanted) ** 2).mean()) > 35
    mean = prior_mean(companion, package)
    assert ((mean - image) ** 2).mean() > ((found - image) ** 2).mean()
