"""Where torch works."""

from __future__ import annotations

import torch

from recon.dataset import DatasetError


def pick_device(name: str) -> str:
    """The device for "auto" (the GPU when there is one), "cpu" or "cuda[:k]".

    Raises:
        DatasetError: an unknown name, or a GPU where torch finds none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not name.startswith("cuda"):
        raise DatasetError(f"device {name!r}: known are auto, cpu, cuda and cuda:0 and so on")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DatasetError(f"device {name!r}: torch finds no GPU here; use --device cpu")
    return name
