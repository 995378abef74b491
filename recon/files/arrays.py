"""What numpy raises over files that are none of its own, and what people are told of it."""

from __future__ import annotations

import zipfile
import zlib

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
