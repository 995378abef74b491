"""The grid of a dose study: what is asked for, and the cases that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.errors import UsageError
from app.studies.cases import METHODS, Case, Frames
from app.studies.objects import MNIST, StudyObject
from app.studies.scene import StudyScene

REFERENCE_DECODER = "mnist"
POSITIONS = (16, 96)
MOST_PHOTONS = 1e9
MOST_EXPOSURES = 1_000_000
"""Of a study, each method and decoder looks at all: months, on any machine."""


@dataclass(frozen=True)
class DoseStudy:
    """What is asked for.

    Attributes:
        objects: `mnist:test`, a stack or a folder.
        photons: per exposure, ascending.
        read_noise: electrons.
        positions: 16 or 96.
        pose: "known" or "free".
        truth: "matched" or "mask".
        methods: of latent, paper, pixel.
        decoders: names or paths of packages.
        seeds: how often each object is exposed.
        count: objects, the first of the source; None takes all.
    """

    objects: str = MNIST
    photons: tuple[float, ...] = (10, 30, 100, 300, 1000, 3000, 1e4, 1e5, 1e6)
    read_noise: tuple[float, ...] = (0.3, 2.3)
    positions: int = 16
    pose: str = "known"
    truth: str = "matched"
    methods: tuple[str, ...] = ("latent", "paper")
    decoders: tuple[str, ...] = (REFERENCE_DECODER,)
    seeds: int = 1
    count: int | None = 24

    def checked(self) -> DoseStudy:
        """The same, in order; raises `UsageError` naming the option, its value and what is allowed."""
        _one_of("--truth", self.truth, ("matched", "mask"))
        _one_of("--pose", self.pose, ("known", "free"))
        for method in self.methods:
            _one_of("--methods", method, METHODS)
        if self.positions not in POSITIONS:
            raise UsageError(f"--positions {self.positions}: the study uses 16 or 96 of the spiral's points")
        for value in self.photons:
            if not 1 <= value <= MOST_PHOTONS:
                raise UsageError(f"--photons {value:g}: photons per exposure go from 1 to {MOST_PHOTONS:g}")
        for value in self.read_noise:
            if not 0.05 <= value <= 100:
                raise UsageError(f"--read-noise {value:g}: electrons go from 0.05 to 100")
        return replace(
            self,
            photons=tuple(sorted(set(self.photons))),
            read_noise=tuple(sorted(set(self.read_noise))),
            methods=tuple(dict.fromkeys(self.methods)),
            decoders=tuple(dict.fromkeys(self.decoders)),
        )


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{option} {value!r}: choose from {', '.join(allowed)}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers of a list like `30,100,1e3`; raises `UsageError` for anything else."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give numbers with commas between, such as 30,100,1e3") from None
    if not all(math.isfinite(v) for v in values):
        raise UsageError(f"{option} {text!r}: numbers must be finite")
    return values


def label_of(training: dict[str, Any]) -> int | None:
    """The one class that a decoder was trained on, by its training record; None for several."""
    _, found, label = str(training.get("source", "")).rpartition(", label ")
    return int(label) if found and label.split(",")[0].isdecimal() else None


def list_cases(study: DoseStudy, objects: Sequence[StudyObject], scene: StudyScene, reference: str) -> list[Case]:
    """All cases. A decoder of one class sees the objects of that class, where labels are known.

    Raises:
        UsageError: no object has a decoder's class.
    """
    from recon.decoders.package import load_package

    exposures = len(objects) * len(study.read_noise) * study.seeds * len(study.photons)
    if exposures > MOST_EXPOSURES:
        raise UsageError(
            f"study: {len(objects)} objects, {len(study.photons)} --photons, {len(study.read_noise)} --read-noise "
            f"and --seeds {study.seeds} make {exposures} exposures, more than {MOST_EXPOSURES}; ask for fewer"
        )
    packages = {name: load_package(name) for name in study.decoders} if set(study.methods) - {"pixel"} else {}
    cases = []
    for method in study.methods:
        for decoder in [""] if method == "pixel" else study.decoders:
            label = None if method == "pixel" else label_of(packages[decoder].training)
            seen = [o for o in objects if label is None or o.label in (None, label)]
            if not seen:
                raise UsageError(f"--decoder {decoder}: draws {label} only, and no object is one; add some")
            digest = "" if method == "pixel" else packages[decoder].sha256
            cases += [
                Case(
                    Frames(
                        o.name, o.digest, study.truth, study.pose, photons, noise, study.positions, seed, scene.digest
                    ),
                    method,
                    decoder,
                    digest,
                    reference,
                )
                for noise in study.read_noise
                for o in seen
                for seed in range(study.seeds)
                for photons in study.photons
            ]
    return cases
