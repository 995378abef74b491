"""The resize from a decoder's image to the object's grid, and the objects made with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate

from recon.decoders.package import load_package
from recon.objects import DecoderObject, PixelObject, mitchell, resize_matrix

PIXEL, FIELD, SIZE = 20e-6, 1.4e-3, 90


@pytest.fixture(scope="module")
def package():
    return load_package("mnist")


def test_the_kernel_is_mitchell_and_netravalis():
    values = mitchell(np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5]))
    np.testing.assert_allclose(values, [8 / 9, 77 / 144, 1 / 18, -5 / 144, 0, 0], atol=1e-12)
    x = np.linspace(-2, 2, 41)
    np.testing.assert_allclose(mitchell(x), mitchell(-x))
    slope = np.diff(mitchell(np.array([0.999, 1.0, 1.001]))) / 0.001
    assert slope[0] == pytest.approx(slope[1], abs=0.01)
    assert integrate.quad(lambda t: float(mitchell(np.array(t))), -2, 2, points=[-1, 1])[0] == pytest.approx(1)


def test_the_kernel_is_a_partition_of_unity():
    x = np.linspace(0, 1, 101)[:, None] - np.arange(-3, 5)
    np.testing.assert_allclose(mitchell(x).sum(1), 1, atol=1e-12)
    # and reproduces straight lines
    np.testing.assert_allclose((mitchell(x) * np.arange(-3, 5)).sum(1), np.linspace(0, 1, 101), atol=1e-12)


@pytest.mark.parametrize("centre", [0.0, 55e-6])
def test_the_matrix_is_the_straightforward_sum(centre):
    samples = 32
    matrix = resize_matrix(SIZE, PIXEL, FIELD, samples, centre).numpy()
    pitch = FIELD / samples
    for i in range(SIZE):
        at = (i - SIZE // 2) * PIXEL - centre
        centres = [-FIELD / 2 + (j + 0.5) * pitch for j in range(samples)]
        row = np.array([float(mitchell(np.array((at - c) / pitch))) for c in centres])
        row = row / row.sum() if -FIELD / 2 <= at < FIELD / 2 - 1e-12 else np.zeros(samples)
        np.testing.assert_allclose(matrix[i], row, atol=1e-6, err_msg=str(i))


def test_rows_sum_to_one_inside_the_field_and_to_nothing_outside():
    sums = resize_matrix(SIZE, PIXEL, FIELD, 32).numpy().sum(1)
    inside = np.abs((np.arange(SIZE) - SIZE // 2) * PIXEL) < FIELD / 2 - 1e-9
    np.testing.assert_allclose(sums[inside], 1, atol=1e-6)
    assert 60 < inside.sum() < SIZE
    assert np.abs(sums[np.abs((np.arange(SIZE) - SIZE // 2) * PIXEL) > FIELD / 2 + 1e-9]).max() == 0


def test_the_middle_of_the_image_lies_on_the_origin():
    # The line between the image's two halves is the optical axis; a straight edge is half there.
    step = np.repeat([0.0, 1.0], 16)
    drawn = resize_matrix(SIZE, PIXEL, FIELD, 32).numpy() @ step
    assert drawn[SIZE // 2] == pytest.approx(0.5, abs=1e-6)
    assert -0.05 < drawn.min() < 0
    assert 1 < drawn.max() < 1.08


def test_pixels_are_the_start_and_free():
    start = torch.polar(torch.rand(6, 6), torch.rand(6, 6))
    target = PixelObject(start)
    assert torch.equal(target(), start)
    target().real.sum().backward()
    assert [p.grad is not None for p in target.parameters()] == [True]
    before = start.clone()
    with torch.no_grad():
        target.pixels.add_(1)
    assert torch.equal(start, before)


def test_it_starts_at_the_mean_latents_drawing(package):
    target = DecoderObject(package, SIZE, PIXEL, FIELD)
    image = package.decode(package.latent_mean[None])[0]
    resize = resize_matrix(SIZE, PIXEL, FIELD, 32)
    torch.testing.assert_close(target.latent.detach(), package.latent_mean)
    torch.testing.assert_close(target.image().detach(), image)
    torch.testing.assert_close(target.amplitude().detach(), resize @ image @ resize.T)
    assert target().dtype == torch.complex64
    assert target().imag.abs().max() == 0
    assert target().shape == (SIZE, SIZE)


def drawn_latent(package, seed):
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(len(package.latent_mean), generator=generator) * package.latent_eigenvalues.sqrt()
    return package.latent_mean + package.latent_eigenvectors @ white


def test_a_start_is_where_it_starts(package):
    start = drawn_latent(package, 1)
    plain = DecoderObject(package, SIZE, PIXEL, FIELD, start)
    assert torch.equal(plain.latent.detach(), start)
    assert plain.latent.data_ptr() != start.data_ptr()


def test_gradients_are_finite_differences(package):
    target = DecoderObject(package, SIZE, PIXEL, FIELD, drawn_latent(package, 2))
    (parameter,) = target.parameters()
    generator = torch.Generator().manual_seed(3)
    pattern = torch.rand(SIZE, SIZE, generator=generator)
    (gradient,) = torch.autograd.grad((target.amplitude() * pattern).sum(), parameter)
    direction = gradient / gradient.norm()
    start, step = parameter.detach().clone(), 2e-3 * float(parameter.detach().norm())
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.copy_(start + sign * step * direction)
            ends.append(float((target.amplitude() * pattern).double().sum()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)
