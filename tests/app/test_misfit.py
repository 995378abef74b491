"""A calibration whose model cannot explain the frames says that its standard deviations are too small."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import app.calibration
from app.progress import Course
from recon.team import ALONE


@pytest.mark.parametrize(("misfit", "said"), [(1.57, ["misfit 1.57, over 1.2"]), (1.1, [])])
def test_a_misfit_is_said_where_it_is_large(monkeypatch, misfit, said):
    found = SimpleNamespace(misfit=misfit)
    monkeypatch.setattr(app.calibration, "uncertainty", lambda *_: found)
    lines: list[str] = []
    monkeypatch.setattr(Course, "say", lambda _, text: lines.append(text))
    with Course(quiet=True) as course:
        assert app.calibration._errors(_Scan(), None, "cpu", course, None, ALONE) is found
    assert [line.split(":")[0] for line in lines] == said


class _Scan:
    """Four frames of 8 x 8."""

    geometry = SimpleNamespace(shape=(8, 8))

    def __len__(self) -> int:
        return 4

    def load(self) -> _Scan:
        return self
