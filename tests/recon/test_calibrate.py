"""Calibration of a small simulated scan, and its parts."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from recon.calibrate import (
    CalibrationSettings,
    Illumination,
    Unknowns,
    calibrate,
    illuminated,
    lit_window,
    remove_ramp,
    soft_disc,
)
from recon.dataset import DatasetError, Geometry
from recon.metrics import distance_error_m, fit_positions, probe_error
from recon.model import ForwardModel
from tests.recon.scans import BEAM, FRAME, PIXEL, WAVELENGTH, bright_scan

SETTINGS = CalibrationSettings(probe_diameter_m=280e-6, warm_epochs=20, joint_epochs=60, full_epochs=4)
SHORT = replace(SETTINGS, warm_epochs=2, joint_epochs=2, full_epochs=1)


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
    assert after < 0.25


def test_the_probe_is_found_with_its_energy(scan, result):
    probe = result.illumination.probe
    truth = BEAM.field(PIXEL, len(probe)) * np.sqrt(scan.photons / 0.1)
    error = probe_error(probe, truth, PIXEL, WAVELENGTH, scan.distance_m)
    start = probe_error(soft_disc(len(probe), 280e-6 / PIXEL), truth, PIXEL, WAVELENGTH, scan.distance_m)
    assert error < 0.15
    assert start > 2 * error
    assert result.illumination.electrons_per_second == pytest.approx(scan.photons / 0.1, rel=0.02)


def test_epochs_are_reported_and_the_loss_falls(result, reports):
    assert len(result.loss) == len(result.distance_m) == len(result.stages) == SETTINGS.epochs == len(reports)
    assert [r.epoch for r in reports] == list(range(1, SETTINGS.epochs + 1))
    assert result.stages == ("warm",) * 20 + ("joint",) * 60 + ("full",) * 4
    assert tuple(r.stage for r in reports) == result.stages
    assert [r.loss for r in reports] == result.loss.tolist()
    assert result.loss[19] < 0.2 * result.loss[0]
    assert result.loss[79] < result.loss[20]
    assert len(set(result.distance_m[:20])) == 1
    assert result.distance_m[-1] == result.illumination.geometry.distance_m == result.summary()["distance_m"]
    assert not result.interrupted


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


def test_free_positions_keep_their_mean_and_scale():
    nominal = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)) * 12 + 3
    unknowns = Unknowns(torch.ones(4, 4), torch.ones(8, 8), nominal)
    torch.testing.assert_close(unknowns.positions_px().detach(), nominal)
    with torch.no_grad():
        unknowns.affine.copy_(torch.tensor([1.0, 0.6, -0.4]))
        unknowns.deviation.copy_(torch.ones_like(nominal) * torch.tensor([0.7, -0.3]))
    moved = unknowns.positions_px().detach()
    torch.testing.assert_close(moved.mean(0), nominal.mean(0), rtol=1e-5, atol=1e-5)
    centred = (nominal - nominal.mean(0)).double()
    linear = torch.linalg.lstsq(centred, (moved - moved.mean(0)).double()).solution
    assert float(torch.trace(linear)) == pytest.approx(2, abs=1e-5)
    # rotation by 1 px at the rms radius
    assert float(linear[0, 1] - linear[1, 0]) == pytest.approx(2.0 / unknowns.radius, rel=1e-4)


def test_positions_are_looked_up_by_index_and_a_missing_one_is_named(result):
    light = replace(result.illumination, indices=np.arange(30) * 3)
    np.testing.assert_array_equal(light.positions_of(np.array([6, 0])), light.positions_m[[2, 0]])
    with pytest.raises(DatasetError, match=r"no corrected position for .*point 7"):
        light.positions_of(np.array([6, 7]))


def test_the_illumination_holds_no_object():
    assert {f.name for f in fields(Illumination)} == {"probe", "geometry", "positions_m", "indices"}
