"""Are the posterior's uncertainties true? Objects drawn from its prior, and digits that no training has seen.

python -m benchmarks.latent_coverage [--count 400] [--digits 200] [--device cuda --workers 8]

(a) of objects drawn from the prior the truth's rank among the samples is uniform: latents, 8 x 8 block means and the
stroke's area; the central 68 % interval holds 63-73 % of them. (b) for unseen digits the decoder's misfit counts: the
expected calibration error of P(amplitude > 0.5) is at most 0.03 and the rms z-score 0.9-1.15.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.latent_cases import Case, case_options, doses, finish
from benchmarks.report import append_rows, machine

QUANTITIES = ("latents", "blocks", "area")
CENTRAL = 0.68
COVERED = (0.63, 0.73)
CALIBRATION_ERROR = 0.03
Z_SCORE = (0.9, 1.15)
HISTOGRAM = 10


def coverage(ranks: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Share of ranks inside the central interval, and their histogram, one where it is flat."""
    inside = np.abs(ranks - 0.5) <= CENTRAL / 2
    counts, _ = np.histogram(ranks, HISTOGRAM, (0, 1))
    return float(inside.mean()), counts / max(1, len(ranks)) * HISTOGRAM


def calibration(rows: Sequence[dict[str, Any]]) -> tuple[float, float, list[str]]:
    """Expected calibration error, rms z-score, and the curve as "said:true"."""
    count, said, true = (np.sum([row[name] for row in rows], 0) for name in ("bin_count", "bin_said", "bin_true"))
    total = np.maximum(count, 1)
    error = float(np.abs(said - true).sum() / max(1, count.sum()))
    score = float(np.sqrt(sum(r["z_square"] for r in rows) / max(1, sum(r["z_count"] for r in rows))))
    return error, score, [f"{s:.2f}:{t:.2f}" for s, t in zip(said / total, true / total, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    case_options(parser)
    parser.add_argument("--count", type=int, default=400, help="objects drawn from the prior")
    parser.add_argument("--digits", type=int, default=200, help="unseen digits")
    asked = parser.parse_args()
    sigma, photons = asked.read_noise, doses(asked)
    cases = []
    for k in range(max(asked.count, asked.digits)):
        cases += [Case("prior", k, dose, sigma) for dose in photons if k < asked.count]
        cases += [Case("digit", k, dose, sigma) for dose in photons if k < asked.digits]
    known = finish(asked, cases, "benchmarks.latent_coverage")
    if asked.shard is not None:
        return
    results = []
    for dose in photons:
        own = {
            kind: [known[c.key] for c in cases if c.kind == kind and c.photons == dose and c.key in known]
            for kind in ("prior", "digit")
        }
        if own["prior"]:
            label = f"{dose:g} photons, {len(own['prior'])} draws of the prior"
            for name in QUANTITIES:
                share, histogram = coverage(np.concatenate([row[name] for row in own["prior"]]))
                kept = COVERED[0] <= share <= COVERED[1]
                print(f"{label}: {name} {share:.1%} in the central 68 %: {'kept' if kept else 'MISSED'}; ranks "
                      + " ".join(f"{v:.2f}" for v in histogram))  # fmt: skip
                results.append((f"{label}: {name} in the central 68 % interval", f"{share:.1%}", "63-73 %"))
        if own["digit"]:
            label = f"{dose:g} photons, {len(own['digit'])} unseen digits"
            error, score, curve = calibration(own["digit"])
            kept = error <= CALIBRATION_ERROR and Z_SCORE[0] <= score <= Z_SCORE[1]
            print(f"{label}: calibration error {error:.3f}, z-score {score:.2f}: {'kept' if kept else 'MISSED'}; "
                  f"said:true {' '.join(curve)}")  # fmt: skip
            results.append((f"{label}: calibration error of P(amplitude > 0.5)", f"{error:.3f}", "0.03"))
            results.append((f"{label}: rms z-score", f"{score:.2f}", "0.9-1.15"))
    if asked.record:
        command = f"python -m benchmarks.latent_coverage --count {asked.count} --digits {asked.digits}"
        append_rows(command, results, machine("torch"))


if __name__ == "__main__":
    main()
