"""`study landscape` on the small scene: what it finds, writes, draws, says and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.cli import app
from app.errors import Interrupted, UsageError, run_guarded
from app.progress import Course
from app.reporting import finite
from app.studies.landscape import LandscapeStudy, run_landscape_study
from app.studies.scene import StudyScene
from tests.studies.rigs import objects_file

SCENE = StudyScene.small(3)


def _study(folder: Path, **changes: Any) -> LandscapeStudy:
    plain: dict[str, Any] = {
        "objects": str(objects_file(folder)),
        "index": 0,
        "photons": (1e3, 1e5),
        "decoders": ("mnist-4",),
        "losses": ("mixed", "poisson"),
        "points": 13,
    }
    return LandscapeStudy(**(plain | changes))


@pytest.fixture(scope="module")
def values(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("landscape")
    return run_landscape_study(_study(folder), folder / "out", device="cpu", scene=SCENE)


def test_every_landscape_has_its_measures_in_both_units(values):
    found = values["landscapes"]
    assert [(one["decoder"], one["exposure"], one["loss"]) for one in found] == [
        ("mnist-4", "100000 photons", "mixed"),
        ("mnist-4", "100000 photons", "poisson"),
        ("mnist-4", "1000 photons", "mixed"),
        ("mnist-4", "1000 photons", "poisson"),
    ]
    bright = found[0]
    assert isinstance(bright["converged"], bool)
    assert bright["whitened"]["optimum"] == [pytest.approx(0), pytest.approx(0)]
    for one in found:
        for units in ("whitened", "paper"):
            assert 0 < one[units]["basin"] <= 1
            assert one[units]["condition_all_axes"] > 1
        # These do not depend on units.
        assert one["whitened"]["bent_down"] == pytest.approx(one["paper"]["bent_down"])
        assert one["whitened"]["minima"] == one["paper"]["minima"]
    assert bright["whitened"]["depth"] > 50 * found[2]["whitened"]["depth"]
    json.dumps(finite(values), allow_nan=False)


def test_grids_and_figures_are_written(values):
    with np.load(values["grids"]) as grids:
        facts = json.loads(str(grids["landscapes"]))
        assert len(facts) == 4
        assert facts[1] == {"decoder": "mnist-4", "exposure": "100000 photons", "loss": "poisson"}
        assert grids["values_0"].shape == (13, 13)
        assert grids["values_0"].argmin() == 6 * 13 + 6
        np.testing.assert_allclose(grids["first_0"], np.linspace(-3, 3, 13))
        assert grids["spread_0"].tolist() == pytest.approx(values["landscapes"][0]["spread"])
    for name in ("figure", "maps"):
        with Image.open(values[name]) as picture:
            assert min(picture.size) > 400
    assert (Path(values["out"]) / "table.txt").read_text().count("\n") == 9


def test_own_centres_and_the_papers_units(tmp_path):
    asked = _study(tmp_path, centre="own", units="paper", losses=("poisson",), photons=(1e5,), points=11)
    [one] = run_landscape_study(asked, tmp_path / "out", device="cpu", scene=SCENE)["landscapes"]
    assert one["paper"]["optimum"] == [pytest.approx(0), pytest.approx(0)]
    with np.load(tmp_path / "out" / "landscapes.npz") as grids:
        reach = grids["first_0"][-1] * grids["spread_0"][0], grids["second_0"][-1] * grids["spread_0"][1]
    assert reach[0] == pytest.approx(reach[1])
    assert reach[0] == pytest.approx(3 * one["spread"][0])


def test_a_wish_to_stop_keeps_the_planes_that_are_complete(tmp_path, monkeypatch):
    asked = _study(tmp_path, decoders=("mnist-4", "mnist-3"), losses=("mixed",), photons=(1e5,), points=11)
    begun: list[str] = []
    begin = Course.begin

    def counted(course: Course, name: str, total: int) -> None:
        begun.append(name)
        begin(course, name, total)

    monkeypatch.setattr(Course, "begin", counted)
    monkeypatch.setattr(Course, "stopped", lambda _: "mnist-3: likelihoods" in begun)
    with pytest.raises(Interrupted, match="1 landscapes are complete") as told:
        run_landscape_study(asked, tmp_path / "out", device="cpu", scene=SCENE)
    assert len(told.value.values["landscapes"]) == 1
    with np.load(tmp_path / "out" / "landscapes.npz") as grids:
        assert len(json.loads(str(grids["landscapes"]))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": "pixels"}, "--units 'pixels': choose from whitened, paper"),
        ({"centre": "mean"}, "--centre 'mean': choose from shared, own"),
        ({"losses": ("mixed", "cauchy")}, "--losses 'cauchy': choose from mixed, poisson"),
        ({"points": 5}, "--points 5: points each way go from 11 to 501"),
        ({"reach": 40.0}, "--reach 40: standard deviations go from 0.01 to 10"),
        ({"photons": (0.1,)}, "--photons 0.1: photons per exposure go from 1"),
        ({"read_noise": 0.0}, "--read-noise 0: electrons go from 0.05"),
        ({"positions": 20}, "--positions 20: the study uses 16 or 96"),
        ({"truth": "grey"}, "--truth 'grey': choose from matched, mask"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(LandscapeStudy(), **changes).checked()


def test_a_run_without_its_calibration_is_refused(tmp_path, capsys):
    path = tmp_path / "bare.h5"
    assert run_guarded(lambda: app(["scan", "--profile", "tiny", "--out", str(path)], standalone_mode=False)) == 0
    capsys.readouterr()
    arguments = ["study", "landscape", "--run", str(path), "--out", str(tmp_path / "out")]
    assert run_guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "is not calibrated yet" in capsys.readouterr().err
