"""`ptychoscope train`: from a folder or an IDX file to a package, its JSON line, its resumption, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from app.training import TrainCommandError, train, train_decoder
from recon.decoders import training
from recon.decoders.package import load_package
from tests.decoders.shapes import discs, write_idx

SMALL = ["--epochs", "2", "--batch", "16", "--image-size", "16", "--latent", "8", "--linear-layers", "2"]
SMALL_OPTIONS = {"epochs": 2, "batch": 16, "image_size": 16, "latent": 8, "linear_layers": 2, "device": "cpu"}


@pytest.fixture
def letters(tmp_path) -> Path:
    """An IDX file of 40 discs with the labels 0 and 1 beside it."""
    write_idx(tmp_path / "letters-labels", np.arange(40, dtype=np.uint8) % 2)
    return write_idx(tmp_path / "letters-idx3-ubyte.gz", (discs(40, 12, 3) * 255).astype(np.uint8))


def _command() -> typer.Typer:
    application = typer.Typer()
    application.command()(train)
    return application


def test_an_idx_file_becomes_a_package_and_one_line_of_json(letters, tmp_path):
    out = tmp_path / "made.safetensors"
    arguments = ["--images", str(letters), "--device", "cpu", "--out", str(out), "--json", *SMALL]
    result = CliRunner().invoke(_command(), arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    line = json.loads(result.stdout)
    package = load_package(str(out))
    assert set(line) == {
        "decoder", "file", "images", "epochs", "seconds", "loss", "validation_psnr_db", "effective_rank", "interrupted"
    }  # fmt: skip
    assert line["decoder"] == package.name == "made"
    assert (line["images"], line["epochs"], line["interrupted"]) == (36, 2, False)
    assert line["effective_rank"] == package.effective_rank()
    assert line["validation_psnr_db"] == package.training["validation_psnr_db"]
    assert package.architecture.latent_size == 8
    assert "epoch 2/2" in result.stderr
    assert [p.name for p in tmp_path.glob("made*")] == ["made.safetensors"]  # the checkpoint is gone


def test_names_labels_and_validation_files(letters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    validation = write_idx(tmp_path / "held-out", (discs(5, 12, 4) * 255).astype(np.uint8))
    result = train_decoder(
        images=letters,
        labels=tmp_path / "letters-labels",
        only=1,
        validation=str(validation),
        **SMALL_OPTIONS,
    )
    assert result.file == Path("letters-1.safetensors")
    assert result.images == 20
    assert load_package("letters-1.safetensors").training["source"].endswith("label 1")


def test_binary_strokes_are_redrawn_before_training(letters, tmp_path):
    result = train_decoder(images=letters, out=tmp_path / "masks.safetensors", binary=True, **SMALL_OPTIONS)
    package = load_package(str(result.file))
    assert package.training["source"].endswith("redrawn in binary")
    assert package.architecture.image_size == 16


def test_a_folder_of_dark_drawings_on_white_paper(tmp_path):
    drawings = tmp_path / "drawings"
    drawings.mkdir()
    for number, disc in enumerate(discs(12, 16, 8)):
        Image.fromarray((255 * (1 - disc)).astype(np.uint8)).save(drawings / f"{number:02}.png")
    result = train_decoder(images=drawings, dark_ink=True, validation="0.25", out=tmp_path, **SMALL_OPTIONS)
    assert result.file == tmp_path / "drawings.safetensors"
    assert result.images == 9


def test_after_an_interruption_the_same_call_goes_on(letters, tmp_path, monkeypatch, capsys):
    out, plain = tmp_path / "made.safetensors", tmp_path / "plain.safetensors"
    train_decoder(images=letters, out=plain, **SMALL_OPTIONS)
    original = training.train

    def interrupted(*arguments, report, **options):
        def stop(epoch):
            report(epoch)
            raise KeyboardInterrupt

        return original(*arguments, report=stop, **options)

    monkeypatch.setattr(training, "train", interrupted)
    first = train_decoder(images=letters, out=out, **SMALL_OPTIONS)
    assert first.interrupted
    assert first.epochs == 1
    assert first.as_json()["effective_rank"] is None
    assert not out.exists()
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(training, "train", original)
    second = train_decoder(images=letters, out=out, **SMALL_OPTIONS)
    assert not second.interrupted
    assert second.epochs == 2
    assert "going on from" in capsys.readouterr().err
    a, b = load_package(str(out)), load_package(str(plain))
    assert torch.equal(a.latent_mean, b.latent_mean)
    assert all(torch.equal(x, y) for x, y in zip(a.decoder.parameters(), b.decoder.parameters(), strict=True))


def test_an_interruption_before_the_first_epoch_leaves_nothing(letters, tmp_path, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    arguments = ["--images", str(letters), "--out", str(tmp_path / "made.safetensors"), "--json", *SMALL]
    result = CliRunner().invoke(_command(), arguments)
    assert result.exit_code == 130
    line = json.loads(result.stdout)
    assert line["interrupted"]
    assert line["loss"] is None
    assert list(tmp_path.glob("made*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": Path("decoder.h5")}, "ends in .safetensors"),
        ({"out": Path("a.safetensors"), "name": "b"}, "both name the package"),
        ({"image_size": 28}, "multiple of 16, got 28"),
        ({"device": "toaster"}, "device 'toaster' is not usable"),
        ({"validation": "1.5"}, "between 0 and 1"),
        ({"validation": "0.001"}, "leaves 0 to validate"),
        ({"validation": "absent.idx"}, "absent.idx: cannot be read"),
        ({"only": 7}, "no image has label 7"),
        ({"images": Path("absent")}, "absent: cannot be read"),
        ({"dark_ink": True}, "--dark-ink is for folders"),
        ({"images": None, "labels": Path("x")}, "need --images"),
        ({"images": Path(), "labels": Path("x")}, "leave --labels out"),
        ({"epochs": 0}, "must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(letters, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainCommandError) as caught:
        train_decoder(**({"images": letters, **SMALL_OPTIONS} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_existing_package_is_never_overwritten(letters, tmp_path):
    out = tmp_path / "made.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(TrainCommandError, match="exists already"):
        train_decoder(images=letters, out=out, **SMALL_OPTIONS)
    assert out.read_bytes() == b"precious"
