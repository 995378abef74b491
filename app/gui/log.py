"""The log: what happened, newest last."""

from __future__ import annotations

from datetime import datetime

from PyQt5.QtGui import QColor, QGuiApplication, QTextCharFormat, QTextCursor
from PyQt5.QtWidgets import QComboBox, QHBoxLayout, QPlainTextEdit, QVBoxLayout

from app.gui.theme import DARK, GAP, Theme
from app.gui.widgets import Panel, button
from app.live.journal import Journal, Message, Severity
from app.live.state import BenchState

LINES = 5000
ORDER = (Severity.INFO, Severity.WARNING, Severity.ERROR)
CHOICES = {"Everything": Severity.INFO, "Warnings and errors": Severity.WARNING, "Errors": Severity.ERROR}


class LogPanel(Panel):
    """See above.

    Args:
        journal: where messages are.
    """

    title = "Log"

    def __init__(self, journal: Journal):
        super().__init__()
        self._journal = journal
        self._seen = 0
        self._theme = DARK
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setMaximumBlockCount(LINES)
        self.text.setLineWrapMode(QPlainTextEdit.NoWrap)
        self.text.setAccessibleName("Log")
        self.choice = QComboBox()
        self.choice.addItems(list(CHOICES))
        self.choice.setToolTip("What is listed")
        self.choice.currentTextChanged.connect(self._again)
        self.copy = button(
            "Copy", "Copy all lines", lambda: QGuiApplication.clipboard().setText(self.text.toPlainText())
        )
        side = QVBoxLayout()
        side.setSpacing(GAP // 2)
        side.addWidget(self.choice)
        side.addWidget(self.copy)
        side.addStretch()
        row = QHBoxLayout(self)
        row.setContentsMargins(GAP, 0, GAP, GAP)
        row.setSpacing(GAP)
        row.addWidget(self.text, 1)
        row.addLayout(side)

    def restyle(self, theme: Theme) -> None:
        self._theme = theme
        self._again()

    def refresh(self, bench: BenchState, age_s: float) -> None:
        if self._journal.count == self._seen:
            return
        messages = self._journal.since(self._seen)
        self._seen = self._journal.count
        self._write(messages)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())

    def _again(self) -> None:
        self.text.clear()
        self._write([message for message in self._journal.since(0) if message.number <= self._seen])

    def _write(self, messages: list[Message]) -> None:
        least = ORDER.index(CHOICES[self.choice.currentText()])
        cursor = QTextCursor(self.text.document())
        cursor.movePosition(QTextCursor.End)
        colours = {
            Severity.INFO: self._theme.text,
            Severity.WARNING: self._theme.warn,
            Severity.ERROR: self._theme.bad,
        }
        bar = self.text.verticalScrollBar()
        follow = bar.value() >= bar.maximum() - 4
        for message in messages:
            if ORDER.index(message.severity) < least:
                continue
            form = QTextCharFormat()
            form.setForeground(QColor(colours[message.severity]))
            # Local time: that of the clock on the wall beside the bench.
            stamp = datetime.fromtimestamp(message.time).astimezone().strftime("%H:%M:%S")
            lead = "" if self.text.document().isEmpty() else "\n"
            cursor.insertText(f"{lead}{stamp}  {message.text}", form)
        if follow:
            bar.setValue(bar.maximum())
