"""Whether a command's files can be written, asked before anything is measured for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import UsageError


def require_writable(command: str, path: Path, suffixes: Sequence[str], new: bool = True) -> None:
    """Raise `UsageError` unless a file can be written there; no folder is made.

    Args:
        command: whose file it is, for the message.
        path: the file to be.
        suffixes: endings that it may have; none: any.
        new: whether it must not exist yet; else it must be a file that can be replaced.
    """
    if suffixes and path.suffix not in suffixes:
        raise UsageError(f"{command}: {path} must end in {' or '.join(suffixes)}; choose another name")
    if path.is_dir():
        raise UsageError(f"{command}: {path} is a folder; give the name of a file")
    if new and path.exists():
        raise UsageError(f"{command}: {path} exists already; choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"{command}: the folder {path.parent} of {path.name} does not exist; create it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{command}: the folder {path.parent} of {path.name} is not writable; choose another")


def require_file(command: str, path: Path) -> None:
    """`require_writable` for a file of any ending that may exist already."""
    require_writable(command, path, (), new=False)
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{command}: {path} is not writable; choose another name")


def require_folder(command: str, folder: Path) -> None:
    """Raise `UsageError` unless files can be written into a folder, or one can be made there; none is made yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"{command}: {there} is a file, not a folder; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{command}: the folder {there} is not writable; choose another --out")


def frame_file(path: Path, image: NDArray[np.uint16]) -> None:
    """Write a (rows, columns) raw frame: .npy, or .tiff and .png with 16 bits.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix in (".tif", ".tiff", ".png"):
        Image.fromarray(image).save(path)
    else:
        raise ValueError(f"ending {path.suffix or 'missing'}; a frame is saved as .tiff, .png or .npy")
