"""One frame, and the beam, from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from app.errors import UsageError


def invoke(*arguments: str) -> dict:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False, standalone_mode=False)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("ending", [".tiff", ".png", ".npy"])
def test_a_frame_as_bright_as_fits(tmp_path, ending):
    path = tmp_path / f"frame{ending}"
    values = invoke("snap", "--profile", "tiny", "--out", str(path))
    image = np.load(path) if ending == ".npy" else np.asarray(Image.open(path))
    assert image.shape == (128, 128)
    assert image.max() == values["brightest_adu"]
    assert 0.4 < np.percentile(image, 99.9) / 65535 < 0.9


def test_the_exposure_asked_for(tmp_path):
    values = invoke("snap", "--profile", "tiny", "--exposure", "0.01", "--out", str(tmp_path / "f.npy"))
    assert values["exposure_s"] == 0.01


def test_a_frame_never_replaces_a_file(tmp_path):
    (tmp_path / "f.npy").write_text("")
    with pytest.raises(UsageError, match="exists already"):
        invoke("snap", "--profile", "tiny", "--out", str(tmp_path / "f.npy"))


@pytest.mark.parametrize(("word", "state"), [("block", "blocked"), ("unblock", "open")])
def test_the_beam(word, state):
    assert invoke("light", word, "--profile", "tiny") == {"light": state}


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="neither block nor unblock"):
        invoke("light", "off", "--profile", "tiny")
