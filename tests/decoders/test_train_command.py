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

from app import training as command
from app.priors import prior_of
from app.training import TrainCommandError, train, train_decoder
from recon.decoders import companion as companion_module
from recon.decoders import training
from recon.decoders.companion import companion_path, load_companion
from recon.decoders.package import load_package
from tests.decoders.shapes import discs, write_idx

QUICK = ["--sketch-pairs", "40", "--sketch-epochs", "1", "--device", "cpu"]
SMALL = [*QUICK, "--epochs", "2", "--batch", "16", "--image-size", "16", "--latent", "8", "--linear-layers", "2"]
QUICK_OPTIONS = {"sketch_pairs": 40, "sketch_epochs": 1, "device": "cpu"}
SMALL_OPTIONS = {**QUICK_OPTIONS, "epochs": 2, "batch": 16, "image_size": 16, "latent": 8, "linear_layers": 2}


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
    arguments = ["--images", str(letters), "--out", str(out), "--json", *SMALL]
    result = CliRunner().invoke(_command(), arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    line = json.loads(result.stdout)
    package = load_package(str(out))
    assert set(line) == {
        "decoder", "file", "images", "epochs", "seconds", "loss", "validation_psnr_db", "effective_rank", "interrupted",
        "prior", "sketch_db", "unseen_nats", "unseen_accuracy", "misfit_z",
    }  # fmt: skip
    assert line["decoder"] == package.name == "made"
    assert (line["images"], line["epochs"], line["interrupted"]) == (36, 2, False)
    assert line["effective_rank"] == package.effective_rank()
    assert line["validation_psnr_db"] == package.training["validation_psnr_db"]
    assert package.architecture.latent_size == 8
    assert "epoch 2/2" in result.stderr
    companion = load_companion(companion_path(out), package)
    assert line["prior"] == str(companion_path(out))
    assert line["unseen_nats"] == companion.made["unseen_nats"]
    assert companion.made["images"] == 36
    # The checkpoint is gone.
    assert sorted(p.name for p in tmp_path.glob("made*")) == ["made.prior.safetensors", "made.safetensors"]


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


def test_a_stack_and_another_start_of_the_square_layers(letters, tmp_path):
    np.savez(tmp_path / "signs.npz", discs(40, 12, 3))
    made = train_decoder(
        images=tmp_path / "signs.npz", out=tmp_path / "signs.safetensors", linear_start="glorot", **SMALL_OPTIONS
    )
    record = load_package(str(made.file)).training
    assert record["source"] == "signs.npz"
    assert record["settings"]["linear_start"] == "glorot"
    with pytest.raises(TrainCommandError, match="linear_start 'he': known are orthogonal, glorot"):
        train_decoder(
            images=tmp_path / "signs.npz", out=tmp_path / "other.safetensors", linear_start="he", **SMALL_OPTIONS
        )


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
        ({"image_size": 28}, "--image-size 28: is no positive multiple of 16"),
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
        ({"validation": "0.02"}, "39 images to train and 1 to validate are too few"),
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


def _without_prior(letters: Path, monkeypatch) -> Path:
    """A package whose prior was interrupted."""
    out = letters.parent / "alone.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(companion_module, "train_sketch", _interrupted)
        options = {"images": letters, "labels": letters.parent / "letters-labels", "out": out, "seed": 3}
        result = train_decoder(**options, **SMALL_OPTIONS)
    assert result.interrupted
    assert result.as_json()["prior"] is None
    return out


@pytest.fixture
def alone(letters, monkeypatch) -> Path:
    return _without_prior(letters, monkeypatch)


def _interrupted(*_arguments, **_options):
    raise KeyboardInterrupt


def test_an_interrupted_prior_leaves_the_decoder_and_says_how_to_go_on(letters, tmp_path, monkeypatch, capsys):
    alone = _without_prior(letters, monkeypatch)
    said = capsys.readouterr().err
    assert f"the decoder is complete in {alone}" in said
    assert f"train --prior {alone} --images {letters} --labels {tmp_path / 'letters-labels'} --seed 3`" in said
    assert load_package(str(alone)).training["history"]
    assert [p.name for p in tmp_path.glob("alone*")] == ["alone.safetensors"]


def test_a_prior_for_a_decoder_that_is_there(alone, letters, tmp_path):
    before = alone.read_bytes()
    arguments = ["--prior", str(alone), "--images", str(letters), "--labels", str(tmp_path / "letters-labels")]
    result = CliRunner().invoke(_command(), [*arguments, "--seed", "3", "--json", *QUICK], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    line = json.loads(result.stdout)
    assert set(line) == {
        "decoder", "file", "prior", "images", "seconds", "sketch_db", "unseen_nats", "unseen_accuracy", "misfit_z",
        "interrupted",
    }  # fmt: skip
    assert (line["decoder"], line["images"], line["interrupted"]) == ("alone", 36, False)
    assert alone.read_bytes() == before
    companion = load_companion(Path(line["prior"]), load_package(str(alone)))
    assert companion.prior.classes == [0, 1]
    assert "note:" not in result.stderr
    with pytest.raises(TrainCommandError, match="exists already; remove it to make it anew"):
        prior_of(str(alone), images=letters)


def test_other_images_than_the_decoders_are_noted(alone, letters, tmp_path, capsys):
    prior_of(str(alone), images=letters, labels=tmp_path / "letters-labels", only=1, pairs=40, epochs=1, device="cpu")
    assert "note: the decoder was trained on letters-idx3-ubyte.gz; the prior" in capsys.readouterr().err


def test_an_interrupted_prior_of_a_decoder_leaves_nothing(alone, letters, tmp_path, monkeypatch):
    monkeypatch.setattr(companion_module, "train_sketch", _interrupted)
    arguments = ["--prior", str(alone), "--images", str(letters), "--json", *QUICK]
    result = CliRunner().invoke(_command(), arguments)
    assert result.exit_code == 130
    line = json.loads(result.stdout)
    assert line["interrupted"]
    assert line["prior"] is None
    assert "nothing was written" in result.stderr
    assert [p.name for p in tmp_path.glob("alone*")] == ["alone.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prior", "absent"], "decoder 'absent' not found"),
        (["--prior", "absent", "--epochs", "3"], "--epochs is for training a decoder"),
        (["--prior", "absent", "--linear-layers", "3"], "--linear-layers is for training"),
        (["--prior", "absent", "--out", "x.safetensors"], "--out is for training"),
        (["--prior", "ALONE", "--images", "nowhere"], "nowhere: cannot be read"),
        (["--prior", "ALONE", "--images", "LETTERS", "--only", "9"], "no image has label 9"),
        (["--prior", "ALONE", "--images", "LETTERS", "--device", "toaster"], "'toaster' is not usable"),
    ],
)
def test_a_prior_that_cannot_be_made_is_refused_in_one_line(alone, letters, options, message):
    words = [{"ALONE": str(alone), "LETTERS": str(letters)}.get(word, word) for word in options]
    result = CliRunner().invoke(_command(), words)
    assert isinstance(result.exception, TrainCommandError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_failing_prior_says_where_the_decoder_is(letters, tmp_path, monkeypatch):
    def failing(*_arguments, **_options):
        raise command.TrainCommandError("no space left")

    monkeypatch.setattr(command, "make_prior", failing)
    out = tmp_path / "made.safetensors"
    with pytest.raises(TrainCommandError, match=r"made.safetensors, but has no prior: no space left"):
        train_decoder(images=letters, out=out, **SMALL_OPTIONS)
    assert load_package(str(out)).name == "made"


def test_a_prior_without_its_decoder_is_not_adopted(letters, tmp_path):
    (tmp_path / "made.prior.safetensors").write_bytes(b"left over")
    with pytest.raises(TrainCommandError, match="prior of a decoder that is gone"):
        train_decoder(images=letters, out=tmp_path / "made.safetensors", **SMALL_OPTIONS)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(letters, tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", full)
    out = tmp_path / "sub" / "letters.safetensors"
    with pytest.raises(TrainCommandError, match=rf"--out {out}: cannot be written \(Read-only file system\)"):
        train_decoder(images=letters, out=out)
