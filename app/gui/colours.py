"""Colour tables of the camera's picture: 255 colours, and one for saturated pixels."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray

from app.live.picture import CLIPPED_INDEX

NAMES = ("grey", "inferno", "viridis", "magma", "cividis")
CLIPPED = (255, 40, 60)


def colour_table(name: str) -> NDArray[np.uint8]:
    """(256, 3) uint8; the last one marks saturated pixels."""
    share = np.linspace(0.0, 1.0, CLIPPED_INDEX)
    if name == "grey":
        colours = np.repeat(np.rint(255 * share)[:, None], 3, axis=1).astype(np.uint8)
    else:
        colours = pg.colormap.get(name).mapToByte(share)[:, :3]
    return np.vstack([colours, np.array([CLIPPED], np.uint8)])
