"""Where torch works."""

from __future__ import annotations

import torch


class DeviceError(Exception):
    """A torch device is unknown or not there; the message names it and the remedy."""


def pick_device(name: str) -> str:
    """The device for "auto" (the GPU when there is one), "cpu", "cuda:0" and so on.

    Raises:
        DeviceError: an unknown name, or a GPU where torch finds none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DeviceError(f"device {name!r} is not usable here ({reason}); use auto or cpu") from None
    return name
