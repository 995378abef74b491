"""Prior mean and noise-free fit of MNIST test digits with the decoder `mnist`: what success is measured against.

`python -m benchmarks.references --count 100` adds what is missing to app/studies/reference.json, an object at a time;
on a GPU (`--device cuda`) a second each. Frozen once: a change here changes what success means.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from app.studies.grid import REFERENCE_DECODER
from app.studies.objects import MNIST, load_objects
from app.studies.scene import StudyScene
from app.studies.scores import FROZEN, read_references, reference_key, write_references
from app.studies.work import Assignment, Workshop
from recon.decoders.package import load_package


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="digits, from the first of the test set")
    parser.add_argument("--truths", default="matched,mask")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop before an object that would begin later")
    parser.add_argument("--to", type=Path, default=FROZEN)
    asked = parser.parse_args()
    begin = time.monotonic()
    scene, digest = StudyScene(), load_package(REFERENCE_DECODER).sha256
    objects = load_objects(MNIST, asked.count)
    shop = Workshop(Assignment(scene, {}, {}, asked.device))
    known = read_references(asked.to) if asked.to.is_file() else {}
    for obj in objects:
        for truth in asked.truths.split(","):
            key = reference_key(obj, truth, scene, digest)
            if key in known:
                continue
            if time.monotonic() - begin > asked.seconds:
                return
            known[key] = shop.reference(obj, truth, REFERENCE_DECODER)
            write_references(asked.to, known, {key: f"{obj.name} {truth}"})
            print(f"{time.monotonic() - begin:6.0f} s  {obj.name} {truth}: {known[key]}", flush=True)


if __name__ == "__main__":
    main()
