"""Scores of a study's estimates, and what success means for each object."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.studies.objects import StudyObject, Truth
from app.studies.scene import StudyScene
from recon.files.whole import whole
from recon.metrics import dice, psnr_db, success_db

FROZEN = Path(__file__).with_name("reference.json")
LEAST_DICE = 0.8
EVERYWHERE = np.ones((32, 32), bool)


@dataclass(frozen=True)
class Reference:
    """What an object's PSNR is measured against: the reference decoder, in the nominal pose.

    Attributes:
        prior_mean_db: PSNR of the prior's mean image over the lit mask.
        noise_free_db: of the noise-free fit.
        prior_mean32_db, noise_free32_db: the same on the 32 x 32 grid.
    """

    prior_mean_db: float
    noise_free_db: float
    prior_mean32_db: float
    noise_free32_db: float

    @property
    def threshold_db(self) -> float:
        """PSNR from which an estimate counts as a success."""
        return success_db(self.prior_mean_db, self.noise_free_db)


@dataclass(frozen=True)
class Scores:
    """PSNR over the lit mask and on the 32 x 32 grid, in dB, and Dice inside the lit mask."""

    psnr_db: float
    psnr32_db: float
    dice: float

    @classmethod
    def of(cls, obj: NDArray, small: NDArray, truth: Truth, scene: StudyScene) -> Scores:
        """Of an object (M, M) and its image (32, 32)."""
        return cls(
            psnr_db(obj, truth.amplitude, scene.lit),
            psnr_db(small, truth.small, EVERYWHERE),
            dice(obj, truth.amplitude, scene.lit),
        )

    def success(self, reference: Reference) -> bool:
        """At least midway between prior mean and noise-free fit, and the right shape."""
        return self.psnr_db >= reference.threshold_db and self.dice >= LEAST_DICE


def reference_key(obj: StudyObject, truth: str, scene: StudyScene, decoder_sha256: str) -> str:
    """Of a reference: it holds for this image, kind of truth, scene and decoder."""
    return f"{obj.image.shape[0]}:{obj.digest}:{truth}:{scene.digest}:{decoder_sha256[:12]}"


class References:
    """References that ship with the program, and those that a study has made for its own objects, in its folder."""

    def __init__(self, folder: Path | None = None):
        self._path = None if folder is None else folder / "references.json"
        self._made = read_references(self._path) if self._path is not None and self._path.is_file() else {}

    def get(self, key: str) -> Reference | None:
        """The reference of that key, if it is known."""
        return _frozen().get(key) or self._made.get(key)

    def add(self, key: str, reference: Reference, name: str) -> None:
        """Keep one more."""
        self._made[key] = reference
        if self._path is not None:
            write_references(self._path, self._made | {key: reference}, {key: name})


def write_references(path: Path, references: dict[str, Reference], names: dict[str, str]) -> None:
    """Numbers only, sorted by key; names of the objects beside them where they are given or known already."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    entries = {
        key: {"name": names.get(key, old.get(key, {}).get("name", ""))}
        | {field: round(value, 4) for field, value in asdict(reference).items()}
        for key, reference in sorted(references.items())
    }
    with whole(path) as part:
        part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


@cache
def _frozen() -> dict[str, Reference]:
    return read_references(FROZEN)


def read_references(path: Path) -> dict[str, Reference]:
    """The references in a file, by key."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {key: Reference(**{k: v for k, v in entry.items() if k != "name"}) for key, entry in entries.items()}
