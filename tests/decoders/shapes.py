"""Self-made training images and tiny networks for the tests of this folder."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.decoders.network import Architecture
from recon.decoders.training import TrainingSettings

TINY = Architecture(
    image_size=16, latent_size=12, linear_layers=3, encoder_channels=(4, 8, 8, 16), decoder_channels=(8, 8, 4)
)
FAST = TrainingSettings(epochs=4, batch=32, learning_rate=5e-3, seed=3)


def discs(count: int, size: int, seed: int) -> NDArray[np.float32]:
    """Discs of random place and radius with soft edges, (count, size, size) in 0..1: a class of three parameters."""
    rng = np.random.default_rng([seed, count])
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.uniform(size * 0.35, size * 0.65, (2, count, 1, 1))
    radius = rng.uniform(size * 0.12, size * 0.3, (count, 1, 1))
    return np.clip(radius - np.hypot(y - cy, x - cx) + 0.5, 0, 1).astype(np.float32)


def idx_bytes(array: NDArray) -> bytes:
    """The array as an IDX file."""
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    header = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path: Path, array: NDArray) -> Path:
    """The array as an IDX file at `path`, gzipped when it ends in .gz."""
    raw = idx_bytes(array)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path
