"""Uncertainties are true: against the scatter over noise seeds, and the products they are made of against autograd."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import recon.uncertainty as module
from recon.calibrate import CalibrationSettings, calibrate
from recon.curvature import Curvature, Direction, Free, looks_at
from recon.dataset import Geometry, Ptychogram
from recon.frameloss import Batch, FrameLoss
from recon.metrics import fit_positions
from recon.model import object_size
from recon.noise import MixedGaussian
from recon.propagators import NearField
from recon.uncertainty import uncertainty_of
from recon.unknowns import Unknowns
from simulators.optics import Illumination as Beam
from tests.recon.scans import NOMINAL_DISTANCE, PIXEL, WAVELENGTH, bright_scan, spiral, texture

COUNT, WINDOW, FRAME, SECONDS, NOISE_E = 24, 32, 48, 0.1, 0.3
BEAM = Beam(150e-6, 24e-6, defocus_waves=0.1, astigmatism_waves=0.06)
PRIOR_PX = 0.6


@dataclass(frozen=True)
class Toy:
    """A scan whose frames are those of the reconstruction's own model: what is tested is noise, not the model."""

    truth: Unknowns
    optics: NearField
    scale: float
    expected: np.ndarray
    empty: np.ndarray

    @classmethod
    def build(cls, photons: float) -> Toy:
        geometry = Geometry(WAVELENGTH, NOMINAL_DISTANCE, PIXEL, (FRAME, FRAME))
        probe = torch.from_numpy(BEAM.field(PIXEL, WINDOW).astype(np.complex64))[None]
        probe = probe / probe.abs().max()
        positions = torch.from_numpy(spiral(COUNT, 90e-6) / PIXEL).float()
        side = object_size(positions, WINDOW, 8)
        obj = torch.from_numpy(texture(0).transmission(PIXEL, (side, side)).astype(np.complex64))
        truth = Unknowns(obj, probe, positions, torch.arange(COUNT), torch.ones(COUNT, dtype=torch.bool))
        scale = photons / SECONDS / float(probe.abs().square().sum())
        optics = NearField.build(geometry, WINDOW, padded=True)
        model = FrameLoss(optics, MixedGaussian())
        whole = positions.round()
        corners = [(int(r), int(c)) for r, c in (whole + side // 2 - WINDOW // 2).tolist()]
        blank = torch.zeros(COUNT, FRAME, FRAME)
        gain = torch.full((COUNT,), scale * SECONDS)
        scan = Batch(blank, blank[0], None, corners, positions - whole, gain, torch.zeros(COUNT))
        beam = Batch(blank[:1], blank[0], None, [], torch.zeros(1, 2), gain[:1], torch.zeros(1))
        expected = model.intensities(probe, obj, scan, truth.offset_m).numpy()
        return cls(truth, optics, scale, expected, model.intensities(probe, None, beam, truth.offset_m)[0].numpy())

    def data(self, seed: int, stray: float = 1.0) -> Ptychogram:
        """Noise of that seed, its deviation `stray` times what the data say, and positions off under the prior."""
        rng = np.random.default_rng([seed, 7])

        def measured(expected: np.ndarray) -> np.ndarray:
            light = np.maximum(expected, 0)
            noise = rng.poisson(light) - light + rng.normal(0, NOISE_E, light.shape)
            return (light + stray * noise).astype(np.float32)

        return Ptychogram(
            frames=measured(self.expected),
            positions_m=self.truth.nominal_px.numpy().astype(np.float64) * PIXEL,
            exposures_s=np.full(COUNT, SECONDS),
            geometry=self.optics.geometry,
            dark_variance=np.full((FRAME, FRAME), NOISE_E**2, np.float32),
            mask=np.ones((FRAME, FRAME), bool),
            empty=measured(self.empty),
            empty_exposure_s=SECONDS,
        )

    def curvature(self, data: Ptychogram, unknowns: Unknowns, **free: float) -> Curvature:
        looks = looks_at(data, unknowns, self.optics, self.scale, batch=COUNT)
        return Curvature(looks, unknowns, self.optics, Free(PRIOR_PX, **free))

    def most_likely(self, data: Ptychogram) -> Unknowns:
        """The maximum of likelihood and prior: Gauss-Newton from the truth."""
        t = self.truth
        found = Unknowns(t.object.clone(), t.probe.clone(), t.nominal_px, t.point, t.lit)
        for _ in range(2):
            curvature = self.curvature(data, found)
            step = module._Solver(curvature, lambda: None)(curvature.downhill(), steps=20)
            for name in ("object", "probe", "offset_m", "affine", "deviation"):
                getattr(found, name).add_(getattr(step, name))
        return found


@pytest.fixture(scope="module")
def toy():
    torch.set_num_threads(1)
    return Toy.build(1e6)


def _random(curvature: Curvature, seed: int) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in curvature.zeros().parts()]
    parts[2] = parts[2] * 1e-4
    return Direction(*parts)


def test_products_are_symmetric_and_positive(toy):
    curvature = toy.curvature(toy.data(0), toy.truth)
    x, y = _random(curvature, 1), _random(curvature, 2)
    assert x.dot(curvature.product(y)) == pytest.approx(y.dot(curvature.product(x)), rel=1e-3)
    assert x.dot(curvature.product(x)) > 0
    assert x.dot(curvature.product(x, noise=True)) > x.dot(curvature.product(x))


def test_inner_products_are_those_of_products(toy):
    curvature = toy.curvature(toy.data(0), toy.truth, log_gain=0.05, background=0.5)
    vectors = [_random(curvature, seed) for seed in (1, 2, 3)]
    gram = curvature.gram(vectors)
    expected = [[a.dot(curvature.product(b)) for b in vectors] for a in vectors]
    np.testing.assert_allclose(gram, expected, rtol=1e-3, atol=1e-4 * float(gram.max()))
    noisy = curvature.gram(vectors, noise=True)
    assert float(noisy[0, 0]) > float(gram[0, 0])


def test_flux_and_background_are_derivatives_too_where_they_are_free(toy):
    held, data = toy.curvature(toy.data(0), toy.truth), toy.data(0)
    free = toy.curvature(data, toy.truth, log_gain=0.05, background=0.5)
    gain = replace(free.zeros(), log_gain=torch.linspace(-1, 1, COUNT))
    total = toy.expected + NOISE_E**2
    weight = 1 / total + 0.5 / total**2
    expected = (weight * (np.linspace(-1, 1, COUNT)[:, None, None] * toy.expected) ** 2).sum()
    prior = float(gain.log_gain.square().sum()) / 0.05**2
    assert gain.dot(free.product(gain)) == pytest.approx(expected + prior, rel=1e-3)
    stray = replace(free.zeros(), background=torch.ones(()))
    level = float(data.frames.mean())
    assert stray.dot(free.product(stray)) == pytest.approx(weight.sum() * level**2 + 4, rel=1e-3)
    assert gain.dot(held.product(gain)) == 0


def test_products_are_the_models_own_derivative(toy):
    """x A x is the sum over pixels of W (dI)^2, with dI from the model itself, moved along x."""
    curvature = toy.curvature(toy.data(0), toy.truth)
    x = _random(curvature, 3)

    def seen(h: float) -> np.ndarray:
        t = toy.truth
        moved = t.nominal_px + h * curvature.positions_px(x)
        whole = t.nominal_px.round()
        corners = [(int(r), int(c)) for r, c in (whole + len(t.object) // 2 - WINDOW // 2).tolist()]
        blank = torch.zeros(COUNT, FRAME, FRAME)
        gain = torch.full((COUNT,), toy.scale * SECONDS)
        batch = Batch(blank, blank[0], None, corners, moved - whole, gain, torch.zeros(COUNT))
        model = FrameLoss(toy.optics, MixedGaussian())
        return model.intensities(t.probe + h * x.probe, t.object + h * x.object, batch, h * x.offset_m).numpy()

    slope = (seen(1e-3).astype(np.float64) - seen(-1e-3)) / 2e-3
    total = toy.expected + NOISE_E**2
    frames = float(((1 / total + 0.5 / total**2) * slope**2).sum())
    with_prior = x.dot(curvature.product(x))
    prior = float((toy.truth._projected(x.deviation) ** 2).sum()) / PRIOR_PX**2
    still = replace(curvature.zeros(), probe=x.probe, offset_m=x.offset_m)
    alone = curvature._groups
    curvature._groups = alone[-1:]
    beam = still.dot(curvature.product(still))
    assert with_prior == pytest.approx(frames + beam + prior, rel=1e-3)


def test_deviations_agree_with_the_scatter_over_noise_seeds(toy):
    """Twenty-four noise seeds: the errors of distance and positions over what is said of them have rms one."""
    errors, distances = [], []
    for seed in range(24):
        data = toy.data(seed)
        found = toy.most_likely(data)
        if seed == 0:
            counter = module._Counter(lambda *_: None, bool)
            said = module._found(toy.curvature(data, found), PIXEL, 1, counter, 0, polished=True)
        estimate = found.positions_px().numpy().astype(np.float64) * PIXEL
        fit = fit_positions(estimate, data.positions_m)
        errors.append(((estimate - fit.shift_m) / fit.scale - data.positions_m) / said.position_sigma_m)
        distances.append(float(found.offset_m) / said.distance_sigma_m)
    assert 0.8 < np.sqrt(np.mean(np.square(errors))) < 1.25
    assert 0.8 < np.sqrt(np.mean(np.square(distances))) < 1.25


def test_a_calibration_says_how_sure_it_is_and_light_makes_it_surer():
    settings = CalibrationSettings(
        probe_diameter_m=280e-6, lit_energy=1.0, warm_epochs=2, joint_epochs=4, full_epochs=2, polish_epochs=4, batch=6
    )
    said = []
    for photons in (1e5, 1e7):
        data = bright_scan(count=12, photons=photons).data
        said.append(uncertainty_of(data, calibrate(data, settings)))
    bright = said[1]
    # Without the misfit of a calibration that was cut short, a hundred times the light is ten times the accuracy.
    relative = [u.probe_relative / np.sqrt(max(1.0, u.misfit)) for u in said]
    assert 4 < relative[0] / relative[1] < 20
    assert bright.position_sigma_m.shape == (12, 2)
    assert (bright.position_sigma_m > 0).all()
    assert bright.distance_sigma_m >= abs(bright.distance_step_m) > 0
    modes = bright.probe_modes.reshape(len(bright.probe_modes), -1)
    overlap = (modes.conj() @ modes.T).real
    np.testing.assert_allclose(overlap, np.eye(len(modes)), atol=1e-4)
    assert (np.diff(bright.probe_sigma) <= 0).all()


def test_what_was_held_has_no_deviation_and_a_stop_gives_none():
    data = bright_scan(count=8).data
    settings = CalibrationSettings(
        probe_diameter_m=280e-6,
        lit_energy=1.0,
        warm_epochs=1,
        joint_epochs=1,
        full_epochs=0,
        refine_distance=False,
        refine_positions=False,
        batch=8,
    )
    held = calibrate(data, settings)
    said = uncertainty_of(data, held)
    assert np.isnan(said.distance_sigma_m)
    assert not said.position_sigma_m.any()
    assert uncertainty_of(data, held, stop=lambda: True) is None
