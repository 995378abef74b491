"""A decoder with its statistics, made without training, and mixtures to compare with."""

from __future__ import annotations

from pathlib import Path

import torch

from recon.decoders.mixture import Mixture
from recon.decoders.network import Autoencoder
from recon.decoders.package import DecoderPackage, load_package, write_package
from tests.decoders.shapes import TINY, discs

RECORD = {"source": "discs", "validation_psnr_db": 20.0}


def toy_package(path: Path, seed: int = 11) -> DecoderPackage:
    """An untrained network of `TINY`'s shape, stored at `path` and loaded; what it draws is smooth nonsense."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Autoencoder(TINY)
    write_package(path, network, discs(400, TINY.image_size, 2), RECORD)
    return load_package(str(path))


def toy_mixture(size: int = 4, count: int = 3, seed: int = 5) -> Mixture:
    """`count` correlated normals, the first two of class 0."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(count, size, size, generator=generator).tril() * 0.3
    factors.diagonal(dim1=1, dim2=2).copy_(0.4 + torch.rand(count, size, generator=generator))
    weights = torch.rand(count, generator=generator) + 0.3
    labels = (torch.arange(count) >= 2).long() * 7
    means = 3 * torch.randn(count, size, generator=generator)
    return Mixture(weights / weights.sum(), means, factors, labels)
