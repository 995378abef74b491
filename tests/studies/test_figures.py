"""The figures of studies: words whole, no two curves of one colour and line."""

import numpy as np
import pytest

from app import drawing
from app.studies import figure as dose_figures
from app.studies import landscape_figure, nextframe_figure
from app.studies.curves import Curve, Dose
from app.studies.nextframe_curves import Estimate, OrderCurve
from tests.pictures import assert_whole, texts

HEADING = "24 objects (mnist:test), truth matched, pose free, 16 positions, 3 decoders, 2 read noises, 4 methods, GPU"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    found = []

    def saved(figure, path):
        found.append(figure)
        return drawing.save(figure, path)

    for module in (dose_figures, nextframe_figure):
        monkeypatch.setattr(module, "save", saved)
    return found


def test_the_figure_of_doses(drawn, tmp_path):
    photons = np.logspace(1, 6, 6)
    level = np.linspace(10, 30, 6)
    curves = [
        Curve(method, decoder, noise, photons, level, level, np.stack((level - 2, level + 2), 1), level / 30,
              level, np.full(6, 24), Dose(300.0, 200.0, 400.0), Dose(None, None, None))
        for method, decoder in (("latent", "mnist"), ("latent", "mnist-4"), ("hybrid", "mnist"), ("paper", "mnist"),
                                ("pixel", ""))
        for noise in (0.3, 2.3)
    ]  # fmt: skip
    dose_figures.dose_study_figure(curves, (11.0, 31.0), HEADING, tmp_path / "dose.png")
    [figure] = drawn
    assert_whole(figure)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 6]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(curves)


def test_the_figure_of_orders(drawn, tmp_path):
    photons = np.arange(1, 9) * 300.0
    curves = [
        OrderCurve(order, photons, 20 + photons / 1e3, 0.1 / photons, photons / 2400, Estimate(900.0, 600.0, 1200.0),
                   0.2, None, None, 0.1, 0.2, np.arange(8)[None] + 8 * k)
        for k, order in enumerate(nextframe_figure.COLOURS)
    ]  # fmt: skip
    positions = np.random.default_rng(0).uniform(-5e-4, 5e-4, (96, 2))
    nextframe_figure.next_study_figure(curves, positions, 0.1, HEADING, tmp_path / "next.png")
    [figure] = drawn
    assert_whole(figure)
    words = [text for text, _ in texts(figure)]
    assert {"x (µm)", "y (µm)", "target"} <= set(words)
    # Rows grow downwards, as in every picture.
    low, high = figure.axes[3].get_ylim()
    assert low > high


def test_every_study_draws_in_the_common_colours():
    for colours in (dose_figures.COLOURS, nextframe_figure.COLOURS):
        assert len(set(colours.values())) == len(colours)
        assert all(colour.startswith("#") for colour in colours.values())
    assert landscape_figure.COLOURS == "viridis"
