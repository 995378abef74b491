"""Small files as other programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def cxi(path: Path, **changes: Any) -> Path:
    """A small foreign CXI file."""
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        for name, value in {
            "data": np.arange(3 * 4 * 5).reshape(3, 4, 5),
            "mask": np.eye(4, 5, dtype=np.uint32),
            "distance": 1.5,
            "x_pixel_size": 5e-5,
            "y_pixel_size": 5e-5,
        }.items():
            detector[name] = changes.get(name, value)
        file["entry_1/instrument_1/source_1/energy"] = 2e-15
        file["entry_1/sample_1/geometry_1/translation"] = changes.get("translation", np.arange(9.0).reshape(3, 3))
    return path


def far_field_npz(path: Path, **arrays: Any) -> Path:
    """As tike writes them: views in front, zero frequency in the corner, positions in pixels of the object."""
    rng = np.random.default_rng(0)
    given = {
        "data": rng.poisson(50, (1, 5, 6, 6)).astype(np.float32),
        "scan": rng.normal(0, 9, (1, 5, 2)),
        "probe": np.ones((1, 1, 1, 2, 6, 6), np.complex64),
    }
    np.savez(path, **(given | arrays))
    return path
