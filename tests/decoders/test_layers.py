"""Decoders of one's own: a module goes into a package and comes back; nothing that is not in the list does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from recon.decoders.architecture import architecture_of, register
from recon.decoders.companion import plain_companion
from recon.decoders.layers import KINDS, Layers
from recon.decoders.ownmodule import described, write_layers
from recon.decoders.package import DecoderError, load_package

ROOT = Path(__file__).resolve().parents[2]
RECORD = {"source": "rings", "validation_psnr_db": 21.0}


def _convolutional() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(4, 32),
            nn.GELU(),
            nn.Unflatten(1, (2, 4, 4)),
            nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False),
            nn.ConvTranspose2d(2, 4, 4, 2, 1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1),
            nn.Conv2d(4, 1, 3, 1, 1),
            nn.Sigmoid(),
        ).eval()


def _dense() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(4, 48), nn.Tanh(), nn.Linear(48, 256), nn.Sigmoid())


@pytest.mark.parametrize("module", [_convolutional(), _dense()], ids=["convolutional", "dense"])
def test_a_module_comes_back_as_it_went_in(tmp_path, module):
    path = tmp_path / "own.safetensors"
    write_layers(path, module, 16, torch.full((4,), 0.5), torch.diag(torch.tensor([1.0, 4.0, 2.0, 1e-5])),
                 training=RECORD)  # fmt: skip
    package = load_package(str(path))
    latents = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(package.decode(latents), module(latents).view(3, 16, 16), atol=1e-6)
    assert package.latent_eigenvalues.tolist() == pytest.approx([4.0, 2.0, 1.0, 1e-5])
    assert package.effective_rank() == 3
    assert package.training == RECORD
    assert package.architecture.name == "layers"
    companion = plain_companion(package)
    images, jacobian = companion.sketch.drawn(torch.zeros(1, 3))
    assert images.shape == (1, 16, 16)
    assert jacobian.shape == (1, 256, 3)
    assert jacobian.abs().max() > 0
    with pytest.raises(DecoderError, match="'own': holds no encoder"):
        package.encode(torch.zeros(1, 16, 16))


def test_an_encoder_goes_with_it(tmp_path):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    path = tmp_path / "own.safetensors"
    package = write_layers(path, _dense(), 16, torch.zeros(4), torch.eye(4), encoder=encoder)
    images = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(package.encode(images), encoder(images[:, None]))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(4, 256)), "last layer is 'linear', images in 0..1 need 'sigmoid'"),
        (nn.Sequential(nn.Linear(4, 256, bias=False), nn.Sigmoid()), "settings that a package cannot hold"),
        (nn.Sequential(nn.Linear(4, 255), nn.Sigmoid()), "inconsistent decoder package"),
        (nn.Sequential(nn.Linear(4, 256), nn.Dropout(), nn.Sigmoid()), "Dropout is not in the list"),
        (nn.Sequential(nn.Linear(4, 256), nn.Sequential(nn.ReLU()), nn.Sigmoid()), "Sequential is not in the list"),
    ],
)
def test_what_a_package_cannot_hold_is_refused(tmp_path, module, message):
    with pytest.raises((DecoderError, ValueError), match=re.escape(message)):
        write_layers(tmp_path / "own.safetensors", module, 16, torch.zeros(4), torch.eye(4))


def test_every_kind_describes_what_it_makes():
    numbers = {"conv": (2, 3, 3, 1, 1), "conv_transpose": (2, 3, 4, 2, 1), "unflatten": (2, 4, 4), "upsample": (2.0,),
               "linear": (3, 5), "batch_norm": (4,), "leaky_relu": (0.2,), "elu": (1.0,)}  # fmt: skip
    layers = tuple((kind, numbers.get(kind, ())) for kind in KINDS)
    assert described(nn.Sequential(*(KINDS[kind][1](*given) for kind, given in layers))) == layers


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([["eval", [1]], ["sigmoid", []]], "layer 'eval' is not known"),
        ([["linear", [4]], ["sigmoid", []]], "layer 'linear' takes 2 numbers"),
        ([["linear", [4, "__import__"]], ["sigmoid", []]], "takes 2 numbers"),
        ([["linear", [999999, 999999]], ["sigmoid", []]], "weights, at most"),
        ([["relu", []]] * 70 + [["sigmoid", []]], "71 layers; from 1 to 64"),
        ([], "0 layers"),
    ],
)
def test_a_file_asks_for_nothing_but_the_list(tmp_path, layers, message):
    path = tmp_path / "own.safetensors"
    write_layers(path, _dense(), 16, torch.zeros(4), torch.eye(4))
    with safe_open(path, framework="pt") as handle:
        tensors, metadata = {key: handle.get_tensor(key) for key in handle.keys()}, handle.metadata()  # noqa: SIM118
    metadata["architecture"] = json.dumps(json.loads(metadata["architecture"]) | {"decoder": layers})
    save_file(tensors, path, metadata)
    with pytest.raises(DecoderError, match=re.escape(message)) as caught:
        load_package(str(path))
    assert "\n" not in str(caught.value)


def test_sizes_have_limits():
    with pytest.raises(ValueError, match="at most 1024 and 4096"):
        Layers(4096, 4, (("sigmoid", ()),))


def test_names_are_registered_once_and_only_known_ones_are_made():
    with pytest.raises(ValueError, match="'layers' is registered already"):
        register("layers", Layers.from_dict)
    with pytest.raises(ValueError, match=r"os\.system.; known: irmae, irmae-complex, layers"):
        architecture_of({"name": "os.system"})


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "decoders.md").read_text(encoding="utf-8")
    [block] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "write_layers" in b]
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        names: dict[str, object] = {}
        exec(compile(block, "docs/decoders.md", "exec"), names)
    package = load_package(str(tmp_path / "rings.safetensors"))
    assert package.training["validation_psnr_db"] > 20
    assert package.effective_rank() >= 2
    assert 0.2 < float(package.decode(package.latent_mean[None]).max()) <= 1
