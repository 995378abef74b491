"""How the window looks, where that can be told in numbers."""

import numpy as np
import pytest
from PyQt5.QtGui import QColor, QImage
from PyQt5.QtWidgets import QApplication, QComboBox, QDoubleSpinBox

from app.gui import theme
from app.gui.scanmap import ScanMap
from app.gui.stage import StageMap
from app.gui.widgets import QuantityEdit


@pytest.fixture
def themed(qapp):
    """The program in one of its themes; afterwards as it was."""
    sheet, palette = qapp.styleSheet(), qapp.palette()
    yield lambda name: theme.apply(qapp, theme.THEMES[name])
    qapp.setStyleSheet(sheet)
    qapp.setPalette(palette)


def pixels(widget):
    """(rows, columns, 3) of a widget as it is drawn."""
    image = widget.grab().toImage().convertToFormat(QImage.Format_RGB888)
    raw = np.frombuffer(image.constBits().asarray(image.sizeInBytes()), np.uint8)
    return raw.reshape(image.height(), image.bytesPerLine())[:, : 3 * image.width()].reshape(image.height(), -1, 3)


@pytest.mark.parametrize("name", sorted(theme.THEMES))
@pytest.mark.parametrize("kind", [QComboBox, QDoubleSpinBox])
def test_choices_and_steppers_show_their_arrows(qtbot, themed, name, kind):
    themed(name)
    widget = kind()
    qtbot.addWidget(widget)
    widget.resize(140, 28)
    widget.show()
    QApplication.processEvents()
    inside = pixels(widget)[4:-4, -16:-5].astype(int)
    ground = np.median(inside.reshape(-1, 3), 0)
    drawn = np.abs(inside - ground).sum(2) > 60
    assert 10 < drawn.sum() < 0.5 * drawn.size


@pytest.mark.parametrize(("plot", "unit", "scale"), [(ScanMap, "µm", 1e6), (StageMap, "mm", 1e3)])
def test_both_axes_of_a_map_have_one_unit_whatever_the_zoom(qtbot, plot, unit, scale):
    made = plot(lambda: None) if plot is ScanMap else plot()
    qtbot.addWidget(made)
    for reach in (1e-5, 1e-2):
        made.getPlotItem().setRange(xRange=(-reach, reach), yRange=(-5 * reach, 5 * reach))
        for side in ("left", "bottom"):
            axis = made.getPlotItem().getAxis(side)
            axis.updateAutoSIPrefix()
            assert axis.labelText.endswith(f"({unit})")
            assert axis.labelUnits == ""
            assert (axis.scale, axis.autoSIPrefixScale) == (scale, 1.0)


@pytest.mark.parametrize("name", sorted(theme.THEMES))
def test_a_quantity_without_steppers_shows_all_of_its_words(qtbot, themed, name):
    themed(name)
    edit = QuantityEdit("m", -1.0, 1.0)
    qtbot.addWidget(edit)
    edit.put_value(12.3456e-3)
    edit.resize(128, 28)
    edit.show()
    QApplication.processEvents()
    line = edit.lineEdit()
    assert line.text() == "12.3456 mm"
    assert line.fontMetrics().horizontalAdvance(line.text()) < line.width()


@pytest.mark.parametrize("look", theme.THEMES.values(), ids=lambda look: look.name)
def test_words_on_a_progress_bar_can_be_read(look):
    """WCAG asks for a contrast of 4.5."""

    def luminance(colour):
        parts = np.array(QColor(colour).getRgbF()[:3])
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    ground, text = sorted((luminance(theme.mixed(look.accent, look.field)), luminance(look.text)))
    assert (text + 0.05) / (ground + 0.05) > 4.5
