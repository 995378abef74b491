"""A frame on its way to a file, in a thread of its own: disks may hang."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.live.journal import Journal
from app.outputs import frame_file


def save_in_background(path: Path, image: NDArray[np.uint16], journal: Journal) -> None:
    """Write a (rows, columns) frame; the journal tells how that went."""

    def write() -> None:
        try:
            frame_file(path, image)
        except (OSError, ValueError) as error:
            journal.error(f"{path}: the frame was not saved ({error}); choose another name or folder")
        else:
            journal.info(f"camera: frame saved to {path}")

    threading.Thread(target=write, name="save", daemon=True).start()
