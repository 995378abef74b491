"""The script that makes the shipped priors: MNIST's files as each decoder's record says, a prior, a line of JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import make_priors
from recon.decoders.companion import load_companion
from recon.decoders.images import binary_strokes
from recon.decoders.network import Architecture, Autoencoder
from recon.decoders.package import DecoderPackage, load_package, write_package
from tests.decoders.shapes import discs, write_idx

SMALL = Architecture(
    image_size=32, latent_size=6, linear_layers=1, encoder_channels=(4, 4, 4, 8), decoder_channels=(4, 4, 4)
)
QUICK = ["--pairs", "60", "--epochs", "1", "--width", "8", "--depth", "1", "--device", "cpu"]


@pytest.fixture
def mnist(tmp_path) -> Path:
    """Discs under the names of MNIST's files, labelled 0, 1, 2, 0, 1 ..."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, count in (("train", 90), ("t10k", 40)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", (discs(count, 28, 1) * 255).astype(np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", (np.arange(count) % 3).astype(np.uint8))
    return folder


def _package(folder: Path, source: str) -> DecoderPackage:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = Autoencoder(SMALL)
    path = folder / "small.safetensors"
    write_package(path, network, discs(60, 32, 1), {"source": source, "validation_psnr_db": 10.0})
    return load_package(str(path))


def test_a_prior_and_a_line_of_json(mnist, tmp_path, capsys):
    package = _package(tmp_path, "MNIST train set")
    out = tmp_path / "out"
    assert make_priors.main([str(mnist), str(out), str(tmp_path / "small.safetensors"), *QUICK]) == 0
    line = json.loads(capsys.readouterr().out)
    companion = load_companion(out / "small.prior.safetensors", package)
    assert companion.prior.classes == [0, 1, 2]
    assert (line["decoder"], line["images"]) == ("small", 90)
    assert line["sketch_width"] == 8
    assert line["unseen_nats"] == companion.made["unseen_nats"]


def test_the_record_says_which_digits_and_how_they_are_drawn(mnist, tmp_path):
    images, labels = make_priors.digits(mnist, "train", _package(tmp_path, "MNIST train set, label 2"), "cpu")
    assert labels.tolist() == [2] * 30
    grey = np.pad(np.round(discs(90, 28, 1) * 255 - 0.5)[2::3] / 255, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    assert np.abs(images.numpy() - grey).max() < 0.005
    package = _package(tmp_path, "MNIST train set, label 2, redrawn in binary")
    redrawn, _ = make_priors.digits(mnist, "train", package, "cpu")
    # The last bit of a product decides about a pixel's part here and there.
    assert np.abs(redrawn.numpy() - binary_strokes(images.numpy(), 32)).mean() < 1e-5


def test_the_study_measures_and_writes_nothing(mnist, tmp_path, capsys):
    _package(tmp_path, "MNIST train set")
    out = tmp_path / "out"
    arguments = [str(mnist), str(out), str(tmp_path / "small.safetensors"), "--study", "--device", "cpu"]
    assert make_priors.main(arguments) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["8 per class"]["nats"] < 0
    assert 0 <= line["1 per class"]["accuracy"] <= 1
    assert line["classified"] == 40
    assert not out.exists()


def test_missing_files_are_one_line(tmp_path, capsys):
    _package(tmp_path, "MNIST train set")
    assert make_priors.main([str(tmp_path), str(tmp_path), str(tmp_path / "small.safetensors"), *QUICK]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train-images-idx3-ubyte.gz: cannot be read" in said
