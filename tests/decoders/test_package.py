"""Packages: what is stored comes back, small, with the right statistics; what is not a package is refused."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recon.decoders.images import binary_strokes, load_mnist
from recon.decoders.network import Architecture, Autoencoder
from recon.decoders.package import (
    DecoderError,
    DecoderPackage,
    find_package,
    installed_packages,
    load_package,
    write_package,
)
from recon.decoders.training import psnr_per_image
from tests.decoders.shapes import TINY, discs

RECORD = {"source": "discs", "settings": {"epochs": 0}, "validation_psnr_db": 12.5}
SHIPPED = ("mnist", "mnist-3", "mnist-4", "mnist-64")
STUDY = ("study/mnist-50", "study/mnist-plain")


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return Autoencoder(TINY)


@pytest.fixture(scope="module")
def written(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packages") / "sub" / "discs.safetensors"
    write_package(path, network, discs(200, TINY.image_size, 2), RECORD)
    return path


@pytest.fixture(scope="module")
def package(written) -> DecoderPackage:
    return load_package(str(written))


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems have a umask")
def test_a_package_is_as_readable_as_any_other_file(written, tmp_path):
    other = tmp_path / "other.txt"
    other.touch()
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def _rewrite(written: Path, path: Path, *, tensors=None, metadata=None) -> Path:
    """A copy of a package with tensors or metadata exchanged; None as a value takes the entry out."""
    with safe_open(written, framework="pt") as handle:
        header = dict(handle.metadata())
    content = load_file(written)
    for store, changes in ((content, tensors or {}), (header, metadata or {})):
        for key, value in changes.items():
            if value is None:
                del store[key]
            else:
                store[key] = value
    save_file(content, path, header)
    return path


def _refused(path: Path) -> str:
    with pytest.raises(DecoderError) as caught:
        load_package(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_a_package_draws_and_encodes_as_its_network_does(network, package):
    images = torch.from_numpy(discs(10, TINY.image_size, 3))
    latents = network.encode(images.unsqueeze(1)).detach()
    assert torch.allclose(package.encode(images), latents, rtol=1e-2, atol=1e-2)
    assert torch.allclose(package.decode(latents), network.decoder(latents).squeeze(1), atol=2e-3)
    assert package.encode(images).shape == (10, TINY.latent_size)
    assert package.decode(latents).shape == (10, TINY.image_size, TINY.image_size)


def test_what_is_not_a_tensor_comes_back_too(package, written):
    assert package.name == "discs"
    assert package.architecture == TINY
    assert package.training == RECORD
    assert len(package.sha256) == 64
    assert package.sha256 == load_package(str(written)).sha256
    assert list(written.parent.iterdir()) == [written]  # no temporary left


def test_the_statistics_are_those_of_the_stored_encoder(package):
    latents = package.encode(torch.from_numpy(discs(200, TINY.image_size, 2))).double().numpy()
    covariance = np.cov(latents.T)
    scale = np.abs(covariance).max()
    axes, values = package.latent_eigenvectors.double().numpy(), package.latent_eigenvalues.double().numpy()
    np.testing.assert_allclose(package.latent_mean.numpy(), latents.mean(0), atol=1e-5)
    np.testing.assert_allclose(axes @ np.diag(values) @ axes.T, covariance, atol=1e-5 * scale)
    np.testing.assert_allclose(axes.T @ axes, np.eye(TINY.latent_size), atol=1e-5)
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()


def test_the_singular_values_are_those_of_the_chain(network, package):
    expected = torch.linalg.svdvals(network.folded_linear()).float()
    assert torch.allclose(package.linear_singular_values, expected, atol=1e-5)


def test_the_effective_rank_counts_variances(package):
    values = package.latent_eigenvalues
    assert package.effective_rank(0.0) == int((values > 0).sum())
    assert package.effective_rank(1.0) == 0
    assert package.effective_rank(float(values[2] / values[0]) * 0.999) == 3


def test_a_loaded_network_asks_for_no_gradient_but_passes_it_on(package):
    assert not any(p.requires_grad for m in (package.encoder, package.decoder) for p in m.parameters())
    latent = package.latent_mean.clone().requires_grad_()
    package.decode(latent[None]).sum().backward()
    assert latent.grad is not None
    assert latent.grad.abs().sum() > 0


def test_loading_leaves_the_random_state_alone(written):
    before = torch.random.get_rng_state()
    load_package(str(written))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_copy_on_a_device_is_a_copy(package):
    copy = package.to("cpu")
    assert copy.sha256 == package.sha256
    assert copy.decoder is not package.decoder
    latent = package.latent_mean[None]
    assert torch.equal(copy.decode(latent), package.decode(latent))


def test_the_reference_architecture_fits_in_five_megabytes(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Autoencoder(Architecture())
    path = tmp_path / "full.safetensors"
    write_package(path, network, discs(150, 32, 4), {})
    assert path.stat().st_size <= 5_000_000
    stored = {k: v.dtype for k, v in load_file(path).items() if k.startswith(("encoder.", "decoder."))}
    assert set(stored.values()) == {torch.float16}


def test_a_missing_decoder_names_those_that_exist(tmp_path):
    message = _refused(tmp_path / "no-such.safetensors")
    assert "not found" in message
    assert "mnist" in message
    with pytest.raises(DecoderError, match="'letters' not found"):
        find_package("letters")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000], ids=lambda n: f"{n} bytes")
def test_a_truncated_file_is_refused(written, tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(written.read_bytes()[:keep])
    assert "not a readable safetensors file" in _refused(path)


def test_a_foreign_file_is_refused_and_a_pickle_is_never_run(tmp_path):
    victim = tmp_path / "victim"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (victim,))

    path = tmp_path / "trap.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    _refused(path)
    torch.save({"weights": torch.zeros(2)}, path)
    _refused(path)
    assert not victim.exists()


def test_another_programs_safetensors_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "format is None" in _refused(path)


@pytest.mark.parametrize(
    ("tensors", "metadata", "expected"),
    [
        ({"latent.mean": None}, {}, "'latent.mean' is missing"),
        ({"latent.mean": torch.zeros(7)}, {}, r"latent.mean has shape (7,)"),
        ({"latent.eigenvalues": torch.full((12,), torch.nan)}, {}, "not finite"),
        ({"encoder.to_latent.bias": None}, {}, "to_latent.bias"),
        ({"decoder.from_latent.bias": torch.zeros(3)}, {}, "size mismatch"),
        ({}, {"architecture": None}, "'architecture' is missing"),
        ({}, {"architecture": "{"}, "inconsistent"),
        ({}, {"architecture": "[]"}, "inconsistent"),
        ({}, {"architecture": json.dumps({"name": "vae"})}, "unknown decoder architecture 'vae'"),
        ({}, {"architecture": json.dumps({"image_size": 160_000})}, "size mismatch"),
        ({}, {"architecture": json.dumps({"colour": 3})}, "colour"),
        ({}, {"training": None}, "'training' is missing"),
        ({}, {"format": "ptychoscope-decoder-9"}, "ptychoscope-decoder-9"),
    ],
)
def test_an_inconsistent_package_is_refused(written, tmp_path, tensors, metadata, expected):
    path = _rewrite(written, tmp_path / "odd.safetensors", tensors=tensors, metadata=metadata)
    assert expected in _refused(path)


def test_the_shipped_packages_are_the_expected_ones():
    assert tuple(installed_packages()) == SHIPPED
    assert all(find_package(name).is_file() for name in STUDY)


@pytest.mark.parametrize(
    ("name", "architecture", "ranks"),
    [
        ("mnist", Architecture(), (20, 40)),
        ("mnist-3", Architecture(), (9, 20)),
        ("mnist-4", Architecture(), (7, 20)),
        ("mnist-64", Architecture.of_size(64), (50, 80)),
        ("study/mnist-50", Architecture(), (30, 50)),
        ("study/mnist-plain", Architecture(linear_layers=0), (80, 100)),
    ],
)
def test_a_shipped_package_loads_and_has_its_rank(name, architecture, ranks):
    package = load_package(name)
    assert find_package(name).stat().st_size <= 6_000_000
    assert package.architecture == architecture
    assert "MNIST train set" in package.training["source"]
    assert ranks[0] <= package.effective_rank() <= ranks[1]
    drawn = package.decode(package.latent_mean[None])
    assert drawn.shape == (1, architecture.image_size, architecture.image_size)
    assert 0 <= drawn.min() < 0.05 < 0.3 < drawn.max() <= 1


@pytest.mark.parametrize(
    ("name", "only", "least_db"), [("mnist", None, 25.0), ("mnist-3", 3, 22.0), ("mnist-4", 4, 21.0)]
)
def test_a_shipped_package_represents_digits_it_never_saw(name, only, least_db, shared_data, monkeypatch):
    monkeypatch.setenv("PTYCHOSCOPE_DATA", str(shared_data))
    package = load_package(name)
    digits = load_mnist("test")
    images = torch.from_numpy((digits if only is None else digits.only(only)).images)
    with torch.no_grad():
        values = [psnr_per_image(package.decode(package.encode(part)), part) for part in images.split(500)]
    psnr = float(torch.cat(values).mean())
    assert len(images) == {None: 10_000, 3: 1010, 4: 982}[only]
    assert psnr >= least_db
    assert psnr == pytest.approx(package.training["validation_psnr_db"], abs=0.05)  # half precision costs nothing


@pytest.mark.parametrize(("name", "binary", "least_db"), [("mnist-64", True, 29.0), ("study/mnist-plain", False, 31.5)])
def test_the_other_packages_represent_digits_they_never_saw(name, binary, least_db, shared_data, monkeypatch):
    monkeypatch.setenv("PTYCHOSCOPE_DATA", str(shared_data))
    package = load_package(name)
    digits = load_mnist("test").images[:1000]
    images = torch.from_numpy(binary_strokes(digits, package.architecture.image_size) if binary else digits)
    with torch.no_grad():
        psnr = float(psnr_per_image(package.decode(package.encode(images)), images).mean())
    assert psnr >= least_db
    assert psnr == pytest.approx(package.training["validation_psnr_db"], abs=0.7)  # a tenth of the validation set
