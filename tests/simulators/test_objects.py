"""Drawn digits, pictures and the sample they lie on."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from simulators.objects import Sample, SampleError, draw_digit, read_array, read_idx, read_picture, render


@pytest.mark.parametrize("digit", range(10))
def test_digit_is_binary_connected_and_centred(digit):
    for seed in range(4):
        drawing = draw_digit(digit, seed)
        image = render(drawing, 1e-3, 1e-5, (140, 140))
        assert image.dtype == np.float32
        assert image.min() == 0
        assert image.max() == 1
        # Grey only on the outline: about one pixel along a border that is at most some ten heights long.
        assert np.mean((image > 0.01) & (image < 0.99)) < 0.08
        # Joined-up ink: a pen of this width leaves at most two pieces (no digit here has more).
        assert ndimage.label(image > 0.5)[1] <= 2
        assert 0.05 < image.sum() * 1e-4 < 0.5
        axis = (np.arange(140) - 70) * 1e-5
        centre = np.array([image.sum(1) @ axis, image.sum(0) @ axis]) / image.sum()
        assert np.abs(centre).max() < 0.01e-3
        top, bottom, left, right = drawing.bounds()
        assert bottom - top == pytest.approx(1, abs=1e-9)
        assert right - left <= 1 + 1e-9
        rows = np.flatnonzero(image.max(axis=1) > 0.5)
        assert (rows[-1] - rows[0] + 1) * 1e-5 == pytest.approx(1e-3, abs=2e-5)


def test_holes_are_where_they_belong():
    """Topology at a fine grid: most zeros have one hole, most eights two, ones none."""

    def holes(digit, seed):
        ground = render(draw_digit(digit, seed), 1.0, 1 / 100, (140, 140)) < 0.5
        return ndimage.label(ground)[1] - 1

    counts = {digit: [holes(digit, seed) for seed in range(12)] for digit in (0, 1, 7, 8)}
    assert np.median(counts[0]) == 1
    assert np.median(counts[1]) == 0
    assert np.median(counts[7]) == 0
    assert np.median(counts[8]) == 2


def test_seeds_are_hands():
    images = [render(draw_digit(d, s), 1.0, 1 / 32, (44, 44)) for d in range(10) for s in range(6)]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert np.abs(one - other).mean() > 0.005
    again = render(draw_digit(4, 3), 1.0, 1 / 32, (44, 44))
    assert np.array_equal(again, images[4 * 6 + 3])


def test_no_such_digit():
    for digit, seed in ((10, 0), (-1, 0), (3, -1)):
        with pytest.raises(SampleError, match="digits 0 to 9"):
            draw_digit(digit, seed)


def test_render_places_the_drawing_continuously():
    drawing = draw_digit(5, 2)
    axis = np.arange(80) - 40
    for shift in ((0.0, 0.0), (3.3e-6, -4.9e-6)):
        image = render(drawing, 1e-3, 2e-5, (80, 80), shift)
        centre = np.array([image.sum(1) @ axis, image.sum(0) @ axis]) / image.sum() * 2e-5
        assert centre == pytest.approx(-np.array(shift), abs=3e-6)
    whole = render(drawing, 1e-3, 2e-5, (80, 80), (4e-5, -2e-5))
    assert whole == pytest.approx(np.roll(render(drawing, 1e-3, 2e-5, (80, 80)), (-2, 1), (0, 1)), abs=1e-4)


def test_sample_agrees_with_the_rendered_drawing():
    drawing = draw_digit(8, 1)
    sample = Sample.from_drawing(drawing, 1e-3, 4e-3, pitch_m=2e-6)
    for centre in ((0.0, 0.0), (1.3e-5, -2.7e-5)):
        found = sample.transmission(1e-5, (128, 128), centre)
        assert found.dtype == np.complex64
        assert np.abs(found.imag).max() == 0
        # The sample's pixels are a little softer: a fifth of a pixel of blur on the outline.
        assert np.abs(found.real - render(drawing, 1e-3, 1e-5, (128, 128), centre)).max() < 0.11
        assert np.abs(found.real - render(drawing, 1e-3, 1e-5, (128, 128), centre)).mean() < 2e-3


def test_sub_pixel_positions_are_exact():
    """Positions a whole number of pixels apart show the same numbers, from wherever they are counted."""
    sample = Sample.from_drawing(draw_digit(2, 0), 1e-3, 4e-3, pitch_m=4e-6)
    one = sample.transmission(1e-5, (100, 90), (3.7e-6, 1.1e-6))
    other = sample.transmission(1e-5, (100, 90), (3.7e-6 + 5e-5, 1.1e-6 - 3e-5))
    assert np.abs(one[5:, :-3] - other[:-5, 3:]).max() < 1e-4


def test_the_field_around_the_drawing_is_opaque_and_beyond_it_empty():
    sample = Sample.from_drawing(draw_digit(1, 0), 0.5e-3, 2e-3, pitch_m=4e-6)
    image = sample.transmission(1e-5, (300, 300)).real
    assert image[0, 0] == 1
    assert image[150, 20] == 1
    assert image[60, 60] == 0
    assert image.sum() == pytest.approx(300**2 - 200**2 + sample.image.sum() * 0.16, rel=1e-4)
    assert (sample.transmission(1e-5, (10, 10), (0.0, 5e-3)) == 1).all()


def test_image_on_its_own_grid_is_reproduced():
    image = np.random.default_rng(1).uniform(size=(21, 21)).astype(np.float32)
    sample = Sample.from_image(image, 21e-5, 2e-3)
    assert sample.transmission(1e-5, (21, 21)).real == pytest.approx(image, abs=1e-5)
    # Geometric middle at the origin: an even image lies half a pixel off a grid that has a pixel there.
    even = Sample.from_image(image[:20, :20], 20e-5, 2e-3)
    found = even.transmission(1e-5, (20, 20), (0.5e-5, 0.5e-5)).real
    assert found == pytest.approx(image[:20, :20], abs=1e-5)


def test_fine_image_is_averaged_over_coarse_pixels():
    image = np.kron(np.arange(16).reshape(4, 4) / 16, np.ones((8, 8))).astype(np.float32)
    sample = Sample.from_image(image, 32e-6, 1e-3)
    found = sample.transmission(8e-6, (4, 4), (4e-6, 4e-6)).real
    assert found == pytest.approx(np.arange(16).reshape(4, 4) / 16, abs=0.06)
    assert found.sum() * 64 == pytest.approx(image.sum(), rel=0.05)


@pytest.mark.parametrize("image", [np.zeros(4), np.full((4, 4), 1.5), np.full((4, 4), np.nan), np.zeros((0, 4))])
def test_images_that_are_none_are_refused(image):
    with pytest.raises(SampleError, match="two-dimensional"):
        Sample.from_image(image, 1e-3, 8e-3)


def test_an_image_larger_than_its_field_is_refused():
    with pytest.raises(SampleError, match="does not fit into the opaque field"):
        Sample.from_image(np.ones((8, 8)), 2e-3, 1e-3)


def test_pictures(tmp_path):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(image).save(tmp_path / "picture.png")
    assert read_picture(tmp_path / "picture.png") == pytest.approx(image / 255, abs=1e-6)
    (tmp_path / "no.png").write_text("not a picture")
    for name in ("no.png", "missing.png"):
        with pytest.raises(SampleError, match="not a readable picture"):
            read_picture(tmp_path / name)


def test_idx_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    raw = b"\x00\x00\x08\x03" + np.array([5, 4, 3], ">u4").tobytes() + images.tobytes()
    (tmp_path / "plain").write_bytes(raw)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(raw))
    for name in ("plain", "zipped.gz"):
        assert read_idx(tmp_path / name, 3) == pytest.approx(images[3] / 255, abs=1e-6)
    with pytest.raises(SampleError, match=r"outside 0 \.\. 4"):
        read_idx(tmp_path / "plain", 5)
    for name, content, message in (
        ("short", raw[:-1], "promises"),
        ("other", b"\x00\x00\x08\x01" + raw[4:], "not an IDX file"),
        ("cut.gz", gzip.compress(raw)[:20], "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SampleError, match=message):
            read_idx(tmp_path / name, 0)
    with pytest.raises(SampleError, match="cannot be read"):
        read_idx(tmp_path / "missing", 0)


def test_a_complex_sample_has_the_light_of_its_amplitude_and_keeps_its_phase():
    rng = np.random.default_rng(3)
    amplitude = rng.uniform(0.2, 1, (20, 16)).astype(np.float32)
    flat, turned = (Sample.from_image(image, 2e-4, 4e-3) for image in (amplitude, amplitude * np.exp(0.7j)))
    for pixel, centre in ((1e-5, (0.0, 0.0)), (4e-6, (3e-6, -1e-5)), (3e-5, (1e-4, 0.0))):
        one, other = (sample.transmission(pixel, (40, 44), centre) for sample in (flat, turned))
        assert other.dtype == np.complex64
        np.testing.assert_allclose(other, one * np.exp(0.7j), atol=1e-6)
    # Beyond the opaque field the beam passes as it is: no phase there.
    beyond = turned.transmission(1e-5, (10, 10), (0.0, 5e-3))
    np.testing.assert_array_equal(beyond, np.ones((10, 10)))
    # The image is one complex function, so that two opposite phases meet in the dark.
    edge = Sample.from_image(np.array([[1, -1]], np.complex64), 2e-4, 4e-3)
    assert np.abs(edge.transmission(1e-8, (1, 2))).max() < 1e-3


def test_an_amplitude_is_drawn_as_before_whatever_its_type():
    image = np.random.default_rng(5).uniform(0, 1, (9, 7))
    one, other = (Sample.from_image(array, 1e-3, 4e-3) for array in (image, image.astype(np.float32)))
    assert one.image.dtype == np.float32
    np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((3, 3), 1.2j), "moduli in 0..1; it has 1.2 to 1.2"),
        (np.full((3, 3), np.nan + 0j), "moduli in 0..1; it has nan"),
        (np.full((3, 3), -0.5), "values in 0..1; it has -0.5 to -0.5"),
        (np.ones((2, 3, 3), complex), "two-dimensional"),
    ],
)
def test_what_transmits_more_than_all_light_is_refused(image, said):
    with pytest.raises(SampleError, match=said):
        Sample.from_image(image, 1e-3, 4e-3)


def test_arrays_are_numbers_and_nothing_is_executed(tmp_path):
    path = tmp_path / "object.npy"
    np.save(path, np.array([[0.5j, 1.0]]))
    np.testing.assert_array_equal(read_array(path), [[0.5j, 1.0]])
    np.save(path, np.array([[{"a": 1}]], object), allow_pickle=True)
    with pytest.raises(SampleError, match=r"object.npy: not a readable .npy array"):
        read_array(path)
    np.save(path, np.array([["ink"]]))
    with pytest.raises(SampleError, match=r"object.npy: holds no single array of numbers"):
        read_array(path)
    with pytest.raises(SampleError, match=r"none.npy: not a readable .npy array \(FileNotFoundError\)"):
        read_array(tmp_path / "none.npy")
