"""Does evidence pick the right decoder? Unseen threes, fours and Kuzushiji characters, each by the three decoders.

python -m benchmarks.which_decoder FOLDER KUZUSHIJI.safetensors [--count 34] [--photons 300] [--pose known] [--record]

The simulated bench of the studies, decoders `mnist-3`, `mnist-4`, and one of Kuzushiji that `ptychoscope train --images
kmnist-test-imgs.npz --labels kmnist-test-labels.npz` has made (the tenth of the images that it holds out is looked at;
they are found through PTYCHOSCOPE_DATA). Finished objects are kept in FOLDER/cases.jsonl, and the same command goes on;
it may be stopped at any time, and tells about what is there. `--record` appends the table to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.latent import Decoder
from app.studies.objects import MNIST, Pose, StudyObject, load_objects, make_truth
from app.studies.scene import FIELD_M, StudyScene
from app.training_images import training_images
from benchmarks.report import append_rows, machine
from recon.choosing import Alike, ranked
from recon.estimator import LatentEstimator
from recon.scene import FREE_POSE, Nuisances
from recon.simulated import exposed, intensities

DECODERS = ("mnist-3", "mnist-4", "kuzushiji")
KINDS = ("three", "four", "character")
READ_NOISE = 0.3
LOOKED_AT = 1000
"""Test digits that the objects are taken from, the first ones."""
CLAIM = 0.95


def kind_of(obj: StudyObject) -> str:
    """Which of the three classes an object is of; "" for other digits."""
    if not obj.name.startswith(MNIST):
        return "character"
    return {3: "three", 4: "four"}.get(obj.label or 0, "")


def right_decoder(kind: str) -> str:
    """The decoder that was trained on that class."""
    return DECODERS[KINDS.index(kind)]


def characters(count: int) -> list[StudyObject]:
    """Characters that `ptychoscope train` holds out by default."""
    folder = Path(os.environ["PTYCHOSCOPE_DATA"]) / "kmnist"
    images, labels = folder / "kmnist-test-imgs.npz", folder / "kmnist-test-labels.npz"
    _, held = training_images(images, labels, None, 32, None, False, 0, False)
    return [StudyObject(f"kuzushiji:{k}", image) for k, image in enumerate(held.images[:count])]


def chosen_objects(count: int) -> list[StudyObject]:
    """`count` of each kind, in turn, so that a part of them is a table already."""
    objects = load_objects(MNIST, LOOKED_AT) + characters(count)
    columns = [[obj for obj in objects if kind_of(obj) == kind][:count] for kind in KINDS]
    return [obj for row in zip(*columns, strict=False) for obj in row]


def measured(
    objects: list[StudyObject], kuzushiji: Path, photons: float, pose: str, noise: float = READ_NOISE
) -> Iterator[dict]:
    """What evidence says of each, as it is found."""
    scene = StudyScene()
    nuisances = FREE_POSE if pose == "free" else Nuisances()
    alike: Alike | None = None
    names = {"mnist-3": "mnist-3", "mnist-4": "mnist-4", kuzushiji.stem: "kuzushiji"}
    estimators = []
    for name in (*DECODERS[:2], str(kuzushiji)):
        decoder = Decoder.load(name)
        estimators.append(
            LatentEstimator.build(decoder.package, decoder.companion, scene.light, FIELD_M, nuisances=nuisances)
        )
    for obj in objects:
        index = int(obj.name.rpartition(":")[2]) + 100_000 * KINDS.index(kind_of(obj))
        lies = Pose.nominal() if pose == "known" else Pose.random([index, 11])
        truth = make_truth(obj, "matched", lies, scene)
        lit = truth.amplitude * np.float32(np.sqrt(lies.flux))
        per_photon = intensities(scene.light, scene.positions_m, lit)
        frames = exposed(per_photon, photons, noise, np.array([index, 12], np.uint32)).numpy()
        begin = time.process_time()
        data = scene.ptychogram(frames, photons, noise, obj.name)
        alike = alike or Alike.prepared(estimators, data)
        places = [replace(p, name=names[p.name]) for p in ranked(estimators, data, alike=alike)]
        verdicts = {place.name: place.posterior.verdict.word.value for place in places}
        yield {
            "object": obj.name,
            "kind": kind_of(obj),
            "photons": photons,
            "pose": pose,
            "evidence": {place.name: place.log_evidence for place in places},
            "verdicts": verdicts,
            "picked": places[0].name,
            "core_seconds": time.process_time() - begin,
        }


def read(path: Path, photons: float, pose: str) -> dict[str, dict]:
    """Finished objects by name; a line that was cut short does not count."""
    found: dict[str, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            case = json.loads(line)
        except ValueError:
            continue
        if case["photons"] == photons and case["pose"] == pose:
            found[case["object"]] = case
    return found


def confusion(cases: list[dict]) -> list[list[int]]:
    """Rows the kinds, columns the decoders."""
    return [
        [sum(case["kind"] == kind and case["picked"] == name for case in cases) for name in DECODERS] for kind in KINDS
    ]


def rows(cases: list[dict], photons: float, pose: str) -> list[tuple[str, str, str]]:
    """For RESULTS.md: all of them, and those that the right decoder calls recovered."""
    out = []
    recovered = [case for case in cases if case["verdicts"][right_decoder(case["kind"])] == "recovered"]
    for name, part in (("all objects", cases), ("recovered by the right decoder", recovered)):
        table = confusion(part)
        right = sum(table[k][k] for k in range(len(KINDS)))
        text = "; ".join(f"{kind} {'/'.join(map(str, row))}" for kind, row in zip(KINDS, table, strict=True))
        share = f"{right} of {len(part)}, {100 * right / max(1, len(part)):.1f} %"
        claim = f"at least {100 * CLAIM:g} %" if part is recovered else "-"
        what = f"right decoder by evidence, {photons:g} photons, pose {pose}, {name}"
        out.append((what, f"{share} ({', '.join(DECODERS)}: {text})", claim))
    spent = np.median([case["core_seconds"] for case in cases])
    out.append((f"core-seconds an object, {len(DECODERS)} decoders, pose {pose}", f"{spent:.1f}", "-"))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kuzushiji", type=Path, help="decoder of Kuzushiji characters")
    parser.add_argument("--count", type=int, default=34, help="objects of each kind")
    parser.add_argument("--photons", type=float, default=300)
    parser.add_argument("--pose", choices=("known", "free"), default="known")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    path = asked.folder / "cases.jsonl"
    objects = chosen_objects(asked.count)
    found = read(path, asked.photons, asked.pose)
    rest = [obj for obj in objects if obj.name not in found]
    try:
        for case in measured(rest, asked.kuzushiji, asked.photons, asked.pose):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(case) + "\n")
            found[case["object"]] = case
            print(f"{len(found)}/{len(objects)} {case['object']} {case['kind']}: {case['picked']}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on")
    cases = [found[obj.name] for obj in objects if obj.name in found]
    if not cases:
        return
    lines = rows(cases, asked.photons, asked.pose)
    for what, value, claim in lines:
        print(f"{what}: {value} ({claim})")
    if asked.record:
        command = f"python -m benchmarks.which_decoder FOLDER KUZUSHIJI --photons {asked.photons:g} --pose {asked.pose}"
        append_rows(command, lines, machine("torch", "numpy", cores=1))


if __name__ == "__main__":
    main()
