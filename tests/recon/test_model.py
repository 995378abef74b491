"""The forward model against direct double-precision computations, its gauges, its energy and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.dataset import Geometry
from recon.model import ForwardModel, _GatherPatches, object_size, pixel_average
from simulators.objects import Sample
from simulators.optics import Illumination, Propagator

GEOMETRY = Geometry(561e-9, 6e-3, 8e-6, (96, 96))
WINDOW = 64
SIZE = 96


def grid(n):
    axis = np.arange(n) - n // 2
    return axis[:, None].astype(float), axis[None, :].astype(float)


def analytic_probe(y, x):
    """A converging Gaussian beam, band-limited far below the pixel, with a tilt so that nothing is symmetric."""
    return np.exp(-((y - 0.7) ** 2 + (x + 1.3) ** 2) / 7.0**2 * (1 + 0.6j) + 0.11j * y - 0.07j * x)


def analytic_object(y, x):
    """Waves that fit no grid, of complex transmission."""
    return (
        0.6
        + 0.2 * np.cos(0.31 * y - 0.17 * x + 0.4)
        + 0.15j * np.sin(0.23 * x + 0.12 * y)
        + 0.1 * np.sin(0.41 * x) ** 2
    )


def tensor(array):
    return torch.from_numpy(np.asarray(array).astype(np.complex64))


def scene(seed=None):
    y, x = grid(WINDOW)
    m, n = grid(SIZE)
    probe, obj = analytic_probe(y, x), analytic_object(m, n)
    if seed is not None:
        rng = np.random.default_rng(seed)
        obj = obj + 0.1 * (rng.normal(size=obj.shape) + 1j * rng.normal(size=obj.shape))
    return tensor(probe), tensor(obj)


def direct_field(position, shape, distance=GEOMETRY.distance_m, scale=4):
    """Exit wave at its continuous position, textbook angular spectrum on a window `scale` times the frame's."""
    rows, columns = scale * shape[0], scale * shape[1]
    y, x = grid(rows)[0], grid(columns)[1]
    wave = analytic_probe(y, x) * analytic_object(position[0] + y, position[1] + x)
    v, u = (np.fft.fftfreq(n, GEOMETRY.pixel_size_m) for n in (rows, columns))
    k_z = np.sqrt(1 / GEOMETRY.wavelength_m**2 - v[:, None] ** 2 - u[None, :] ** 2) - 1 / GEOMETRY.wavelength_m
    field = np.fft.ifft2(np.fft.fft2(wave) * np.exp(2j * np.pi * distance * k_z))
    top, left = rows // 2 - shape[0] // 2, columns // 2 - shape[1] // 2
    return field[top : top + shape[0], left : left + shape[1]]


POSITIONS = [(0.0, 0.0), (3.0, -5.0), (2.37, -4.81), (-6.5, 7.499), (0.51, 9.08)]


@pytest.mark.parametrize("shape", [(96, 96), (80, 97)])
def test_continuous_positions_are_exact(shape):
    model = ForwardModel.build(Geometry(561e-9, 6e-3, 8e-6, shape), WINDOW)
    ours = model.fields(*scene(), torch.tensor(POSITIONS)).numpy()
    for field, position in zip(ours, POSITIONS, strict=True):
        expected = direct_field(position, shape)
        assert np.abs(field - expected).max() < 1e-3 * np.abs(expected).max(), position


def test_an_offset_moves_the_camera():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    ours = model.fields(*scene(), torch.tensor([[1.3, 2.6]]), torch.tensor(0.3e-3)).numpy()[0]
    expected = direct_field((1.3, 2.6), (96, 96), 6.3e-3)
    assert np.abs(ours - expected).max() < 1e-3 * np.abs(expected).max()
    unmoved = direct_field((1.3, 2.6), (96, 96))
    assert np.abs(ours - unmoved).max() > 0.01 * np.abs(expected).max()


def test_nothing_jumps_where_the_whole_pixel_changes():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    below, above = model.intensities(*scene(), torch.tensor([[0.4999, 2.4999], [0.5001, 2.5001]]))
    assert float((below - above).abs().max() / below.max()) < 2e-3


def test_intensities_agree_with_the_simulators_own_optics():
    # Smooth light and object, frames integrated over real pixels there: 3 x 3 finer, padded, in another package.
    illumination = Illumination(300e-6, 100e-6, 0.15, 0.05)
    image = np.clip(0.5 + 0.4 * np.cos(np.arange(40) / 4)[:, None] * np.sin(np.arange(40) / 5)[None, :], 0, 1)
    sample = Sample.from_image(image, 0.9e-3, 2e-3)
    fine = GEOMETRY.pixel_size_m / 3
    size = illumination.window(fine)
    optics = Propagator.build(561e-9, 6e-3, (96, 96), 8e-6, size, oversampling=3)
    model = ForwardModel.build(GEOMETRY, 80)
    probe, obj = tensor(illumination.field(8e-6, 80)), tensor(sample.transmission(8e-6, (128, 128)))
    for position in ([0.0, 0.0], [3.4, -7.7]):
        at = (position[0] * 8e-6, position[1] * 8e-6)
        truth = optics.intensity(illumination.field(fine, size) * sample.transmission(fine, (size, size), at))
        ours = model.intensities(probe, obj, torch.tensor([position]))[0].numpy()
        assert np.abs(ours - truth).sum() / truth.sum() < 0.01
        wrong = model.intensities(probe, obj, torch.tensor([position]) + 0.5)[0].numpy()
        assert np.abs(wrong - truth).sum() > 2 * np.abs(ours - truth).sum()


def test_gauge_a_joint_shift_of_object_and_positions():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    probe, obj = scene()
    y, x = grid(SIZE)
    moved = tensor(analytic_object(y - 1.37, x + 2.81))
    before = model.intensities(probe, obj, torch.tensor(POSITIONS[:3]))
    after = model.intensities(probe, moved, torch.tensor(POSITIONS[:3]) + torch.tensor([1.37, -2.81]))
    assert float((after - before).abs().max() / before.max()) < 1e-3


def test_gauge_opposite_ramps_and_a_scalar():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    probe, obj = scene()

    def ramp(n, sign):
        y, x = grid(n)
        return tensor(np.exp(sign * 1j * (0.13 * y - 0.09 * x)))

    positions = torch.tensor(POSITIONS)
    before = model.intensities(probe, obj, positions)
    ramped = model.intensities(probe * ramp(WINDOW, 1), obj * ramp(SIZE, -1), positions)
    assert float((ramped - before).abs().max() / before.max()) < 1e-3
    scalar = 1.7 * np.exp(0.8j)
    scaled = model.intensities(probe * scalar, obj / scalar, positions)
    assert float((scaled - before).abs().max() / before.max()) < 1e-5
    tilted = model.intensities(probe * ramp(WINDOW, 1), obj, positions)
    assert float((tilted - before).abs().max() / before.max()) > 0.05


def test_energy_of_the_exit_wave_reaches_the_camera():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    probe, obj = scene()
    assert float(model.empty_intensity(probe).sum()) == pytest.approx(float(probe.abs().square().sum()), rel=1e-4)
    y, x = grid(WINDOW)
    sent = (np.abs(analytic_probe(y, x) * analytic_object(2.37 + y, x - 4.81)) ** 2).sum()
    assert float(model.intensities(probe, obj, torch.tensor([[2.37, -4.81]])).sum()) == pytest.approx(sent, rel=1e-3)


def test_the_empty_beam_is_the_beam_through_nothing():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    probe, obj = scene()
    offset = torch.tensor(1e-4)
    through = model.intensities(probe, torch.ones_like(obj), torch.zeros(1, 2), offset)[0]
    torch.testing.assert_close(model.empty_intensity(probe, offset), through, rtol=1e-4, atol=1e-6)


def test_the_gathers_gradient_is_that_of_plain_slicing():
    rng = np.random.default_rng(3)
    field = tensor(rng.normal(size=(24, 24)) + 1j * rng.normal(size=(24, 24))).requires_grad_()
    rows, columns = (0, 3, 3, 16), (5, 2, 2, 16)
    weight = tensor(rng.normal(size=(4, 8, 8)) + 1j * rng.normal(size=(4, 8, 8)))
    plain = torch.stack([field[r : r + 8, c : c + 8] for r, c in zip(rows, columns, strict=True)])
    ours = _GatherPatches.apply(field, rows, columns, 8)
    assert torch.equal(ours, plain)
    gradients = [torch.autograd.grad((w * weight).abs().square().sum(), field)[0] for w in (ours, plain)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("name", ["probe", "object", "positions", "distance"])
def test_gradients_are_finite_differences(name):
    model = ForwardModel.build(GEOMETRY, WINDOW)
    probe, obj = scene(seed=1)
    values = {
        "probe": probe,
        "object": obj,
        "positions": torch.tensor([[2.3, -4.2], [0.1, 5.3]]),
        "distance": torch.tensor(5e-5),
    }
    rng = np.random.default_rng(7)
    pattern = torch.from_numpy(rng.uniform(size=(2, *GEOMETRY.shape)).astype(np.float32))
    direction = torch.from_numpy(rng.normal(size=(*values[name].shape, 2)).astype(np.float32))
    direction = torch.view_as_complex(direction) if values[name].is_complex() else direction[..., 0]
    step = {"probe": 1e-2, "object": 1e-2, "positions": 1e-2, "distance": 3e-5}[name]

    def value(at):
        v = {**values, name: at}
        return (model.intensities(v["probe"], v["object"], v["positions"], v["distance"]) * pattern).double().sum()

    at = values[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(at), at)
    slope = float((gradient.conj() * direction).real.sum())
    with torch.no_grad():
        finite = float(value(values[name] + step * direction) - value(values[name] - step * direction)) / (2 * step)
    assert slope == pytest.approx(finite, rel=0.01)
    assert abs(finite) * step > 3e-6 * float(value(values[name]))


def test_pixel_average_conserves_energy_and_keeps_a_plain():
    rng = np.random.default_rng(0)
    intensity = torch.from_numpy(rng.uniform(size=(2, 9, 12)))
    torch.testing.assert_close(pixel_average(intensity).sum((1, 2)), intensity.sum((1, 2)))
    assert not torch.allclose(pixel_average(intensity), intensity, atol=1e-3)
    flat = torch.full((5, 6), 3.0)
    assert torch.equal(pixel_average(flat), flat)


@pytest.mark.parametrize("axis", [0, 1])
def test_pixel_average_of_a_wave_is_its_integral_to_second_order(axis):
    q = 0.3
    n = torch.arange(40, dtype=torch.float64)
    samples = (1 + torch.cos(q * n)).expand(5, 40)
    samples = samples if axis else samples.T
    integral = (1 + np.sin(q / 2) / (q / 2) * np.cos(q * n.numpy()))[1:-1]
    ours = pixel_average(samples)
    inner = ours[2, 1:-1] if axis else ours[1:-1, 2]
    np.testing.assert_allclose(inner.numpy(), integral, atol=q**4 / 300)
    point = (1 + np.cos(q * n.numpy()))[1:-1]
    assert np.abs(point - integral).max() > 0.95 * q**2 / 24 > 10 * q**4 / 300 * 0.9


@pytest.mark.parametrize("window", [64, 63])
@pytest.mark.parametrize("reach", [0.0, 10.2, 17.0])
def test_the_object_grid_holds_every_window_and_no_more(window, reach):
    positions = torch.tensor([[reach, -reach], [-reach / 2, 0.0]])
    size = object_size(positions, window, margin=0)
    assert size % 2 == 0
    model = ForwardModel.build(GEOMETRY, window)
    probe = torch.ones(window, window, dtype=torch.complex64)
    model.fields(probe, torch.ones(size, size, dtype=torch.complex64), positions)
    assert size <= window + 2 * np.ceil(reach) + 1
    assert object_size(positions, window, margin=8) == size + 16


def test_a_window_that_leaves_the_object_or_the_frame_is_an_error():
    model = ForwardModel.build(GEOMETRY, WINDOW)
    for position in ([17.0, 0.0], [0.0, -17.0]):
        with pytest.raises(ValueError, match="leaves the object grid of 96 px"):
            model.fields(*scene(), torch.tensor([position]))
    with pytest.raises(ValueError, match=r"probe window 97 px exceeds the frame \(96, 96\)"):
        ForwardModel.build(GEOMETRY, 97)
