"""Reconstruction under a known illumination: latent and conventional, at high and at low dose."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from recon import reconstruct
from recon.calibrate import Calibration, Illumination, illuminated
from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.decoders.package import load_package
from recon.metrics import psnr_db
from recon.model import ForwardModel, object_size
from recon.objects import resize_matrix
from recon.reconstruct import (
    ReconstructionSettings,
    draw_latent,
    fit_image,
    random_latent,
    reconstruct_latent,
    reconstruct_pixels,
    resize_to_decoder,
)
from simulators.optics import Illumination as Beam
from tests.recon.scans import spiral

PIXEL, FIELD, FRAME, WINDOW = 16e-6, 1.2e-3, 64, 44
GEOMETRY = Geometry(561e-9, 16e-3, PIXEL, (FRAME, FRAME))
POSITIONS = spiral(12, 330e-6)
EXPOSURE = 0.01
VARIANCE = 0.09
SETTINGS = ReconstructionSettings(epochs=60, learning_rate=0.3)
CONVENTIONAL = replace(reconstruct.CONVENTIONAL, steps=40)


@pytest.fixture(scope="module")
def package():
    torch.set_num_threads(1)
    return load_package("mnist")


@pytest.fixture(scope="module")
def truth(package):
    """An object that the decoder can draw, resized as the decoder's own drawings are."""
    return draw_latent(package, random_latent(package, 11).numpy(), grid_size(), PIXEL, FIELD)


def grid_size():
    return object_size(torch.from_numpy(POSITIONS / PIXEL), WINDOW)


def light(photons):
    beam = Beam(460e-6, 60e-6, 0.1, 0.05).field(PIXEL, WINDOW)
    probe = (beam / np.linalg.norm(beam) * np.sqrt(photons / EXPOSURE)).astype(np.complex64)
    return Illumination(probe, GEOMETRY, POSITIONS, np.arange(len(POSITIONS)))


def data(truth, photons, seed=0):
    illumination = light(photons)
    model = ForwardModel.build(GEOMETRY, WINDOW)
    with torch.no_grad():
        expected = model.intensities(
            torch.from_numpy(illumination.probe),
            torch.from_numpy(truth.astype(np.complex64)),
            torch.from_numpy(POSITIONS / PIXEL).float(),
        ).numpy()
    rng = np.random.default_rng(seed)
    frames = rng.poisson(np.maximum(expected, 0) * EXPOSURE) + rng.normal(0, np.sqrt(VARIANCE), expected.shape)
    return Ptychogram(
        frames=frames.astype(np.float32),
        positions_m=POSITIONS + 1e-4,  # nominal ones, which nothing may use
        exposures_s=np.full(len(POSITIONS), EXPOSURE),
        geometry=GEOMETRY,
        dark_variance=np.full((FRAME, FRAME), VARIANCE, np.float32),
        mask=np.ones((FRAME, FRAME), bool),
        name="drawn",
    )


def score(result, truth):
    lit = illuminated(light(1.0).probe, POSITIONS / PIXEL, len(truth))
    return psnr_db(result, truth, lit)


@pytest.fixture(scope="module")
def bright(truth, package):
    return reconstruct_latent(data(truth, 1e4), light(1e4), package, FIELD, SETTINGS)


def test_a_drawing_of_the_decoder_is_recovered(bright, truth, package):
    mean = score(draw_latent(package, None, len(truth), PIXEL, FIELD), truth)
    found = score(bright.object, truth)
    assert found > mean + 3
    assert bright.loss[-1] < bright.loss[0]


def test_the_result_is_what_it_says(bright, truth, package):
    assert bright.method == "latent"
    assert bright.object.shape == truth.shape
    assert bright.object.dtype == np.complex64
    drawn = draw_latent(package, bright.latent, len(truth), PIXEL, FIELD)
    np.testing.assert_allclose(bright.object, drawn, atol=1e-5)
    resize = resize_matrix(len(truth), PIXEL, FIELD, 32).numpy()
    np.testing.assert_allclose(bright.object.real, resize @ bright.image @ resize.T, atol=1e-5)
    assert bright.decoder == (package.name, package.sha256)
    assert bright.summary()["epochs"] == SETTINGS.epochs == len(bright.loss)
    # What it predicts fits the noise: chi squared per pixel is one.
    frames = data(truth, 1e4).frames
    chi2 = float(((frames - bright.expected) ** 2 / (bright.expected + VARIANCE)).mean())
    assert chi2 == pytest.approx(1, abs=0.1)


def test_in_little_light_the_latent_beats_the_conventional(truth, package):
    photons = 500.0
    measured = data(truth, photons, seed=1)
    latent = reconstruct_latent(measured, light(photons), package, FIELD, SETTINGS)
    pixels = reconstruct_pixels(measured, light(photons), CONVENTIONAL)
    ours, theirs = score(latent.object, truth), score(pixels.object, truth)
    assert ours > theirs + 2


def test_in_much_light_the_conventional_recovers_too(truth):
    measured = data(truth, 1e6, seed=2)
    result = reconstruct_pixels(measured, light(1e6), CONVENTIONAL)
    start = np.full_like(truth, np.sqrt(measured.frames.sum() / (1e6 * len(measured))))
    found = score(result.object, truth)
    assert found > score(start, truth) + 6
    assert result.method == "conventional"
    assert result.image is None
    assert result.latent is None
    assert result.decoder is None


def test_positivity_gives_a_real_amplitude_and_free_pixels_work_too_in_much_light(truth):
    measured = data(truth, 1e6, seed=2)
    real, free = (
        reconstruct_pixels(measured, light(1e6), replace(CONVENTIONAL, positivity=positivity))
        for positivity in (True, False)
    )
    assert np.abs(real.object.imag).max() == 0
    assert 0 <= real.object.real.min() <= real.object.real.max() <= 1
    assert np.abs(free.object.imag).max() > 0
    # Measured 31.2 dB free and 36.5 dB real: the imaginary part costs more than the 3 dB of its unknowns.
    assert score(real.object, truth) > score(free.object, truth) > 29
    assert real.settings.kappa == min(real.tried, key=lambda pair: pair[1])[0]


def test_a_latent_method_can_not_see_the_object_of_a_calibration(package, truth):
    # It takes data and an Illumination, and neither has anywhere to keep one.
    assert {f.name for f in fields(Illumination)} == {"probe", "geometry", "positions_m", "indices"}
    assert "object" not in {f.name for f in fields(Ptychogram)}
    for method in (reconstruct_latent, reconstruct_pixels):
        parameters = inspect.signature(method).parameters
        assert parameters["illumination"].annotation == "Illumination"
        assert parameters["data"].annotation == "Ptychogram"
        assert not [p for p in parameters.values() if "Calibration" in str(p.annotation)]
        assert not {"object", "calibration", "truth", "start_object"} & set(parameters)
    assert not hasattr(reconstruct, "Calibration")
    # And a whole calibration in the illumination's place fails.
    illumination = light(1e3)
    whole = Calibration(
        illumination=illumination,
        object=truth.astype(np.complex64),
        modes=illumination.probe[None],
        flux=np.ones(1),
        background=0.0,
        loss=np.zeros(1),
        distance_m=np.zeros(1),
        position_change_px=np.zeros(1),
        stages=("warm",),
        plan=("warm",),
        window=64,
        energy=1.0,
        settings=None,
    )
    with pytest.raises(AttributeError):
        reconstruct_latent(data(truth, 1e3), whole, package, FIELD, replace(SETTINGS, epochs=1))


def test_settings_decide_where_the_search_starts(truth, package):
    measured = data(truth, 1e3)
    still = replace(SETTINGS, epochs=1, learning_rate=0.0)

    def start(settings, **keywords):
        return reconstruct_latent(measured, light(1e3), package, FIELD, settings, **keywords).latent

    mean = package.latent_mean.numpy()
    np.testing.assert_array_equal(start(still), mean)
    drawn = start(replace(still, start="random", seed=7))
    np.testing.assert_array_equal(drawn, random_latent(package, 7).numpy())
    assert not np.array_equal(drawn, start(replace(still, start="random", seed=8)))
    given = mean + np.linspace(-1, 1, len(mean), dtype=np.float32)
    np.testing.assert_array_equal(start(replace(still, start="random"), start_latent=given), given)
    np.testing.assert_array_equal(package.latent_mean.numpy(), mean)


def test_random_latents_have_the_training_latents_mean_and_covariance(package):
    draws = torch.stack([random_latent(package, seed) for seed in range(500)]).double()
    axes, values = package.latent_eigenvectors.double(), package.latent_eigenvalues.double()
    white = (draws - package.latent_mean) @ axes[:, :10] / values[:10].sqrt()
    assert float(white.mean(0).abs().max()) < 0.2
    torch.testing.assert_close(white.T @ white / 500, torch.eye(10, dtype=torch.float64), atol=0.25, rtol=0)


def test_a_start_near_the_truth_begins_lower(truth, package):
    measured = data(truth, 1e4)
    still = replace(SETTINGS, epochs=1, learning_rate=0.0)
    there = random_latent(package, 11).numpy()
    near = reconstruct_latent(measured, light(1e4), package, FIELD, still, start_latent=there)
    far = reconstruct_latent(measured, light(1e4), package, FIELD, still)
    assert near.loss[0] < far.loss[0]


@pytest.mark.parametrize("loss", ["mixed", "poisson", "amplitude", "exact"])
def test_every_loss_improves_on_the_mean(truth, package, loss):
    photons = 2e3
    result = reconstruct_latent(
        data(truth, photons), light(photons), package, FIELD, replace(SETTINGS, epochs=25, loss=loss)
    )
    mean = score(draw_latent(package, None, len(truth), PIXEL, FIELD), truth)
    assert score(result.object, truth) > mean + 1


def test_the_same_seed_gives_the_same_result(truth, package):
    short = replace(SETTINGS, epochs=3)
    one, two, other = (
        reconstruct_latent(data(truth, 1e3), light(1e3), package, FIELD, replace(short, seed=seed)).latent
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_stop_ends_after_its_epoch(truth, package):
    seen = []
    settings = replace(SETTINGS, epochs=20)
    result = reconstruct_latent(
        data(truth, 1e3), light(1e3), package, FIELD, settings,
        report=lambda *r: seen.append(r), stop=lambda: len(seen) == 4,
    )  # fmt: skip
    assert result.interrupted
    assert [r[:2] for r in seen] == [(n, 20) for n in (1, 2, 3, 4)]
    assert [r[2] for r in seen] == result.loss.tolist()


def test_subsets_share_one_object_grid(truth):
    measured = data(truth, 1e4)
    few = measured.select(np.array([0, 1]))
    settings = replace(CONVENTIONAL, steps=1, kappa=0.5)
    assert reconstruct_pixels(few, light(1e4), settings).object.shape == truth.shape
    foreign = replace(few, indices=np.array([0, 99]))
    with pytest.raises(DatasetError, match="point 99"):
        reconstruct_pixels(foreign, light(1e4), settings)


def test_what_is_not_known_is_refused(truth, package):
    measured = data(truth, 1e3)
    with pytest.raises(ValueError, match="unknown latent start 'zero'; known: mean, random"):
        reconstruct_latent(measured, light(1e3), package, FIELD, replace(SETTINGS, start="zero"))
    with pytest.raises(ValueError, match="unknown loss 'huber'"):
        reconstruct_latent(measured, light(1e3), package, FIELD, replace(SETTINGS, loss="huber"))
    with pytest.raises(ValueError, match="unknown loss 'huber'"):
        reconstruct_pixels(measured, light(1e3), replace(CONVENTIONAL, loss="huber"))


def test_the_decoders_closest_drawing_is_nearly_the_truth(truth, package):
    ceiling = fit_image(package, truth, PIXEL, FIELD, steps=120)
    assert score(ceiling, truth) > score(draw_latent(package, None, len(truth), PIXEL, FIELD), truth) + 6


def test_averaging_onto_the_decoders_pixels_weighs_by_overlap():
    matrix = resize_to_decoder(grid_size(), PIXEL, FIELD, 32).numpy()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    axis = (np.arange(grid_size()) - grid_size() // 2) * PIXEL
    centres = (np.arange(32) + 0.5) * FIELD / 32 - FIELD / 2
    np.testing.assert_allclose(matrix @ axis, centres, atol=0.26 * PIXEL)
    assert (matrix >= 0).all()
