"""Read noise that half hides single electrons: sums of pixels under Eq. 1 against every pixel's exact likelihood.

python -m benchmarks.half_hidden [--count 6] [--photons 1000,300] [--noises 0.4,0.5,0.7,1,1.5,2.3] [--record]

The studies' scene (16 positions, 3.45 um, bins of 3 x 3), unseen digits, calibration and pose known. The same frames
are estimated in each manner: in bins, pixel by pixel, and, up to 0.45 electrons of read noise, electron by electron.
Finished cases are kept; run it again to go on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.latent_cases import Case, case_options, doses, finish
from benchmarks.latent_scene import Bench, Objects, psnr32, settings_of
from benchmarks.report import append_rows, machine
from recon import events
from recon.bins import Bins
from recon.exactnoise import ExactMixed
from recon.manner import Manner
from recon.noise import MixedGaussian
from recon.observation import Observation

SURE = 0.05
"""Deviation from which on a pixel's z-score counts."""


@dataclass
class Trial:
    """One digit in one manner at a time."""

    bench: Bench
    objects: Objects

    def row(self, case: Case) -> dict[str, Any]:
        """The case, computed; `kind` is the manner."""
        truth = self.objects.image("digit", case.index)
        # The same frames in every manner.
        seed = Case("digit", case.index, case.photons, case.sigma).seed
        data = self.bench.exposed(truth, case.photons, case.sigma, seed)
        estimator = self.bench.estimator
        prepared = estimator.prepare(data)
        begin = time.perf_counter(), time.process_time()
        observation: Observation
        if case.kind == Manner.EVENTS:
            observation = estimator.observe(data, prepared)
        else:
            likelihood = ExactMixed() if case.kind == Manner.PIXELS else MixedGaussian()
            observation = Bins.build(data, prepared.operator, prepared.light, likelihood)
        if observation.counting != case.kind:
            raise SystemExit(f"{case.key}: looked at as {observation.counting}; lower --photons or --noises")
        counted = time.process_time()
        found = estimator.pictured(
            observation, estimator.found(observation, scores=estimator.scores(observation, prepared))
        )
        z = (found.mean - truth) / found.deviation
        return {
            "key": case.key,
            "psnr32": psnr32(found.mean, truth),
            "z": float(np.square(z[found.deviation > SURE]).mean() ** 0.5),
            "word": found.verdict.word.value,
            "log_evidence": found.log_evidence,
            "seconds": time.perf_counter() - begin[0],
            "core_seconds": time.process_time() - begin[1],
            "counting_seconds": counted - begin[1],
            "rows": sum(observation.counts),
        }


def trial_of(asked: argparse.Namespace, cases: Sequence[Case]) -> Trial:
    """What computes cases."""
    bench = Bench.build(asked.decoder, asked.prior, asked.device, settings=settings_of(asked.set))
    return Trial(bench, Objects.load(asked.objects))


def manners(sigma: float) -> list[Manner]:
    """Those that can be compared at a read noise, electrons rms."""
    return [m for m in Manner if m is not Manner.EVENTS or sigma <= events.RESOLVING_E]


def _compared(found: dict[Manner, list[dict[str, Any]]]) -> str:
    """Rows of the same digits in each manner, in words."""
    parts = []
    means = {manner: np.array([row["psnr32"] for row in rows]) for manner, rows in found.items()}
    for manner, rows in found.items():
        right = sum(row["word"] == "recovered" for row in rows)
        z, core, nats = (float(np.mean([row[name] for row in rows])) for name in ("z", "core_seconds", "log_evidence"))
        parts.append(
            f"{manner} {means[manner].mean():.2f} dB (evidence {nats:.0f} nats, rms z {z:.2f}, {right} of {len(rows)} "
            f"called recovered, {core:.1f} core-s)"
        )
    for manner, theirs in means.items():
        if manner is not Manner.PIXELS:
            gain = means[Manner.PIXELS] - theirs
            parts.append(f"pixels over {manner} {gain.mean():+.2f} dB ({' '.join(f'{v:+.1f}' for v in gain)})")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    case_options(parser, "half-hidden")
    parser.add_argument("--count", type=int, default=6, help="digits")
    parser.add_argument("--noises", default="0.4,0.5,0.7,1,1.5,2.3", help="read noise, electrons rms")
    parser.set_defaults(photons="1000,300")
    asked = parser.parse_args()
    noises = [float(word) for word in asked.noises.split(",")]
    cases = [
        Case(manner.value, k, dose, sigma)
        for k in range(asked.count)
        for dose in doses(asked)
        for sigma in noises
        for manner in manners(sigma)
    ]
    known = finish(asked, cases, "benchmarks.half_hidden", trial_of)
    if asked.shard is not None:
        return
    results = []
    for sigma in noises:
        for dose in doses(asked):
            found = {
                manner: {k: known.get(Case(manner.value, k, dose, sigma).key) for k in range(asked.count)}
                for manner in manners(sigma)
            }
            # Digits that are finished in every manner.
            digits = [k for k in range(asked.count) if all(rows[k] for rows in found.values())]
            if digits:
                label = f"read noise {sigma:g} e-, {dose:g} photons, {len(digits)} digits: mean psnr32"
                kept = {manner: [row for k in digits if (row := rows[k])] for manner, rows in found.items()}
                results.append((label, _compared(kept), "pixels lose against neither"))
    for quantity, measured, _ in results:
        print(f"{quantity}: {measured}")
    if asked.record:
        append_rows(f"python -m benchmarks.half_hidden --count {asked.count}", results, machine("torch", cores=1))


if __name__ == "__main__":
    main()
