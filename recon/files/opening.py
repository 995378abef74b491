"""Opening a run for writing while somebody in this process may still be reading it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py

PATIENCE_S = 3.0
"""A reader of single frames is gone by then."""
LOOK_S = 0.02


def open_for_writing(path: Path, **options: Any) -> h5py.File:
    """A file to read and write; HDF5 refuses that while the same process reads it, which is waited for.

    Raises:
        OSError: as h5py does, or the reader has not gone within `PATIENCE_S`.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return h5py.File(path, "r+", **options)
        except OSError as error:
            if "read-only" not in str(error) or "already open" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(LOOK_S)
