"""Calibration of a small simulated scan, and its parts."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from recon.calibrate import (
    CalibrationSettings,
    Illumination,
    calibrate,
    illuminated,
    lit_window,
    remove_ramp,
    soft_disc,
    stages_of,
    with_epochs,
)
from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.metrics import distance_error_m, fit_positions, probe_error
from recon.model import ForwardModel
from tests.recon.scans import BEAM, FRAME, PIXEL, WAVELENGTH, bright_scan

SETTINGS = CalibrationSettings(probe_diameter_m=280e-6, lit_energy=1.0, joint_epochs=60)
SHORT = replace(SETTINGS, warm_epochs=2, joint_epochs=2, full_epochs=1, polish_epochs=0)


@pytest.fixture(scope="module")
def scan():
    return bright_scan()


@pytest.fixture(scope="module")
def reports():
    return []


@pytest.fixture(scope="module")
def result(scan, reports):
    torch.set_num_threads(1)
    return calibrate(scan.data, SETTINGS, report=reports.append)


def test_distance_is_found_modulo_the_scale(scan, result):
    fit = fit_positions(result.illumination.positions_m, scan.positions_m)
    error = distance_error_m(result.illumination.geometry.distance_m, scan.distance_m, fit.scale)
    assert abs(error) < 0.1e-3
    assert fit.scale == pytest.approx(1, abs=2e-3)
    assert abs(scan.data.geometry.distance_m - scan.distance_m) > 0.2e-3


def test_positions_are_found(scan, result):
    before = fit_positions(scan.data.positions_m, scan.positions_m).rms_m / PIXEL
    after = fit_positions(result.illumination.positions_m, scan.positions_m).rms_m / PIXEL
    assert before > 0.5
    assert after < 0.2


def test_the_probe_is_found_with_its_energy(scan, result):
    probe = result.illumination.probe
    truth = BEAM.field(PIXEL, len(probe)) * np.sqrt(scan.photons / 0.1)
    error = probe_error(probe, truth, PIXEL, WAVELENGTH, scan.distance_m)
    start = probe_error(soft_disc(len(probe), 280e-6 / PIXEL), truth, PIXEL, WAVELENGTH, scan.distance_m)
    assert error < 0.15
    assert start > 2 * error
    assert result.illumination.electrons_per_second == pytest.approx(scan.photons / 0.1, rel=0.02)


def test_epochs_are_reported_and_the_loss_falls(result, reports):
    epochs = len(reports)
    assert len(result.loss) == len(result.distance_m) == len(result.stages) == len(result.position_change_px) == epochs
    assert [r.epoch for r in reports] == list(range(1, epochs + 1))
    assert epochs <= reports[0].epochs == 134
    assert tuple(dict.fromkeys(result.stages)) == ("warm", "joint", "full", "polish")
    assert tuple(r.stage for r in reports) == result.stages
    assert [r.loss for r in reports] == result.loss.tolist()
    joint = np.flatnonzero(np.array(result.stages) == "joint")
    assert result.loss[joint[-1]] < 0.3 * result.loss[0]
    assert len(set(result.distance_m[:4])) == 1
    assert not result.position_change_px[:4].any()
    assert result.position_change_px[joint[-1]] < 0.2 * result.position_change_px[joint[0]]
    assert result.distance_m[-1] == result.illumination.geometry.distance_m == result.summary()["distance_m"]
    assert not result.interrupted


def test_the_propagation_is_reported(result):
    assert result.plan == (
        "warm: angular spectrum, 96 x 96 unpadded, 96 x 96 frequencies in band, binned 1 x, amplitude loss",
        "joint: angular spectrum, 96 x 96 unpadded, 96 x 96 frequencies in band, binned 1 x, amplitude loss",
        "full: angular spectrum, 96 x 96 padded to 128 x 128, 128 x 128 frequencies in band, binned 1 x, mixed loss",
        "polish: angular spectrum, 96 x 96 padded to 128 x 128, 128 x 128 frequencies in band, binned 1 x, mixed loss",
    )
    assert result.summary()["propagation"] == list(result.plan)


def test_the_objects_ramp_and_phase_are_gone(result):
    probe, positions = result.illumination.probe, result.illumination.positions_m / PIXEL
    lit = illuminated(probe, positions, len(result.object))
    obj = np.where(lit, result.object, 0)
    for step in (obj[1:] * obj[:-1].conj(), obj[:, 1:] * obj[:, :-1].conj()):
        assert abs(np.angle(step.sum())) < 1e-4
    # The sample is real and positive.
    assert np.abs(np.angle(obj[lit & (np.abs(obj) > 0.3)])).mean() < 0.2


def test_the_same_seed_gives_the_same_result_and_another_seed_another(scan):
    once, again, other = (calibrate(scan.data, replace(SHORT, seed=seed)) for seed in (4, 4, 5))
    assert np.array_equal(once.object, again.object)
    assert np.array_equal(once.illumination.probe, again.illumination.probe)
    assert np.array_equal(once.loss, again.loss)
    assert not np.array_equal(once.object, other.object)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_stop_keeps_what_was_found(scan, epochs):
    seen = []
    result = calibrate(scan.data, SHORT, report=seen.append, stop=lambda: len(seen) == epochs)
    assert result.interrupted
    assert result.summary()["interrupted"]
    assert len(result.loss) == len(result.stages) == epochs == len(seen)
    assert result.stages == ("warm", "warm", "joint")[:epochs]
    assert np.isfinite(result.object).all()
    full = calibrate(scan.data, SHORT)
    # the same steps in the same order, only fewer
    assert np.array_equal(result.loss, full.loss[:epochs])


def test_an_early_end_keeps_the_best_of_its_stage(scan):
    # Steps far too large: the loss rises again, and the state before that is what counts.
    wild = replace(SHORT, warm_epochs=12, object_rate=0.06, probe_rate=0.3, seed=1)
    seen = []
    kept = calibrate(scan.data, wild, report=seen.append, stop=lambda: len(seen) == 12)
    best = int(np.argmin(kept.loss)) + 1
    assert best < 12
    again = []
    at_best = calibrate(scan.data, wild, report=again.append, stop=lambda: len(again) == best)
    assert np.array_equal(kept.object, at_best.object)
    assert np.array_equal(kept.illumination.probe, at_best.illumination.probe)


@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_a_resumed_calibration_is_the_one_that_never_stopped(scan, tmp_path, epochs):
    path = tmp_path / "state.checkpoint"
    seen = []
    calibrate(scan.data, SHORT, report=seen.append, stop=lambda: len(seen) == epochs, checkpoint=path)
    assert path.exists()
    resumed = calibrate(scan.data, SHORT, checkpoint=path)
    whole = calibrate(scan.data, SHORT)
    assert np.array_equal(resumed.object, whole.object)
    assert np.array_equal(resumed.illumination.positions_m, whole.illumination.positions_m)
    assert np.array_equal(resumed.loss, whole.loss)
    assert resumed.stages == whole.stages
    assert not path.exists()


def test_a_checkpoint_of_something_else_is_refused(scan, tmp_path):
    path = tmp_path / "state.checkpoint"
    calibrate(scan.data, SHORT, stop=lambda: True, checkpoint=path)
    with pytest.raises(DatasetError, match="other data or settings"):
        calibrate(scan.data, replace(SHORT, seed=9), checkpoint=path)
    path.write_bytes(b"no such thing")
    with pytest.raises(DatasetError, match="not a calibration's checkpoint"):
        calibrate(scan.data, SHORT, checkpoint=path)


@pytest.mark.parametrize(
    ("photons", "loss", "distance_m"), [(1e5, 0.47, 0.25e-3), (1e7, 0.9, 0.1e-3), (1e9, 5.0, 0.1e-3)]
)
def test_the_same_steps_suit_every_brightness(photons, loss, distance_m):
    """The defaults of the warm and joint stages alone. Steps ten times as large diverge, small ones stop far above.

    The amplitude loss is below one a pixel where most pixels hold less than an electron, and a little above where what
    the model leaves out shows. 1e5 photons, 20 a pixel in the light, leave the distance open: it must not run away.
    """
    scan = bright_scan(photons=photons)
    found = calibrate(scan.data, replace(SETTINGS, joint_epochs=32, full_epochs=0))
    assert found.loss[-1] < loss
    fit = fit_positions(found.illumination.positions_m, scan.positions_m)
    error = distance_error_m(found.illumination.geometry.distance_m, scan.distance_m, fit.scale)
    assert abs(error) < distance_m
    assert fit.rms_m < 0.65 * fit_positions(scan.data.positions_m, scan.positions_m).rms_m


def test_bracketed_exposures_share_their_position(scan):
    data = scan.data
    twice = replace(
        data,
        frames=np.concatenate([data.frames, 0.25 * data.frames]),
        positions_m=np.concatenate([data.positions_m] * 2),
        exposures_s=np.concatenate([data.exposures_s, 0.25 * data.exposures_s]),
        indices=np.concatenate([data.indices] * 2),
    )
    found = calibrate(twice, replace(SHORT, full_epochs=0))
    positions = found.illumination.positions_m
    assert len(positions) == 60
    assert np.array_equal(positions[:30], positions[30:])
    assert not np.allclose(positions[:30], data.positions_m)


@pytest.mark.parametrize("epochs", [200, 46, 16, 5, 1])
def test_epochs_in_all_are_kept(scan, epochs):
    settings = with_epochs(scan.data, SETTINGS, 96, epochs)
    stages = stages_of(scan.data, settings, 96)
    assert sum(stage.epochs for stage in stages) == epochs
    assert any(stage.name == "joint" for stage in stages)


def test_few_epochs_shorten_all_stages_but_a_warm_one_that_has_only_the_joint_one_beside_it(scan):
    def lengths(settings, epochs):
        shorter = with_epochs(scan.data, settings, 96, epochs)
        return [(stage.name, stage.epochs) for stage in stages_of(scan.data, shorter, 96)]

    whole = replace(SETTINGS, warm_epochs=4, joint_epochs=32, full_epochs=10, polish_epochs=54)
    assert lengths(whole, 50) == [("warm", 2), ("joint", 16), ("full", 5), ("polish", 27)]
    whole = replace(whole, polish_epochs=0)
    assert lengths(whole, 50) == [("warm", 4), ("joint", 36), ("full", 10)]
    assert lengths(whole, 24) == [("warm", 2), ("joint", 17), ("full", 5)]
    brief = replace(whole, warm_epochs=2, joint_epochs=48, full_epochs=0)
    assert lengths(brief, 60) == [("warm", 2), ("joint", 58)]
    assert lengths(brief, 4) == [("warm", 2), ("joint", 2)]
    assert lengths(brief, 3) == [("joint", 3)]


def test_stages_go_from_coarse_to_fine_as_far_as_the_light_allows():
    def planned(side, pixel_m, crop, far_field=False, **changes):
        few = np.zeros((2, side, side), np.float32)
        geometry = Geometry(561e-9, 65e-3, pixel_m, (side, side), far_field)
        data = Ptychogram(few, np.zeros((2, 2)), np.ones(2), geometry, few[0], few[0] == 0)
        settings = CalibrationSettings(**{"probe_diameter_m": 500e-6, **changes})
        return [(s.name, s.binning, s.side[0], s.window) for s in stages_of(data, settings, crop)]

    assert planned(1024, 3.45e-6, 736) == [
        ("warm", 4, 736, 64),
        ("joint", 4, 736, 64),
        ("refine", 2, 736, 128),
        ("refine", 1, 736, 248),
        ("full", 1, 1024, 248),
    ]
    assert planned(512, 6.9e-6, 352)[1:3] == [("joint", 2, 352, 64), ("refine", 1, 352, 128)]
    # At 13.8 um twice the pitch could no longer hold the field. Two frames are few enough to be polished.
    assert [name for name, *_ in planned(256, 13.8e-6, 256)] == ["warm", "joint", "full", "polish"]
    assert planned(256, 13.8e-6, 256, full_epochs=0)[-1][0] == "joint"
    assert planned(1024, 3.45e-6, 736, coarsest=1)[0] == ("warm", 1, 736, 248)
    assert planned(256, 13.8e-6, 256, far_field=True, full_epochs=0)[-1] == ("joint", 1, 256, 256)


def test_probe_modes_are_orthogonal_and_keep_the_light(scan):
    found = calibrate(scan.data, replace(SHORT, modes=2))
    assert found.modes.shape[0] == 2
    first, second = found.modes
    assert abs(np.vdot(first, second)) < 1e-4 * np.linalg.norm(first) * np.linalg.norm(second)
    assert np.linalg.norm(first) > np.linalg.norm(second) > 0
    np.testing.assert_array_equal(first, found.illumination.probe)


def test_flux_and_background_are_found(scan):
    rng = np.random.default_rng(5)
    flux = np.exp(rng.normal(0, 0.03, len(scan.data)))
    flux /= np.exp(np.log(flux).mean())
    level = 0.2 * scan.data.frames.mean()
    frames = scan.data.frames * flux[:, None, None].astype(np.float32) + np.float32(level)
    changed = replace(scan.data, frames=frames)
    # Not the cropped window: it would take the background for light.
    settings = replace(SETTINGS, flux_prior=0.05, background_prior=0.5, joint_epochs=32, full_epochs=0)
    found = calibrate(changed, settings)
    error = np.log(found.flux / flux)
    assert (error - error.mean()).std() < 0.5 * np.log(flux).std()
    assert found.background * 0.1 == pytest.approx(level, rel=0.3)
    plain = calibrate(scan.data, SHORT)
    assert np.array_equal(plain.flux, np.ones(30))
    assert plain.background == 0


def test_a_background_never_takes_light_away(scan):
    """Less than no light has no likelihood; with steps as large as these the search would go there."""
    few = replace(scan.data.select(np.arange(12)), empty=None, empty_exposure_s=None)
    settings = replace(SETTINGS, background_prior=1.0, warm_epochs=1, joint_epochs=3, refine_epochs=0, full_epochs=0)
    found = calibrate(few, settings)
    assert found.background >= 0
    assert np.isfinite(found.loss).all()


def test_frames_without_light_are_an_error(scan):
    dark = replace(scan.data, frames=-np.abs(scan.data.frames), empty=None, empty_exposure_s=None)
    with pytest.raises(DatasetError, match=r"small scan: the calibration frames hold no light.*beam blocked"):
        calibrate(dark, SHORT)


def test_nothing_moves_that_is_not_free(scan):
    result = calibrate(scan.data, replace(SHORT, refine_distance=False, refine_positions=False))
    assert set(result.distance_m) == {scan.data.geometry.distance_m}
    np.testing.assert_allclose(result.illumination.positions_m, scan.data.positions_m, atol=1e-10)


def test_bad_and_clipped_pixels_do_not_count(scan):
    mask = scan.data.mask.copy()
    mask[40:44, 50] = False
    saturated = np.zeros(scan.data.frames.shape, bool)
    saturated[3, 48, 48] = True
    frames = [scan.data.frames.copy(), scan.data.frames.copy()]
    frames[1][:, 40:44, 50] = 6e4
    frames[1][3, 48, 48] = 10.0
    empty = scan.data.empty.copy()
    empty[40:44, 50] = 5e4
    one = replace(scan.data, frames=frames[0], mask=mask, saturated=saturated)
    # A clipped pixel still counts in the brightest frame; leave the empty beam in to fix the flux.
    two = replace(scan.data, frames=frames[1], mask=mask, saturated=saturated, empty=empty)
    results = [calibrate(data, replace(SHORT, full_epochs=0)) for data in (one, two)]
    np.testing.assert_allclose(results[0].loss, results[1].loss, rtol=1e-6)


def test_without_an_empty_beam_the_brightest_of_the_object_is_one(scan):
    result = calibrate(replace(scan.data, empty=None, empty_exposure_s=None), SHORT)
    lit = illuminated(result.illumination.probe, result.illumination.positions_m / PIXEL, len(result.object))
    assert np.percentile(np.abs(result.object)[lit], 99) == pytest.approx(1, abs=0.02)


def test_removing_the_ramp_leaves_the_patterns():
    rng = np.random.default_rng(0)
    obj = rng.uniform(0.3, 1, (64, 64)).astype(complex)
    axis = np.arange(64) - 32
    ramp = np.exp(1j * (0.11 * axis[:, None] - 0.07 * axis[None, :] + 0.9))
    probe = soft_disc(32, 16).astype(complex)
    weight = np.zeros((64, 64))
    weight[8:-8, 8:-8] = 1
    flat, tilted = remove_ramp(obj * ramp, probe, weight)
    np.testing.assert_allclose(flat, obj, atol=1e-9)
    model = ForwardModel.build(Geometry(WAVELENGTH, 10e-3, PIXEL, (FRAME, FRAME)), 32)
    positions = torch.tensor([[2.0, -5.0], [-7.0, 3.0]])

    def patterns(p, o):
        return model.intensities(*(torch.from_numpy(a.astype(np.complex64)) for a in (p, o)), positions)

    before, after = patterns(probe, obj * ramp), patterns(tilted, flat)
    assert float((before - after).abs().max() / before.max()) < 1e-4
    assert float((patterns(probe, flat) - before).abs().max() / before.max()) > 0.05


def test_the_lit_window_holds_the_light_that_was_asked_for(scan):
    frames = np.zeros_like(scan.data.frames)
    frames[:, 48 - 30 : 48 + 30, 48 - 30 : 48 + 30] = 1.0
    small = replace(scan.data, frames=frames)
    assert lit_window(small, 0.99) == (64, 1.0)
    frames[:, 2, 2] = 60.0  # 1.6 % of the light in a corner
    side, share = lit_window(small, 0.99)
    assert (side, share) == (96, pytest.approx(1))
    assert lit_window(small, 0.98) == (64, pytest.approx(3600 / 3660))
    mask = scan.data.mask.copy()
    mask[2, 2] = False
    assert lit_window(replace(small, mask=mask), 0.99)[0] == 64


def test_a_soft_disc_is_half_at_its_rim():
    disc = np.abs(soft_disc(64, 30))
    assert disc[32, 32] == pytest.approx(1)
    assert disc[32, 32 + 15] == disc[32 - 15, 32] == pytest.approx(0.5)
    assert disc[0, 0] < 1e-6


def test_positions_are_looked_up_by_index_and_a_missing_one_is_named(result):
    light = replace(result.illumination, indices=np.arange(30) * 3)
    np.testing.assert_array_equal(light.positions_of(np.array([6, 0])), light.positions_m[[2, 0]])
    with pytest.raises(DatasetError, match=r"no corrected position for .*point 7"):
        light.positions_of(np.array([6, 7]))


def test_the_illumination_holds_no_object():
    assert {f.name for f in fields(Illumination)} == {"probe", "geometry", "positions_m", "indices"}
