"""What numpy raises over files that are none of its own, and what people are told of it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from numpy.lib.npyio import NpzFile

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""Of `numpy.load`, and of taking an array out of an archive."""


def why_unreadable(error: BaseException) -> str:
    """A few words for the line that names the file."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    if "pickled" in text:
        # What numpy says of anything that it does not know, with advice that nobody should take.
        return "it holds no plain arrays of numpy"
    if "No data left" in text:
        return "it is empty"
    return text or type(error).__name__


@contextmanager
def opened_archive(file: IO[bytes]) -> Iterator[NpzFile]:
    """The arrays of an npz file that is open. Raises one of `UNREADABLE`, for a single array in a file too."""
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, NpzFile):
        raise ValueError("it is a single array, not an archive of some")
    with archive:
        yield archive
