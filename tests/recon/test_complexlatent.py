"""Complex objects: the operator in real and imaginary parts, Jacobians, the gauge, and recovery from few photons."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recon.bins import Bins
from recon.complexlatent import ComplexDrawer, ComplexEstimator
from recon.complexoperator import ComplexOperator
from recon.dataset import Ptychogram
from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.misfit import Misfit
from recon.decoders.mixture import Mixture
from recon.decoders.network import ComplexArchitecture
from recon.decoders.package import DecoderError
from recon.decoders.scatter import Scatter
from recon.estimator import LatentEstimator
from recon.events import Watch
from recon.exactnoise import ExactMixed
from recon.foreign import FLOOR, _two_ways, widened
from recon.illumination import Illumination
from recon.latent import LatentSettings
from recon.metrics import phase_error_rad, phase_psnr_db
from recon.noise import MixedGaussian
from recon.observation import LightMap, Observation
from recon.operator import CameraOperator, Drawing
from recon.scene import Nuisances, Scene
from recon.verdict import Word
from tests.recon import latentscene as bench

RANGE_RAD = 2.0
FINGERPRINT = 1.3
"""A phase that the whole object is turned by."""


class BarsWithRelief(nn.Module):
    """`bar` and a phase that tilts across it, as a decoder's network: latents (n, 5) to images (n, 2, s, s)."""

    def forward(self, latents: Tensor) -> Tensor:
        amplitude = bench.bar(latents)
        axis = torch.linspace(-1, 1, bench.SIDE, dtype=latents.dtype)
        tilt = latents[:, 2, None, None] * axis[:, None] + latents[:, 0, None, None] * axis
        return torch.stack((amplitude, torch.sigmoid(2 * tilt + amplitude)), 1)


@dataclass(frozen=True)
class Shape(ComplexArchitecture):
    """The trained kind's, for images of 24 pixels."""

    image_size: int = bench.SIDE

    def __post_init__(self) -> None:
        """Nothing: its side is no multiple of 16."""


PACKAGE = replace(bench.package(), name="reliefs", architecture=Shape(), decoder=BarsWithRelief())
PAIRS = DirectDrawer.of(PACKAGE)
DRAWER = ComplexDrawer(PAIRS, RANGE_RAD)
COMPANION = Companion(
    "bars", Mixture.normal(bench.LATENTS), PAIRS, Misfit.even(1e-3), Scatter.even(), {}, Misfit.even(2e-3)
)
LATENT = torch.tensor([[0.8, -0.7, 0.9, 0.4, -0.5]])


def built(source: Illumination) -> ComplexEstimator:
    """A modest search under a light."""
    settings = LatentSettings(starts=4, iterations=12, modes=2, exact_modes=1, proposals=48, chains=16, mended=32)
    return ComplexEstimator.build(PACKAGE, COMPANION, source, bench.FIELD, bank=200, settings=settings)


def complex_fields(pair: Tensor, source: Illumination) -> Tensor:
    """(N, H, W) by the padded angular spectrum, real and imaginary part of the object apart."""
    return bench.fields(pair[0], source) + 1j * bench.fields(pair[1], source)


def operator(source: Illumination) -> ComplexOperator:
    seconds = np.full(len(source.positions_m), bench.SECONDS)
    drawing = Drawing(bench.SIDE, bench.FIELD)
    return ComplexOperator.build(source, source.positions_m, seconds, source.geometry.shape, drawing)


def frames(pair: Tensor, source: Illumination, seed: int) -> Ptychogram:
    generator = torch.Generator().manual_seed(seed)
    expected = complex_fields(pair, source).abs().square()
    readings = torch.poisson(expected, generator=generator)
    readings += bench.READ_NOISE * torch.randn(readings.shape, generator=generator)
    shape, count = source.geometry.shape, len(source.positions_m)
    return Ptychogram(
        frames=readings.numpy(),
        dark_variance=np.full(shape, bench.READ_NOISE**2, np.float32),
        mask=np.ones(shape, bool),
        positions_m=source.positions_m,
        indices=np.arange(count),
        exposures_s=np.full(count, bench.SECONDS),
        geometry=source.geometry,
        name="relief",
    )


def observed(counting: str, photons: float = 2000.0) -> Observation:
    source = bench.light(photons)
    camera = operator(source)
    draws = DRAWER.images(torch.randn(24, bench.LATENTS, generator=torch.Generator().manual_seed(1)))
    data = frames(DRAWER.images(LATENT)[0], source, 3)
    light = LightMap.build(camera, draws, bench.PIXEL)
    if counting != "events":
        return Bins.build(data, camera, light, MixedGaussian() if counting == "bins" else ExactMixed())
    variance, mask = torch.from_numpy(data.dark_variance), torch.from_numpy(data.mask)
    return Watch.build(camera, light, variance, mask).count(data)


def test_the_fields_of_a_complex_object_are_those_of_the_angular_spectrum():
    source = bench.light(1e4)
    pair = DRAWER.images(LATENT)
    camera = operator(source)
    found, truth = camera.fields(pair)[:, 0], complex_fields(pair[0], source)
    assert (found - truth).abs().square().sum() < 2e-4 * truth.abs().square().sum()
    row, column = torch.tensor([96, 100, 83]), torch.tensor([90, 96, 111])
    local = camera.local(pair).flatten(2)[2, 0]
    rows = camera.at_pixels(2, row, column)
    assert torch.allclose(rows @ local.to(rows.dtype), found[2, row, column], atol=1e-5 * float(found.abs().max()))
    left = float(local @ camera.gram()[2] @ local)
    assert left == pytest.approx(float(camera.exit_waves(pair)[2].abs().square().sum()), rel=1e-4)


def test_what_each_frame_sees_and_its_transpose():
    camera = operator(bench.light(1e3))
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 2, bench.SIDE, bench.SIDE, generator=generator)
    parts = torch.randn(camera.local(images).shape, generator=generator)
    assert float((camera.local(images) * parts).sum()) == pytest.approx(
        float((images * camera.whole(parts)).sum()), rel=1e-4
    )


def test_an_object_without_phase_is_the_real_one():
    source = bench.light(1e4)
    image = bench.bar(LATENT)
    pair = torch.stack((image, torch.zeros_like(image)), 1)
    real = bench.operator(source)
    assert isinstance(real, CameraOperator)
    assert torch.allclose(operator(source).fields(pair), real.fields(image), atol=1e-6)


def test_the_jacobian_of_real_and_imaginary_part_is_that_of_finite_differences():
    double = ComplexDrawer(
        replace(PAIRS, whitening=replace(PAIRS.whitening, mean=torch.zeros(5).double(), axes=torch.eye(5).double())),
        2.0,
    )
    at, step = LATENT.double(), 1e-5
    images, jacobian = double.drawn(at)
    assert torch.equal(images, double.images(at))
    for axis in range(bench.LATENTS):
        shift = step * torch.eye(bench.LATENTS, dtype=torch.float64)[axis]
        slope = (double.images(at + shift) - double.images(at - shift)).flatten() / (2 * step)
        assert torch.allclose(jacobian[0, :, axis], slope, atol=1e-8)


def test_a_scene_with_pose_and_flux_has_the_jacobian_of_finite_differences():
    nuisances = Nuisances(flux=0.05, shift_m=30e-6, rotation_rad=0.2, scale=0.1)
    scene = Scene(DRAWER, Mixture.normal(bench.LATENTS), nuisances, bench.FIELD)
    theta = 0.5 * torch.ones(1, scene.size)
    images, jacobian = scene.drawn(theta)
    assert images.shape == (1, 2, bench.SIDE, bench.SIDE)
    assert torch.allclose(images, scene.images(theta), atol=1e-6)
    for axis in range(scene.size):
        shift = 5e-3 * torch.eye(scene.size)[axis]
        slope = (scene.images(theta + shift) - scene.images(theta - shift)).flatten() / 1e-2
        assert (jacobian[0, :, axis] - slope).norm() < 0.02 * slope.norm() + 1e-3


@pytest.mark.parametrize("counting", ["events", "pixels", "bins"])
def test_gradients_are_those_of_finite_differences(counting):
    observation = observed(counting)
    theta = LATENT + 0.2
    images, jacobian = DRAWER.drawn(theta)
    terms = observation.terms(images, jacobian)
    assert float(terms.value) == pytest.approx(float(observation.value(images)), rel=1e-5)
    step = 2e-2
    for axis in range(bench.LATENTS):
        shift = step * torch.eye(bench.LATENTS)[axis]
        ahead, behind = (observation.value(DRAWER.images(theta + sign * shift)) for sign in (1, -1))
        slope = float(ahead - behind) / (2 * step)
        assert float(terms.gradient[0, axis]) == pytest.approx(slope, rel=0.02, abs=0.2)
    assert (torch.linalg.eigvalsh(terms.information[0]) > 0).all()


@pytest.mark.parametrize("counting", ["events", "pixels", "bins"])
def test_no_frame_tells_the_global_phase(counting):
    observation = observed(counting)
    pair = DRAWER.images(LATENT)
    turned = torch.view_as_real(torch.complex(pair[:, 0], pair[:, 1]) * complex(np.exp(1j * FINGERPRINT)))
    turned = turned.permute(0, 3, 1, 2).contiguous()
    assert float(observation.value(turned)) == pytest.approx(float(observation.value(pair)), rel=1e-4)
    # A direction that only turns the phase changes nothing, whatever the frames are.
    value, slope = observation.slope(pair)
    along = torch.stack((-pair[:, 1], pair[:, 0]), 1)
    assert abs(float((slope * along).sum())) < 1e-3 * float(slope.norm() * along.norm())
    other = torch.stack((pair[:, 0], -pair[:, 1]), 1)
    assert float(value - observation.value(other)) > 5, "a phase of the other sign is another object"


def test_amplitude_and_phase_are_recovered_and_their_deviations_hold():
    source = bench.light(4e3)
    estimator = built(source)
    truth = DRAWER.images(LATENT)[0].numpy()
    field = truth[0] + 1j * truth[1]
    data = frames(torch.from_numpy(truth), source, 5)
    found = estimator.estimate(data)
    assert found.converged
    assert found.verdict.word is Word.RECOVERED
    assert found.foreign.log_odds < 4, "bins count as they should where there are few electrons"
    assert found.accepted == pytest.approx(1), "the decoder walks itself"
    assert found.moved > 0.5
    assert np.allclose(found.samples.astype(np.float32).mean(0), found.mean, atol=2e-3)
    everywhere = np.ones(field.shape, bool)
    assert np.sqrt(np.square(found.mean - np.abs(field)).mean()) < 0.04
    assert phase_error_rad(found.transmission, field, everywhere) < 0.15
    away = (estimator.scene.zeta(torch.from_numpy(found.theta)).mean(0) - LATENT[0]) / torch.from_numpy(
        found.theta
    ).std(0)
    assert float(away.abs().max()) < 4
    lit = np.abs(field) > 0.5
    assert np.abs(found.mean - np.abs(field))[lit].max() < 5 * found.deviation[lit].max()
    assert (found.phase_deviation >= found.phase_spread).all()
    expected = estimator.expected(data, found.transmission)
    assert expected.sum() == pytest.approx(data.frames.sum(), rel=0.1)


def test_an_empty_field_of_view_is_not_enough_light():
    source = bench.light(1e3)
    found = built(source).estimate(frames(torch.zeros(2, bench.SIDE, bench.SIDE), source, 6))
    assert found.verdict.word is Word.DARK
    assert found.log_evidence < 0


def test_frames_that_contradict_each_other_are_never_recovered():
    source = bench.light(1e3)
    data = frames(DRAWER.images(LATENT)[0], source, 5)
    found = built(source).estimate(replace(data, frames=np.roll(data.frames, 2, axis=0)))
    assert found.verdict.word is Word.FOREIGN
    assert found.pattern > 3.5


def test_a_phase_that_the_decoder_cannot_draw_is_foreign():
    source = bench.light(2e3)
    pair = DRAWER.images(LATENT)[0]
    axis = torch.linspace(-1, 1, bench.SIDE)
    wave = 1.2 * torch.sin(9 * axis)[:, None] * torch.cos(7 * axis)
    other = torch.complex(pair[0], pair[1]) * torch.polar(torch.ones_like(wave), wave)
    estimator = built(source)
    found = estimator.estimate(frames(torch.stack((other.real, other.imag)), source, 7))
    assert found.verdict.word is Word.FOREIGN
    assert found.foreign.log_odds > 20
    assert estimator.estimate(frames(pair, source, 7)).foreign.log_odds < 4


def test_both_parts_of_a_foreign_field_are_of_unit_length_and_at_right_angles():
    pair = DRAWER.images(LATENT)[0]
    misfit, phase = torch.full((2, bench.SIDE, bench.SIDE), 0.01)
    along, across = _two_ways(pair, misfit, phase)
    assert (along * across).sum(0).abs().max() < 1e-6
    assert torch.allclose(along.square().sum(0), widened(misfit), rtol=1e-3)
    amplitude = pair.square().sum(0).sqrt()
    assert torch.allclose(across.square().sum(0), amplitude.square() * phase + FLOOR * 0.01, rtol=1e-3)
    # A step along them is one of the amplitude, or one of the phase.
    field, step = torch.complex(pair[0], pair[1]), 1e-3
    grown, turned = (field + step * torch.complex(way[0], way[1]) for way in (along, across))
    bright = amplitude > 0.5
    assert torch.allclose(grown.angle()[bright], field.angle()[bright], atol=1e-5)
    assert torch.allclose(turned.abs()[bright], field.abs()[bright], atol=1e-6)


def test_estimators_refuse_each_others_decoders():
    source = bench.light(1e3)
    with pytest.raises(
        ValueError, match="'reliefs' draws an amplitude and a phase; this estimator has amplitudes only"
    ):
        LatentEstimator.build(PACKAGE, COMPANION, source, bench.FIELD)
    with pytest.raises(DecoderError, match="'bars': draws an amplitude without a phase"):
        ComplexEstimator.build(bench.package(), COMPANION, source, bench.FIELD)


def test_the_phase_error_is_modulo_a_constant_and_weighted_by_the_light():
    truth = np.array([[1.0, 0.5j], [0.0, 1.0]])
    mask = np.ones((2, 2), bool)
    assert phase_error_rad(truth * np.exp(0.7j), truth, mask) == pytest.approx(0, abs=1e-9)
    wrong = truth * np.exp(1j * np.array([[0.0, 0.0], [3.0, 0.0]]))
    assert phase_error_rad(wrong, truth, mask) == pytest.approx(0, abs=1e-9), "nothing passes there"
    wrong = np.array([[np.exp(0.1j), 0.5j], [0.0, np.exp(-0.1j)]])
    rms = math.sqrt(2 * 0.1**2 / 2.25)
    assert phase_error_rad(wrong, truth, mask) == pytest.approx(rms, rel=1e-3)
    assert phase_psnr_db(wrong, truth, mask) == pytest.approx(20 * math.log10(2 * math.pi / rms), abs=0.01)


def test_what_a_complex_object_is_missed_by_lies_along_it_and_across_it():
    pair = DRAWER.images(LATENT)[0]
    field = built(bench.light(1e4)).field(pair)
    count = field.cells.shape[1]
    torch.testing.assert_close(field.cells.T @ field.cells, torch.eye(count), atol=1e-5, rtol=0)
    along, across = (field.shares @ field.misfit + field.rest).view(2, bench.SIDE, bench.SIDE)
    amplitude = torch.hypot(pair[0], pair[1])
    torch.testing.assert_close(along, torch.full_like(along, 1e-3))
    torch.testing.assert_close(across, amplitude.square() * 2e-3 * RANGE_RAD**2)
    # A cell of the second way turns the phase and leaves the amplitude, to first order.
    turned = pair + 1e-3 * field.cells[:, -1].view_as(pair)
    assert float((torch.hypot(turned[0], turned[1]) - amplitude).abs().max()) < 1e-5
    assert float((turned - pair).abs().max()) > 9e-4


def test_in_the_light_both_parts_gain_from_what_the_decoder_misses():
    source = bench.light(3e5)
    grain = torch.randn(2, bench.SIDE, bench.SIDE, generator=torch.Generator().manual_seed(5))
    drawn = PAIRS.images(LATENT)[0]
    lit = drawn[0] > 0.3
    amplitude = (drawn[0] + 1e-3**0.5 * grain[0] * lit).clamp(0, 1)
    phase = RANGE_RAD * (drawn[1] + 2e-3**0.5 * grain[1])
    data = frames(torch.stack((amplitude * phase.cos(), amplitude * phase.sin())), source, 4)
    estimator = built(source)
    found = estimator.estimate(data)
    assert 0.1 < found.missed < 1
    assert found.verdict.word is Word.RECOVERED
    mean, decoder = (np.square(each - amplitude.numpy())[lit].mean() for each in (found.mean, found.decoder_mean))
    assert mean < 0.75 * decoder
    # The phase that the decoder draws of these very latents is farther off.
    true, where = (amplitude * torch.exp(1j * phase)).numpy(), lit.numpy()
    said = phase_error_rad(found.transmission, true, where)
    assert said < 0.7 * phase_error_rad(np.exp(1j * RANGE_RAD * drawn[1].numpy()), true, where)
    assert 0.5 < said / found.phase_error_rad < 1.5
