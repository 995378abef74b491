"""Figures: titles whole, nothing cut or overlapping, lengths in the unit that suits them, whatever is put into them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.quiver import QuiverKey

from app import calibration_figure as calibrations
from app import drawing, figures
from app.bench import figures as bench_figures
from app.calibration_figure import CalibrationPicture, calibration_figure
from app.drawing import block_means, count_words, length_words, round_length, time_words
from app.figures import (
    DoseColumn,
    PosteriorPicture,
    Seen,
    dose_figure,
    hybrid_figure,
    orientation_figure,
    posterior_figure,
    reconstruction_figure,
)
from tests.pictures import assert_whole, texts

RNG = np.random.default_rng(0)
CAMERA_M, OBJECT_M = 6.9e-6, 3e-6
LONG = (
    "a-run-with-a-rather-long-name.h5: hybrid, decoder mnist-4, 6 exposures from 3 µs to 300 ms together, PSNR 18.5 dB"
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    found = []

    def saved(figure, path):
        found.append(figure)
        return drawing.save(figure, path)

    for module in (figures, calibrations, bench_figures):
        monkeypatch.setattr(module, "save", saved)
    return found


def seen(side=64, electrons=30.0):
    return Seen(RNG.poisson(electrons, (side, side)), np.full((side, side), electrons), CAMERA_M, OBJECT_M)


def image(side=48):
    return RNG.random((side, side))


@pytest.mark.parametrize("columns", [1, 2, 6])
@pytest.mark.parametrize("truth", [None, image()])
def test_the_figure_of_the_demo_is_whole_with_any_number_of_columns(drawn, tmp_path, columns, truth):
    shown = [
        DoseColumn(
            f"{time_words(3e-6 * 10**k)}\n{count_words(10**k)} photons", image(64), (image(), image()), (1.0, None)
        )
        for k in range(columns)
    ]
    path = dose_figure(
        shown,
        truth,
        image() > 0.5,
        ("latent, the paper's", "latent, posterior mean"),
        "digit:4 from 16 diffraction patterns of the profile quick, decoder mnist; inside the blue line there is light",
        tmp_path / "deep" / "demo.png",
        OBJECT_M,
        CAMERA_M,
    )
    assert path.is_file()
    [figure] = drawn
    assert_whole(figure)
    lengths = [words for words, _ in texts(figure) if words.endswith(("µm", "mm"))]
    # 64 camera pixels are 442 µm, 48 object pixels 144 µm.
    assert lengths == ["100 µm", "20 µm"]


def test_the_figure_of_a_posterior_is_whole_and_names_units(drawn, tmp_path):
    for phase in (None, (image(32), image(32))):
        picture = PosteriorPicture(
            image(32), image(32), RNG.random((4, 32, 32)), dict.fromkeys(range(10), 0.1), seen(electrons=0.1),
            image(32) > 0.5, "not of this class: light that the decoder cannot draw, 23.4 nats of evidence, and more",
            phase,
        )  # fmt: skip
        posterior_figure(picture, LONG, tmp_path / "posterior.png")
        assert_whole(drawn[-1])
    words = [text for text, _ in texts(drawn[-1])]
    for label in ("transmission", "electrons per pixel", "rad", "class, if it is one of these"):
        assert label in words


@pytest.mark.parametrize("phase", [False, True])
@pytest.mark.parametrize("levels", [(), (20,), (12, 8)])
def test_the_figure_of_one_reconstruction_is_whole(drawn, tmp_path, phase, levels):
    obj = image() * np.exp(1j * image())
    loss = np.concatenate([np.linspace(1, 0.5, 12), np.linspace(9, 8, 8)])
    reconstruction_figure(seen(), obj, loss, levels, LONG, tmp_path / "one.png", phase=phase)
    [figure] = drawn
    assert_whole(figure)
    search = (
        figure.axes[-1] if not figure.axes[-1].images else next(a for a in figure.axes if a.get_xlabel() == "epoch")
    )
    search = next(axes for axes in figure.axes if axes.get_xlabel() == "epoch")
    # Losses of two levels of pixels are not drawn as one curve that jumps.
    assert len(search.lines) == max(1, len(levels))


@pytest.mark.parametrize("deviation", [None, image()])
def test_the_figure_of_a_hybrid_is_whole(drawn, tmp_path, deviation):
    hybrid_figure(seen(), image(), image(), deviation, LONG, tmp_path / "hybrid.png")
    assert_whole(drawn[0])


def test_names_of_orientations_are_whole(drawn, tmp_path):
    objects = [(f"transposed, columns flipped, rows flipped, positions reversed {k}", 1.5, image()) for k in range(16)]
    orientation_figure(objects, OBJECT_M, LONG, tmp_path / "orientation.png")
    assert_whole(drawn[0])


@pytest.mark.parametrize("epochs", [0, 1, 12])
def test_the_figure_of_a_calibration_has_units_and_scales(drawn, tmp_path, epochs):
    nominal = RNG.uniform(-2e-4, 2e-4, (20, 2))
    lit = np.zeros((96, 96), bool)
    lit[20:70, 24:80] = True
    picture = CalibrationPicture(
        probe=(image(32) * np.exp(1j * image(32))).astype(np.complex64),
        object=(image(96) * np.exp(3j * image(96))).astype(np.complex64),
        lit=lit,
        pixel_m=OBJECT_M,
        camera_pixel_m=CAMERA_M,
        positions_m=nominal + RNG.normal(0, 2e-6, (20, 2)),
        nominal_m=nominal,
        loss=np.linspace(9, -1, epochs),
        distance_m=np.linspace(0.065, 0.0651, epochs),
        stages=tuple(["warm", "joint", "refine", "full"][4 * k // epochs] for k in range(epochs)),
        unexplained=RNG.normal(1, 0.1, (64, 64)).astype(np.float32),
        unexplained_frames=RNG.normal(1, 0.1, 20),
        points=np.arange(20),
    )
    calibration_figure(picture, LONG, tmp_path / "calibration.png")
    [figure] = drawn
    assert_whole(figure)
    words = [text for text, _ in texts(figure)]
    for label in ("x (µm)", "y (µm)", "transmission", "rad", "object to camera (mm)", "squared residual / variance"):
        assert label in words
    # Probe, object, camera: 96, 168 and 442 µm wide; and the length of the arrows.
    assert {"20 µm", "50 µm", "100 µm"} <= set(words)
    assert [key.text.get_text() for key in figure.findobj(QuiverKey)] == ["5 µm"]


def test_the_style_stays_in_the_figure(tmp_path):
    from matplotlib import rcParams

    before = dict(rcParams)
    hybrid_figure(seen(), image(), image(), None, "", tmp_path / "hybrid.png")
    assert dict(rcParams) == before


@pytest.mark.parametrize(
    ("value", "words"),
    [(3e-6, "3 µs"), (3e-4, "300 µs"), (0.03, "30 ms"), (1.0, "1 s"), (0.9999999999, "1 s"), (12.5e-6, "12.5 µs")],
)
def test_times_in_the_unit_that_suits_them(value, words):
    assert time_words(value) == words


def test_lengths_and_counts():
    assert length_words(round_length(7e-4)) == "500 µm"
    assert length_words(round_length(2e-3)) == "2 mm"
    assert length_words(round_length(0.99e-6)) == "500 nm"
    assert [count_words(n) for n in (0.5, 100, 999.9999, 1000, 9994)] == ["0.5", "100", "1000", "1000", "9990"]
    assert [count_words(n) for n in (9999, 1e7 - 0.1, 1e7)] == ["$10^{4}$", "$10^{7}$", "$10^{7}$"]
    assert count_words(1.5e4) == r"$1.5\times10^{4}$"


def test_blocks_leave_out_what_is_not_there():
    picture = np.arange(16.0).reshape(4, 4)
    picture[0, 0] = np.nan
    found = block_means(picture, 2)
    assert found == pytest.approx(np.array([[10 / 3, 4.5], [10.5, 12.5]]))


def test_nobody_else_saves_figures():
    """One style, one place that writes."""
    root = Path(figures.__file__).parent
    others = [path for path in root.rglob("*.py") if "savefig" in path.read_text(encoding="utf-8")]
    assert [path.name for path in others] == ["drawing.py"]
