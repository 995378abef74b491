"""Colours and spacing of the window, dark and light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyqtgraph as pg
from PyQt5.QtGui import QColor, QPalette
from PyQt5.QtWidgets import QApplication

GAP = 8
"""Space between things, device-independent pixels; everything is a multiple of half of it."""


ARROWS = Path(__file__).with_name("arrows")
DOWN, UP = (ARROWS.joinpath(f"{way}.png").as_posix() for way in ("down", "up"))
"""A style sheet draws no arrow of its own; these are of a grey that shows on both themes."""


@dataclass(frozen=True)
class Theme:
    """One look.

    Attributes:
        name: dark or light.
        window, panel, field, line: backgrounds from back to front, and what separates them.
        text, faint: words that matter, words that explain.
        accent, good, warn, bad: states; stop: the STOP button.
        plot, grid: of plots.
        chosen: evaluation points, done: what has been scanned.
    """

    name: str
    window: str
    panel: str
    field: str
    line: str
    text: str
    faint: str
    accent: str
    good: str
    warn: str
    bad: str
    stop: str
    plot: str
    grid: str
    chosen: str
    done: str


DARK = Theme(
    name="dark",
    window="#17191d",
    panel="#1f2227",
    field="#292d34",
    line="#383d46",
    text="#e3e6ea",
    faint="#98a1ad",
    accent="#5aa9e6",
    good="#4fb286",
    warn="#e3a83b",
    bad="#e5605e",
    stop="#c8302d",
    plot="#121417",
    grid="#39404a",
    chosen="#e8a33d",
    done="#4fb286",
)
LIGHT = Theme(
    name="light",
    window="#eceef1",
    panel="#f8f9fa",
    field="#ffffff",
    line="#cdd2d9",
    text="#1d2126",
    faint="#5d6773",
    accent="#1f6fb2",
    good="#24805a",
    warn="#a86a00",
    bad="#c22f2c",
    stop="#c8302d",
    plot="#ffffff",
    grid="#c3c9d1",
    chosen="#b56a00",
    done="#24805a",
)
THEMES = {theme.name: theme for theme in (DARK, LIGHT)}


def apply(app: QApplication, theme: Theme) -> None:
    """Make the whole program look so."""
    app.setStyle("Fusion")
    palette = QPalette()
    roles = {
        QPalette.Window: theme.window,
        QPalette.WindowText: theme.text,
        QPalette.Base: theme.field,
        QPalette.AlternateBase: theme.panel,
        QPalette.Text: theme.text,
        QPalette.Button: theme.field,
        QPalette.ButtonText: theme.text,
        QPalette.ToolTipBase: theme.field,
        QPalette.ToolTipText: theme.text,
        QPalette.Highlight: theme.accent,
        QPalette.HighlightedText: "#ffffff",
        QPalette.Link: theme.accent,
        QPalette.PlaceholderText: theme.faint,
    }
    for role, colour in roles.items():
        palette.setColor(role, QColor(colour))
    for role in (QPalette.WindowText, QPalette.Text, QPalette.ButtonText):
        faded = QColor(theme.faint)
        faded.setAlpha(120)
        palette.setColor(QPalette.Disabled, role, faded)
    app.setPalette(palette)
    app.setStyleSheet(_sheet(theme))


def style_plot(plot: pg.PlotItem, theme: Theme) -> None:
    """Colours of a plot's axes; its background belongs to its view."""
    for name in ("left", "bottom", "right", "top"):
        axis = plot.getAxis(name)
        axis.setPen(pg.mkPen(theme.grid))
        axis.setTextPen(pg.mkPen(theme.faint))


def mixed(colour: str, ground: str, share: float = 0.5) -> str:
    """A colour on another, so that words in the theme's text colour can be read on it."""
    parts = zip(QColor(colour).getRgb()[:3], QColor(ground).getRgb()[:3], strict=True)
    return QColor(*(round(share * a + (1 - share) * b) for a, b in parts)).name()


def length_axes(plot: pg.PlotItem, left: str, bottom: str, unit: str, unit_m: float) -> None:
    """Names of two axes in metres, both told in the same unit whatever the zoom."""
    for name, words in (("left", left), ("bottom", bottom)):
        axis = plot.getAxis(name)
        axis.enableAutoSIPrefix(False)
        axis.setScale(1 / unit_m)
        axis.setLabel(f"{words} ({unit})")


def _sheet(t: Theme) -> str:
    return f"""
    QToolTip {{ background: {t.field}; color: {t.text}; border: 1px solid {t.line}; padding: 4px; }}
    QMainWindow::separator {{ background: {t.window}; width: 6px; height: 6px; }}
    QDockWidget {{ color: {t.faint}; }}
    QDockWidget::title {{ background: {t.window}; padding: 5px 8px; }}
    QWidget#panel, QScrollArea, QWidget#scrolled {{ background: {t.panel}; }}
    QWidget#topbar {{ background: {t.panel}; border-bottom: 1px solid {t.line}; }}
    QMenuBar {{ background: {t.panel}; color: {t.text}; }}
    QMenuBar::item {{ padding: 4px 9px; background: transparent; }}
    QMenuBar::item:selected {{ background: {t.field}; }}
    QMenu {{ background: {t.field}; color: {t.text}; border: 1px solid {t.line}; padding: 4px; }}
    QMenu::item {{ padding: 5px 26px 5px 18px; }}
    QMenu::item:selected {{ background: {t.accent}; color: #ffffff; }}
    QMenu::item:disabled {{ color: {t.faint}; }}
    QMenu::separator {{ height: 1px; background: {t.line}; margin: 4px 8px; }}
    QLabel#heading {{ color: {t.text}; font-weight: 600; padding-top: 4px; }}
    QLabel#faint {{ color: {t.faint}; }}
    QLabel#number {{ color: {t.text}; }}
    QLabel#warn {{ color: {t.warn}; }}
    QLabel#bad {{ color: {t.bad}; }}
    QPushButton, QToolButton {{ background: {t.field}; color: {t.text}; border: 1px solid {t.line};
        border-radius: 4px; padding: 4px 10px; min-height: 18px; }}
    QToolButton {{ padding: 4px 6px; }}
    QToolButton[popupMode="2"] {{ padding-right: 18px; }}
    QToolButton::menu-indicator {{ image: url({DOWN}); width: 9px; height: 6px; subcontrol-origin: border;
        subcontrol-position: center right; right: 6px; }}
    QPushButton:hover, QToolButton:hover {{ border-color: {t.accent}; }}
    QPushButton:focus, QToolButton:focus {{ border: 1px solid {t.accent}; }}
    QPushButton:pressed, QToolButton:pressed {{ background: {t.line}; }}
    QPushButton:checked, QToolButton:checked {{ background: {t.accent}; color: #ffffff; border-color: {t.accent}; }}
    QPushButton:disabled, QToolButton:disabled {{ color: {t.faint}; background: {t.panel}; border-color: {t.line}; }}
    QPushButton#primary {{ background: {t.accent}; color: #ffffff; border-color: {t.accent}; font-weight: 600; }}
    QPushButton#primary:disabled {{ background: {t.panel}; color: {t.faint}; border-color: {t.line}; }}
    QPushButton#stop {{ background: {t.stop}; color: #ffffff; border: 1px solid {t.stop}; border-radius: 5px;
        font-weight: 700; padding: 5px 12px; min-height: 24px; }}
    QPushButton#stop:hover, QPushButton#stop:focus {{ background: #e03e3a; border-color: #ffffff; }}
    QLineEdit, QPlainTextEdit, QAbstractSpinBox, QComboBox {{ background: {t.field}; color: {t.text};
        border: 1px solid {t.line}; border-radius: 4px; padding: 3px 6px; min-height: 18px;
        selection-background-color: {t.accent}; }}
    QLineEdit:focus, QPlainTextEdit:focus, QAbstractSpinBox:focus, QComboBox:focus {{ border-color: {t.accent}; }}
    QLineEdit:disabled, QAbstractSpinBox:disabled, QComboBox:disabled, QPlainTextEdit:disabled {{
        color: {t.faint}; background: {t.panel}; }}
    QComboBox {{ padding-right: 18px; }}
    QComboBox::drop-down {{ subcontrol-origin: border; subcontrol-position: center right; width: 18px;
        border: none; }}
    QComboBox::down-arrow {{ image: url({DOWN}); width: 9px; height: 6px; }}
    QComboBox:hover {{ border-color: {t.accent}; }}
    QAbstractSpinBox[buttonSymbols="0"] {{ padding-right: 18px; }}
    QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ subcontrol-origin: border; width: 16px;
        border: none; background: transparent; }}
    QAbstractSpinBox::up-button {{ subcontrol-position: top right; }}
    QAbstractSpinBox::down-button {{ subcontrol-position: bottom right; }}
    QAbstractSpinBox[buttonSymbols="2"]::up-button, QAbstractSpinBox[buttonSymbols="2"]::down-button {{ width: 0; }}
    QAbstractSpinBox::up-arrow {{ image: url({UP}); width: 7px; height: 5px; }}
    QAbstractSpinBox::down-arrow {{ image: url({DOWN}); width: 7px; height: 5px; }}
    QComboBox QAbstractItemView {{ background: {t.field}; color: {t.text}; border: 1px solid {t.line}; }}
    QCheckBox, QRadioButton {{ color: {t.text}; spacing: 6px; }}
    QCheckBox:disabled, QRadioButton:disabled {{ color: {t.faint}; }}
    QProgressBar {{ background: {t.field}; border: 1px solid {t.line}; border-radius: 4px; text-align: center;
        color: {t.text}; min-height: 16px; max-height: 18px; }}
    QProgressBar::chunk {{ background: {mixed(t.accent, t.field)}; border-radius: 3px; }}
    QListWidget, QTableWidget {{ background: {t.field}; color: {t.text}; border: 1px solid {t.line};
        border-radius: 4px; }}
    QListWidget#bare {{ background: transparent; border: none; }}
    QHeaderView::section {{ background: {t.panel}; color: {t.faint}; border: none; padding: 3px 6px; }}
    QTabBar {{ qproperty-drawBase: 0; background: {t.window}; border: none; }}
    QTabBar::tab {{ background: {t.window}; color: {t.faint}; padding: 6px 14px; border: none; }}
    QTabBar::tab:selected {{ background: {t.panel}; color: {t.text}; border-bottom: 2px solid {t.accent}; }}
    QTabBar::tab:hover {{ color: {t.text}; }}
    QFrame#banner {{ background: {t.field}; border-left: 4px solid {t.bad}; border-radius: 3px; }}
    QFrame#confirm {{ background: {t.field}; border-left: 4px solid {t.warn}; border-radius: 3px; }}
    QSlider::groove:horizontal {{ height: 4px; background: {t.line}; border-radius: 2px; }}
    QSlider::sub-page:horizontal {{ background: {t.accent}; border-radius: 2px; }}
    QSlider::handle:horizontal {{ background: {t.text}; width: 12px; margin: -5px 0; border-radius: 6px; }}
    QSlider:focus {{ border: 1px solid {t.accent}; border-radius: 4px; }}
    QScrollBar:vertical {{ background: transparent; width: 10px; margin: 0; }}
    QScrollBar::handle:vertical {{ background: {t.line}; border-radius: 4px; min-height: 24px; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ height: 0; width: 0; }}
    QScrollBar:horizontal {{ background: transparent; height: 10px; margin: 0; }}
    QScrollBar::handle:horizontal {{ background: {t.line}; border-radius: 4px; min-width: 24px; }}
    """
