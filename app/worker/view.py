"""What a window shows of a reconstruction, gathered from a worker's messages. No window in here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.worker.enough import Dose
from app.worker.message import Calibrated, Epoch, Estimate, Pixels, Said, ToWindow

LEAST_E = 0.5
"""Electrons of a block, added to those expected, so that dark ones do not count for much."""


@dataclass
class Imaging:
    """One exposure: its newest estimate with its numbers, and the conventional image beside it."""

    estimate: Estimate | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    pixels: Pixels | None = None

    @property
    def residual(self) -> NDArray[np.float64]:
        """(g, g) measured less predicted light, in about standard deviations."""
        if self.estimate is None:
            return np.zeros((1, 1))
        expected = np.maximum(self.estimate.predicted.astype(np.float64), 0)
        return (self.estimate.measured - expected) / np.sqrt(expected + self.estimate.variance + LEAST_E)


@dataclass
class Shown:
    """A run's reconstruction by now.

    Attributes:
        run: its identity; messages of others are left alone.
        exposures: of the series, ascending.
        epochs: of the calibration so far; calibrated: its result.
        images: by exposure.
        newest: exposure that changed last.
        dose: spent and planned, of a run whose light is judged.
        words: the last thing that was said, and whether it is bad.
        count: of messages taken in, so that a viewer knows when something is new.
        look: decoder and pose; images made with others are left alone.
        name: of its file.
    """

    run: str
    exposures: tuple[float, ...]
    epochs: list[Epoch] = field(default_factory=list)
    calibrated: Calibrated | None = None
    images: dict[float, Imaging] = field(default_factory=dict)
    newest: float | None = None
    dose: Dose | None = None
    words: tuple[str, bool] = ("", False)
    count: int = 0
    look: tuple[str, str] | None = None
    name: str = ""

    @classmethod
    def missed(cls, name: str, why: str) -> Shown:
        """Of a run that nobody follows: there is nothing to see of it, and nothing of the one before either."""
        return cls("", (), words=(why, False), name=name)

    @property
    def followed(self) -> bool:
        """Whether anything of this run is to come."""
        return bool(self.run)

    @property
    def calibrating(self) -> bool:
        """Whether a calibration is what there is to see."""
        return bool(self.epochs) and self.calibrated is None

    def take(self, message: ToWindow) -> bool:
        """Whether it belongs to this run and changes anything."""
        if getattr(message, "run", None) != self.run:
            return False
        if isinstance(message, Epoch):
            if self.epochs and message.epoch <= self.epochs[-1].epoch:
                if message.epoch != 1:
                    return False
                # The worker has begun anew.
                self.epochs, self.calibrated = [], None
            self.epochs.append(message)
        elif isinstance(message, Calibrated):
            self.calibrated = message
        elif isinstance(message, Estimate):
            if self.look is not None and looked(message) != self.look:
                return False
            place = self.images.setdefault(message.exposure_s, Imaging())
            place.estimate, place.numbers = message, json.loads(message.numbers)
            self.newest = message.exposure_s
        elif isinstance(message, Pixels):
            self.images.setdefault(message.exposure_s, Imaging()).pixels = message
        elif isinstance(message, Said):
            self.words = (message.words, message.bad)
        else:
            return False
        self.count += 1
        return True

    def forget_images(self) -> None:
        """They are made with other settings from now on."""
        self.images, self.newest, self.words = {}, None, ("", False)
        self.count += 1


def looked(estimate: Estimate) -> tuple[str, str]:
    """Decoder and pose with which an image was made."""
    return estimate.decoder, estimate.pose_prior


def phase_picture(wave: NDArray[np.complex64]) -> NDArray[np.uint8]:
    """(h, w, 3) a complex field in colours: brightness its amplitude, hue its phase."""
    amplitude = np.abs(wave)
    top = float(np.percentile(amplitude, 99.5)) or 1.0
    value = np.clip(amplitude / top, 0, 1)
    turn = (np.angle(wave) / (2 * np.pi)) % 1.0
    # Hue at full saturation of 0.7, a standard piecewise-linear circle.
    channels = [np.clip(np.abs(((turn + shift) % 1.0) * 6 - 3) - 1, 0, 1) for shift in (0.0, 2 / 3, 1 / 3)]
    colour = np.stack([value * (1 - 0.7 * (1 - channel)) for channel in channels], -1)
    return np.rint(255 * colour).astype(np.uint8)
