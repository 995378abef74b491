"""Amplitude and phase from one image: the relief, decoders of both, their packages and priors, and who refuses them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from app.training import TrainCommandError, train
from recon.decoders import package as package_module
from recon.decoders.companion import companion_path, load_companion, plain_companion, write_companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.network import Architecture, ComplexArchitecture
from recon.decoders.package import DecoderError, DecoderPackage, installed_packages, load_package
from recon.decoders.pairs import RELIEF_RAD, paired, relief, transmission
from recon.decoders.sketch import Sketch
from recon.decoders.training import TrainingSettings
from recon.decoders.training import train as train_network
from tests.decoders.shapes import discs, write_idx

OPTIONS = [
    "--phase", "--epochs", "3", "--batch", "16", "--image-size", "16", "--latent", "8", "--linear-layers", "2",
    "--sketch-pairs", "40", "--sketch-epochs", "1", "--device", "cpu",
]  # fmt: skip


def _invoked(*words: str) -> str:
    application = typer.Typer()
    application.command()(train)
    result = CliRunner().invoke(application, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A package of discs with their reliefs, and its prior."""
    folder = tmp_path_factory.mktemp("reliefs")
    letters = write_idx(folder / "letters-idx3-ubyte.gz", (discs(60, 12, 3) * 255).astype(np.uint8))
    _invoked("--images", str(letters), "--out", str(folder), *OPTIONS)
    return folder / "letters-complex.safetensors"


@pytest.fixture(scope="module")
def package(trained) -> DecoderPackage:
    return load_package(str(trained), 2)


def test_the_relief_is_the_slope_along_the_diagonal_and_keeps_its_range():
    ramp = np.clip(np.linspace(-1, 2, 32, dtype=np.float32), 0, 1)
    image = np.broadcast_to(ramp, (1, 32, 32)).copy()
    found = relief(image)[0]
    assert found.min() >= 0
    assert found.max() <= 1
    # In the middle of the ramp: 3/31 a pixel, along x alone.
    assert found[16, 16] == pytest.approx(0.5 + 0.5 * 3 / 31 / math.sqrt(2) / 0.35, abs=0.01)
    assert found[16, 3] == pytest.approx(0.5, abs=1e-3)
    turned = relief(image[:, ::-1, ::-1].copy())[0]
    assert np.allclose(turned[::-1, ::-1], 1 - found, atol=1e-5), "the other flank is behind"


def test_the_relief_of_a_finer_image_is_the_same():
    coarse = discs(1, 32, 5)
    fine = coarse.repeat(2, 1).repeat(2, 2)
    difference = relief(fine)[0].reshape(32, 2, 32, 2).mean((1, 3)) - relief(coarse)[0]
    assert np.abs(difference).max() < 0.06


def test_a_pair_becomes_a_transmission():
    pairs = paired(discs(3, 16, 1))
    assert pairs.shape == (3, 2, 16, 16)
    field = transmission(pairs, RELIEF_RAD)
    assert np.allclose(np.abs(field), pairs[:, 0], atol=1e-6)
    bright = pairs[:, 0] > 0.1
    assert np.allclose(np.angle(field)[bright], RELIEF_RAD * pairs[:, 1][bright], atol=1e-5)


def test_both_channels_come_from_one_latent_and_are_learnt():
    pairs = paired(discs(400, 16, 2))
    architecture = ComplexArchitecture(
        image_size=16, latent_size=8, linear_layers=2, encoder_channels=(8, 8, 16, 16), decoder_channels=(16, 8, 8)
    )
    settings = TrainingSettings(epochs=14, batch=16, learning_rate=6e-3)
    network, record = train_network(pairs, pairs[:50], architecture, settings, source="discs")
    with torch.no_grad():
        drawn = network(torch.from_numpy(pairs[:50])).numpy()
    assert record["history"][-1]["validation_psnr_db"] > record["history"][0]["validation_psnr_db"] + 2
    for channel in (0, 1):
        error = np.square(drawn[:, channel] - pairs[:50, channel]).mean()
        assert error < 0.7 * np.square(pairs[:, channel].mean(0) - pairs[:50, channel]).mean()
    with pytest.raises(
        ValueError, match=r"training images have shape \(400, 16, 16\), the architecture takes \(n, 2, 16"
    ):
        train_network(pairs[:, 0], pairs, architecture, settings, source="discs")


def test_the_command_makes_a_package_that_declares_its_channels(trained, package):
    with safe_open(trained, framework="pt") as handle:
        stored = json.loads(handle.metadata()["architecture"])
    assert (stored["name"], stored["channels"], stored["phase_rad"]) == ("irmae-complex", 2, RELIEF_RAD)
    assert (package.channels, package.phase_rad) == (2, RELIEF_RAD)
    assert "relief" in package.training["source"]
    pairs = torch.from_numpy(paired(discs(4, 16, 9)))
    drawn = package.decode(package.encode(pairs))
    assert drawn.shape == (4, 2, 16, 16)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_whoever_takes_amplitudes_refuses_it_in_one_line(trained):
    with pytest.raises(DecoderError) as caught:
        load_package(str(trained))
    message = str(caught.value)
    assert "\n" not in message
    assert "draws an amplitude and a phase (channels 2)" in message
    assert "takes a decoder that draws an amplitude; installed of those: mnist" in message
    with pytest.raises(DecoderError, match=r"draws an amplitude \(channels 1\).*installed of those: mnist-complex"):
        load_package("mnist", 2)
    with pytest.raises(DecoderError, match="'mnist': draws an amplitude without a phase"):
        _ = load_package("mnist").phase_rad


def test_lists_of_decoders_keep_the_kinds_apart(trained, tmp_path, monkeypatch):
    (tmp_path / "reliefs.safetensors").write_bytes(trained.read_bytes())
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    monkeypatch.setattr(package_module, "PRETRAINED", tmp_path)
    assert installed_packages() == ["broken"]
    assert installed_packages(2) == ["reliefs"]
    assert installed_packages(None) == ["broken", "reliefs"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": 3}, "2 channels"),
        ({"phase_rad": 0}, "up to 2 pi"),
        ({"phase_rad": 7.0}, "up to 2 pi"),
        ({"name": "irmae", "channels": None, "phase_rad": None}, "size mismatch|Error.* in loading"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(trained, tmp_path, changed, message):
    with safe_open(trained, framework="pt") as handle:
        header = dict(handle.metadata())
    stored = {k: v for k, v in (json.loads(header["architecture"]) | changed).items() if v is not None}
    path = tmp_path / "changed.safetensors"
    save_file(load_file(trained), path, header | {"architecture": json.dumps(stored)})
    with pytest.raises(DecoderError, match=message) as caught:
        load_package(str(path), None)
    assert "\n" not in str(caught.value)


def test_its_prior_comes_back_with_a_sketch_of_both_channels(trained, package, tmp_path):
    companion = load_companion(companion_path(trained), package)
    assert isinstance(companion.sketch, Sketch)
    assert (companion.sketch.channels, companion.sketch.samples) == (2, 16)
    assert companion.made["channels"] == 2
    assert companion.made["unseen_phase_rms"] > 0
    assert companion.phase_misfit is not None
    zeta = companion.prior.sample(3, 1)
    images, jacobian = companion.sketch.drawn(zeta)
    assert images.shape == (3, 2, 16, 16)
    assert jacobian.shape == (3, 512, companion.prior.size)
    assert torch.allclose(images, companion.sketch.images(zeta), atol=1e-6)
    shift = 1e-3 * torch.eye(companion.prior.size)[0]
    slope = (companion.sketch.images(zeta + shift) - companion.sketch.images(zeta - shift)).flatten(1) / 2e-3
    assert torch.allclose(jacobian[:, :, 0], slope, atol=1e-3)
    again = tmp_path / "again.prior.safetensors"
    write_companion(again, companion)
    back = load_companion(again, package)
    assert back.phase_misfit is not None
    assert torch.equal(back.phase_misfit.variance, companion.phase_misfit.variance)
    assert torch.equal(back.sketch.images(zeta), companion.sketch.images(zeta))


def test_the_direct_drawer_has_the_jacobian_of_finite_differences(package):
    drawer = DirectDrawer.of(package)
    zeta = 0.3 * torch.ones(2, drawer.size)
    images, jacobian = drawer.drawn(zeta)
    assert torch.equal(images, drawer.images(zeta))
    shift = 1e-2 * torch.eye(drawer.size)[0]
    slope = (drawer.images(zeta + shift) - drawer.images(zeta - shift)).flatten(1) / 2e-2
    assert (jacobian[:, :, 0] - slope).norm() < 0.02 * slope.norm()


def test_without_a_prior_its_misfits_are_even(package):
    companion = plain_companion(package)
    assert companion.plain
    assert companion.phase_misfit is not None
    variance = 10 ** (-package.training["validation_psnr_db"] / 10)
    assert torch.allclose(companion.phase_misfit.of(torch.zeros(1, 4, 4)), torch.full((1, 4, 4), variance))


def test_a_prior_made_later_needs_no_word_of_the_phase(trained, tmp_path):
    path = tmp_path / "later.safetensors"
    path.write_bytes(trained.read_bytes())
    letters = trained.parent / "letters-idx3-ubyte.gz"
    _invoked("--prior", str(path), "--images", str(letters), *OPTIONS[-6:])
    assert load_companion(companion_path(path), load_package(str(path), 2)).made["channels"] == 2
    application = typer.Typer()
    application.command()(train)
    refused = CliRunner().invoke(application, ["--prior", str(path), "--phase"])
    assert isinstance(refused.exception, TrainCommandError)
    assert "--phase is for training a decoder" in str(refused.exception)


def test_architectures_of_any_size():
    assert ComplexArchitecture.of_size(64).decoder_channels == Architecture.of_size(64).decoder_channels
    assert Architecture.of_size(32).channels == 1
