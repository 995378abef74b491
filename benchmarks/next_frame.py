"""Seconds of one core to choose the next frame among 96 points and three exposures, on the studies' scene.

    python -m benchmarks.next_frame [--write]

Draws are the prior's: their number and size are those of a posterior's. Floating-point operations are counted from the
sizes of the matrices: fields at the camera's nodes, Gram matrices of the draws, and their factors. `--write` appends to
RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from app.studies.scene import FIELD_M, POINTS, StudyScene
from benchmarks.report import append_rows, machine
from recon.decoders.companion import companion_path, load_companion
from recon.decoders.package import find_package, load_package
from recon.estimator import MAPPED, LatentEstimator
from recon.nextframe import DRAWS, Candidates, Wish
from recon.observation import LightMap
from recon.operator import CameraOperator, Drawing

EXPOSURES = np.array([30.0, 100.0, 300.0])
READ_NOISE = 0.3
REPEATS = 5
CLAIM_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scene = StudyScene(positions=POINTS)
    package = load_package("mnist")
    companion = load_companion(companion_path(find_package("mnist")), package)
    estimator = LatentEstimator.build(package, companion, scene.light, FIELD_M, bank=4 * DRAWS)
    images = estimator.bank.images.float()
    shape = scene.light.geometry.shape
    operator = CameraOperator.build(
        scene.light, scene.positions_m, np.full(POINTS, 100.0), shape, Drawing(estimator.samples, FIELD_M)
    )
    light = LightMap.build(operator, images[:MAPPED], scene.pixel_m)
    variance, mask = np.full(shape, READ_NOISE**2, np.float32), np.ones(shape, bool)
    begin = time.process_time()
    candidates = Candidates.build(operator, light, variance, mask, scene.pixel_m)
    built = time.process_time() - begin
    cost = np.broadcast_to(EXPOSURES, (POINTS, len(EXPOSURES)))
    taken = []
    for k in range(REPEATS + 1):
        begin = time.process_time()
        chosen = candidates.worth(images[k % 4 :: 4], EXPOSURES).best(Wish.INFORMATION, cost)
        taken.append(time.process_time() - begin)
    nodes = sum(len(part) for part in candidates.pixels)
    high, wide = operator.window
    fields, grams = 4 * nodes * high * wide * DRAWS, 2 * nodes * DRAWS**2 * len(EXPOSURES)
    factors = POINTS * len(EXPOSURES) * DRAWS**3
    seconds = statistics.median(taken[1:])
    print(f"{nodes / POINTS:.0f} nodes a point; {fields:.2g} + {grams:.2g} + {factors:.2g} operations")
    spread = f"{min(taken[1:]):.3f} to {max(taken[1:]):.3f}"
    print(f"built once in {built:.2f} s; chosen in {seconds:.3f} s ({spread}): point and exposure {chosen}")
    if asked.write:
        told = f"{seconds:.2f} s ({min(taken[1:]):.2f} to {max(taken[1:]):.2f}); {built:.1f} s once"
        quantity = f"CPU seconds, the next of {POINTS} points x {len(EXPOSURES)} exposures from {DRAWS} draws"
        quantity += f", {(fields + grams + factors) / 1e9:.0f} GFLOP"
        row = (quantity, told, f"under {CLAIM_S:g} s of one core{'' if seconds < CLAIM_S else ': missed'}")
        append_rows("python -m benchmarks.next_frame", [row], machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
