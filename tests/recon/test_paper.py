"""The paper's estimator on the camera operator against its full-model version."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.studies.objects import Pose, StudyObject, make_truth
from app.studies.scene import FIELD_M, StudyScene
from recon.dataset import Ptychogram
from recon.decoders.package import DecoderPackage, load_package
from recon.noise import MixedGaussian
from recon.objects import DecoderObject
from recon.paper import LitBlocks, PaperSettings, Placed, Summed, eq1_of, paper_fits
from recon.reconstruct import ReconstructionSettings, _Search, random_latent, reconstruct_latent
from recon.simulated import exposed, intensities

SCENE = StudyScene.small(4)
CASES = [(0, 300.0, 0.3), (1, 3000.0, 0.3), (2, 3e4, 2.3)]
"""Seed of the object, photons, read noise."""


@pytest.fixture(scope="module")
def package() -> DecoderPackage:
    return load_package("mnist")


@pytest.fixture(scope="module")
def lit(package) -> LitBlocks:
    return LitBlocks.of_decoder(package, SCENE.light, SCENE.positions_m, FIELD_M)


def simulated(package: DecoderPackage, seed: int, photons: float, noise: float) -> tuple[np.ndarray, Ptychogram]:
    """Image and frames of something that the decoder can nearly draw."""
    with torch.no_grad():
        image = package.decode(random_latent(package, 100 + seed)[None])[0].numpy()
    image = np.clip(1.2 * image - 0.1, 0, 1)
    truth = make_truth(StudyObject("x", image), "matched", Pose.nominal(), SCENE)
    per_photon = intensities(SCENE.light, SCENE.positions_m, truth.amplitude)
    frames = exposed(per_photon, photons, noise, np.array([seed, 7], np.uint32))
    return image, SCENE.ptychogram(frames.numpy(), photons, noise, "x")


@pytest.mark.parametrize(("seed", "photons", "noise"), CASES)
def test_loss_and_gradient_are_those_of_the_full_model(package, lit, seed, photons, noise):
    _, data = simulated(package, seed, photons, noise)
    blocks = lit.with_seconds(photons)
    summed = blocks.summed(data)
    search = _Search(data, SCENE.light, ReconstructionSettings(loss="mixed"), "cpu")
    everything = torch.arange(len(data))
    losses, found = [], []
    latents = [package.latent_mean, random_latent(package, 3), random_latent(package, 4)]
    for latent in latents:
        target = DecoderObject(package, search.size, SCENE.pixel_m, FIELD_M, latent)
        expected = search.expected(target(), everything)
        value = MixedGaussian()(expected.double(), search.frames.double(), search.variance.double(), search.weights)
        value.backward()
        losses.append(float(value.detach()))
        at = latent[None].clone().requires_grad_()
        images = package.decode(at)
        mine, pull = eq1_of(blocks, summed, images.detach())
        images.backward(pull)
        found.append(float(mine))
        error = float((at.grad[0] - target.latent.grad).norm() / target.latent.grad.norm())
        assert error < 0.01
    # Differences of the loss: a constant of the unlit pixels is not looked at.
    for k in (1, 2):
        assert found[k] - found[0] == pytest.approx(losses[k] - losses[0], rel=0.01, abs=1.0)


@pytest.mark.parametrize(("seed", "photons", "noise"), CASES)
def test_it_ends_where_the_full_model_ends(package, lit, seed, photons, noise):
    image, data = simulated(package, seed, photons, noise)
    settings = PaperSettings(epochs=30, rates=(0.3,), starts=("mean",))
    blocks = lit.with_seconds(photons)
    (mine,) = paper_fits(blocks, package, blocks.summed(data), settings)
    full = reconstruct_latent(
        data,
        SCENE.light,
        package,
        FIELD_M,
        ReconstructionSettings(epochs=30, learning_rate=0.3, batch=1, loss="mixed"),
    )
    psnr = [-10 * np.log10(((found - image) ** 2).mean()) for found in (mine.image, full.image)]
    assert abs(psnr[0] - psnr[1]) < 0.3
    assert psnr[0] > 12


def test_a_batch_of_objects_changes_nothing(package, lit):
    blocks = lit.with_seconds(1000.0)
    parts = [blocks.summed(simulated(package, seed, 1000.0, 0.3)[1]) for seed in (0, 1)]
    settings = PaperSettings(epochs=2)
    alone = [paper_fits(blocks, package, part, settings, random_seeds=[k])[0] for k, part in enumerate(parts)]
    together = paper_fits(blocks, package, Summed.joined(parts), settings, random_seeds=[0, 1])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=2e-3)
        assert (one.rate, one.start) == (other.rate, other.start)


def test_pose_and_flux_are_used_when_they_are_known(package, lit):
    with torch.no_grad():
        image = package.decode(random_latent(package, 105)[None])[0].numpy()
    pose = Pose(np.array([60e-6, -40e-6, 0.2, 0.1]), 1.1)
    truth = make_truth(StudyObject("x", image), "matched", pose, SCENE)
    per_photon = intensities(SCENE.light, SCENE.positions_m, truth.amplitude * np.float32(np.sqrt(pose.flux)))
    data = SCENE.ptychogram((per_photon * 1e4).numpy(), 1e4, 0.3, "x")
    blocks = lit.with_seconds(1e4)
    summed = blocks.summed(data)
    placed = Placed.build(pose.values[None], np.array([pose.flux]), "cpu")
    images = torch.from_numpy(image)[None]
    right, _ = eq1_of(blocks, summed, placed(images, FIELD_M))
    for wrong in (images, Placed.build(-pose.values[None], np.array([pose.flux]), "cpu")(images, FIELD_M)):
        assert float(right) < float(eq1_of(blocks, summed, wrong)[0]) - 10


def test_masked_and_clipped_pixels_do_not_count(package, lit):
    _, data = simulated(package, 0, 1000.0, 0.3)
    mask = np.ones(data.geometry.shape, bool)
    mask[120:124, 110:140] = False
    spoiled = data.frames.copy()
    spoiled[:, ~mask] = 1e6
    blocks = lit.with_seconds(1000.0)
    args = (data.positions_m, data.exposures_s, data.geometry, data.dark_variance, mask)
    clean, dirty = (blocks.summed(Ptychogram(frames, *args, indices=data.indices)) for frames in (data.frames, spoiled))
    for a, b in zip(clean.mean + clean.spread, dirty.mean + dirty.spread, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_never_waits_for_the_gpu(package):
    on_gpu = package.to("cuda")
    blocks = LitBlocks.of_decoder(on_gpu, SCENE.light, SCENE.positions_m, FIELD_M).with_seconds(1000.0)
    parts = [blocks.summed(simulated(package, seed, 1000.0, 0.3)[1]) for seed in (0, 1)]
    summed, told = Summed.joined(parts), []

    def stop() -> bool:
        # From the first epoch's end to the last one's every synchronisation is an error.
        told.append(1)
        torch.cuda.set_sync_debug_mode("error" if len(told) < 3 else "default")
        return False

    try:
        fits = paper_fits(blocks, on_gpu, summed, PaperSettings(epochs=3), random_seeds=[0, 1], stop=stop)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(told) == 3
    assert all(np.isfinite(fit.loss) for fit in fits)
