"""`study decoder` on digits that are none: numbers, figure, table, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import Interrupted, UsageError
from app.progress import Course
from app.reporting import finite
from app.studies.decoder import SHIPPED, DecoderStudy, Digits, kind_of, run_decoder_study, square_layers
from recon.decoders.images import LabelledImages
from recon.decoders.package import load_package
from tests.decoders.shapes import discs


class Discs(Digits):
    """Discs in MNIST's place, ten labels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def part(self, name: str) -> LabelledImages:
        self.asked.append(name)
        return LabelledImages(discs(60, 32, 5 if name == "test" else 6), np.arange(60) % 10, name)


@pytest.fixture(scope="module")
def values(tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("decoder")
    asked = DecoderStudy(decoders=("mnist", "study/mnist-plain", "mnist-4"), count=50)
    return run_decoder_study(asked, out, device="cpu", digits=Discs())


def test_each_decoder_has_its_numbers(values):
    general, plain, fours = values["decoders"]
    assert [row["paper_rank"] for row in values["decoders"]] == [22, 86, 13]
    assert (general["linear_layers"], plain["linear_layers"]) == (8, 0)
    assert plain["rank_linear"] is None
    assert general["validation_images"] == 50
    # A decoder of one class sees that class alone.
    assert fours["validation_images"] == 6
    assert general["rank"] == general["ranks"]["0.01"]
    assert general["over_paper"] == general["rank"] / 22
    assert general["rank_linear"] == 29
    assert len(general["variances"]) == 128
    assert np.all(np.diff(general["variances"]) <= 1e-6)
    json.dumps(finite(values), allow_nan=False)


def test_table_and_figure(values):
    assert values["table"].count("\n") == 5
    assert Path(values["out"], "table.txt").read_text(encoding="utf-8") == values["table"]
    with Image.open(values["figure"]) as picture:
        assert min(picture.size) > 400


def test_kinds_are_told_by_the_record():
    assert [kind_of(load_package(name)) for name in ("study/mnist-50", "study/mnist-plain", "mnist-4", "mnist-3")] == [
        "minimised", "plain", "fours", "",
    ]  # fmt: skip
    assert kind_of(load_package("mnist-64")) == ""
    assert square_layers(load_package("study/mnist-plain")) == 0


def test_strokes_are_redrawn_for_the_decoder_of_strokes():
    images = Discs().unseen(load_package("mnist-64"), 4)
    assert images.shape == (4, 64, 64)
    assert ((images == 0) | (images == 1)).mean() > 0.8


def test_a_wish_to_stop_draws_what_is_done(tmp_path, monkeypatch):
    told: list[int] = []
    monkeypatch.setattr(Course, "advance", lambda _, done, note="": told.append(done))
    monkeypatch.setattr(Course, "stopped", lambda _: bool(told))
    asked = DecoderStudy(decoders=("mnist-4", "mnist"), count=10)
    with pytest.raises(Interrupted, match="1 of 2 decoders") as stopped:
        run_decoder_study(asked, tmp_path, device="cpu", digits=Discs())
    assert [row["decoder"] for row in stopped.value.values["decoders"]] == ["mnist-4"]
    assert (tmp_path / "decoder.png").is_file()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (DecoderStudy(threshold=0.0), "--threshold 0: a share of the largest variance"),
        (DecoderStudy(digits=(9, 11)), "--digits 9,11: two digits from 0 to 9"),
        (DecoderStudy(count=1), "--count 1: a covariance needs at least two"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        asked.checked()


def test_the_decoders_of_the_figure_ship():
    kinds = [kind_of(load_package(name)) for name in SHIPPED]
    assert kinds == ["minimised", "minimised", "plain", "fours", "fours"]
    # The paper's 982 fours are those of the test file.
    source = load_package(SHIPPED[-1]).training["source"]
    assert source.startswith("t10k-images")
    assert source.endswith("label 4")
