"""Cases of a dose study: what each is, how it is known again, and the file of the finished ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.errors import UsageError

METHODS = ("latent", "hybrid", "paper", "pixel")
VERSIONS = {"latent": 5, "hybrid": 4, "paper": 1, "pixel": 1}
"""Counted up when a method's results change, so that finished cases of the old one are not taken for the new one's."""
FILE = "cases.jsonl"


@dataclass(frozen=True)
class Frames:
    """One set of simulated frames, which all methods see.

    Attributes:
        object, image: name and digest of the image.
        truth: "matched" or "mask".
        pose: "known" (nominal) or "free" (a draw from the priors).
        photons: per exposure.
        read_noise: electrons.
        positions: number of frames.
        seed: of noise and pose.
        scene: the scene's digest.
    """

    object: str
    image: str
    truth: str
    pose: str
    photons: float
    read_noise: float
    positions: int
    seed: int
    scene: str


@dataclass(frozen=True)
class Case:
    """What one estimate is made from.

    Attributes:
        frames: as above.
        method: of `METHODS`.
        decoder: name of the package; empty for free pixels.
        decoder_sha256: its digest.
        reference: digest of the decoder that success is measured against.
    """

    frames: Frames
    method: str
    decoder: str
    decoder_sha256: str
    reference: str

    @property
    def key(self) -> str:
        """Twenty hex digits of all settings."""
        facts = asdict(self) | {"version": VERSIONS[self.method]}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Outcome:
    """Scores of one estimate.

    Attributes:
        psnr_db: over the lit mask on the object's grid.
        psnr32_db: on the decoder's 32 x 32 grid, whole frame.
        dice: overlap at threshold 0.5 inside the lit mask.
        success: see docs/studies.md.
        seconds: of the estimate, preparation that later frames share left out.
        converged, verdict, photons_counted, sigma_mean: where the method says so.
    """

    psnr_db: float
    psnr32_db: float
    dice: float
    success: bool
    seconds: float
    converged: bool | None = None
    verdict: str | None = None
    photons_counted: float | None = None
    sigma_mean: float | None = None


class LineFile:
    """A folder's file of finished work, a JSON object a line; a line that a crash cut short does not count."""

    def __init__(self, folder: Path, name: str = FILE):
        """Raises `UsageError` where the folder cannot be made or written."""
        self.path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise UsageError(f"study: {folder} cannot be written ({error.strerror}); choose another --out") from None

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """What is kept of each finished case, by its key."""
        lines = _lines(self.path)
        known = (line for line in lines if isinstance(line.get("outcome"), dict) and isinstance(line.get("key"), str))
        return {line["key"]: line["outcome"] for line in known}

    def append(self, key: str, case: dict[str, Any], outcome: dict[str, Any]) -> None:
        """One more, on disk before this returns to the next."""
        text = json.dumps({"key": key, "case": case, "outcome": outcome})
        with self.path.open("r+b") as file:
            # After a crash the last line may lack its end.
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode() + b"\n")


class CaseFile(LineFile):
    """The finished cases of a dose study."""

    def read(self) -> dict[str, Outcome]:
        """Outcomes by the cases' keys."""
        return {key: Outcome(**outcome) for key, outcome in self.outcomes().items()}

    def add(self, case: Case, outcome: Outcome) -> None:
        """One more."""
        self.append(case.key, asdict(case), asdict(outcome))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def missing(cases: Iterable[Case], done: dict[str, Outcome]) -> list[Case]:
    """Those without an outcome, in their order."""
    return [case for case in cases if case.key not in done]
