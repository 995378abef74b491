"""`reconstruct --exposure A,B` and `--marginalise`: which exposures, how uncertain what is told, and the estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import UsageError
from app.runs import entry_of_exposure
from recon.combined import combined, stops
from recon.dataset import Ptychogram
from recon.estimator import LatentEstimator
from recon.files.read import RunFile
from recon.files.results import load_calibration
from recon.illumination import Illumination
from recon.imperfections import Imperfections
from recon.marginal import marginalised
from recon.posterior import Posterior

ALL = "all"
MOST_FLUX = 10.0
"""Relative standard deviation of the light beyond which nothing is known of it."""


def entries_of(run: RunFile, word: str | None) -> list[int]:
    """The evaluation entries that `--exposure` names, ascending in exposure: one, several after commas, or `all`.

    None is the first one, the shortest.

    Raises:
        UsageError: no number, an exposure that is not recorded, one that is named twice, or no evaluation series.
    """
    if run.entries < 2:
        raise UsageError(f"{run.path}: holds no evaluation series; its plan has only a calibration scan")
    if word is None:
        return [2]
    if word == ALL:
        found = list(range(2, run.entries + 1))
    else:
        found = [entry_of_exposure(run, _seconds(part)) for part in word.split(",")]
    if len(set(found)) < len(found):
        raise UsageError(f"--exposure {word}: two of them are the same recorded exposure; name each once")
    return sorted(found, key=run.exposure_s)


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"--exposure {word!r}: seconds above zero, several with commas between them, or {ALL}")
    return value


@dataclass(frozen=True)
class Doubt:
    """What is uncertain, as the command line has it.

    Attributes:
        marginalise: integrate it out.
        position_m, flux, distance_m: standard deviations; None takes what the run knows.
    """

    marginalise: bool = False
    position_m: float | None = None
    flux: float | None = None
    distance_m: float | None = None

    @property
    def asked(self) -> bool:
        """Whether any of it was asked for; a deviation that is given is meant."""
        return self.marginalise or any(v is not None for v in (self.position_m, self.flux, self.distance_m))

    def _check(self, path: Path, light: Illumination) -> None:
        """Raises `UsageError` for doubts under which the frames say nothing of the object."""
        geometry = light.geometry
        window_m = len(light.probe) * geometry.object_pixel_m
        for option, value, most, unit, why in (
            ("--position-sigma", self.position_m, window_m, " m", "the width of the illumination's window"),
            ("--flux-sigma", self.flux, MOST_FLUX, "", "the light ten times what it was taken for"),
            ("--distance-sigma", self.distance_m, geometry.distance_m / 10, " m", "a tenth of the distance"),
        ):
            if value is not None and value > most:
                raise UsageError(f"{option} {value:g}{unit}: {path.name}: at most {most:.4g}{unit}, {why}; lower it")

    def of(
        self, path: Path, other: Path | None, light: Illumination, parts: Sequence[Ptychogram], stage_m: float
    ) -> Imperfections | None:
        """Deviations for frames of a run; None where nobody asked.

        What is not given comes from the standard deviations of the calibration, and under the calibration `other` of
        another run the positions from `stage_m`, the stage's repeatability: what each arrival missed its target by.

        Raises:
            UsageError: nothing is uncertain by what is given and known.
        """
        if not self.asked:
            return None
        self._check(path, light)
        at = stops(parts)
        indices = np.concatenate([part.indices for part in parts])
        known = Imperfections.of(len(at), stops=at)
        stored = load_calibration(path if other is None else other)
        said = None if stored is None else stored.uncertainty
        if other is not None:
            known = replace(known, position_m=np.full((len(at), 2), stage_m))
        if said is not None and other is None:
            frame = {int(index): k for k, index in enumerate(light.indices)}
            frames = np.array([frame[int(i)] for i in indices], np.int64)
            known = known.calibrated(said, light.positions_of(indices), frames)
        elif said is not None:
            known = known.reused(said)
        if self.position_m is not None:
            # Given deviations are of each position by itself; the map's are then in them.
            known = replace(known, position_m=np.full((len(at), 2), self.position_m), affine=np.zeros(3))
        if self.flux is not None:
            known = replace(known, flux=self.flux)
        if self.distance_m is not None:
            known = replace(known, distance_m=self.distance_m)
        if known.none:
            raise UsageError(
                f"--marginalise: {path} says nothing of what is uncertain, its calibration holds no standard "
                "deviations; give --position-sigma, --flux-sigma or --distance-sigma above zero"
            )
        return known


CERTAIN = Doubt()
"""Everything that is told is exact."""


def joint(
    estimator: LatentEstimator, parts: Sequence[Ptychogram], imperfections: Imperfections | None
) -> tuple[Posterior, dict[str, Any]]:
    """The posterior of all exposures together, and numbers of what was integrated out beside it."""
    if imperfections is None:
        return combined(estimator, parts), {}
    found = marginalised(estimator, parts, imperfections)
    return found.posterior, {"marginalised": found.summary()}
