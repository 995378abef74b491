"""The network's shapes, its range, its initial rank, and the folding of the linear chain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recon.decoders.network import Architecture, Autoencoder
from tests.decoders.shapes import TINY, discs


def _seeded(architecture: Architecture) -> Autoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Autoencoder(architecture)


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        Architecture(),
        Architecture(image_size=48, latent_size=5, linear_layers=0),
        Architecture.of_size(64, latent_size=6, linear_layers=1),
    ],
    ids=["tiny", "paper", "plain 48", "fine"],
)
def test_shapes_and_range(architecture):
    network = _seeded(architecture)
    size = architecture.image_size
    images = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    latents = network.encode(images)
    drawn = network.decoder(latents)
    assert latents.shape == (3, architecture.latent_size)
    assert drawn.shape == (3, 1, size, size)
    assert 0 <= drawn.min() < drawn.max() <= 1
    assert torch.equal(drawn, network(images))
    assert torch.allclose(torch.sigmoid(network.logits(images)), drawn)


def test_the_reference_network_is_the_papers():
    network = Autoencoder(Architecture())
    convolutions = [m for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [32, 64, 128, 256]
    assert all(m.kernel_size == (4, 4) and m.stride == (2, 2) for m in convolutions)
    assert len(network.linear) == 8
    assert all(isinstance(m, nn.Linear) and m.bias is None and m.weight.shape == (128, 128) for m in network.linear)


@pytest.mark.parametrize(
    ("size", "channels"),
    [
        (16, (128, 64, 32)),
        (32, (128, 64, 32)),
        (48, (128, 64, 32)),
        (64, (128, 128, 64, 32)),
        (128, (128,) * 3 + (64, 32)),
    ],
)
def test_larger_images_are_drawn_from_the_same_eight_pixels(size, channels):
    assert Architecture.of_size(size).decoder_channels == channels
    if size in (32, 64, 128):
        assert Autoencoder(Architecture.of_size(size, latent_size=2, linear_layers=0)).decoder.side == 8


def test_the_chain_starts_orthogonal_so_that_no_direction_is_lost():
    singular = torch.linalg.svdvals(_seeded(Architecture()).folded_linear())
    assert torch.allclose(singular, torch.ones_like(singular), atol=1e-4)


def test_a_glorot_start_favours_few_directions():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Autoencoder(Architecture(), "glorot")
    singular = torch.linalg.svdvals(network.folded_linear())
    # Eight square layers of 128: no collapse to one direction, but far fewer than 128 of any size.
    assert 5 < int((singular > 0.1 * singular[0]).sum()) < 40
    assert 1 < float(singular[0]) < 100
    with pytest.raises(ValueError, match="linear_start 'he': known are orthogonal, glorot"):
        Autoencoder(TINY, "he")


def test_the_folded_encoder_equals_encoder_and_chain():
    network = _seeded(TINY)
    for layer in network.linear:  # away from orthogonal, as after training
        assert isinstance(layer, nn.Linear)
        nn.init.uniform_(layer.weight, -0.6, 0.6, generator=torch.Generator().manual_seed(9))
    images = torch.from_numpy(discs(20, TINY.image_size, 1)).unsqueeze(1)
    before = [parameter.clone() for parameter in network.parameters()]
    folded = network.folded_encoder()(images)
    chained = network.encode(images)
    assert torch.allclose(folded, chained, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(folded, network.encoder(images), atol=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_without_a_chain_the_fold_is_the_identity():
    network = _seeded(Architecture(image_size=16, latent_size=6, linear_layers=0))
    assert torch.equal(network.folded_linear(), torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": 28}, "multiple of 16, got 28"),
        ({"image_size": 0}, "multiple of 16, got 0"),
        ({"latent_size": 0}, "latent_size must be at least 1"),
        ({"linear_layers": -1}, "linear_layers at least 0"),
        ({"decoder_channels": (8,)}, "must be positive and name at least two"),
        ({"image_size": 16, "decoder_channels": (8,) * 7}, "divisible by 2 once for each"),
        ({"decoder_channels": (8, 0)}, "must be positive"),
        ({"name": "transformer"}, "unknown decoder architecture 'transformer'"),
    ],
)
def test_an_impossible_architecture_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**wrong)
