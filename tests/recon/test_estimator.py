"""From frames to a posterior and a verdict, with a decoder of bars and a poor sketch of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.decoders.companion import Companion
from recon.decoders.misfit import Misfit
from recon.decoders.mixture import Mixture
from recon.decoders.scatter import Scatter
from recon.estimator import LatentEstimator
from recon.latent import LatentSettings
from recon.posterior import Posterior
from recon.scene import Nuisances
from recon.verdict import Word
from tests.recon import latentscene as bench

DRAWS = torch.randn(6, 5, generator=torch.Generator().manual_seed(21)).clamp(-1.6, 1.6)
SETTINGS = LatentSettings(starts=12, proposals=256, chains=64, decisions=2)


class Stand:
    """Bars drawn a little too dim: a sketch of some 25 dB."""

    samples = bench.SIDE
    fidelity_db = 25.0

    def to(self, device: torch.device | str) -> Stand:
        return self

    def images(self, zeta: Tensor) -> Tensor:
        return 0.93 * bench.bar(zeta)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        images, jacobian = bench.BarDrawer().drawn(zeta)
        return 0.93 * images, 0.93 * jacobian


def _estimator(
    photons: float, nuisances: Nuisances | None = None, kind: type[LatentEstimator] = LatentEstimator
) -> LatentEstimator:
    images = bench.bar(torch.randn(50, 5, generator=torch.Generator().manual_seed(3)))
    noise = 0.04 * torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    misfit = Misfit.measured(images + noise, images)
    companion = Companion("bars", Mixture.normal(5), Stand(), misfit, Scatter.even(), {})
    return kind.build(
        bench.package(),
        companion,
        bench.light(photons),
        bench.FIELD,
        nuisances=nuisances or Nuisances(),
        settings=SETTINGS,
        bank=256,
    )


def _data(photons: float, zeta: Tensor, seed: int = 0) -> Ptychogram:
    return bench.measured(bench.bar(zeta)[0], bench.light(photons), seed)


@pytest.fixture(scope="module")
def recovered() -> tuple[LatentEstimator, Posterior, Tensor]:
    """An estimate at 2000 photons an exposure, and what was true."""
    estimator = _estimator(2000)
    return estimator, estimator.estimate(_data(2000, DRAWS[:1])), bench.bar(DRAWS[:1])[0]


def test_an_object_in_good_light_is_recovered(recovered: tuple[LatentEstimator, Posterior, Tensor]) -> None:
    _, found, true = recovered
    assert found.verdict.word is Word.RECOVERED
    assert found.counting == "events"
    assert found.converged
    error = np.square(found.mean - true.numpy()).mean()
    assert -10 * np.log10(error) > found.verdict.needed_db
    assert found.log_evidence > 100
    assert found.classes == {0: pytest.approx(1.0)}
    assert found.flux == (1.0, 0.0)
    assert found.pose.tolist() == [0.0] * 4
    assert found.accepted > 0.5


def test_its_parts_agree_with_each_other(recovered: tuple[LatentEstimator, Posterior, Tensor]) -> None:
    _, found, _ = recovered
    assert found.samples.shape == (2 * SETTINGS.chains, bench.SIDE, bench.SIDE)
    assert np.allclose(found.samples.astype(np.float32).mean(0), found.mean, atol=2e-3)
    assert np.allclose(found.latent, found.theta.mean(0), atol=1e-5)
    assert np.all(found.deviation >= found.spread)
    drawn = bench.bar(torch.from_numpy(found.theta))
    assert np.allclose(drawn.numpy(), found.samples, atol=2e-3)
    assert 200 < found.electrons < 2000
    # The decoder's own latents, not the sketch's: within three of the posterior's deviations.
    assert np.abs((found.theta.mean(0) - DRAWS[0].numpy()) / found.theta.std(0)).max() < 4


def test_an_unlit_run_says_so() -> None:
    dark = _data(1000, DRAWS[:1])
    rng = np.random.default_rng(5)
    frames = rng.normal(0, bench.READ_NOISE, dark.frames.shape).astype(np.float32)
    found = _estimator(30).estimate(replace(dark, frames=frames))
    assert found.verdict.word is Word.DARK
    assert found.log_evidence < 12


def test_an_opaque_sample_under_light_is_no_object() -> None:
    dark = _data(1000, DRAWS[:1])
    rng = np.random.default_rng(5)
    frames = rng.normal(0, bench.READ_NOISE, dark.frames.shape).astype(np.float32)
    found = _estimator(1000).estimate(replace(dark, frames=frames))
    assert found.verdict.word is not Word.RECOVERED
    assert found.log_evidence < 0


def test_the_mean_beats_the_mode_in_the_mean_square() -> None:
    estimator = _estimator(60)
    mean, mode = [], []
    for seed, zeta in enumerate(DRAWS):
        found = estimator.estimate(_data(60, zeta[None], seed))
        true = bench.bar(zeta[None])[0].numpy()
        mean.append(np.square(found.mean - true).mean())
        mode.append(np.square(found.mode - true).mean())
    assert np.mean(mean) < np.mean(mode)


def test_what_is_prepared_serves_the_next_exposure() -> None:
    estimator = _estimator(1000)
    first, second = _data(1000, DRAWS[:1], 0), _data(1000, DRAWS[1:2], 1)
    prepared = estimator.prepare(first)
    assert estimator.prepare(second) is prepared
    longer = replace(second, exposures_s=2 * second.exposures_s)
    assert estimator.prepare(longer) is not prepared
    mask = second.mask.copy()
    mask[3, 4] = False
    assert estimator.prepare(replace(second, mask=mask)) is not prepared
    assert estimator.prepare(second.select(np.array([0, 2]))) is not prepared
    assert estimator.prepare(first) is prepared


def test_the_estimate_does_not_depend_on_what_came_before(
    recovered: tuple[LatentEstimator, Posterior, Tensor],
) -> None:
    estimator, found, _ = recovered
    estimator.estimate(_data(2000, DRAWS[1:2], 1))
    assert np.array_equal(estimator.estimate(_data(2000, DRAWS[:1])).mean, found.mean)


def test_the_order_of_the_frames_does_not_matter(recovered: tuple[LatentEstimator, Posterior, Tensor]) -> None:
    estimator, found, _ = recovered
    turned = estimator.estimate(_data(2000, DRAWS[:1]).select(np.array([2, 4, 1, 0, 3])))
    assert turned.verdict.word is found.verdict.word
    assert turned.log_evidence == pytest.approx(found.log_evidence, abs=0.5)
    assert np.abs(turned.mean - found.mean).max() < 0.1


def test_bins_where_read_noise_hides_electrons_or_there_is_light() -> None:
    image = bench.bar(DRAWS[:1])[0]
    noisy = _estimator(3e4).estimate(bench.measured(image, bench.light(3e4), 1, read_noise=2.3))
    assert noisy.counting == "bins"
    assert noisy.verdict.word is Word.RECOVERED
    bright, dim = (_estimator(photons).prepare(_data(photons, DRAWS[:1])) for photons in (3e4, 1e3))
    assert bright.watch is None
    assert dim.watch is not None


def test_pixels_one_by_one_where_read_noise_half_hides_electrons() -> None:
    image, estimator = bench.bar(DRAWS[:1])[0], _estimator(1000)
    data = bench.measured(image, bench.light(1000), 1, read_noise=0.7)
    found = estimator.estimate(data)
    assert found.counting == "pixels"
    assert found.converged
    assert found.log_evidence > 10
    error = np.square(found.mean - image.numpy()).mean()
    assert error < 4 * np.square(found.deviation).mean()
    assert error < 0.3 * np.square(estimator.bank.images.float().mean(0).numpy() - image.numpy()).mean()
    assert estimator.observe(data, in_bins=True).counting == "bins"


def test_clipped_pixels_do_not_turn_events_into_bins() -> None:
    estimator, data = _estimator(1000), _data(1000, DRAWS[:1])
    clipped = np.zeros(data.frames.shape, bool)
    clipped[1, 96, 96] = True
    frames = np.where(clipped, np.float32(4e3), data.frames)
    observed = estimator.observe(replace(data, frames=frames, saturated=clipped))
    assert observed.electrons < 1500
    assert type(observed) is type(estimator.observe(data))


def test_a_free_pose_and_flux_are_found() -> None:
    nuisances = Nuisances(flux=0.05, shift_m=40e-6, rotation_rad=0.1, scale=0.05)
    estimator = _estimator(3000, nuisances)
    found = estimator.estimate(_data(3000, DRAWS[:1]))
    true = bench.bar(DRAWS[:1])[0].numpy()
    assert -10 * np.log10(np.square(found.mean - true).mean()) > 20
    assert found.flux[0] == pytest.approx(1.0, abs=5 * max(found.flux[1], 0.01))
    # A shift of the sample looks like the latents' own: the pose stays uncertain, in the units of its prior.
    assert np.all(found.pose_sigma > 0)
    assert np.all(found.pose_sigma[:2] < 60e-6)


def test_the_deviation_follows_the_object_in_its_pose() -> None:
    # What the decoder draws wrongly lies where the object is, not where the decoder draws it.
    estimator = _estimator(3000, Nuisances(shift_m=60e-6, scale=0.02))
    shifted = replace(bench.light(3000), positions_m=bench.POSITIONS - np.array([100e-6, 0.0]))
    data = bench.measured(bench.bar(torch.tensor([[0.0, 0.0, 0.3, 0.0, 0.0]]))[0], shifted, 2)
    found = estimator.estimate(replace(data, positions_m=bench.POSITIONS))
    misfit = np.square(found.deviation) - np.square(found.spread)
    # Of each object that it may be, not of their mean.
    expected = estimator.companion.misfit.of(torch.from_numpy(found.samples).float()).mean(0).numpy()
    assert np.allclose(misfit, expected, atol=1e-4)


def test_every_mode_has_its_image_and_its_evidence_the_likeliest_first() -> None:
    estimator = _estimator(300)
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(300), 1)
    observation = estimator.observe(data)
    found = estimator.found(observation)
    plain = estimator.pictured(observation, found)
    assert plain.modes == 1
    # Laplace's evidence is about that of the draws, and the image that of the mode.
    assert plain.mode_log_evidence == pytest.approx([plain.log_evidence], abs=1)
    np.testing.assert_allclose(plain.mode_images[0], plain.mode, atol=1e-3)
    # Another one, less high but wider.
    one = found.modes
    two = replace(
        one,
        theta=torch.cat((one.theta, one.theta + 0.5)),
        log_posterior=torch.cat((one.log_posterior, one.log_posterior - 1)),
        factors=torch.cat((one.factors, one.factors)),
        log_evidence=torch.cat((one.log_evidence, one.log_evidence + 2)),
        converged=torch.cat((one.converged, one.converged)),
    )
    both = estimator.pictured(observation, replace(found, modes=two))
    assert both.modes == 2
    assert both.mode_log_evidence == pytest.approx([float(one.log_evidence[0]) + 2, float(one.log_evidence[0])])
    np.testing.assert_allclose(both.mode_images[1], both.mode, atol=1e-3)
    assert np.abs(both.mode_images[0].astype(np.float32) - both.mode).max() > 0.05


def test_in_any_light_the_best_mode_is_kept() -> None:
    # A log posterior of 10^9 nats in single precision knows no difference of a few.
    estimator = _estimator(3e10)
    found = estimator.estimate(bench.measured(bench.bar(DRAWS[:1])[0], bench.light(3e10), 1))
    assert found.counting == "bins"
    assert abs(found.log_evidence) > 1e9
    assert found.modes >= 1
    assert np.isfinite(found.mean).all()
