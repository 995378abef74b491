"""The end of a calibration: downhill from anywhere, at rest at the maximum, and nothing moves that is held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import recon.polish
from recon.calibrate import CalibrationSettings, calibrate
from recon.fit import Fit, Priors
from recon.metrics import fit_positions
from recon.noise import MixedGaussian, StabilisedAmplitude
from recon.polish import Polish
from recon.streaming import ArrayFrames, Electrons, Streamed
from recon.uncertainty import _Counter, _found
from recon.unknowns import GROUPS, Unknowns
from tests.recon.scans import PIXEL, bright_scan
from tests.recon.test_uncertainty import COUNT, PRIOR_PX, Toy


@pytest.fixture(scope="module")
def toy():
    torch.set_num_threads(1)
    return Toy.build(1e6)


def fit_of(toy, seed=0, loss=None, off=0.0, **priors):
    """A fit that starts at the truth, its positions, distance, object and probe wrong by about `off`."""
    t, generator = toy.truth, torch.Generator().manual_seed(5)
    u = Unknowns(t.object.clone(), t.probe.clone(), t.nominal_px, t.point, t.lit)

    def wrong(like, size):
        return off * size * torch.randn(like.shape, generator=generator, dtype=like.dtype)

    u.object.add_(wrong(u.object, 0.1))
    u.probe.add_(wrong(u.probe, 0.05) * (u.probe.abs() > 0.1))
    u.offset_m.add_(off * 3e-4)
    u.affine.add_(off * torch.tensor([0.4, -0.3, 0.5]))
    u.deviation.add_(wrong(u.deviation, 0.5))
    sizes = Priors(PRIOR_PX, **priors)
    return Fit(toy.data(seed), u, toy.optics, loss or MixedGaussian(), toy.scale, sizes, batch=4, seed=0)


def test_all_frames_together_are_the_sum_of_the_batches(toy):
    fit = fit_of(toy, off=1.0, log_gain=0.05, background=0.5)
    fit.unknowns.log_gain.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))
    value, gradients = fit.everything()
    total, sums = 0.0, [torch.zeros_like(t) for t in fit.unknowns.searched()]
    for k, frames in enumerate(torch.arange(COUNT).split(4)):
        # The empty beam counts once.
        fit.empty_every = COUNT // 4
        part, found = fit.gradients(frames, k == 0)
        total += float(part)
        sums = [a + b for a, b in zip(sums, found, strict=True)]
    assert value == pytest.approx(total, rel=1e-5)
    for name, a, b in zip(GROUPS, gradients, sums, strict=True):
        assert float((a - b).abs().max()) < 1e-3 * float(b.abs().max()), name


def test_the_light_is_the_scale_of_object_and_probe(toy):
    fit = fit_of(toy)
    on_object, on_probe = fit.light()
    beam = toy.truth.probe.abs().square().sum()
    assert float(on_object.real.sum()) == pytest.approx(COUNT * 2 * float(fit.gain[0] * beam), rel=1e-4)
    corner = 2 * float(fit.empty.gain[0])
    assert float(on_probe.real.min()) >= corner
    assert float(on_object.imag.abs().max()) == 0


def test_it_goes_downhill_to_where_the_truth_is_and_rests_when_nothing_moves(toy, monkeypatch):
    fit = fit_of(toy, off=1.0, loss=StabilisedAmplitude())
    polish = Polish(fit, distance=True, positions=True)

    def error():
        return float((fit.unknowns.positions_px() - toy.truth.nominal_px).square().mean().sqrt())

    start, losses = error(), [polish.step() for _ in range(60)]
    assert not polish.settled
    assert (np.diff(losses) <= 0).all()
    assert error() < 0.2 * start
    assert abs(float(fit.unknowns.offset_m)) < 0.8 * 3e-4
    # Whoever calls a hundred standard deviations still is content after a few passes.
    monkeypatch.setattr(recon.polish, "STILL", 100.0)
    for _ in range(recon.polish.CALM):
        assert not polish.settled
        polish.step()
    assert polish.settled


def test_the_end_is_stationary_by_finite_differences(toy):
    """After 100 passes the loss rises both ways along distance, affine map and positions.

    What each would still move, slope over curvature, is less than the standard deviation that a calibration states.
    """
    fit = fit_of(toy, off=0.3)
    polish = Polish(fit, distance=True, positions=True)
    for _ in range(100):
        polish.step()
        if polish.settled:
            break
    u = fit.unknowns
    first = u.snapshot()

    def half_loss():
        return fit.everything()[0] / 2

    centre = half_loss()
    counter = _Counter(lambda *_: None, bool)
    said = _found(toy.curvature(toy.data(0), u), PIXEL, 1, counter, 0, polished=True)
    steps = [("offset_m", (), 2e-5, said.distance_sigma_m)]
    steps += [("affine", (k,), 0.05, said.affine_sigma[k] * u.radius) for k in range(3)]
    steps += [("deviation", (k, a), 0.1, said.position_sigma_m[k, a] / PIXEL) for k in (0, 7) for a in (0, 1)]
    for name, where, size, sigma in steps:
        sides = []
        for sign in (1, -1):
            u.load(first)
            getattr(u, name)[where] += sign * size
            sides.append(half_loss())
        u.load(first)
        curvature = (sides[0] + sides[1] - 2 * centre) / size**2
        slope = (sides[0] - sides[1]) / (2 * size)
        assert curvature > 0, name
        assert abs(slope / curvature) < sigma, (name, where)


def test_a_stop_moves_nothing_and_what_is_held_stays(toy):
    fit = fit_of(toy, off=1.0)
    before = fit.unknowns.snapshot()
    polish = Polish(fit, distance=False, positions=False)
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > 8

    assert polish.step(stop) is None
    for name in GROUPS:
        torch.testing.assert_close(getattr(fit.unknowns, name), before[name], rtol=0, atol=0)
    polish.step()
    assert not torch.equal(fit.unknowns.object, before["object"])
    assert not torch.equal(fit.unknowns.probe, before["probe"])
    for name in ("offset_m", "affine", "deviation", "log_gain", "background"):
        torch.testing.assert_close(getattr(fit.unknowns, name), before[name], rtol=0, atol=0)
    assert not polish.settled


def test_flux_and_background_are_found(toy):
    fit = fit_of(toy, loss=StabilisedAmplitude(), log_gain=0.05, background=0.5)
    flux = torch.linspace(-0.1, 0.1, COUNT)
    fit.frames = fit.frames * flux.exp()[:, None, None] + 0.2 * fit.level[:, None, None]
    polish = Polish(fit, distance=True, positions=True)
    for _ in range(60):
        polish.step()
    u = fit.unknowns
    assert float(u.background) == pytest.approx(0.2, abs=0.04)
    assert float((u.log_gain - u.log_gain.mean() - flux).std()) < 0.15 * float(flux.std())


SETTINGS = CalibrationSettings(probe_diameter_m=280e-6, lit_energy=1.0, joint_epochs=6, full_epochs=2, polish_epochs=6)


@pytest.fixture(scope="module")
def scan():
    return bright_scan(count=20)


def test_streamed_frames_end_where_held_ones_do(scan):
    data = scan.data
    names = ("positions_m", "exposures_s", "geometry", "dark_variance", "mask", "indices", "name", "empty")
    kept = {name: getattr(data, name) for name in (*names, "empty_exposure_s")}
    far = Streamed(ArrayFrames(data.frames), Electrons(), np.arange(len(data)), **kept)
    one, other = calibrate(data, SETTINGS), calibrate(far, SETTINGS, memory_bytes=0)
    np.testing.assert_allclose(other.loss, one.loss, rtol=1e-5)
    np.testing.assert_allclose(other.illumination.positions_m, one.illumination.positions_m, atol=1e-9)


def test_an_end_within_the_polish_keeps_the_best_and_goes_on_the_same(scan, tmp_path):
    path, seen = tmp_path / "state.checkpoint", []
    early = calibrate(scan.data, SETTINGS, report=seen.append, stop=lambda: bool(seen) and _late(seen), checkpoint=path)
    assert early.interrupted
    assert early.stages[-3:] == ("polish",) * 3
    assert path.exists()
    whole = calibrate(scan.data, SETTINGS)
    np.testing.assert_array_equal(early.loss, whole.loss[: len(early.loss)])
    resumed = calibrate(scan.data, SETTINGS, checkpoint=path)
    np.testing.assert_array_equal(resumed.object, whole.object)
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    assert not path.exists()


def _late(seen):
    """Whether the last polish has made three passes."""
    names = [report.stage for report in seen]
    return "full" in names and names[-3:] == ["polish"] * 3


def test_polishing_ends_nearer_to_the_truth(scan):
    plain = replace(SETTINGS, joint_epochs=16, full_epochs=5, polish_epochs=0)
    errors = [
        fit_positions(calibrate(scan.data, s).illumination.positions_m, scan.positions_m).rms_m / PIXEL
        for s in (plain, replace(plain, polish_epochs=30))
    ]
    assert errors[1] < 0.75 * errors[0]
