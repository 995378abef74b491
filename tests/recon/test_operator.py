"""The operator from a decoder's image to the camera against the padded angular spectrum, and its algebra."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.operator import CameraOperator, Drawing, fresnel_kernel, thinned
from tests.recon import latentscene as bench

IMAGE = bench.bar(torch.tensor([[0.4, -0.7, 0.3, 0.5, 0.2]]))[0]


def _away(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).abs().square().sum().sqrt() / true.abs().square().sum().sqrt())


@pytest.mark.parametrize(
    ("shape", "window"), [((192, 192), 88), ((191, 192), 88), ((192, 193), 87), ((129, 131), 87), ((130, 128), 85)]
)
def test_fields_are_those_of_the_padded_angular_spectrum(shape: tuple[int, int], window: int) -> None:
    # Odd and even frames and probes: the axis is the middle of pixel n//2 of each. Twice this pitch holds fields up to
    # 36/mm, which the resize of 25-um pixels exceeds by so much.
    source = bench.light(1e4, window, shape)
    found = bench.operator(source).fields(IMAGE[None])[:, 0]
    assert _away(found, bench.fields(IMAGE, source, margin=40)) < 2e-3


def test_fields_at_the_study_s_pitch_and_distance() -> None:
    # 3.45 um and 80 mm, a frame smaller than the diffraction pattern: what lies outside does not wrap around.
    source = bench.light(1e4, 160, (168, 168), 3.45e-6, 80e-3)
    found = bench.operator(source).fields(IMAGE[None])[:, 0]
    assert _away(found, bench.fields(IMAGE, source, margin=300)) < 3e-4


def test_fields_scale_with_the_root_of_the_exposure() -> None:
    source = bench.light(1e4)
    short, long = (bench.operator(source, seconds).fields(IMAGE[None]) for seconds in (0.01, 0.04))
    assert torch.allclose(long, 2 * short, rtol=1e-5, atol=1e-6)


def test_each_frame_has_its_own_exposure() -> None:
    source = bench.light(1e4)
    seconds = np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    camera = CameraOperator.build(
        source, source.positions_m, seconds, source.geometry.shape, Drawing(bench.SIDE, bench.FIELD)
    )
    one = bench.operator(source).gram()
    assert torch.allclose(camera.gram(), one * torch.arange(1.0, 6.0)[:, None, None], rtol=1e-5)


def test_moving_the_position_is_moving_the_drawing() -> None:
    # A shift of 2.7 pixels along y and -1.3 along x: positions are continuous.
    source = bench.light(1e4)
    shift = np.array([2.7, -1.3]) * bench.PIXEL
    seconds = np.full(len(bench.POSITIONS), bench.SECONDS)
    shape = source.geometry.shape
    moved = CameraOperator.build(
        source, source.positions_m + shift, seconds, shape, Drawing(bench.SIDE, bench.FIELD, tuple(shift))
    )
    there, here = moved.fields(IMAGE[None]), bench.operator(source).fields(IMAGE[None])
    assert _away(there, here) < 1e-4
    still = CameraOperator.build(
        source, source.positions_m + shift, seconds, shape, Drawing(bench.SIDE, bench.FIELD)
    ).fields(IMAGE[None])
    assert _away(still, here) > 0.05


def test_gram_is_the_light_on_an_unbounded_camera() -> None:
    # A camera that is large enough takes it all.
    source = bench.light(1e4, shape=(288, 288))
    camera = bench.operator(source)
    local = camera.local(IMAGE[None]).flatten(2)
    power = torch.einsum("nsi,nij,nsj->n", local, camera.gram(), local)
    seen = bench.fields(IMAGE, source).abs().square().sum((1, 2)).float()
    assert float((power / seen - 1).abs().max()) < 3e-3


def test_gram_is_symmetric_and_not_negative() -> None:
    gram = bench.operator(bench.light(1e4)).gram()
    assert torch.allclose(gram, gram.transpose(1, 2), atol=1e-4 * float(gram.max()))
    values = torch.linalg.eigvalsh(gram.double())
    assert float(values.min()) > -1e-5 * float(values.max())


def test_rows_at_pixels_and_on_a_grid_are_those_of_the_fields() -> None:
    camera = bench.operator(bench.light(1e4, shape=(192, 160)))
    whole, local = camera.fields(IMAGE[None])[:, 0], camera.local(IMAGE[None]).flatten(2)[:, 0]
    rows, columns = torch.tensor([3, 90, 96, 97, 180, 96]), torch.tensor([80, 81, 80, 0, 159, 95])
    for frame in range(len(camera)):
        vector = local[frame].to(torch.complex64)
        scale = float(whole[frame].abs().max())
        found = camera.at_pixels(frame, rows, columns) @ vector
        assert float((found - whole[frame][rows, columns]).abs().max()) < 1e-5 * scale
        grid = (camera.on_grid(frame, rows, columns[:4]) @ vector).view(len(rows), 4)
        assert float((grid - whole[frame][rows][:, columns[:4]]).abs().max()) < 1e-5 * scale


def test_no_pixels_give_no_rows() -> None:
    camera = bench.operator(bench.light(1e4))
    none = torch.zeros(0, dtype=torch.int64)
    assert camera.at_pixels(0, none, none).shape == (0, camera.window[0] * camera.window[1])


def test_local_and_whole_are_adjoint() -> None:
    camera = bench.operator(bench.light(1e4))
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, bench.SIDE, bench.SIDE, generator=generator)
    parts = torch.randn(len(camera), 2, *camera.window, generator=generator)
    left = float((camera.local(images) * parts).sum())
    right = float((images * camera.whole(parts)).sum())
    assert left == pytest.approx(right, rel=1e-4)


def test_pixels_beyond_a_frame_s_light_are_not_in_its_window() -> None:
    # The probe reaches 300 um from each position; the image's far corner is beyond that of the first.
    corner = np.array([[-260e-6, -260e-6], [260e-6, 260e-6]])
    source = bench.light(1e4, positions_m=corner)
    camera = bench.operator(source)
    assert max(camera.window) < bench.SIDE + 1
    image = torch.zeros(1, bench.SIDE, bench.SIDE)
    image[0, -1, -1] = 1.0
    fields = camera.fields(image)
    assert float(fields[1].abs().square().sum()) > 1e6 * float(fields[0].abs().square().sum())


def test_a_position_without_any_of_the_image_is_dark() -> None:
    away = np.array([[0.0, 0.0], [3e-3, 0.0]])
    fields = bench.operator(bench.light(1e4, positions_m=away)).fields(torch.ones(1, bench.SIDE, bench.SIDE))
    assert float(fields[1].abs().max()) == 0.0
    assert float(fields[0].abs().max()) > 0


@pytest.mark.parametrize("size", [40, 41, 42, 43])
def test_thinned_keeps_the_axis(size: int) -> None:
    # A smooth bump on the axis of n//2 stays on it, and keeps its height.
    axis = np.arange(size) - size // 2
    bump = np.exp(-(axis[:, None] ** 2 + (axis[None, :] - 2) ** 2) / 40)
    half = thinned(bump.astype(np.complex64), 2)
    fine = 2 * (np.arange(len(half)) - len(half) // 2)
    expected = np.exp(-(fine[:, None] ** 2 + (fine[None, :] - 2) ** 2) / 40)
    assert len(half) % 2 == 0
    assert np.abs(half - expected).max() < 2e-3


def test_thinned_keeps_the_energy() -> None:
    axis = np.arange(64) - 32
    bump = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 60 + 0.2j * axis[:, None]).astype(np.complex64)
    assert 4 * (np.abs(thinned(bump, 2)) ** 2).sum() == pytest.approx((np.abs(bump) ** 2).sum(), rel=1e-4)


def test_fresnel_kernel_propagates_a_gaussian_beam() -> None:
    # Paraxial, without the carrier: exp(-x^2/w^2) becomes exp(-x^2/(w^2 b))/sqrt(b), b = 1 + i lambda z/(pi w^2).
    waist, distance, wavelength, step = 60e-6, 0.05, 561e-9, 5e-6
    inputs = (np.arange(161) - 80) * step
    outputs = np.linspace(-0.4e-3, 0.5e-3, 77)
    found = fresnel_kernel(outputs, inputs, wavelength, distance, 1 / (2 * step)) @ np.exp(-((inputs / waist) ** 2))
    spread = 1 + 1j * wavelength * distance / (math.pi * waist**2)
    beam = np.exp(-(outputs**2) / (waist**2 * spread)) / np.sqrt(spread)
    assert np.abs(found - beam).max() < 1e-5


def test_fresnel_kernel_conserves_energy() -> None:
    step = 6e-6
    inputs, outputs = (np.arange(60) - 30) * step, (np.arange(600) - 300) * step
    kernel = fresnel_kernel(outputs, inputs, 561e-9, 8e-3, 1 / (2 * step))
    wave = np.exp(-((inputs / 70e-6) ** 2) + 3e4j * inputs)
    assert np.abs(kernel @ wave).__pow__(2).sum() == pytest.approx((np.abs(wave) ** 2).sum(), rel=1e-6)


def test_a_drawing_is_zero_outside_its_square_and_keeps_a_flat_image_flat() -> None:
    drawing = Drawing(10, 1e-3, (1e-4, 0.0))
    at = np.linspace(-0.7e-3, 0.7e-3, 141)
    inside = (at - 1e-4 > -0.5e-3 + 1e-9) & (at - 1e-4 < 0.5e-3 - 1e-9)
    sums = drawing.weights(at, 0).sum(-1)
    assert np.allclose(sums[inside], 1)
    assert np.all(sums[~inside & (np.abs(at - 1e-4) > 0.5e-3 + 1e-9)] == 0)


def test_another_distance_is_another_field() -> None:
    # The comparison with the angular spectrum can fail: half a millimetre shows.
    source = bench.light(1e4)
    wrong = replace(source, geometry=replace(source.geometry, distance_m=bench.DISTANCE + 0.5e-3))
    assert _away(bench.operator(wrong).fields(IMAGE[None])[:, 0], bench.fields(IMAGE, source)) > 0.01
