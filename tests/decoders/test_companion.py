"""Companions: what is stored comes back, belongs to one decoder, and is refused in one line when it is not whole."""

from __future__ import annotations

import json
import math
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recon.decoders import package as package_module
from recon.decoders.companion import (
    Companion,
    CompanionSettings,
    companion_path,
    load_companion,
    make_companion,
    measured_unseen,
    plain_companion,
    whitened_latents,
    write_companion,
)
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import (
    COMPANION_SUFFIX,
    DecoderError,
    DecoderPackage,
    find_package,
    installed_packages,
    load_package,
)
from recon.decoders.sketch import Sketch, SketchSettings
from recon.decoders.whitening import Whitening
from recon.scene import Scene
from tests.decoders.shapes import TINY, discs
from tests.decoders.toys import toy_package

SMALL = CompanionSettings(components=2, sketch=SketchSettings(width=12, pairs=300, epochs=2, batch=64))


def _images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs, and whether they lie in the upper half."""
    images = torch.from_numpy(discs(count, TINY.image_size, seed))
    half = TINY.image_size // 2
    return images, (images[:, :half].sum((1, 2)) > images[:, half:].sum((1, 2))).long()


@pytest.fixture(scope="module")
def companion(toy) -> Companion:
    return make_companion(toy, *_images(400, 2), "discs", settings=SMALL, unseen=_images(60, 4))


@pytest.fixture(scope="module")
def stored(companion, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("companions") / "toy.prior.safetensors"
    write_companion(path, companion)
    return path


def _rewrite(stored: Path, path: Path, *, tensors=None, metadata=None) -> Path:
    """A copy with tensors or metadata exchanged; None as a value takes the entry out."""
    with safe_open(stored, framework="pt") as handle:
        header = dict(handle.metadata())
    content = load_file(stored)
    for store, changes in ((content, tensors or {}), (header, metadata or {})):
        for key, value in changes.items():
            if value is None:
                del store[key]
            else:
                store[key] = value
    save_file(content, path, header)
    return path


def _refused(path: Path, package: DecoderPackage) -> str:
    with pytest.raises(DecoderError) as caught:
        load_companion(path, package)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_whitened_latents_are_white_and_go_back(toy):
    images, _ = _images(400, 2)
    zeta = whitened_latents(toy, images)
    size = Whitening.of(toy).size
    assert 2 <= size <= TINY.latent_size
    assert torch.allclose(zeta.mean(0), torch.zeros(size), atol=1e-3)
    assert torch.allclose(torch.cov(zeta.T), torch.eye(size), atol=1e-2)
    whitening = Whitening.of(toy)
    assert torch.allclose(whitening.whitened(whitening.latents(zeta)), zeta, atol=1e-4)


def test_the_record_says_what_unseen_images_say(companion, toy):
    images, labels = _images(60, 4)
    zeta = whitened_latents(toy, images)
    made = companion.made
    assert made["source"] == "discs"
    assert made["images"] == 400
    assert made["components"] == len(companion.prior.weights) == 4
    assert made["unseen_nats"] == pytest.approx(float(companion.prior.log_density(zeta).mean()), abs=1e-4)
    right = torch.tensor(companion.prior.classes)[companion.prior.classified(zeta).argmax(1)] == labels
    assert made["unseen_accuracy"] == pytest.approx(float(right.float().mean()))
    assert made["sketch_db"] == companion.sketch.fidelity_db
    drawn = toy.decode(Whitening.of(toy).latents(zeta[:6]))
    z = ((images[:6] - drawn).square() / companion.misfit.of(drawn)).mean().sqrt()
    assert made["unseen_misfit_z"] == pytest.approx(float(z), rel=1e-4)


def test_where_there_is_one_class_none_is_told_apart(companion, toy):
    images, labels = _images(60, 4)
    assert measured_unseen(toy, companion, images, torch.zeros_like(labels)).accuracy is None
    made = make_companion(toy, images, torch.zeros_like(labels), "discs", settings=SMALL, unseen=(images, labels)).made
    assert made["unseen_accuracy"] is None
    assert math.isfinite(made["unseen_nats"])


def test_what_is_stored_comes_back(companion, stored, toy):
    loaded = load_companion(stored, toy)
    assert torch.equal(loaded.prior.means, companion.prior.means)
    assert torch.equal(loaded.prior.factors, companion.prior.factors)
    assert torch.equal(loaded.prior.labels, companion.prior.labels)
    assert torch.equal(loaded.misfit.variance, companion.misfit.variance)
    assert torch.equal(loaded.scatter.drawn, companion.scatter.drawn)
    assert torch.equal(loaded.scatter.nearest, companion.scatter.nearest)
    # Of the unseen images but for the tenth that checks.
    assert len(loaded.scatter.drawn) == 54
    assert isinstance(loaded.sketch, Sketch)
    zeta = companion.prior.sample(5, 0)
    assert torch.equal(loaded.sketch.images(zeta), companion.sketch.images(zeta))
    assert loaded.made == companion.made
    assert not loaded.plain
    assert json.loads(json.dumps(loaded.described()))["decoder_sha256"] == toy.sha256
    assert [p.name for p in stored.parent.iterdir()] == [stored.name]


def test_progress_names_each_piece_and_ends_each(toy):
    told = []
    make_companion(toy, *_images(100, 2), "discs", settings=SMALL, report=lambda *a: told.append(a))
    pieces = list(dict.fromkeys(entry[0] for entry in told))
    assert pieces == ["latents", "prior", "nearest", "pairs", "sketch"]
    for piece in pieces:
        _, done, total, _ = [entry for entry in told if entry[0] == piece][-1]
        assert done == total


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_makes_the_same_prior(toy, companion):
    made = make_companion(toy.to("cuda"), *_images(400, 2), "discs", settings=SMALL, unseen=_images(60, 4))
    assert made.prior.means.device.type == "cpu"
    assert torch.allclose(made.prior.means, companion.prior.means, atol=0.05)
    assert torch.allclose(made.misfit.variance, companion.misfit.variance, rtol=1e-2)
    assert made.sketch.fidelity_db == pytest.approx(companion.sketch.fidelity_db, abs=0.5)
    zeta = made.prior.sample(3, 0)
    images, jacobian = plain_companion(toy).to("cuda").sketch.drawn(zeta.to("cuda"))
    assert torch.allclose(images.cpu(), plain_companion(toy).sketch.images(zeta), atol=1e-4)
    assert jacobian.device.type == "cuda"


def test_images_that_do_not_fit_are_refused(toy):
    images, labels = _images(10, 2)
    for wrong in ((images[:, :8], labels), (images, labels[:5]), (images[:1], labels[:1])):
        with pytest.raises(DecoderError, match=r"needed are at least 2 images of 16 x 16 pixels"):
            make_companion(toy, *wrong, "discs", settings=SMALL)
    with pytest.raises(DecoderError, match="1 unseen images are too few"):
        make_companion(toy, images, labels, "discs", settings=SMALL, unseen=_images(1, 4))


def test_a_missing_companion_names_the_remedy(toy, tmp_path):
    absent = tmp_path / "toy.prior.safetensors"
    assert f"has no prior; make it with `ptychoscope train --prior {tmp_path / 'toy.safetensors'}`" in _refused(
        absent, toy
    )
    shipped = companion_path(find_package("mnist")).with_name("mnist-9.prior.safetensors")
    assert "`ptychoscope train --prior toy`" in _refused(shipped, toy)


def test_another_decoders_companion_is_refused(stored, tmp_path):
    other = toy_package(tmp_path / "other.safetensors", seed=12)
    assert "belongs to another decoder than 'other'" in _refused(stored, other)


def test_a_truncated_or_foreign_file_is_refused(stored, tmp_path, toy):
    short = tmp_path / "short.prior.safetensors"
    short.write_bytes(stored.read_bytes()[:-100])
    assert "not a readable prior" in _refused(short, toy)
    short.write_bytes(b"")
    assert "not a readable prior" in _refused(short, toy)
    foreign = tmp_path / "foreign.prior.safetensors"
    save_file({"x": torch.zeros(3)}, foreign)
    assert "format is None" in _refused(foreign, toy)


@pytest.mark.parametrize(
    ("tensors", "metadata", "expected"),
    [
        ({"prior.means": None}, {}, "'prior.means' is missing"),
        ({"prior.labels": None}, {}, "'prior.labels' is missing"),
        ({"misfit.variance": None}, {}, "'misfit.variance' is missing"),
        ({"sketch.weight.0": None}, {}, "'sketch.weight.0' is missing"),
        ({"sketch.weight.2": None}, {}, "squares, not 12"),
        ({"sketch.bias.1": None}, {}, "'sketch.bias.1' is missing"),
        ({"prior.means": torch.full((4, 3), math.nan)}, {}, "not finite"),
        ({"prior.means": torch.zeros(4)}, {}, "do not fit"),
        ({"prior.weights": torch.zeros(4)}, {}, "not positive"),
        ({"prior.labels": torch.zeros(4)}, {}, "do not fit"),
        ({"misfit.variance": torch.ones(2, 2)}, {}, "(2, 2) is not 12 x 8"),
        ({"misfit.variance": -torch.ones(12, 8)}, {}, "positive numbers"),
        ({"misfit.scatter": None}, {}, "'misfit.scatter' is missing"),
        ({"misfit.scatter": torch.ones(3, 4)}, {}, "(3, 4) is not two rows"),
        ({"misfit.scatter": torch.zeros(2, 4)}, {}, "not two rows of positive"),
        ({}, {"decoder_sha256": None}, "'decoder_sha256' is missing"),
        ({}, {"made": None}, "'made' is missing"),
        ({}, {"made": "{"}, "not a readable prior"),
        ({}, {"made": "[]"}, "not a readable prior"),
        ({}, {"made": "{}"}, "'sketch_db' is missing"),
        ({}, {"format": "ptychoscope-prior-1"}, "make it anew with `ptychoscope train --prior`"),
    ],
)
def test_an_inconsistent_companion_is_refused(stored, tmp_path, toy, tensors, metadata, expected):
    path = _rewrite(stored, tmp_path / "odd.prior.safetensors", tensors=tensors, metadata=metadata)
    assert expected in _refused(path, toy)


def test_dimensions_must_be_the_decoders(stored, tmp_path, toy):
    first = load_file(stored)["sketch.weight.0"]
    path = _rewrite(stored, tmp_path / "odd.prior.safetensors", tensors={"sketch.weight.0": first[:, 1:].contiguous()})
    assert f"the decoder has {Whitening.of(toy).size} free axes" in _refused(path, toy)
    last = {
        "sketch.weight.2": torch.zeros(64, 12, dtype=torch.float16),
        "sketch.bias.2": torch.zeros(64, dtype=torch.float16),
    }
    path = _rewrite(stored, tmp_path / "odd.prior.safetensors", tensors=last)
    assert "draws 8 pixels a side, the decoder 16" in _refused(path, toy)


def test_without_a_companion_the_plain_one_serves_a_scene(toy):
    plain = plain_companion(toy)
    assert plain.plain
    assert plain.described()["plain"] is True
    assert float(plain.misfit.of(torch.rand(1, 4, 4)).mean()) == pytest.approx(0.01)
    assert plain.scatter.drawn.tolist() == plain.scatter.nearest.tolist() == [1.0]
    scene = Scene(plain.sketch, plain.prior)
    theta = scene.sample(2, 0)
    images, jacobian = scene.drawn(theta)
    assert images.shape == (2, 16, 16)
    assert jacobian.shape == (2, 256, Whitening.of(toy).size)
    assert torch.allclose(images, toy.decode(Whitening.of(toy).latents(theta)))
    with pytest.raises(ValueError, match="not stored"):
        write_companion(Path("never"), plain)


def test_without_a_psnr_there_is_no_plain_companion(toy, tmp_path):
    bare = toy_package(tmp_path / "bare.safetensors")
    bare.training.pop("validation_psnr_db")
    with pytest.raises(DecoderError, match="no PSNR of unseen images"):
        plain_companion(bare)


def test_a_companion_is_no_decoder(tmp_path, monkeypatch):
    for name in ("a.safetensors", "a.prior.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setattr(package_module, "PRETRAINED", tmp_path)
    assert installed_packages() == ["a", "b"]
    assert companion_path(tmp_path / "a.safetensors") == tmp_path / "a.prior.safetensors"


def test_what_ships_with_the_program_includes_priors():
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["recon.decoders"]
    assert any(fnmatch("pretrained/mnist" + COMPANION_SUFFIX, pattern) for pattern in patterns)


@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("mnist-3", 1), ("mnist-4", 1), ("mnist-64", 10)])
def test_a_shipped_prior_belongs_to_its_decoder(name, classes):
    path = companion_path(find_package(name))
    if not path.is_file():
        pytest.skip(f"{path.name} is not made yet: python -m benchmarks.make_priors")
    package = load_package(name)
    companion = load_companion(path, package)
    assert len(companion.prior.classes) == classes
    assert companion.made["source"] == package.training["source"]
    accuracy = companion.made["unseen_accuracy"]
    assert accuracy is None if classes == 1 else accuracy > 0.95
    assert 0.5 < companion.made["unseen_misfit_z"] < 1.5
    zeta = companion.prior.sample(200, 77)
    with torch.no_grad():
        error = (companion.sketch.images(zeta) - DirectDrawer.of(package).images(zeta)).square().mean()
    # Draws of the prior itself lie nearer than the wider ones that the fidelity was measured with.
    assert -10 * math.log10(float(error)) > companion.sketch.fidelity_db - 1


def test_larger_images_take_a_larger_sketch():
    small, large = CompanionSettings.of_size(32).sketch, CompanionSettings.of_size(64, epochs=3).sketch
    assert large.width * large.depth > small.width * small.depth
    assert large.epochs == 3
    assert CompanionSettings.of_size(32, pairs=50).sketch.pairs == 50
