"""Cases of `study dose` on a machine that has torch and scipy but neither rich, typer nor matplotlib: a bare GPU node.

`python -m benchmarks.dose FOLDER --count 100 --device cuda` adds finished cases to FOLDER/cases.jsonl, until
`--seconds` are over. References must be frozen (benchmarks/references.py). `study dose --out FOLDER` with the same
options, anywhere, then finds the cases there and draws.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from app.studies.cases import CaseFile, missing
from app.studies.grid import REFERENCE_DECODER, DoseStudy, list_cases, numbers
from app.studies.objects import MNIST, load_objects
from app.studies.scene import StudyScene
from app.studies.scores import References, reference_key
from app.studies.work import Assignment, Workshop, work
from recon.decoders.package import load_package


def main() -> None:
    """Command line; options as those of `study dose`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--objects", default=MNIST)
    parser.add_argument("--photons", default="10,30,100,300,1000,3000,1e4,1e5,1e6")
    parser.add_argument("--read-noise", default="0.3,2.3")
    parser.add_argument("--positions", type=int, default=16)
    parser.add_argument("--pose", default="known")
    parser.add_argument("--truth", default="matched")
    parser.add_argument("--methods", default="latent,paper")
    parser.add_argument("--decoder", action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=100, help="objects that the paper's estimator takes at once")
    parser.add_argument("--seconds", type=float, default=1e9)
    asked = parser.parse_args()
    begin = time.monotonic()
    study = DoseStudy(
        objects=asked.objects,
        photons=numbers("--photons", asked.photons),
        read_noise=numbers("--read-noise", asked.read_noise),
        positions=asked.positions,
        pose=asked.pose,
        truth=asked.truth,
        methods=tuple(asked.methods.split(",")),
        decoders=tuple(asked.decoder or (REFERENCE_DECODER,)),
        seeds=asked.seeds,
        count=asked.count,
    ).checked()
    scene, digest = StudyScene(positions=study.positions), load_package(REFERENCE_DECODER).sha256
    objects = load_objects(study.objects, study.count)
    store, references = References(asked.folder), {}
    for obj in objects:
        found = store.get(reference_key(obj, study.truth, StudyScene(), digest))
        if found is None:
            raise SystemExit(f"{obj.name}, truth {study.truth}: no reference; run benchmarks/references.py first")
        references[obj.name] = found
    file = CaseFile(asked.folder)
    cases = missing(list_cases(study, objects, scene, digest), file.read())
    assignment = Assignment(scene, {o.name: o for o in objects}, references, asked.device, asked.batch)
    for count, (case, outcome) in enumerate(work(Workshop(assignment), cases), start=1):
        file.add(case, outcome)
        spent = time.monotonic() - begin
        if count % 20 == 0 or count == len(cases):
            print(f"{spent:6.0f} s  {count} of {len(cases)} cases", flush=True)
        if spent > asked.seconds:
            break


if __name__ == "__main__":
    main()
