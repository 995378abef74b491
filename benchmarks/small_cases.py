"""Estimates of a study's photomasks on its small scene, each kept as soon as it is finished.

The studies' light on a sixteenth of their pixels (256 x 256 of 6.9 um, 16 positions, read noise 0.3 e-), mask truth,
calibration and pose known: minutes instead of hours on a processor, and the same physics.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from app.studies.cases import Frames
from app.studies.objects import MNIST, Truth, load_objects
from app.studies.scene import StudyScene
from app.studies.scores import Scores
from app.studies.work import Assignment, Estimate, Workshop

DECODER, READ_NOISE, POSITIONS = "mnist", 0.3, 16


class Cases:
    """Estimates and their scores, the latter kept in a file of JSON lines."""

    def __init__(self, count: int, out: Path):
        self.scene = StudyScene.small(POSITIONS)
        self.objects = {o.name: o for o in load_objects(MNIST, count)}
        self.shop = Workshop(Assignment(self.scene, self.objects, {}))
        self.path = out / "cases.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.done: dict[str, dict[str, Any]] = {line["key"]: line for line in map(json.loads, lines)}

    def frames(self, name: str, photons: float) -> Frames:
        """What a case's frames are taken of."""
        digest = self.objects[name].digest
        return Frames(name, digest, "mask", "known", photons, READ_NOISE, POSITIONS, 0, self.scene.digest)

    def estimate(self, method: str, name: str, photons: float, decoder: str = DECODER) -> tuple[Estimate, Truth, float]:
        """An estimate, the truth, and the core-seconds it took."""
        frames = self.frames(name, photons)
        truth, data = self.shop.taken(frames)
        begin = time.process_time()
        if method == "latent":
            found = self.shop.estimate_latent(frames, data, decoder)
        elif method == "hybrid":
            found = self.shop.estimate_hybrid(frames, data, decoder)
        else:
            found = self.shop.estimate_pixels(data)
        return found, truth, time.process_time() - begin

    def score(self, method: str, name: str, photons: float, decoder: str = DECODER) -> dict[str, Any]:
        """As kept, or made and kept."""
        key = f"{method} {name} {photons:g}" + ("" if decoder == DECODER else f" {decoder}")
        if key not in self.done:
            found, truth, seconds = self.estimate(method, name, photons, decoder)
            scores = Scores.of(found.obj, found.small, truth, self.scene)
            self.keep(key, {"psnr_db": float(scores.psnr_db), "core_seconds": seconds})
        return self.done[key]

    def keep(self, key: str, values: dict[str, Any]) -> None:
        """One more finished case."""
        self.done[key] = {"key": key, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.done[key]) + "\n")
