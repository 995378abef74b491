"""Under which light frames are reconstructed: the run's own calibration, or that of an earlier run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from app.worker.book import RunBook
from app.worker.message import Calibrated, Carried
from recon.dataset import DatasetError, Ptychogram
from recon.files.reuse import Reusable
from recon.illumination import Illumination

SAME_PLACE_M = 1e-7
"""A stage that says it is so near to where it was sent is there, for all images but the final ones: what was prepared
for the place holds."""


@dataclass(frozen=True)
class Look:
    """With what is reconstructed.

    Attributes:
        decoder: name or path.
        pose: "free" or "known".
        field_m: side of the decoder's square.
    """

    decoder: str
    pose: str
    field_m: float


@dataclass(frozen=True)
class Light:
    """The illumination of a run's frames.

    Attributes:
        illumination: probe, distance, positions.
        window: side of the lit window, pixels.
        key: the same for the same light.
        lent: whether it serves only until the run has its own.
    """

    illumination: Illumination
    window: int
    key: bytes
    lent: bool = False

    @classmethod
    def of(cls, illumination: Illumination, window: int, lent: bool = False) -> Light:
        total = hashlib.sha256()
        for values in (illumination.probe, illumination.positions_m, illumination.indices):
            total.update(np.ascontiguousarray(values).tobytes())
        total.update(repr((illumination.geometry, window)).encode())
        return cls(illumination, window, total.digest(), lent)


class LightSource(Protocol):
    """Where a run's light comes from."""

    def light(self, book: RunBook, exposure_s: float, data: Ptychogram | None) -> Light:
        """For the frames of an exposure.

        Args:
            data: with the final light of exactly these; None for any frames to come.

        Raises:
            DatasetError: calibration and run do not fit.
        """
        ...


class OwnLight:
    """The run's own calibration. Raises `DatasetError`: its settings cannot be read, or it is of another scan."""

    def __init__(self, book: RunBook, found: Calibrated):
        indices = book.bright_indices()
        if len(indices) != len(found.positions_m):
            raise DatasetError(
                f"{book.begin.name}: its calibration has {len(found.positions_m)} positions, the scan {len(indices)}; "
                "calibrate it again"
            )
        geometry = replace(book.geometry, distance_m=found.distance_m)
        illumination = Illumination(found.probe.copy(), geometry, found.positions_m.copy(), indices)
        self._light = Light.of(illumination, _window(book.begin.name, found.settings))

    def light(self, book: RunBook, exposure_s: float, data: Ptychogram | None) -> Light:
        return self._light


class CarriedLight:
    """An earlier run's calibration at the points of this one; `lent` only until this one has its own."""

    def __init__(self, found: Carried, lent: bool = False):
        self._window, self._lent = found.window, lent
        self._known = Reusable(
            probe=found.probe.copy(),
            distance_m=found.distance_m,
            positions_m=found.positions_m,
            window=found.window,
            stage_m=found.stage_m,
            empty=found.empty if found.empty.size else None,
            empty_exposure_s=found.empty_exposure_s or None,
            good=found.good,
        )

    def light(self, book: RunBook, exposure_s: float, data: Ptychogram | None) -> Light:
        if data is None:
            data = self._to_come(book, exposure_s)
        if self._known.good.shape != data.geometry.shape:
            raise DatasetError(
                f"{book.begin.name}: the calibration is of frames of {self._known.good.shape}, these have "
                f"{data.geometry.shape}; calibrate this bench"
            )
        return Light.of(self._known.illumination(data), self._window, self._lent)

    def _to_come(self, book: RunBook, exposure_s: float) -> Ptychogram:
        """All points: where the stage will be sent, or where it says it was if that is elsewhere."""
        expected = book.expected(exposure_s)
        seen = book.places(exposure_s)
        places = expected.positions_m.copy()
        for number, index in enumerate(expected.indices):
            own = seen.get(int(index))
            if own is not None and np.linalg.norm(own - places[number]) > SAME_PLACE_M:
                places[number] = own
        return replace(expected, positions_m=places)


def _window(name: str, settings: str) -> int:
    try:
        return int(json.loads(settings)["window_px"])
    except (ValueError, KeyError, TypeError, OverflowError):
        raise DatasetError(f"{name}: the settings of its calibration cannot be read; calibrate it again") from None
