"""Where torch works."""

from __future__ import annotations

import ctypes

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""mallopt's names for what it sets (malloc.h)."""


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
        if reason.startswith("Expected one of"):
            # Torch lists thirty kinds.
            reason = "not known"
        raise DeviceError(f"device {name!r} is not usable here ({reason}); use auto or cpu") from None
    return name


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for the next array; true where that is possible.

    Without it every array beyond some hundred kilobytes is fresh memory from the kernel, and half of a calibration's
    time on a CPU is page faults. It concerns the whole process, so programs call it, the library does not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, largest))
