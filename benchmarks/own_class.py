"""Is an object of the decoder's class told as one in any light? Verdicts and evidence from the dark to the light.

python -m benchmarks.own_class [--count 5] [--photons 1000,3000,1e4,3e4,1e5] [--out FOLDER] [--record]

Unseen digits as the decoder's own resize draws them, on the small scene of `benchmarks.small_cases`, in the manner that
the estimator takes (`recon.manner`) and in sums under Eq. 1. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from app.studies.scene import FIELD_M
from app.studies.scores import Scores
from benchmarks.report import append_rows, machine
from benchmarks.small_cases import DECODER, Cases
from recon.bins import Bins
from recon.estimator import LatentEstimator
from recon.noise import MixedGaussian

PHOTONS = "1000,3000,1e4,3e4,1e5"


def measured(
    cases: Cases, estimator: LatentEstimator, name: str, photons: float, in_sums: bool
) -> dict[str, float | str]:
    """One digit at one dose."""
    key = f"own {name} {photons:g} {'sums' if in_sums else 'taken'}"
    if key not in cases.done:
        frames = replace(cases.frames(name, photons), truth="matched")
        truth, data = cases.shop.taken(frames)
        begin = time.process_time()
        if in_sums:
            prepared = estimator.prepare(data)
            seen = Bins.build(data, prepared.operator, prepared.light, MixedGaussian())
            found = replace(estimator.posterior(seen), counting="sums under Eq. 1")
        else:
            found = estimator.estimate(data)
        spent = time.process_time() - begin
        drawn = Scores.of(np.zeros_like(truth.amplitude), found.mean, truth, cases.scene)
        cases.keep(
            key,
            {
                "psnr32_db": float(drawn.psnr32_db),
                "foreign": found.foreign.log_odds,
                "verdict": found.verdict.word.value,
                "counting": found.counting,
                "core_seconds": spent,
            },
        )
    return cases.done[key]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="digits, from the first of MNIST's test set")
    parser.add_argument("--photons", default=PHOTONS, help="per exposure")
    parser.add_argument("--out", type=Path, default=Path("own-class"), help="folder of the finished cases")
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(asked.count, asked.out)
    estimator = LatentEstimator.build(
        cases.shop.package(DECODER), cases.shop.companion(DECODER), cases.scene.light, FIELD_M
    )
    rows = []
    for photons in map(float, asked.photons.split(",")):
        said = []
        for in_sums in (False, True):
            found = [measured(cases, estimator, name, photons, in_sums) for name in cases.objects]
            recovered = sum(case["verdict"] == "recovered" for case in found)
            odds = ", ".join(f"{case['foreign']:.1f}" for case in found)
            mean, spent = (float(np.mean([float(case[k]) for case in found])) for k in ("psnr32_db", "core_seconds"))
            said.append(
                f"{found[0]['counting']}: {recovered} of {len(found)} recovered, evidence for something foreign "
                f"{odds} nats, psnr32 {mean:.2f} dB, {spent:.1f} core-s"
            )
        subject = f"{photons:g} photons, {len(cases.objects)} digits of the class, read noise 0.3"
        print(f"{subject}: {'; '.join(said)}", flush=True)
        rows.append((subject, "; ".join(said), "recovered"))
    if asked.record:
        append_rows(f"python -m benchmarks.own_class --count {asked.count}", rows, machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
