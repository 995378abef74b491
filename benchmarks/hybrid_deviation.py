"""Are the hybrid image's error bars true? Error over deviation, from 30 to 1e6 photons, beside the latent image's.

python -m benchmarks.hybrid_deviation [--count 5] [--members 8] [--out FOLDER] [--record]

Photomasks on the small scene of `benchmarks.small_cases`, whose hard edges no decoder of grey digits draws. The rms of
error over deviation is taken where the deviation exceeds 0.05, over the lit mask; one is true. The same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.studies.objects import drawn_on
from app.studies.scene import FIELD_M
from app.studies.work import centred
from benchmarks.report import append_rows, machine
from benchmarks.small_cases import DECODER, Cases
from recon.hybrid import reconstruct_hybrid
from recon.rehearsal import MEMBERS, rehearse

PHOTONS = (30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5, 1e6)
LEAST = 0.05
"""Deviation from which on a pixel's error is looked at."""
CLAIM = "0.9 to 1.15"


def z_of(error: NDArray[np.float32], deviation: NDArray[np.float32]) -> tuple[float, int]:
    """Mean square of error over deviation where the latter is large, and how many pixels that is."""
    large = deviation > LEAST
    return float(np.square(error[large] / deviation[large]).mean()) if large.any() else 0.0, int(large.sum())


def measured(cases: Cases, name: str, photons: float, members: int) -> dict[str, float]:
    """Of one mask at one dose."""
    key = f"deviation {name} {photons:g} {members}"
    if key not in cases.done:
        scene, shop, frames = cases.scene, cases.shop, cases.frames(name, photons)
        truth, data = shop.taken(frames)
        posterior, _ = shop.posterior(frames, data, DECODER)
        window = shop.pixel_window()
        lit_part = data.crop((window, window))
        begin = time.process_time()
        found = reconstruct_hybrid(lit_part, scene.light, posterior, FIELD_M)
        searched = time.process_time() - begin
        begin = time.process_time()
        said = rehearse(lit_part, scene.light, posterior, FIELD_M, found, members)
        spent = time.process_time() - begin
        seen, lit = truth.amplitude[scene.lit], scene.lit
        error = centred(np.abs(found.object), scene.size).clip(0, 1)[lit] - seen
        deviation = centred(said.deviation, scene.size)[lit]
        square, count = z_of(error, deviation)
        latent_square, latent_count = z_of(
            drawn_on(posterior.mean, scene)[lit] - seen, drawn_on(posterior.deviation, scene)[lit]
        )
        cases.keep(
            key,
            {
                "square": square,
                "count": count,
                "latent_square": latent_square,
                "latent_count": latent_count,
                "rms": float(np.sqrt(np.square(error).mean())),
                "said": float(np.sqrt(np.square(deviation).mean())),
                "followed": said.followed,
                "correlation": float(np.corrcoef(np.abs(error), deviation)[0, 1]),
                "search_s": searched,
                "rehearsal_s": spent,
            },
        )
    return cases.done[key]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="digits, from the first of MNIST's test set")
    parser.add_argument("--members", type=int, default=MEMBERS, help="rehearsals")
    parser.add_argument("--out", type=Path, default=Path("hybrid"), help="folder of the finished cases")
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(asked.count, asked.out)
    rows = []
    for photons in PHOTONS:
        found = [measured(cases, name, photons, asked.members) for name in cases.objects]

        def z(prefix: str, found: list[dict[str, float]] = found) -> float:
            counts = [case[f"{prefix}count"] for case in found]
            total = sum(case[f"{prefix}square"] * n for case, n in zip(found, counts, strict=True))
            return float(np.sqrt(total / sum(counts))) if sum(counts) else float("nan")

        mean = {k: float(np.mean([case[k] for case in found])) for k in ("followed", "correlation", "search_s")}
        rms, said = (float(np.sqrt(np.mean([case[k] ** 2 for case in found]))) for k in ("rms", "said"))
        text = (
            f"{z(''):.2f} (latent {z('latent_'):.2f}); rms error {rms:.4f}, deviation {said:.4f}; correlation of the "
            f"two {mean['correlation']:.2f}; follows its draws by {mean['followed']:.2f}; search "
            f"{mean['search_s']:.1f}, rehearsals {np.mean([case['rehearsal_s'] for case in found]):.1f} core-s"
        )
        subject = f"{photons:g} photons, {len(found)} masks, {asked.members} rehearsals: rms of error over deviation"
        print(f"{subject}: {text}", flush=True)
        rows.append((subject, text, CLAIM))
    if asked.record:
        command = f"python -m benchmarks.hybrid_deviation --count {asked.count}"
        append_rows(command, rows, machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
