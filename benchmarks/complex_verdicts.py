"""Verdicts on complex objects: digits with their relief, and what must never pass for one.

The scene, search and decoder of `benchmarks.complex_objects`, matched truths. Beside the digits: an empty field of
view; frames of a digit that are shuffled among the positions; Kuzushiji characters with their relief (`--kuzushiji`,
npz of images); digits whose relief has the opposite sign, lit from the lower right; and digits without any phase.

Finished cases stay in the folder `--out`, so that the same command goes on after an end or `--seconds`; `--record`
writes the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.studies.objects import MNIST, load_objects
from benchmarks.complex_objects import READ_NOISE_E, SCENE, built, complex_drawn
from benchmarks.report import append_rows, machine
from recon.complexlatent import ComplexEstimator
from recon.dataset import Ptychogram
from recon.decoders.pairs import RELIEF_RAD, paired, transmission
from recon.simulated import exposed, intensities
from recon.verdict import Word

COMMAND = "python -m benchmarks.complex_verdicts"
KINDS = ("digits", "empty", "shuffled", "kuzushiji", "opposite relief", "no phase")
SHIFT = 5
"""Positions by which shuffled frames are moved on."""


def image_of(kind: str, number: int, kuzushiji: Path) -> NDArray[np.float32]:
    """(32, 32) grey."""
    if kind != "kuzushiji":
        return load_objects(MNIST, number + 1)[number].image
    with np.load(kuzushiji) as file:
        return np.pad(file["arr_0"][number].astype(np.float32) / 255, 2)


def frames_of(kind: str, image: NDArray[np.float32], number: int, photons: float, seed: int) -> Ptychogram:
    """Frames of an object of a kind."""
    small = transmission(paired(image[None]), RELIEF_RAD)[0]
    small = {"empty": 0 * small, "opposite relief": small.conj(), "no phase": np.abs(small) + 0j}.get(kind, small)
    per_photon = intensities(SCENE.light, SCENE.positions_m, complex_drawn(small))
    words = np.array([seed, number, int(photons), 16], np.uint32)
    data = SCENE.ptychogram(exposed(per_photon, photons, READ_NOISE_E, words).numpy(), photons, READ_NOISE_E, kind)
    return replace(data, frames=np.roll(data.frames, SHIFT, 0)) if kind == "shuffled" else data


def judged(estimator: ComplexEstimator, data: Ptychogram) -> dict[str, object]:
    """The verdict and what it rests on."""
    begin = time.process_time()
    found = estimator.estimate(data)
    return {
        "word": found.verdict.word.value,
        "reason": found.verdict.reason,
        "foreign": found.foreign.log_odds,
        "pattern": found.pattern,
        "typicality": found.typicality,
        "seconds": time.process_time() - begin,
    }


def rows(cases: list[dict], doses: list[float], kinds: Iterable[str]) -> list[tuple[str, str, str]]:
    """One for each kind and dose."""
    result = []
    for kind in kinds:
        for photons in doses:
            at = [case for case in cases if (case["kind"], case["photons"]) == (kind, photons)]
            if not at:
                continue
            words = [case["word"] for case in at]
            counted = ", ".join(f"{word.value} {words.count(word.value)}" for word in Word if word.value in words)
            odds = sorted(case["foreign"] for case in at)
            measured = f"{counted}; evidence for something foreign {odds[0]:.1f} to {odds[-1]:.1f} nats"
            claim = (
                "recovered" if kind == "digits" and photons == 1e4 else "" if kind == "digits" else "never recovered"
            )
            result.append((f"verdicts on {kind}, {photons:.0e} photons, {len(at)} objects", measured, claim))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doses", type=float, nargs="+", default=[1e3, 1e4])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", default="mnist-complex")
    parser.add_argument("--kuzushiji", type=Path, required=True, help="npz of images of 28 x 28 bytes, as published")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished cases")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further case after so long")
    parser.add_argument("--record", action="store_true", help="append rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    estimator = built(options.decoder)
    cases = []
    for photons in options.doses:
        for kind in options.kinds:
            for number in range(1 if kind == "empty" else options.count):
                path = options.out / f"{kind.replace(' ', '-')}-{photons:.0e}-{number}-{options.seed}.json"
                if not path.exists() and time.monotonic() - begin < options.seconds:
                    image = image_of(kind, number, options.kuzushiji)
                    data = frames_of(kind, image, number, photons, options.seed)
                    case = {"kind": kind, "photons": photons, "number": number, **judged(estimator, data)}
                    path.write_text(json.dumps(case))
                    sys.stdout.write(f"{photons:.0e} {kind} {number}: {case['word']} ({case['reason']})\n")
                    sys.stdout.flush()
                if path.exists():
                    cases.append(json.loads(path.read_text()))
    made = rows(cases, options.doses, options.kinds)
    for row in made:
        sys.stdout.write(" | ".join(row) + "\n")
    if options.record:
        append_rows(COMMAND, made, machine("torch", "numpy", cores=1))


if __name__ == "__main__":
    main()
