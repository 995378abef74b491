"""What the studies' commands say on stdout, also of a study that somebody stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import Interrupted
from app.studies.commands import _tell

DONE = {"curves": [1.0, float("nan")], "table": "a table", "out": "here", "seconds": 1.5}


def stopped() -> dict[str, Any]:
    raise Interrupted("study: 1 of 4 cases are kept in here; the same command goes on with the rest", values=DONE)


def test_a_study_that_was_stopped_prints_what_is_finished(capsys):
    with pytest.raises(Interrupted, match="1 of 4"):
        _tell(stopped, True, "out")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"curves": [1.0, None], "out": "here", "seconds": 1.5, "interrupted": True}
    with pytest.raises(Interrupted, match="1 of 4"):
        _tell(stopped, False, "out", "figure")
    assert capsys.readouterr().out == "a table\nout: here\n"


def test_a_study_that_is_complete_says_so(capsys):
    _tell(lambda: dict(DONE), True, "out")
    assert json.loads(capsys.readouterr().out)["interrupted"] is False


def test_of_a_study_that_was_stopped_before_anything_was_finished_people_hear_the_last_line_only(capsys):
    def nothing() -> dict[str, Any]:
        raise Interrupted("study: nothing", values={"curves": [], "out": "here"})

    with pytest.raises(Interrupted):
        _tell(nothing, False, "out")
    assert capsys.readouterr().out == ""
