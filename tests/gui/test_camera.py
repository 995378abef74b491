"""The camera's panel: exposure, levels, freezing, marks, region, saving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PyQt5.QtCore import Qt
from PyQt5.QtGui import QValidator

from app.gui.colours import CLIPPED, NAMES, colour_table
from app.gui.widgets import QuantityEdit, quantity
from app.live.picture import Scale
from tests.gui.rigs import Desk


def shown(desk: Desk) -> None:
    desk.until(lambda: desk.window.camera._view is not None)


def test_an_exposure_that_is_typed_reaches_the_camera(at_desk):
    at_desk.connect()
    shown(at_desk)
    field = at_desk.window.camera.exposure
    field.selectAll()
    at_desk.bot.keyClicks(field, "20 ms")
    at_desk.bot.keyClick(field, Qt.Key_Return)
    at_desk.until(lambda: at_desk.bench.camera.exposure_s == pytest.approx(0.02))
    at_desk.until(lambda: at_desk.window.camera._view.look.exposure.exposure_s == pytest.approx(0.02))


def test_an_exposure_out_of_range_is_refused_in_words(at_desk):
    at_desk.connect()
    shown(at_desk)
    field = at_desk.window.camera.exposure
    before = at_desk.bench.camera.exposure_s
    field.selectAll()
    at_desk.bot.keyClicks(field, "100 s")
    at_desk.bot.keyClick(field, Qt.Key_Return)
    at_desk.until(lambda: "exposure 100 s is outside" in at_desk.messages())
    assert at_desk.bench.camera.exposure_s == before
    at_desk.window.setFocus()
    at_desk.until(lambda: field.value() == before)


def test_a_suggested_exposure_fills_the_range(at_desk):
    at_desk.connect()
    shown(at_desk)
    at_desk.click(at_desk.window.camera.suggest)
    at_desk.until(lambda: "brings the brightest pixels" in at_desk.messages() and at_desk.bench.idle)
    exposure = at_desk.bench.camera.exposure_s
    at_desk.until(lambda: at_desk.window.camera._view.look.exposure.exposure_s == exposure)
    image = at_desk.window.camera._view.look.exposure.image
    assert 0.4 < np.percentile(image, 99.9) / 65535 < 0.9


def test_live_off_and_on_by_key(at_desk):
    at_desk.connect()
    shown(at_desk)
    at_desk.window.camera.live.click()
    at_desk.until(lambda: not at_desk.bench.camera.live)
    # The button, too, has heard of it.
    at_desk.until(lambda: at_desk.window.camera.live.isEnabled() and not at_desk.window.camera.live.isChecked())
    at_desk.window.camera.live.click()
    at_desk.until(lambda: at_desk.bench.camera.live)


def test_a_frozen_picture_stays_while_the_camera_goes_on(at_desk):
    at_desk.connect()
    shown(at_desk)
    camera = at_desk.window.camera
    camera.freeze.click()
    kept, number = camera._view, at_desk.window.owner.watched.frames.newest().number
    at_desk.until(lambda: at_desk.window.owner.watched.frames.newest().number > number + 5)
    at_desk.until(lambda: "FROZEN" in camera.status.text())
    assert camera._view is kept
    camera.freeze.click()
    at_desk.until(lambda: camera._view is not kept)


def test_levels_can_be_locked_and_follow_again(at_desk):
    at_desk.connect()
    shown(at_desk)
    camera = at_desk.window.camera
    camera.lock.click()
    assert at_desk.window.viewer.settings.locked is not None
    camera.plots.band.setRegion((250.0, 900.0))
    camera.plots.band.sigRegionChangeFinished.emit(camera.plots.band)
    at_desk.until(lambda: camera._view.picture.levels == (250.0, 900.0))
    camera.lock.click()
    at_desk.until(lambda: camera._view.picture.levels != (250.0, 900.0))
    camera.scale.setCurrentText("log")
    assert at_desk.window.viewer.settings.scale is Scale.LOG


@pytest.mark.parametrize("kind", ["Histogram", "Cuts", "Radial"])
def test_each_plot_is_drawn(at_desk, kind):
    at_desk.connect()
    shown(at_desk)
    at_desk.window.camera.plots.choices[kind].click()
    assert at_desk.window.camera.plots.kind == kind
    curve = at_desk.window.camera.plots.bars if kind == "Histogram" else at_desk.window.camera.plots.first
    at_desk.until(lambda: len(curve.getData()[0]) > 20)


def test_the_centre_is_found_and_marked(at_desk):
    at_desk.connect()
    shown(at_desk)
    at_desk.click(at_desk.window.camera.centre)
    row, column = at_desk.window.viewer.settings.centre
    assert abs(row - 64) < 10
    assert abs(column - 64) < 10
    assert at_desk.window.camera.row_line.isVisible()


def test_a_dark_is_subtracted_from_the_view_only(at_desk):
    at_desk.connect()
    shown(at_desk)
    at_desk.click(at_desk.window.light.block)
    at_desk.until(lambda: at_desk.window.light.open.isEnabled())
    at_desk.click(at_desk.window.camera.dark)
    at_desk.until(lambda: at_desk.window.camera._view.picture.subtracted)
    assert abs(at_desk.window.viewer.settings.dark.mean() - 200) < 2
    assert at_desk.window.camera._view.look.exposure.image.mean() > 190


def test_the_region_is_the_cameras_and_a_scan_then_says_no(at_desk, tmp_path):
    at_desk.connect()
    shown(at_desk)
    camera = at_desk.window.camera
    camera.region_choose.trigger()
    at_desk.until(camera.region_apply.isEnabled)
    camera.region_apply.trigger()
    at_desk.until(lambda: at_desk.bench.camera.info.shape == (64, 64))
    at_desk.until(lambda: camera._view.picture.indices.shape == (64, 64))
    at_desk.until(lambda: "delivers (64, 64) pixels" in at_desk.window.scan.findings.item(0).text())
    camera.region_profile.trigger()
    at_desk.until(lambda: at_desk.bench.camera.info.shape == (128, 128))
    at_desk.until(at_desk.window.scan.begin.isEnabled)


@pytest.mark.parametrize("ending", [".tiff", ".png", ".npy"])
def test_a_saved_frame_holds_the_raw_numbers(at_desk, tmp_path, ending):
    at_desk.connect()
    shown(at_desk)
    view, path = at_desk.window.camera._view, tmp_path / f"frame{ending}"
    at_desk.window.camera.save_frame(view, path)
    at_desk.until(lambda: "frame saved" in at_desk.messages())
    saved = np.load(path) if ending == ".npy" else np.asarray(Image.open(path))
    np.testing.assert_array_equal(saved, view.look.exposure.image)


def test_a_frame_that_cannot_be_saved_is_a_message(at_desk, tmp_path):
    at_desk.connect()
    shown(at_desk)
    at_desk.window.camera.save_frame(at_desk.window.camera._view, tmp_path / "frame.bmp")
    at_desk.until(lambda: "was not saved" in at_desk.messages())


@pytest.mark.parametrize("name", NAMES)
def test_colour_tables_mark_saturated_pixels(name):
    table = colour_table(name)
    assert table.shape == (256, 3)
    assert tuple(table[255]) == CLIPPED
    assert table[254].sum() > table[0].sum()


@pytest.mark.parametrize(
    ("text", "value"),
    [("300ms", 0.3), ("0.3", 0.3), ("30 us", 3e-5), ("30µs", 3e-5), ("1e-3 s", 1e-3), ("0,5ms", 5e-4), ("2ns", 2e-9)],
)
def test_quantities_as_people_type_them(qtbot, text, value):
    field = QuantityEdit("s", 1e-9, 10.0)
    qtbot.addWidget(field)
    assert field.validate(text, 0)[0] == QValidator.Acceptable
    assert field.valueFromText(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "ms", "3 m", "hello", "20 s", "-1"])
def test_what_is_no_quantity_is_not_taken(qtbot, text):
    field = QuantityEdit("s", 1e-9, 10.0)
    qtbot.addWidget(field)
    assert field.validate(text, 0)[0] == QValidator.Intermediate


def test_arrow_keys_climb_the_ladder(qtbot):
    field = QuantityEdit("s", 1e-6, 10.0, ladder=True)
    qtbot.addWidget(field)
    field.setValue(0.3)
    found = []
    for steps in (1, 1, 1, -1, -1, -1, -1):
        field.stepBy(steps)
        found.append(field.value())
    assert found == pytest.approx([0.5, 1.0, 2.0, 1.0, 0.5, 0.2, 0.1])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.3, "300 ms"), (3e-5, "30 µs"), (12.5, "12.5 s"), (1e-9, "1 ns"), (0.0, "0 s"), (0.99999999, "1 s")],
)
def test_quantities_as_people_read_them(value, text):
    assert quantity(value, "s") == text


def test_settings_of_the_view_are_replaced_as_a_whole(at_desk):
    before = at_desk.window.viewer.settings
    at_desk.window.camera.overlay.click()
    assert at_desk.window.viewer.settings == replace(before, overlay=False)
